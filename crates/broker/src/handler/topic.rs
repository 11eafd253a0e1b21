//! Requests of the topic family.
