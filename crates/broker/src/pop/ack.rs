//! Acknowledging popped messages, and changing how long they stay invisible.
//!
//! Acknowledgements of one turn of a reactor become one append, those of one check point one record; they take effect once the
//! log holds them (RocketMQ's `AckMessageProcessor`, `ChangeInvisibleTimeProcessor`). An acknowledgement for a message
//! that is not invisible under that handle (acknowledged before, come back meanwhile, another group's) changes nothing
//! and stores nothing.

use std::sync::Arc;

use ferromq_common::clock;
use ferromq_protocol::code::response;
use ferromq_protocol::pop::{ORDER_REVIVE_QUEUE, ReceiptHandle};

use super::check_point::{CheckPoint, Key};
use super::log::{self, with_writer};
use super::order::Acked;
use super::queue::PopQueue;
use crate::broker::Shared;
use crate::handler::Refusal;

/// Messages that are to be acknowledged together.
#[derive(Default)]
pub(crate) struct Acks {
    items: Vec<Item>,
}

struct Item {
    queue: Arc<PopQueue>,
    key: Key,
    offset: i64,
}

impl Acks {
    /// Adds one message of the queue of a topic (for a retried one the retry topic); whether it is invisible under this
    /// handle and will be stored.
    pub fn add(&mut self, broker: &Shared, topic: &str, group: &str, queue_id: u32, key: Key, offset: i64) -> bool {
        let Some(queue) = broker.pops.find(topic, group, queue_id) else { return false };
        if !queue.is_waiting(key, offset) {
            return false;
        }
        self.items.push(Item { queue, key, offset });
        true
    }

    /// Number of messages added.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Appends what was added and takes it off the check points; the position in the log behind it.
    pub fn append(&mut self, broker: &Shared) -> Result<u64, Refusal> {
        let mut groups: Vec<(&Item, Vec<i64>)> = Vec::new();
        for item in &self.items {
            match groups.last_mut() {
                Some((first, offsets)) if Arc::ptr_eq(&first.queue, &item.queue) && first.key == item.key => {
                    if !offsets.contains(&item.offset) {
                        offsets.push(item.offset);
                    }
                }
                _ => groups.push((item, vec![item.offset])),
            }
        }
        let end = with_writer(|writer| {
            for (item, offsets) in &groups {
                // A check point that went meanwhile needs no acknowledgement.
                if let Some(revive_queue) = item.queue.revive_queue(item.key) {
                    writer.ack(broker, revive_queue, &item.queue, item.key, offsets)?;
                }
            }
            if writer.batch.is_empty() {
                return Ok(0);
            }
            writer.append(broker).map_err(log::refused)?;
            Ok(writer.batch.end_position())
        });
        if end.is_ok() {
            for (item, offsets) in &groups {
                broker.pops.acknowledge(&item.queue, item.key, offsets);
            }
        }
        self.items.clear();
        end
    }
}

/// A handle's new life.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Changed {
    /// Milliseconds since 1970.
    pub pop_time: i64,
    /// Milliseconds.
    pub invisible_time: i64,
    pub revive_queue: i32,
    /// Position in the log behind the change.
    pub end_position: u64,
}

/// Makes a message invisible for `invisible_ms` from now on: it gets a check point of its own and leaves the one of its
/// pop, in one append.
pub(crate) fn change_invisible_time(
    broker: &Shared,
    (topic, group, queue_id): (&str, &str, u32),
    handle: &ReceiptHandle<'_>,
    offset: i64,
    invisible_ms: i64,
) -> Result<Changed, Refusal> {
    let key = (handle.start_offset, handle.pop_time);
    let known = broker.pops.find(topic, group, queue_id);
    // The reviving thread may be copying the message at this moment: it comes back or lives on, never both.
    let _taking = known.as_ref().map(|queue| queue.taking.lock());
    let found = known.as_ref().filter(|queue| queue.is_waiting(key, offset)).cloned();
    let place = found.and_then(|queue| queue.revive_queue(key).map(|revive_queue| (queue, revive_queue)));
    let Some((queue, revive_queue)) = place else {
        let remark = format!("message {offset} of {topic}/{queue_id} is not invisible under this handle");
        return Err(Refusal::new(response::NO_MESSAGE, remark));
    };
    let _gate = broker.pops.gate.read();
    let pop_time = queue.free_time(offset, clock::now_millis());
    let new = (offset, pop_time);
    with_writer(|writer| {
        writer.check_point(broker, revive_queue, &queue, new, invisible_ms, None)?;
        writer.ack(broker, revive_queue, &queue, key, &[offset])?;
        let revive_offset = writer.append(broker).map_err(log::refused)?.first().map_or(0, |at| at.queue_offset);
        let end_position = writer.batch.end_position();
        broker.pops.appended_to(end_position);
        let due = pop_time + invisible_ms;
        broker.pops.insert(&queue, new, CheckPoint::new(new, revive_queue, revive_offset, due, &[offset]));
        broker.pops.acknowledge(&queue, key, &[offset]);
        Ok(Changed { pop_time, invisible_time: invisible_ms, revive_queue: revive_queue as i32, end_position })
    })
}

/// Acknowledges a message of an ordered pop; the group's offset moves behind what is acknowledged without a gap. The
/// position in the log behind it, if anything changed.
pub(crate) fn ack_in_order(
    broker: &Shared,
    (topic, group, queue_id): (&str, &str, u32),
    pop_time: i64,
    offset: i64,
) -> Result<Option<u64>, Refusal> {
    let committed_before = || broker.offsets.query(topic, group, queue_id).filter(|committed| *committed <= offset);
    if committed_before().is_none() {
        return Ok(None);
    }
    let place = (topic, group, queue_id);
    let position = {
        let queue = broker.pops.queue(topic, group, queue_id)?;
        let _taking = queue.taking.lock();
        let Some(committed) = committed_before() else { return Ok(None) };
        let Acked::Commit(next) = broker.order_pops.acknowledge(place, committed, offset, pop_time) else {
            return Ok(None);
        };
        let _gate = broker.pops.gate.read();
        let position = with_writer(|writer| {
            writer.order_ack(broker, &queue, pop_time, offset, next)?;
            writer.append(broker).map_err(log::refused)?;
            Ok::<u64, Refusal>(writer.batch.end_position())
        })?;
        broker.offsets.commit(topic, group, queue_id, next);
        position
    };
    // Those that wait look again, and find their queue free or wait on.
    broker.pops.polls.wake_one(topic, group);
    Ok(Some(position))
}

/// Changes when a message of an ordered pop may be popped again; its handle stays. `None`: it is acknowledged already.
pub(crate) fn change_in_order(
    broker: &Shared,
    (topic, group, queue_id): (&str, &str, u32),
    pop_time: i64,
    offset: i64,
    invisible_ms: i64,
) -> Result<Option<Changed>, Refusal> {
    let is_behind = || broker.offsets.query(topic, group, queue_id).is_none_or(|committed| offset < committed);
    if is_behind() {
        return Ok(None);
    }
    let queue = broker.pops.queue(topic, group, queue_id)?;
    let _taking = queue.taking.lock();
    if is_behind() {
        return Ok(None);
    }
    let visible_at = clock::now_millis().saturating_add(invisible_ms);
    broker.order_pops.set_visible_at((topic, group, queue_id), offset, pop_time, visible_at);
    let invisible_time = visible_at.saturating_sub(pop_time);
    Ok(Some(Changed { pop_time, invisible_time, revive_queue: ORDER_REVIVE_QUEUE, end_position: 0 }))
}
