//! Pop consumption over a real socket: what is handed out, what comes back, what survives a kill, what is refused.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../support/mod.rs"]
mod support;

mod assignment;
mod client;
mod foreign;
mod model;
mod order;
mod order_model;
mod pop;
mod priority;
mod refused;
mod waiting;
