//! What the connections of one server or client share: who they are, coarse time, and the memory budgets. The sweep
//! (one per server or client, never a timer per connection) advances the time and closes what is stale.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::connection::Connection;
use crate::limits::Limits;

/// What a connection may hold on behalf of a slow peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Held {
    /// Bytes of an unfinished frame, or of requests that wait until answers were written.
    HalfRead,
    /// Answers the socket does not take.
    Unwritten,
}

#[derive(Debug)]
pub(crate) struct Common {
    pub limits: Limits,
    pub connections: Mutex<HashMap<u64, Arc<Connection>>>,
    /// Bytes held over all connections.
    half_read: AtomicUsize,
    unwritten: AtomicUsize,
    /// Held while connections are being closed to get below a budget.
    relieving: Mutex<()>,
    /// Coarse time in ticks of the sweep; starts at 1, since 0 means "never".
    tick: AtomicU32,
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
            connections: Mutex::default(),
            half_read: AtomicUsize::new(0),
            unwritten: AtomicUsize::new(0),
            relieving: Mutex::new(()),
            tick: AtomicU32::new(1),
            drains: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            next_id: AtomicU64::new(1),
        }
    }

    /// The current tick.
    pub fn now(&self) -> u32 {
        self.tick.load(Ordering::Relaxed)
    }

    /// How often the sweep looks: fine enough that idle and half-read times are met within a quarter.
    pub fn sweep_period(&self) -> Duration {
        (self.limits.idle.min(self.limits.half_read_timeout) / 8)
            .clamp(Duration::from_millis(10), Duration::from_secs(5))
    }

    /// `time` in ticks of the sweep, at least one.
    fn ticks(&self, time: Duration) -> u32 {
        (time.as_millis() / self.sweep_period().as_millis().max(1)).clamp(1, u128::from(u32::MAX / 2)) as u32
    }

    /// One step of coarse time: closes what has been idle, or unfinished, for too long.
    pub fn sweep(&self) {
        let now = self.tick.fetch_add(1, Ordering::Relaxed) + 1;
        let (idle, half_read) = (self.ticks(self.limits.idle), self.ticks(self.limits.half_read_timeout));
        let is_old = |since: u32, limit: u32| now.saturating_sub(since) > limit;
        let is_stale = |connection: &&Arc<Connection>| {
            let since = connection.half_read_at.load(Ordering::Relaxed);
            (since != 0 && is_old(since, half_read)) || is_old(connection.active_at.load(Ordering::Relaxed), idle)
        };
        let stale: Vec<_> = self.connections.lock().values().filter(is_stale).cloned().collect();
        for connection in stale {
            let unfinished = connection.half_read_at.load(Ordering::Relaxed) != 0;
            tracing::info!(peer = %connection.peer(), unfinished, "closing a connection on which nothing moves");
            connection.close();
        }
    }

    /// Bytes held now over all connections.
    pub fn held(&self, held: Held) -> usize {
        self.budget(held).0.load(Ordering::Relaxed)
    }

    fn budget(&self, held: Held) -> (&AtomicUsize, usize) {
        match held {
            Held::HalfRead => (&self.half_read, self.limits.half_read_budget),
            Held::Unwritten => (&self.unwritten, self.limits.outbound_budget),
        }
    }

    /// `connection` now holds `bytes`. Over the budget, the worst connections are closed (maybe this one). Never call
    /// it with the outbound buffer of a connection locked.
    pub fn charge(&self, held: Held, connection: &Connection, bytes: usize) {
        let before = connection.share(held).swap(bytes, Ordering::Relaxed);
        if before == bytes {
            return;
        }
        let (total, limit) = self.budget(held);
        let change = bytes.wrapping_sub(before);
        let all = total.fetch_add(change, Ordering::Relaxed).wrapping_add(change);
        if bytes > before && all > limit {
            self.relieve(held);
        }
    }

    /// Closes connections until an eighth of the budget is free again, so that the search is seldom: for unfinished
    /// frames the oldest first (a peer that sends at an honest speed is young), for answers those with the most.
    fn relieve(&self, held: Held) {
        let Some(_only_one) = self.relieving.try_lock() else { return };
        let (total, limit) = self.budget(held);
        let mut worst: Vec<_> = {
            let connections = self.connections.lock();
            let holding = connections.values().filter(|c| c.share(held).load(Ordering::Relaxed) > 0);
            holding.map(|c| (c.share(held).load(Ordering::Relaxed), c.clone())).collect()
        };
        worst.sort_by_key(|(bytes, connection)| match held {
            Held::HalfRead => (connection.half_read_at.load(Ordering::Relaxed), Reverse(*bytes)),
            Held::Unwritten => (0, Reverse(*bytes)),
        });
        let mut closed = 0;
        for (_, connection) in worst {
            if total.load(Ordering::Relaxed) <= limit - limit / 8 {
                break;
            }
            // Given back at once, not when its task has noticed: the next to look must not close more than needed.
            let freed = connection.share(held).swap(0, Ordering::Relaxed);
            total.fetch_sub(freed, Ordering::Relaxed);
            connection.close();
            closed += 1;
        }
        tracing::warn!(?held, limit, closed, "slow peers held more bytes than allowed; closed the worst connections");
    }
}
