//! One file per request family. A handler reads its header, asks the tables and the store, and writes its answer into
//! `out`; it never blocks for long and never spawns a task of its own.

pub(crate) mod admin;
pub(crate) mod client;
pub(crate) mod group;
pub(crate) mod lock;
pub(crate) mod offset;
pub(crate) mod pull;
pub(crate) mod query;
pub(crate) mod send;
pub(crate) mod topic;
