//! Open consume queue files: a bounded number, whatever the number of queues; and those that await a sync.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use crate::file::DataFile;

/// Most descriptors kept open.
const MAX_OPEN: usize = 1024;
/// Part of the process's descriptors that may be kept open here.
const DESCRIPTOR_PART: u64 = 4;
/// Descriptors kept open whatever the process's limit.
const MIN_OPEN: usize = 16;
/// Part of the descriptors closed when there are too many.
const CLOSE_PART: usize = 8;
/// Most files synced one by one; beyond it the whole file system is synced at once.
const MAX_SINGLE_SYNCS: usize = 64;

/// Queue handle's number and first byte of the file.
pub(crate) type FileKey = (u64, u64);

/// Least recently used files are closed.
pub(crate) struct FdCache {
    open: Mutex<Open>,
    max: usize,
}

impl Default for FdCache {
    fn default() -> Self {
        let allowed = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX) / DESCRIPTOR_PART;
        let max = usize::try_from(allowed).unwrap_or(MAX_OPEN).clamp(MIN_OPEN, MAX_OPEN);
        Self { open: Mutex::default(), max }
    }
}

#[derive(Default)]
struct Open {
    files: HashMap<FileKey, (Arc<DataFile>, u64)>,
    clock: u64,
}

impl Open {
    fn find(&mut self, key: FileKey) -> Option<Arc<DataFile>> {
        self.clock += 1;
        let (file, used) = self.files.get_mut(&key)?;
        *used = self.clock;
        Some(Arc::clone(file))
    }
}

impl FdCache {
    /// The file, opened by `open` if it is not. Nobody waits for another's opening; two may open the same file.
    pub fn get(&self, key: FileKey, open: impl Fn() -> io::Result<DataFile>) -> io::Result<Arc<DataFile>> {
        if let Some(file) = self.open.lock().find(key) {
            return Ok(file);
        }
        let file = open().or_else(|error| match Errno::from_io_error(&error) {
            // The process may have fewer descriptors than this would like: those kept here are no need.
            Some(Errno::MFILE | Errno::NFILE) => {
                self.open.lock().files.clear();
                open()
            }
            _ => Err(error),
        });
        let file = Arc::new(file?);
        let mut cache = self.open.lock();
        if cache.files.len() >= self.max {
            let mut used: Vec<u64> = cache.files.values().map(|(_, used)| *used).collect();
            let (_, limit, _) = used.select_nth_unstable(self.max / CLOSE_PART);
            let limit = *limit;
            cache.files.retain(|_, (_, used)| *used > limit);
        }
        let clock = cache.clock;
        cache.files.insert(key, (Arc::clone(&file), clock));
        Ok(file)
    }

    /// Closes one file.
    pub fn forget_file(&self, key: FileKey) {
        self.open.lock().files.remove(&key);
    }

    /// Closes the files of a queue.
    pub fn forget(&self, uid: u64) {
        self.open.lock().files.retain(|(owner, _), _| *owner != uid);
    }
}

/// Files written since the last sync.
#[derive(Default)]
pub(crate) struct Touched {
    files: HashMap<FileKey, Arc<DataFile>>,
    /// Too many to keep, or folders changed.
    all: bool,
}

/// What makes everything written so far durable.
pub(crate) enum SyncWork {
    Files(Vec<Arc<DataFile>>),
    FileSystem,
}

impl Touched {
    pub fn wrote(&mut self, key: FileKey, file: &Arc<DataFile>) {
        if self.all {
            return;
        }
        if self.files.len() >= MAX_SINGLE_SYNCS && !self.files.contains_key(&key) {
            return self.created();
        }
        self.files.entry(key).or_insert_with(|| Arc::clone(file));
    }

    /// A file or folder was made: its name must become durable too.
    pub fn created(&mut self) {
        self.all = true;
        self.files.clear();
    }

    pub fn forget(&mut self, uid: u64) {
        self.files.retain(|(owner, _), _| *owner != uid);
    }

    /// What is to be synced; nothing is remembered afterwards.
    pub fn take(&mut self) -> SyncWork {
        let taken = std::mem::take(self);
        if taken.all { SyncWork::FileSystem } else { SyncWork::Files(taken.files.into_values().collect()) }
    }
}
