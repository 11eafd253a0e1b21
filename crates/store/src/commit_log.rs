//! The log's files and its three positions: `end` (written), `flushed` (on the disk) and the first byte that still
//! exists. Files are allocated in full before they are written, the next one in the background, and written with
//! `pwrite` by whoever holds the append lock (`tail`); readers use a mapping of each file, made at first use.
//!
//! Knows nothing of messages: see `append.rs` for what is written and `recovery.rs` for how the end is found.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, RwLock};

use crate::ahead;
use crate::error::OpenError;
use crate::faults::Faults;
use crate::file::{self, DataFile, MaybeFaults};
use crate::mapped::ReadMap;

/// The next file is prepared when less than this part of the current one is left.
const PREPARE_AT: u64 = 4;

/// One file of the log.
pub(crate) struct Segment {
    /// Position in the log of its first byte.
    pub start: u64,
    pub size: u64,
    pub file: DataFile,
    map: OnceLock<ReadMap>,
    /// That of the log: how the file is mapped.
    read_ahead: Arc<AtomicBool>,
}

impl Segment {
    fn new(start: u64, size: u64, file: DataFile, read_ahead: &Arc<AtomicBool>) -> Segment {
        Segment { start, size, file, map: OnceLock::new(), read_ahead: Arc::clone(read_ahead) }
    }

    /// Position behind its last byte.
    pub fn end(&self) -> u64 {
        self.start + self.size
    }

    /// All bytes of the file; those behind the log's end mean nothing.
    pub fn bytes(&self) -> io::Result<&[u8]> {
        if let Some(map) = self.map.get() {
            return Ok(map.bytes());
        }
        let map = ReadMap::new(self.file.file(), self.size)?;
        if !self.read_ahead.load(Ordering::Relaxed) {
            map.set_read_ahead(false);
        }
        Ok(self.map.get_or_init(|| map).bytes())
    }

    /// Bytes from `position` of the log up to `limit` or the end of the file; `None` if they are not all in this file's range.
    pub fn bytes_from(&self, position: u64, limit: u64) -> Option<&[u8]> {
        let from = usize::try_from(position.checked_sub(self.start)?).ok()?;
        let to = usize::try_from(limit.min(self.end()).checked_sub(self.start)?).ok()?;
        self.bytes().ok()?.get(from..to)
    }
}

/// The log.
pub(crate) struct CommitLog {
    dir: PathBuf,
    pub file_size: u64,
    faults: Option<Arc<Faults>>,
    /// Ascending, without gaps.
    segments: RwLock<VecDeque<Arc<Segment>>>,
    /// The append lock.
    pub tail: Mutex<Tail>,
    prepared: Mutex<Option<Arc<Segment>>>,
    /// Held during a sync: one at a time, and none after the first that failed.
    sync_failed: Mutex<bool>,
    /// Start of the newest file that was asked for with [`CommitLog::wants_preparation`].
    asked_for: AtomicU64,
    end: AtomicU64,
    flushed: AtomicU64,
    /// Store timestamp of the last record before `end`, and before `flushed`.
    last_timestamp: AtomicI64,
    flushed_timestamp: AtomicI64,
    read_ahead: Arc<AtomicBool>,
}

/// What the append lock protects.
#[derive(Default)]
pub(crate) struct Tail {
    /// Where the next record goes.
    pub position: u64,
    /// The file of `position`, once it is there.
    pub segment: Option<Arc<Segment>>,
}

impl CommitLog {
    /// Opens the files that are there. The positions are zero until [`CommitLog::set_end`].
    pub fn open(dir: &Path, file_size: u64, faults: MaybeFaults<'_>) -> Result<CommitLog, OpenError> {
        let mut segments: VecDeque<Arc<Segment>> = VecDeque::new();
        let read_ahead = Arc::new(AtomicBool::new(true));
        let files = file::list(dir).map_err(OpenError::io("list", dir))?;
        let count = files.len();
        for (n, (start, path)) in files.into_iter().enumerate() {
            let file = DataFile::open(&path, faults).map_err(OpenError::io("open", &path))?;
            let len = file.len().map_err(OpenError::io("look at", &path))?;
            // Made, but not or only in part allocated, when the process died or the power went. Nothing is written to
            // a file before it is whole.
            if len < file_size && n + 1 == count && file.is_zero(len).map_err(OpenError::io("read", &path))? {
                tracing::info!(path = %path.display(), len, "the last commit log file was never used; it is removed");
                file::remove(&path, faults).map_err(OpenError::io("remove the unused file", &path))?;
                continue;
            }
            if len != file_size {
                return Err(OpenError::FileSize { path, len, expected: file_size });
            }
            if let Some(missing) = segments.back().map(|last| last.end()).filter(|end| *end != start) {
                return Err(OpenError::Gap { missing, path });
            }
            segments.push_back(Arc::new(Segment::new(start, file_size, file, &read_ahead)));
        }
        Ok(CommitLog {
            dir: dir.to_owned(),
            file_size,
            faults: faults.cloned(),
            segments: RwLock::new(segments),
            tail: Mutex::default(),
            prepared: Mutex::default(),
            sync_failed: Mutex::new(false),
            asked_for: AtomicU64::new(0),
            end: AtomicU64::new(0),
            flushed: AtomicU64::new(0),
            last_timestamp: AtomicI64::new(0),
            flushed_timestamp: AtomicI64::new(0),
            read_ahead,
        })
    }

    /// How the kernel reads files of the log, those mapped now and those to come.
    pub fn set_read_ahead(&self, on: bool) {
        self.read_ahead.store(on, Ordering::Relaxed);
        for segment in self.segments() {
            if let Some(map) = segment.map.get() {
                map.set_read_ahead(on);
            }
        }
    }

    /// Position behind the last byte written.
    pub fn end(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    /// Position up to which the log is on the disk.
    pub fn flushed(&self) -> u64 {
        self.flushed.load(Ordering::Acquire)
    }

    /// Store timestamp of the last record, milliseconds since 1970.
    pub fn last_timestamp(&self) -> i64 {
        self.last_timestamp.load(Ordering::Acquire)
    }

    /// Store timestamp of the last record on the disk, milliseconds since 1970.
    pub fn flushed_timestamp(&self) -> i64 {
        self.flushed_timestamp.load(Ordering::Acquire)
    }

    /// Position of the first byte there is.
    pub fn start(&self) -> u64 {
        self.segments.read().front().map_or(0, |s| s.start)
    }

    /// The files, oldest first.
    pub fn segments(&self) -> Vec<Arc<Segment>> {
        self.segments.read().iter().cloned().collect()
    }

    /// The file that holds `position`.
    pub fn segment(&self, position: u64) -> Option<Arc<Segment>> {
        let segments = self.segments.read();
        let first = segments.front()?.start;
        let n = usize::try_from(position.checked_sub(first)? / self.file_size).ok()?;
        segments.get(n).cloned()
    }

    /// Has the disk fetch `len` bytes from `from` on, at most to the end of the file; where they end.
    pub fn ask(&self, from: u64, len: u64) -> Option<u64> {
        let segment = self.segment(from)?;
        let end = segment.end().min(from + len);
        ahead::ask(segment.file.file(), from - segment.start, end - from);
        Some(end)
    }

    /// Under the append lock, or during recovery: the file that holds `position`, taken from the prepared one or made
    /// now if the log goes on there.
    pub fn segment_for_append(&self, position: u64) -> io::Result<Arc<Segment>> {
        if let Some(segment) = self.segment(position) {
            return Ok(segment);
        }
        let start = position - position % self.file_size;
        // Kept until the file is listed: the preparing thread must not make it a second time.
        let mut prepared = self.prepared.lock();
        let segment = match prepared.take() {
            Some(segment) if segment.start == start => segment,
            _ => self.create(start)?,
        };
        self.segments.write().push_back(Arc::clone(&segment));
        Ok(segment)
    }

    fn create(&self, start: u64) -> io::Result<Arc<Segment>> {
        let path = self.dir.join(file::name(start));
        let file = DataFile::create_allocated(&path, self.file_size, self.faults.as_ref())?;
        // Its length first: a file whose name is on the disk, but not its blocks, would be in the way of the next start.
        if let Err(error) = file.sync().and_then(|()| file::sync_dir(&self.dir, self.faults.as_ref())) {
            // The next try makes it anew. What matters is the first error.
            let _ = file::remove(&path, self.faults.as_ref());
            return Err(error);
        }
        Ok(Arc::new(Segment::new(start, self.file_size, file, &self.read_ahead)))
    }

    /// Whether it is time to ask for the file after the one that holds `position`: once for each file.
    pub fn wants_preparation(&self, position: u64) -> bool {
        if !self.is_nearly_full(position) {
            return false;
        }
        let next = self.file_after(position);
        self.asked_for.load(Ordering::Relaxed) < next && self.asked_for.fetch_max(next, Ordering::Relaxed) < next
    }

    fn is_nearly_full(&self, position: u64) -> bool {
        self.file_size - position % self.file_size < self.file_size / PREPARE_AT
    }

    fn file_after(&self, position: u64) -> u64 {
        position - position % self.file_size + self.file_size
    }

    /// Makes the next file if it is time to and it is not there. Called by the preparing thread.
    pub fn prepare(&self) -> io::Result<()> {
        let end = self.end();
        let next = self.file_after(end);
        if !self.is_nearly_full(end) || self.segment(next).is_some() {
            return Ok(());
        }
        // An append that needs the file waits for this lock rather than making it a second time.
        let mut prepared = self.prepared.lock();
        if self.segment(next).is_none() && prepared.as_ref().is_none_or(|p| p.start != next) {
            *prepared = Some(self.create(next)?);
        }
        Ok(())
    }

    /// Shows what was written before `position`. Under the append lock.
    pub fn publish(&self, position: u64, timestamp: i64) {
        self.last_timestamp.store(timestamp, Ordering::Release);
        self.end.store(position, Ordering::Release);
    }

    /// After recovery: the log ends at `end` and is on the disk up to `flushed`; files behind it are removed.
    pub fn set_end(&self, end: u64, timestamp: i64, flushed: u64) -> io::Result<()> {
        let mut segments = self.segments.write();
        while let Some(last) = segments.back().filter(|s| s.start > end || (s.start == end && s.start > 0)) {
            file::remove(last.file.path(), self.faults.as_ref())?;
            segments.pop_back();
        }
        drop(segments);
        let segment = self.segment(end);
        *self.tail.lock() = Tail { position: end, segment };
        self.publish(end, timestamp);
        self.flushed.store(flushed.min(end), Ordering::Release);
        if flushed >= end {
            self.flushed_timestamp.store(timestamp, Ordering::Release);
        }
        Ok(())
    }

    /// The oldest file, unless it is the only one: the log never loses its last file.
    pub fn oldest_but_last(&self) -> Option<Arc<Segment>> {
        let segments = self.segments.read();
        (segments.len() > 1).then(|| segments.front().cloned()).flatten()
    }

    /// Deletes the oldest file, which must be `segment` and not the last. Who reads it keeps it until it is done. The
    /// folder is synced before the next one can go, so that a crash never leaves a gap.
    pub fn delete_oldest(&self, segment: &Segment) -> io::Result<()> {
        file::remove(segment.file.path(), self.faults.as_ref())?;
        let mut segments = self.segments.write();
        if segments.len() > 1 && segments.front().is_some_and(|front| front.start == segment.start) {
            segments.pop_front();
        }
        drop(segments);
        file::sync_dir(&self.dir, self.faults.as_ref())
    }

    /// Forces everything written so far to the disk and returns the new flushed position. After an error no sync
    /// succeeds any more: the kernel may have dropped what it could not write, and tells each opened file only once.
    pub fn sync(&self) -> io::Result<u64> {
        let mut has_failed = self.sync_failed.lock();
        if *has_failed {
            return Err(io::Error::other("an earlier sync has failed"));
        }
        let synced = self.sync_files();
        *has_failed = synced.is_err();
        synced
    }

    fn sync_files(&self) -> io::Result<u64> {
        let from = self.flushed();
        // The end is published after its timestamp, so this order never claims too much.
        let end = self.end();
        let timestamp = self.last_timestamp.load(Ordering::Acquire);
        if end > from {
            let mut position = from;
            while position < end {
                let Some(segment) = self.segment(position) else { break };
                segment.file.sync()?;
                position = segment.end();
            }
            self.flushed_timestamp.store(timestamp, Ordering::Release);
            self.flushed.fetch_max(end, Ordering::AcqRel);
        }
        Ok(end)
    }
}

impl CommitLog {
    /// Writes what stands from `from` to the end of the log once more. After a sync that failed, or a page that the
    /// kernel could not write by itself, it shows as sound what the disk does not have; written again, the next sync
    /// covers it. What cannot be read is left.
    pub fn write_again(&self, from: u64) -> io::Result<()> {
        const CHUNK: u64 = 1 << 20;
        const PAGE: u64 = 4096;
        let (mut at, end) = (from.max(self.start()), self.end());
        let mut bytes = vec![0; CHUNK as usize];
        let mut step = CHUNK;
        while let Some(segment) = self.segment(at).filter(|_| at < end) {
            let n = step.min(segment.end() - at).min(end - at);
            let piece = &mut bytes[..n as usize];
            match segment.file.read_at(piece, at - segment.start) {
                Ok(()) => segment.file.write_at(piece, at - segment.start)?,
                Err(_) if step > PAGE => {
                    step = PAGE;
                    continue;
                }
                Err(error) => {
                    tracing::error!(path = %segment.file.path().display(), position = at, bytes = n, "the commit log cannot be read: {error}");
                }
            }
            at += n;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_file_is_asked_for_once() {
        let dir = tempfile::tempdir().unwrap();
        let log = CommitLog::open(dir.path(), 4096, None).unwrap();
        let asked: Vec<u64> = (0..3 * 4096).filter(|position| log.wants_preparation(*position)).collect();
        assert_eq!(asked, [3073, 4096 + 3073, 2 * 4096 + 3073]);
        assert!(!log.wants_preparation(4000), "an append that was overtaken");
    }

    #[test]
    fn a_file_that_is_prepared_and_appended_to_at_once_is_made_once() {
        for _ in 0..200 {
            let dir = tempfile::tempdir().unwrap();
            let log = CommitLog::open(dir.path(), 4096, None).unwrap();
            log.segment_for_append(0).unwrap();
            log.publish(4000, 1);
            std::thread::scope(|scope| {
                scope.spawn(|| log.prepare().unwrap());
                log.segment_for_append(4096).unwrap();
            });
            assert_eq!(log.segments().len(), 2);
        }
    }
}
