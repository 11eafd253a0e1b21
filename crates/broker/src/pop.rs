//! Pop consumption: messages are handed out one by one to any consumer of a group, stay invisible for a while, and come back
//! through the group's retry topic unless they are acknowledged.
//!
//! The log is the truth: each pop of a queue appends a check point to the revive topic, each acknowledgement a record
//! that takes messages off it, both in RocketMQ's format (`log.rs`). What is invisible now is a table derived from
//! them (`table.rs`, `queue.rs`), read back at the start (`replay.rs`) and worked off by one thread when its time comes (`revive.rs`).
//! `take.rs` pops from the queues that `sources.rs` names, `ack.rs` acknowledges and moves invisible times, `polls.rs` keeps who waits,
//! `order.rs` what ordered groups popped last. Requests and answers here
//! are plain values: `handler/pop.rs` alone knows remoting headers. Why it is so: `docs/adr/0003-pop.md`.

pub(crate) mod ack;
mod check_point;
mod foreign;
mod log;
pub(crate) mod order;
pub(crate) mod polls;
pub(crate) mod popped;
mod queue;
pub(crate) mod rate;
pub(crate) mod records;
mod replay;
mod revive;
mod sources;
mod table;
pub(crate) mod take;

pub use order::OrderPops;
pub(crate) use replay::{end_of, has_foreign, replay};
pub(crate) use revive::Reviver;
pub use table::Pops;
