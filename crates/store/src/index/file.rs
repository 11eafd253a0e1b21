//! One file of the key index, as a mapping of words.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::file::DataFile;
use crate::mapped::WordMap;

pub(crate) const HEADER_BYTES: u64 = 40;
pub(crate) const SLOT_BYTES: u64 = 4;
pub(crate) const ENTRY_BYTES: u64 = 20;
/// Words before the slots.
const HEADER_WORDS: usize = 10;
const ENTRY_WORDS: usize = 5;
/// Most entries one query follows in one file: a damaged or hostile chain must end.
const MAX_CHAIN: usize = 1_000_000;

/// Header words.
pub(super) mod at {
    pub const BEGIN_TIMESTAMP: usize = 0;
    pub const END_TIMESTAMP: usize = 2;
    pub const BEGIN_OFFSET: usize = 4;
    pub const END_OFFSET: usize = 6;
    pub const SLOTS_USED: usize = 8;
    /// One more than the number of the last entry.
    pub const COUNT: usize = 9;
}

/// Sizes of an index file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// `maxHashSlotNum`.
    pub slots: u32,
    /// `maxIndexNum`.
    pub entries: u32,
}

impl Shape {
    pub fn bytes(self) -> u64 {
        HEADER_BYTES + u64::from(self.slots) * SLOT_BYTES + u64::from(self.entries) * ENTRY_BYTES
    }
}

pub(super) struct IndexFile {
    pub path: PathBuf,
    pub file: DataFile,
    map: WordMap,
    shape: Shape,
}

fn get(word: &AtomicU32) -> u32 {
    u32::from_be(word.load(Ordering::Relaxed))
}

fn set(word: &AtomicU32, value: u32) {
    word.store(value.to_be(), Ordering::Relaxed);
}

/// Writes a number of 64 bits into the first two words.
fn set_pair(words: &[AtomicU32], value: i64) {
    if let [high, low, ..] = words {
        set(high, (value >> 32) as u32);
        set(low, value as u32);
    }
}

impl IndexFile {
    pub fn new(path: &Path, file: DataFile, shape: Shape) -> io::Result<IndexFile> {
        let map = WordMap::new(file.file(), shape.bytes())?;
        Ok(IndexFile { path: path.to_owned(), file, map, shape })
    }

    fn word(&self, at: usize) -> u32 {
        self.map.words().get(at).map_or(0, get)
    }

    pub fn set(&self, at: usize, value: u32) {
        if let Some(word) = self.map.words().get(at) {
            set(word, value);
        }
    }

    pub fn long(&self, at: usize) -> i64 {
        (i64::from(self.word(at)) << 32) | i64::from(self.word(at + 1))
    }

    pub fn set_long(&self, at: usize, value: i64) {
        self.set(at, (value >> 32) as u32);
        self.set(at + 1, value as u32);
    }

    /// RocketMQ counts from 1: entry 0 means none.
    pub fn count(&self) -> u32 {
        self.word(at::COUNT).max(1)
    }

    pub fn is_full(&self) -> bool {
        self.count() >= self.shape.entries
    }

    fn slot_at(&self, hash: u32) -> usize {
        HEADER_WORDS + (hash % self.shape.slots) as usize
    }

    /// Has the slot of a key fetched that is put soon.
    pub fn ask_ahead(&self, hash: u32) {
        self.map.prefetch(self.slot_at(hash));
    }

    fn entry_at(&self, number: u32) -> usize {
        HEADER_WORDS + self.shape.slots as usize + number as usize * ENTRY_WORDS
    }

    /// Files one key. Dispatch alone.
    pub fn put(&self, hash: u32, physical_offset: u64, timestamp: i64) {
        let (words, number) = (self.map.words(), self.count());
        let entry = words.get(self.entry_at(number)..).and_then(<[AtomicU32]>::first_chunk::<ENTRY_WORDS>);
        let header = words.first_chunk::<HEADER_WORDS>();
        let (Some(header), Some(entry), Some(slot)) = (header, entry, words.get(self.slot_at(hash))) else { return };
        let previous = get(slot);
        let previous = if previous >= number { 0 } else { previous };
        let offset = physical_offset as i64;
        if number == 1 {
            set_pair(&header[at::BEGIN_OFFSET..], offset);
            set_pair(&header[at::BEGIN_TIMESTAMP..], timestamp);
        }
        let seconds = (timestamp.saturating_sub(self.begin()) / 1000).clamp(0, i64::from(i32::MAX)) as u32;
        set(&entry[0], hash);
        set_pair(&entry[1..], offset);
        set(&entry[3], seconds);
        set(&entry[4], previous);
        // The entry, then the count, then the slot: a process that dies in between leaves no slot beyond the count.
        std::sync::atomic::fence(Ordering::Release);
        set_pair(&header[at::END_OFFSET..], offset);
        set_pair(&header[at::END_TIMESTAMP..], timestamp);
        if previous == 0 {
            set(&header[at::SLOTS_USED], get(&header[at::SLOTS_USED]).wrapping_add(1));
        }
        set(&header[at::COUNT], number + 1);
        std::sync::atomic::fence(Ordering::Release);
        set(slot, number);
    }

    pub fn begin(&self) -> i64 {
        self.long(at::BEGIN_TIMESTAMP)
    }

    pub fn end(&self) -> i64 {
        self.long(at::END_TIMESTAMP)
    }

    /// Whether an entry may be between these times. After [`IndexFile::rewind`] the end is known to the second only.
    pub fn may_hold(&self, begin: i64, end: i64) -> bool {
        self.count() > 1 && begin <= self.end().saturating_add(999) && end >= self.begin()
    }

    /// Follows the chain of `hash`, newest first, as long as `found` says so.
    pub fn select(&self, hash: u32, (begin, end): (i64, i64), found: &mut dyn FnMut(u64) -> bool) {
        let count = self.count();
        let mut number = self.word(self.slot_at(hash));
        std::sync::atomic::fence(Ordering::Acquire);
        for _ in 0..MAX_CHAIN {
            if number == 0 || number >= count {
                return;
            }
            let at = self.entry_at(number);
            let time = self.begin().saturating_add(i64::from(self.word(at + 3)) * 1000);
            // Entries hold seconds.
            let is_hit = self.word(at) == hash && time.saturating_add(999) >= begin && time <= end;
            if is_hit && !found(self.long(at + 1) as u64) {
                return;
            }
            let previous = self.word(at + 4);
            if previous >= number || time.saturating_add(999) < begin {
                return;
            }
            number = previous;
        }
    }

    /// Goes back to `count`, with slots rebuilt from the entries, which are in order: after a power cut a slot may
    /// point to an entry that did not reach the disk.
    pub fn rewind(&self, count: u32) {
        for slot in 0..self.shape.slots as usize {
            self.set(HEADER_WORDS + slot, 0);
        }
        let mut used = 0;
        for number in 1..count {
            let slot_at = self.slot_at(self.word(self.entry_at(number)));
            used += u32::from(self.word(slot_at) == 0);
            self.set(slot_at, number);
        }
        self.set(at::SLOTS_USED, used);
        self.set(at::COUNT, count);
        if let Some(last) = count.checked_sub(1).filter(|last| *last > 0) {
            let at = self.entry_at(last);
            self.set_long(at::END_OFFSET, self.long(at + 1));
            self.set_long(at::END_TIMESTAMP, self.begin().saturating_add(i64::from(self.word(at + 3)) * 1000));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_entry_is_found_by_its_time_after_a_rewind() {
        let dir = tempfile::tempdir().unwrap();
        let (path, shape) = (dir.path().join("20240101000000000"), Shape { slots: 8, entries: 16 });
        let file = DataFile::create_allocated(&path, shape.bytes(), None).unwrap();
        let index = IndexFile::new(&path, file, shape).unwrap();
        for (n, time) in [1_000_000, 1_000_400, 1_000_800, 1_000_900].into_iter().enumerate() {
            index.put(7, n as u64 * 100, time);
        }
        index.rewind(4);
        let mut found = Vec::new();
        let times = (1_000_700, i64::MAX);
        assert!(index.may_hold(times.0, times.1));
        index.select(7, times, &mut |offset| {
            found.push(offset);
            true
        });
        assert_eq!(found.first(), Some(&200));
    }
}
