//! Forcing the log to the disk (thread `store-flush`), and letting those know who wait for it; and telling those whose
//! time is over (thread `store-expire`, which never touches the disk, so that a disk that hangs does not delay it).
//!
//! ASYNC_FLUSH: a sync begins a fifth of the flush interval after the first message it covers, so that four fifths are
//! left for the disk. SYNC_FLUSH: group commit; as long as one sync runs the next ones gather, and one sync serves
//! them all. On a slow disk those who were answered just now are given a part of the time of a sync to send again: else
//! senders fall into two halves, each of which waits for the sync of the other. After a sync the messages are shown to
//! consumers, then the waiters are called, in the order of their positions. The first failed sync is the last: nothing is
//! acknowledged after it, because the kernel may have dropped the pages it could not write.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::store::{Inner, Store};

/// Most waiters; one more is told at once that it takes too long.
const MAX_WAITERS: usize = 1_000_000;
/// How often the flushed position is noted: what came later is written again after a kill.
const NOTE_PERIOD: Duration = Duration::from_millis(50);
/// Part of the flush interval for which ASYNC_FLUSH messages gather.
const GATHER_PART: u32 = 5;
/// SYNC_FLUSH messages gather after a sync that took at least this long: a shorter one is over before 64 senders are back,
/// and waiting for them would cost the work that is done meanwhile.
const SLOW_SYNC: Duration = Duration::from_micros(500);
/// Part of the time of that sync for which they gather, and the longest time.
const REGATHER_PART: u32 = 2;
const MAX_REGATHER: Duration = Duration::from_millis(2);

/// Whether a position reached the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// It is on the disk, and consumers can see it.
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

/// Messages that are likely to come at once.
struct Expected {
    /// Where the log ends with them.
    position: u64,
    /// So long the next sync waits for them.
    until: Instant,
}

/// Who waits for the disk, and how the threads are woken.
#[derive(Default)]
pub(crate) struct Flusher {
    state: Mutex<State>,
    work: Condvar,
    parked: AtomicBool,
    deadlines: Condvar,
    /// When the sync began that is under way.
    syncing: Mutex<Option<Instant>>,
}

#[derive(Default)]
struct State {
    /// By position.
    waiters: VecDeque<Waiter>,
    stop: bool,
    /// Waiters below this position do not end the gathering.
    gathers_to: u64,
    /// The expiring thread sleeps until a waiter comes.
    expiry_parked: bool,
    /// The flush thread has ended: nobody waits any more.
    ended: bool,
}

impl Flusher {
    /// Lets the flush thread look again, if it sleeps because there was nothing to do.
    pub fn wake(&self) {
        // Pairs with the fence of the flush thread: it sees the new end of the log, or this sees that it is parked.
        fence(Ordering::SeqCst);
        if self.parked.load(Ordering::Relaxed) {
            let _state = self.state.lock();
            self.work.notify_one();
        }
    }

    pub fn stop(&self) {
        self.state.lock().stop = true;
        self.work.notify_one();
    }

    /// Waiters up to `position`, or all.
    fn take(&self, position: Option<u64>) -> Vec<Waiter> {
        let waiters = &mut self.state.lock().waiters;
        let n = position.map_or(waiters.len(), |position| waiters.partition_point(|w| w.position <= position));
        waiters.drain(..n).collect()
    }

    fn refuse_all(&self) {
        self.take(None).into_iter().for_each(|w| (w.call)(Durability::Failed));
    }

    /// The expiring thread's life.
    pub fn run_expire(&self) {
        let mut state = self.state.lock();
        while !state.ended {
            let Some(next) = state.waiters.iter().map(|w| w.deadline).min() else {
                state.expiry_parked = true;
                self.deadlines.wait(&mut state);
                state.expiry_parked = false;
                continue;
            };
            let now = Instant::now();
            if next > now {
                // Waiters that come meanwhile have later deadlines.
                self.deadlines.wait_for(&mut state, next - now);
                continue;
            }
            let (late, waiting): (VecDeque<_>, _) =
                std::mem::take(&mut state.waiters).into_iter().partition(|w| w.deadline <= now);
            state.waiters = waiting;
            drop(state);
            late.into_iter().for_each(|w| (w.call)(Durability::TimedOut));
            state = self.state.lock();
        }
    }
}

impl Store {
    /// How long the sync under way has taken so far: under SYNC_FLUSH senders have waited that long.
    pub fn sync_wait(&self) -> Duration {
        self.inner.flusher.syncing.lock().map_or(Duration::ZERO, |began| began.elapsed())
    }
}

impl Inner {
    /// See [`crate::Store::when_durable`].
    pub fn when_durable(&self, position: u64, call: Box<dyn FnOnce(Durability) + Send>) {
        let verdict = {
            let mut state = self.flusher.state.lock();
            // Under the lock: the flush thread takes the waiters after it has moved the position or the failure. With
            // SYNC_FLUSH what is dispatched is on the disk, and what is acknowledged can be read.
            let done = if self.is_sync_flush() { self.dispatched.load(Ordering::Acquire) } else { self.log.flushed() };
            if done >= position {
                Durability::Durable
            } else if self.failure.is_set() || state.stop {
                Durability::Failed
            } else if state.waiters.len() >= MAX_WAITERS {
                Durability::TimedOut
            } else {
                let deadline = Instant::now() + Duration::from_millis(self.config.sync_flush_timeout);
                let at = state.waiters.partition_point(|w| w.position <= position);
                state.waiters.insert(at, Waiter { position, deadline, call });
                if position >= state.gathers_to {
                    self.flusher.work.notify_one();
                }
                if state.expiry_parked {
                    self.flusher.deadlines.notify_one();
                }
                return;
            }
        };
        call(verdict);
    }

    /// The flush thread's life.
    pub fn run_flush(self: &Arc<Self>) {
        let (mut noted, mut expected) = (Instant::now(), None);
        while !self.wait_for_flush(expected) {
            expected = self.flush_once(&mut noted);
        }
        self.flush_once(&mut noted);
        self.flusher.refuse_all();
        self.flusher.state.lock().ended = true;
        self.flusher.deadlines.notify_one();
    }

    /// One sync and what follows from it; whom the next one waits for.
    fn flush_once(&self, noted: &mut Instant) -> Option<Expected> {
        if self.failure.is_set() {
            self.flusher.refuse_all();
            return None;
        }
        let (from, began) = (self.log.flushed(), Instant::now());
        *self.flusher.syncing.lock() = Some(began);
        let synced = self.log.sync();
        *self.flusher.syncing.lock() = None;
        match synced {
            Ok(position) => {
                let expected = self.expected(from, position, began.elapsed());
                if self.is_sync_flush() {
                    self.dispatch_now();
                }
                self.flusher.take(Some(position)).into_iter().for_each(|w| (w.call)(Durability::Durable));
                if noted.elapsed() >= NOTE_PERIOD {
                    *noted = Instant::now();
                    self.note_flushed();
                }
                expected
            }
            Err(error) => {
                self.fail("forcing the commit log to the disk", &error);
                self.flusher.refuse_all();
                None
            }
        }
    }

    /// After a sync of `from..to`: as much as was under way while it ran may come once more. A sender alone need not wait
    /// for others.
    fn expected(&self, from: u64, to: u64, took: Duration) -> Option<Expected> {
        let is_worth_it = self.is_sync_flush() && took >= SLOW_SYNC && self.flusher.state.lock().waiters.len() > 1;
        let until = Instant::now() + (took / REGATHER_PART).min(MAX_REGATHER);
        is_worth_it.then(|| Expected { position: to + (self.log.end() - from), until })
    }

    /// Notes for the next start how far the log is on the disk.
    pub fn note_flushed(&self) {
        if let Err(error) = self.checkpoint.note_flushed(self.log.flushed()) {
            tracing::warn!("noting the flushed position failed: {error}; a restart writes more of the log again");
        }
    }

    /// Sleeps until there is something to force to the disk; `true` when the store closes.
    fn wait_for_flush(&self, expected: Option<Expected>) -> bool {
        let mut state = self.flusher.state.lock();
        while !state.stop {
            self.flusher.parked.store(true, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            let work = !state.waiters.is_empty() || (self.log.end() > self.log.flushed() && !self.failure.is_set());
            if !work {
                self.flusher.work.wait(&mut state);
            }
            self.flusher.parked.store(false, Ordering::Relaxed);
            if work {
                match expected {
                    Some(expected) => self.regather(&mut state, &expected),
                    None if self.is_sync_flush() => {}
                    None => self.gather(&mut state),
                }
                break;
            }
        }
        state.stop
    }

    /// Lets those send again whom the last sync served.
    fn regather(&self, state: &mut MutexGuard<'_, State>, expected: &Expected) {
        state.gathers_to = expected.position;
        while !state.stop && self.log.end() < expected.position {
            if self.flusher.work.wait_until(state, expected.until).timed_out() {
                break;
            }
        }
        state.gathers_to = 0;
    }

    /// Lets more messages come before they are forced to the disk together.
    fn gather(&self, state: &mut MutexGuard<'_, State>) {
        let end = Instant::now() + Duration::from_millis(self.config.flush_interval_commit_log) / GATHER_PART;
        while !state.stop && !self.flusher.work.wait_until(state, end).timed_out() {}
    }
}
