//! Appending: messages are encoded and their CRC computed outside of any lock; under the append lock a batch gets its
//! queue offsets, positions and timestamp, and is written with one `pwrite` (one for each file it spans).

use std::ops::Range;
use std::sync::Arc;

use ferromq_common::clock;
use ferromq_protocol::record;

use crate::commit_log::Segment;
use crate::dispatch::{Group, Item};
use crate::error::AppendError;
use crate::failure::is_out_of_space;
use crate::lmq::{self, Lights};
use crate::store::Inner;

mod ended;
mod facts;
mod fan_out;
mod inner;
mod push;

pub(crate) use facts::{delay, is_folder_name, is_in_queue, tags_code};
pub(crate) use inner::messages_in;
pub use push::Alike;

/// Memory a batch keeps when it is cleared, bytes and messages.
const KEPT_BYTES: usize = 1 << 20;
const KEPT_MESSAGES: usize = 8192;

/// Where a message was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Of its first message.
    pub queue_offset: i64,
    /// Messages in the record; more than one only in an inner batch.
    pub messages: i16,
    /// Position in the log, bytes.
    pub physical_offset: u64,
    /// Bytes of the record.
    pub size: u32,
    /// Milliseconds since 1970.
    pub store_timestamp: i64,
}

/// Messages that are appended together. Reused: [`AppendBatch::clear`] keeps the memory.
#[derive(Default)]
pub struct AppendBatch {
    bytes: Vec<u8>,
    messages: Vec<Message>,
    /// The queues of the messages, in order.
    groups: Vec<Group>,
    /// Key hashes of all messages, in order.
    hashes: Vec<u32>,
    runs: Vec<Run>,
    results: Vec<Appended>,
    end_position: u64,
    /// Some message has light queues.
    fans_out: bool,
    /// Messages that are not stored, by their places among all; the last ones first. Only during the append.
    left_out: Vec<Range<usize>>,
}

struct Message {
    size: u32,
    hash_count: u32,
    tags_code: i64,
    /// In the schedule topic the tags code is the time of delivery: store time plus this, milliseconds.
    delay: Option<i64>,
    /// Prepared and rolled back messages have no place in a queue.
    in_queue: bool,
    /// Messages in it, if it is an inner batch.
    inner: Option<i16>,
    lights: Option<Box<Lights>>,
}

/// Messages that go into one file, one behind the other.
struct Run {
    segment: Arc<Segment>,
    position: u64,
    messages: Range<usize>,
    /// The file ends after this run.
    fills: bool,
}

impl AppendBatch {
    /// Number of messages.
    pub fn len(&self) -> usize {
        self.messages.len().max(self.results.len())
    }

    /// Whether there is no message.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Drops the messages from the `len`-th on. Only before the append.
    pub fn truncate(&mut self, len: usize) {
        if len < self.messages.len() {
            let bytes: usize = self.messages[len..].iter().map(|m| m.size as usize).sum();
            let hashes: usize = self.messages[len..].iter().map(|m| m.hash_count as usize).sum();
            self.bytes.truncate(self.bytes.len() - bytes);
            self.hashes.truncate(self.hashes.len() - hashes);
            let mut surplus = self.messages.len() - len;
            self.messages.truncate(len);
            while let Some(group) = self.groups.last_mut().filter(|_| surplus > 0) {
                let from_this = surplus.min(group.len);
                group.len -= from_this;
                surplus -= from_this;
                if group.len == 0 {
                    self.groups.pop();
                }
            }
        }
    }

    /// Where the messages were stored, after the append.
    pub fn results(&self) -> &[Appended] {
        &self.results
    }

    /// Position in the log behind the last message: what must be on the disk for all of them to be.
    pub fn end_position(&self) -> u64 {
        self.end_position
    }

    /// Empties the batch for its next use.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.messages.clear();
        self.groups.clear();
        self.fans_out = false;
        self.left_out.clear();
        self.hashes.clear();
        self.runs.clear();
        self.results.clear();
        if self.bytes.capacity() > KEPT_BYTES {
            self.bytes.shrink_to(KEPT_BYTES);
        }
        if self.messages.capacity() > KEPT_MESSAGES {
            self.messages.shrink_to(KEPT_MESSAGES);
            self.results.shrink_to(KEPT_MESSAGES);
            self.hashes.shrink_to(KEPT_MESSAGES);
            self.groups.shrink_to(KEPT_MESSAGES);
        }
    }

    /// Where each message goes: into `segment` as long as there is room, then into the files after it.
    fn place(
        &mut self,
        mut position: u64,
        mut segment: Arc<Segment>,
        next: impl Fn(u64) -> std::io::Result<Arc<Segment>>,
    ) -> std::io::Result<()> {
        self.runs.clear();
        let mut first = 0;
        let mut rest = self.bytes.len() as u64;
        loop {
            let mut room = segment.end() - position;
            if rest + record::BLANK_BYTES as u64 <= room {
                self.runs.push(Run { segment, position, messages: first..self.messages.len(), fills: false });
                return Ok(());
            }
            let mut end = first;
            while let Some(m) = self.messages.get(end)
                && u64::from(m.size) + record::BLANK_BYTES as u64 <= room
            {
                room -= u64::from(m.size);
                rest -= u64::from(m.size);
                end += 1;
            }
            let after = segment.end();
            self.runs.push(Run { segment, position, messages: first..end, fills: true });
            first = end;
            position = after;
            segment = next(position)?;
        }
    }

    /// Writes offsets and timestamp into the records; the position behind the last.
    fn assign(&mut self, now: i64) -> u64 {
        self.results.clear();
        self.results.reserve(self.messages.len());
        let mut groups = self.groups.iter();
        let (mut of_group, mut at, mut position) = (0, 0, 0);
        let mut group = groups.next();
        for run in &self.runs {
            position = run.position;
            for message in &mut self.messages[run.messages.clone()] {
                if group.is_some_and(|group| of_group == group.len) {
                    (group, of_group) = (groups.next(), 0);
                }
                let Some(Group { queue, .. }) = group else { break };
                of_group += 1;
                let size = message.size as usize;
                let messages = message.inner.unwrap_or(1);
                let queue_offset = if message.in_queue { queue.take_next(messages) } else { 0 };
                record::patch(&mut self.bytes[at..at + size], queue_offset, position, now);
                if message.inner.is_some() {
                    inner::write_base(&mut self.bytes[at..at + size], queue_offset);
                }
                if let Some(lights) = &mut message.lights {
                    lights.assign(&mut self.bytes[at..at + size]);
                }
                self.results.push(Appended {
                    queue_offset,
                    messages,
                    physical_offset: position,
                    size: message.size,
                    store_timestamp: now,
                });
                at += size;
                position += size as u64;
            }
        }
        position
    }

    fn write(&self) -> std::io::Result<()> {
        let mut at = 0;
        for run in &self.runs {
            let len: usize = self.messages[run.messages.clone()].iter().map(|m| m.size as usize).sum();
            let offset = run.position - run.segment.start;
            if len > 0 {
                run.segment.file.write_at(&self.bytes[at..at + len], offset)?;
            }
            if run.fills {
                let room = run.segment.size - offset - len as u64;
                if room >= record::BLANK_BYTES as u64 {
                    run.segment.file.write_at(&record::blank(room as u32), offset + len as u64)?;
                }
            }
            at += len;
        }
        Ok(())
    }

    /// Takes the assigned offsets back.
    fn unassign(&mut self) {
        let mut end = self.messages.len();
        for group in self.groups.iter().rev() {
            let of_it = end - group.len..end;
            let first = of_it.clone().find(|at| self.messages[*at].in_queue);
            if let Some(taken) = first.and_then(|at| self.results.get(at)) {
                group.queue.give_back(taken.queue_offset);
            }
            end = of_it.start;
        }
        self.messages.iter().rev().filter_map(|message| message.lights.as_ref()).for_each(|lights| lights.unassign());
        self.results.clear();
    }
}

impl Message {
    fn item(&self, at: &Appended) -> Item {
        Item {
            queue_offset: at.queue_offset,
            physical_offset: at.physical_offset,
            size: at.size,
            hash_count: self.hash_count,
            tags_code: self.delay.map_or(self.tags_code, |delay| at.store_timestamp + delay),
            store_timestamp: at.store_timestamp,
            messages: at.messages,
            in_queue: self.in_queue,
            fans_out: false,
        }
    }
}

impl Inner {
    /// See [`crate::Store::append`].
    pub fn append(&self, batch: &mut AppendBatch) -> Result<(), AppendError> {
        self.check_writeable()?;
        if batch.messages.is_empty() {
            batch.end_position = self.log.end();
            return Ok(());
        }
        let mut tail = self.log.tail.lock();
        // It may have failed while this thread waited.
        self.check_writeable()?;
        batch.leave_out_ended();
        if batch.messages.is_empty() {
            batch.results.clear();
            batch.answer_left_out();
            batch.end_position = tail.position;
            return Ok(());
        }
        let now = clock::now_millis();
        let first = match tail.segment.take() {
            Some(segment) if tail.position < segment.end() => Ok(segment),
            _ => self.next_segment(tail.position),
        };
        let placed = first.and_then(|segment| {
            tail.segment = Some(Arc::clone(&segment));
            batch.place(tail.position, segment, |position| self.next_segment(position))
        });
        placed.map_err(|error| self.no_space("making the next commit log file", &error))?;
        if batch.fans_out {
            let lights = batch.messages.iter_mut().filter_map(|message| message.lights.as_mut());
            lights.for_each(|lights| lights.resolve(|name| self.queue(name, lmq::QUEUE_ID)));
        }
        let end = batch.assign(now);
        if let Err(error) = batch.write() {
            batch.unassign();
            return Err(if is_out_of_space(&error) {
                self.no_space("writing to the commit log", &error)
            } else {
                AppendError::ReadOnly { reason: self.fail("writing to the commit log", &error) }
            });
        }
        tail.position = end;
        tail.segment = batch.runs.last().map(|run| Arc::clone(&run.segment));
        batch.end_position = end;
        {
            let mut pending = self.pending.lock();
            if batch.fans_out {
                let (groups, items) = batch.fan_out();
                pending.push(&batch.hashes, groups.into_iter(), items.into_iter());
            } else {
                let items = batch.messages.drain(..).zip(&batch.results).map(|(m, at)| m.item(at));
                pending.push(&batch.hashes, batch.groups.drain(..), items);
            }
            self.log.publish(end, now);
        }
        drop(tail);
        batch.answer_left_out();
        batch.runs.clear();
        if self.log.wants_preparation(end) {
            self.background.want_segment();
        }
        self.background.log_reached(end);
        self.flusher.wake();
        Ok(())
    }

    fn next_segment(&self, position: u64) -> std::io::Result<Arc<Segment>> {
        let made = self.log.segment_for_append(position);
        self.log_file_made(&made);
        made
    }

    /// Nothing was stored, and the next append tries again.
    fn no_space(&self, what: &str, error: &std::io::Error) -> AppendError {
        let reason = format!(
            "{what} failed: {error}; free space on the volume of {} (the next file takes {} bytes), writes are accepted again then",
            self.config.root.display(),
            self.config.mapped_file_size_commit_log,
        );
        tracing::error!("{reason}");
        AppendError::DiskFull { reason }
    }
}
