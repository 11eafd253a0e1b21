//! The compacted copy of one queue: its pairs of files, and how messages come to them.
//!
//! The last pair is written to, all before it are full. Two threads may copy the same messages: what is there is passed
//! over. Readers take the list of pairs as it is at one moment, and a pass replaces pairs at its beginning (`pass.rs`).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};

use ferromq_protocol::record::Record;
use parking_lot::{Mutex, RwLock};

use super::pair::{Pair, Pairs, seek};
use super::writer::Writer;
use super::{Places, has_key};
use crate::queue::CqEntry;

/// The compacted copy of a queue.
pub(crate) struct Compacted {
    pub(super) places: Arc<Places>,
    pub(super) topic: Arc<str>,
    pub(super) queue_id: u32,
    /// Folders of records and of entries.
    pub(super) log: PathBuf,
    pub(super) queue: PathBuf,
    /// Of a file of records and one of entries, bytes: what the first ones have.
    sizes: OnceLock<[u64; 2]>,
    pairs: RwLock<Pairs>,
    /// Where the last pair goes on; `None` until it is needed, and after an error.
    pub(super) writer: Mutex<Option<Writer>>,
    /// Queue offset up to which messages were looked at.
    end: AtomicI64,
    /// The same of what is on the disk.
    durable: AtomicI64,
    /// Queue offset of the first message, -1 without any.
    first: AtomicI64,
    deleted: AtomicBool,
    /// The disk could not read all of it at the start: it is neither written to nor passed over.
    pub(super) unreadable: AtomicBool,
    /// Held by the one who replaces pairs, or takes all away.
    pub(super) replacing: Mutex<()>,
    /// Work on it failed the last time.
    pub(super) is_stuck: AtomicBool,
    /// Queue offset of the damaged record that was told of last.
    told: AtomicI64,
}

impl Compacted {
    pub fn new(places: &Arc<Places>, topic: Arc<str>, queue_id: u32) -> Compacted {
        let folder = |root: &PathBuf| root.join(&*topic).join(queue_id.to_string());
        Compacted {
            log: folder(&places.log),
            queue: folder(&places.queue),
            places: Arc::clone(places),
            topic,
            queue_id,
            sizes: OnceLock::new(),
            pairs: RwLock::default(),
            writer: Mutex::default(),
            end: AtomicI64::new(0),
            durable: AtomicI64::new(0),
            first: AtomicI64::new(-1),
            deleted: AtomicBool::new(false),
            unreadable: AtomicBool::new(false),
            replacing: Mutex::default(),
            is_stuck: AtomicBool::new(false),
            told: AtomicI64::new(-1),
        }
    }

    /// Folders of its files of records and of entries.
    pub fn folders(&self) -> [&Path; 2] {
        [&self.log, &self.queue]
    }

    /// Its topic and the number of its queue.
    pub fn name(&self) -> (&str, u32) {
        (&self.topic, self.queue_id)
    }

    /// Bytes of a file of records and of one of entries. RocketMQ does not open files of different sizes, so a queue keeps
    /// those it has, whatever the settings say later.
    pub(super) fn sizes(&self) -> [u64; 2] {
        *self.sizes.get_or_init(|| self.places.sizes)
    }

    /// Takes over the sizes of files that are there.
    pub(super) fn keep_sizes(&self, sizes: [u64; 2]) {
        if *self.sizes.get_or_init(|| sizes) != self.places.sizes {
            tracing::warn!(
                ?sizes,
                "the compacted queue {self:?} keeps the sizes of its files: compactionMappedFileSize and compactionCqMappedFileSize count for new queues"
            );
        }
    }

    /// Queue offset behind the last message that was looked at: what is before it is read here, the rest in the log.
    pub fn end(&self) -> i64 {
        self.end.load(Ordering::Acquire)
    }

    /// The same of what is on the disk.
    pub fn durable_end(&self) -> i64 {
        self.durable.load(Ordering::Acquire)
    }

    /// Queue offset of the first message, if there is one.
    pub fn first_offset(&self) -> Option<i64> {
        Some(self.first.load(Ordering::Acquire)).filter(|first| *first >= 0)
    }

    pub fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Acquire)
    }

    /// Whether nobody waits for a pass any more.
    pub fn is_given_up(&self) -> bool {
        self.is_deleted() || self.places.is_closing.load(Ordering::Acquire)
    }

    /// An error when the disk could not read it at the start: then nobody knows what it has.
    pub(super) fn check_readable(&self) -> io::Result<()> {
        match self.unreadable.load(Ordering::Relaxed) {
            false => Ok(()),
            true => Err(io::Error::other(
                "the disk could not read it at the start; look at the kernel's log, replace the disk, and start again",
            )),
        }
    }

    /// The pairs as they are.
    pub fn pairs(&self) -> Pairs {
        Arc::clone(&self.pairs.read())
    }

    /// Position behind the last message.
    pub fn end_position(&self) -> io::Result<i64> {
        let last = self.pairs().iter().rev().find_map(|pair| pair.last().transpose()).transpose()?;
        Ok(last.map_or(0, |entry| entry.physical_offset + i64::from(entry.size)))
    }

    /// The entry of the message at `offset`, or of the first behind it.
    pub fn entry_from(&self, offset: i64) -> io::Result<Option<(Arc<Pair>, CqEntry)>> {
        let pairs = self.pairs();
        let (pair, index) = seek(&pairs, offset)?;
        let Some(pair) = pairs.get(pair) else { return Ok(None) };
        Ok(pair.entry(index)?.map(|entry| (Arc::clone(pair), entry)))
    }

    /// Shows the record of the message at `offset`.
    pub fn look<R>(&self, offset: i64, f: impl FnOnce(&Record<'_>) -> R) -> io::Result<Option<R>> {
        let found = self.entry_from(offset)?.filter(|(_, entry)| entry.queue_offset == offset);
        let Some((pair, entry)) = found else { return Ok(None) };
        let record = pair.record(&entry)?;
        if record.is_none() {
            self.tell_damage(&pair, &entry);
        }
        Ok(record.as_ref().map(f))
    }

    /// Adds messages in order; those that are there and those without a key are passed over. `end`: queue offset behind
    /// the last one that was looked at. After an error, what was added before it may be there.
    pub fn append<'a>(&self, records: impl Iterator<Item = Record<'a>>, end: i64) -> io::Result<()> {
        self.check_readable()?;
        let mut writer = self.writer.lock();
        if self.is_deleted() {
            return Ok(());
        }
        let added = self.add(&mut writer, records, end);
        if added.is_err() {
            *writer = None;
        }
        added
    }

    fn add<'a>(
        &self,
        writer: &mut Option<Writer>,
        records: impl Iterator<Item = Record<'a>>,
        end: i64,
    ) -> io::Result<()> {
        let mut done = self.end();
        for record in records.filter(|record| has_key(record)) {
            if record.queue_offset() < done {
                continue;
            }
            let writer = self.writer_for(writer, record.bytes().len(), done)?;
            writer.add(&record)?;
            done = record.queue_offset() + 1;
        }
        if let Some(writer) = writer {
            writer.write()?;
            self.publish(writer, done);
        }
        self.end.fetch_max(end, Ordering::AcqRel);
        Ok(())
    }

    /// The writer of a pair that has room for a record of `len` bytes, behind the messages before `done`.
    fn writer_for<'a>(&self, slot: &'a mut Option<Writer>, len: usize, done: i64) -> io::Result<&'a mut Writer> {
        if slot.is_none() {
            *slot = self.reopen()?;
        }
        if let Some(full) = slot.as_mut().filter(|writer| !writer.has_room(len)) {
            full.seal()?;
            self.publish(full, done);
            self.durable.fetch_max(done, Ordering::AcqRel);
            let next = full.end_of_files().next_multiple_of(self.sizes()[0]);
            *slot = Some(self.begin(next)?);
        }
        let writer = match slot.take() {
            Some(writer) => writer,
            None => self.begin(0)?,
        };
        Ok(slot.insert(writer))
    }

    /// Goes on with the last pair.
    fn reopen(&self) -> io::Result<Option<Writer>> {
        let pairs = self.pairs();
        let Some(pair) = pairs.last() else { return Ok(None) };
        let end = match pair.last()? {
            None => 0,
            Some(last) => match pair.record(&last)? {
                Some(record) => last.physical_offset as u64 - pair.base + record.bytes().len() as u64,
                // Nobody knows where it ends: to write there could be to write over messages.
                None => return Err(io::Error::other("its last message cannot be read; look at the kernel's log")),
            },
        };
        let paths = [pair.log_path(), pair.queue_path()];
        Writer::open(paths, pair.base, pair.count(), end, self.places.faults.as_ref()).map(Some)
    }

    fn begin(&self, base: u64) -> io::Result<Writer> {
        let faults = self.places.faults.as_ref();
        let writer = Writer::create([&self.log, &self.queue], base, self.sizes(), faults)?;
        let pair = Pair::new(&self.log, &self.queue, base, 0);
        let mut pairs = self.pairs.write();
        *pairs = Arc::new(pairs.iter().cloned().chain([Arc::new(pair)]).collect());
        Ok(writer)
    }

    /// Shows what the writer has written of the last pair; it ends before the queue offset `done`.
    fn publish(&self, writer: &Writer, done: i64) {
        let pairs = self.pairs();
        if let Some(last) = pairs.last() {
            last.publish(writer.count().saturating_sub(last.count()));
        }
        self.end.fetch_max(done, Ordering::AcqRel);
        if self.first_offset().is_none() {
            self.note_first(&pairs);
        }
    }

    /// The pairs have changed at their beginning.
    fn note_first(&self, pairs: &[Arc<Pair>]) {
        let first = pairs.iter().find_map(|pair| pair.first().ok().flatten());
        self.first.store(first.map_or(-1, |entry| entry.queue_offset), Ordering::Release);
    }

    /// Forces to the disk what was added.
    pub fn sync(&self) -> io::Result<()> {
        let mut writer = self.writer.lock();
        let end = self.end();
        if self.durable_end() >= end || self.is_deleted() {
            return Ok(());
        }
        if writer.is_none() {
            *writer = self.reopen()?;
        }
        if let Some(writer) = &*writer {
            writer.sync()?;
        }
        self.durable.fetch_max(end, Ordering::AcqRel);
        Ok(())
    }

    /// Gives handles back while nothing comes. What was written with them is on the disk then, or its loss is noticed.
    pub fn rest(&self) -> io::Result<()> {
        self.sync()?;
        *self.writer.lock() = None;
        Ok(())
    }

    /// Takes pairs over as they were found on the disk; what is in them is durable.
    pub(super) fn take_over(&self, pairs: Vec<Arc<Pair>>) -> io::Result<()> {
        let last = pairs.iter().rev().find_map(|pair| pair.last().transpose()).transpose()?;
        let end = last.map_or(0, |entry| entry.end());
        self.note_first(&pairs);
        *self.pairs.write() = Arc::new(pairs);
        self.end.store(end, Ordering::Release);
        self.durable.store(end, Ordering::Release);
        Ok(())
    }

    /// Puts pairs in the place of the first `count`.
    pub(super) fn replace(&self, count: usize, new: Vec<Arc<Pair>>) {
        let mut pairs = self.pairs.write();
        *pairs = Arc::new(new.into_iter().chain(pairs.iter().skip(count).cloned()).collect());
        self.note_first(&pairs);
    }

    /// Ends all work on the files, which somebody is going to remove.
    pub fn delete(&self) {
        self.deleted.store(true, Ordering::Release);
        let _replacing = self.replacing.lock();
        *self.writer.lock() = None;
        *self.pairs.write() = Arc::default();
        self.first.store(-1, Ordering::Release);
    }

    /// Says that a read failed, once for the same offset.
    pub fn tell_unreadable(&self, offset: i64, error: &io::Error) {
        if self.told.swap(offset, Ordering::Relaxed) != offset {
            tracing::error!("the compacted queue {self:?} cannot be read at {offset}: {error}");
        }
    }

    /// Says that a record cannot be read, once for the same.
    pub fn tell_damage(&self, pair: &Pair, entry: &CqEntry) {
        if self.told.swap(entry.queue_offset, Ordering::Relaxed) != entry.queue_offset {
            tracing::error!(
                path = %pair.log_path().display(), position = entry.physical_offset, size = entry.size, queue_offset = entry.queue_offset,
                "a record of a compacted queue is damaged; it is left out"
            );
        }
    }
}

impl std::fmt::Debug for Compacted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.topic, self.queue_id)
    }
}
