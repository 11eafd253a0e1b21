//! Entries of consume queues that are found damaged when they are read, built again from the log.
//!
//! A start looks at the ends of queue files, since it must not read all of them. What lies between is looked at by whoever
//! reads it: an entry that leads to no record of its own is searched for in the log, between the records of the entries
//! around it. A queue's records stand in the log in its order, so no other place has to be looked at.

use std::collections::BTreeMap;
use std::ops::Range;

use ferromq_protocol::record::{self, Entry};

use crate::lives::Ended;
use crate::lmq;
use crate::queue::{CqEntry, Queue};
use crate::store::Inner;

/// Most bytes of log that are read for one repair; what lies further off is repaired when it is read itself.
const MAX_SCAN: u64 = 64 << 20;
/// Most bytes of damaged log in which one repair looks for the next record, byte by byte: larger than any record, and a
/// hundredth of a second of whoever reads.
const MAX_HUNT: u64 = 8 << 20;
/// Most entries that are looked at on either side of a damaged one, for one that leads to its record.
const MAX_NEIGHBOURS: i64 = 16_384;

impl Inner {
    /// Whether the entry at `index`, which was read as `read`, was damaged and now is right, with others beside it: it is
    /// to be read again.
    pub fn repair_entry(&self, queue: &Queue, index: i64, read: &CqEntry) -> bool {
        let _one_at_a_time = self.damaged.repair.lock();
        let before = queue.entry_at(index);
        if let Some(now) = before.filter(|entry| self.is_anchor(queue, entry)) {
            // Another reader has repaired it meanwhile, unless the record itself is damaged.
            return now != *read;
        }
        if !self.damaged.is_new(queue, index) {
            return false;
        }
        let found = self.records_around(queue, index);
        let right = found.get(&index).copied();
        if right.is_none() || right == before {
            tracing::error!(
                topic = queue.topic(), queue = queue.id(), index, entry = ?before,
                "an entry of the consume queue leads to no record of its own, and the commit log has none beside it: the message is left out; if it was only too far off, checking and rebuilding the stopped store brings it back"
            );
            return false;
        }
        match queue.rewrite(&found) {
            Ok(entries) => {
                tracing::warn!(
                    topic = queue.topic(),
                    queue = queue.id(),
                    index,
                    entries,
                    "entries of the consume queue were damaged, and are built again from the commit log"
                );
                entries > 0
            }
            Err(error) => {
                tracing::error!(topic = queue.topic(), queue = queue.id(), index, %error, "a damaged entry of the consume queue cannot be written again");
                false
            }
        }
    }

    /// Whether the entry leads to a record that says that it is the queue's one at the entry's offset.
    fn is_anchor(&self, queue: &Queue, entry: &CqEntry) -> bool {
        let position = entry.physical_offset as u64;
        let Some(segment) = self.log.segment(position) else { return false };
        matches!(
            segment.bytes_from(position, self.visible()).map(record::read),
            Some(Entry::Record(record)) if record.physical_offset() == entry.physical_offset
                && record.bytes().len() as i64 == i64::from(entry.size)
                && lmq::offset_in(&record, queue) == Some(entry.queue_offset)
                && queue.holds(entry, &record)
        )
    }

    /// The entries of the queue's records between those of the next sound entries on both sides of `index`, by theirs.
    fn records_around(&self, queue: &Queue, index: i64) -> BTreeMap<i64, CqEntry> {
        let place = self.place_of(queue, index);
        let found = self.records_in(queue, &place);
        if !queue.is_batch() {
            // Of a topic that was made again the later record counts.
            return found
                .into_iter()
                .map(|e| (e.queue_offset, e))
                .filter(|(at, _)| place.indices.contains(at))
                .collect();
        }
        // With a record lost, nothing tells which entry was its.
        let is_whole = found.len() as i64 == place.indices.end - place.indices.start;
        if is_whole { place.indices.zip(found).collect() } else { BTreeMap::new() }
    }

    /// The entries of the queue's records there.
    fn records_in(&self, queue: &Queue, &Place { mut position, end, .. }: &Place) -> Vec<CqEntry> {
        let (mut found, mut hashes, mut hunt) = (Vec::new(), Vec::new(), MAX_HUNT);
        // The queue is there.
        let ended = Ended::default();
        while position < end
            && let Some(segment) = self.log.segment(position)
            && let Some(bytes) = segment.bytes_from(position, self.visible())
        {
            match record::read(bytes) {
                Entry::Record(record) if record.physical_offset() as u64 == position => {
                    position += record.bytes().len() as u64;
                    let Some(queue_offset) = lmq::offset_in(&record, queue) else { continue };
                    let item = self.item_of(&record, &ended, &mut hashes).filter(|(_, item)| item.in_queue);
                    found.extend(item.map(|(_, item)| CqEntry { queue_offset, ..item.entry(queue.kind()) }));
                }
                Entry::Blank => position = segment.end(),
                Entry::Record(_) | Entry::Invalid(_) => {
                    let next = self.next_sound(&segment, position + 1, end.min(position.saturating_add(hunt)));
                    hunt = hunt.saturating_sub(next - position);
                    if hunt == 0 {
                        break;
                    }
                    position = next;
                }
            }
        }
        found
    }

    /// Where the record of a damaged entry can stand, cut to [`MAX_SCAN`].
    fn place_of(&self, queue: &Queue, index: i64) -> Place {
        let around = queue.first_index().max(index - MAX_NEIGHBOURS)..queue.end_index().min(index + MAX_NEIGHBOURS);
        let log_start = self.log.start();
        let position = |entry: &CqEntry| entry.physical_offset as u64;
        // In front of those of a batch queue that are of use stand some whose records are gone.
        let is_gone = |entry: &CqEntry| queue.is_batch() && (1..log_start).contains(&position(entry));
        let entry = |at: i64| queue.entry_at(at).map(|entry| (at, entry));
        let below = |at| entry(at).filter(|(_, e)| self.is_anchor(queue, e) || is_gone(e));
        let below = (around.start..index).rev().find_map(below);
        let above = (index + 1..around.end).find_map(|at| entry(at).filter(|(_, e)| self.is_anchor(queue, e)));
        let end = above.as_ref().map_or(self.visible(), |(_, entry)| position(entry));
        let begin = match (&below, &above) {
            (Some((_, entry)), _) => position(entry) + entry.size as u64,
            // Records near the next one are the likeliest.
            (None, Some(_)) => end.saturating_sub(MAX_SCAN),
            // No entry to go by: the place that the damaged one names may still be right.
            (None, None) => queue.entry_at(index).map_or(0, |entry| position(&entry)),
        };
        let begin = if begin < end { begin.max(log_start) } else { log_start };
        Place {
            indices: below.map_or(around.start, |(at, _)| at + 1)..above.map_or(around.end, |(at, _)| at),
            position: begin,
            end: end.min(begin.saturating_add(MAX_SCAN)),
        }
    }
}

/// A part of the log, and the indices that the entries of its records may have in the queue.
struct Place {
    indices: Range<i64>,
    /// Bytes, where the search begins; not always at a record.
    position: u64,
    end: u64,
}
