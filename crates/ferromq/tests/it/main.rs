//! The binary as a user meets it: started, spoken to with its own tools, stopped. Free ports, temporary folders.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]

mod process;

mod bad_starts;
mod check_store;
mod dev;
mod dlq;
mod http;
mod java_names;
mod tools;
