//! One door to the disk for everything the store promises to keep: writes, syncs and allocation, with the faults that
//! tests inject. Reads of the log go through [`crate::mapped`].

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

/// Makes the k-th write, sync or allocation from now on fail, and all after it.
#[derive(Debug)]
pub struct Faults {
    writes: Counter,
    syncs: Counter,
    allocations: Counter,
}

impl Default for Faults {
    fn default() -> Self {
        Self { writes: Counter::off(), syncs: Counter::off(), allocations: Counter::off() }
    }
}

impl Faults {
    /// `good` writes succeed, then all fail with EIO.
    pub fn fail_writes_after(&self, good: i64) {
        self.writes.0.store(good, Ordering::SeqCst);
    }

    /// `good` syncs succeed, then all fail with EIO.
    pub fn fail_syncs_after(&self, good: i64) {
        self.syncs.0.store(good, Ordering::SeqCst);
    }

    /// `good` allocations succeed, then all fail with ENOSPC; a negative number ends the shortage.
    pub fn fail_allocations_after(&self, good: i64) {
        self.allocations.0.store(good, Ordering::SeqCst);
    }
}

/// Operations that still succeed; negative: no limit.
#[derive(Debug)]
struct Counter(AtomicI64);

impl Counter {
    fn off() -> Self {
        Self(AtomicI64::new(-1))
    }

    fn pass(&self, errno: Errno) -> io::Result<()> {
        let step = |left: i64| (left > 0).then(|| left - 1);
        match self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, step) {
            Err(0) => Err(errno.into()),
            _ => Ok(()),
        }
    }
}

/// A file of the store.
#[derive(Debug)]
pub(crate) struct DataFile {
    file: File,
    path: PathBuf,
    faults: Option<Arc<Faults>>,
}

impl DataFile {
    pub fn open(path: &Path, faults: Option<&Arc<Faults>>) -> io::Result<DataFile> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(DataFile { file, path: path.to_owned(), faults: faults.cloned() })
    }

    /// A new file of `len` bytes whose blocks are allocated, so that writing to it cannot run out of space. A file that
    /// could not be allocated is removed again.
    pub fn create_allocated(path: &Path, len: u64, faults: Option<&Arc<Faults>>) -> io::Result<DataFile> {
        let file = Self::create(path, faults)?;
        let allocated = match &file.faults {
            Some(faults) => faults.allocations.pass(Errno::NOSPC),
            None => Ok(()),
        };
        let allocated = allocated.and_then(|()| match fallocate(&file.file, FallocateFlags::empty(), 0, len) {
            // A file system without allocation: the length must be right all the same.
            Err(Errno::OPNOTSUPP) => file.file.set_len(len),
            other => Ok(other?),
        });
        if let Err(error) = allocated {
            // What matters is the first error; an empty file is removed at the next start.
            let _ = std::fs::remove_file(path);
            return Err(error);
        }
        Ok(file)
    }

    /// A new file of `len` bytes without blocks.
    pub fn create_sparse(path: &Path, len: u64, faults: Option<&Arc<Faults>>) -> io::Result<DataFile> {
        let file = Self::create(path, faults)?;
        file.file.set_len(len)?;
        Ok(file)
    }

    fn create(path: &Path, faults: Option<&Arc<Faults>>) -> io::Result<DataFile> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        Ok(DataFile { file, path: path.to_owned(), faults: faults.cloned() })
    }

    pub fn file(&self) -> &File {
        &self.file
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    pub fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        if let Some(faults) = &self.faults {
            faults.writes.pass(Errno::IO)?;
        }
        self.file.write_all_at(bytes, at)
    }

    pub fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        self.file.read_exact_at(bytes, at)
    }

    pub fn sync(&self) -> io::Result<()> {
        if let Some(faults) = &self.faults {
            faults.syncs.pass(Errno::IO)?;
        }
        self.file.sync_data()
    }

    /// Whether the first `len` bytes are all zero.
    pub fn is_zero(&self, len: u64) -> io::Result<bool> {
        const CHUNK: u64 = 1 << 20;
        let mut bytes = vec![0; CHUNK.min(len) as usize];
        let mut at = 0;
        while at < len {
            let n = CHUNK.min(len - at);
            let piece = &mut bytes[..n as usize];
            self.read_at(piece, at)?;
            if piece.iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
            at += n;
        }
        Ok(true)
    }

    /// Where the first piece without blocks begins, as far as the file system tells.
    pub fn first_hole(&self) -> io::Result<Option<u64>> {
        match rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Hole(0)) {
            Ok(hole) => Ok(Some(hole)),
            Err(Errno::NXIO | Errno::INVAL | Errno::OPNOTSUPP) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes everything from `from` to `len` read as zeros, cheaply where the file system can; whether anything was
    /// changed.
    pub fn zero_from(&self, from: u64, len: u64) -> io::Result<bool> {
        const PAGE: u64 = 4096;
        const CHUNK: u64 = 1 << 20;
        let page = from.next_multiple_of(PAGE).min(len);
        let mut rest = vec![0; (page - from) as usize];
        self.read_at(&mut rest, from)?;
        let changed = rest.iter().any(|byte| *byte != 0);
        if changed {
            rest.fill(0);
            self.write_at(&rest, from)?;
        }
        if page == len {
            return Ok(changed);
        }
        match rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Data(page)) {
            Err(Errno::NXIO) => return Ok(changed),
            Ok(data) if data >= len => return Ok(changed),
            _ => {}
        }
        let flags = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
        if fallocate(&self.file, flags, page, len - page).is_ok() {
            return Ok(true);
        }
        let zeros = vec![0; CHUNK as usize];
        let mut at = page;
        while at < len {
            let n = CHUNK.min(len - at);
            self.write_at(&zeros[..n as usize], at)?;
            at += n;
        }
        Ok(true)
    }
}

/// Makes the entries of a folder durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Creates a folder and those above it, each durable in its parent.
pub(crate) fn create_dir_durable(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    if let Some(parent) = dir.parent().filter(|p| !p.as_os_str().is_empty()) {
        create_dir_durable(parent)?;
        match std::fs::create_dir(dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        return sync_dir(parent);
    }
    std::fs::create_dir_all(dir)
}

/// The file name RocketMQ gives to the file that begins at `start`: 20 digits.
pub(crate) fn name(start: u64) -> String {
    format!("{start:020}")
}

/// Numbered files of a folder, by their start, ascending. Other names are left alone.
pub(crate) fn list(dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut files = Vec::new();
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(files),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let start = name.to_str().filter(|n| n.len() == 20 && n.bytes().all(|b| b.is_ascii_digit()));
        if let Some(start) = start.and_then(|n| n.parse().ok()) {
            files.push((start, entry.path()));
        }
    }
    files.sort_unstable();
    Ok(files)
}
