//! One door to the disk for everything the store changes: files, folders, writes, syncs; with the faults and the
//! recording of tests (`faults.rs`). Reads of the log go through [`crate::mapped`].

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use crate::faults::{Event, Faults, Operation};

/// What tests do to the disk; `None` outside of tests.
pub(crate) type MaybeFaults<'a> = Option<&'a Arc<Faults>>;

fn pass(faults: MaybeFaults<'_>, operation: Operation, path: &Path) -> io::Result<()> {
    faults.map_or(Ok(()), |faults| faults.pass(operation, path))
}

fn record(faults: MaybeFaults<'_>, event: impl FnOnce() -> Event) -> io::Result<()> {
    faults.map_or(Ok(()), |faults| faults.record(event))
}

/// How many changes a sync that begins now covers.
fn covers(faults: MaybeFaults<'_>) -> usize {
    faults.map_or(0, |faults| faults.event_count())
}

/// A file of the store.
#[derive(Debug)]
pub(crate) struct DataFile {
    file: File,
    path: PathBuf,
    faults: Option<Arc<Faults>>,
}

impl DataFile {
    pub fn open(path: &Path, faults: MaybeFaults<'_>) -> io::Result<DataFile> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(DataFile { file, path: path.to_owned(), faults: faults.cloned() })
    }

    /// A new file of `len` bytes whose blocks are allocated, so that writing to it cannot run out of space. A file that
    /// could not be allocated is removed again.
    pub fn create_allocated(path: &Path, len: u64, faults: MaybeFaults<'_>) -> io::Result<DataFile> {
        let file = Self::create(path, faults)?;
        let allocated = pass(faults, Operation::Allocate, path);
        let allocated = allocated.and_then(|()| match fallocate(&file.file, FallocateFlags::empty(), 0, len) {
            // A file system without allocation: the length must be right all the same.
            Err(Errno::OPNOTSUPP) => file.file.set_len(len),
            other => Ok(other?),
        });
        if let Err(error) = allocated {
            // What matters is the first error; an empty file is removed at the next start.
            let _ = remove(path, faults);
            return Err(error);
        }
        record(faults, || Event::Resize { path: path.to_owned(), len })?;
        Ok(file)
    }

    /// A new file of `len` bytes without blocks.
    pub fn create_sparse(path: &Path, len: u64, faults: MaybeFaults<'_>) -> io::Result<DataFile> {
        let file = Self::create(path, faults)?;
        file.resize(len)?;
        Ok(file)
    }

    fn create(path: &Path, faults: MaybeFaults<'_>) -> io::Result<DataFile> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        record(faults, || Event::Create { path: path.to_owned() })?;
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

    /// Sets the length; what is new reads as zeros.
    pub fn resize(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)?;
        self.record(|path| Event::Resize { path, len })
    }

    /// When the file was last written, milliseconds since 1970.
    pub fn modified_millis(&self) -> io::Result<i64> {
        let modified = self.file.metadata()?.modified()?;
        Ok(modified.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64))
    }

    /// Writes where the file may have no blocks yet, so that a full volume is met here.
    pub fn write_sparse_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.pass(Operation::WriteSparse)?;
        self.write_at(bytes, at)
    }

    pub fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let written = self.pass(Operation::Write).and_then(|()| self.file.write_all_at(bytes, at));
        written.map_err(|error| self.named(error))?;
        self.record(|path| Event::Write { path, at, bytes: bytes.to_vec() })
    }

    pub fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        self.file.read_exact_at(bytes, at)
    }

    pub fn sync(&self) -> io::Result<()> {
        let covers = covers(self.faults.as_ref());
        let synced = self.pass(Operation::Sync).and_then(|()| self.file.sync_data());
        synced.map_err(|error| self.named(error))?;
        self.record(|path| Event::Sync { path, covers })
    }

    /// The same of a file that is written through a mapping.
    pub fn sync_mapped(&self) -> io::Result<()> {
        if let Some(faults) = &self.faults {
            faults.record_mapped(&self.path, || {
                let mut content = vec![0; usize::try_from(self.len()?).unwrap_or(usize::MAX)];
                self.read_at(&mut content, 0)?;
                // Who writes goes on meanwhile; what is noted must be as it was at one moment.
                loop {
                    let before = content.clone();
                    self.read_at(&mut content, 0)?;
                    if content == before {
                        return Ok(content);
                    }
                }
            })?;
        }
        self.sync()
    }

    /// The error with the file's name.
    fn named(&self, error: io::Error) -> io::Error {
        io::Error::new(error.kind(), format!("{}: {error}", self.path.display()))
    }

    fn pass(&self, operation: Operation) -> io::Result<()> {
        pass(self.faults.as_ref(), operation, &self.path)
    }

    fn record(&self, event: impl FnOnce(PathBuf) -> Event) -> io::Result<()> {
        record(self.faults.as_ref(), || event(self.path.clone()))
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

    /// Whether anything may be written at or behind `at`.
    pub fn has_data_from(&self, at: u64) -> bool {
        !matches!(rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Data(at)), Err(Errno::NXIO))
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
            self.record(|path| Event::Zero { path, at: page, len: len - page })?;
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
pub(crate) fn sync_dir(dir: &Path, faults: MaybeFaults<'_>) -> io::Result<()> {
    let covers = covers(faults);
    pass(faults, Operation::Sync, dir)?;
    File::open(dir)?.sync_all()?;
    record(faults, || Event::SyncFolder { path: dir.to_owned(), covers })
}

/// Makes everything on the volume of `dir` durable.
pub(crate) fn sync_volume(dir: &Path, faults: MaybeFaults<'_>) -> io::Result<()> {
    let covers = covers(faults);
    pass(faults, Operation::Sync, dir)?;
    rustix::fs::syncfs(File::open(dir)?)?;
    record(faults, || Event::SyncVolume { covers })
}

/// Creates a folder and those above it.
pub(crate) fn create_dir(dir: &Path, faults: MaybeFaults<'_>) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    if let Some(parent) = dir.parent().filter(|p| !p.as_os_str().is_empty()) {
        create_dir(parent, faults)?;
    }
    match std::fs::create_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
        Ok(()) => record(faults, || Event::MakeFolder { path: dir.to_owned() }),
    }
}

/// Creates a folder and those above it, each durable in its parent.
pub(crate) fn create_dir_durable(dir: &Path, faults: MaybeFaults<'_>) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = dir.parent().filter(|p| !p.as_os_str().is_empty());
    if let Some(parent) = parent {
        create_dir_durable(parent, faults)?;
    }
    create_dir(dir, faults)?;
    parent.map_or(Ok(()), |parent| sync_dir(parent, faults))
}

/// Removes a file; one that is not there is no error.
pub(crate) fn remove(path: &Path, faults: MaybeFaults<'_>) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(()) => record(faults, || Event::Remove { path: path.to_owned() }),
    }
}

/// Gives a file another name on the same volume, in place of one that may have it already.
pub(crate) fn rename(from: &Path, to: &Path, faults: MaybeFaults<'_>) -> io::Result<()> {
    std::fs::rename(from, to)?;
    record(faults, || Event::Rename { from: from.to_owned(), to: to.to_owned() })
}

/// Removes a folder and all that is in it; one that is not there is no error.
pub(crate) fn remove_dir_all(dir: &Path, faults: MaybeFaults<'_>) -> io::Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(()) => record(faults, || Event::RemoveFolder { path: dir.to_owned() }),
    }
}

/// The same, durable in its parent.
pub(crate) fn remove_dir_durable(dir: &Path, faults: MaybeFaults<'_>) -> io::Result<()> {
    remove_dir_all(dir, faults)?;
    match dir.parent().filter(|parent| parent.is_dir()) {
        Some(parent) => sync_dir(parent, faults),
        None => Ok(()),
    }
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
