//! The thread for everything that can wait (`store-prepare`): the next log file, consume queues to their files, the
//! checkpoint, free space, waiters whose time is over.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::checkpoint::{Built, Times};
use crate::fd_cache::SyncWork;
use crate::file;
use crate::queue::Queue;
use crate::store::Inner;

/// How often free space is looked at.
const SPACE_PERIOD: Duration = Duration::from_secs(1);
/// Longest sleep.
const MAX_SLEEP: Duration = Duration::from_secs(1);
/// A checkpoint is written whenever the log has grown by this.
const CHECKPOINT_BYTES: u64 = 64 << 20;

/// Signals to the background thread.
#[derive(Default)]
pub(crate) struct Background {
    state: Mutex<bool>,
    condition: Condvar,
    segment_wanted: AtomicBool,
    checkpoint_wanted: AtomicBool,
    /// Position in the log at which a checkpoint is due whatever the time.
    checkpoint_due: AtomicU64,
}

impl Background {
    /// Asks for the next log file.
    pub fn want_segment(&self) {
        if !self.segment_wanted.swap(true, Ordering::Relaxed) {
            let _state = self.state.lock();
            self.condition.notify_one();
        }
    }

    /// Asks for a checkpoint if the log has grown enough: it bounds what a restart has to read.
    pub fn log_reached(&self, end: u64) {
        if end >= self.checkpoint_due.load(Ordering::Relaxed) && !self.checkpoint_wanted.swap(true, Ordering::Relaxed) {
            let _state = self.state.lock();
            self.condition.notify_one();
        }
    }

    /// A checkpoint is being made now that the log ends at `end`.
    pub fn checkpoint_from(&self, end: u64) {
        self.checkpoint_due.store(end + CHECKPOINT_BYTES, Ordering::Relaxed);
        self.checkpoint_wanted.store(false, Ordering::Relaxed);
    }

    pub fn stop(&self) {
        *self.state.lock() = true;
        self.condition.notify_one();
    }
}

/// What the last checkpoints said.
#[derive(Default)]
pub(crate) struct Progress {
    pub times: Times,
    pub durable: Built,
    pub written: Built,
    /// Queues whose buffers may be given back if nothing comes.
    pub warm: Vec<Arc<Queue>>,
}

impl Inner {
    /// The background thread's life.
    pub fn run_background(&self) {
        let write_every = Duration::from_millis(self.config.flush_interval_consume_queue.max(10));
        let sync_every = Duration::from_millis(self.config.durable_checkpoint_interval.max(10));
        let now = Instant::now();
        let (mut write_at, mut sync_at, mut space_at) = (now + write_every, now + sync_every, now);
        let mut prepare_again_at = None;
        loop {
            let now = Instant::now();
            if now >= space_at {
                space_at = now + SPACE_PERIOD;
                self.check_space();
            }
            let wanted = self.background.segment_wanted.swap(false, Ordering::Relaxed);
            if wanted || prepare_again_at.is_some_and(|at| now >= at) {
                prepare_again_at = (!self.prepare_segment()).then(|| now + SPACE_PERIOD);
            }
            if self.is_sync_flush() {
                self.flusher.expire(now);
            }
            if now >= sync_at {
                (sync_at, write_at) = (now + sync_every, now + write_every);
                self.checkpoint(true);
            } else if now >= write_at || self.background.checkpoint_wanted.load(Ordering::Relaxed) {
                write_at = now + write_every;
                self.checkpoint(false);
            }
            let sleep = write_at.saturating_duration_since(Instant::now()).min(MAX_SLEEP);
            let mut stop = self.background.state.lock();
            let wanted = [&self.background.segment_wanted, &self.background.checkpoint_wanted];
            if !*stop && !wanted.iter().any(|wanted| wanted.load(Ordering::Relaxed)) {
                self.background.condition.wait_for(&mut stop, sleep);
            }
            if *stop {
                return;
            }
        }
    }

    /// Whether the next log file is there, or not yet needed.
    fn prepare_segment(&self) -> bool {
        let prepared = self.log.prepare();
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
            self.failure.set(format!(
                "writing consume queues or checkpoint failed: {error}; restart the broker when the disk is well"
            ));
        }
    }

    fn try_checkpoint(&self, durable: bool) -> std::io::Result<()> {
        let mut progress = self.progress.lock();
        let progress = &mut *progress;
        self.background.checkpoint_from(self.log.end());
        let (built, timestamp, index_timestamp, dirty) = {
            let mut d = self.dispatcher.lock();
            let built = Built { position: d.position, entries: d.entries, index: self.index.mark() };
            (built, d.timestamp, self.index.end_timestamp(), std::mem::take(&mut d.dirty))
        };
        self.dispatch_for_others();
        for queue in progress.warm.drain(..) {
            queue.cool();
        }
        for queue in &dirty {
            queue.flush()?;
        }
        progress.warm = dirty;
        let behind = progress.durable != built || progress.times.physic != self.log.flushed_timestamp();
        if !(durable && behind) && progress.written == built {
            return Ok(());
        }
        progress.written = built;
        if durable {
            self.sync_built(&built)?;
            progress.durable = built;
            progress.times.logics = timestamp;
            progress.times.index = index_timestamp;
            progress.times.physic = self.log.flushed_timestamp();
        }
        self.checkpoint.write(&progress.times, &progress.durable, &progress.written, durable)
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

    /// Refuses writes while the volume is nearly full, and accepts them again afterwards.
    pub fn check_space(&self) {
        let verdict = space(&self.config.root).and_then(|(free, total)| {
            let used = 100 - (u128::from(free) * 100 / u128::from(total.max(1))) as u32;
            let full = used > self.config.disk_space_warning_level_ratio && free < self.config.disk_space_floor;
            full.then(|| {
                format!(
                    "the volume of {} is {used} % full ({} MiB free): more than diskSpaceWarningLevelRatio {} %; writes are accepted again when there is space",
                    self.config.root.display(), free >> 20, self.config.disk_space_warning_level_ratio
                )
            })
        });
        let mut full = self.disk_full.lock();
        if full.is_some() != verdict.is_some() {
            match &verdict {
                Some(reason) => tracing::error!("{reason}"),
                None => tracing::info!("there is space on the volume of {} again", self.config.root.display()),
            }
        }
        self.is_disk_full.store(verdict.is_some(), Ordering::Release);
        *full = verdict;
    }
}

/// Free and total bytes of the volume; `None` where the system does not tell.
fn space(root: &Path) -> Option<(u64, u64)> {
    let stat = rustix::fs::statvfs(root).ok()?;
    Some((stat.f_bavail * stat.f_frsize, stat.f_blocks * stat.f_frsize))
}
