//! The NameServer: brokers register their topics here, clients ask where a topic is.
//!
//! NameServers know nothing of each other: every broker registers with each of them. State lives in memory (routes) and
//! in one file (key-value configuration).

#![warn(missing_docs)]

mod config;
mod handler;
mod kv;
mod register_body;
mod route;
mod server;

pub use config::{KEYS, NamesrvConfig};
pub use server::{NameServer, StartError};
