//! What is invisible: check points by queue, and when they are due.
//!
//! A check point stands in two places: under its queue, where acknowledgements find it, and under its revive queue,
//! where time finds it. Both locks are held for look-ups only and never together. Nothing here reads or writes the log;
//! a check point enters after its record was appended. The committed offset of a revive queue is the place before its
//! oldest check point: everything a restart needs stands behind it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ferromq_common::clock;
use ferromq_protocol::code::response;
use ferromq_protocol::pop;
use parking_lot::{Condvar, Mutex, RwLock};

use super::check_point::{CheckPoint, Key};
use super::foreign::Foreign;
use super::polls::PopPolls;
use super::queue::PopQueue;
use crate::handler::Refusal;
use crate::offsets::{Offsets, with_pair};

/// Most check points that wait, all groups together; a pop beyond is answered SYSTEM_BUSY.
pub const MAX_CHECK_POINTS: usize = 2_000_000;
/// Most queues of groups that are popped.
const MAX_POP_QUEUES: usize = 1_000_000;
/// Maps the queues are split into.
const STRIPES: usize = 16;
/// How late the thread that revives may wake, so that it does not wake for each check point, milliseconds.
const GRAIN_MS: i64 = 20;

/// The check points of one queue of the revive topic.
#[derive(Default)]
struct ReviveQueue {
    /// By the offset of their records.
    live: BTreeMap<i64, Live>,
    /// When, and the offset of the record.
    due: BTreeSet<(i64, i64)>,
    /// The newest record that entered.
    newest: Option<i64>,
}

struct Live {
    queue: Arc<PopQueue>,
    key: Key,
    due: i64,
}

/// Queues of one topic and group.
type Queues = BTreeMap<u32, Arc<PopQueue>>;

/// Part of the queues, by `topic@group`.
type Stripe = RwLock<HashMap<Box<str>, Queues>>;

/// Everything pop consumption keeps in memory. Methods may be called from any thread.
pub struct Pops {
    hasher: RandomState,
    queues: Box<[Stripe]>,
    queue_count: AtomicUsize,
    revive: Box<[Mutex<ReviveQueue>]>,
    check_points: AtomicUsize,
    turns: AtomicU32,
    /// Held to read while a check point is appended, entered and its offset committed; see [`Pops::settle`].
    pub(super) gate: RwLock<()>,
    /// Position in the log behind the newest check point.
    appended: AtomicU64,
    /// Until when the reviving thread sleeps, milliseconds since 1970.
    wakes_at: AtomicI64,
    sleep: Mutex<Sleep>,
    wake: Condvar,
    pub(crate) polls: Arc<PopPolls>,
    pub(super) foreign: Foreign,
}

#[derive(Default)]
struct Sleep {
    stop: bool,
    /// Records of a Java broker's timer are there to be read.
    foreign: bool,
}

impl Pops {
    /// An empty table for `revive_queues` queues of the revive topic.
    pub(crate) fn new(revive_queues: u32, polls: Arc<PopPolls>) -> Self {
        Self {
            hasher: RandomState::new(),
            queues: (0..STRIPES).map(|_| RwLock::default()).collect(),
            queue_count: AtomicUsize::new(0),
            revive: (0..revive_queues.max(1)).map(|_| Mutex::default()).collect(),
            check_points: AtomicUsize::new(0),
            turns: AtomicU32::new(0),
            gate: RwLock::new(()),
            appended: AtomicU64::new(0),
            wakes_at: AtomicI64::new(i64::MIN),
            sleep: Mutex::default(),
            wake: Condvar::new(),
            polls,
            foreign: Foreign::new(revive_queues.max(1) as usize),
        }
    }

    /// A number that grows with each pop: spreads them over queues.
    pub(super) fn turn(&self) -> u32 {
        self.turns.fetch_add(1, Ordering::Relaxed)
    }

    /// The revive queue of the next pop.
    pub(super) fn next_revive_queue(&self, turn: u32) -> u32 {
        turn % self.revive.len() as u32
    }

    /// Number of queues of the revive topic that are in use.
    pub(super) fn revive_queues(&self) -> u32 {
        self.revive.len() as u32
    }

    /// How many check points wait.
    pub fn check_points(&self) -> usize {
        self.check_points.load(Ordering::Relaxed)
    }

    /// How many pops and notifications wait for messages.
    pub fn waiting(&self) -> usize {
        self.polls.len()
    }

    /// Whether one more check point is too much.
    pub(super) fn is_full(&self) -> bool {
        self.check_points() >= MAX_CHECK_POINTS
    }

    /// A queue as the group pops it, if it is known.
    pub(crate) fn find(&self, topic: &str, group: &str, id: u32) -> Option<Arc<PopQueue>> {
        with_pair(topic, group, |pair| self.stripe(pair).read().get(pair)?.get(&id).cloned())
    }

    /// A queue as the group pops it, made if it is not known.
    pub(super) fn queue(&self, topic: &str, group: &str, id: u32) -> Result<Arc<PopQueue>, Refusal> {
        if let Some(found) = self.find(topic, group, id) {
            return Ok(found);
        }
        if self.queue_count.load(Ordering::Relaxed) >= MAX_POP_QUEUES {
            self.forget_idle();
            if self.queue_count.load(Ordering::Relaxed) >= MAX_POP_QUEUES {
                let remark = format!("[OVERLOAD]system busy, {MAX_POP_QUEUES} queues of groups are popped already");
                return Err(Refusal::new(response::SYSTEM_BUSY, remark));
            }
        }
        with_pair(topic, group, |pair| {
            let mut stripe = self.stripe(pair).write();
            let queues = stripe.entry(pair.into()).or_default();
            let (topic, group) = match queues.first_key_value() {
                Some((_, other)) => (Arc::clone(&other.topic), Arc::clone(&other.group)),
                None => (Arc::from(topic), Arc::from(group)),
            };
            let made = queues.entry(id).or_insert_with(|| {
                self.queue_count.fetch_add(1, Ordering::Relaxed);
                Arc::new(PopQueue::new(topic, group, id))
            });
            Ok(Arc::clone(made))
        })
    }

    /// Forgets queues that nobody holds and that have no check point: they are made again when they are popped.
    fn forget_idle(&self) {
        for stripe in &self.queues {
            stripe.write().retain(|_, queues| {
                queues.retain(|_, queue| {
                    let keep = Arc::strong_count(queue) > 1 || !queue.is_idle();
                    if !keep {
                        self.queue_count.fetch_sub(1, Ordering::Relaxed);
                    }
                    keep
                });
                !queues.is_empty()
            });
        }
    }

    /// A topic is deleted: what was popped from it is not brought back, least of all out of one of the same name.
    pub(crate) fn forget_topic(&self, topic: &str) {
        let mut gone = Vec::new();
        for stripe in &self.queues {
            stripe.write().retain(|_, queues| {
                let keep = queues.values().any(|queue| *queue.topic != *topic);
                if !keep {
                    gone.extend(std::mem::take(queues).into_values());
                }
                keep
            });
        }
        self.queue_count.fetch_sub(gone.len(), Ordering::Relaxed);
        for queue in gone {
            // A pop that is under way enters its check point first; one that comes later finds nothing to pop.
            let _taking = queue.taking.lock();
            queue.keys().into_iter().for_each(|key| self.remove(&queue, key));
        }
    }

    /// Enters a check point whose record was appended.
    pub(super) fn insert(&self, queue: &Arc<PopQueue>, key: Key, ck: CheckPoint) {
        let (revive_queue, revive_offset, due) = (ck.revive_queue, ck.revive_offset, ck.due);
        let Some(revive) = self.revive.get(revive_queue as usize) else { return };
        if let Some(before) = queue.insert(key, ck) {
            // The same pop once more: its record was read twice.
            self.leave_revive_queue(&before);
        }
        {
            let mut revive = revive.lock();
            revive.live.insert(revive_offset, Live { queue: Arc::clone(queue), key, due });
            revive.due.insert((due, revive_offset));
            revive.newest = revive.newest.max(Some(revive_offset));
        }
        self.check_points.fetch_add(1, Ordering::Relaxed);
        self.wake_before(due);
    }

    /// Notes that the log holds check points up to `position`.
    pub(super) fn appended_to(&self, position: u64) {
        self.appended.fetch_max(position, Ordering::Relaxed);
    }

    /// Takes acknowledged messages off a check point.
    pub(super) fn acknowledge(&self, queue: &PopQueue, key: Key, offsets: &[i64]) {
        if let Some(done) = queue.acknowledge(key, offsets) {
            self.leave_revive_queue(&done);
        }
    }

    /// Takes a check point off that has been worked off.
    pub(super) fn remove(&self, queue: &PopQueue, key: Key) {
        if let Some(removed) = queue.remove(key) {
            self.leave_revive_queue(&removed);
        }
    }

    fn leave_revive_queue(&self, ck: &CheckPoint) {
        if let Some(revive) = self.revive.get(ck.revive_queue as usize) {
            let mut revive = revive.lock();
            if let Some(live) = revive.live.remove(&ck.revive_offset) {
                revive.due.remove(&(live.due, ck.revive_offset));
                self.check_points.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// Moves the time of a check point that could not be worked off.
    pub(super) fn postpone(&self, queue: &PopQueue, key: Key, due: i64) {
        let Some(place) = queue.set_due(key, due) else { return };
        if let Some(revive) = self.revive.get(place.0 as usize) {
            let mut revive = revive.lock();
            let revive = &mut *revive;
            if let Some(live) = revive.live.get_mut(&place.1) {
                revive.due.remove(&(live.due, place.1));
                revive.due.insert((due, place.1));
                live.due = due;
            }
        }
    }

    /// Check points whose time has come, at most `max` of each revive queue.
    pub(super) fn due(&self, now: i64, max: usize) -> Vec<(Arc<PopQueue>, Key)> {
        let mut found = Vec::new();
        for revive in &self.revive {
            let revive = revive.lock();
            let offsets = revive.due.range(..=(now, i64::MAX)).take(max);
            found.extend(offsets.filter_map(|(_, at)| revive.live.get(at)).map(|l| (Arc::clone(&l.queue), l.key)));
        }
        found
    }

    fn next_due(&self) -> Option<i64> {
        self.revive.iter().filter_map(|revive| revive.lock().due.first().map(|(due, _)| *due)).min()
    }

    /// Sleeps until a check point is due or there are foreign records; `false` when the broker stops.
    pub(super) fn wait_for_due(&self) -> bool {
        let mut sleep = self.sleep.lock();
        loop {
            if sleep.stop {
                return false;
            }
            if std::mem::take(&mut sleep.foreign) {
                self.wakes_at.store(i64::MIN, Ordering::SeqCst);
                return true;
            }
            // Whoever enters an earlier one from now on sees that the sleep would be too long.
            self.wakes_at.store(i64::MAX, Ordering::SeqCst);
            let Some(next) = self.next_due() else {
                self.wake.wait(&mut sleep);
                continue;
            };
            let now = clock::now_millis();
            if next <= now {
                self.wakes_at.store(i64::MIN, Ordering::SeqCst);
                return true;
            }
            let until = next.max(now + GRAIN_MS);
            self.wakes_at.store(until, Ordering::SeqCst);
            if self.next_due().is_some_and(|due| due + GRAIN_MS < until) {
                continue;
            }
            let time = Duration::from_millis(until.abs_diff(now));
            self.wake.wait_for(&mut sleep, time);
        }
    }

    /// Sleeps for a while, unless the broker stops.
    pub(super) fn rest(&self, time: Duration) {
        let end = Instant::now() + time;
        let mut sleep = self.sleep.lock();
        while !sleep.stop && !self.wake.wait_until(&mut sleep, end).timed_out() {}
    }

    fn wake_before(&self, due: i64) {
        if due + GRAIN_MS < self.wakes_at.load(Ordering::SeqCst) {
            drop(self.sleep.lock());
            self.wake.notify_one();
        }
    }

    /// Lets the reviving thread look for foreign records.
    pub(crate) fn wake_for_foreign(&self) {
        self.sleep.lock().foreign = true;
        self.wake.notify_one();
    }

    /// Ends [`Pops::wait_for_due`].
    pub(super) fn stop(&self) {
        self.sleep.lock().stop = true;
        self.wake.notify_one();
    }

    /// Commits how far the revive topic is worked off. Returns a time and a position in the log: a check point stored
    /// before that time has its offset committed, and its record stands before that position.
    pub(crate) fn settle(&self, offsets: &Offsets, revive_topic: &str, end_of: impl Fn(u32) -> i64) -> (i64, u64) {
        // No pop is between its record and its commit now.
        let _gate = self.gate.write();
        for (id, revive) in (0_u32..).zip(&self.revive) {
            let revive = revive.lock();
            let Some(newest) = revive.newest else { continue };
            let mut done = revive.live.first_key_value().map_or(newest, |(oldest, _)| oldest - 1);
            if let Some(unread) = self.foreign.next(id, end_of(id)) {
                done = done.min(unread - 1);
            }
            if done >= 0 && offsets.query(revive_topic, pop::REVIVE_GROUP, id) != Some(done) {
                offsets.commit(revive_topic, pop::REVIVE_GROUP, id, done);
            }
        }
        (clock::now_millis(), self.appended.load(Ordering::Relaxed))
    }

    fn stripe(&self, pair: &str) -> &Stripe {
        &self.queues[self.hasher.hash_one(pair) as usize % STRIPES]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ck(revive_queue: u32, revive_offset: i64, due: i64, diffs: Option<&[i32]>) -> CheckPoint {
        let count = diffs.map_or(3, |diffs| diffs.len() as u32);
        CheckPoint { revive_queue, revive_offset, due, count, acked: 0, diffs: diffs.map(Into::into) }
    }

    #[test]
    fn messages_leave_one_by_one_and_the_last_takes_the_check_point_with_it() {
        let pops = Pops::new(2, Arc::default());
        let queue = pops.queue("T", "G", 0).unwrap();
        pops.insert(&queue, (10, 1), ck(0, 0, 100, None));
        pops.insert(&queue, (20, 1), ck(0, 1, 50, Some(&[0, 4])));
        assert!(queue.is_waiting((10, 1), 12) && !queue.is_waiting((10, 1), 13) && !queue.is_waiting((10, 2), 12));
        assert!(queue.is_waiting((20, 1), 24) && !queue.is_waiting((20, 1), 21));
        pops.acknowledge(&queue, (10, 1), &[11, 99, i64::MIN]);
        assert_eq!(queue.check_point((10, 1)).unwrap().waiting(10), [10, 12]);
        assert_eq!((queue.in_flight(), queue.first_waiting()), (4, Some(10)));
        pops.acknowledge(&queue, (10, 1), &[10, 11, 12]);
        assert!(queue.check_point((10, 1)).is_none());
        assert_eq!((pops.check_points(), pops.due(1000, 9).len(), queue.first_waiting()), (1, 1, Some(20)));
        pops.remove(&queue, (20, 1));
        assert_eq!((pops.check_points(), pops.due(1000, 9).len(), queue.in_flight()), (0, 0, 0));
    }

    #[test]
    fn what_is_due_comes_by_time_and_the_commit_stays_before_the_oldest() {
        let pops = Pops::new(1, Arc::default());
        let offsets = Offsets::default();
        let queue = pops.queue("T", "G", 0).unwrap();
        for (n, due) in [(3, 300), (4, 100), (7, 200)] {
            pops.insert(&queue, (n, 1), ck(0, n, due, None));
        }
        let due = |now| pops.due(now, 9).into_iter().map(|(_, key)| key.0).collect::<Vec<_>>();
        assert_eq!((due(99), due(200)), (vec![], vec![4, 7]));
        pops.postpone(&queue, (4, 1), 250);
        assert_eq!((due(200), due(250)), (vec![7], vec![7, 4]));
        let committed = || {
            pops.settle(&offsets, "R", |_| 0);
            offsets.query("R", pop::REVIVE_GROUP, 0)
        };
        assert_eq!(committed(), Some(2));
        pops.remove(&queue, (3, 1));
        assert_eq!(committed(), Some(3));
        pops.remove(&queue, (4, 1));
        pops.remove(&queue, (7, 1));
        assert_eq!(committed(), Some(7));
    }

    #[test]
    fn idle_queues_are_forgotten_and_busy_ones_kept() {
        let pops = Pops::new(1, Arc::default());
        let held = pops.queue("T", "G", 0).unwrap();
        let busy = pops.queue("T", "G", 1).unwrap();
        pops.insert(&busy, (0, 0), ck(0, 0, 0, None));
        drop(busy);
        drop(pops.queue("T", "G", 2).unwrap());
        pops.forget_idle();
        assert_eq!(pops.queue_count.load(Ordering::Relaxed), 2);
        assert!(pops.find("T", "G", 2).is_none() && pops.find("T", "G", 1).is_some());
        drop(held);
    }
}
