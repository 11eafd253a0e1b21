//! The pending timer messages, by the time they are due: 16 bytes each (a slot and a position in the log).
//!
//! A binary heap instead of RocketMQ's wheel of slots: a wheel needs its slots whether they are used or not, and a list
//! in each. Pure memory, derived from the log; who fills it and what happens to due messages stands in `pending.rs`.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

/// Log bytes per counter of [`Wheel::lowest_position`].
const CHUNK_BYTES: u64 = 16 * 1024 * 1024;
/// Entries for which an empty wheel keeps its memory.
const KEPT_ENTRIES: usize = 65_536;

/// One pending message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pending {
    /// Begin of the precision step in which it is due, milliseconds since 1970.
    pub slot: i64,
    /// Where its record lies in the log.
    pub position: u64,
    /// It takes back another message of the same slot: those come first.
    pub is_recall: bool,
}

#[derive(Default)]
pub(super) struct Wheel {
    /// Twice the slot, plus one unless it is a recall; then the position.
    heap: BinaryHeap<Reverse<(i64, u64)>>,
    /// How many pending messages lie in each part of the log.
    chunks: BTreeMap<u64, u32>,
}

impl Wheel {
    pub fn push(&mut self, pending: Pending) {
        let key = pending.slot.saturating_mul(2).saturating_add(i64::from(!pending.is_recall));
        self.heap.push(Reverse((key, pending.position)));
        *self.chunks.entry(pending.position / CHUNK_BYTES).or_default() += 1;
    }

    /// The first message of a slot before `end`: recalls of a slot first, then in the order of the log.
    pub fn pop_before(&mut self, end: i64) -> Option<Pending> {
        let first = self.peek().filter(|first| first.slot < end)?;
        self.heap.pop();
        let chunk = first.position / CHUNK_BYTES;
        if let Some(count) = self.chunks.get_mut(&chunk) {
            *count -= 1;
            if *count == 0 {
                self.chunks.remove(&chunk);
            }
        }
        if self.heap.is_empty() && self.heap.capacity() > KEPT_ENTRIES {
            self.heap.shrink_to(KEPT_ENTRIES);
        }
        Some(first)
    }

    fn peek(&self) -> Option<Pending> {
        let Reverse((key, position)) = *self.heap.peek()?;
        Some(Pending { slot: key.div_euclid(2), position, is_recall: key.rem_euclid(2) == 0 })
    }

    /// The earliest slot with a message.
    pub fn next_slot(&self) -> Option<i64> {
        self.peek().map(|first| first.slot)
    }

    /// A position in the log before which nothing is pending.
    pub fn lowest_position(&self) -> Option<u64> {
        self.chunks.keys().next().map(|chunk| chunk * CHUNK_BYTES)
    }

    pub fn len(&self) -> usize {
        self.heap.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pending(slot: i64, position: u64, is_recall: bool) -> Pending {
        Pending { slot, position, is_recall }
    }

    #[test]
    fn due_messages_come_by_slot_with_recalls_first() {
        let mut wheel = Wheel::default();
        let (a, b, recall, later) =
            (pending(1000, 70, false), pending(1000, 90, false), pending(1000, 200, true), pending(2000, 10, false));
        for one in [later, b, a, recall] {
            wheel.push(one);
        }
        assert_eq!((wheel.len(), wheel.next_slot()), (4, Some(1000)));
        let due: Vec<_> = std::iter::from_fn(|| wheel.pop_before(2000)).collect();
        assert_eq!(due, [recall, a, b]);
        assert_eq!(wheel.pop_before(2001), Some(later));
        assert_eq!((wheel.next_slot(), wheel.lowest_position()), (None, None));
    }

    #[test]
    fn the_lowest_position_follows_the_oldest_pending_message() {
        let mut wheel = Wheel::default();
        wheel.push(pending(9, 5 * CHUNK_BYTES + 3, false));
        wheel.push(pending(1, 2 * CHUNK_BYTES + 7, false));
        assert_eq!(wheel.lowest_position(), Some(2 * CHUNK_BYTES));
        wheel.pop_before(5);
        assert_eq!(wheel.lowest_position(), Some(5 * CHUNK_BYTES));
    }

    #[test]
    fn a_pending_message_takes_sixteen_bytes_and_extreme_times_are_kept() {
        assert_eq!(size_of::<Reverse<(i64, u64)>>(), 16);
        let mut wheel = Wheel::default();
        wheel.push(pending(-5, 1, true));
        wheel.push(pending(i64::MAX, 2, false));
        assert_eq!(wheel.pop_before(0), Some(pending(-5, 1, true)));
        assert!(wheel.pop_before(i64::MAX - 1).is_none_or(|p| p.position == 2));
    }
}
