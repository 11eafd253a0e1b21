//! A queue in a snapshot (`snapshot.rs`): what its handle knows, and the entries that its files lack.

use std::io;
use std::sync::atomic::Ordering;

use super::{Kind, Queue, Tail};
use crate::checkpoint::Reader;
use crate::file;
use crate::snapshot::{Changed, is_untouched};

/// Bits of the byte behind a queue's number.
const HAS_LEFTOVERS: u8 = 1;
const IS_BATCH: u8 = 2;

/// One queue of a snapshot.
pub(crate) struct Saved<'a> {
    pub id: u32,
    pub kind: Kind,
    has_leftovers: bool,
    min: i64,
    min_position: u64,
    first_file: u64,
    /// Index behind what the files hold.
    written: i64,
    /// Entries from there on.
    entries: &'a [u8],
}

impl<'a> Saved<'a> {
    pub fn decode(reader: &mut Reader<'a>) -> Option<Saved<'a>> {
        let id = reader.int();
        let [flags] = reader.bytes();
        let has_leftovers = flags & HAS_LEFTOVERS != 0;
        let kind = if flags & IS_BATCH != 0 { Kind::Batch } else { Kind::Simple };
        let (min, min_position, first_file) = (reader.long(), reader.long() as u64, reader.long() as u64);
        let (written, count) = (reader.long(), reader.int() as usize);
        let entries = reader.take(count.checked_mul(kind.unit())?)?;
        Some(Saved { id, kind, has_leftovers, min, min_position, first_file, written, entries })
    }

    /// Whether the queue has files.
    fn has_files(&self) -> bool {
        self.written as u64 * self.kind.unit() as u64 > self.first_file
    }

    /// The entries from `from` on whose record lies before `position` of the log.
    fn entries_from(&self, from: i64, position: u64) -> Vec<u8> {
        let unit = self.kind.unit();
        let entries = self.entries.get((from - self.written) as usize * unit..).unwrap_or_default();
        let is_built = |e: &&[u8]| (self.kind.decode(e, 0).physical_offset as u64) < position;
        entries.chunks_exact(unit).take_while(is_built).flatten().copied().collect()
    }
}

impl Queue {
    /// Adds the queue to a snapshot.
    pub(crate) fn save(&self, out: &mut Vec<u8>) {
        let tail = self.tail.lock();
        let unwritten = &tail.bytes[tail.written..];
        out.extend_from_slice(&self.id.to_be_bytes());
        let leftovers = if self.has_leftovers.load(Ordering::Relaxed) { HAS_LEFTOVERS } else { 0 };
        out.push(leftovers | if self.is_batch() { IS_BATCH } else { 0 });
        out.extend_from_slice(&self.log_min().to_be_bytes());
        out.extend_from_slice(&self.min_position.load(Ordering::Relaxed).to_be_bytes());
        out.extend_from_slice(&self.first_file.load(Ordering::Relaxed).to_be_bytes());
        out.extend_from_slice(&(tail.first + (tail.written / self.kind.unit()) as i64).to_be_bytes());
        out.extend_from_slice(&((unwritten.len() / self.kind.unit()) as u32).to_be_bytes());
        out.extend_from_slice(unwritten);
    }

    /// As [`Queue::load`] of a queue that stands in a snapshot `taken` when everything before `position` of the log was
    /// built. Its files are read only if they were changed since.
    pub(crate) fn restore(&self, saved: &Saved<'_>, taken: Changed, position: u64, log_start: u64) -> io::Result<bool> {
        if saved.kind == self.kind && self.is_as_saved(saved, taken)? {
            let bytes = saved.entries_from(saved.written, position);
            *self.tail.lock() = Tail { first: saved.written, written: 0, dirty: !bytes.is_empty(), bytes };
            self.min.store(saved.min, Ordering::Release);
            self.min_position.store(saved.min_position, Ordering::Relaxed);
            self.first_file.store(saved.first_file, Ordering::Relaxed);
            self.has_leftovers.store(saved.has_leftovers, Ordering::Relaxed);
            self.continue_after_recovery();
            return Ok(true);
        }
        let is_whole = self.load(Some(position), log_start)?;
        let end = self.end_index();
        if is_whole && saved.kind == self.kind && end >= saved.written {
            // The files were written before the snapshot, in the same tick of the clock.
            let bytes = saved.entries_from(end, position);
            *self.tail.lock() = Tail { first: end, written: 0, dirty: !bytes.is_empty(), bytes };
            self.continue_after_recovery();
        }
        Ok(is_whole)
    }

    /// Whether folder and files are those of the snapshot.
    fn is_as_saved(&self, saved: &Saved<'_>, taken: Changed) -> io::Result<bool> {
        let folder = self.folder();
        if !saved.has_files() {
            return Ok(!folder.try_exists()?);
        }
        if !is_untouched(&folder, taken)? {
            return Ok(false);
        }
        let (mut start, end) = (saved.first_file, saved.written as u64 * self.unit());
        while start < end {
            if !is_untouched(&folder.join(file::name(start)), taken)? {
                return Ok(false);
            }
            start += self.file_size();
        }
        Ok(true)
    }

    /// Whether there are entries that the files lack.
    pub(crate) fn has_unwritten(&self) -> bool {
        self.tail.lock().dirty
    }
}
