//! Retention: which log files are deleted and when, and what goes with them (RocketMQ 5.5 `CleanCommitLogService`,
//! `CleanConsumeQueueService`).
//!
//! Always the oldest file, never the last, and only what queues and index have taken over durably; each deletion is on
//! the disk before the next. Afterwards the queues' minimums move and files of queues and index that point below the
//! log go. Dying in between leaves a shorter log and some files that the next look removes. Done by a thread of its
//! own (`store-clean`), because deleting a large file may take long. A store that has become read-only deletes nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ferromq_common::clock;
use parking_lot::{Condvar, Mutex};

use crate::commit_log::Segment;
use crate::space::Need;
use crate::store::Inner;

/// Looks that follow each other when somebody asks for deletion and each finds as much as it may delete.
const MANUAL_LOOKS: u32 = 20;
const HOUR_MS: i64 = 3_600_000;

/// Signals to the thread, and what it remembers.
#[derive(Default)]
pub(crate) struct Cleaner {
    signals: Mutex<Signals>,
    condition: Condvar,
    /// Start of the log for which queues and index were looked at last; held while they are.
    expired_to: Mutex<u64>,
    /// Space is short and nothing could be deleted: said once.
    stuck: AtomicBool,
}

#[derive(Default)]
struct Signals {
    stop: bool,
    /// Somebody asks for deletion, whatever the hour.
    manual: bool,
    /// Space is short.
    soon: bool,
}

impl Cleaner {
    /// Asks for a look at any hour.
    pub fn ask(&self) {
        self.signals.lock().manual = true;
        self.condition.notify_one();
    }

    /// Asks for a look because space is short.
    pub fn look_soon(&self) {
        self.signals.lock().soon = true;
        self.condition.notify_one();
    }

    pub fn stop(&self) {
        self.signals.lock().stop = true;
        self.condition.notify_one();
    }

    /// Waits for a signal or the time. `None`: the store closes; else whether somebody asked.
    fn wait(&self, time: Duration) -> Option<bool> {
        let mut signals = self.signals.lock();
        if !signals.stop && !signals.manual && !signals.soon {
            self.condition.wait_for(&mut signals, time);
        }
        signals.soon = false;
        let manual = std::mem::take(&mut signals.manual);
        (!signals.stop).then_some(manual)
    }

    /// Lets some time pass; whether the store closes.
    fn pause(&self, time: Duration) -> bool {
        let mut signals = self.signals.lock();
        if !signals.stop {
            self.condition.wait_for(&mut signals, time);
        }
        signals.stop
    }
}

impl Inner {
    /// The cleaning thread's life.
    pub fn run_cleaner(&self) {
        let period = Duration::from_millis(self.config.clean_resource_interval.max(1));
        while let Some(manual) = self.cleaner.wait(period) {
            let looks = if manual { MANUAL_LOOKS } else { 1 };
            for _ in 0..looks {
                if self.delete_log_files(manual) < self.config.delete_file_batch_max {
                    break;
                }
            }
        }
    }

    /// Deletes what may go, at most `delete_file_batch_max` files; how many.
    fn delete_log_files(&self, manual: bool) -> u32 {
        let hour = manual || self.config.delete_when.contains(&clock::local_hour());
        let pause = Duration::from_millis(self.config.delete_commit_log_files_interval);
        let mut deleted = 0;
        while deleted < self.config.delete_file_batch_max {
            let (need, why, oldest) = self.deletable(hour);
            let stuck = need == Need::Forced && oldest.is_none();
            if stuck && !self.cleaner.stuck.swap(true, Ordering::Relaxed) {
                tracing::warn!("{why}, and no commit log file can be deleted: free space on the volume");
            }
            let Some(oldest) = oldest else { break };
            self.cleaner.stuck.store(false, Ordering::Relaxed);
            let path = oldest.file.path().display();
            if let Err(error) = self.log.delete_oldest(&oldest) {
                tracing::error!("the commit log file {path} cannot be deleted: {error}; {why}");
                break;
            }
            deleted += 1;
            tracing::info!(%path, manual, forced = need == Need::Forced, "the commit log file is deleted; {why}");
            // Its room is free when nobody holds it.
            drop(oldest);
            self.try_again();
            if self.cleaner.pause(pause) {
                break;
            }
        }
        self.expire_derived();
        deleted
    }

    /// What lack of room asks for and why, and the oldest file if it may be deleted now.
    fn deletable(&self, hour: bool) -> (Need, String, Option<Arc<Segment>>) {
        if self.shortage.derived.lock().is_some() {
            // There may be room by now: nothing is deleted for a write that succeeds when it is tried again.
            self.checkpoint(false);
        }
        let (need, why) = self.space_need();
        let Some(oldest) = self.log.oldest_but_last() else { return (need, why, None) };
        if !self.is_due(&oldest, need, hour) {
            return (need, why, None);
        }
        // Recovery begins at the checkpoint: the log must not begin later.
        let is_taken_over = || self.progress.lock().durable.position >= oldest.end();
        if is_taken_over() {
            // A compacted topic has its messages there alone from then on.
            return (need, why, Some(oldest).filter(|oldest| self.is_copied(oldest.end())));
        }
        self.checkpoint(true);
        // It may have found room.
        let (need, why) = self.space_need();
        let is_due = self.is_due(&oldest, need, hour) && is_taken_over();
        (need, why, is_due.then_some(oldest).filter(|oldest| self.is_copied(oldest.end())))
    }

    fn is_due(&self, oldest: &Segment, need: Need, hour: bool) -> bool {
        let forced = need == Need::Forced && self.config.clean_file_forcibly_enable;
        !self.failure.is_set() && (forced || ((hour || need >= Need::Expired) && self.is_old(oldest)))
    }

    /// Whether the file was not written to for `fileReservedTime`.
    fn is_old(&self, segment: &Segment) -> bool {
        let reserved = i64::from(self.config.file_reserved_time) * HOUR_MS;
        segment.file.modified_millis().is_ok_and(|modified| clock::now_millis() >= modified.saturating_add(reserved))
    }

    /// Moves the queues' minimums and removes files of queues and index, if the log has become shorter.
    fn expire_derived(&self) {
        if *self.cleaner.expired_to.lock() != self.log.start() {
            self.expire_all();
        }
    }

    /// The same, whatever was done before; how many consume queue files went.
    pub fn expire_all(&self) -> usize {
        let mut expired_to = self.cleaner.expired_to.lock();
        let log_start = self.log.start();
        *expired_to = log_start;
        let mut removed = 0;
        for queue in self.all_queues() {
            match queue.expire(log_start) {
                Ok(files) => removed += files,
                // The queue is right all the same; the next look tries again.
                Err(error) => tracing::warn!("files of the consume queue {queue:?} cannot be removed: {error}"),
            }
        }
        if let Err(error) = self.index.expire(log_start) {
            tracing::warn!("an expired index file cannot be removed: {error}");
        }
        removed
    }
}
