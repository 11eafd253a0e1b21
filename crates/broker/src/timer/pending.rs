//! Timer messages: read from rmq_sys_wheel_timer into the wheel, taken out when they are due.
//!
//! The wheel is derived from the log. At a start the queue is read from the first message that may be pending; a message
//! is over when it was read and its slot was done before the mark in `timercheck` was made. Between the mark and the end
//! of the former process lies the doubt, and there the index decides.
//!
//! A message that waits longer than `timerRollWindowSlot` is stored anew in between, as in RocketMQ, so that it does not
//! expire with its log file. A message with TIMER_DEL_UNIQKEY takes back the one of that name in its slot.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ferromq_common::clock;
use ferromq_protocol::properties::{self, names};
use ferromq_protocol::record::{self, Entry, Record};
use ferromq_protocol::topic;
use ferromq_store::{AppendError, Queue};

use super::TimerSettings;
use super::delivery::{Delivery, has_arrived, was_delivered};
use super::marks::TimerMark;
use super::wheel::{Pending, Wheel};
use crate::broker::Shared;

/// Messages read in one turn, so that delay levels get theirs.
const MAX_READ: usize = 8192;
/// Messages delivered in one turn.
const MAX_TURN: usize = 4096;

pub(super) struct Pendings {
    broker: Arc<Shared>,
    settings: TimerSettings,
    queue: Arc<Queue>,
    wheel: Wheel,
    /// The next message of the queue to read.
    cursor: i64,
    /// All slots before it are done.
    read_time: i64,
    before: Before,
    /// The position before which nothing is pending, and the offset of the first message behind it.
    lowest: (Option<u64>, i64),
    delivery: Delivery,
    /// What left the wheel since the last append: it goes back if that fails.
    out: Vec<Pending>,
    /// Messages of `recall_slot` that are taken back: `topic+uniqueKey`.
    recalls: HashSet<String>,
    recall_slot: i64,
    record: Vec<u8>,
}

/// What is known of the time before the start.
struct Before {
    mark: TimerMark,
    /// Messages from this one on are new.
    end: i64,
    /// Deliveries before the start cannot be younger, milliseconds since 1970.
    last: i64,
}

impl Pendings {
    pub fn new(broker: &Arc<Shared>) -> Self {
        let timer = &broker.timer;
        let queue = Arc::clone(&timer.queue);
        let mark = timer.marks.timer_mark();
        let (min, max) = (queue.min_offset(), queue.max_offset());
        let cursor = mark.pending_from.clamp(min, max);
        if cursor < max {
            tracing::info!(messages = max - cursor, "reading the timer messages that may be pending");
        }
        Self {
            settings: timer.settings,
            wheel: Wheel::default(),
            cursor,
            read_time: mark.read_time,
            before: Before { mark, end: max, last: broker.store.last_store_timestamp() },
            lowest: (None, 0),
            delivery: Delivery::new(broker),
            out: Vec::new(),
            recalls: HashSet::new(),
            recall_slot: i64::MIN,
            record: Vec::new(),
            queue,
            broker: Arc::clone(broker),
        }
    }

    /// Whether all that was pending at the start has been read.
    pub fn has_caught_up(&self) -> bool {
        self.cursor >= self.before.end
    }

    /// How far reading and delivery are; `None` while messages wait that a mark would declare done.
    pub fn mark(&mut self) -> Option<TimerMark> {
        if !self.has_caught_up() || self.wheel.next_slot().is_some_and(|slot| slot < self.read_time) {
            return None;
        }
        let lowest = self.wheel.lowest_position();
        if lowest != self.lowest.0 {
            self.lowest =
                (lowest, lowest.map_or(0, |position| first_at_or_behind(&self.broker, &self.queue, position)));
        }
        let pending_from = if lowest.is_some() { self.lowest.1 } else { self.cursor };
        Some(TimerMark { read_time: self.read_time, cursor: self.cursor, pending_from })
    }

    /// Position in the log behind what was delivered.
    pub fn end(&self) -> u64 {
        self.delivery.end
    }

    /// Reads what is new, delivers what is due; when the next message is.
    pub fn turn(&mut self) -> Result<Option<i64>, AppendError> {
        let now = clock::now_millis();
        let has_more = self.read();
        self.broker.timer.pending.store(self.wheel.len() as u64, Ordering::Relaxed);
        // A recall that is still to be read must come before its message is delivered.
        if has_more {
            return Ok(Some(now));
        }
        let end = self.settings.slot(now);
        if self.deliver_before(end)? {
            return Ok(Some(now));
        }
        self.read_time = self.read_time.max(end);
        Ok(self.wheel.next_slot().map(|slot| slot.saturating_add(self.settings.precision)))
    }

    /// Reads messages of the queue into the wheel; whether there are more.
    fn read(&mut self) -> bool {
        let end = self.queue.max_offset();
        self.cursor = self.cursor.max(self.queue.min_offset());
        let stop = end.min(self.cursor + MAX_READ as i64);
        while self.cursor < stop {
            let offset = self.cursor;
            self.cursor += 1;
            let Some(entry) = self.broker.store.entry(&self.queue, offset) else { continue };
            let position = entry.physical_offset as u64;
            let mut bytes = std::mem::take(&mut self.record);
            bytes.clear();
            if self.broker.store.record_at(position, &mut bytes).is_some()
                && let Entry::Record(record) = record::read(&bytes)
            {
                self.take(offset, position, &record);
            }
            self.record = bytes;
        }
        self.cursor < end
    }

    fn take(&mut self, offset: i64, position: u64, record: &Record<'_>) {
        let Some(out_ms) = out_ms(record) else {
            tracing::error!(position, "a message of {} has no time of delivery and is passed over", topic::TIMER);
            return;
        };
        let is_recall = properties::get(record.properties(), names::TIMER_DEL_UNIQKEY).is_some();
        let slot = self.settings.wake_slot(out_ms, record.store_timestamp());
        if offset < self.before.end && self.is_over(offset, slot, out_ms, is_recall, record) {
            return;
        }
        self.wheel.push(Pending { slot, position, is_recall });
    }

    /// Whether a message of the time before the start has been delivered, or stored anew.
    fn is_over(&self, offset: i64, slot: i64, out_ms: i64, is_recall: bool, record: &Record<'_>) -> bool {
        if offset < self.before.mark.cursor && slot < self.before.mark.read_time {
            return true;
        }
        if slot > self.before.last {
            return false;
        }
        match self.settings.slot(out_ms) > slot {
            true => was_delivered(&self.broker, record, topic::TIMER),
            // A recall leaves nothing behind; a second time it finds nothing.
            false => !is_recall && has_arrived(&self.broker, record),
        }
    }

    /// Delivers the messages of all slots before `end`; whether there are more.
    fn deliver_before(&mut self, end: i64) -> Result<bool, AppendError> {
        for _ in 0..MAX_TURN {
            let Some(pending) = self.wheel.pop_before(end) else {
                return self.flush().map(|()| false);
            };
            self.out.push(pending);
            self.record.clear();
            let found = self.broker.store.record_at(pending.position, &mut self.record);
            match (found, record::read(&self.record)) {
                (Some(_), Entry::Record(record)) => {
                    if pending.slot != self.recall_slot {
                        self.recalls.clear();
                        self.recall_slot = pending.slot;
                    }
                    send_out(&mut self.delivery, &mut self.recalls, &self.settings, &self.queue, pending, &record);
                }
                _ => tracing::warn!(pending.position, "the log has no record for a timer message any more"),
            }
            if self.delivery.is_full() {
                self.flush()?;
            }
        }
        self.flush().map(|()| true)
    }

    fn flush(&mut self) -> Result<(), AppendError> {
        let stored = self.delivery.finish();
        match stored {
            Ok(()) => self.out.clear(),
            Err(_) => self.out.drain(..).for_each(|pending| self.wheel.push(pending)),
        }
        if self.out.capacity() > MAX_TURN {
            self.out.shrink_to(MAX_TURN);
        }
        stored
    }
}

/// Puts one message on its way: to its topic, back into the timer topic, or nowhere when it is or was taken back.
fn send_out(
    delivery: &mut Delivery,
    recalls: &mut HashSet<String>,
    settings: &TimerSettings,
    queue: &Arc<Queue>,
    pending: Pending,
    record: &Record<'_>,
) {
    let text = record.properties();
    let times = [
        (names::TIMER_ENQUEUE_MS, settings.slot(record.store_timestamp())),
        (names::TIMER_DEQUEUE_MS, clock::now_millis()),
    ];
    if out_ms(record).is_some_and(|out_ms| settings.slot(out_ms) > pending.slot) {
        let rolled = properties::get_str(text, names::TIMER_ROLL_TIMES).and_then(|n| n.parse().ok()).unwrap_or(0_i64);
        let more = [times[0], times[1], (names::TIMER_ROLL_TIMES, rolled.saturating_add(1))];
        delivery.roll(record, queue, &more);
    } else if pending.is_recall {
        recalls.extend(recalled(text));
    } else if recalls.is_empty() || !is_recalled(recalls, text) {
        delivery.add(record, &times);
    }
}

/// What a recall takes back, only within its own topic. RocketMQ writes the bare key unless `appendTopicForTimerDeleteKey`.
fn recalled(text: &[u8]) -> Option<String> {
    let key = properties::get_str(text, names::TIMER_DEL_UNIQKEY)?;
    let topic = properties::get_str(text, names::REAL_TOPIC)?;
    let is_whole = key.strip_prefix(topic).is_some_and(|rest| rest.starts_with('+'));
    Some(if is_whole { key.to_owned() } else { format!("{topic}+{key}") })
}

fn is_recalled(recalls: &HashSet<String>, text: &[u8]) -> bool {
    let Some(key) = properties::get_str(text, names::UNIQ_CLIENT_MESSAGE_ID_KEYIDX) else { return false };
    let topic = properties::get_str(text, names::REAL_TOPIC).unwrap_or_default();
    recalls.contains(&format!("{topic}+{key}"))
}

/// The slot a record is due in.
fn out_ms(record: &Record<'_>) -> Option<i64> {
    properties::get_str(record.properties(), names::TIMER_OUT_MS)?.parse().ok()
}

impl TimerSettings {
    /// The slot in which a record leaves the wheel: its own, or the one in which it is stored anew.
    fn wake_slot(&self, out_ms: i64, stored: i64) -> i64 {
        let beyond = out_ms.saturating_sub(stored).saturating_sub(self.roll_window);
        match beyond {
            ..0 => self.slot(out_ms),
            // The last part of the way must not be too short to be rolled in time.
            _ if beyond < self.roll_window / 3 => self.slot(stored + self.roll_window / 2),
            _ => self.slot(stored + self.roll_window),
        }
    }
}

/// Offset of the first message of the queue whose record does not lie before `position`.
fn first_at_or_behind(broker: &Shared, queue: &Queue, position: u64) -> i64 {
    let (mut low, mut high) = (queue.min_offset(), queue.max_offset());
    while low < high {
        let middle = low + (high - low) / 2;
        match broker.store.entry(queue, middle) {
            Some(entry) if (entry.physical_offset as u64) < position => low = middle + 1,
            _ => high = middle,
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_waits_are_cut_so_that_the_rest_is_never_short() {
        let settings = TimerSettings { enabled: true, precision: 1000, max_delay: 0, roll_window: 300_000 };
        let wake = |delay| settings.wake_slot(1_000_000 + delay, 1_000_000) - 1_000_000;
        assert_eq!([wake(5500), wake(299_999)], [5000, 299_000]);
        // A little more than the window: half of it first.
        assert_eq!([wake(300_000), wake(399_999)], [150_000, 150_000]);
        assert_eq!([wake(400_000), wake(i64::MAX / 2)], [300_000, 300_000]);
    }
}
