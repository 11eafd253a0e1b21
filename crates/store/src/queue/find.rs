//! Looking into a queue: entries by their index, the index of an offset, a search over all entries.

use std::io;
use std::sync::atomic::Ordering;

use ferromq_protocol::record::Record;

use super::{CqEntry, Kind, MAX_UNIT, Queue};
use crate::append;

/// Most entries that are looked at one by one on either side of where a search ended.
const MAX_MISLED: i64 = 16_384;

impl Queue {
    /// Index behind the last entry.
    pub(crate) fn end_index(&self) -> i64 {
        self.tail.lock().end(self.kind)
    }

    /// Index of the first entry that is of use.
    pub(crate) fn first_index(&self) -> i64 {
        match self.kind {
            Kind::Simple => self.log_min(),
            Kind::Batch => (self.first_file.load(Ordering::Relaxed) / self.unit()) as i64,
        }
    }

    /// Index of the entry that has the message at `offset`, or of the first one behind it.
    pub(crate) fn index_of(&self, offset: i64) -> i64 {
        if self.kind == Kind::Simple {
            return offset;
        }
        let (first, end) = (self.first_index(), self.end_index());
        let found = self.partition(first, end, |entry| entry.end() > offset);
        let has_it = |at: &i64| self.entry_at(*at).is_some_and(|e| (e.queue_offset..e.end()).contains(&offset));
        if has_it(&found) || offset >= self.max_offset() || offset < self.log_min() {
            return found;
        }
        // Its message is lost, or a damaged entry has misled the search.
        let near = (found - MAX_MISLED).max(first)..(found + MAX_MISLED).min(end);
        near.into_iter().find(has_it).unwrap_or(found)
    }

    /// Whether the entry stands for as many messages as the record holds.
    pub(crate) fn holds(&self, entry: &CqEntry, record: &Record<'_>) -> bool {
        self.kind == Kind::Simple || append::messages_in(record) == entry.messages
    }

    /// Offset of the first message of the entry at `index`; behind the last entry the queue's end.
    pub(crate) fn offset_at(&self, index: i64) -> i64 {
        match (self.kind, self.entry_at(index)) {
            (Kind::Simple, _) => index,
            (Kind::Batch, Some(entry)) => entry.queue_offset,
            (Kind::Batch, None) => self.entry_at(index - 1).map_or(0, |last| last.end()),
        }
    }

    /// Reads entries from `index` on into `out`, as they stand in the file; how many there were.
    pub(crate) fn read(&self, index: i64, out: &mut [u8]) -> io::Result<usize> {
        let unit = self.kind.unit();
        let wanted = out.len() / unit;
        let mut done = 0;
        while done < wanted {
            let at = index + done as i64;
            let rest = {
                let tail = self.tail.lock();
                if at >= tail.first {
                    let bytes = usize::try_from(at - tail.first).ok().and_then(|n| tail.bytes.get(n * unit..));
                    let bytes = bytes.unwrap_or_default();
                    let n = (bytes.len() / unit).min(wanted - done);
                    out[done * unit..(done + n) * unit].copy_from_slice(&bytes[..n * unit]);
                    return Ok(done + n);
                }
                (tail.first - at).min((wanted - done) as i64) as usize
            };
            done += self.read_files(at, &mut out[done * unit..(done + rest) * unit])?;
        }
        Ok(done)
    }

    fn read_files(&self, index: i64, out: &mut [u8]) -> io::Result<usize> {
        let at = index as u64 * self.unit();
        let start = at - at % self.file_size();
        let len = ((start + self.file_size() - at) as usize).min(out.len());
        self.file(start, false)?.read_at(&mut out[..len], at - start)?;
        Ok(len / self.kind.unit())
    }

    /// The entry at `index`.
    pub(crate) fn entry_at(&self, index: i64) -> Option<CqEntry> {
        let mut out = [0; MAX_UNIT];
        let out = &mut out[..self.kind.unit()];
        (index >= 0 && self.read(index, out).ok()? == 1).then(|| self.kind.decode(out, index))
    }

    /// The last entry.
    pub(crate) fn last_entry(&self) -> Option<CqEntry> {
        self.entry_at(self.end_index() - 1)
    }

    /// The entry that has the message at `offset`, if consumers can see it.
    pub(crate) fn entry(&self, offset: i64) -> Option<CqEntry> {
        let entry = (0..self.max_offset()).contains(&offset).then(|| self.entry_at(self.index_of(offset)))?;
        entry.filter(|entry| entry.queue_offset <= offset)
    }

    /// First index in `low..high` whose entry satisfies `past`, which holds for all entries after the first that does.
    pub(crate) fn partition(&self, low: i64, high: i64, mut past: impl FnMut(CqEntry) -> bool) -> i64 {
        let (mut low, mut high) = (low, high);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.entry_at(middle) {
                Some(entry) if !past(entry) => low = middle + 1,
                _ => high = middle,
            }
        }
        low
    }
}
