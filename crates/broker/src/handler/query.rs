//! Requests of the query family.
