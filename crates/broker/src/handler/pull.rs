//! Requests of the pull family.
