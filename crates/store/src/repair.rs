//! Entries of consume queues that are found damaged when they are read, built again from the log.
//!
//! A start looks at the ends of queue files, since it must not read all of them. What lies between is looked at by whoever
//! reads it: an entry that leads to no record of its own is searched for in the log, between the records of the entries
//! around it. A queue's records stand in the log in its order, so no other place has to be looked at.

use std::collections::BTreeMap;

use ferromq_protocol::record::{self, Entry};

use crate::lmq;
use crate::queue::{CqEntry, Queue};
use crate::store::Inner;

/// Most bytes of log that are read for one repair; what lies further off is repaired when it is read itself.
const MAX_SCAN: u64 = 64 << 20;
/// Most entries that are looked at on either side of a damaged one, for one that leads to its record.
const MAX_NEIGHBOURS: i64 = 16_384;

impl Inner {
    /// Whether the entry at `offset`, which was read as `read`, was damaged and now is right, with others beside it: it is
    /// to be read again.
    pub fn repair_entry(&self, queue: &Queue, offset: i64, read: &CqEntry) -> bool {
        let _one_at_a_time = self.damaged.repair.lock();
        let before = queue.entry(offset);
        if let Some(now) = before.filter(|entry| self.is_anchor(queue, entry, offset)) {
            // Another reader has repaired it meanwhile, unless the record itself is damaged.
            return now != *read;
        }
        if !self.damaged.is_new(queue, offset) {
            return false;
        }
        let found = self.records_around(queue, offset);
        let right = found.get(&offset).copied();
        if right.is_none() || right == before {
            tracing::error!(
                topic = queue.topic(), queue = queue.id(), offset, entry = ?before,
                "an entry of the consume queue leads to no record of its own, and the commit log has none beside it: the message is left out"
            );
            return false;
        }
        match queue.rewrite(&found) {
            Ok(entries) => {
                tracing::warn!(
                    topic = queue.topic(),
                    queue = queue.id(),
                    offset,
                    entries,
                    "entries of the consume queue were damaged, and are built again from the commit log"
                );
                entries > 0
            }
            Err(error) => {
                tracing::error!(topic = queue.topic(), queue = queue.id(), offset, %error, "a damaged entry of the consume queue cannot be written again");
                false
            }
        }
    }

    /// Whether the entry leads to a record that says that it is the queue's one at `offset`.
    fn is_anchor(&self, queue: &Queue, entry: &CqEntry, offset: i64) -> bool {
        let position = entry.physical_offset as u64;
        let Some(segment) = self.log.segment(position) else { return false };
        matches!(
            segment.bytes_from(position, self.visible()).map(record::read),
            Some(Entry::Record(record)) if record.physical_offset() == entry.physical_offset
                && record.bytes().len() as i64 == i64::from(entry.size)
                && lmq::offset_in(&record, queue) == Some(offset)
        )
    }

    /// The entries of the queue's records between those of the next sound entries on both sides of `offset`.
    fn records_around(&self, queue: &Queue, offset: i64) -> BTreeMap<i64, CqEntry> {
        let (min, max) = (queue.min_offset(), queue.max_offset());
        let anchor =
            |at: i64| queue.entry(at).filter(|entry| self.is_anchor(queue, entry, at)).map(|entry| (at, entry));
        let below = (min.max(offset - MAX_NEIGHBOURS)..offset).rev().find_map(anchor);
        let above = (offset + 1..max.min(offset + MAX_NEIGHBOURS)).find_map(anchor);
        let (first, mut position) = match below {
            Some((at, entry)) => (at, entry.physical_offset as u64 + entry.size as u64),
            None if offset - min < MAX_NEIGHBOURS => (min - 1, self.log.start()),
            None => return BTreeMap::new(),
        };
        let (last, end) = above.map_or((max, self.visible()), |(at, entry)| (at, entry.physical_offset as u64));
        let end = end.min(position.saturating_add(MAX_SCAN));
        let (mut found, mut hashes) = (BTreeMap::new(), Vec::new());
        while position < end
            && let Some(segment) = self.log.segment(position)
            && let Some(bytes) = segment.bytes_from(position, self.visible())
        {
            match record::read(bytes) {
                Entry::Record(record) if record.physical_offset() as u64 == position => {
                    position += record.bytes().len() as u64;
                    let at = lmq::offset_in(&record, queue).filter(|at| first < *at && *at < last);
                    let Some(at) = at else { continue };
                    // Of a topic that was made again the later record counts.
                    let item = self.item_of(&record, &mut hashes).filter(|(_, item)| item.in_queue);
                    found.extend(item.map(|(_, item)| (at, item.entry())));
                }
                Entry::Blank => position = segment.end(),
                Entry::Record(_) | Entry::Invalid(_) => position = self.next_sound(&segment, position + 1),
            }
        }
        found
    }
}
