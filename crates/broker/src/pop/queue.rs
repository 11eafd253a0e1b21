//! One queue of a topic as one group pops it: its check points, which acknowledgements find here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::check_point::{CheckPoint, Key};

/// A queue and what is invisible of it.
pub(crate) struct PopQueue {
    pub topic: Arc<str>,
    pub group: Arc<str>,
    pub id: u32,
    /// Held from the look at the offset until the messages are handed out.
    pub taking: Mutex<()>,
    check_points: Mutex<BTreeMap<Key, CheckPoint>>,
    /// Messages of the check points that nobody acknowledged; written under their lock.
    in_flight: AtomicUsize,
}

impl PopQueue {
    /// A queue of which nothing is invisible.
    pub fn new(topic: Arc<str>, group: Arc<str>, id: u32) -> Self {
        Self {
            topic,
            group,
            id,
            taking: Mutex::new(()),
            check_points: Mutex::default(),
            in_flight: AtomicUsize::new(0),
        }
    }

    /// Messages that were handed out and are neither acknowledged nor given back.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Offset of the first message that was handed out and is neither acknowledged nor given back.
    pub fn first_waiting(&self) -> Option<i64> {
        let check_points = self.check_points.lock();
        let mut first = None;
        for ((start, _), ck) in check_points.iter() {
            // Those behind begin behind it.
            if first.is_some_and(|first| first <= *start) {
                break;
            }
            first = first.into_iter().chain(ck.waiting(*start)).min();
        }
        first
    }

    /// Whether no check point waits.
    pub fn is_idle(&self) -> bool {
        self.check_points.lock().is_empty()
    }

    /// Names of all check points.
    pub(super) fn keys(&self) -> Vec<Key> {
        self.check_points.lock().keys().copied().collect()
    }

    /// A copy of a check point.
    pub fn check_point(&self, key: Key) -> Option<CheckPoint> {
        self.check_points.lock().get(&key).cloned()
    }

    /// Whether a message was handed out under this key and is not acknowledged.
    pub fn is_waiting(&self, key: Key, offset: i64) -> bool {
        let check_points = self.check_points.lock();
        let Some(ck) = check_points.get(&key) else { return false };
        ck.index(key.0, offset).is_some_and(|index| ck.is_waiting(index))
    }

    /// The revive queue of a check point.
    pub fn revive_queue(&self, key: Key) -> Option<u32> {
        self.check_points.lock().get(&key).map(|ck| ck.revive_queue)
    }

    /// A pop time at or after `now` that no check point from `start` on has.
    pub fn free_time(&self, start: i64, now: i64) -> i64 {
        let check_points = self.check_points.lock();
        (now..).find(|time| !check_points.contains_key(&(start, *time))).unwrap_or(now)
    }

    /// Puts a check point in; the one of the same name that was there.
    pub(super) fn insert(&self, key: Key, ck: CheckPoint) -> Option<CheckPoint> {
        let mut check_points = self.check_points.lock();
        self.in_flight.fetch_add(ck.waiting_count(), Ordering::Relaxed);
        let before = check_points.insert(key, ck);
        self.in_flight.fetch_sub(before.as_ref().map_or(0, CheckPoint::waiting_count), Ordering::Relaxed);
        before
    }

    /// Takes a check point out.
    pub(super) fn remove(&self, key: Key) -> Option<CheckPoint> {
        let mut check_points = self.check_points.lock();
        let removed = check_points.remove(&key)?;
        self.in_flight.fetch_sub(removed.waiting_count(), Ordering::Relaxed);
        Some(removed)
    }

    /// Takes acknowledged messages off a check point, and takes it out with the last one.
    pub(super) fn acknowledge(&self, key: Key, offsets: &[i64]) -> Option<CheckPoint> {
        let mut check_points = self.check_points.lock();
        let ck = check_points.get_mut(&key)?;
        let before = ck.waiting_count();
        for offset in offsets {
            if let Some(index) = ck.index(key.0, *offset) {
                ck.acked |= 1 << index;
            }
        }
        let left = ck.waiting_count();
        self.in_flight.fetch_sub(before - left, Ordering::Relaxed);
        if left == 0 { check_points.remove(&key) } else { None }
    }

    /// Changes when a check point is due; its revive queue and the offset of its record there.
    pub(super) fn set_due(&self, key: Key, due: i64) -> Option<(u32, i64)> {
        let mut check_points = self.check_points.lock();
        let ck = check_points.get_mut(&key)?;
        ck.due = due;
        Some((ck.revive_queue, ck.revive_offset))
    }
}
