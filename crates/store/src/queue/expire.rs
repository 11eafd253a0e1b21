//! What happens to a queue when the log loses its oldest files: the minimum moves, files wholly below it go. Done by the
//! thread that deletes log files, and once at the start. And what is left of it when its topic is deleted.
//!
//! The queue's end is never touched, and the file that holds it always stays: an offset is never given out twice, also
//! when no message of the queue is left.

use std::io;
use std::sync::atomic::Ordering;

use super::{CqEntry, Queue, Tail};
use crate::file;

/// Most entries that are looked at in search of readable ones before another.
const LOOK_BACK: usize = 4096;

impl Queue {
    /// Moves the minimum to the first entry whose record is in the log, which begins at `log_start`.
    pub(crate) fn correct_min(&self, log_start: u64) {
        if self.min_position.load(Ordering::Relaxed) >= log_start.max(1) {
            return;
        }
        let is_gone = |e: CqEntry| e.is_blank() || (e.physical_offset as u64) < log_start;
        let first = self.first_index();
        if self.entry_at(first).is_some_and(is_gone) {
            let first = self.first_in_log(first, self.end_index(), log_start);
            self.min.store(self.offset_at(first), Ordering::Release);
        }
        let first = self.entry(self.log_min()).filter(|e| !e.is_blank());
        self.min_position.store(first.map_or(0, |e| e.physical_offset as u64), Ordering::Relaxed);
    }

    /// The first index of `min..max` whose record is in the log. A damaged entry in the way of the search must not hide
    /// what lies before it, nor blank ones in the place of messages that were lost: of the two readable ones before the
    /// result neither may be in the log.
    fn first_in_log(&self, min: i64, max: i64, log_start: u64) -> i64 {
        let is_in_log = |e: CqEntry| e.is_written() && !e.is_blank() && e.physical_offset as u64 >= log_start;
        let mut high = max;
        loop {
            let first = self.partition(min, high, is_in_log);
            let behind = (min..first).rev().take(LOOK_BACK);
            let readable =
                behind.filter_map(|at| Some((at, self.entry_at(at).filter(|e| e.is_written() && !e.is_blank())?)));
            match readable.take(2).find(|(_, entry)| is_in_log(*entry)) {
                Some((at, _)) => high = at,
                None => return first,
            }
        }
    }

    /// After log files were deleted: the minimum is corrected, and files without a readable entry are removed. How many.
    pub(crate) fn expire(&self, log_start: u64) -> io::Result<usize> {
        self.correct_min(log_start);
        // One entry of a deleted record stays in front: by it recovery knows that nothing is missing before the file.
        let keep = (self.index_of(self.log_min()) - 1).max(0) as u64 * self.unit();
        let keep = keep - keep % self.file_size();
        if keep <= self.first_file.load(Ordering::Relaxed) || self.is_deleted() {
            return Ok(0);
        }
        let mut removed = 0;
        for (start, path) in file::list(&self.folder())?.into_iter().filter(|(start, _)| *start < keep) {
            file::remove(&path, self.context.faults.as_ref())?;
            self.context.files.forget_file((self.uid, start));
            removed += 1;
        }
        self.first_file.store(keep, Ordering::Relaxed);
        Ok(removed)
    }

    /// Whether its topic was deleted: what is added to it is not stored.
    pub fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Acquire)
    }

    /// Marks the handle as deleted: it writes no file any more.
    pub(crate) fn delete(&self) {
        if !self.deleted.swap(true, Ordering::AcqRel) && self.is_light() {
            self.context.lights.fetch_sub(1, Ordering::Relaxed);
        }
        let mut tail = self.tail.lock();
        *tail = Tail { first: tail.end(self.kind), ..Tail::default() };
        self.context.files.forget(self.uid);
        self.context.touched.lock().forget(self.uid);
    }
}
