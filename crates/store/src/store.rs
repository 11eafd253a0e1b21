//! The store: its parts, its threads, and what the broker calls.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use parking_lot::{Mutex, RwLock};

use crate::append::AppendBatch;
use crate::background::{Background, MANY_QUEUES, Progress};
use crate::check;
use crate::checkpoint::Checkpoint;
use crate::commit_log::CommitLog;
use crate::compaction::Compaction;
use crate::config::{FlushMode, StoreConfig};
use crate::damage::Damaged;
use crate::dispatch::{Arrival, Dispatcher, Pending};
use crate::error::{AppendError, OpenError};
use crate::failure::Failure;
use crate::fd_cache::FdCache;
use crate::file;
use crate::flush::{Durability, Flusher};
use crate::index::{Index, IndexHits, Shape};
use crate::instance::Instance;
use crate::queue::{Context, CqEntry, Kind, Place, Queue};
use crate::read::{Boundary, ReadOutcome};
use crate::retention::Cleaner;
use crate::space::Shortage;

/// Room for topic and properties above the largest body, bytes (RocketMQ's `MessageExtEncoder`).
const RECORD_EXTRA: u64 = 64 * 1024;

/// Called when messages of watched queues become visible.
pub(crate) type Listener = Arc<dyn Fn(&Arrival<'_>) + Send + Sync>;

/// A topic's queues by number.
pub(crate) type Queues = BTreeMap<u32, Arc<Queue>>;

/// What the store's threads and callers share.
pub(crate) struct Inner {
    pub config: StoreConfig,
    pub context: Arc<Context>,
    pub log: CommitLog,
    pub index: Index,
    pub checkpoint: Checkpoint,
    pub progress: Mutex<Progress>,
    pub pending: Mutex<Pending>,
    pub dispatcher: Mutex<Dispatcher>,
    /// Position up to which messages are in queues and index; no thread is at work before it.
    pub dispatched: AtomicU64,
    pub flusher: Flusher,
    pub background: Background,
    pub cleaner: Cleaner,
    pub shortage: Shortage,
    pub failure: Failure,
    pub damaged: Damaged,
    pub listener: Listener,
    pub after_dispatch: OnceLock<Box<dyn Fn() + Send + Sync>>,
    pub is_disk_full: AtomicBool,
    pub disk_full: Mutex<Option<String>>,
    /// Distance from the end of the log within which data counts as recent, bytes.
    pub recent_bytes: u64,
    pub topics: RwLock<HashMap<Arc<str>, Queues>>,
    /// Topics whose queues are batch queues.
    pub batch_topics: RwLock<HashSet<String>>,
    pub compaction: Compaction,
    pub closing: AtomicBool,
}

impl Inner {
    /// Position up to which consumers may see messages.
    pub fn visible(&self) -> u64 {
        if self.is_sync_flush() { self.log.flushed() } else { self.log.end() }
    }

    pub fn is_sync_flush(&self) -> bool {
        self.config.flush_disk_type == FlushMode::Sync
    }
}

/// A log store. All methods may be called from any thread and none of them waits for another's disk write, except
/// [`Store::append`] for the append before it.
pub struct Store {
    pub(crate) inner: Arc<Inner>,
    instance: Instance,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Store {
    /// Takes the folder, recovers, and starts the threads. `listener` is told of messages that become visible in queues
    /// with watchers, on the thread that dispatches.
    pub fn open(config: StoreConfig, listener: Arc<dyn Fn(&Arrival<'_>) + Send + Sync>) -> Result<Store, OpenError> {
        config.check()?;
        let faults = config.faults.as_ref();
        let root = &config.root;
        if let Some(folder) = check::rocksdb_folder(root).map_err(OpenError::io("list", root))? {
            return Err(OpenError::RocksDb { folder });
        }
        let instance = Instance::enter(root, faults)?;
        let log_dir = root.join("commitlog");
        file::create_dir_durable(&log_dir, faults).map_err(OpenError::io("make the folder", &log_dir))?;
        let log = CommitLog::open(&log_dir, config.mapped_file_size_commit_log, faults)?;
        instance.mark_running()?;
        let (checkpoint, loaded) =
            Checkpoint::open(root, faults).map_err(OpenError::io("open the checkpoint in", root))?;
        let index_dir = root.join("index");
        let clean = instance.was_stopped_cleanly;
        let index = Index::open(
            &index_dir,
            Shape { slots: config.max_hash_slot_num, entries: config.max_index_num },
            config.message_index_enable,
            faults,
            clean || loaded.trusted,
            loaded.built.map(|b| b.index),
            loaded.times.index,
        )
        .map_err(OpenError::io("open the index in", &index_dir))?;
        let place = |kind: Kind| Place { dir: root.join(kind.folder()), file_size: config.queue_file_size(kind) };
        let context = Context {
            simple: place(Kind::Simple),
            batch: place(Kind::Batch),
            faults: config.faults.clone(),
            files: FdCache::default(),
            touched: Mutex::default(),
            max_body: config.max_message_size,
            max_record: (config.max_message_size as u64 + RECORD_EXTRA).min(config.mapped_file_size_commit_log - 8),
            max_stored: config.mapped_file_size_commit_log - 8,
            index: config.message_index_enable,
            multi_dispatch: config.multi_dispatch,
            lights: AtomicUsize::new(0),
            delays: config.delays(),
            next_uid: AtomicU64::new(0),
        };
        let inner = Arc::new(Inner {
            context: Arc::new(context),
            log,
            index,
            checkpoint,
            progress: Mutex::new(Progress {
                times: loaded.times,
                durable: loaded.durable.unwrap_or_default(),
                ..Progress::default()
            }),
            pending: Mutex::default(),
            dispatcher: Mutex::default(),
            dispatched: AtomicU64::new(0),
            flusher: Flusher::default(),
            background: Background::default(),
            cleaner: Cleaner::default(),
            shortage: Shortage::default(),
            failure: Failure::default(),
            damaged: Damaged::default(),
            listener,
            after_dispatch: OnceLock::new(),
            is_disk_full: AtomicBool::new(false),
            disk_full: Mutex::default(),
            recent_bytes: config.recent_bytes(),
            topics: RwLock::default(),
            batch_topics: RwLock::new(config.batch_topics.clone()),
            compaction: Compaction::new(&config),
            closing: AtomicBool::new(false),
            config,
        });
        let rebuilt = inner.recover(clean, &loaded)?;
        // After the death of the process alone the kernel has all it wrote: records before their entries.
        inner
            .open_compaction(clean || loaded.trusted)
            .map_err(OpenError::io("open the compacted topics of", &inner.config.root))?;
        let store = Store { inner, instance, threads: Mutex::default() };
        // The files of very many queues take longer than to build them once more after another kill.
        let rebuilt = rebuilt && store.inner.queue_count() <= MANY_QUEUES;
        if rebuilt || (!clean && store.inner.is_sync_flush()) {
            store.inner.checkpoint(true);
        }
        // Else what a kill left is in the kernel: the checkpoint thread follows, and nobody waits for it.
        store.inner.background.checkpoint_from(store.inner.log.end(), 0);
        store.inner.check_space();
        store.start("store-flush", |inner| inner.run_flush())?;
        if store.is_sync_flush() {
            store.start("store-expire", |inner| inner.flusher.run_expire())?;
        }
        store.start("store-prepare", |inner| inner.run_prepare())?;
        store.start("store-checkpoint", |inner| inner.run_checkpoint())?;
        store.start("store-clean", |inner| inner.run_cleaner())?;
        if store.inner.config.enable_compaction {
            store.start("store-compact", |inner| inner.run_compaction())?;
        }
        Ok(store)
    }

    fn start(&self, name: &'static str, run: impl FnOnce(&Arc<Inner>) + Send + 'static) -> Result<(), OpenError> {
        let inner = Arc::clone(&self.inner);
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || run(&inner));
        let thread = thread.map_err(OpenError::io("start a thread for", &self.inner.config.root))?;
        self.threads.lock().push(thread);
        Ok(())
    }

    /// Appends the batch, all messages or none: one critical section, one write for each log file. Under ASYNC_FLUSH
    /// `Ok` is the acknowledgement; under SYNC_FLUSH [`Store::when_durable`] gives it.
    pub fn append(&self, batch: &mut AppendBatch) -> Result<(), AppendError> {
        self.inner.append(batch)
    }

    /// Calls `waiter` when the log is on the disk up to `position`, or will not be. At once if that is known already,
    /// else on the flush thread, which must not be kept.
    pub fn when_durable(&self, position: u64, waiter: Box<dyn FnOnce(Durability) + Send>) {
        self.inner.when_durable(position, waiter);
    }

    /// Builds queues and index from what was appended and may be seen. Never waits: when another thread is at it, that
    /// thread does this one's work too.
    pub fn dispatch(&self) {
        self.inner.dispatch();
    }

    /// Sets what threads of the store call after they have dispatched: the flush thread under SYNC_FLUSH, and whoever
    /// kept a caller from dispatching. Once.
    pub fn set_after_dispatch(&self, after: impl Fn() + Send + Sync + 'static) {
        if self.inner.after_dispatch.set(Box::new(after)).is_err() {
            tracing::warn!("what follows dispatch is set already");
        }
    }

    /// Appends records of `queue` from `offset` on to `out`, byte for byte: those whose entry passes `filter`, at most
    /// `max_messages` and `max_bytes` and what the settings allow for recent and old data, at least one if there is any.
    pub fn read(
        &self,
        queue: &Queue,
        offset: i64,
        max_messages: u32,
        max_bytes: u32,
        filter: &mut dyn FnMut(&CqEntry) -> bool,
        out: &mut Vec<u8>,
    ) -> ReadOutcome {
        match queue.compacted() {
            None => self.inner.read(queue, offset, max_messages, max_bytes, filter, out),
            Some(copy) => self.inner.read_compacted((queue, copy), offset, (max_messages, max_bytes), filter, out),
        }
    }

    /// The entry of a queue at `offset`, if consumers can see it. That of a compacted queue may lead to its copy: see
    /// [`Store::look_entry`].
    pub fn entry(&self, queue: &Queue, offset: i64) -> Option<CqEntry> {
        match queue.compacted() {
            None => queue.entry(offset).filter(|entry| !entry.is_blank()),
            Some(copy) => self.inner.compacted_entry(queue, copy, offset),
        }
    }

    /// The entry of a queue at `offset` or, across a hole, the next one: all of a hole in a compacted queue's copy, the
    /// first 1,024 offsets of one that a damaged log has left.
    pub fn next_entry(&self, queue: &Queue, offset: i64) -> Option<CqEntry> {
        self.inner.next_entry(queue, offset)
    }

    /// Offset of the first message stored at or after `time_ms` ([`Boundary::Lower`], the queue's end if there is none)
    /// or of the last one stored at or before it ([`Boundary::Upper`], 0 if there is none).
    pub fn search_by_time(&self, queue: &Queue, time_ms: i64, boundary: Boundary) -> i64 {
        self.inner.search_by_time(queue, time_ms, boundary)
    }

    /// When the message at `offset` was stored, milliseconds since 1970.
    pub fn store_time(&self, queue: &Queue, offset: i64) -> Option<i64> {
        self.inner.store_time(queue, offset)
    }

    /// When the first message of the queue was stored, milliseconds since 1970.
    pub fn earliest_store_time(&self, queue: &Queue) -> Option<i64> {
        self.inner.store_time(queue, queue.min_offset())
    }

    /// Whether the message at `offset` is recent enough to be in memory.
    pub fn is_in_memory(&self, queue: &Queue, offset: i64) -> bool {
        self.inner.is_in_memory(queue, offset)
    }

    /// Positions of records with the key, newest first, stored between `begin` and `end` (milliseconds since 1970, to the
    /// second), at most `max`. Topic and key were compared.
    pub fn query_index(&self, topic: &str, key: &str, max: u32, begin: i64, end: i64) -> IndexHits {
        let inner = &self.inner;
        inner.index.query(topic, key, max as usize, (begin, end), &mut |offset| inner.has_key(offset, topic, key))
    }

    /// Forgets a topic's queues and removes their files. The records stay in the log until it expires.
    pub fn delete_topic(&self, topic: &str) -> std::io::Result<()> {
        self.inner.end_topic(topic, Kind::Simple, |_| true)
    }

    /// Lets the store delete log files that are old enough, whatever the hour. Returns at once; a thread of the store
    /// does it.
    pub fn delete_expired_log_files(&self) {
        self.inner.cleaner.ask();
    }

    /// Removes files of queues and index that point below the log; how many consume queue files went. The queues keep
    /// their ends: an offset is never used twice.
    pub fn clean_expired_queues(&self) -> usize {
        self.inner.expire_all()
    }

    /// Forces log, queues and index to the disk and notes how far they are; the threads do this by themselves.
    pub fn checkpoint_now(&self) {
        self.inner.checkpoint(true);
    }

    /// When the last message was stored, milliseconds since 1970; 0 in an empty log.
    pub fn last_store_timestamp(&self) -> i64 {
        self.inner.log.last_timestamp()
    }

    /// Position of the first byte of the log.
    pub fn min_physical_offset(&self) -> u64 {
        self.inner.log.start()
    }

    /// Position behind the last byte of the log.
    pub fn max_physical_offset(&self) -> u64 {
        self.inner.log.end()
    }

    /// Position up to which the log is on the disk.
    pub fn flushed_position(&self) -> u64 {
        self.inner.log.flushed()
    }

    /// Bytes of log that consumers may see but that are not in queues and index yet (RocketMQ's `dispatchBehindBytes`).
    pub fn dispatch_behind_bytes(&self) -> u64 {
        self.inner.visible().saturating_sub(self.inner.dispatched.load(Ordering::Acquire))
    }

    /// Records that were found damaged when they were to be read.
    pub fn damaged_records(&self) -> usize {
        self.inner.damaged.count()
    }

    /// Bytes of the log that are not on the disk yet.
    pub fn unflushed_bytes(&self) -> u64 {
        self.inner.log.end().saturating_sub(self.inner.log.flushed())
    }

    /// Whether a message is acknowledged only when it is on the disk.
    pub fn is_sync_flush(&self) -> bool {
        self.inner.is_sync_flush()
    }

    /// Why nothing can be appended, if that is so.
    pub fn write_error(&self) -> Option<AppendError> {
        self.inner.check_writeable().err()
    }

    /// Ends the threads after a last flush and checkpoint; nothing is appended afterwards. Again: does nothing.
    pub fn shutdown(&self) {
        if self.inner.closing.swap(true, Ordering::AcqRel) {
            return;
        }
        // An append that passed the check before is waited for.
        drop(self.inner.log.tail.lock());
        self.inner.flusher.stop();
        self.inner.background.stop();
        self.inner.cleaner.stop();
        self.inner.compaction.stop();
        for thread in self.threads.lock().drain(..) {
            if thread.join().is_err() {
                self.inner.fail("a thread of the store", &"it panicked");
            }
        }
        self.inner.dispatch_now();
        self.inner.checkpoint(true);
        let is_copied = self.inner.is_copied(self.inner.log.end());
        if !is_copied || self.inner.failure.is_set() || self.inner.shortage.derived.lock().is_some() {
            return;
        }
        if let Err(error) = self.instance.leave_cleanly() {
            tracing::warn!("the abort file cannot be removed: {error}; the next start recovers as after a crash");
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.shutdown();
    }
}
