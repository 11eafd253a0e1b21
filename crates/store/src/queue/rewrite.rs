//! Puts right entries that stand in a file, under whoever reads: see `repair.rs`.

use std::collections::BTreeMap;
use std::io;

use super::{CqEntry, MAX_UNIT, Queue};

impl Queue {
    /// Writes entries, by their index, that are in a file and differ; how many.
    pub(crate) fn rewrite(&self, entries: &BTreeMap<i64, CqEntry>) -> io::Result<usize> {
        let tail = self.tail.lock();
        let (mut written, mut right) = (0, Vec::with_capacity(MAX_UNIT));
        // Retention may have moved the minimum into what is still buffered.
        for (index, entry) in entries.range(self.first_index().min(tail.first)..tail.first) {
            let at = *index as u64 * self.unit();
            right.clear();
            entry.encode(self.kind, &mut right);
            let start = at - at % self.file_size();
            let file = self.file(start, false)?;
            let mut there = [0; MAX_UNIT];
            let there = &mut there[..right.len()];
            file.read_at(there, at - start)?;
            if *there != right {
                file.write_sparse_at(&right, at - start)?;
                self.context.touched.lock().wrote((self.uid, start), &file);
                written += 1;
            }
        }
        Ok(written)
    }
}
