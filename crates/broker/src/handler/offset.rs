//! Offsets of consumers and queues: QUERY_CONSUMER_OFFSET (14), UPDATE_CONSUMER_OFFSET (15),
//! SEARCH_OFFSET_BY_TIMESTAMP (29), GET_MAX_OFFSET (30), GET_MIN_OFFSET (31), GET_EARLIEST_MSG_STORETIME (32),
//! QUERY_CORRECTION_OFFSET (308).

use std::collections::BTreeMap;
use std::sync::Arc;

use ferromq_common::clock;
use ferromq_protocol::body::QueryCorrectionOffsetBody;
use ferromq_protocol::code::response;
use ferromq_protocol::header::group::QueryCorrectionOffsetHeader;
use ferromq_protocol::header::offset::{
    GetEarliestMsgStoretimeHeader, GetEarliestMsgStoretimeResponseHeader, GetMaxOffsetHeader, GetMinOffsetHeader,
    OffsetResponseHeader, QueryConsumerOffsetHeader, SearchOffsetHeader, UpdateConsumerOffsetHeader,
};
use ferromq_protocol::{FrameWriter, topic as names};
use ferromq_store::{Boundary, Queue};

use super::{Call, Refusal};
use crate::broker::Shared;
use crate::offsets::{Committed, MAX_PAIRS};

/// Code 14. Without a commit, offset 0 is answered while the queue's first message is still in memory, else 22:
/// programs depend on a young topic starting at 0 even for CONSUME_FROM_LAST_OFFSET.
pub(crate) fn query(broker: &Arc<Shared>, call: &Call<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let header = QueryConsumerOffsetHeader::read(&call.request.fields)?;
    let (topic, group) = (header.topic.to_str()?, header.consumer_group.to_str()?);
    let committed = queue_id(header.queue_id).and_then(|id| broker.offsets.query(&topic, &group, id));
    let offset = match committed {
        Some(offset) if offset >= 0 => offset,
        _ if header.set_zero_if_not_found == Some(false) => {
            let remark = "Not found, do not set to zero, maybe this group boot first";
            return Err(Refusal::new(response::QUERY_NOT_FOUND, remark));
        }
        _ if starts_in_memory(broker, &topic, header.queue_id) => 0,
        _ => {
            let remark = "Not found, V3_0_6_SNAPSHOT maybe this group consumer boot first";
            return Err(Refusal::new(response::QUERY_NOT_FOUND, remark));
        }
    };
    answer(call, out, offset)
}

fn starts_in_memory(broker: &Shared, topic: &str, id: i32) -> bool {
    find(broker, topic, id).is_some_and(|queue| queue.min_offset() <= 0 && broker.store.is_in_memory(&queue, 0))
}

/// Code 15. While a reset waits for the next pull the commit is accepted and ignored.
pub(crate) fn update(broker: &Arc<Shared>, call: &Call<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let header = UpdateConsumerOffsetHeader::read(&call.request.fields)?;
    let (topic, group) = (header.topic.to_str()?, header.consumer_group.to_str()?);
    if broker.groups.find(&group).is_none() {
        return Err(Refusal::new(response::SUBSCRIPTION_GROUP_NOT_EXIST, format!("Group {group} not exist!")));
    }
    let Some(known) = broker.topics.get(&topic) else {
        return Err(Refusal::new(response::TOPIC_NOT_EXIST, format!("Topic {topic} not exist!")));
    };
    // A queue that was taken from the topic may still be read to its end. One that never was would only fill the table.
    let is_queue =
        |id: u32| id < known.read_queues().max(known.write_queues()) || broker.store.find_queue(&topic, id).is_some();
    let Some(id) = queue_id(header.queue_id).filter(|id| is_queue(*id)) else {
        let remark = format!("QueueId {} is illegal, topic is {topic}", header.queue_id);
        return Err(Refusal::new(response::INVALID_PARAMETER, remark));
    };
    let committed = broker.offsets.commit(&topic, &group, id, header.commit_offset);
    if committed == Committed::Full {
        return Err(no_room());
    }
    let mut frame = call.respond(out, response::SUCCESS);
    if committed == Committed::Reset {
        frame.remark("Offset has been previously reset");
    }
    frame.finish();
    Ok(())
}

/// Refuses what needs an offset of one more pair of topic and group.
pub(crate) fn no_room() -> Refusal {
    let remark =
        format!("[OVERLOAD]system busy, {MAX_PAIRS} pairs of topic and group have offsets already: delete some groups");
    Refusal::new(response::SYSTEM_BUSY, remark)
}

/// Code 29.
pub(crate) fn search(broker: &Arc<Shared>, call: &Call<'_>, _out: &mut Vec<u8>) -> Result<(), Refusal> {
    let header = SearchOffsetHeader::read(&call.request.fields)?;
    let upper = header.boundary_type.is_some_and(|text| text.eq_str("upper") || text.eq_str("UPPER"));
    let boundary = if upper { Boundary::Upper } else { Boundary::Lower };
    let mut topic = header.topic.to_str()?;
    if let Some(lite) = header.lite_topic.map(|lite| lite.to_str()).transpose()?.filter(|lite| !lite.is_empty()) {
        topic = names::lite_queue(&topic, &lite).into();
    }
    let queue = find(broker, &topic, header.queue_id);
    let timestamp = header.timestamp;
    call.answer_later(broker, move |broker, head, out| {
        let offset = queue.map_or(0, |queue| broker.store.search_by_time(&queue, timestamp, boundary));
        let mut frame = FrameWriter::response(out, head, response::SUCCESS);
        OffsetResponseHeader { offset }.write(&mut frame);
        frame.finish();
        Ok(())
    })
}

/// Code 30: the end of what consumers can read.
pub(crate) fn max(broker: &Arc<Shared>, call: &Call<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let header = GetMaxOffsetHeader::read(&call.request.fields)?;
    let offset = find(broker, &header.topic.to_str()?, header.queue_id).map_or(0, |queue| match header.committed {
        Some(false) => queue.next_offset(),
        _ => queue.max_offset(),
    });
    answer(call, out, offset)
}

/// Code 31.
pub(crate) fn min(broker: &Arc<Shared>, call: &Call<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let header = GetMinOffsetHeader::read(&call.request.fields)?;
    let offset = find(broker, &header.topic.to_str()?, header.queue_id).map_or(0, |queue| queue.min_offset());
    answer(call, out, offset)
}

/// Code 32: store time of the queue's first message, -1 when it has none.
pub(crate) fn earliest(broker: &Arc<Shared>, call: &Call<'_>, _out: &mut Vec<u8>) -> Result<(), Refusal> {
    let header = GetEarliestMsgStoretimeHeader::read(&call.request.fields)?;
    let queue = find(broker, &header.topic.to_str()?, header.queue_id);
    call.answer_later(broker, move |broker, head, out| {
        let timestamp = queue.and_then(|queue| broker.store.earliest_store_time(&queue)).unwrap_or(-1);
        let mut frame = FrameWriter::response(out, head, response::SUCCESS);
        GetEarliestMsgStoretimeResponseHeader { timestamp }.write(&mut frame);
        frame.finish();
        Ok(())
    })
}

/// Code 308: the least offset of all groups but some for each queue of a topic; what `compareGroup` has not reached is
/// answered as the largest number, so that it stays where it is. Offsets of deleted messages do not count. RocketMQ's broker
/// forgets the offsets of the groups that are left out; here asking changes nothing.
pub(crate) fn correction(broker: &Arc<Shared>, call: &Call<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let header = QueryCorrectionOffsetHeader::read(&call.request.fields)?;
    let (topic, compared) = (header.topic.to_str()?, header.compare_group.to_str()?);
    let left_out = header.filter_groups.map(|groups| groups.to_str()).transpose()?.unwrap_or_default();
    let mut least: BTreeMap<i32, i64> = BTreeMap::new();
    for group in broker.offsets.groups_of(&topic) {
        if left_out.split(',').any(|name| name == group) {
            continue;
        }
        for (id, offset) in broker.offsets.queues(&topic, &group) {
            if offset >= broker.store.find_queue(&topic, id).map_or(0, |queue| queue.min_offset()) {
                least.entry(id as i32).and_modify(|least| *least = offset.min(*least)).or_insert(offset);
            }
        }
    }
    for (id, offset) in broker.offsets.queues(&topic, &compared) {
        least.entry(id as i32).and_modify(|least| *least = if *least > offset { i64::MAX } else { *least });
    }
    call.respond_json(out, &QueryCorrectionOffsetBody { correction_offsets: least })
}

/// Code 43: the whole table, for a replica.
pub(crate) fn all(broker: &Arc<Shared>, call: &Call<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let body =
        broker.offsets.encode(clock::now_millis()).map_err(|e| Refusal::new(response::SYSTEM_ERROR, e.to_string()))?;
    call.respond(out, response::SUCCESS).finish_with_body(&body);
    Ok(())
}

/// The store's queue, without making one: queries must not fill the tables with names that clients made up.
fn find(broker: &Shared, topic: &str, id: i32) -> Option<Arc<Queue>> {
    broker.store.find_queue(topic, queue_id(id)?)
}

fn queue_id(id: i32) -> Option<u32> {
    u32::try_from(id).ok()
}

fn answer(call: &Call<'_>, out: &mut Vec<u8>, offset: i64) -> Result<(), Refusal> {
    let mut frame = call.respond(out, response::SUCCESS);
    OffsetResponseHeader { offset }.write(&mut frame);
    frame.finish();
    Ok(())
}
