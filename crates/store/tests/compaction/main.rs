//! Compacted topics: the newest message of each key stays, whatever happens to the log, the disk and the process.
#![allow(clippy::unwrap_used, reason = "a test says by panicking what is wrong")]

mod check;
#[path = "../common/mod.rs"]
mod common;
mod crash;
#[path = "../crash_states/disk.rs"]
#[allow(dead_code, reason = "not all of it is needed here")]
mod disk;
mod shortage;
mod store;
mod support;
