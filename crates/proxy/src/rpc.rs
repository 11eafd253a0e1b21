//! The calls.

pub(crate) mod ack;
pub(crate) mod assignment;
pub(crate) mod dead_letter;
pub(crate) mod end_transaction;
pub(crate) mod heartbeat;
pub(crate) mod invisible;
pub(crate) mod lite;
pub(crate) mod offset;
pub(crate) mod pull;
pub(crate) mod recall;
pub(crate) mod receive;
pub(crate) mod route;
pub(crate) mod send;
pub(crate) mod telemetry;
