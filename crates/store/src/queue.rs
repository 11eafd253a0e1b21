//! One consume queue: where the messages of a topic's queue lie in the log, one entry for each record (`queue/unit.rs`).
//!
//! The newest entries live in a small buffer and are written to files of the configured size in pieces; readers see
//! buffer and files as one. An idle queue holds neither buffer nor descriptor. Everything here is derived from the log
//! and can be rebuilt from it.
//!
//! An entry's *index* tells its place in the files. In a simple queue it is the message's offset, in a batch queue it is
//! searched for ([`Queue::index_of`]).
//!
//! Three counters: `next` is given to the next appended message (owned by the append lock), `max` is the end of what
//! consumers see (owned by dispatch), `min` is the first entry whose message still exists.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use ferromq_protocol::topic::LITE_PREFIX;
use parking_lot::Mutex;

use crate::compaction::Compacted;
use crate::faults::Faults;
use crate::fd_cache::{FdCache, Touched};
use crate::file::{self, DataFile};
use crate::lmq;

mod expire;
mod find;
mod load;
mod rewrite;
mod saved;
mod unit;

pub(crate) use load::{queues_of, topics_in};
pub(crate) use saved::Saved;
pub use unit::CqEntry;
pub(crate) use unit::{Kind, MAX_UNIT};

/// Entries the buffer holds before it is written.
const BUFFERED: usize = 204;
/// Most filler entries written to bridge a gap in the offsets of a damaged log.
const MAX_GAP: i64 = 100_000_000;

/// Largest queue offset: the byte position of its entry is a file offset.
const MAX_OFFSET: i64 = i64::MAX / MAX_UNIT as i64 - 1_000_000_000;

/// Where the files of one kind of queues are.
pub(crate) struct Place {
    pub dir: PathBuf,
    /// Bytes of one file.
    pub file_size: u64,
}

/// What all queues of a store share.
pub(crate) struct Context {
    pub simple: Place,
    pub batch: Place,
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

impl Context {
    /// Where the files of a kind are.
    pub fn place(&self, kind: Kind) -> &Place {
        match kind {
            Kind::Simple => &self.simple,
            Kind::Batch => &self.batch,
        }
    }
}

/// A consume queue. Handles are shared; they stay valid after the topic is deleted but then lead nowhere.
pub struct Queue {
    /// How many pulls wait for this queue (one more for a lite topic); dispatch reports arrivals only while it is above zero.
    pub watchers: AtomicU32,
    topic: Arc<str>,
    id: u32,
    kind: Kind,
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
    /// Its copy, if its topic is compacted.
    compacted: OnceLock<Arc<Compacted>>,
    context: Arc<Context>,
}

/// The newest entries.
#[derive(Default)]
struct Tail {
    /// Entries from `first` on, encoded.
    bytes: Vec<u8>,
    /// Index of the first entry in `bytes`.
    first: i64,
    /// Bytes of `bytes` that are in the file.
    written: usize,
    /// Listed for the next flush.
    dirty: bool,
}

impl Tail {
    /// Index behind the last entry.
    fn end(&self, kind: Kind) -> i64 {
        self.first + (self.bytes.len() / kind.unit()) as i64
    }

    /// Drops what is buffered, since files have it.
    fn empty(&mut self, kind: Kind) {
        self.first = self.end(kind);
        self.bytes.clear();
        self.written = 0;
    }
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}[{}..{}]", self.topic, self.id, self.log_min(), self.max_offset())
    }
}

impl Queue {
    pub(crate) fn new(
        context: &Arc<Context>,
        topic: Arc<str>,
        id: u32,
        kind: Kind,
        compacted: Option<Arc<Compacted>>,
    ) -> Queue {
        context.lights.fetch_add(usize::from(lmq::is_light(&topic)), Ordering::Relaxed);
        Queue {
            watchers: AtomicU32::new(topic.starts_with(LITE_PREFIX).into()),
            key_prefix: crate::index::key_prefix(&topic),
            topic,
            id,
            kind,
            uid: context.next_uid.fetch_add(1, Ordering::Relaxed),
            next: AtomicI64::new(0),
            max: AtomicI64::new(0),
            min: AtomicI64::new(0),
            min_position: AtomicU64::new(0),
            first_file: AtomicU64::new(0),
            deleted: AtomicBool::new(false),
            has_leftovers: AtomicBool::new(false),
            tail: Mutex::default(),
            compacted: compacted.map_or_else(OnceLock::new, OnceLock::from),
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
        let of_copy = self.compacted().and_then(Compacted::first_offset);
        of_copy.unwrap_or_else(|| self.log_min())
    }

    /// Offset of the first message that is in the log.
    pub(crate) fn log_min(&self) -> i64 {
        self.min.load(Ordering::Acquire)
    }

    /// Whether outdated messages go and the newest of each key stays (`cleanup.policy=COMPACTION`).
    pub fn is_compacted(&self) -> bool {
        self.compacted.get().is_some()
    }

    pub(crate) fn compacted(&self) -> Option<&Compacted> {
        self.compacted.get().map(Arc::as_ref)
    }

    /// It is compacted from now on, unless it is already.
    pub(crate) fn set_compacted(&self, copy: Arc<Compacted>) {
        // Whoever was first made the same copy.
        let _ = self.compacted.set(copy);
    }

    /// One more than the offset of the last message consumers can read.
    pub fn max_offset(&self) -> i64 {
        self.max.load(Ordering::Acquire)
    }

    /// The offset the next message gets; beyond [`Queue::max_offset`] while messages are not dispatched.
    pub fn next_offset(&self) -> i64 {
        self.next.load(Ordering::Acquire)
    }

    /// Whether one entry may be several messages.
    pub fn is_batch(&self) -> bool {
        self.kind == Kind::Batch
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// Bytes of one entry.
    fn unit(&self) -> u64 {
        self.kind.unit() as u64
    }

    /// Bytes of one file.
    fn file_size(&self) -> u64 {
        self.context.place(self.kind).file_size
    }

    /// Entries of one file.
    pub(crate) fn per_file(&self) -> i64 {
        (self.file_size() / self.unit()) as i64
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

    /// Takes the next offset for a record of `messages`. Only under the append lock.
    pub(crate) fn take_next(&self, messages: i16) -> i64 {
        let offset = self.next.load(Ordering::Relaxed);
        self.next.store(offset + i64::from(messages), Ordering::Release);
        offset
    }

    /// Gives an offset back after a failed write, in any order of several. Only under the append lock.
    pub(crate) fn give_back(&self, offset: i64) {
        self.next.fetch_min(offset, Ordering::AcqRel);
    }

    /// After recovery: messages follow what is there.
    pub(crate) fn continue_after_recovery(&self) {
        let end = self.offset_at(self.end_index());
        self.max.store(end, Ordering::Release);
        self.next.store(end, Ordering::Release);
    }

    /// Adds entries in order and shows them to consumers; entries that are there already are skipped. `true` if the
    /// queue was clean before. An error means that a full buffer could not be written: the entries are kept in memory.
    pub(crate) fn put(&self, entries: impl Iterator<Item = CqEntry>) -> (bool, io::Result<()>) {
        let mut tail = self.tail.lock();
        let mut result = Ok(());
        let mut end = self.max.load(Ordering::Relaxed);
        for entry in entries {
            let offset = entry.queue_offset;
            if offset < end {
                continue;
            }
            if offset > end {
                // Without the filler the entry has no place: that is no shortage that passes.
                result = result.and(self.bridge(&mut tail, &mut end, offset).map_err(io::Error::other));
                if end != offset {
                    continue;
                }
            }
            if offset == self.min.load(Ordering::Relaxed) {
                self.min_position.store(entry.physical_offset as u64, Ordering::Relaxed);
            }
            entry.encode(self.kind, &mut tail.bytes);
            end += if self.is_batch() { i64::from(entry.messages) } else { 1 };
            if tail.bytes.len() >= BUFFERED * self.kind.unit() {
                match self.write(&mut tail) {
                    Ok(()) => tail.empty(self.kind),
                    Err(error) => result = Err(error),
                }
            }
        }
        self.max.store(end, Ordering::Release);
        (!std::mem::replace(&mut tail.dirty, true), result)
    }

    /// After recovery: a queue without entries goes on at `offset`.
    pub(crate) fn begin_at(&self, offset: i64) -> io::Result<()> {
        let mut end = self.max.load(Ordering::Relaxed);
        self.bridge(&mut self.tail.lock(), &mut end, offset)?;
        self.min.store(end, Ordering::Release);
        self.max.store(end, Ordering::Release);
        self.next.store(end, Ordering::Release);
        Ok(())
    }

    /// Makes `offset` follow on the queue's `end`, as the first of a queue without entries or behind messages that are
    /// lost. A simple queue has filler there: from the beginning of its file, or from the end on.
    fn bridge(&self, tail: &mut Tail, end: &mut i64, offset: i64) -> io::Result<()> {
        if tail.end(self.kind) == 0 && offset <= MAX_OFFSET {
            *end = offset - if self.is_batch() { 0 } else { offset % self.per_file() };
            tail.first = if self.is_batch() { 0 } else { *end };
            self.min.store(offset, Ordering::Release);
        }
        if offset - *end > MAX_GAP || offset > MAX_OFFSET {
            tracing::error!(topic = %self.topic, queue = self.id, offset, end, "a record's queue offset is far beyond the queue's end: the record is left out");
            return Ok(());
        }
        while *end < offset && !self.is_batch() {
            let blanks = (offset - *end).min(BUFFERED as i64);
            (0..blanks).for_each(|_| CqEntry::blank().encode(self.kind, &mut tail.bytes));
            *end += blanks;
            self.write(tail)?;
            tail.empty(self.kind);
        }
        *end = offset;
        Ok(())
    }

    /// Writes what the file lacks.
    fn write(&self, tail: &mut Tail) -> io::Result<()> {
        if self.deleted.load(Ordering::Acquire) {
            tail.written = tail.bytes.len();
        }
        while tail.written < tail.bytes.len() {
            let at = tail.first as u64 * self.unit() + tail.written as u64;
            let start = at - at % self.file_size();
            let file = self.file(start, true)?;
            let room = (start + self.file_size() - at) as usize;
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
            *tail = Tail { first: tail.end(self.kind), ..Tail::default() };
        }
    }

    fn folder(&self) -> PathBuf {
        self.context.place(self.kind).dir.join(&*self.topic).join(self.id.to_string())
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
                    DataFile::create_sparse(&path, self.file_size(), context.faults.as_ref())
                }
                other => other,
            }
        })
    }
}
