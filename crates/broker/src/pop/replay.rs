//! Reading back, at the start, what was invisible when the broker stopped.
//!
//! Each revive queue is read from its committed offset on: check points enter the table, acknowledgements take messages off.
//! Check points that are newer than the file of offsets also move the group's offset: the pop was answered, the file
//! was not yet written. Behind records that the log has lost in a crash neither is believed: messages may come twice, and
//! none is forgotten. Runs before the first request, on one thread; later the reviving thread reads on when the timer
//! has brought records that a Java broker gave it ([`read_foreign`]).

use std::collections::HashMap;
use std::sync::Arc;

use ferromq_common::clock;
use ferromq_protocol::pop::{self, AckMsg, PopCheckPoint};
use ferromq_protocol::properties::{self, names};
use ferromq_protocol::record::Record;
use ferromq_protocol::records;
use ferromq_protocol::{json, topic};
use ferromq_store::{CqEntry, Queue};

use super::check_point::CheckPoint;
use crate::broker::Shared;

/// How long a check point of RocketMQ's timer waits for its acknowledgements, which the timer delivers after it, milliseconds.
const FOREIGN_GRACE_MS: i64 = 3000;

/// Pops that are newer than the file of offsets, by queue: position of the record in the log, the offset where the pop
/// began, and the one behind its last message.
type Newest = HashMap<(Arc<str>, Arc<str>, u32), Vec<(i64, i64, i64)>>;

/// Fills the table from the revive topic.
pub(crate) fn replay(broker: &Shared) {
    let mut newest = Newest::new();
    let mut bytes = Vec::new();
    for id in 0..broker.pops.revive_queues() {
        let Some(queue) = broker.store.find_queue(&broker.revive_topic, id) else { continue };
        let committed = broker.offsets.query(&broker.revive_topic, pop::REVIVE_GROUP, id);
        let mut offset = committed.map_or(0, |done| done.saturating_add(1)).max(queue.min_offset());
        while offset < queue.max_offset() {
            bytes.clear();
            offset = read(broker, &queue, offset, &mut newest, &mut bytes);
        }
    }
    for id in 0..broker.pops.revive_queues() {
        broker.pops.foreign.begin(id, end_of(broker, id));
    }
    for group in broker.order_pops.groups() {
        // A pop may have made it that its file does not have yet: without it the next writing of the file would forget what is popped.
        let _ = broker.groups.find(&group);
    }
    for ((topic, group, queue_id), mut pops) in newest {
        // What a group popped of one queue stands in several revive queues: the log's order decides.
        pops.sort_unstable();
        let committed = broker.offsets.query(&topic, &group, queue_id);
        broker.offsets.commit(&topic, &group, queue_id, behind(&pops, committed, gap(broker)));
    }
    let found = broker.pops.check_points();
    if found > 0 {
        tracing::info!("{found} pops are not fully acknowledged and come back when their invisible time is over");
    }
}

/// Where a group stands after these pops, the newest of which counts: a reset may go back. Behind a `gap` of the log, a
/// position, it counts only as far as each pop follows the one before it: the gap may have taken a check point, whose
/// messages would never come.
fn behind(pops: &[(i64, i64, i64)], committed: Option<i64>, gap: i64) -> i64 {
    let mut at = committed;
    for (position, start, next) in pops {
        if *position > gap && at.is_some_and(|at| *start > at) {
            break;
        }
        at = Some(*next);
    }
    at.unwrap_or(0)
}

/// Position of the first records that the log has lost before others, `i64::MAX` if it has lost none.
fn gap(broker: &Shared) -> i64 {
    broker.store.first_gap().and_then(|position| i64::try_from(position).ok()).unwrap_or(i64::MAX)
}

/// Whether [`read_foreign`] would find something.
pub(crate) fn has_foreign(broker: &Shared) -> bool {
    (0..broker.pops.revive_queues()).any(|id| broker.pops.foreign.next(id, end_of(broker, id)).is_some())
}

/// The end of a revive queue, with what is not dispatched yet.
pub(crate) fn end_of(broker: &Shared, id: u32) -> i64 {
    broker.store.find_queue(&broker.revive_topic, id).map_or(0, |queue| queue.next_offset())
}

/// Enters what others than the pops of this broker have appended to the revive topic since the last call.
pub(super) fn read_foreign(broker: &Shared) {
    let mut bytes = Vec::new();
    for id in 0..broker.pops.revive_queues() {
        let Some(queue) = broker.store.find_queue(&broker.revive_topic, id) else { continue };
        let Some(mut offset) = broker.pops.foreign.next(id, queue.next_offset()) else { continue };
        let mut found = 0;
        while offset < queue.max_offset() {
            bytes.clear();
            let outcome = broker.store.read(&queue, offset, u32::MAX, u32::MAX, &mut |_| true, &mut bytes);
            for record in foreign(&bytes) {
                found += 1;
                enter(broker, id, &record, &mut Newest::new());
            }
            offset = outcome.next_offset.max(offset + 1);
        }
        broker.pops.foreign.read(id, offset, found);
    }
}

/// Those of the records that a Java broker wrote.
fn foreign(bytes: &[u8]) -> impl Iterator<Item = Record<'_>> {
    records::iter(bytes).filter(is_foreign)
}

fn is_foreign(record: &Record<'_>) -> bool {
    properties::get(record.properties(), names::UNIQ_CLIENT_MESSAGE_ID_KEYIDX).is_some()
}

/// Reads some records; the offset behind them.
fn read(broker: &Shared, queue: &Queue, offset: i64, newest: &mut Newest, bytes: &mut Vec<u8>) -> i64 {
    let outcome = broker.store.read(queue, offset, u32::MAX, u32::MAX, &mut |_| true, bytes);
    for record in records::iter(bytes) {
        enter(broker, queue.id(), &record, newest);
    }
    outcome.next_offset.max(offset + 1)
}

fn enter(broker: &Shared, revive_queue: u32, record: &Record<'_>, newest: &mut Newest) {
    match properties::get_str(record.properties(), names::TAGS) {
        Some(pop::CHECK_POINT_TAG) => check_point(broker, revive_queue, record, newest),
        Some(pop::ACK_TAG | pop::BATCH_ACK_TAG) => acknowledge(broker, record),
        Some(pop::ORDER_POP_TAG) => order_pop(broker, record, newest),
        Some(pop::ORDER_ACK_TAG) => order_ack(broker, record, newest),
        _ => {}
    }
}

fn check_point(broker: &Shared, revive_queue: u32, record: &Record<'_>, newest: &mut Newest) {
    let Ok(ck) = json::from_slice::<PopCheckPoint>(record.body()) else {
        tracing::warn!("a check point at {} of the log cannot be read and is left out", record.physical_offset());
        return;
    };
    let Some((queue_id, offsets)) = offsets(&ck).filter(|_| is_ours(broker, &ck.broker_name)) else { return };
    let valid = topic::validate_topic(&ck.topic).is_ok() && topic::validate_group(&ck.group).is_ok();
    let (Some(last), true) = (offsets.last(), valid) else { return };
    if is_of_earlier_life(broker, (&ck.topic, queue_id), *last, record) {
        return;
    }
    let Ok(queue) = broker.pops.queue(&ck.topic, &ck.group, queue_id) else { return };
    let mut due = ck.pop_time.saturating_add(ck.invisible_time);
    if is_foreign(record) {
        due = due.max(clock::now_millis()).saturating_add(FOREIGN_GRACE_MS);
    } else if ck.diffs.is_some() && is_newer(broker, record) {
        // The group may have been made by this pop and not be in its file yet: without it the messages would be forgotten.
        let _ = broker.groups.find(&ck.group);
        note(newest, record, (&ck.topic, &ck.group, queue_id), (ck.start_offset, last + 1));
    }
    let key = (ck.start_offset, ck.pop_time);
    broker.pops.insert(&queue, key, CheckPoint::new(key, revive_queue, record.queue_offset(), due, &offsets));
}

/// The queue and the offsets of a check point's messages, if they can be.
fn offsets(ck: &PopCheckPoint) -> Option<(u32, Vec<i64>)> {
    let count = usize::try_from(ck.count).ok().filter(|count| (1..=pop::MAX_MESSAGES).contains(count))?;
    let start = ck.start_offset;
    let offsets: Vec<i64> = match ck.diffs.as_deref() {
        None | Some([]) => (0..count as i64).map(|n| start.checked_add(n)).collect::<Option<_>>()?,
        Some(diffs) if diffs.len() == count => {
            diffs.iter().map(|diff| start.checked_add(i64::from(*diff))).collect::<Option<_>>()?
        }
        Some(_) => return None,
    };
    let rising = offsets.windows(2).all(|pair| pair[0] < pair[1]) && start >= 0 && offsets[0] >= start;
    rising.then_some((u32::try_from(ck.queue_id).ok()?, offsets))
}

fn acknowledge(broker: &Shared, record: &Record<'_>) {
    if record.physical_offset() > gap(broker) {
        // What the message became before it was acknowledged, one in the retry topic or under another handle, may be lost.
        return;
    }
    let Ok(ack) = json::from_slice::<AckMsg>(record.body()) else {
        tracing::warn!("an acknowledgement at {} of the log cannot be read", record.physical_offset());
        return;
    };
    let Ok(queue_id) = u32::try_from(ack.queue_id) else { return };
    if let Some(queue) = broker.pops.find(&ack.topic, &ack.group, queue_id) {
        let single = [ack.ack_offset];
        let offsets = if ack.offsets.is_empty() { &single } else { &ack.offsets[..] };
        broker.pops.acknowledge(&queue, (ack.start_offset, ack.pop_time), offsets);
    }
}

/// An ordered pop that the files may not know.
fn order_pop(broker: &Shared, record: &Record<'_>, newest: &mut Newest) {
    let Ok(ck) = json::from_slice::<PopCheckPoint>(record.body()) else { return };
    let Some((queue_id, offsets)) = offsets(&ck).filter(|_| is_newer(broker, record)) else { return };
    let last = offsets.last().copied().unwrap_or(ck.start_offset);
    if is_of_earlier_life(broker, (&ck.topic, queue_id), last, record) {
        return;
    }
    broker.order_pops.restore((&ck.topic, &ck.group, queue_id), ck.pop_time, ck.invisible_time, &offsets);
    note(newest, record, (&ck.topic, &ck.group, queue_id), (ck.start_offset, ck.start_offset));
}

fn order_ack(broker: &Shared, record: &Record<'_>, newest: &mut Newest) {
    let Ok(ack) = json::from_slice::<AckMsg>(record.body()) else { return };
    let Some(queue_id) = u32::try_from(ack.queue_id).ok().filter(|_| is_newer(broker, record)) else { return };
    if is_of_earlier_life(broker, (&ack.topic, queue_id), ack.ack_offset, record) {
        return;
    }
    let place = (ack.topic.as_str(), ack.group.as_str(), queue_id);
    broker.order_pops.acknowledge(place, ack.start_offset, ack.ack_offset, ack.pop_time);
    note(newest, record, place, (ack.start_offset, ack.start_offset));
}

/// Whether `record` is about a message of a topic that was deleted since. A message stands in the log before whatever is said
/// of it: what has its offset now is of the next topic of that name, if there is one.
fn is_of_earlier_life(broker: &Shared, (topic, id): (&str, u32), offset: i64, record: &Record<'_>) -> bool {
    let Some(queue) = broker.store.find_queue(topic, id) else { return true };
    let is_behind = |entry: CqEntry| entry.physical_offset > record.physical_offset();
    offset >= queue.next_offset() || broker.store.entry(&queue, offset).is_some_and(is_behind)
}

/// Whether an own record was stored after the files were written.
fn is_newer(broker: &Shared, record: &Record<'_>) -> bool {
    !is_foreign(record) && record.store_timestamp() >= broker.offsets.loaded_at()
}

/// Notes where a pop began and where the group stands after it.
fn note(
    newest: &mut Newest,
    record: &Record<'_>,
    (topic, group, queue_id): (&str, &str, u32),
    (start, next): (i64, i64),
) {
    let place = (Arc::from(topic), Arc::from(group), queue_id);
    newest.entry(place).or_default().push((record.physical_offset(), start, next));
}

/// A broker that acts for another one has that one's check points, which are worked off there.
fn is_ours(broker: &Shared, broker_name: &str) -> bool {
    broker_name.is_empty() || broker_name == broker.config.broker_name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_stands_behind_its_newest_pop_unless_one_before_it_is_lost() {
        let pops = [(100, 0, 4), (200, 4, 6), (300, 9, 12)];
        assert_eq!(behind(&pops, Some(0), i64::MAX), 12);
        assert_eq!(behind(&pops, Some(0), 300), 12);
        assert_eq!(behind(&pops, Some(0), 250), 6);
        assert_eq!(behind(&pops, None, 0), 6);
        assert_eq!(behind(&pops[1..], Some(3), 150), 3);
        // After a reset.
        assert_eq!(behind(&[(100, 8, 9), (200, 2, 3)], Some(8), 0), 3);
    }
}
