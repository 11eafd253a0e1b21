//! Whether others than this broker's pops append to the revive topic: a Java broker's timer, taken over with its store, brings
//! check points and acknowledgements there when they are due.
//!
//! Counting tells: the end of each revive queue grows by the own records, and what is more is not ours. So nobody reads
//! own records again as long as nothing else comes.

use std::sync::atomic::{AtomicI64, Ordering};

/// Of each revive queue: how far it was read, and how many records the end is ahead of that by own appends.
pub(crate) struct Foreign {
    queues: Box<[Counts]>,
}

#[derive(Default)]
struct Counts {
    /// Records behind this offset have not been looked at.
    read_to: AtomicI64,
    /// The end that own records and the foreign ones found so far explain.
    explained: AtomicI64,
}

impl Foreign {
    /// Counts for so many queues.
    pub fn new(queues: usize) -> Self {
        Self { queues: (0..queues).map(|_| Counts::default()).collect() }
    }

    /// Everything before `end` has been looked at.
    pub fn begin(&self, queue: u32, end: i64) {
        if let Some(counts) = self.queues.get(queue as usize) {
            counts.read_to.store(end, Ordering::Relaxed);
            counts.explained.store(end, Ordering::Relaxed);
        }
    }

    /// An own record was appended.
    pub fn own(&self, queue: u32) {
        if let Some(counts) = self.queues.get(queue as usize) {
            counts.explained.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Where to read on, if the queue's end tells of foreign records.
    pub fn next(&self, queue: u32, end: i64) -> Option<i64> {
        let counts = self.queues.get(queue as usize)?;
        (end > counts.explained.load(Ordering::Relaxed)).then(|| counts.read_to.load(Ordering::Relaxed))
    }

    /// The queue was read up to `offset`, and so many foreign records were found.
    pub fn read(&self, queue: u32, offset: i64, found: i64) {
        if let Some(counts) = self.queues.get(queue as usize) {
            counts.read_to.fetch_max(offset, Ordering::Relaxed);
            counts.explained.fetch_add(found, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_own_records_do_not_explain_is_read() {
        let foreign = Foreign::new(2);
        foreign.begin(1, 10);
        assert_eq!((foreign.next(1, 10), foreign.next(7, 10)), (None, None));
        foreign.own(1);
        foreign.own(1);
        assert_eq!((foreign.next(1, 12), foreign.next(1, 13)), (None, Some(10)));
        foreign.read(1, 13, 1);
        assert_eq!((foreign.next(1, 13), foreign.next(1, 14)), (None, Some(13)));
    }
}
