//! Requests of the admin family.
