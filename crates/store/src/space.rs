//! Room on the volumes of log and queues: how much there is, whether writes are refused, whether files must go
//! (RocketMQ 5.5 `CleanCommitLogService.isSpaceToDelete`).
//!
//! RocketMQ judges by percent alone; here a ratio counts only when few bytes are free besides. Owns nothing: the verdict
//! stands in [`Inner`].

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use crate::failure::{is_out_of_space, volume_name};
use crate::queue::Queue;
use crate::store::Inner;

/// Files are deleted before their time when less than this many times `disk_space_floor` is free: sooner than writes are
/// refused.
const FORCE_FLOORS: u64 = 2;

/// A consume queue as a person knows it.
pub(crate) fn queue_name(queue: &Queue) -> String {
    format!("the consume queue {}/{}", queue.topic(), queue.id())
}

/// How full a volume is.
#[derive(Clone, Debug)]
pub(crate) struct Volume {
    /// A folder on it.
    path: PathBuf,
    /// Rounded up.
    used_percent: u32,
    /// For this process, bytes.
    free: u64,
}

impl Volume {
    /// `None` where the system does not tell.
    fn of(path: &Path) -> Option<Volume> {
        let existing = path.ancestors().find(|ancestor| ancestor.exists())?;
        let stat = rustix::fs::statvfs(existing).ok()?;
        let used = u128::from(stat.f_blocks.saturating_sub(stat.f_bfree));
        let all = (used + u128::from(stat.f_bavail)).max(1);
        let used_percent = (used * 100).div_ceil(all) as u32;
        Some(Volume { path: existing.to_owned(), used_percent, free: stat.f_bavail.saturating_mul(stat.f_frsize) })
    }
}

impl std::fmt::Display for Volume {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} is {} % full ({} bytes free)", volume_name(&self.path), self.used_percent, self.free)
    }
}

/// What lack of room asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Need {
    Nothing,
    /// Files that are old enough, at any hour.
    Expired,
    /// Files whatever their age.
    Forced,
}

/// Shortages met by a write, in place of the ratio.
#[derive(Default)]
pub(crate) struct Shortage {
    /// Why a consume queue or the checkpoint could not be written.
    pub derived: Mutex<Option<String>>,
    /// Why the next log file could not be made.
    pub log: Mutex<Option<String>>,
}

impl Inner {
    /// The fuller one of the volumes of log and queues.
    fn fullest(&self) -> Option<Volume> {
        let root = &self.config.root;
        if let Some((used_percent, free)) = self.config.faults.as_ref().and_then(|faults| faults.volume()) {
            return Some(Volume { path: root.clone(), used_percent, free });
        }
        let volumes = [root.join("commitlog"), root.join("consumequeue")];
        volumes.iter().filter_map(|path| Volume::of(path)).max_by_key(|volume| volume.used_percent)
    }

    /// Refuses writes while a volume is nearly full or a write has met a full one, and accepts them again afterwards.
    pub fn check_space(&self) {
        let config = &self.config;
        let by_ratio = self.fullest().and_then(|volume| {
            let ratio = config.disk_space_warning_level_ratio;
            let is_full = volume.used_percent > ratio && volume.free < config.disk_space_floor;
            is_full.then(|| {
                format!("{volume}: more than diskSpaceWarningLevelRatio {ratio} %; writes are accepted again when there is space")
            })
        });
        let verdict = by_ratio.or_else(|| self.shortage.derived.lock().clone());
        let mut full = self.disk_full.lock();
        if full.is_some() != verdict.is_some() {
            match &verdict {
                Some(reason) => {
                    tracing::error!("{reason}");
                    self.cleaner.look_soon();
                }
                None => tracing::info!("there is space on the volume of {} again", config.root.display()),
            }
        }
        self.is_disk_full.store(verdict.is_some(), Ordering::Release);
        *full = verdict;
    }

    /// What lack of room asks for, and why.
    pub fn space_need(&self) -> (Need, String) {
        let config = &self.config;
        if let Some(reason) = self.shortage.log.lock().clone().or_else(|| self.shortage.derived.lock().clone()) {
            return (Need::Forced, reason);
        }
        let Some(volume) = self.fullest() else { return (Need::Nothing, String::new()) };
        let (forced, expired) = (config.disk_space_clean_forcibly_ratio, config.disk_max_used_space_ratio);
        if volume.used_percent > forced && volume.free / FORCE_FLOORS < config.disk_space_floor {
            return (Need::Forced, format!("{volume}: more than diskSpaceCleanForciblyRatio {forced} %"));
        }
        if volume.used_percent > expired {
            return (Need::Expired, format!("{volume}: more than diskMaxUsedSpaceRatio {expired} %"));
        }
        (Need::Nothing, volume.to_string())
    }

    /// A consume queue or the checkpoint could not be written. What it lacks stays in memory: on a full volume writes are
    /// refused until the next try succeeds, any other error ends all appends.
    pub fn derived_write_failed(&self, file: &str, error: &io::Error) {
        let what = format!("writing to {file}");
        if is_out_of_space(error) {
            let volume = self.fullest().map(|volume| format!("; {volume}")).unwrap_or_default();
            *self.shortage.derived.lock() =
                Some(format!("{what} failed: {error}{volume}; writes are accepted again when there is space"));
            self.check_space();
        } else {
            self.fail(&what, error);
        }
    }

    /// After room was made: what failed for lack of it is tried again, before more is deleted.
    pub fn try_again(&self) {
        if self.shortage.log.lock().take().is_some() {
            self.background.want_segment();
        }
        if self.shortage.derived.lock().is_some() {
            self.checkpoint(false);
        }
        self.check_space();
    }

    /// All consume queues are written, and the checkpoint that says so.
    pub fn derived_files_are_written(&self) {
        if self.shortage.derived.lock().take().is_some() {
            self.check_space();
        }
    }

    /// Notes whether the next log file could be made. Without room for it the oldest one has to go.
    pub fn log_file_made<T>(&self, result: &io::Result<T>) {
        let reason = result.as_ref().err().filter(|error| is_out_of_space(error)).map(|error| {
            let volume = self.fullest().map(|volume| format!("; {volume}")).unwrap_or_default();
            format!("the next commit log file of {} bytes cannot be made: {error}{volume}", self.log.file_size)
        });
        let is_short = reason.is_some();
        *self.shortage.log.lock() = reason;
        if is_short {
            self.cleaner.look_soon();
        }
    }
}
