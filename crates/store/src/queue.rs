//! One consume queue: where the messages of a topic's queue lie in the log, 20 bytes each (RocketMQ 5.5 `ConsumeQueue`).
//!
//! The newest entries live in a small buffer and are written to files of `mapped_file_size_consume_queue` bytes in
//! pieces; readers see buffer and files as one. An idle queue holds neither buffer nor descriptor. Everything here is
//! derived from the log and can be rebuilt from it.
//!
//! Three counters: `next` is given to the next appended message (owned by the append lock), `max` is the end of what
//! consumers see (owned by dispatch), `min` is the first entry whose message still exists.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::fd_cache::{FdCache, Touched};
use crate::file::{self, DataFile, Faults};

/// Bytes of one entry.
pub(crate) const UNIT: usize = 20;
/// Entries the buffer holds before it is written.
const BUFFERED: usize = 204;
/// Size field of filler entries before the first message of a queue that does not begin at 0.
const BLANK_SIZE: i32 = i32::MAX;
/// Most filler entries written to bridge a gap in the offsets of a damaged log.
const MAX_GAP: i64 = 100_000_000;

/// One entry of a consume queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CqEntry {
    /// Position of the record in the log, bytes.
    pub physical_offset: i64,
    /// Bytes of the record.
    pub size: i32,
    /// Hash of the tag, 0 without one; delivery time in the schedule topic.
    pub tags_code: i64,
}

impl CqEntry {
    fn blank() -> Self {
        Self { physical_offset: 0, size: BLANK_SIZE, tags_code: 0 }
    }

    pub(crate) fn is_blank(&self) -> bool {
        self.physical_offset == 0 && self.size == BLANK_SIZE
    }

    fn is_written(&self) -> bool {
        self.physical_offset >= 0 && self.size > 0
    }

    fn encode(&self) -> [u8; UNIT] {
        let mut bytes = [0; UNIT];
        bytes[..8].copy_from_slice(&self.physical_offset.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.size.to_be_bytes());
        bytes[12..].copy_from_slice(&self.tags_code.to_be_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; UNIT]) -> Self {
        let long = |at: usize| bytes[at..].first_chunk().map_or(0, |b| i64::from_be_bytes(*b));
        let size = bytes[8..].first_chunk().map_or(0, |b| i32::from_be_bytes(*b));
        Self { physical_offset: long(0), size, tags_code: long(12) }
    }
}

/// What all queues of a store share.
pub(crate) struct Context {
    /// The `consumequeue` folder.
    pub dir: PathBuf,
    /// Bytes of one file.
    pub file_size: u64,
    pub faults: Option<Arc<Faults>>,
    pub files: FdCache,
    pub touched: Mutex<Touched>,
    /// Largest body and largest record, bytes.
    pub max_body: usize,
    pub max_record: u64,
    /// Whether keys are indexed.
    pub index: bool,
    /// Delays of the levels 1.., milliseconds.
    pub delays: Vec<i64>,
    pub next_uid: AtomicU64,
}

/// A consume queue. Handles are shared; they stay valid after the topic is deleted but then lead nowhere.
pub struct Queue {
    /// How many pulls wait for this queue; dispatch reports arrivals only while it is above zero.
    pub watchers: AtomicU32,
    topic: Arc<str>,
    id: u32,
    uid: u64,
    /// Hash of the topic and `#`, with which the texts of index keys begin.
    key_prefix: i32,
    next: AtomicI64,
    max: AtomicI64,
    min: AtomicI64,
    deleted: AtomicBool,
    tail: Mutex<Tail>,
    context: Arc<Context>,
}

/// The newest entries.
#[derive(Default)]
struct Tail {
    /// Entries from `first` on, encoded.
    bytes: Vec<u8>,
    /// Offset of the first entry in `bytes`.
    first: i64,
    /// Bytes of `bytes` that are in the file.
    written: usize,
    /// Listed for the next flush.
    dirty: bool,
}

impl Tail {
    fn end(&self) -> i64 {
        self.first + (self.bytes.len() / UNIT) as i64
    }
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}[{}..{}]", self.topic, self.id, self.min_offset(), self.max_offset())
    }
}

impl Queue {
    pub(crate) fn new(context: &Arc<Context>, topic: Arc<str>, id: u32) -> Queue {
        Queue {
            watchers: AtomicU32::new(0),
            key_prefix: crate::index::key_prefix(&topic),
            topic,
            id,
            uid: context.next_uid.fetch_add(1, Ordering::Relaxed),
            next: AtomicI64::new(0),
            max: AtomicI64::new(0),
            min: AtomicI64::new(0),
            deleted: AtomicBool::new(false),
            tail: Mutex::default(),
            context: Arc::clone(context),
        }
    }

    /// Name of the topic.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Number of the queue in its topic.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Offset of the first message that still exists.
    pub fn min_offset(&self) -> i64 {
        self.min.load(Ordering::Acquire)
    }

    /// One more than the offset of the last message consumers can read.
    pub fn max_offset(&self) -> i64 {
        self.max.load(Ordering::Acquire)
    }

    /// The offset the next message gets; beyond [`Queue::max_offset`] while messages are not dispatched.
    pub fn next_offset(&self) -> i64 {
        self.next.load(Ordering::Acquire)
    }

    pub(crate) fn key_prefix(&self) -> i32 {
        self.key_prefix
    }

    pub(crate) fn context(&self) -> &Context {
        &self.context
    }

    /// Takes the next offset. Only under the append lock.
    pub(crate) fn take_next(&self) -> i64 {
        let offset = self.next.load(Ordering::Relaxed);
        self.next.store(offset + 1, Ordering::Release);
        offset
    }

    /// Gives an offset back after a failed write. Only under the append lock.
    pub(crate) fn give_back(&self, offset: i64) {
        self.next.store(offset, Ordering::Release);
    }

    /// After recovery: messages follow what is there.
    pub(crate) fn continue_after_recovery(&self) {
        let end = self.tail.lock().end();
        self.max.store(end, Ordering::Release);
        self.next.store(end, Ordering::Release);
    }

    /// Adds entries in order and shows them to consumers; entries that are there already are skipped. `true` if the
    /// queue was clean before. An error means that a full buffer could not be written: the entries are kept in memory.
    pub(crate) fn put(&self, entries: impl Iterator<Item = (i64, CqEntry)>) -> (bool, io::Result<()>) {
        let mut tail = self.tail.lock();
        let mut result = Ok(());
        for (offset, entry) in entries {
            let end = tail.end();
            if offset < end {
                continue;
            }
            if offset > end {
                result = result.and(self.bridge(&mut tail, offset));
                if tail.end() != offset {
                    continue;
                }
            }
            tail.bytes.extend_from_slice(&entry.encode());
            if tail.bytes.len() >= BUFFERED * UNIT {
                match self.write(&mut tail) {
                    Ok(()) => {
                        tail.first = tail.end();
                        tail.bytes.clear();
                        tail.written = 0;
                    }
                    Err(error) => result = Err(error),
                }
            }
        }
        self.max.store(tail.end(), Ordering::Release);
        (!std::mem::replace(&mut tail.dirty, true), result)
    }

    /// Filler up to `offset`: from the beginning of its file in a queue without files, else from the end.
    fn bridge(&self, tail: &mut Tail, offset: i64) -> io::Result<()> {
        if tail.end() == 0 && tail.bytes.is_empty() {
            let per_file = (self.context.file_size / UNIT as u64) as i64;
            tail.first = offset - offset % per_file;
            self.min.store(offset, Ordering::Release);
        }
        if offset - tail.end() > MAX_GAP {
            tracing::error!(topic = %self.topic, queue = self.id, offset, end = tail.end(), "a record's queue offset is far beyond the queue's end: the record is left out");
            return Ok(());
        }
        while tail.end() < offset {
            let blanks = (offset - tail.end()).min(BUFFERED as i64) as usize;
            tail.bytes.extend(std::iter::repeat_n(CqEntry::blank().encode(), blanks).flatten());
            self.write(tail)?;
            tail.first = tail.end();
            tail.bytes.clear();
            tail.written = 0;
        }
        Ok(())
    }

    /// Writes what the file lacks.
    fn write(&self, tail: &mut Tail) -> io::Result<()> {
        if self.deleted.load(Ordering::Acquire) {
            tail.written = tail.bytes.len();
        }
        while tail.written < tail.bytes.len() {
            let at = tail.first as u64 * UNIT as u64 + tail.written as u64;
            let start = at - at % self.context.file_size;
            let file = self.file(start, true)?;
            let room = (start + self.context.file_size - at) as usize;
            let n = room.min(tail.bytes.len() - tail.written);
            file.write_at(&tail.bytes[tail.written..tail.written + n], at - start)?;
            self.context.touched.lock().wrote((self.uid, start), &file);
            tail.written += n;
        }
        Ok(())
    }

    /// Writes the buffer to the file; the entries stay readable in memory.
    pub(crate) fn flush(&self) -> io::Result<()> {
        let mut tail = self.tail.lock();
        self.write(&mut tail)?;
        tail.dirty = false;
        Ok(())
    }

    /// Gives the buffer's memory back if nothing came since the last flush.
    pub(crate) fn cool(&self) {
        let mut tail = self.tail.lock();
        if !tail.dirty && tail.written == tail.bytes.len() {
            *tail = Tail { first: tail.end(), ..Tail::default() };
        }
    }

    fn folder(&self) -> PathBuf {
        self.context.dir.join(&*self.topic).join(self.id.to_string())
    }

    /// The file that begins at byte `start` of the queue.
    fn file(&self, start: u64, create: bool) -> io::Result<Arc<DataFile>> {
        let context = &self.context;
        context.files.get((self.uid, start), || {
            let path = self.folder().join(file::name(start));
            match DataFile::open(&path, context.faults.as_ref()) {
                Err(error) if create && error.kind() == io::ErrorKind::NotFound => {
                    fs::create_dir_all(self.folder())?;
                    context.touched.lock().created();
                    DataFile::create_sparse(&path, context.file_size, context.faults.as_ref())
                }
                other => other,
            }
        })
    }

    /// Reads entries from `offset` on into `out`; how many there were.
    pub(crate) fn read(&self, offset: i64, out: &mut [[u8; UNIT]]) -> io::Result<usize> {
        let wanted = (self.max_offset() - offset).clamp(0, out.len() as i64) as usize;
        let mut done = 0;
        while done < wanted {
            let at = offset + done as i64;
            let first = {
                let tail = self.tail.lock();
                if at >= tail.first {
                    let (entries, _) = tail.bytes.as_chunks::<UNIT>();
                    let entries = entries.get((at - tail.first) as usize..).unwrap_or_default();
                    let n = entries.len().min(wanted - done);
                    out[done..done + n].copy_from_slice(&entries[..n]);
                    return Ok(done + n);
                }
                tail.first
            };
            let n = ((first - at).min((wanted - done) as i64)) as usize;
            done += self.read_files(at, &mut out[done..done + n])?;
        }
        Ok(done)
    }

    fn read_files(&self, offset: i64, out: &mut [[u8; UNIT]]) -> io::Result<usize> {
        let at = offset as u64 * UNIT as u64;
        let start = at - at % self.context.file_size;
        let in_file = ((start + self.context.file_size - at) / UNIT as u64) as usize;
        let count = in_file.min(out.len());
        self.file(start, false)?.read_at(out[..count].as_flattened_mut(), at - start)?;
        Ok(count)
    }

    /// The entry at `offset`, if consumers can see it.
    pub(crate) fn entry(&self, offset: i64) -> Option<CqEntry> {
        let mut out = [[0; UNIT]];
        (offset >= 0 && self.read(offset, &mut out).ok()? == 1).then(|| CqEntry::decode(&out[0]))
    }

    /// First offset in `low..high` whose entry satisfies `past`, which holds for all entries after the first that does.
    pub(crate) fn partition(&self, low: i64, high: i64, mut past: impl FnMut(CqEntry) -> bool) -> i64 {
        let (mut low, mut high) = (low, high);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.entry(middle) {
                Some(entry) if !past(entry) => low = middle + 1,
                _ => high = middle,
            }
        }
        low
    }

    pub(crate) fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Acquire)
    }

    /// Marks the handle as deleted and removes the files.
    pub(crate) fn delete(&self) -> io::Result<()> {
        self.deleted.store(true, Ordering::Release);
        let mut tail = self.tail.lock();
        *tail = Tail { first: tail.end(), ..Tail::default() };
        self.context.files.forget(self.uid);
        self.context.touched.lock().forget(self.uid);
        match fs::remove_dir_all(self.folder()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// Recovery: single threaded, before anything else touches the queue.
impl Queue {
    /// Finds the end of the files. With `built_to`, the position in the log up to which entries are known to be
    /// complete, a binary search; without it the last three files are read as RocketMQ does. Later entries are cut off
    /// in memory only: dispatch writes them again, and [`Queue::erase_beyond_end`] removes what is left.
    ///
    /// `false` if files or pages are missing before the end, `log_start` being where the log begins: the queue is
    /// emptied, and has to be built from the whole log.
    pub(crate) fn load(&self, built_to: Option<u64>, log_start: u64) -> io::Result<bool> {
        let context = &self.context;
        let mut files = Vec::new();
        for (start, path) in file::list(&self.folder())? {
            let expected = files.last().map_or(start, |last: &u64| last + context.file_size);
            let len = fs::metadata(&path)?.len();
            if len == context.file_size && start == expected && start.is_multiple_of(context.file_size) {
                files.push(start);
                continue;
            }
            // Wrong size, or a file before it is missing: the log has what is lost here.
            if len > 0 {
                tracing::warn!(path = %path.display(), len, "a consume queue file has a wrong size or place; it is removed and rebuilt from the log");
            }
            fs::remove_file(&path)?;
        }
        let per_file = (context.file_size / UNIT as u64) as i64;
        let Some(first) = files.first().map(|start| *start as i64 / UNIT as i64) else { return Ok(true) };
        let all = first + files.len() as i64 * per_file;
        // Reading a hole would fill the page cache with nothing.
        let last = files.last().copied().unwrap_or_default();
        let data = self.file(last, false)?.first_hole()?.unwrap_or(context.file_size).min(context.file_size);
        let high = ((last + data).div_ceil(UNIT as u64) as i64).min(all);
        self.show(first, high);
        let end = match built_to {
            Some(position) => {
                self.partition(first, high, |e| !(e.is_written() && (e.physical_offset as u64) < position))
            }
            None => self.scan_end(first.max(all - 3 * per_file), high)?,
        };
        self.show(first, end);
        let complete = self.has_no_holes(&files, end, log_start)?;
        if !complete {
            tracing::warn!(topic = %self.topic, queue = self.id, "the consume queue has holes; it is removed and rebuilt from the log");
            self.context.files.forget(self.uid);
            fs::remove_dir_all(self.folder())?;
            self.show(0, 0);
        }
        Ok(complete)
    }

    /// A look at the beginning of each file and at pages that were never written.
    fn has_no_holes(&self, files: &[u64], end: i64, log_start: u64) -> io::Result<bool> {
        let end = end as u64 * UNIT as u64;
        if files.first().is_some_and(|first| *first > 0 && *first == end) {
            // The file begins behind everything that was built: those before it are missing.
            return Ok(false);
        }
        for (n, start) in files.iter().copied().take_while(|start| *start < end).enumerate() {
            let Some(entry) = self.entry((start / UNIT as u64) as i64) else { return Ok(false) };
            // Files before the first one may be missing only if the log lost what they pointed to.
            let begins_late = n == 0 && start > 0 && !entry.is_blank() && entry.physical_offset as u64 > log_start;
            let filled = (end - start).min(self.context.file_size);
            let file = self.file(start, false)?;
            if !entry.is_written() || begins_late || file.first_hole()?.is_some_and(|hole| hole < filled) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn show(&self, first: i64, end: i64) {
        *self.tail.lock() = Tail { first: end, ..Tail::default() };
        self.min.store(first, Ordering::Release);
        self.max.store(end, Ordering::Release);
    }

    fn scan_end(&self, from: i64, to: i64) -> io::Result<i64> {
        let mut entries = vec![[0; UNIT]; 4096];
        let mut at = from;
        while at < to {
            let n = self.read(at, &mut entries)?;
            if let Some(bad) = entries[..n].iter().position(|e| !CqEntry::decode(e).is_written()) {
                return Ok(at + bad as i64);
            }
            if n == 0 {
                break;
            }
            at += n as i64;
        }
        Ok(at)
    }

    /// Position in the log behind the last entry's record; 0 without entries.
    pub(crate) fn built_to(&self) -> u64 {
        match self.entry(self.max_offset() - 1) {
            Some(last) if !last.is_blank() => last.physical_offset as u64 + last.size as u64,
            _ => 0,
        }
    }

    /// Drops entries of records at or behind `end` of the log.
    pub(crate) fn truncate(&self, end: u64) {
        let (first, last) = (self.min_offset(), self.max_offset());
        if self.entry(last - 1).is_none_or(|e| (e.physical_offset as u64) < end) {
            return;
        }
        let keep = self.partition(first, last, |e| e.physical_offset as u64 >= end);
        if keep < last {
            // What is buffered behind the new end goes with it.
            let mut tail = self.tail.lock();
            if keep >= tail.first {
                let bytes = (keep - tail.first) as usize * UNIT;
                tail.bytes.truncate(bytes);
                tail.written = tail.written.min(bytes);
            } else {
                *tail = Tail { first: keep, dirty: tail.dirty, ..Tail::default() };
            }
            drop(tail);
            self.max.store(keep, Ordering::Release);
        }
    }

    /// Forgets all entries; what the files hold is overwritten or erased later.
    pub(crate) fn restart(&self) {
        let dirty = self.tail.lock().dirty;
        self.show(0, 0);
        self.tail.lock().dirty = dirty;
    }

    /// Zeroes what the files hold behind the end, so that nobody takes it for entries. Buffered entries are written.
    pub(crate) fn erase_beyond_end(&self) -> io::Result<()> {
        let mut tail = self.tail.lock();
        self.write(&mut tail)?;
        let at = tail.end() as u64 * UNIT as u64;
        for (start, path) in file::list(&self.folder())? {
            if start >= at {
                self.context.files.forget(self.uid);
                fs::remove_file(&path)?;
            } else if start + self.context.file_size > at {
                let file = self.file(start, true)?;
                if file.zero_from(at - start, self.context.file_size)? {
                    self.context.touched.lock().wrote((self.uid, start), &file);
                }
            }
        }
        Ok(())
    }

    /// Moves the minimum to the first entry whose record is in the log, which begins at `log_start`.
    pub(crate) fn correct_min(&self, log_start: u64) {
        let (min, max) = (self.min_offset(), self.max_offset());
        if self.entry(min).is_none_or(|e| !e.is_blank() && e.physical_offset as u64 >= log_start) {
            return;
        }
        let first = self.partition(min, max, |e| !e.is_blank() && e.physical_offset as u64 >= log_start);
        self.min.store(first, Ordering::Release);
    }
}

/// Topics and queue numbers that have a folder.
pub(crate) fn folders(dir: &Path) -> io::Result<Vec<(String, u32)>> {
    let mut found = Vec::new();
    let topics = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        other => other?,
    };
    for topic in topics {
        let topic = topic?;
        let Ok(name) = topic.file_name().into_string() else { continue };
        if !topic.file_type()?.is_dir() {
            continue;
        }
        for queue in fs::read_dir(topic.path())? {
            if let Some(id) = queue?.file_name().to_str().and_then(|id| id.parse().ok()) {
                found.push((name.clone(), id));
            }
        }
    }
    Ok(found)
}
