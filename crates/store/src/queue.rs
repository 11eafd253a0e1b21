//! One consume queue: where the messages of a topic's queue lie in the log, 20 bytes each (RocketMQ 5.5 `ConsumeQueue`).
//!
//! The newest entries live in a small buffer and are written to files of `mapped_file_size_consume_queue` bytes in
//! pieces; readers see buffer and files as one. An idle queue holds neither buffer nor descriptor. Everything here is
//! derived from the log and can be rebuilt from it.
//!
//! Three counters: `next` is given to the next appended message (owned by the append lock), `max` is the end of what
//! consumers see (owned by dispatch), `min` is the first entry whose message still exists.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::faults::Faults;
use crate::fd_cache::{FdCache, Touched};
use crate::file::{self, DataFile};
use crate::lmq;

mod expire;
mod load;
mod rewrite;
mod saved;

pub(crate) use load::{queues_of, topics_in};
pub(crate) use saved::Saved;

/// Bytes of one entry.
pub(crate) const UNIT: usize = 20;
/// Entries the buffer holds before it is written.
const BUFFERED: usize = 204;
/// Size field of filler entries before the first message of a queue that does not begin at 0.
const BLANK_SIZE: i32 = i32::MAX;
/// Most filler entries written to bridge a gap in the offsets of a damaged log.
const MAX_GAP: i64 = 100_000_000;

/// Largest queue offset: the byte position of its entry is a file offset.
const MAX_OFFSET: i64 = i64::MAX / UNIT as i64 - 1_000_000_000;

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

    /// Whether it can stand behind `before`: a queue's records lie in the log in its order. An entry that was torn by a
    /// power cut has lost bytes of its position.
    fn follows(&self, before: &CqEntry) -> bool {
        before.is_written() && (self.is_blank() || before.is_blank() || before.physical_offset < self.physical_offset)
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
    /// Largest record that is stored again, bytes: what a log file has room for.
    pub max_stored: u64,
    /// Whether keys are indexed.
    pub index: bool,
    /// Whether messages may stand in light queues, and how many of those there are.
    pub multi_dispatch: bool,
    pub lights: AtomicUsize,
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
    /// Where the record of the entry at `min` lies; 0 until somebody has looked.
    min_position: AtomicU64,
    /// First byte of the first file there may be.
    first_file: AtomicU64,
    deleted: AtomicBool,
    /// The files may hold something behind the queue's end.
    has_leftovers: AtomicBool,
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
        context.lights.fetch_add(usize::from(lmq::is_light(&topic)), Ordering::Relaxed);
        Queue {
            watchers: AtomicU32::new(0),
            key_prefix: crate::index::key_prefix(&topic),
            topic,
            id,
            uid: context.next_uid.fetch_add(1, Ordering::Relaxed),
            next: AtomicI64::new(0),
            max: AtomicI64::new(0),
            min: AtomicI64::new(0),
            min_position: AtomicU64::new(0),
            first_file: AtomicU64::new(0),
            deleted: AtomicBool::new(false),
            has_leftovers: AtomicBool::new(false),
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

    /// A number no other queue of this process has.
    pub(crate) fn uid(&self) -> u64 {
        self.uid
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

    /// Gives an offset back after a failed write, in any order of several. Only under the append lock.
    pub(crate) fn give_back(&self, offset: i64) {
        self.next.fetch_min(offset, Ordering::AcqRel);
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
                // Without the filler the entry has no place: that is no shortage that passes.
                result = result.and(self.bridge(&mut tail, offset).map_err(io::Error::other));
                if tail.end() != offset {
                    continue;
                }
            }
            if offset == self.min.load(Ordering::Relaxed) {
                self.min_position.store(entry.physical_offset as u64, Ordering::Relaxed);
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
        if tail.end() == 0 && tail.bytes.is_empty() && offset <= MAX_OFFSET {
            let per_file = (self.context.file_size / UNIT as u64) as i64;
            tail.first = offset - offset % per_file;
            self.min.store(offset, Ordering::Release);
        }
        if offset - tail.end() > MAX_GAP || offset > MAX_OFFSET {
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
            file.write_sparse_at(&tail.bytes[tail.written..tail.written + n], at - start)?;
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
                    file::create_dir(&self.folder(), context.faults.as_ref())?;
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
}
