//! The threads for everything that can wait. `store-prepare` never waits for a sync of a file: the next log file, free
//! space, an index that lacked it, dispatch that a caller left. `store-checkpoint` may: consume queues to their files, the checkpoint, and
//! forcing both and the index to the disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::checkpoint::{Built, Times};
use crate::dispatch::Dispatcher;
use crate::failure::is_out_of_space;
use crate::fd_cache::SyncWork;
use crate::file;
use crate::mapped;
use crate::queue::Queue;
use crate::snapshot::{self, Taken, Writer};
use crate::space::queue_name;
use crate::store::Inner;

/// How often free space is looked at.
const SPACE_PERIOD: Duration = Duration::from_secs(1);
/// A checkpoint is written, or a snapshot taken, whenever the log has grown by this, or, when many queues have to be
/// looked at for it, by so much for each of them, at most a second's reading.
const CHECKPOINT_BYTES: u64 = 64 << 20;
const CHECKPOINT_BYTES_PER_QUEUE: u64 = 4 << 10;
const MAX_CHECKPOINT_BYTES: u64 = 1 << 30;
/// With more queues than this to be written, a snapshot of all takes the place of their files for a while.
pub(crate) const MANY_QUEUES: usize = 2048;
/// Until so many entries wait for their files (96 MB of memory),
const MAX_UNWRITTEN: i64 = 4_800_000;
/// or the log has grown by this: after a power cut, which snapshots do not outlive, it is read again,
const MAX_UNWRITTEN_LOG: u64 = 4 << 30;
/// or the files are so old.
const MAX_UNWRITTEN_TIME: Duration = Duration::from_secs(300);
/// A checkpoint that took long is followed by a pause so many times as long: with many queues it must stay a small part
/// of the work.
const CHECKPOINT_REST: u32 = 64;
/// Longest such pause.
const MAX_CHECKPOINT_PAUSE: Duration = Duration::from_secs(60);

/// Wakes one thread.
#[derive(Default)]
pub(crate) struct Bell {
    state: Mutex<BellState>,
    condition: Condvar,
}

#[derive(Default)]
struct BellState {
    rung: bool,
    stop: bool,
}

impl Bell {
    pub fn ring(&self) {
        self.state.lock().rung = true;
        self.condition.notify_one();
    }

    pub fn stop(&self) {
        self.state.lock().stop = true;
        self.condition.notify_one();
    }

    /// Sleeps until `end` or until it is rung; `true` when the thread is to end.
    pub fn wait(&self, end: Instant) -> bool {
        let mut state = self.state.lock();
        while !state.stop && !state.rung {
            if self.condition.wait_until(&mut state, end).timed_out() {
                break;
            }
        }
        state.rung = false;
        state.stop
    }
}

/// Signals to the two threads.
#[derive(Default)]
pub(crate) struct Background {
    prepare: Bell,
    segment_wanted: AtomicBool,
    dispatch_wanted: AtomicBool,
    checkpoint: Bell,
    checkpoint_wanted: AtomicBool,
    /// Position in the log at which a checkpoint is due whatever the time.
    checkpoint_due: AtomicU64,
}

impl Background {
    /// Asks for the next log file.
    pub fn want_segment(&self) {
        if !self.segment_wanted.swap(true, Ordering::Relaxed) {
            self.prepare.ring();
        }
    }

    /// Leaves dispatch to a thread of the store.
    pub fn want_dispatch(&self) {
        if !self.dispatch_wanted.swap(true, Ordering::Relaxed) {
            self.prepare.ring();
        }
    }

    /// Asks for a checkpoint if the log has grown enough: it bounds what a restart has to read.
    pub fn log_reached(&self, end: u64) {
        if end >= self.checkpoint_due.load(Ordering::Relaxed) && !self.checkpoint_wanted.swap(true, Ordering::Relaxed) {
            self.checkpoint.ring();
        }
    }

    /// A checkpoint is being made now that the log ends at `end`, for which so many queues have to be written.
    pub fn checkpoint_from(&self, end: u64, queues: usize) {
        let growth = CHECKPOINT_BYTES_PER_QUEUE.saturating_mul(queues as u64);
        let due = end + growth.clamp(CHECKPOINT_BYTES, MAX_CHECKPOINT_BYTES);
        self.checkpoint_due.store(due, Ordering::Relaxed);
        self.checkpoint_wanted.store(false, Ordering::Relaxed);
    }

    pub fn stop(&self) {
        self.prepare.stop();
        self.checkpoint.stop();
    }
}

/// What the last checkpoints said.
#[derive(Default)]
pub(crate) struct Progress {
    pub times: Times,
    pub durable: Built,
    pub written: Built,
    /// When that was written by this process or one just before it.
    pub written_at: Option<Instant>,
    /// How far the newest snapshot is.
    pub saved: Built,
    /// The newest snapshot, if it holds.
    pub snapshot: Option<Taken>,
    /// Queues whose buffers may be given back if nothing comes.
    pub warm: Vec<Arc<Queue>>,
}

impl Progress {
    /// Whether the files of the queues may wait: `built` is how far all is, `dirty` how many have entries they lack.
    fn allows_snapshot(&self, built: &Built, dirty: usize) -> bool {
        dirty > MANY_QUEUES
            && built.entries - self.written.entries < MAX_UNWRITTEN
            && built.position.saturating_sub(self.written.position) < MAX_UNWRITTEN_LOG
            && self.written_at.is_some_and(|at| at.elapsed() < MAX_UNWRITTEN_TIME)
    }
}

impl Inner {
    /// The preparing thread's life.
    pub fn run_prepare(&self) {
        let mut space_at = Instant::now();
        let (mut is_segment_missing, mut told_pages) = (false, 0);
        loop {
            if self.background.dispatch_wanted.swap(false, Ordering::Relaxed) {
                self.dispatch_for_others();
            }
            let mut wanted = self.background.segment_wanted.swap(false, Ordering::Relaxed);
            if Instant::now() >= space_at {
                self.check_space();
                space_at = Instant::now() + if self.resume_index() { Duration::ZERO } else { SPACE_PERIOD };
                told_pages = tell_lost_pages(told_pages);
                // What could not be made is tried again.
                wanted |= is_segment_missing;
            }
            if wanted {
                is_segment_missing = !self.prepare_segment();
            }
            if self.background.prepare.wait(space_at) {
                return;
            }
        }
    }

    /// The checkpoint thread's life.
    pub fn run_checkpoint(&self) {
        let write_every = Duration::from_millis(self.config.flush_interval_consume_queue.max(10));
        let sync_every = Duration::from_millis(self.config.durable_checkpoint_interval.max(10));
        let (mut write_at, mut sync_at) = (Instant::now() + write_every, Instant::now() + sync_every);
        while !self.background.checkpoint.wait(write_at) {
            let began = Instant::now();
            let durable = began >= sync_at;
            self.save(durable);
            let rest = (began.elapsed() * CHECKPOINT_REST).min(MAX_CHECKPOINT_PAUSE);
            write_at = began + write_every.max(rest);
            if durable {
                sync_at = began + sync_every.max(rest);
            }
        }
    }

    /// Whether the next log file is there, or not yet needed.
    fn prepare_segment(&self) -> bool {
        let prepared = self.log.prepare();
        self.log_file_made(&prepared);
        if let Err(error) = &prepared {
            // The append that needs the file tries again, and refuses if that fails too.
            tracing::warn!(
                "the next commit log file cannot be prepared: {error}; free space before the current one is full"
            );
        }
        prepared.is_ok()
    }

    /// Writes queues and checkpoint if anything changed. `durable`: and forces them to the disk.
    pub fn checkpoint(&self, durable: bool) {
        if self.failure.is_set() {
            return;
        }
        if let Err(error) = self.try_checkpoint(durable) {
            self.fail("writing consume queues or checkpoint", &error);
        }
    }

    /// What is done from time to time: a checkpoint, or a snapshot in its place while very many queues would have to be
    /// written for it.
    pub fn save(&self, durable: bool) {
        if self.failure.is_set() {
            return;
        }
        let mut progress = self.progress.lock();
        let (built, dirty) = {
            let d = self.dispatcher.lock();
            (self.built(&d), d.dirty.len())
        };
        self.dispatch_for_others();
        if !progress.allows_snapshot(&built, dirty) {
            drop(progress);
            return self.checkpoint(durable);
        }
        self.background.checkpoint_from(self.log.end(), dirty);
        if progress.saved != built
            && let Err(error) = self.take_snapshot(&mut progress, durable)
        {
            self.fail("writing a snapshot of the queues", &error);
        }
    }

    fn built(&self, d: &Dispatcher) -> Built {
        Built { position: d.position, entries: d.entries, index: self.index.mark(), timestamp: d.timestamp }
    }

    /// Saves the state of all queues. Without room there is none, and the next time the files are written, which says so.
    fn take_snapshot(&self, progress: &mut Progress, durable: bool) -> std::io::Result<()> {
        let (root, faults) = (&self.config.root, self.context.faults.as_ref());
        let begun = Writer::begin(root, progress.snapshot, faults);
        let taken = begun.and_then(|writer| {
            let built = self.built(&self.dispatcher.lock());
            self.dispatch_for_others();
            let mut queues = self.all_queues();
            queues.retain(|queue| queue.max_offset() > 0);
            progress.saved = built;
            writer.write(&progress.written, &built, &queues, durable)
        });
        match taken {
            Ok(taken) => progress.snapshot = Some(taken),
            Err(error) if is_out_of_space(&error) => return self.forget_snapshot(progress),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// The snapshots there are hold no longer.
    pub fn forget_snapshot(&self, progress: &mut Progress) -> std::io::Result<()> {
        progress.snapshot = None;
        progress.written_at = None;
        snapshot::remove(&self.config.root, self.context.faults.as_ref())
    }

    fn try_checkpoint(&self, durable: bool) -> std::io::Result<()> {
        let mut progress = self.progress.lock();
        let progress = &mut *progress;
        let (built, timestamp, index_timestamp, dirty) = {
            let mut d = self.dispatcher.lock();
            (self.built(&d), d.timestamp, self.index.end_timestamp(), std::mem::take(&mut d.dirty))
        };
        self.background.checkpoint_from(self.log.end(), dirty.len());
        self.dispatch_for_others();
        for queue in progress.warm.drain(..) {
            queue.cool();
        }
        for (n, queue) in dirty.iter().enumerate() {
            if let Err(error) = queue.flush() {
                self.derived_write_failed(&queue_name(queue), &error);
                // What is not written stays in memory, and on the list.
                self.dispatcher.lock().dirty.extend(dirty[n..].iter().cloned());
                self.dispatch_for_others();
                return Ok(());
            }
        }
        progress.warm = dirty;
        let behind = progress.durable != built || progress.times.physic != self.log.flushed_timestamp();
        if !(durable && behind) && progress.written == built {
            self.derived_files_are_written();
            return Ok(());
        }
        let (mut on_disk, mut times) = (progress.durable, progress.times);
        if durable {
            self.sync_built(&built)?;
            on_disk = built;
            times.logics = timestamp;
            times.index = index_timestamp;
            times.physic = self.log.flushed_timestamp();
        }
        let snapshot = progress.snapshot.map_or(0, |taken| taken.at);
        if let Err(error) = self.checkpoint.write(&times, &on_disk, &built, snapshot) {
            self.derived_write_failed("the checkpoint", &error);
            return Ok(());
        }
        if durable {
            self.checkpoint.sync()?;
        }
        (progress.durable, progress.times, progress.written) = (on_disk, times, built);
        progress.written_at = Some(Instant::now());
        self.derived_files_are_written();
        if progress.warm.len() > MANY_QUEUES || (progress.snapshot.is_none() && self.queue_count() > MANY_QUEUES) {
            self.take_snapshot(progress, durable)?;
        }
        Ok(())
    }

    /// Forces to the disk what is built of `built`, and the log it was built from.
    fn sync_built(&self, built: &Built) -> std::io::Result<()> {
        if self.log.flushed() < built.position {
            self.log.sync()?;
        }
        let work = self.context.touched.lock().take();
        match work {
            SyncWork::Files(files) => files.iter().try_for_each(|file| file.sync())?,
            SyncWork::FileSystem => {
                file::sync_volume(&self.config.root, self.context.faults.as_ref())?;
            }
        }
        self.index.sync()
    }
}

/// Says when mapped files could not be read; how many pages were told of.
fn tell_lost_pages(told: u64) -> u64 {
    let lost = mapped::lost_pages();
    if lost > told {
        tracing::error!(
            pages = lost,
            "the disk cannot read pages of commit log or index: their messages are left out; look at the kernel's log, and replace the disk"
        );
    }
    lost
}
