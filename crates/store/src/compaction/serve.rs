//! Reading of a compacted queue: the copy as far as it goes, the log behind it (RocketMQ 5.5 `CompactionLog.getMessage`).
//! Offsets have holes: a read at one goes on at the next message there is.

use std::io;

use ferromq_protocol::record::Record;

use super::copy::Compacted;
use super::pair::scan;
use crate::queue::{CqEntry, Kind, Queue};
use crate::read::{Boundary, MAX_MESSAGES, ReadOutcome, ReadStatus};
use crate::store::Inner;

/// How often a read begins again because the log became shorter meanwhile.
const MAX_TRIES: usize = 16;

impl Inner {
    /// [`crate::Store::read`] of a compacted queue.
    pub fn read_compacted(
        &self,
        (queue, copy): (&Queue, &Compacted),
        offset: i64,
        limits: (u32, u32),
        filter: &mut dyn FnMut(&CqEntry) -> bool,
        out: &mut Vec<u8>,
    ) -> ReadOutcome {
        let (before, mut tries) = (out.len(), 0);
        loop {
            // In this order: what leaves the log between the two is in the copy.
            let (log_start, copied) = (self.log.start(), copy.end());
            let from = if offset < copied {
                let outcome = self.read_copy((queue, copy), offset, limits, filter, out);
                if outcome.status != ReadStatus::NoMatchedMessage || outcome.next_offset < copied {
                    return outcome;
                }
                if copied >= queue.max_offset() {
                    return outcome;
                }
                copied
            } else {
                offset
            };
            let outcome = self.read(queue, from, limits.0, limits.1, filter, out);
            // What left the log meanwhile is in the copy.
            let is_whole = self.log.start() == log_start || copy.end() <= from;
            tries += 1;
            if is_whole || tries == MAX_TRIES {
                return ReadOutcome { min_offset: queue.min_offset(), ..outcome };
            }
            out.truncate(before);
        }
    }

    /// Reads the copy, on to its end.
    fn read_copy(
        &self,
        (queue, copy): (&Queue, &Compacted),
        offset: i64,
        (max_messages, max_bytes): (u32, u32),
        filter: &mut dyn FnMut(&CqEntry) -> bool,
        out: &mut Vec<u8>,
    ) -> ReadOutcome {
        // Before the queue's end: what is copied by now is not beyond it.
        let copied = copy.end();
        let mut result = ReadOutcome {
            status: ReadStatus::NoMatchedMessage,
            next_offset: offset,
            min_offset: queue.min_offset(),
            max_offset: queue.max_offset(),
            count: 0,
            cold: false,
        };
        let (before, max_messages) = (out.len(), max_messages.min(MAX_MESSAGES));
        let most = (self.config.max_filter_message_size as usize / Kind::Batch.unit()).max(max_messages as usize);
        let mut seen = 0;
        let read = copy.end_position().and_then(|end| {
            scan(&copy.pairs(), offset, |pair, entry| {
                let cold = self.is_far(entry.physical_offset as u64, end as u64);
                let bytes = out.len() - before;
                let is_full =
                    result.count > 0 && self.is_full(entry, cold, max_messages, max_bytes, result.count, bytes);
                if is_full || seen == most {
                    result.cold = cold;
                    return Ok(false);
                }
                seen += 1;
                // A damaged entry leads neither back nor beyond the end; what was copied since is read the next time.
                if !(result.next_offset..result.max_offset).contains(&entry.queue_offset) {
                    return Ok(true);
                }
                if filter(entry) {
                    match pair.record(entry)? {
                        Some(record) => {
                            out.extend_from_slice(record.bytes());
                            (result.status, result.cold) = (ReadStatus::Found, cold);
                            result.count += 1;
                        }
                        None => copy.tell_damage(pair, entry),
                    }
                }
                result.next_offset = entry.end().clamp(result.next_offset, result.max_offset);
                Ok(true)
            })
            .map(|()| seen)
        });
        match read {
            // All that is left of the copy was looked at.
            Ok(seen) if seen < most && result.count == 0 => result.next_offset = copied.max(result.next_offset),
            Ok(_) => {}
            Err(error) => {
                copy.tell_unreadable(offset, &error);
                if result.count == 0 {
                    result.status = ReadStatus::OffsetFoundNull;
                }
            }
        }
        result
    }

    /// Shows the record of an entry that [`crate::Store::read`] or [`crate::Store::entry`] gave for the queue.
    pub fn look_entry<R>(&self, queue: &Queue, entry: &CqEntry, f: impl FnOnce(&Record<'_>) -> R) -> Option<R> {
        match queue.compacted() {
            // An entry of a simple queue does not say when its record was stored.
            Some(copy) if entry.store_timestamp != 0 => self.told(copy, copy.look(entry.queue_offset, f)).flatten(),
            _ => self.look(entry.physical_offset as u64, f),
        }
    }

    /// The entry at an offset of a compacted queue.
    pub fn compacted_entry(&self, queue: &Queue, copy: &Compacted, offset: i64) -> Option<CqEntry> {
        if offset >= copy.end() {
            return queue.entry(offset).filter(|entry| !entry.is_blank());
        }
        self.next_compacted(copy, offset).filter(|entry| entry.queue_offset == offset)
    }

    /// The entry at an offset of the copy, or the next one there is.
    pub fn next_compacted(&self, copy: &Compacted, offset: i64) -> Option<CqEntry> {
        self.told(copy, copy.entry_from(offset)).flatten().map(|(_, entry)| entry)
    }

    /// Whether the message at an offset of the copy is probably in memory.
    pub fn is_copy_in_memory(&self, copy: &Compacted, offset: i64) -> bool {
        let place = copy
            .entry_from(offset)
            .and_then(|found| Ok(found.map(|(_, e)| e.physical_offset).zip(Some(copy.end_position()?))));
        !matches!(place, Ok(Some((position, end))) if self.is_far(position as u64, end as u64))
    }

    /// The offset of a time in the copy; `None` if the log has to be asked.
    pub fn search_copy_by_time(&self, copy: &Compacted, time_ms: i64, boundary: Boundary) -> Option<i64> {
        let pairs = copy.pairs();
        let search = || -> io::Result<Option<i64>> {
            let mut before = None;
            for pair in pairs.iter() {
                let at = pair.partition(|entry| match boundary {
                    Boundary::Lower => entry.store_timestamp >= time_ms,
                    Boundary::Upper => entry.store_timestamp > time_ms,
                })?;
                let found = pair.entry(at)?;
                match (boundary, found) {
                    (Boundary::Lower, Some(found)) => return Ok(Some(found.queue_offset)),
                    (Boundary::Upper, Some(_)) => {
                        let last = at.checked_sub(1).map_or(Ok(before), |at| pair.entry(at))?;
                        return Ok(last.or(pair.first()?).map(|entry| entry.queue_offset));
                    }
                    (_, None) => before = pair.last()?.or(before),
                }
            }
            Ok(None)
        };
        self.told(copy, search()).flatten()
    }

    /// The offset of the last message of the copy.
    pub fn last_of_copy(&self, copy: &Compacted) -> Option<i64> {
        let last = copy.pairs().iter().rev().find_map(|pair| pair.last().transpose()).transpose();
        self.told(copy, last).flatten().map(|entry| entry.queue_offset)
    }

    fn told<T>(&self, copy: &Compacted, found: io::Result<T>) -> Option<T> {
        found.inspect_err(|error| tracing::error!("the compacted queue {copy:?} cannot be read: {error}")).ok()
    }
}
