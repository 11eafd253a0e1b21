//! Reading: messages of a queue, one record by its place, the offset of a time (RocketMQ 5.5
//! `DefaultMessageStore.getMessage`, `ConsumeQueue.getOffsetInQueueByTime`).
//!
//! Records are copied from the mapping of their file straight into the caller's buffer, and what was copied is checked:
//! place and length against the entry of the consume queue, which is never trusted, the body against its CRC. A damaged
//! entry is built again (`repair.rs`); a damaged record is reported once (`damage.rs`) and left out; what follows it is
//! served.

use std::sync::Arc;

use ferromq_protocol::properties::{self, names};
use ferromq_protocol::record::{self, Glance, Record};

use crate::commit_log::Segment;
use crate::lmq;
use crate::mapped::prefetch;
use crate::queue::{CqEntry, MAX_UNIT, Queue};
use crate::store::{Inner, Store};

/// Entries fetched from a queue at once.
const FETCH: usize = 64;
/// Most messages of one read, whatever is asked for.
pub(crate) const MAX_MESSAGES: u32 = 1024;
/// Most offsets without an entry that are passed over in search of one.
const MAX_HOLE: i64 = 1024;

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
    /// Messages in the records appended.
    pub count: u32,
    /// The next record lies so far back that it may have to come from the disk.
    pub cold: bool,
}

impl Store {
    /// Whether the kernel reads ahead in the log's files (RocketMQ's `dataReadAheadEnable`): it should where consumers read
    /// whole stretches of old messages, and not where many queues are read from the disk a little each.
    pub fn set_log_read_ahead(&self, on: bool) {
        self.inner.log.set_read_ahead(on);
    }

    /// Shows the record at `physical_offset` where it lies in the mapped file, without a copy. `None` if no visible record
    /// begins there.
    pub fn look<R>(&self, physical_offset: u64, f: impl FnOnce(&Record<'_>) -> R) -> Option<R> {
        self.inner.look(physical_offset, f)
    }

    /// The same of an entry that [`Store::read`] shows or [`Store::entry`] gives for a queue.
    pub fn look_entry<R>(&self, queue: &Queue, entry: &CqEntry, f: impl FnOnce(&Record<'_>) -> R) -> Option<R> {
        self.inner.look_entry(queue, entry, f)
    }

    /// Appends the record at `physical_offset` to `out`; its length. `None` if no visible record begins there.
    pub fn record_at(&self, physical_offset: u64, out: &mut Vec<u8>) -> Option<usize> {
        self.inner.record_at(physical_offset, out)
    }
}

impl Inner {
    /// See [`crate::Store::look`].
    pub fn look<R>(&self, position: u64, f: impl FnOnce(&Record<'_>) -> R) -> Option<R> {
        let segment = self.log.segment(position)?;
        match record::read(segment.bytes_from(position, self.visible())?) {
            record::Entry::Record(record) if record.physical_offset() as u64 == position => {
                if record.is_body_intact() {
                    return Some(f(&record));
                }
                self.damaged(&segment, position, record.bytes().len() as i32);
                None
            }
            _ => None,
        }
    }

    /// See [`crate::Store::read`]; what the log has, of a compacted queue too.
    pub fn read(
        &self,
        queue: &Queue,
        offset: i64,
        max_messages: u32,
        max_bytes: u32,
        filter: &mut dyn FnMut(&CqEntry) -> bool,
        out: &mut Vec<u8>,
    ) -> ReadOutcome {
        let (min, max) = (queue.log_min(), queue.max_offset());
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
        let (limit, log_start) = (self.visible(), self.log.start());
        let max_messages = max_messages.min(MAX_MESSAGES);
        let (kind, unit) = (queue.kind(), queue.kind().unit());
        let max_scan = (self.config.max_filter_message_size as usize / unit).max(max_messages as usize) as i64;
        let mut result = outcome(ReadStatus::NoMatchedMessage, offset);
        let mut entries = [0; FETCH * MAX_UNIT];
        let mut index = queue.index_of(offset);
        let mut near: Option<Arc<Segment>> = None;
        let before = out.len();
        // A queue's records lie in the log in its order.
        let mut passed = 0;
        'scan: while result.next_offset < max && result.next_offset - offset < max_scan {
            let want = (max_scan - (result.next_offset - offset)).min(max - result.next_offset);
            // Without a filter no more entries are needed than messages.
            let want = usize::try_from(want).unwrap_or(FETCH).min(FETCH).min(max_messages.max(1) as usize + 1);
            let fetched = match queue.read(index, &mut entries[..want * unit]) {
                Ok(n) if n > 0 => &entries[..n * unit],
                _ if result.next_offset == offset => {
                    result.status = ReadStatus::OffsetFoundNull;
                    result.next_offset = queue.offset_at((index / queue.per_file() + 1) * queue.per_file()).max(offset);
                    break;
                }
                _ => break,
            };
            let mut following = fetched.chunks_exact(unit).zip(index..).peekable();
            while let Some((bytes, at)) = following.next().filter(|_| result.next_offset < max) {
                let entry = kind.decode(bytes, at);
                if let (Some(segment), Some((next, _))) = (&near, following.peek()) {
                    ask_ahead(segment, &kind.decode(next, 0), limit);
                }
                let position = entry.physical_offset as u64;
                // A filter must not pass over what is no entry.
                let before_it = result.next_offset;
                let is_possible = entry.is_blank()
                    || (entry.is_written()
                        && (passed..limit).contains(&position)
                        && (entry.queue_offset..entry.end()).contains(&before_it));
                if !is_possible && self.repair_entry(queue, at, &entry) {
                    index = queue.index_of(before_it);
                    continue 'scan;
                }
                let cold = self.is_far(position, limit);
                let bytes = out.len() - before;
                if result.count > 0 && self.is_full(&entry, cold, max_messages, max_bytes, result.count, bytes) {
                    result.cold = cold;
                    break 'scan;
                }
                // What may be no entry does not say where the next one begins.
                let end = if is_possible { entry.end() } else { queue.offset_at(at + 1) };
                (index, result.next_offset) = (at + 1, end.clamp(before_it, max));
                if entry.is_blank() || !filter(&entry) {
                    continue;
                }
                if position < log_start {
                    if result.count == 0 {
                        result.status = ReadStatus::MessageWasRemoving;
                    }
                    continue;
                }
                if self.copy(&entry, queue, limit, &mut near, out) {
                    result.cold = cold;
                    result.status = ReadStatus::Found;
                    result.count += u32::from(entry.messages.unsigned_abs());
                    passed = position;
                } else if self.repair_entry(queue, at, &entry) {
                    (index, result.next_offset) = (queue.index_of(before_it), before_it);
                    continue 'scan;
                } else {
                    result.next_offset = queue.offset_at(at + 1).clamp(before_it, max);
                    if let Some(segment) = &near {
                        self.damaged(segment, position, entry.size);
                    }
                }
            }
        }
        result
    }

    /// Appends the record of an entry to `out` if it is sound and says that it stands at the entry's offset of the queue.
    /// `near`: the file of the last one.
    fn copy(
        &self,
        entry: &CqEntry,
        queue: &Queue,
        limit: u64,
        near: &mut Option<Arc<Segment>>,
        out: &mut Vec<u8>,
    ) -> bool {
        let position = entry.physical_offset as u64;
        if near.as_ref().is_none_or(|segment| position < segment.start || position >= segment.end()) {
            *near = self.log.segment(position);
        }
        let (Some(segment), Ok(size)) = (near, usize::try_from(entry.size)) else { return false };
        // The head first: a wrong entry must not make a gigabyte be copied.
        let bytes = segment.bytes_from(position, limit).unwrap_or_default();
        let fits = record::glance(bytes).is_some_and(|g| g.total_size as usize == size && size <= bytes.len());
        let before = out.len();
        if fits {
            out.extend_from_slice(&bytes[..size]);
            let offset = entry.queue_offset;
            let is_here = |r: &Record<'_>| {
                let is_own = (r.queue_id() as u32, r.queue_offset()) == (queue.id(), offset);
                (is_own || lmq::offset_in(r, queue) == Some(offset)) && queue.holds(entry, r)
            };
            if sound(&out[before..], position).as_ref().is_some_and(is_here) {
                return true;
            }
            out.truncate(before);
        }
        false
    }

    pub fn is_full(
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
        let count = count.saturating_add(u32::from(entry.messages.unsigned_abs()));
        count > max_messages.min(limit_count) || after > max_bytes.min(limit_bytes) as usize
    }

    /// Whether a position is so far behind the end that it is probably not in memory.
    pub fn is_far(&self, position: u64, end: u64) -> bool {
        end.saturating_sub(position) > self.recent_bytes
    }

    /// See [`crate::Store::next_entry`].
    pub fn next_entry(&self, queue: &Queue, offset: i64) -> Option<CqEntry> {
        let copy = queue.compacted().filter(|copy| offset < copy.end());
        let copied = copy.map(|copy| (copy.end(), self.next_compacted(copy, offset)));
        let from = match copied {
            Some((_, Some(entry))) => return Some(entry),
            Some((end, None)) => end,
            None => offset,
        };
        let until = from.saturating_add(MAX_HOLE).min(queue.max_offset());
        (from..until).find_map(|offset| queue.entry(offset).filter(|entry| !entry.is_blank()))
    }

    fn glance(&self, entry: &CqEntry) -> Option<Glance> {
        let position = u64::try_from(entry.physical_offset).ok()?;
        let segment = self.log.segment(position)?;
        let glance = record::glance(segment.bytes_from(position, self.visible())?)?;
        let is_it = i64::from(glance.total_size) == i64::from(entry.size);
        (is_it && glance.physical_offset == entry.physical_offset).then_some(glance)
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

    /// See [`crate::Store::record_at`].
    pub fn record_at(&self, position: u64, out: &mut Vec<u8>) -> Option<usize> {
        let segment = self.log.segment(position)?;
        let bytes = segment.bytes_from(position, self.visible())?;
        let glance = record::glance(bytes).filter(|glance| glance.physical_offset as u64 == position)?;
        let (size, before) = (glance.total_size as usize, out.len());
        out.extend_from_slice(bytes.get(..size)?);
        if sound(&out[before..], position).is_some() {
            return Some(size);
        }
        out.truncate(before);
        self.damaged(&segment, position, glance.total_size as i32);
        None
    }

    /// See [`crate::Store::search_by_time`].
    pub fn search_by_time(&self, queue: &Queue, time_ms: i64, boundary: Boundary) -> i64 {
        if let Some(found) = queue.compacted().and_then(|copy| self.search_copy_by_time(copy, time_ms, boundary)) {
            return found;
        }
        let (first, end) = (queue.index_of(queue.log_min()), queue.end_index());
        let stored = |entry: CqEntry| self.glance(&entry).map(|glance| glance.store_timestamp);
        let index = match boundary {
            // Entries whose record is gone are older than all others.
            Boundary::Lower => queue.partition(first, end, |e| stored(e).is_some_and(|t| t >= time_ms)),
            Boundary::Upper => {
                let after = queue.partition(first, end, |e| stored(e).is_some_and(|t| t > time_ms));
                if after > first {
                    after - 1
                } else if let Some(last) = queue.compacted().and_then(|copy| self.last_of_copy(copy)) {
                    return last;
                } else {
                    // RocketMQ's 0, raised to the queue's minimum, if there is none.
                    first
                }
            }
        };
        queue.offset_at(index)
    }

    /// See [`crate::Store::store_time`].
    pub fn store_time(&self, queue: &Queue, offset: i64) -> Option<i64> {
        let in_log = queue.entry(offset).and_then(|entry| self.glance(&entry)).map(|glance| glance.store_timestamp);
        in_log.or_else(|| {
            queue.compacted().and_then(|copy| self.next_compacted(copy, offset)).map(|entry| entry.store_timestamp)
        })
    }

    /// See [`crate::Store::is_in_memory`].
    pub fn is_in_memory(&self, queue: &Queue, offset: i64) -> bool {
        if let Some(copy) = queue.compacted().filter(|copy| offset < copy.end()) {
            return self.is_copy_in_memory(copy, offset);
        }
        queue.entry(offset).is_some_and(|entry| !self.is_far(entry.physical_offset as u64, self.visible()))
    }
}

/// Has the record of an entry fetched while the one before it is copied: records of one queue rarely lie side by side,
/// so the processor cannot foresee the next.
fn ask_ahead(segment: &Segment, entry: &CqEntry, limit: u64) {
    let bytes = segment.bytes_from(entry.physical_offset as u64, limit).unwrap_or_default();
    prefetch(&bytes[..bytes.len().min(usize::try_from(entry.size).unwrap_or(0))]);
}

/// Whether the bytes are the record that belongs at `position`, with the body that was stored.
fn sound(bytes: &[u8], position: u64) -> Option<Record<'_>> {
    let record::Entry::Record(r) = record::read(bytes) else { return None };
    let is_sound = r.bytes().len() == bytes.len() && r.physical_offset() as u64 == position && r.is_body_intact();
    is_sound.then_some(r)
}
