//! The binary as a user meets it: started, spoken to with its own tools, stopped. Free ports, temporary folders.

mod process;

mod bad_starts;
mod dev;
mod java_names;
mod tools;
