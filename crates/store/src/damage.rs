//! Damaged records: each is reported once, with its place and size, and counted.

use std::collections::HashSet;

use parking_lot::Mutex;

use crate::commit_log::Segment;
use crate::store::Inner;

/// Most records that are reported one by one.
const MAX_TOLD: usize = 16_384;
/// Most bytes of a damaged record that are read again to learn why.
const MAX_REREAD: u64 = 8 << 20;

/// Positions of the records that were reported.
#[derive(Default)]
pub(crate) struct Damaged(Mutex<HashSet<u64>>);

impl Damaged {
    pub fn count(&self) -> usize {
        self.0.lock().len()
    }
}

impl Inner {
    /// Reports that no sound record of `size` bytes is at `position`.
    pub fn damaged(&self, segment: &Segment, position: u64, size: i32) {
        let mut told = self.damaged.0.lock();
        if told.len() >= MAX_TOLD || !told.insert(position) {
            return;
        }
        // What a mapping hides behind zeros: why the disk did not give the bytes.
        let len = u64::try_from(size).unwrap_or(0).min(MAX_REREAD).min(segment.end() - position);
        let again = segment.file.read_at(&mut vec![0; len as usize], position - segment.start);
        let cause = again.err().map_or_else(|| "lengths, place or CRC are wrong".to_owned(), |e| e.to_string());
        tracing::error!(
            path = %segment.file.path().display(), position, size, cause,
            "a record in the commit log is damaged: it is left out, what follows is served"
        );
        if told.len() == MAX_TOLD {
            tracing::error!("{MAX_TOLD} damaged records were reported; further ones are left out without a word");
        }
    }
}
