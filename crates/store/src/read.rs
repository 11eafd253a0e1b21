//! Reading: messages of a queue, one record by its place, the offset of a time (RocketMQ 5.5
//! `DefaultMessageStore.getMessage`, `ConsumeQueue.getOffsetInQueueByTime`).
//!
//! Records are copied from the mapping of their file straight into the caller's buffer, neighbours in one piece.
//! Entries of a consume queue are never trusted: place and length are checked against the log and the record's head.

use std::sync::Arc;

use ferromq_protocol::properties::{self, names};
use ferromq_protocol::record::{self, Glance, Record};

use crate::commit_log::Segment;
use crate::queue::{CqEntry, Queue, UNIT};
use crate::store::{Inner, Store};

/// Entries fetched from a queue at once.
const FETCH: usize = 64;

/// Which end of equal timestamps a search by time wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Boundary {
    /// The first message stored at or after the time.
    Lower,
    /// The last message stored at or before the time.
    Upper,
}

/// What a read met (RocketMQ's `GetMessageStatus`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadStatus {
    Found,
    /// Entries were there, but none passed the filter.
    NoMatchedMessage,
    /// The log has no records for the entries any more.
    MessageWasRemoving,
    /// The queue never had a message.
    NoMessageInQueue,
    OffsetTooSmall,
    /// The offset is the queue's end.
    OffsetOverflowOne,
    /// The offset is beyond the queue's end.
    OffsetOverflowBadly,
    /// The queue's file cannot be read at this place.
    OffsetFoundNull,
}

/// The outcome of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadOutcome {
    pub status: ReadStatus,
    /// Where the next read begins.
    pub next_offset: i64,
    pub min_offset: i64,
    pub max_offset: i64,
    /// Records appended.
    pub count: u32,
    /// The next record lies so far back that it may have to come from the disk.
    pub cold: bool,
}

/// Records that lie one behind the other in one file, not yet copied.
struct Run {
    segment: Arc<Segment>,
    from: u64,
    to: u64,
}

impl Run {
    fn copy(self, out: &mut Vec<u8>) {
        // Checked record by record when the run was built.
        out.extend_from_slice(self.segment.bytes_from(self.from, self.to).unwrap_or_default());
    }
}

impl Store {
    /// Shows the record at `physical_offset` where it lies in the mapped file, without a copy. `None` if no visible record
    /// begins there.
    pub fn look<R>(&self, physical_offset: u64, f: impl FnOnce(&Record<'_>) -> R) -> Option<R> {
        let segment = self.inner.log.segment(physical_offset)?;
        match record::read(segment.bytes_from(physical_offset, self.inner.visible())?) {
            record::Entry::Record(record) if record.physical_offset() as u64 == physical_offset => Some(f(&record)),
            _ => None,
        }
    }

    /// Appends the record at `physical_offset` to `out`; its length. `None` if no visible record begins there.
    pub fn record_at(&self, physical_offset: u64, out: &mut Vec<u8>) -> Option<usize> {
        self.look(physical_offset, |record| {
            out.extend_from_slice(record.bytes());
            record.bytes().len()
        })
    }
}

impl Inner {
    /// See [`crate::Store::read`].
    pub fn read(
        &self,
        queue: &Queue,
        offset: i64,
        max_messages: u32,
        max_bytes: u32,
        filter: &mut dyn FnMut(&CqEntry) -> bool,
        out: &mut Vec<u8>,
    ) -> ReadOutcome {
        let (min, max) = (queue.min_offset(), queue.max_offset());
        let outcome = |status, next_offset| ReadOutcome {
            status,
            next_offset,
            min_offset: min,
            max_offset: max,
            count: 0,
            cold: false,
        };
        match offset {
            _ if max == 0 => return outcome(ReadStatus::NoMessageInQueue, 0),
            _ if offset < min => return outcome(ReadStatus::OffsetTooSmall, min),
            _ if offset == max => return outcome(ReadStatus::OffsetOverflowOne, offset),
            _ if offset > max => return outcome(ReadStatus::OffsetOverflowBadly, max),
            _ => {}
        }
        let limit = self.visible();
        let max_scan = (self.config.max_filter_message_size as usize / UNIT).max(max_messages as usize) as i64;
        let mut result = outcome(ReadStatus::NoMatchedMessage, offset);
        let mut entries = [[0; UNIT]; FETCH];
        let mut run: Option<Run> = None;
        let mut bytes = 0_usize;
        // Set while records of a file that is gone are skipped.
        let mut gone_before = 0;
        'scan: while result.next_offset < max && result.next_offset - offset < max_scan {
            let want = (max_scan - (result.next_offset - offset)).min(max - result.next_offset);
            // Without a filter no more entries are needed than messages.
            let want = usize::try_from(want).unwrap_or(FETCH).min(FETCH).min(max_messages.max(1) as usize + 1);
            let fetched = match queue.read(result.next_offset, &mut entries[..want]) {
                Ok(n) if n > 0 => n,
                _ if result.next_offset == offset => {
                    result.status = ReadStatus::OffsetFoundNull;
                    let per_file = (queue.context().file_size / UNIT as u64) as i64;
                    result.next_offset = (offset / per_file + 1) * per_file;
                    break;
                }
                _ => break,
            };
            for entry in &entries[..fetched] {
                let entry = CqEntry::decode(entry);
                let position = entry.physical_offset as u64;
                let cold = self.is_far(position, limit);
                if result.count > 0 && self.is_full(&entry, cold, max_messages, max_bytes, result.count, bytes) {
                    result.cold = cold;
                    break 'scan;
                }
                result.next_offset += 1;
                if entry.is_blank() || position < gone_before || !filter(&entry) {
                    continue;
                }
                let Some(segment) = self.find(&entry, limit, run.as_ref()) else {
                    if result.count == 0 {
                        result.status = ReadStatus::MessageWasRemoving;
                    }
                    gone_before = self.log.start();
                    continue;
                };
                result.cold = cold;
                result.status = ReadStatus::Found;
                result.count += 1;
                bytes += entry.size as usize;
                let to = position + entry.size as u64;
                run = match run.take() {
                    Some(mut run) if run.to == position && Arc::ptr_eq(&run.segment, &segment) => {
                        run.to = to;
                        Some(run)
                    }
                    other => {
                        if let Some(run) = other {
                            run.copy(out);
                        }
                        Some(Run { segment, from: position, to })
                    }
                };
            }
        }
        if let Some(run) = run {
            run.copy(out);
        }
        result
    }

    fn is_full(
        &self,
        entry: &CqEntry,
        cold: bool,
        max_messages: u32,
        max_bytes: u32,
        count: u32,
        bytes: usize,
    ) -> bool {
        let config = &self.config;
        let (limit_bytes, limit_count) = match cold {
            false => (config.max_transfer_bytes_on_message_in_memory, config.max_transfer_count_on_message_in_memory),
            true => (config.max_transfer_bytes_on_message_in_disk, config.max_transfer_count_on_message_in_disk),
        };
        let after = bytes + usize::try_from(entry.size).unwrap_or(0);
        count >= max_messages.min(limit_count) || after > max_bytes.min(limit_bytes) as usize
    }

    /// Whether a position is so far behind the end that it is probably not in memory.
    fn is_far(&self, position: u64, end: u64) -> bool {
        end.saturating_sub(position) > self.recent_bytes
    }

    /// The file with the record of an entry, if the log has that record there.
    fn find(&self, entry: &CqEntry, limit: u64, run: Option<&Run>) -> Option<Arc<Segment>> {
        let position = u64::try_from(entry.physical_offset).ok()?;
        let near = run.filter(|run| position >= run.segment.start && position < run.segment.end());
        let segment = match near {
            Some(run) => Arc::clone(&run.segment),
            None => self.log.segment(position)?,
        };
        let glance = record::glance(segment.bytes_from(position, limit)?)?;
        let size = u32::try_from(entry.size).ok()?;
        let fits = position + u64::from(size) <= limit.min(segment.end());
        (fits && glance.total_size == size && glance.physical_offset == entry.physical_offset).then_some(segment)
    }

    fn glance(&self, entry: &CqEntry) -> Option<Glance> {
        let segment = self.find(entry, self.visible(), None)?;
        record::glance(segment.bytes_from(entry.physical_offset as u64, self.visible())?)
    }

    /// Whether the record at `position` is of the topic and has the key: other keys have the same hash.
    pub fn has_key(&self, position: u64, topic: &str, key: &str) -> bool {
        let Some(segment) = self.log.segment(position) else { return false };
        let Some(record::Entry::Record(record)) = segment.bytes_from(position, self.visible()).map(record::read) else {
            return false;
        };
        let key = key.as_bytes();
        record.topic() == topic.as_bytes()
            && properties::iter(record.properties()).any(|(name, value)| {
                (name == names::KEYS.as_bytes() && value.split(|byte| *byte == b' ').any(|part| part == key))
                    || (name == names::UNIQ_CLIENT_MESSAGE_ID_KEYIDX.as_bytes() && value == key)
            })
    }

    /// See [`crate::Store::search_by_time`].
    pub fn search_by_time(&self, queue: &Queue, time_ms: i64, boundary: Boundary) -> i64 {
        let (min, max) = (queue.min_offset(), queue.max_offset());
        let stored = |entry: CqEntry| self.glance(&entry).map(|glance| glance.store_timestamp);
        match boundary {
            // Entries whose record is gone are older than all others.
            Boundary::Lower => queue.partition(min, max, |e| stored(e).is_some_and(|t| t >= time_ms)),
            Boundary::Upper => {
                let after = queue.partition(min, max, |e| stored(e).is_some_and(|t| t > time_ms));
                // RocketMQ's 0, raised to the queue's minimum, if there is none.
                if after == min { min } else { after - 1 }
            }
        }
    }

    /// See [`crate::Store::store_time`].
    pub fn store_time(&self, queue: &Queue, offset: i64) -> Option<i64> {
        Some(self.glance(&queue.entry(offset)?)?.store_timestamp)
    }

    /// See [`crate::Store::is_in_memory`].
    pub fn is_in_memory(&self, queue: &Queue, offset: i64) -> bool {
        queue.entry(offset).is_some_and(|entry| !self.is_far(entry.physical_offset as u64, self.visible()))
    }
}
