//! The key index: which records have a key, by hash (RocketMQ 5.5 `IndexFile`, `IndexService`).
//!
//! A file is a header of 40 bytes, hash slots of 4 and entries of 20 bytes, big-endian; a slot holds the number of its
//! newest entry, an entry that of the one before it. Files are allocated in full and written through a mapping by
//! dispatch alone, in an order that leaves a readable file at every instant; readers follow the chains at the same
//! time and check what they find. The index is a convenience: when the disk is too full for a file of it messages are stored
//! all the same, and their keys are filed when there is space (`index/resume.rs`).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ferromq_common::clock;
use parking_lot::{Mutex, RwLock};

use crate::faults::Faults;
use crate::file::{DataFile, MaybeFaults, create_dir_durable, remove, sync_dir};

mod file;
mod resume;

pub(crate) use file::{ENTRY_BYTES, HEADER_BYTES, SLOT_BYTES, Shape};
use file::{IndexFile, at};

/// Most records of one hash that one query looks at.
const MAX_CANDIDATES: usize = 16_384;
/// How many keys ahead slots are asked for: they lie anywhere in 20 MB.
const AHEAD: usize = 8;
/// Milliseconds in a day and characters of a file name.
const DAY_MS: i64 = 86_400_000;
const NAME_LEN: usize = 17;

/// 31 to the powers 1, 2, 4 and 8.
const POWERS_OF_31: [u32; 4] = [31, 961, 923_521, 923_521_u32.wrapping_mul(923_521)];

/// Hash of the beginning of all key texts of a topic.
pub(crate) fn key_prefix(topic: &str) -> i32 {
    fold(fold(0, topic.as_bytes()), b"#")
}

/// Java's string hash of UTF-8 text, going on from `hash`.
fn fold(hash: i32, text: &[u8]) -> i32 {
    let step = |hash: i32, unit: u16| hash.wrapping_mul(31).wrapping_add(i32::from(unit));
    if text.is_ascii() {
        // Eight at a time: one multiplication waits for the one before it, those of a block do not.
        let (blocks, rest) = text.as_chunks();
        let hash = blocks.iter().fold(hash, |hash, block| {
            hash.wrapping_mul(POWERS_OF_31[3] as i32).wrapping_add(hash_of_eight(*block) as i32)
        });
        return rest.iter().fold(hash, |hash, byte| step(hash, u16::from(*byte)));
    }
    String::from_utf8_lossy(text).encode_utf16().fold(hash, step)
}

/// Java's string hash of eight characters, neighbours together: four pairs in one multiplication, then two fours.
fn hash_of_eight(text: [u8; 8]) -> u32 {
    const BYTES: u64 = 0x00FF_00FF_00FF_00FF;
    const PAIRS: u64 = 0x0000_FFFF_0000_FFFF;
    let text = u64::from_le_bytes(text);
    let pairs = (text & BYTES) * u64::from(POWERS_OF_31[0]) + (text >> 8 & BYTES);
    let fours = (pairs & PAIRS) * u64::from(POWERS_OF_31[1]) + (pairs >> 16 & PAIRS);
    (fours as u32).wrapping_mul(POWERS_OF_31[2]).wrapping_add((fours >> 32) as u32)
}

/// The hash under which a key is filed: absolute value, 0 where Java has none.
fn hash(prefix: i32, key: &[u8]) -> u32 {
    fold(prefix, key).checked_abs().unwrap_or(0) as u32
}

/// Appends the hashes of a message's keys: the unique key, then each of `keys`, which blanks separate.
pub(crate) fn push_hashes(prefix: i32, uniq_key: Option<&[u8]>, keys: Option<&[u8]>, out: &mut Vec<u32>) {
    out.extend(uniq_key.filter(|key| !key.is_empty()).map(|key| hash(prefix, key)));
    for key in keys.unwrap_or_default().split(|byte| *byte == b' ').filter(|key| !key.is_empty()) {
        out.push(hash(prefix, key));
    }
}

/// A message whose keys are to be filed.
pub(crate) struct Keyed {
    /// How many hashes are its.
    pub hashes: usize,
    /// Position in the log, bytes.
    pub offset: u64,
    /// Store timestamp, milliseconds since 1970.
    pub timestamp: i64,
}

/// What a query found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IndexHits {
    /// Positions of records that have the key, newest first.
    pub physical_offsets: Vec<u64>,
    /// Store timestamp of the last indexed message, milliseconds since 1970.
    pub last_update_timestamp: i64,
    /// Position of the last indexed message.
    pub last_update_physical_offset: i64,
}

/// How far the index was on the disk at a checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct IndexMark {
    /// Name of the file as a number, 0 without a file.
    pub file: u64,
    /// Its count; with [`STOPPED`] while keys wait for a place.
    pub count: u32,
}

/// More than any file has: a start sees that entries are missing.
const STOPPED: u32 = 1 << 31;

/// All index files.
pub(crate) struct Index {
    dir: PathBuf,
    shape: Shape,
    faults: Option<Arc<Faults>>,
    files: RwLock<Vec<Arc<IndexFile>>>,
    /// The file written to; dispatch alone.
    last: Mutex<Option<Arc<IndexFile>>>,
    enabled: bool,
    /// Position of the first record whose keys have no place, for want of a file; `RUNNING` if there is none.
    stopped_at: AtomicU64,
}

/// No position.
const RUNNING: u64 = u64::MAX;

impl Index {
    /// Opens the files. `trusted`: they are as the last process left them. Else what came after `mark` is undone, or,
    /// without a mark, files that are newer than `checkpoint` (a store timestamp) are removed as RocketMQ does.
    pub fn open(
        dir: &Path,
        shape: Shape,
        enabled: bool,
        faults: MaybeFaults<'_>,
        trusted: bool,
        mark: Option<IndexMark>,
        checkpoint: i64,
    ) -> io::Result<Index> {
        let mut files = Vec::new();
        for (name, path) in list(dir)? {
            let file = DataFile::open(&path, faults)?;
            if file.len()? != shape.bytes() {
                tracing::warn!(path = %path.display(), "the index file has not the size of maxHashSlotNum and maxIndexNum; it is left alone and not searched");
                continue;
            }
            let file = IndexFile::new(&path, file, shape)?;
            let keep = match (trusted, mark) {
                (true, _) => true,
                (false, Some(mark)) if name < mark.file => true,
                (false, Some(mark)) if name == mark.file && file.count() >= mark.count & !STOPPED => {
                    file.rewind(mark.count & !STOPPED);
                    true
                }
                (false, Some(_)) => false,
                (false, None) => file.end() <= checkpoint,
            };
            if keep {
                files.push(Arc::new(file));
            } else {
                tracing::info!(path = %path.display(), "the index file did not reach the disk before the crash; it is removed");
                remove(&path, faults)?;
            }
        }
        let (last, stopped_at) = (Mutex::new(files.last().cloned()), AtomicU64::new(RUNNING));
        let (dir, faults) = (dir.to_owned(), faults.cloned());
        Ok(Index { dir, shape, faults, files: RwLock::new(files), last, enabled, stopped_at })
    }

    /// Files the keys of messages that lie one behind the other, unless those of an earlier one wait for a place; their
    /// hashes are at the beginning of `hashes`. How many they are.
    pub fn put(&self, hashes: &[u32], messages: impl Iterator<Item = Keyed>) -> usize {
        let mut done = 0;
        let mut last = self.last.lock();
        for message in messages {
            if let (Some(file), Some(soon)) = (&*last, hashes.get(done + AHEAD)) {
                file.ask_ahead(*soon);
            }
            let own = &hashes[done..done + message.hashes];
            done += own.len();
            if !own.is_empty() && self.enabled && self.stopped_at.load(Ordering::Relaxed) == RUNNING {
                self.file_keys(&mut last, own, message.offset, message.timestamp);
            }
        }
        done
    }

    /// Files the keys of one message; `false` if there is no file for them and none can be made.
    fn file_keys(&self, last: &mut Option<Arc<IndexFile>>, hashes: &[u32], offset: u64, timestamp: i64) -> bool {
        if last.as_ref().is_some_and(|file| (offset as i64) < file.long(at::END_OFFSET)) {
            // Built before a restart.
            return true;
        }
        for hash in hashes {
            if last.as_ref().is_none_or(|file| file.is_full()) {
                match self.create(last.as_deref()) {
                    Ok(file) => *last = Some(file),
                    Err(error) => {
                        if self.stopped_at.swap(offset, Ordering::Relaxed) == RUNNING {
                            let (dir, bytes) = (self.dir.display(), self.shape.bytes());
                            tracing::error!(
                                "an index file of {bytes} bytes cannot be made in {dir}: {error}; messages are stored, but queries by key find none of the new ones until there is enough space"
                            );
                        }
                        return false;
                    }
                }
            }
            if let Some(file) = &*last {
                file.put(*hash, offset, timestamp);
            }
        }
        true
    }

    fn create(&self, previous: Option<&IndexFile>) -> io::Result<Arc<IndexFile>> {
        create_dir_durable(&self.dir, self.faults.as_ref())?;
        let newest = list(&self.dir)?.last().map_or(0, |(name, _)| *name);
        // RocketMQ sorts by name, and may have written names in a time zone ahead of UTC.
        let name = name_of(clock::now_millis()).max(newest + 1);
        let path = self.dir.join(format!("{name:0NAME_LEN$}"));
        let file = DataFile::create_allocated(&path, self.shape.bytes(), self.faults.as_ref())?;
        sync_dir(&self.dir, self.faults.as_ref())?;
        let file = Arc::new(IndexFile::new(&path, file, self.shape)?);
        file.set(at::COUNT, 1);
        if let Some(previous) = previous {
            for (begin, end) in [(at::BEGIN_OFFSET, at::END_OFFSET), (at::BEGIN_TIMESTAMP, at::END_TIMESTAMP)] {
                file.set_long(begin, previous.long(end));
                file.set_long(end, previous.long(end));
            }
            previous.file.sync_mapped()?;
        }
        self.files.write().push(Arc::clone(&file));
        Ok(file)
    }

    /// Positions of records with the hash of `key` that `accept` takes, newest first, stored between `begin` and `end`
    /// (milliseconds since 1970).
    pub fn query(
        &self,
        topic: &str,
        key: &str,
        max: usize,
        (begin, end): (i64, i64),
        accept: &mut dyn FnMut(u64) -> bool,
    ) -> IndexHits {
        let hash = hash(key_prefix(topic), key.as_bytes());
        let files = self.files.read().clone();
        let mut hits = IndexHits::default();
        if let Some(last) = files.last() {
            hits.last_update_timestamp = last.end();
            hits.last_update_physical_offset = last.long(at::END_OFFSET);
        }
        // What other keys have the same hash must not use up the answer, nor go on for ever.
        let mut candidates = MAX_CANDIDATES;
        let found = &mut hits.physical_offsets;
        for file in files.iter().rev() {
            if found.len() < max && file.may_hold(begin, end) {
                file.select(hash, (begin, end), &mut |offset| {
                    candidates -= 1;
                    if found.last() != Some(&offset) && accept(offset) {
                        found.push(offset);
                    }
                    found.len() < max && candidates > 0
                });
            }
            if found.len() >= max || candidates == 0 || (file.count() > 1 && file.begin() < begin) {
                break;
            }
        }
        hits
    }

    /// How far it is now. Between two dispatches.
    pub fn mark(&self) -> IndexMark {
        let last = self.last.lock();
        let mut mark = last.as_ref().map_or(IndexMark::default(), |file| {
            let name = file.path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
            IndexMark { file: name.unwrap_or(0), count: file.count() }
        });
        if self.stopped_at.load(Ordering::Relaxed) != RUNNING {
            mark.count |= STOPPED;
        }
        mark
    }

    /// Store timestamp of the newest entry, milliseconds since 1970.
    pub fn end_timestamp(&self) -> i64 {
        self.last.lock().as_ref().map_or(0, |file| file.end())
    }

    /// Position of the newest indexed record.
    pub fn end_offset(&self) -> u64 {
        self.last.lock().as_ref().map_or(0, |file| file.long(at::END_OFFSET).max(0) as u64)
    }

    /// Forces the file in use to the disk; full ones are there already.
    pub fn sync(&self) -> io::Result<()> {
        let file = self.last.lock().clone();
        file.map_or(Ok(()), |f| f.file.sync_mapped())
    }

    /// Removes files whose newest record is gone from the log, which begins at `log_start`; never the one in use.
    pub fn expire(&self, log_start: u64) -> io::Result<()> {
        loop {
            let oldest = {
                let files = self.files.read();
                (files.len() > 1).then(|| files.first().cloned()).flatten()
            };
            let Some(oldest) = oldest.filter(|file| (file.long(at::END_OFFSET) as u64) < log_start) else {
                return Ok(());
            };
            remove(&oldest.path, self.faults.as_ref())?;
            tracing::info!(path = %oldest.path.display(), "the index file points below the commit log; it is removed");
            self.files.write().remove(0);
        }
    }

    /// Removes all files: the log they point into is gone.
    pub fn clear(&self) -> io::Result<()> {
        *self.last.lock() = None;
        for file in self.files.write().drain(..) {
            remove(&file.path, self.faults.as_ref())?;
        }
        Ok(())
    }
}

/// Index files by name, ascending.
pub(crate) fn list(dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_str().filter(|n| n.len() == NAME_LEN && n.bytes().all(|b| b.is_ascii_digit()));
        if let Some(name) = name.and_then(|n| n.parse().ok()) {
            files.push((name, entry.path()));
        }
    }
    files.sort_unstable();
    Ok(files)
}

/// `yyyyMMddHHmmssSSS` in UTC, as a number.
fn name_of(now_ms: i64) -> u64 {
    let (mut days, in_day) = (now_ms.div_euclid(DAY_MS) + 719_468, now_ms.rem_euclid(DAY_MS));
    // Days to civil date, in years that begin in March.
    let era = days.div_euclid(146_097);
    days -= era * 146_097;
    let year_of_era = (days - days / 1460 + days / 36_524 - days / 146_096) / 365;
    let day_of_year = days - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let date = (year * 100 + month) * 100 + day;
    let (hours, minutes) = (in_day / 3_600_000, in_day / 60_000 % 60);
    let time = (hours * 100 + minutes) * 100_000 + in_day % 60_000;
    (date * 1_000_000_000 + time).max(0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dates() {
        assert_eq!(name_of(0), 19_700_101_000_000_000);
        // 2024-02-29T23:59:58.123Z
        assert_eq!(name_of(1_709_251_198_123), 20_240_229_235_958_123);
    }

    #[test]
    fn keys_hash_as_in_java() {
        let mut out = Vec::new();
        push_hashes(key_prefix("TopicTest"), Some(b"k0"), Some(b"a  b"), &mut out);
        let expect = |text: &str| ferromq_protocol::java::string_hash(text).unsigned_abs();
        assert_eq!(out, [expect("TopicTest#k0"), expect("TopicTest#a"), expect("TopicTest#b")]);
        assert_eq!(hash(key_prefix("T"), "中😀".as_bytes()), expect("T#中😀"));
        let text = "7F000001A0B218B4AAC22A2F3D8C0000~";
        for len in 0..=text.len() {
            assert_eq!(hash(key_prefix("T"), &text.as_bytes()[..len]), expect(&format!("T#{}", &text[..len])));
        }
    }
}
