//! The named limits of connections, and the counters that several connections share.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use ferromq_protocol::MAX_FRAME_BYTES;

/// Limits of one server or client.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Largest frame accepted, in bytes; a larger one closes the connection.
    pub max_frame: usize,
    /// Bytes of unfinished frames kept over all connections; the connection that would exceed it is closed.
    pub half_read_budget: usize,
    /// A frame not complete after this time closes its connection.
    pub half_read_timeout: Duration,
    /// Answers waiting for a peer that does not read, in bytes for one connection; more closes it.
    pub max_outbound: usize,
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
            write_high_water: 1 << 20,
            max_in_flight: 65_535,
            idle: Duration::from_secs(120),
        }
    }
}

/// What the connections of one server or client share.
#[derive(Debug)]
pub(crate) struct Common {
    pub limits: Limits,
    /// Bytes held for unfinished frames, over all connections.
    pub half_read: AtomicUsize,
    /// Coarse time in ticks of the sweep; starts at 1, since 0 means "never".
    pub tick: AtomicU32,
    /// Socket drains that had requests; tells a shutdown whether anything is still going on.
    pub drains: AtomicU64,
    /// Set while shutting down: clients that know GO_AWAY are sent elsewhere.
    pub draining: AtomicBool,
    /// Source of connection ids.
    pub next_id: AtomicU64,
}

impl Common {
    pub fn new(limits: Limits) -> Self {
        Common {
            limits,
            half_read: AtomicUsize::new(0),
            tick: AtomicU32::new(1),
            drains: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            next_id: AtomicU64::new(1),
        }
    }

    pub fn now(&self) -> u32 {
        self.tick.load(Ordering::Relaxed)
    }

    /// How often the sweep looks: fine enough that idle and half-read times are met within a quarter.
    pub fn sweep_period(&self) -> Duration {
        (self.limits.idle.min(self.limits.half_read_timeout) / 8)
            .clamp(Duration::from_millis(10), Duration::from_secs(5))
    }

    /// `time` in ticks of the sweep, at least one.
    pub fn ticks(&self, time: Duration) -> u32 {
        (time.as_millis() / self.sweep_period().as_millis().max(1)).clamp(1, u128::from(u32::MAX / 2)) as u32
    }
}
