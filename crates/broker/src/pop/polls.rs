//! Pops and notifications that wait for messages.
//!
//! Who waits is a plain struct under its topic and group. While a group waits, the queues it could pop are watched:
//! dispatch reports their arrivals here, and each arrival makes one waiter of each group ready, because one takes what
//! arrived from all others. Who ran dispatch answers the ready ones; one that finds nothing (another pop was faster) waits
//! on. Deadlines and closed connections are swept by one timer, and a group nobody waits for is watched until the next sweep.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use std::time::Instant;

use ferromq_common::clock;
use ferromq_store::Queue;
use parking_lot::Mutex;

use super::popped::Popped;
use super::rate;
use super::sources::watched;
use super::take::{self, PopRequest};
use crate::broker::Shared;
use crate::handler::Refusal;
use crate::offsets::with_pair;

/// What a waiter is told, once.
pub(crate) enum Woken<'a> {
    /// Messages, in the buffer; none for a notification.
    Found(&'a Popped, &'a [u8]),
    /// Its time is over.
    TimedOut,
    /// Too many wait already.
    Full,
    /// The pop failed.
    Refused(Refusal),
}

/// A pop or notification that waits.
pub(crate) struct Waiter {
    pub request: PopRequest,
    pub deadline: Instant,
    /// Wants to know that there is a message, not the message.
    pub notification: bool,
    /// When an ordered pop may find its queue free, or a group with a rate may read again, milliseconds since 1970.
    pub again_at: Option<i64>,
    /// Whether anybody would read the answer.
    pub is_open: Box<dyn Fn() -> bool + Send>,
    pub reply: Box<dyn FnOnce(Woken<'_>) + Send>,
}

impl Waiter {
    fn wants(&self, is_own: bool, queue: &Queue, tags_code: i64) -> bool {
        let queue_fits = !is_own || self.request.queue_id.is_none_or(|id| id == queue.id());
        queue_fits && self.request.filter.matches(tags_code)
    }
}

/// One group that waits for one topic.
#[derive(Default)]
struct Entry {
    topic: Arc<str>,
    watched: Vec<Arc<Queue>>,
    waiting: VecDeque<Waiter>,
    /// A waiter for any queue was made ready and has not looked yet.
    woken: bool,
}

#[derive(Default)]
struct State {
    /// By `topic@group`.
    entries: HashMap<Arc<str>, Entry>,
    /// By address of the queue's handle, which the entry keeps alive.
    by_queue: HashMap<usize, Vec<Arc<str>>>,
    ready: Vec<Waiter>,
}

/// All that wait. Methods may be called from any thread.
#[derive(Default)]
pub(crate) struct PopPolls {
    state: Mutex<State>,
    count: AtomicUsize,
    any_ready: AtomicBool,
}

fn address(queue: &Arc<Queue>) -> usize {
    Arc::as_ptr(queue) as usize
}

fn ends(queues: &[Arc<Queue>]) -> i64 {
    queues.iter().map(|queue| queue.max_offset()).sum()
}

/// Pops or looks, and answers; a waiter that finds nothing is parked until its deadline.
pub(crate) fn serve(broker: &Arc<Shared>, mut waiter: Waiter) {
    let mut records = Vec::new();
    let queues = watched(broker, &waiter.request);
    let seen = ends(&queues);
    let group = broker.groups.get(&waiter.request.group);
    if waiter.notification {
        if take::has_message(broker, &waiter.request) {
            (waiter.reply)(Woken::Found(&Popped::default(), &[]));
            // It took nothing: the arrival that woke it is still there for a pop.
            return broker.pops.polls.wake_one(&waiter.request.topic, &waiter.request.group);
        }
        waiter.again_at = rate::held_until(rate::limit_of(broker, group.as_deref()).as_deref(), clock::now_millis());
    } else {
        match take::take(broker, &waiter.request, group.as_deref(), &mut records) {
            Ok(popped) if popped.count > 0 => {
                let more = popped.rest > 0;
                let (topic, group) = (Arc::clone(&waiter.request.topic), Arc::clone(&waiter.request.group));
                (waiter.reply)(Woken::Found(&popped, &records));
                if more {
                    broker.pops.polls.wake_one(&topic, &group);
                }
                return;
            }
            Ok(popped) => waiter.again_at = popped.blocked_until,
            Err(refusal) => return (waiter.reply)(Woken::Refused(refusal)),
        }
    }
    broker.pops.polls.park(broker, waiter, &queues, seen);
}

impl PopPolls {
    /// Parks a waiter that saw its queues end at `seen`, or tells it that too many wait.
    fn park(&self, broker: &Shared, waiter: Waiter, queues: &[Arc<Queue>], seen: i64) {
        let config = &broker.config.pop;
        if self.len() >= config.max_pop_polling_size {
            return (waiter.reply)(Woken::Full);
        }
        let topic = Arc::clone(&waiter.request.topic);
        let name: Arc<str> = with_pair(&topic, &waiter.request.group, |name| Arc::from(name));
        {
            let mut state = self.state.lock();
            let state = &mut *state;
            let entry = state.entries.entry(Arc::clone(&name)).or_default();
            if entry.waiting.len() > config.pop_polling_size {
                return (waiter.reply)(Woken::Full);
            }
            entry.topic = topic;
            for queue in queues {
                if !entry.watched.iter().any(|watched| Arc::ptr_eq(watched, queue)) {
                    queue.watchers.fetch_add(1, Ordering::SeqCst);
                    state.by_queue.entry(address(queue)).or_default().push(Arc::clone(&name));
                    entry.watched.push(Arc::clone(queue));
                }
            }
            entry.waiting.push_back(waiter);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        // Pairs with dispatch, which publishes a queue's end before it looks at `watchers`: one of the two sees the other.
        fence(Ordering::SeqCst);
        if ends(queues) != seen {
            let mut state = self.state.lock();
            self.make_ready(&mut state, &name, |_| true);
        }
    }

    /// A message of a watched queue became visible.
    pub fn arrived(&self, queue: &Arc<Queue>, tags_code: i64) {
        let mut state = self.state.lock();
        let Some(names) = state.by_queue.get(&address(queue)) else { return };
        for name in names.clone() {
            let Some(entry) = state.entries.get(&name) else { continue };
            let is_own = *entry.topic == *queue.topic();
            self.make_ready(&mut state, &name, |waiter| waiter.wants(is_own, queue, tags_code));
        }
    }

    /// Makes one waiter of the group ready: it may find what another left.
    pub fn wake_one(&self, topic: &str, group: &str) {
        with_pair(topic, group, |name| self.make_ready(&mut self.state.lock(), name, |_| true));
    }

    /// Makes all waiters of the group ready.
    pub fn wake_all(&self, topic: &str, group: &str) {
        with_pair(topic, group, |name| {
            let mut state = self.state.lock();
            let state = &mut *state;
            if let Some(entry) = state.entries.get_mut(name) {
                self.leave(entry.waiting.len());
                state.ready.extend(entry.waiting.drain(..));
                self.any_ready.store(true, Ordering::Release);
            }
        });
    }

    /// Moves the first waiter that `wants` to the ready ones.
    fn make_ready(&self, state: &mut State, name: &str, wants: impl Fn(&Waiter) -> bool) {
        let Some(entry) = state.entries.get_mut(name) else { return };
        // One that looks at all queues finds this too.
        let woken = entry.woken;
        let fits = |waiter: &Waiter| wants(waiter) && !(woken && waiter.request.queue_id.is_none());
        let Some(waiter) = entry.waiting.iter().position(fits).and_then(|at| entry.waiting.remove(at)) else { return };
        entry.woken |= waiter.request.queue_id.is_none() && !waiter.notification;
        self.leave(1);
        state.ready.push(waiter);
        self.any_ready.store(true, Ordering::Release);
    }

    fn leave(&self, count: usize) {
        self.count.fetch_sub(count, Ordering::Relaxed);
    }

    /// The waiters that became ready since the last call; the caller serves them.
    pub fn take_ready(&self) -> Vec<Waiter> {
        if !self.any_ready.load(Ordering::Acquire) || !self.any_ready.swap(false, Ordering::AcqRel) {
            return Vec::new();
        }
        let mut state = self.state.lock();
        let ready = std::mem::take(&mut state.ready);
        for waiter in &ready {
            with_pair(&waiter.request.topic, &waiter.request.group, |name| {
                if let Some(entry) = state.entries.get_mut(name) {
                    entry.woken = false;
                }
            });
        }
        ready
    }

    /// Drops waiters nobody listens to, makes those ready whose queue came free, returns those whose time is over, and
    /// stops to watch for groups that wait no more.
    pub fn sweep(&self, now: Instant, now_ms: i64) -> Vec<Waiter> {
        let mut due = Vec::new();
        let mut state = self.state.lock();
        let State { entries, by_queue, ready } = &mut *state;
        entries.retain(|name, entry| {
            let free = |w: &Waiter| w.deadline <= now || w.again_at.is_some_and(|at| at <= now_ms);
            let mut left = 0;
            let mut kept = VecDeque::with_capacity(entry.waiting.len());
            for waiter in entry.waiting.drain(..) {
                if !(waiter.is_open)() {
                    left += 1;
                } else if free(&waiter) {
                    left += 1;
                    if waiter.deadline <= now { due.push(waiter) } else { ready.push(waiter) }
                } else {
                    kept.push_back(waiter);
                }
            }
            entry.waiting = kept;
            self.leave(left);
            if entry.waiting.is_empty() {
                for queue in entry.watched.drain(..) {
                    queue.watchers.fetch_sub(1, Ordering::Relaxed);
                    if let Some(names) = by_queue.get_mut(&address(&queue)) {
                        names.retain(|other| other != name);
                        if names.is_empty() {
                            by_queue.remove(&address(&queue));
                        }
                    }
                }
            }
            !entry.waiting.is_empty()
        });
        if !ready.is_empty() {
            self.any_ready.store(true, Ordering::Release);
        }
        due
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// How many of a group wait for a queue, or for any queue.
    pub fn waiting(&self, topic: &str, group: &str, queue_id: Option<u32>) -> usize {
        with_pair(topic, group, |name| {
            let state = self.state.lock();
            let entry = state.entries.get(name);
            entry.map_or(0, |entry| entry.waiting.iter().filter(|w| w.request.queue_id == queue_id).count())
        })
    }
}
