//! What the handlers share, and the start and stop of one broker.

use crate::clients::Clients;
use crate::config::BrokerConfig;
use crate::groups::Groups;
use crate::locks::OrderLocks;
use crate::longpoll::LongPolls;
use crate::offsets::Offsets;
use crate::topics::Topics;

/// Why a broker did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A socket, thread or file could not be had.
    #[error("the broker cannot start: {0}")]
    Io(#[from] std::io::Error),
}

/// The tables and services every handler may ask. One per broker, behind an `Arc`.
pub struct Shared {
    pub config: BrokerConfig,
    pub topics: Topics,
    pub groups: Groups,
    pub clients: Clients,
    pub locks: OrderLocks,
    pub offsets: Offsets,
    pub polls: LongPolls,
}

/// A running broker.
pub struct Broker {}
