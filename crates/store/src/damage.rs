//! Damaged records: each is reported once, with its place and size, and counted. Entries of consume queues that lead to
//! none are searched for once. And what makes a record one that a start or a check does not believe.

use std::collections::HashSet;

use ferromq_protocol::record::Record;
use parking_lot::Mutex;

use crate::commit_log::Segment;
use crate::queue::Queue;
use crate::store::{Inner, Store};

/// Most records that are reported one by one.
const MAX_TOLD: usize = 16_384;
/// Most bytes of a damaged record that are read again to learn why.
const MAX_REREAD: u64 = 8 << 20;

/// What a disk writes whole, bytes.
const SECTOR: u64 = 512;

/// Most entries of consume queues that are searched for.
const MAX_SEARCHED: usize = 16_384;

#[derive(Default)]
pub(crate) struct Damaged {
    /// Positions of the records that were reported.
    records: Mutex<HashSet<u64>>,
    /// Queues and indices of the entries that were searched for.
    entries: Mutex<HashSet<(u64, i64)>>,
    /// Held by the one who searches for entries and writes them again.
    pub repair: Mutex<()>,
    /// Position of the first damage that recovery has passed over.
    pub first_gap: Mutex<Option<u64>>,
}

impl Damaged {
    pub fn count(&self) -> usize {
        self.records.lock().len()
    }

    /// Whether the entry at `index` was not searched for yet; it counts as that from now on.
    pub fn is_new(&self, queue: &Queue, index: i64) -> bool {
        let mut entries = self.entries.lock();
        entries.len() < MAX_SEARCHED && entries.insert((queue.uid(), index))
    }
}

impl Inner {
    /// Reports that no sound record of `size` bytes is at `position`.
    pub fn damaged(&self, segment: &Segment, position: u64, size: i32) {
        let mut told = self.damaged.records.lock();
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

impl Store {
    /// Where the first records are lost that stood before others which are there: the position of damage that the start
    /// has passed over.
    pub fn first_gap(&self) -> Option<u64> {
        *self.inner.damaged.first_gap.lock()
    }
}

/// Why a record that was read at `position` cannot be believed, if so. `next`: what follows it. One whose properties end in
/// zeros was cut by the death of the process (nothing stands behind), or by that of the machine (its last sector is empty).
pub(crate) fn fault(record: &Record<'_>, position: u64, next: &[u8], checks_crc: bool) -> Option<String> {
    if record.physical_offset() as u64 != position {
        return Some(format!("the record says that it stands at {}", record.physical_offset()));
    }
    if checks_crc && !record.is_body_intact() {
        return Some("the body has a wrong CRC".to_owned());
    }
    let is_torn = record.properties().last() == Some(&0)
        && (next.iter().take(8).all(|byte| *byte == 0) || is_last_sector_empty(record, position));
    is_torn.then(|| "the record's end was not written".to_owned())
}

/// Whether a power cut kept the last sector of a record from the disk, whatever came of the sectors behind it.
fn is_last_sector_empty(record: &Record<'_>, position: u64) -> bool {
    let bytes = record.bytes();
    let in_last = ((position + bytes.len() as u64 - 1) % SECTOR + 1).min(bytes.len() as u64);
    bytes[bytes.len() - in_last as usize..].iter().all(|byte| *byte == 0)
}
