//! Requests of the offset family.
