//! Requests of the client family.
