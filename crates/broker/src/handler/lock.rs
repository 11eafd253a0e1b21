//! Requests of the lock family.
