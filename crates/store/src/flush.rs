//! The flush thread (`store-flush`): forces the log to the disk, and lets those know who wait for it.
//!
//! ASYNC_FLUSH: every flush interval while there is something new. SYNC_FLUSH: group commit; as long as one sync runs
//! the next ones gather, and one sync serves them all. After a sync the messages are shown to consumers, then the
//! waiters are called, in the order of their positions. The first failed sync is the last: nothing is acknowledged
//! after it, because the kernel may have dropped the pages it could not write.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::store::Inner;

/// Most waiters; one more is told at once that it takes too long.
const MAX_WAITERS: usize = 1_000_000;

/// Whether a position reached the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// It is on the disk.
    Durable,
    /// It did not get there within `syncFlushTimeout`; it may still.
    TimedOut,
    /// The disk refused; nobody knows what is there.
    Failed,
}

struct Waiter {
    position: u64,
    deadline: Instant,
    call: Box<dyn FnOnce(Durability) + Send>,
}

/// Who waits for the disk, and how the flush thread is woken.
#[derive(Default)]
pub(crate) struct Flusher {
    state: Mutex<State>,
    condition: Condvar,
    parked: AtomicBool,
}

#[derive(Default)]
struct State {
    /// By position.
    waiters: VecDeque<Waiter>,
    stop: bool,
}

impl Flusher {
    /// Lets the flush thread look again, if it sleeps.
    pub fn wake(&self) {
        // Pairs with the fence of the flush thread: it sees the new end of the log, or this sees that it is parked.
        fence(Ordering::SeqCst);
        if self.parked.load(Ordering::Relaxed) {
            let _state = self.state.lock();
            self.condition.notify_one();
        }
    }

    pub fn stop(&self) {
        self.state.lock().stop = true;
        self.condition.notify_one();
    }

    /// Waiters up to `position`, or all.
    fn take(&self, position: Option<u64>) -> Vec<Waiter> {
        let waiters = &mut self.state.lock().waiters;
        let n = position.map_or(waiters.len(), |position| waiters.partition_point(|w| w.position <= position));
        waiters.drain(..n).collect()
    }

    /// Tells those whose time is over. Called by the background thread, because the flush thread may hang in a sync.
    pub fn expire(&self, now: Instant) {
        let expired = {
            let waiters = &mut self.state.lock().waiters;
            if waiters.iter().all(|w| w.deadline > now) {
                return;
            }
            let (late, waiting): (VecDeque<_>, _) =
                std::mem::take(waiters).into_iter().partition(|w| w.deadline <= now);
            *waiters = waiting;
            late
        };
        expired.into_iter().for_each(|w| (w.call)(Durability::TimedOut));
    }
}

impl Inner {
    /// See [`crate::Store::when_durable`].
    pub fn when_durable(&self, position: u64, call: Box<dyn FnOnce(Durability) + Send>) {
        let verdict = {
            let mut state = self.flusher.state.lock();
            // Under the lock: the flush thread takes the waiters after it has moved the position or the failure.
            if self.log.flushed() >= position {
                Durability::Durable
            } else if self.failure.is_set() || state.stop {
                Durability::Failed
            } else if state.waiters.len() >= MAX_WAITERS {
                Durability::TimedOut
            } else {
                let deadline = Instant::now() + Duration::from_millis(self.config.sync_flush_timeout);
                let at = state.waiters.partition_point(|w| w.position <= position);
                state.waiters.insert(at, Waiter { position, deadline, call });
                self.flusher.condition.notify_one();
                return;
            }
        };
        call(verdict);
    }

    /// The flush thread's life.
    pub fn run_flush(self: &Arc<Self>) {
        loop {
            let stop = self.wait_for_flush();
            self.flush_once();
            if stop {
                return self.flusher.take(None).into_iter().for_each(|w| (w.call)(Durability::Failed));
            }
        }
    }

    /// One sync and what follows from it.
    pub fn flush_once(&self) {
        if self.failure.is_set() {
            return self.flusher.take(None).into_iter().for_each(|w| (w.call)(Durability::Failed));
        }
        match self.log.sync() {
            Ok(position) => {
                if self.is_sync_flush() {
                    self.dispatch_now();
                }
                self.flusher.take(Some(position)).into_iter().for_each(|w| (w.call)(Durability::Durable));
            }
            Err(error) => {
                self.failure.set(format!("forcing the commit log to the disk failed: {error}; what was acknowledged before is kept, restart the broker when the disk is well"));
                self.flusher.take(None).into_iter().for_each(|w| (w.call)(Durability::Failed));
            }
        }
    }

    /// Sleeps until there is something to force to the disk; `true` when the store closes.
    fn wait_for_flush(&self) -> bool {
        let interval = Duration::from_millis(self.config.flush_interval_commit_log.max(1));
        let mut state = self.flusher.state.lock();
        if !self.is_sync_flush() {
            if !state.stop {
                self.flusher.condition.wait_for(&mut state, interval);
            }
            return state.stop;
        }
        loop {
            self.flusher.parked.store(true, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            let work = !state.waiters.is_empty() || (self.log.end() > self.log.flushed() && !self.failure.is_set());
            if !work && !state.stop {
                self.flusher.condition.wait_for(&mut state, interval);
            }
            self.flusher.parked.store(false, Ordering::Relaxed);
            if work || state.stop {
                return state.stop;
            }
        }
    }
}
