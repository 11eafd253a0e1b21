//! Puts right entries that stand in a file, under whoever reads: see `repair.rs`.

use std::collections::BTreeMap;
use std::io;

use super::{CqEntry, Queue, UNIT};

impl Queue {
    /// Writes entries that are in a file and differ; how many.
    pub(crate) fn rewrite(&self, entries: &BTreeMap<i64, CqEntry>) -> io::Result<usize> {
        let tail = self.tail.lock();
        let mut written = 0;
        // Retention may have moved the minimum into what is still buffered.
        for (offset, entry) in entries.range(self.min_offset().min(tail.first)..tail.first) {
            let (at, right) = (*offset as u64 * UNIT as u64, entry.encode());
            let start = at - at % self.context.file_size;
            let file = self.file(start, false)?;
            let mut there = [0; UNIT];
            file.read_at(&mut there, at - start)?;
            if there != right {
                file.write_sparse_at(&right, at - start)?;
                self.context.touched.lock().wrote((self.uid, start), &file);
                written += 1;
            }
        }
        Ok(written)
    }
}
