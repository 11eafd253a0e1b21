//! Requests of the group family.
