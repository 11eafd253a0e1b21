//! The delay levels: queue `level - 1` of SCHEDULE_TOPIC_XXXX for each, its entries carrying the time of delivery instead
//! of a tag. Messages of one level wait equally long, so the first is always the next; one cursor for each is all.
//!
//! Owned by the thread that delivers. Levels beyond the configured ones are served while they hold messages.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use ferromq_common::clock;
use ferromq_protocol::record::{self, Entry};
use ferromq_store::{AppendError, CqEntry, Queue};

use super::delivery::{Delivery, has_arrived};
use crate::broker::Shared;

/// Most delay levels.
pub(super) const MAX_LEVELS: usize = 256;
/// Messages delivered in one turn, so that timer messages get theirs.
const MAX_TURN: usize = 4096;

struct Level {
    queue: Arc<Queue>,
    /// Milliseconds; `None` if the configuration has no such level any more.
    delay: Option<i64>,
    /// The next message to look at, and the first that may not be delivered yet.
    next: i64,
    done: i64,
    /// Messages before it may have been delivered before the restart.
    in_doubt: i64,
}

pub(super) struct Levels {
    broker: Arc<Shared>,
    levels: Vec<Level>,
    delivery: Delivery,
    record: Vec<u8>,
    /// Deliveries before the restart cannot be younger, milliseconds since 1970.
    doubt_until: i64,
}

impl Levels {
    pub fn new(broker: &Arc<Shared>) -> Self {
        let delays = &broker.timer.delays;
        let offsets = broker.timer.marks.delay_offsets();
        let levels = broker.timer.levels.iter().zip(offsets).enumerate().map(|(at, (queue, offset))| {
            let offset = offset.clamp(queue.min_offset(), queue.max_offset());
            let (queue, delay) = (Arc::clone(queue), delays.get(at).copied());
            Level { in_doubt: queue.max_offset(), queue, delay, next: offset, done: offset }
        });
        Self {
            levels: levels.collect(),
            delivery: Delivery::new(broker),
            record: Vec::new(),
            doubt_until: broker.store.last_store_timestamp(),
            broker: Arc::clone(broker),
        }
    }

    /// The first message of each level that may not be delivered yet.
    pub fn offsets(&self) -> impl Iterator<Item = i64> {
        self.levels.iter().map(|level| level.done)
    }

    /// Position in the log behind what was delivered.
    pub fn end(&self) -> u64 {
        self.delivery.end
    }

    /// Delivers what is due; when the next message is.
    pub fn turn(&mut self) -> Result<Option<i64>, AppendError> {
        let now = clock::now_millis();
        let mut room = MAX_TURN;
        for at in 0..self.levels.len() {
            self.deliver_level(at, now, &mut room)?;
        }
        self.flush()?;
        let due = self.broker.timer.level_due.iter().map(|due| due.load(Ordering::SeqCst)).min();
        Ok(due.filter(|due| *due < i64::MAX))
    }

    fn deliver_level(&mut self, at: usize, now: i64, room: &mut usize) -> Result<(), AppendError> {
        let broker = Arc::clone(&self.broker);
        let first_due = &broker.timer.level_due[at];
        loop {
            let level = &mut self.levels[at];
            level.next = level.next.max(level.queue.min_offset());
            let Some(entry) = level.next_entry(&self.broker) else {
                // Whoever dispatches next sees that nothing is awaited, or this sees what was dispatched meanwhile.
                first_due.store(i64::MAX, Ordering::SeqCst);
                if level.queue.max_offset() <= level.next {
                    return Ok(());
                }
                continue;
            };
            let due = level.due(&entry, now);
            if due > now || *room == 0 {
                first_due.store(due.min(entry.tags_code), Ordering::SeqCst);
                return Ok(());
            }
            *room -= 1;
            self.take(at, &entry);
            if self.delivery.is_full() {
                self.flush()?;
            }
        }
    }

    /// Puts the level's next message on its way.
    fn take(&mut self, at: usize, entry: &CqEntry) {
        let level = &mut self.levels[at];
        let offset = level.next;
        level.next += 1;
        self.record.clear();
        let found = self.broker.store.record_at(entry.physical_offset as u64, &mut self.record);
        let (Some(_), Entry::Record(record)) = (found, record::read(&self.record)) else {
            tracing::warn!(queue = ?level.queue, offset, "the log has no record for a delayed message any more");
            return;
        };
        let in_doubt = offset < level.in_doubt && entry.tags_code <= self.doubt_until;
        if !(in_doubt && has_arrived(&self.broker, &record)) {
            self.delivery.add(&record, &[]);
        }
    }

    fn flush(&mut self) -> Result<(), AppendError> {
        let stored = self.delivery.finish();
        for level in &mut self.levels {
            match stored {
                Ok(()) => level.done = level.next,
                Err(_) => level.next = level.done,
            }
        }
        stored
    }
}

impl Level {
    /// The entry at `next`, or behind it where entries cannot be read.
    fn next_entry(&mut self, broker: &Shared) -> Option<CqEntry> {
        while self.next < self.queue.max_offset() {
            if let Some(entry) = broker.store.entry(&self.queue, self.next) {
                return Some(entry);
            }
            self.next += 1;
        }
        None
    }

    /// When the message is due. One that seems to wait longer than its level is due now: the clock was set back.
    fn due(&self, entry: &CqEntry, now: i64) -> i64 {
        match self.delay {
            Some(delay) if entry.tags_code > now + delay => now,
            _ => entry.tags_code,
        }
    }
}
