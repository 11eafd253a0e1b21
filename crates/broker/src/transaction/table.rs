//! Which half messages have ended, which wait for an answer, and when each is asked about: a state machine without I/O.
//!
//! The half queue is cut in two by `scanned`. Behind it a bit for each half that has ended is all there is: nearly all halves
//! end within moments, and none of them costs more than that bit. Before it stand only the halves that did not end in time,
//! one [`Half`] each. A half that is asked about is appended again, as in RocketMQ; its copies name the first one, which leads
//! to the newest.
//!
//! Each half is claimed before its outcome is written and settled afterwards, so that two requests cannot both end it. The
//! owner (`transaction.rs`) keeps the table behind one lock.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

/// Most halves that wait in memory; the scan stops there and goes on when some have ended.
pub(super) const MAX_WAITING: usize = 500_000;
/// Most words of bits of halves that ended behind the scan, 64 halves each.
const MAX_ENDED_WORDS: usize = 1_000_000;
/// Op messages told apart for the offset from which they are read again; beyond it neighbours are counted as one.
const MAX_OPS: usize = 65_536;

/// A half message that did not end in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Half {
    /// Position of its record, bytes.
    pub physical: u64,
    /// When it is looked at next, milliseconds since 1970.
    pub due: i64,
    /// How often its producer was asked.
    pub checks: i32,
    /// Queue offset of its first copy.
    pub first: i64,
    /// When it counts as too old, milliseconds since 1970.
    pub expires: i64,
    /// It was there before this broker started: its outcome may have been written without the op message.
    pub recovered: bool,
    pub group: Arc<str>,
}

/// A half whose outcome is being written.
#[derive(Debug)]
pub(crate) struct Claimed {
    /// Queue offset of its newest copy: what the op message names.
    pub offset: i64,
    half: Option<Half>,
}

/// Why a half cannot be ended now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotClaimed {
    /// It was committed, rolled back or given up before.
    Ended,
    /// Another request or the check is at it.
    Busy,
}

/// See the head of the file.
#[derive(Default)]
pub(super) struct Table {
    /// The next half the scan looks at.
    pub scanned: i64,
    /// Bits of halves from `scanned` on that have ended or stand in `waiting`, by offset / 64.
    ended: HashMap<i64, u64>,
    waiting: BTreeMap<i64, Half>,
    due: BTreeSet<(i64, i64)>,
    in_flight: BTreeSet<i64>,
    /// From first copies to the newest.
    moved: HashMap<i64, i64>,
    /// Offset of each op message and the largest half it names, in order.
    ops: VecDeque<(i64, i64)>,
}

impl Table {
    /// Takes the half whose first copy stands at this offset for ending it.
    pub fn claim(&mut self, offset: i64) -> Result<Claimed, NotClaimed> {
        let offset = self.moved.get(&offset).copied().unwrap_or(offset);
        if self.in_flight.contains(&offset) {
            return Err(NotClaimed::Busy);
        }
        let half = self.waiting.remove(&offset);
        match &half {
            Some(half) => {
                self.due.remove(&(half.due, offset));
            }
            None if offset < self.scanned => return Err(NotClaimed::Ended),
            None => self.set_ended(offset)?,
        }
        self.in_flight.insert(offset);
        Ok(Claimed { offset, half })
    }

    /// The outcome is in the log.
    pub fn settle(&mut self, claimed: &Claimed) {
        self.in_flight.remove(&claimed.offset);
        if let Some(half) = &claimed.half {
            self.moved.remove(&half.first);
        }
    }

    /// The outcome could not be written: the half waits as before.
    pub fn restore(&mut self, claimed: Claimed) {
        self.in_flight.remove(&claimed.offset);
        match claimed.half {
            Some(half) => self.wait(claimed.offset, half),
            None => self.clear_ended(claimed.offset),
        }
    }

    /// An op message that is in the log names this half. At the start, before anything else.
    pub fn recover_ended(&mut self, offset: i64) {
        if offset >= self.scanned {
            // A lack of room makes a half that ended look as if it waited: its commit record will tell.
            let _ = self.set_ended(offset);
        }
    }

    /// Notes an op message, so that it is read again as long as it matters.
    pub fn note_op(&mut self, op_offset: i64, largest_half: i64) {
        if self.ops.len() >= MAX_OPS
            && let Some(last) = self.ops.back_mut()
        {
            last.1 = last.1.max(largest_half);
        } else {
            self.ops.push_back((op_offset, largest_half));
        }
    }

    /// The next half without an outcome, before `end`; the ones before it are passed. `None` at the end, at one whose
    /// outcome is being written, or when too many wait.
    pub fn next_open(&mut self, end: i64) -> Option<i64> {
        while self.scanned < end && self.waiting.len() < MAX_WAITING {
            if self.in_flight.contains(&self.scanned) {
                return None;
            }
            if !self.has_ended(self.scanned) {
                return Some(self.scanned);
            }
            self.pass(self.scanned + 1);
        }
        None
    }

    /// Whether this half waits for the scan.
    pub fn is_open(&self, offset: i64) -> bool {
        offset == self.scanned && !self.has_ended(offset) && !self.in_flight.contains(&offset)
    }

    /// Whether a half behind the scan has ended.
    pub fn has_ended(&self, offset: i64) -> bool {
        is_among(&self.ended, offset)
    }

    /// Moves the scan on.
    pub fn pass(&mut self, to: i64) {
        let words = (self.scanned >> 6)..(to >> 6);
        self.scanned = to;
        if words.end - words.start > self.ended.len() as i64 {
            self.ended.retain(|word, _| *word >= words.end);
        } else {
            for word in words {
                self.ended.remove(&word);
            }
        }
    }

    /// A half at the scan did not end in time. Whether it replaces an earlier copy that waited.
    pub fn admit(&mut self, half: Half) -> bool {
        let offset = self.scanned;
        self.pass(offset + 1);
        let mut replaces = false;
        if half.first != offset {
            // A kill can leave a copy in the log without the op message that ends the one before it.
            let before = self.moved.insert(half.first, offset).unwrap_or(half.first);
            replaces = self.drop_waiting(before);
        }
        self.wait(offset, half);
        replaces
    }

    /// Forgets a half that a newer copy replaces; whether it waited.
    pub fn drop_waiting(&mut self, offset: i64) -> bool {
        let half = self.waiting.remove(&offset);
        half.is_some_and(|half| self.due.remove(&(half.due, offset)))
    }

    /// All halves that op messages have named, for the start.
    pub fn all_ended(&self) -> HashMap<i64, u64> {
        self.ended.clone()
    }

    fn wait(&mut self, offset: i64, half: Half) {
        self.due.insert((half.due, offset));
        self.waiting.insert(offset, half);
    }

    /// Takes up to `max` halves that are due.
    pub fn take_due(&mut self, now: i64, max: usize) -> Vec<(i64, Half)> {
        let mut taken = Vec::new();
        while taken.len() < max
            && let Some(&(due, offset)) = self.due.first()
            && due <= now
        {
            self.due.pop_first();
            if let Some(half) = self.waiting.remove(&offset) {
                self.in_flight.insert(offset);
                taken.push((offset, half));
            }
        }
        taken
    }

    /// Takes halves that lie more than `max_lag` before `end`, whether they are due or not, at most `max`.
    pub fn take_lagging(&mut self, end: i64, max_lag: i64, max: usize) -> Vec<(i64, Half)> {
        let old: Vec<i64> = self.waiting.range(..end.saturating_sub(max_lag)).take(max).map(|(o, _)| *o).collect();
        let mut taken = Vec::new();
        for offset in old {
            if let Some(half) = self.waiting.remove(&offset) {
                self.due.remove(&(half.due, offset));
                self.in_flight.insert(offset);
                taken.push((offset, half));
            }
        }
        taken
    }

    /// Puts a half back that was taken.
    pub fn put_back(&mut self, offset: i64, half: Half) {
        self.in_flight.remove(&offset);
        self.wait(offset, half);
    }

    /// A half that was taken has ended.
    pub fn finish(&mut self, offset: i64, half: &Half) {
        self.in_flight.remove(&offset);
        self.moved.remove(&half.first);
    }

    /// A half that was taken was appended again at `to`; the scan passes over the copy.
    pub fn copied(&mut self, from: i64, to: i64, half: Half) {
        self.in_flight.remove(&from);
        self.moved.insert(half.first, to);
        if to >= self.scanned {
            // Without room the scan meets the copy and takes it for the same half.
            let _ = self.set_ended(to);
        }
        self.wait(to, half);
    }

    /// The producer of the half whose first copy stands at this offset is asked.
    pub fn count_check(&mut self, first: i64) {
        let offset = self.moved.get(&first).copied().unwrap_or(first);
        if let Some(half) = self.waiting.get_mut(&offset) {
            half.checks += 1;
        }
    }

    /// Number of halves that wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// When the next half is due.
    pub fn next_due(&self) -> Option<i64> {
        self.due.first().map(|(due, _)| *due)
    }

    /// Offset before which every half has ended, and the offset of the first op message that matters from there on, if
    /// `op_end` is the end of the op queue. `None` while outcomes are being written: their op messages are not noted yet.
    pub fn floors(&mut self, op_end: i64) -> Option<(i64, i64)> {
        if !self.in_flight.is_empty() {
            return None;
        }
        let floor = self.waiting.keys().next().map_or(self.scanned, |waiting| self.scanned.min(*waiting));
        while self.ops.front().is_some_and(|(_, largest)| *largest < floor) {
            self.ops.pop_front();
        }
        Some((floor, self.ops.front().map_or(op_end, |(offset, _)| *offset)))
    }

    fn set_ended(&mut self, offset: i64) -> Result<(), NotClaimed> {
        let (word, bit) = (offset >> 6, 1_u64 << (offset & 63));
        if self.ended.len() >= MAX_ENDED_WORDS && !self.ended.contains_key(&word) {
            return Err(NotClaimed::Busy);
        }
        let bits = self.ended.entry(word).or_default();
        if *bits & bit != 0 {
            return Err(NotClaimed::Ended);
        }
        *bits |= bit;
        Ok(())
    }

    fn clear_ended(&mut self, offset: i64) {
        if let Some(bits) = self.ended.get_mut(&(offset >> 6)) {
            *bits &= !(1 << (offset & 63));
        }
    }
}

/// Whether the bit of an offset is set.
pub(super) fn is_among(words: &HashMap<i64, u64>, offset: i64) -> bool {
    words.get(&(offset >> 6)).is_some_and(|word| word >> (offset & 63) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn half(offset: i64, due: i64) -> Half {
        Half {
            physical: offset as u64 * 100,
            due,
            checks: 0,
            first: offset,
            expires: i64::MAX,
            recovered: false,
            group: Arc::from("g"),
        }
    }

    #[test]
    fn a_half_ends_once_and_costs_a_bit() {
        let mut table = Table::default();
        let claimed = table.claim(3).unwrap();
        assert_eq!(table.claim(3).unwrap_err(), NotClaimed::Busy);
        assert_eq!(table.floors(9), None);
        table.settle(&claimed);
        assert_eq!(table.claim(3).unwrap_err(), NotClaimed::Ended);
        let failed = table.claim(4).unwrap();
        table.restore(failed);
        table.claim(4).unwrap();
        assert_eq!(table.waiting(), 0);
    }

    #[test]
    fn the_scan_passes_what_ended_and_stops_at_what_did_not() {
        let mut table = Table::default();
        for offset in 0..200 {
            if offset != 130 {
                let claimed = table.claim(offset).unwrap();
                table.settle(&claimed);
            }
        }
        assert_eq!(table.next_open(200), Some(130));
        assert!(table.is_open(130));
        table.admit(half(130, 50));
        assert_eq!(table.next_open(200), None);
        assert_eq!((table.scanned, table.floors(0)), (200, Some((130, 0))));
        assert!(table.ended.len() <= 1);
        assert_eq!(table.claim(129).unwrap_err(), NotClaimed::Ended);
        let claimed = table.claim(130).unwrap();
        table.settle(&claimed);
        assert_eq!(table.floors(0), Some((200, 0)));
    }

    #[test]
    fn the_scan_does_not_pass_a_half_whose_outcome_is_being_written() {
        let mut table = Table::default();
        let claimed = table.claim(0).unwrap();
        assert_eq!(table.next_open(1), None);
        assert_eq!(table.scanned, 0);
        table.restore(claimed);
        assert_eq!(table.next_open(1), Some(0));
    }

    #[test]
    fn the_first_copy_leads_to_the_newest_and_one_end_is_enough() {
        let mut table = Table::default();
        table.admit(half(0, 5));
        assert!(table.take_due(4, 10).is_empty());
        let (offset, mut taken) = table.take_due(5, 10).remove(0);
        assert_eq!(table.claim(0).unwrap_err(), NotClaimed::Busy);
        taken.due = 20;
        table.copied(offset, 1, taken);
        let (offset, mut taken) = table.take_due(20, 10).remove(0);
        assert_eq!(offset, 1);
        taken.due = 40;
        table.copied(offset, 2, taken);
        // The scan passes over the copies.
        assert_eq!(table.next_open(3), None);
        assert_eq!((table.scanned, table.floors(0)), (3, Some((2, 0))));
        let claimed = table.claim(0).unwrap();
        assert_eq!(claimed.offset, 2);
        table.settle(&claimed);
        for offset in 0..3 {
            assert_eq!(table.claim(offset).unwrap_err(), NotClaimed::Ended);
        }
        assert!(table.moved.is_empty());
    }

    #[test]
    fn op_messages_matter_until_all_their_halves_are_passed() {
        let mut table = Table::default();
        for (op, offset) in [(0, 0), (1, 2), (2, 1)] {
            let claimed = table.claim(offset).unwrap();
            table.settle(&claimed);
            table.note_op(op, offset);
        }
        assert_eq!(table.floors(3), Some((0, 0)));
        table.next_open(2);
        assert_eq!(table.floors(3), Some((2, 1)));
        table.next_open(3);
        assert_eq!(table.floors(3), Some((3, 3)));
    }

    #[test]
    fn what_lags_is_taken_before_it_is_due() {
        let mut table = Table::default();
        table.admit(half(0, 1000));
        table.scanned = 50;
        table.admit(half(50, 1000));
        let taken = table.take_lagging(100, 60, 10);
        assert_eq!(taken.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), [0]);
        table.put_back(0, taken[0].1.clone());
        assert_eq!(table.next_due(), Some(1000));
    }
}
