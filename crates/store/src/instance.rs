//! One process per store: an OS lock on the file `lock`, which a Java broker takes too, and the file `abort`, which
//! exists while a broker runs and tells the next one whether the last stopped cleanly (RocketMQ 5.5
//! `DefaultMessageStore`).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, fcntl_lock, flock};
use rustix::io::Errno;

use crate::error::OpenError;
use crate::file;

/// Holds the lock for as long as it lives.
pub(crate) struct Instance {
    _lock: File,
    abort: PathBuf,
    /// Whether the last process removed its abort file.
    pub was_stopped_cleanly: bool,
}

impl Instance {
    /// Takes the lock. The folder is made if it is not there.
    pub fn enter(root: &Path) -> Result<Instance, OpenError> {
        file::create_dir_durable(root).map_err(OpenError::io("make the folder", root))?;
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
        match locked {
            Err(Errno::AGAIN | Errno::ACCESS) => {
                let pid = fs::read_to_string(&abort).ok().and_then(|pid| pid.trim().parse().ok());
                return Err(OpenError::InUse { root: root.to_owned(), pid });
            }
            other => other.map_err(|e| OpenError::io("lock", &path)(e.into()))?,
        }
        if lock.metadata().is_ok_and(|m| m.len() == 0) {
            lock.write_all(b"lock").map_err(OpenError::io("write", &path))?;
        }
        let was_stopped_cleanly = !abort.exists();
        Ok(Instance { _lock: lock, abort, was_stopped_cleanly })
    }

    /// Writes the abort file: from now on files change.
    pub fn mark_running(&self) -> Result<(), OpenError> {
        let written = fs::write(&self.abort, std::process::id().to_string())
            .and_then(|()| File::open(&self.abort)?.sync_all())
            .and_then(|()| self.abort.parent().map_or(Ok(()), file::sync_dir));
        written.map_err(OpenError::io("write", &self.abort))
    }

    /// Says that everything is on the disk and complete.
    pub fn leave_cleanly(&self) -> io::Result<()> {
        match fs::remove_file(&self.abort) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => self.abort.parent().map_or(Ok(()), file::sync_dir),
        }
    }
}
