//! JSON bodies, named as in RocketMQ 5.5 (`remoting.protocol.body`, `.route`, `.heartbeat`, `.admin`,
//! `.subscription`, `.statictopic`). Members stand in the order RocketMQ writes them, which is by name. A member that is
//! missing or `null` takes the default RocketMQ's class has.

mod client;
mod filter;
mod group;
mod lite;
mod mapping;
mod pop;
mod queue;
mod route;
mod running;
mod stats;
mod topic;

pub use client::*;
pub use filter::*;
pub use group::*;
pub use lite::*;
pub use mapping::*;
pub use pop::*;
pub use queue::*;
pub use route::*;
pub use running::*;
pub use stats::*;
pub use topic::*;
