//! Reading back, at the start, what was invisible when the broker stopped.
//!
//! Each revive queue is read from its committed offset on: check points enter the table, acknowledgements take messages off.
//! Check points that are newer than the file of offsets also move the group's offset: the pop was answered, the file
//! was not yet written. Runs before the first request, on one thread.

use std::collections::HashMap;
use std::sync::Arc;

use ferromq_common::clock;
use ferromq_protocol::pop::{self, AckMsg, PopCheckPoint};
use ferromq_protocol::properties::{self, names};
use ferromq_protocol::record::{self, Entry, Record};
use ferromq_protocol::{json, topic};
use ferromq_store::Queue;

use super::check_point::CheckPoint;
use crate::broker::Shared;

/// How long a check point of RocketMQ's timer waits for its acknowledgements, which the timer delivers after it, milliseconds.
const FOREIGN_GRACE_MS: i64 = 3000;

/// The offset behind the newest pop of each queue: position of its record in the log, and the offset.
type Newest = HashMap<(Arc<str>, Arc<str>, u32), (i64, i64)>;

/// Fills the table from the revive topic.
pub(crate) fn replay(broker: &Shared) {
    let mut newest = Newest::new();
    let mut records = Vec::new();
    for id in 0..broker.pops.revive_queues() {
        let Some(queue) = broker.store.find_queue(&broker.revive_topic, id) else { continue };
        let committed = broker.offsets.query(&broker.revive_topic, pop::REVIVE_GROUP, id);
        let mut offset = committed.map_or(0, |done| done.saturating_add(1)).max(queue.min_offset());
        while offset < queue.max_offset() {
            records.clear();
            offset = read(broker, &queue, offset, &mut newest, &mut records);
        }
    }
    for ((topic, group, queue_id), (_, next)) in newest {
        broker.offsets.commit(&topic, &group, queue_id, next);
    }
    let found = broker.pops.check_points();
    if found > 0 {
        tracing::info!("{found} pops are not fully acknowledged and come back when their invisible time is over");
    }
}

/// Reads some records; the offset behind them.
fn read(broker: &Shared, queue: &Queue, offset: i64, newest: &mut Newest, records: &mut Vec<u8>) -> i64 {
    let outcome = broker.store.read(queue, offset, u32::MAX, u32::MAX, &mut |_| true, records);
    let mut bytes = &records[..];
    while let Entry::Record(record) = record::read(bytes) {
        bytes = &bytes[record.bytes().len()..];
        match properties::get_str(record.properties(), names::TAGS) {
            Some(pop::CHECK_POINT_TAG) => check_point(broker, queue.id(), &record, newest),
            Some(pop::ACK_TAG | pop::BATCH_ACK_TAG) => acknowledge(broker, &record),
            _ => {}
        }
    }
    outcome.next_offset.max(offset + 1)
}

fn check_point(broker: &Shared, revive_queue: u32, record: &Record<'_>, newest: &mut Newest) {
    let Ok(ck) = json::from_slice::<PopCheckPoint>(record.body()) else {
        tracing::warn!("a check point at {} of the log cannot be read and is left out", record.physical_offset());
        return;
    };
    let Some((queue_id, offsets)) = offsets(&ck).filter(|_| is_ours(broker, &ck.broker_name)) else { return };
    let valid = topic::validate_topic(&ck.topic).is_ok() && topic::validate_group(&ck.group).is_ok();
    let (Some(last), true) = (offsets.last(), valid) else { return };
    let Ok(queue) = broker.pops.queue(&ck.topic, &ck.group, queue_id) else { return };
    let is_foreign = properties::get(record.properties(), names::UNIQ_CLIENT_MESSAGE_ID_KEYIDX).is_some();
    let mut due = ck.pop_time.saturating_add(ck.invisible_time);
    if is_foreign {
        due = due.max(clock::now_millis()).saturating_add(FOREIGN_GRACE_MS);
    } else if ck.diffs.is_some() && record.store_timestamp() >= broker.offsets.loaded_at() {
        // The pops of one queue stand in several revive queues: the log's order decides, for a reset may go back.
        let next = (record.physical_offset(), last + 1);
        let place = (Arc::clone(&queue.topic), Arc::clone(&queue.group), queue_id);
        newest.entry(place).and_modify(|other| *other = next.max(*other)).or_insert(next);
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

/// A broker that acts for another one has that one's check points, which are worked off there.
fn is_ours(broker: &Shared, broker_name: &str) -> bool {
    broker_name.is_empty() || broker_name == broker.config.broker_name
}
