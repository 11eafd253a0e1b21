//! Pull requests that wait for messages.
//!
//! A parked pull is a plain struct in a table striped by queue: no task, no timer of its own. While a queue has parked
//! pulls its `watchers` count is above zero, and only then dispatch reports arrivals of that queue here. An arrival
//! moves the pulls it satisfies to the ready list; who ran dispatch takes that list when the run is over and answers
//! each pull once, however many messages arrived. Deadlines and closed connections are swept by one timer.
//!
//! This file knows queues, filters and deadlines; `handler/pull.rs` knows how a pull is answered.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Instant;

use ferromq_remoting::Connection;
use ferromq_store::{Arrival, Queue, Store};
use parking_lot::Mutex;

use crate::handler::pull::Pull;

/// Most pulls parked at once; one more is answered SYSTEM_BUSY (RocketMQ's `pullThreadPoolQueueCapacity`).
pub const MAX_PARKED: usize = 100_000;
/// Maps the table is split into.
const STRIPES: usize = 32;

/// A pull that waits.
pub(crate) struct Parked {
    pub conn: Arc<Connection>,
    pub pull: Pull,
    /// When it is answered PULL_NOT_FOUND.
    pub deadline: Instant,
}

/// All parked pulls. Methods may be called from any thread.
pub struct LongPolls {
    stripes: Box<[Mutex<Stripe>]>,
    parked: AtomicUsize,
    ready: Mutex<Vec<Parked>>,
    /// Spares the lock of `ready` when nothing is there.
    any_ready: AtomicBool,
    /// A connection closed since the last sweep.
    any_closed: AtomicBool,
    /// Weak, because the store tells this table of arrivals.
    store: OnceLock<Weak<Store>>,
}

#[derive(Default)]
struct Stripe {
    /// By address of the queue handle, which the parked pulls keep alive.
    queues: HashMap<usize, Vec<Parked>>,
    /// No pull of this stripe has an earlier deadline.
    earliest: Option<Instant>,
}

impl Default for LongPolls {
    fn default() -> Self {
        Self {
            stripes: (0..STRIPES).map(|_| Mutex::default()).collect(),
            parked: AtomicUsize::new(0),
            ready: Mutex::default(),
            any_ready: AtomicBool::new(false),
            any_closed: AtomicBool::new(false),
            store: OnceLock::new(),
        }
    }
}

/// Too many pulls are parked already.
#[derive(Debug)]
pub(crate) struct LineFull;

fn key(queue: &Arc<Queue>) -> usize {
    Arc::as_ptr(queue) as usize
}

impl LongPolls {
    /// Parks a pull, unless [`MAX_PARKED`] wait already. When messages arrived since the pull looked,
    /// it is ready at once; the caller asks [`LongPolls::take_ready`] afterwards.
    pub(crate) fn park(&self, parked: Parked) -> Result<(), LineFull> {
        if self.parked.fetch_add(1, Ordering::Relaxed) >= MAX_PARKED {
            self.parked.fetch_sub(1, Ordering::Relaxed);
            return Err(LineFull);
        }
        let queue = Arc::clone(&parked.pull.queue);
        let offset = parked.pull.offset;
        queue.watchers.fetch_add(1, Ordering::SeqCst);
        {
            let mut stripe = self.stripe(key(&queue)).lock();
            stripe.earliest = Some(stripe.earliest.map_or(parked.deadline, |e| e.min(parked.deadline)));
            stripe.queues.entry(key(&queue)).or_default().push(parked);
        }
        // Pairs with dispatch, which publishes the queue's end before it looks at `watchers`: one of the two sees the other.
        fence(Ordering::SeqCst);
        if queue.max_offset() > offset {
            self.wake(&queue, |p| p.pull.offset < queue.max_offset());
        }
        Ok(())
    }

    /// A message of this queue became visible. Called by dispatch for queues with watchers.
    pub(crate) fn arrived(&self, arrival: &Arrival<'_>) {
        let Some(store) = self.store.get().and_then(Weak::upgrade) else { return };
        self.wake(arrival.queue, |p| {
            p.pull.offset <= arrival.queue_offset
                && p.pull.wanted.filter().wants(&store, arrival.tags_code, arrival.physical_offset)
        });
    }

    /// Where the properties of arriving messages are looked at. Once, before the first pull.
    pub(crate) fn set_store(&self, store: &Arc<Store>) {
        let _ = self.store.set(Arc::downgrade(store));
    }

    fn wake(&self, queue: &Arc<Queue>, wanted: impl Fn(&Parked) -> bool) {
        let mut woken = Vec::new();
        {
            let mut stripe = self.stripe(key(queue)).lock();
            let Some(waiting) = stripe.queues.get_mut(&key(queue)) else { return };
            woken.extend(waiting.extract_if(.., |p| wanted(p)));
            if waiting.is_empty() {
                stripe.queues.remove(&key(queue));
            }
        }
        if !woken.is_empty() {
            self.left(&woken);
            self.ready.lock().append(&mut woken);
            self.any_ready.store(true, Ordering::Release);
        }
    }

    /// The pulls that became ready since the last call; the caller answers them.
    pub(crate) fn take_ready(&self) -> Vec<Parked> {
        if !self.any_ready.load(Ordering::Acquire) || !self.any_ready.swap(false, Ordering::AcqRel) {
            return Vec::new();
        }
        std::mem::take(&mut *self.ready.lock())
    }

    /// A connection closed: its pulls are dropped by the next sweep.
    pub(crate) fn connection_closed(&self) {
        self.any_closed.store(true, Ordering::Relaxed);
    }

    /// Drops pulls of closed connections and returns those whose deadline has passed; the caller answers them.
    pub(crate) fn sweep(&self, now: Instant) -> Vec<Parked> {
        let any_closed = self.any_closed.swap(false, Ordering::Relaxed);
        let mut due = Vec::new();
        for stripe in &self.stripes {
            let mut stripe = stripe.lock();
            if !any_closed && stripe.earliest.is_none_or(|e| e > now) {
                continue;
            }
            let mut gone = Vec::new();
            let mut earliest: Option<Instant> = None;
            stripe.queues.retain(|_, waiting| {
                gone.extend(waiting.extract_if(.., |p| p.deadline <= now || !p.conn.is_open()));
                for p in waiting.iter() {
                    earliest = Some(earliest.map_or(p.deadline, |e| e.min(p.deadline)));
                }
                !waiting.is_empty()
            });
            stripe.earliest = earliest;
            drop(stripe);
            self.left(&gone);
            due.extend(gone.into_iter().filter(|p| p.conn.is_open()));
        }
        due
    }

    /// All parked pulls, for the shutdown: each is answered so that its client asks elsewhere.
    pub(crate) fn drain(&self) -> Vec<Parked> {
        let mut all = Vec::new();
        for stripe in &self.stripes {
            let queues = std::mem::take(&mut stripe.lock().queues);
            all.extend(queues.into_values().flatten());
        }
        self.left(&all);
        all.append(&mut self.ready.lock());
        all
    }

    /// How many pulls wait.
    pub fn len(&self) -> usize {
        self.parked.load(Ordering::Relaxed)
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn left(&self, gone: &[Parked]) {
        for p in gone {
            p.pull.queue.watchers.fetch_sub(1, Ordering::Relaxed);
        }
        self.parked.fetch_sub(gone.len(), Ordering::Relaxed);
    }

    fn stripe(&self, key: usize) -> &Mutex<Stripe> {
        // Handles are heap allocations of some hundred bytes: the low bits say nothing.
        &self.stripes[(key >> 7) % STRIPES]
    }
}
