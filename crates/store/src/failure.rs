//! The first failed write or sync: nothing is appended after it until a restart has looked at the disk again, and
//! whoever is refused is told why in words. A shortage of space, which passes, is not a failure.

use std::fmt::Display;
use std::io;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::AppendError;
use crate::store::Inner;

/// The first failure, once there was one.
#[derive(Default)]
pub(crate) struct Failure {
    is_set: AtomicBool,
    reason: OnceLock<String>,
}

impl Failure {
    pub fn is_set(&self) -> bool {
        self.is_set.load(Ordering::SeqCst)
    }

    /// Notes the failure, unless there was one; the reason that counts.
    fn set(&self, reason: String) -> String {
        let reason = self.reason.get_or_init(|| {
            tracing::error!("the store is read-only from now on: {reason}");
            reason
        });
        self.is_set.store(true, Ordering::SeqCst);
        reason.clone()
    }
}

impl Inner {
    /// Makes the store read-only because `what` failed; the reason that counts, which is that of the first failure.
    pub fn fail(&self, what: &str, error: &dyn Display) -> String {
        let volume = volume_name(&self.config.root);
        let reason = self.failure.set(format!(
            "{what} failed: {error}; the store is on {volume}; what was acknowledged before can be read, nothing more is stored: look at the disk (the kernel's log tells more) and restart the broker when it is well"
        ));
        if let Err(error) = self.checkpoint.wipe_note() {
            tracing::error!("the checkpoint cannot be told of the failure: {error}");
        }
        reason
    }

    pub fn check_writeable(&self) -> Result<(), AppendError> {
        if self.failure.is_set() {
            return Err(AppendError::ReadOnly { reason: self.failure.reason.get().cloned().unwrap_or_default() });
        }
        if self.is_disk_full.load(Ordering::Acquire) {
            return Err(AppendError::DiskFull { reason: self.disk_full.lock().clone().unwrap_or_default() });
        }
        if self.closing.load(Ordering::Acquire) {
            return Err(AppendError::ShuttingDown);
        }
        Ok(())
    }
}

/// Whether an error says that there is no room, which passes by itself and leaves nothing half done in the kernel.
pub(crate) fn is_out_of_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// The volume of a folder as a person knows it: its device and where it is mounted.
pub(crate) fn volume_name(dir: &Path) -> String {
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    // Number, parent, device, root, mount point, options; behind a dash the type and the source.
    let mount = |line: &str| {
        let (head, tail) = line.split_once(" - ")?;
        let (point, source) = (head.split(' ').nth(4)?, tail.split(' ').nth(1)?);
        dir.starts_with(point).then(|| (point.len(), format!("the volume {source} mounted at {point}")))
    };
    let longest = mounts.lines().filter_map(mount).max_by_key(|(len, _)| *len);
    longest.map_or_else(|| format!("the volume of {}", dir.display()), |(_, text)| text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_named_by_its_mount() {
        let text = volume_name(Path::new("/proc/self"));
        assert!(text.ends_with("mounted at /proc"), "{text}");
    }
}
