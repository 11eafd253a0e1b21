//! One pair of files of a compacted queue: records, and an entry for each (RocketMQ 5.5 `CompactionLog.TopicPartitionLog`,
//! `SparseConsumeQueue`). Both files have the same name; the record's own position and the entry's are the name plus the
//! place in the file of records. What is counted here is final, so it is read where it is mapped.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use ferromq_protocol::record::{self, Entry, Record};

use super::UNIT;
use crate::file;
use crate::mapped::ReadMap;
use crate::queue::{CqEntry, Kind};

/// The pairs of a queue, in the order of their messages.
pub(super) type Pairs = Arc<Vec<Arc<Pair>>>;

/// A pair, as readers see it.
pub(crate) struct Pair {
    /// Position of the first byte.
    pub base: u64,
    log: Half,
    queue: Half,
    /// Entries that are written, each with its record.
    count: AtomicUsize,
}

/// One of the two files.
struct Half {
    path: PathBuf,
    map: OnceLock<ReadMap>,
}

impl Half {
    fn new(folder: &Path, base: u64) -> Half {
        Half { path: folder.join(file::name(base)), map: OnceLock::new() }
    }

    fn bytes(&self) -> io::Result<&[u8]> {
        if let Some(map) = self.map.get() {
            return Ok(map.bytes());
        }
        let file = File::open(&self.path)?;
        let map = ReadMap::new(&file, file.metadata()?.len())?;
        Ok(self.map.get_or_init(|| map).bytes())
    }
}

impl Pair {
    /// The pair in these folders that begins at `base` and has so many entries.
    pub fn new(log: &Path, queue: &Path, base: u64, count: usize) -> Pair {
        Pair { base, log: Half::new(log, base), queue: Half::new(queue, base), count: AtomicUsize::new(count) }
    }

    pub fn log_path(&self) -> &Path {
        &self.log.path
    }

    pub fn queue_path(&self) -> &Path {
        &self.queue.path
    }

    /// How many entries there are.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Shows so many more entries; they and their records are written.
    pub fn publish(&self, more: usize) {
        self.count.fetch_add(more, Ordering::AcqRel);
    }

    /// The entry at `index`.
    pub fn entry(&self, index: usize) -> io::Result<Option<CqEntry>> {
        if index >= self.count() {
            return Ok(None);
        }
        let bytes = self.queue.bytes()?;
        Ok(bytes.get(index * UNIT..(index + 1) * UNIT).map(|bytes| Kind::Batch.decode(bytes, 0)))
    }

    /// The first entry.
    pub fn first(&self) -> io::Result<Option<CqEntry>> {
        self.entry(0)
    }

    /// The last entry.
    pub fn last(&self) -> io::Result<Option<CqEntry>> {
        self.count().checked_sub(1).map_or(Ok(None), |last| self.entry(last))
    }

    /// Index of the first entry that satisfies `past`, which holds for all behind the first that does.
    pub fn partition(&self, mut past: impl FnMut(&CqEntry) -> bool) -> io::Result<usize> {
        let (mut low, mut high) = (0, self.count());
        while low < high {
            let middle = low + (high - low) / 2;
            match self.entry(middle)? {
                Some(entry) if !past(&entry) => low = middle + 1,
                _ => high = middle,
            }
        }
        Ok(low)
    }

    /// The record of an entry, if it is sound and stands at the entry's place.
    pub fn record(&self, entry: &CqEntry) -> io::Result<Option<Record<'_>>> {
        Ok(sound(self.log.bytes()?, self.base, entry.physical_offset).filter(|record| {
            record.queue_offset() == entry.queue_offset && record.bytes().len() as i64 == i64::from(entry.size)
        }))
    }

    /// All bytes of the file of records.
    pub fn log_bytes(&self) -> io::Result<&[u8]> {
        self.log.bytes()
    }

    /// Entries as they stand in the file, whether they count or not.
    pub fn raw_entries(&self) -> io::Result<impl Iterator<Item = CqEntry>> {
        Ok(self.queue.bytes()?.chunks_exact(UNIT).map(|bytes| Kind::Batch.decode(bytes, 0)))
    }

    /// How many entries stand at the file's beginning, as far as a search by halves can tell.
    pub fn found_entries(&self) -> io::Result<usize> {
        let bytes = self.queue.bytes()?;
        let is_written = |at: usize| {
            bytes.get(at * UNIT..(at + 1) * UNIT).is_some_and(|bytes| Kind::Batch.decode(bytes, 0).is_written())
        };
        let (mut low, mut high) = (0, bytes.len() / UNIT);
        while low < high {
            let middle = low + (high - low) / 2;
            if is_written(middle) { low = middle + 1 } else { high = middle }
        }
        Ok(low)
    }
}

/// The sound record at `position` of the file of records that begins at `base`.
pub(super) fn sound(bytes: &[u8], base: u64, position: i64) -> Option<Record<'_>> {
    let at = usize::try_from(u64::try_from(position).ok()?.checked_sub(base)?).ok()?;
    match record::read(bytes.get(at..)?) {
        Entry::Record(record) if record.physical_offset() == position && record.is_body_intact() => Some(record),
        _ => None,
    }
}

/// Whether both are the same record, whatever place each says that it has.
pub(crate) fn is_same(one: &Record<'_>, other: &Record<'_>) -> bool {
    let mut moved = one.bytes().to_vec();
    record::patch(&mut moved, one.queue_offset(), other.physical_offset() as u64, one.store_timestamp());
    moved == other.bytes()
}

/// Position and content of the first sound record at or behind `from` that satisfies `is_it`.
pub(crate) fn next_sound<'a>(
    bytes: &'a [u8],
    base: u64,
    from: u64,
    is_it: impl Fn(&Record<'_>) -> bool,
) -> Option<(u64, Record<'a>)> {
    let stands_there = |at: usize, position: u64| {
        record::glance(&bytes[at..]).is_some_and(|glance| glance.physical_offset == position as i64)
    };
    let first = usize::try_from(from.checked_sub(base)?).ok()?;
    (first..bytes.len())
        .zip(from..)
        .filter(|(at, position)| stands_there(*at, *position))
        .find_map(|(_, position)| Some((position, sound(bytes, base, position as i64).filter(&is_it)?)))
}

/// Where the first entry at or behind a queue offset stands: number of the pair, and index there.
pub(super) fn seek(pairs: &[Arc<Pair>], offset: i64) -> io::Result<(usize, usize)> {
    let (mut low, mut high) = (0, pairs.len());
    while low < high {
        let middle = low + (high - low) / 2;
        // A pair without entries is the last one.
        let is_before = pairs[middle].last()?.is_some_and(|last| last.queue_offset < offset);
        if is_before { low = middle + 1 } else { high = middle }
    }
    let index = pairs.get(low).map_or(Ok(0), |pair| pair.partition(|entry| entry.queue_offset >= offset))?;
    Ok((low, index))
}

/// Shows the entries from a queue offset on, in order, until `f` says that it is enough.
pub(super) fn scan(
    pairs: &[Arc<Pair>],
    offset: i64,
    mut f: impl FnMut(&Pair, &CqEntry) -> io::Result<bool>,
) -> io::Result<()> {
    let (first, mut index) = seek(pairs, offset)?;
    for pair in &pairs[first.min(pairs.len())..] {
        while let Some(entry) = pair.entry(index)? {
            if !f(pair, &entry)? {
                return Ok(());
            }
            index += 1;
        }
        index = 0;
    }
    Ok(())
}
