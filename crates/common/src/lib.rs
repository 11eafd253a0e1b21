//! Shared by every server: a closed list of small things.
