//! Requests of the send family.
