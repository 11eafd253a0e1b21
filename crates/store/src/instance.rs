//! One process per store: an OS lock on the file `lock`, which a Java broker takes too, and the file `abort`, which
//! exists while a broker runs and tells the next one whether the last stopped cleanly (RocketMQ 5.5
//! `DefaultMessageStore`).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FlockOperation, fcntl_lock, flock};
use rustix::io::Errno;

use crate::error::OpenError;
use crate::faults::Faults;
use crate::file::{self, DataFile, MaybeFaults};

/// Holds the lock for as long as it lives.
pub(crate) struct Instance {
    _lock: File,
    abort: PathBuf,
    faults: Option<Arc<Faults>>,
    /// Whether the last process removed its abort file.
    pub was_stopped_cleanly: bool,
}

impl Instance {
    /// Takes the lock. The folder is made if it is not there.
    pub fn enter(root: &Path, faults: MaybeFaults<'_>) -> Result<Instance, OpenError> {
        file::create_dir_durable(root, faults).map_err(OpenError::io("make the folder", root))?;
        let path = root.join("lock");
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(OpenError::io("open", &path))?;
        let abort = root.join("abort");
        // The first holds off Java and other processes, the second another store in this process.
        let locked = fcntl_lock(&lock, FlockOperation::NonBlockingLockExclusive)
            .and_then(|()| flock(&lock, FlockOperation::NonBlockingLockExclusive));
        locked.map_err(|error| refused(root, &path, error))?;
        if lock.metadata().is_ok_and(|m| m.len() == 0) {
            lock.write_all(b"lock").map_err(OpenError::io("write", &path))?;
        }
        let was_stopped_cleanly = !abort.exists();
        Ok(Instance { _lock: lock, abort, faults: faults.cloned(), was_stopped_cleanly })
    }

    /// Keeps brokers away for as long as the result lives, for those who only look: nothing is made or written. Without a
    /// lock file no broker has ever been here.
    pub fn watch(root: &Path) -> Result<Option<File>, OpenError> {
        let path = root.join("lock");
        let lock = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(OpenError::io("open", &path))?,
        };
        let locked = fcntl_lock(&lock, FlockOperation::NonBlockingLockShared)
            .and_then(|()| flock(&lock, FlockOperation::NonBlockingLockShared));
        locked.map_err(|error| refused(root, &path, error))?;
        Ok(Some(lock))
    }

    /// Writes the abort file: from now on files change.
    pub fn mark_running(&self) -> Result<(), OpenError> {
        let faults = self.faults.as_ref();
        let pid = std::process::id().to_string();
        let write = || {
            // One that is there stays there: without it the store would look well.
            let abort = match DataFile::open(&self.abort, faults) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    DataFile::create_sparse(&self.abort, 0, faults)?
                }
                other => other?,
            };
            abort.write_at(pid.as_bytes(), 0)?;
            abort.resize(pid.len() as u64)?;
            abort.sync()?;
            self.abort.parent().map_or(Ok(()), |root| file::sync_dir(root, faults))
        };
        write().map_err(OpenError::io("write", &self.abort))
    }

    /// Says that everything is on the disk and complete.
    pub fn leave_cleanly(&self) -> io::Result<()> {
        let faults = self.faults.as_ref();
        file::remove(&self.abort, faults)?;
        self.abort.parent().map_or(Ok(()), |root| file::sync_dir(root, faults))
    }
}

/// Why the lock cannot be taken.
fn refused(root: &Path, path: &Path, error: Errno) -> OpenError {
    if !matches!(error, Errno::AGAIN | Errno::ACCESS) {
        return OpenError::io("lock", path)(error.into());
    }
    let pid = fs::read_to_string(root.join("abort")).ok().and_then(|pid| pid.trim().parse().ok());
    OpenError::InUse { root: root.to_owned(), pid }
}
