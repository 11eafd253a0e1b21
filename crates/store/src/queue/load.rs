//! A queue at the start: where its files end, whether they are complete, and what is cut off. Before anything else
//! touches the queue, each queue on one thread.
//!
//! With many queues the start takes as long as the system calls for each: a queue whose entries stand in one page, as
//! most do when there are very many, is read with one.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;

use super::{CqEntry, Kind, MAX_OFFSET, Queue, Tail};
use crate::file;

/// Bytes of a queue that is read at once: the entries of one page of a sparse file.
const SMALL: usize = 4096 + Kind::Simple.unit();
/// Entries read at once in search of an end.
const SCAN: usize = 4096;

impl Queue {
    /// Finds the end of the files. With `built_to`, the position in the log up to which entries are known to be
    /// complete, a binary search; without it the last three files are read as RocketMQ does. Later entries are cut off
    /// in memory only: dispatch writes them again, and [`Queue::erase_beyond_end`] removes what is left.
    ///
    /// `false` if files or pages are missing before the end, `log_start` being where the log begins: the queue is
    /// emptied, and has to be built from the whole log.
    pub(crate) fn load(&self, built_to: Option<u64>, log_start: u64) -> io::Result<bool> {
        let (context, unit, file_size) = (&self.context, self.unit(), self.file_size());
        let (mut files, mut is_whole) = (Vec::new(), true);
        for (start, path) in file::list(&self.folder())? {
            if start > MAX_OFFSET as u64 * self.unit() {
                continue;
            }
            let expected = files.last().map_or(start, |last: &u64| last + file_size);
            let len = fs::metadata(&path)?.len();
            if len == file_size && start == expected && start.is_multiple_of(file_size) {
                files.push(start);
                continue;
            }
            // Wrong size, or a file before it is missing: the log has what is lost here.
            if len > 0 {
                tracing::warn!(path = %path.display(), len, "a consume queue file has a wrong size or place; it is removed and rebuilt from the log");
            }
            file::remove(&path, context.faults.as_ref())?;
            is_whole = false;
        }
        let per_file = self.per_file();
        let Some(first) = files.first().map(|start| (start / unit) as i64) else { return Ok(is_whole) };
        let all = first + files.len() as i64 * per_file;
        // Reading a hole would fill the page cache with nothing.
        let last = files.last().copied().unwrap_or_default();
        let data = self.file(last, false)?.first_hole()?.unwrap_or(file_size).min(file_size);
        let high = ((last + data).div_ceil(unit) as i64).min(all);
        self.has_leftovers.store(true, Ordering::Relaxed);
        self.show(first, high);
        if let Some(position) = built_to.filter(|_| files.len() == 1 && (high - first) as u64 * unit <= SMALL as u64) {
            let complete = self.load_small(first, high, position, log_start)?;
            return if complete { Ok(is_whole) } else { self.drop_files().map(|()| false) };
        }
        let end = match built_to {
            Some(position) => self.built_end(first, high, position),
            None => self.scan_end(first.max(all - 3 * per_file), high)?,
        };
        self.show(first, end);
        let complete = self.has_no_holes(&files, end, log_start)?;
        if !complete {
            self.drop_files()?;
        }
        Ok(complete && is_whole)
    }

    /// A queue of one file whose entries were read at once; whether it is complete.
    fn load_small(&self, first: i64, high: i64, built_to: u64, log_start: u64) -> io::Result<bool> {
        let mut bytes = [0; SMALL];
        let (unit, start) = (self.kind.unit(), first as u64 * self.unit());
        let count = self.read(first, &mut bytes[..(high - first) as usize * unit])?;
        let entries = &bytes[..count * unit];
        let mut before = CqEntry::blank();
        let is_built = |e: &CqEntry| {
            let built = e.is_written() && (e.physical_offset as u64) < built_to && e.follows(&before);
            before = *e;
            built
        };
        let decoded = entries.chunks_exact(unit).zip(first..).map(|(bytes, index)| self.kind.decode(bytes, index));
        let kept = decoded.take_while(is_built).count();
        let beyond = self.file(start, false)?.has_data_from(high as u64 * self.unit() - start);
        let leftovers = beyond || entries[kept * unit..].iter().any(|byte| *byte != 0);
        self.show(first, first + kept as i64);
        self.has_leftovers.store(leftovers, Ordering::Relaxed);
        let Some(begin) = (kept > 0).then(|| self.kind.decode(entries, first)) else { return Ok(first == 0) };
        // What comes first in the log need not be looked up again.
        if !begin.is_blank() && begin.physical_offset as u64 >= log_start {
            self.min_position.store(begin.physical_offset as u64, Ordering::Relaxed);
        }
        Ok(first == 0 || begin.is_blank() || begin.physical_offset as u64 <= log_start)
    }

    /// Empties a queue with holes; it has to be built from the whole log.
    fn drop_files(&self) -> io::Result<()> {
        tracing::warn!(topic = %self.topic, queue = self.id, "the consume queue has holes; it is removed and rebuilt from the log");
        self.context.files.forget(self.uid);
        file::remove_dir_all(&self.folder(), self.context.faults.as_ref())?;
        self.has_leftovers.store(false, Ordering::Relaxed);
        self.show(0, 0);
        Ok(())
    }

    /// Behind the last entry of a record before `position`. What was written behind it may be torn since a power cut, and
    /// a torn entry can look like one that was built: an entry counts only behind one of an earlier record.
    fn built_end(&self, first: i64, high: i64, position: u64) -> i64 {
        let mut high = high;
        loop {
            let end = self.partition(first, high, |e| !(e.is_written() && (e.physical_offset as u64) < position));
            let is_sound = end - first < 2
                || self
                    .entry_at(end - 1)
                    .zip(self.entry_at(end - 2))
                    .is_some_and(|(last, before)| last.follows(&before));
            if is_sound {
                return end;
            }
            high = end - 1;
        }
    }

    /// A look at both ends of each file and at pages that were never written.
    fn has_no_holes(&self, files: &[u64], end: i64, log_start: u64) -> io::Result<bool> {
        let (end, unit) = (end as u64 * self.unit(), self.unit());
        if files.first().is_some_and(|first| *first > 0 && *first == end) {
            // The file begins behind everything that was built: those before it are missing.
            return Ok(false);
        }
        for (n, start) in files.iter().copied().take_while(|start| *start < end).enumerate() {
            let Some(entry) = self.entry_at((start / unit) as i64) else { return Ok(false) };
            // Files before the first one may be missing only if the log lost what they pointed to.
            let begins_late = n == 0 && start > 0 && !entry.is_blank() && entry.physical_offset as u64 > log_start;
            let filled = (end - start).min(self.file_size());
            let file = self.file(start, false)?;
            let last = self.entry_at(((start + filled) / unit) as i64 - 1);
            let is_filled = entry.is_written() && last.is_some_and(|last| last.is_written());
            if !is_filled || begins_late || file.first_hole()?.is_some_and(|hole| hole < filled) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The queue consists of the entries `first..end` of the files.
    fn show(&self, first: i64, end: i64) {
        *self.tail.lock() = Tail { first: end, ..Tail::default() };
        self.first_file.store(first as u64 * self.unit(), Ordering::Relaxed);
        self.min.store(self.offset_at(first), Ordering::Release);
        self.min_position.store(0, Ordering::Relaxed);
        self.max.store(self.offset_at(end), Ordering::Release);
    }

    fn scan_end(&self, from: i64, to: i64) -> io::Result<i64> {
        let unit = self.kind.unit();
        let mut entries = vec![0; SCAN * unit];
        let mut at = from;
        while at < to {
            let n = self.read(at, &mut entries)?;
            let mut read = entries[..n * unit].chunks_exact(unit);
            if let Some(bad) = read.position(|bytes| !self.kind.decode(bytes, 0).is_written()) {
                return Ok(at + bad as i64);
            }
            if n == 0 {
                break;
            }
            at += n as i64;
        }
        Ok(at)
    }

    /// Position in the log behind the last entry's record; 0 without entries.
    pub(crate) fn built_to(&self) -> u64 {
        match self.last_entry() {
            Some(last) if !last.is_blank() => last.physical_offset as u64 + last.size as u64,
            _ => 0,
        }
    }

    /// Drops entries of records at or behind `end` of the log.
    pub(crate) fn truncate(&self, end: u64) {
        if self.last_entry().is_none_or(|e| (e.physical_offset as u64) < end) {
            return;
        }
        let (first, last) = (self.first_index(), self.end_index());
        let keep = self.partition(first, last, |e| e.physical_offset as u64 >= end);
        if keep < last {
            self.has_leftovers.store(true, Ordering::Relaxed);
            // What is buffered behind the new end goes with it.
            let mut tail = self.tail.lock();
            if keep >= tail.first {
                let bytes = (keep - tail.first) as usize * self.kind.unit();
                tail.bytes.truncate(bytes);
                tail.written = tail.written.min(bytes);
            } else {
                *tail = Tail { first: keep, dirty: tail.dirty, ..Tail::default() };
            }
            drop(tail);
            self.max.store(self.offset_at(keep), Ordering::Release);
        }
    }

    /// Forgets all entries; what the files hold is overwritten or erased later.
    pub(crate) fn restart(&self) {
        let dirty = self.tail.lock().dirty;
        self.has_leftovers.store(true, Ordering::Relaxed);
        self.show(0, 0);
        self.tail.lock().dirty = dirty;
    }

    /// Whether `offset` would continue this queue, but with a record that lies before those of its entries.
    pub(crate) fn is_ahead_of(&self, offset: i64, physical_offset: u64) -> bool {
        let end = self.max_offset();
        end > 0
            && offset >= end
            && self.last_entry().is_some_and(|last| !last.is_blank() && last.physical_offset as u64 > physical_offset)
    }

    /// Zeroes what the files hold behind the end, so that nobody takes it for entries. Buffered entries are written.
    pub(crate) fn erase_beyond_end(&self) -> io::Result<()> {
        if !self.has_leftovers.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        let mut tail = self.tail.lock();
        self.write(&mut tail)?;
        let at = tail.end(self.kind) as u64 * self.unit();
        for (start, path) in file::list(&self.folder())? {
            if start >= at {
                self.context.files.forget(self.uid);
                file::remove(&path, self.context.faults.as_ref())?;
            } else if start + self.file_size() > at {
                let file = self.file(start, true)?;
                if file.zero_from(at - start, self.file_size())? {
                    self.context.touched.lock().wrote((self.uid, start), &file);
                }
            }
        }
        Ok(())
    }
}

/// Topics that have a folder.
pub(crate) fn topics_in(dir: &Path) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    let topics = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        other => other?,
    };
    for topic in topics {
        let topic = topic?;
        let Ok(name) = topic.file_name().into_string() else { continue };
        if !topic.file_type()?.is_dir() {
            continue;
        }
        found.push(name);
    }
    Ok(found)
}

/// Numbers of the queues that have a folder in that of their topic; none without one.
pub(crate) fn queues_of(topic: &Path) -> io::Result<Vec<u32>> {
    let queues = match fs::read_dir(topic) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut found = Vec::new();
    for queue in queues {
        found.extend(queue?.file_name().to_str().and_then(|id| id.parse::<u32>().ok()));
    }
    Ok(found)
}
