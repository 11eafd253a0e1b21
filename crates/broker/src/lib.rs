//! The Broker: takes messages in, keeps them through the store, hands them out, and knows who consumes what.
//!
//! `routes.rs` shows every request code and its handler on one page; `broker.rs` holds what the handlers share ([`Shared`])
//! and starts and stops the server; one file per request family stands in `handler/`; the tables stand beside them.
//! Nothing here knows how bytes are laid out on disk or on the wire: that is `ferromq-store` and `ferromq-protocol`.

mod blocking;
mod broadcast;
pub mod broadcast_groups;
mod broker;
mod clients;
mod cold;
mod config;
mod consumer_filters;
mod filter;
mod groups;
mod handler;
mod lag;
mod limits;
mod lite;
mod live;
mod locks;
mod longpoll;
mod offsets;
mod persist;
mod pop;
mod properties;
mod rates;
mod registration;
mod request_modes;
mod routes;
mod service;
mod sql;
mod stats;
mod timer;
mod topic_routes;
mod topics;
mod transaction;

pub use broker::{Broker, Shared, StartError};
pub use config::{BrokerConfig, LiteConfig, PopConfig};
pub use transaction::Transactions;
