//! The named limits of connections.

use std::time::Duration;

use ferromq_protocol::MAX_FRAME_BYTES;

/// Limits of one server or client.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Largest frame accepted, in bytes; a larger one closes the connection.
    pub max_frame: usize,
    /// Bytes of unfinished frames kept over all connections; above it the connections with the oldest ones are closed.
    pub half_read_budget: usize,
    /// A frame not complete after this time closes its connection.
    pub half_read_timeout: Duration,
    /// Answers waiting for a peer that does not read, in bytes for one connection; more closes it.
    pub max_outbound: usize,
    /// Answers waiting for peers that do not read, in bytes over all connections; above it the connections with the
    /// most are closed.
    pub outbound_budget: usize,
    /// No further request is read while this many bytes wait to be written.
    pub write_high_water: usize,
    /// Calls to the peer that wait for an answer, for one connection.
    pub max_in_flight: usize,
    /// A connection with nothing read or written for this long is closed (`serverChannelMaxIdleTimeSeconds`).
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_frame: MAX_FRAME_BYTES,
            half_read_budget: 256 << 20,
            half_read_timeout: Duration::from_secs(60),
            max_outbound: 64 << 20,
            outbound_budget: 512 << 20,
            write_high_water: 1 << 20,
            max_in_flight: 65_535,
            idle: Duration::from_secs(120),
        }
    }
}
