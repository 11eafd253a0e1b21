//! Setting a group's offsets by time or number (222), and what its connected consumers think of their offsets (223).
//!
//! By default (`useServerSideResetOffset`) the broker keeps the new offset and the next pull of each queue is sent there;
//! no consumer has to be connected. Switched off, the connected consumers are told to move (220), as before RocketMQ 5.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ferromq_protocol::body::{GetConsumerStatusBody, MessageQueue, ResetOffsetBody};
use ferromq_protocol::code::{request, response};
use ferromq_protocol::header::client::{GetConsumerStatusHeader, ResetOffsetHeader};
use ferromq_protocol::{Encoding, FrameWriter, json};
use ferromq_remoting::PushError;
use ferromq_store::Boundary;

use super::progress::queue_name;
use super::{Call, Refusal};
use crate::broker::Shared;
use crate::clients::Client;
use crate::topics::Topic;

/// How long each consumer may take to tell its offsets.
const TIMEOUT: Duration = Duration::from_secs(5);
/// First client version that lets itself be moved (`V3_0_7_SNAPSHOT`).
const LEAST_VERSION: i32 = 28;

/// INVOKE_BROKER_TO_RESET_OFFSET (222).
pub(crate) fn reset_offset(broker: &Arc<Shared>, call: &Call<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let header = ResetOffsetHeader::read(&call.request.fields)?;
    let (name, group) = (header.topic.to_str()?, header.group.to_str()?);
    let topic = broker
        .topics
        .get(&name)
        .ok_or_else(|| Refusal::new(response::TOPIC_NOT_EXIST, format!("Topic {name} does not exist")))?;
    if broker.groups.get(&group).is_none() {
        let remark = format!("Group {group} does not exist");
        return Err(Refusal::new(response::SUBSCRIPTION_GROUP_NOT_EXIST, remark));
    }
    let target = targets(broker, &topic, &header)?;
    tracing::info!("{} resets the offsets of group {group} in topic {name} to {target:?}", call.conn.peer());
    let offset_table = if broker.live.use_server_side_reset_offset() {
        for (id, offset) in &target {
            broker.offsets.reset(&name, &group, *id, *offset);
        }
        target.into_iter().map(|(id, offset)| (queue_name(broker, &name, id), offset)).collect()
    } else {
        move_consumers(broker, &header, &name, &group, &target)?
    };
    call.respond_json(out, &ResetOffsetBody { offset_table })
}

/// The new offset of each queue.
fn targets(broker: &Shared, topic: &Topic, header: &ResetOffsetHeader<'_>) -> Result<Vec<(u32, i64)>, Refusal> {
    let name = topic.name();
    let by_time = |id: u32| match broker.store.find_queue(name, id) {
        None => 0,
        Some(queue) if header.timestamp < 0 => queue.max_offset(),
        Some(queue) => broker.store.search_by_time(&queue, header.timestamp, Boundary::Lower),
    };
    let none = || Refusal::new(response::SYSTEM_ERROR, "No queues to reset.");
    let Ok(id) = u32::try_from(header.queue_id) else {
        let all: Vec<(u32, i64)> = (0..topic.read_queues()).map(|id| (id, by_time(id))).collect();
        return if all.is_empty() { Err(none()) } else { Ok(all) };
    };
    if id >= topic.read_queues() {
        return Err(none());
    }
    let Some(offset) = header.offset.filter(|offset| *offset != -1) else { return Ok(vec![(id, by_time(id))]) };
    let queue = broker.store.find_queue(name, id);
    let (min, max) = queue.map_or((0, 0), |queue| (queue.min_offset(), queue.max_offset()));
    if !(min..=max.saturating_add(1)).contains(&offset) {
        let remark = format!("Target offset {offset} not in consume queue range [{min}-{max}]");
        return Err(Refusal::new(response::SYSTEM_ERROR, remark));
    }
    Ok(vec![(id, offset)])
}

/// Tells the connected consumers to move; unless forced only backward.
fn move_consumers(
    broker: &Shared,
    header: &ResetOffsetHeader<'_>,
    topic: &str,
    group: &str,
    target: &[(u32, i64)],
) -> Result<BTreeMap<MessageQueue, i64>, Refusal> {
    let mut table = BTreeMap::new();
    for (id, offset) in target {
        let consumed = broker
            .offsets
            .query(topic, group, *id)
            .ok_or_else(|| Refusal::new(response::SYSTEM_ERROR, format!("THe consumer group <{group}> not exist")))?;
        let offset = if header.is_force { *offset } else { consumed.min(*offset) };
        table.insert(queue_name(broker, topic, *id), offset);
    }
    let members = broker.clients.consumer_group(group).map(|view| view.members).unwrap_or_default();
    if members.is_empty() {
        let remark = format!(
            "Consumer not online, so can not reset offset. Group: {group} Topic: {topic} Timestamp: {}",
            header.timestamp
        );
        return Err(Refusal::new(response::CONSUMER_NOT_ONLINE, remark));
    }
    if let Some(old) = members.iter().find(|member| member.version < LEAST_VERSION) {
        let remark = format!("the client does not support this feature. version={}", old.version);
        return Err(Refusal::new(response::SYSTEM_ERROR, remark));
    }
    let body = json::to_vec_standard(&ResetOffsetBody { offset_table: table.clone() })
        .map_err(|e| Refusal::new(response::SYSTEM_ERROR, e.to_string()))?;
    for member in members {
        if let Err(e) = tell(&member, header, &body) {
            tracing::warn!("consumer {} of group {group} is not told its new offsets: {e}", member.client_id);
        }
    }
    Ok(table)
}

fn tell(member: &Client, header: &ResetOffsetHeader<'_>, body: &[u8]) -> Result<(), PushError> {
    member.connection.oneway(|out, opaque| {
        let code = request::RESET_CONSUMER_CLIENT_OFFSET;
        let mut frame = FrameWriter::request(out, Encoding::Json, code, opaque, true);
        header.write(&mut frame);
        frame.finish_with_body(body);
    })
}

/// INVOKE_BROKER_TO_GET_CONSUMER_STATUS (223): asks each connected consumer of the group, or the one named (221).
pub(crate) fn consumer_status(broker: &Arc<Shared>, call: &Call<'_>, _out: &mut Vec<u8>) -> Result<(), Refusal> {
    let header = GetConsumerStatusHeader::read(&call.request.fields)?;
    let (topic, group) = (header.topic.to_str()?.into_owned(), header.group.to_str()?.into_owned());
    let wanted = header.client_addr.map(|id| id.to_str()).transpose()?.filter(|id| !id.is_empty());
    let members = broker.clients.consumer_group(&group).map(|view| view.members).unwrap_or_default();
    let members: Vec<Client> =
        members.into_iter().filter(|m| wanted.as_ref().is_none_or(|id| *m.client_id == **id)).collect();
    if members.is_empty() {
        let remark = format!("No Any Consumer online in the consumer group: [{group}]");
        return Err(Refusal::new(response::SYSTEM_ERROR, remark));
    }
    if let Some(old) = members.iter().find(|member| member.version < LEAST_VERSION) {
        let remark = format!("the client does not support this feature. version={}", old.version);
        return Err(Refusal::new(response::SYSTEM_ERROR, remark));
    }
    let Ok(permit) = Arc::clone(broker.clients.relays()).try_acquire_owned() else {
        let remark = "too many requests wait for answers of consumers, try again later";
        return Err(Refusal::new(response::SYSTEM_BUSY, remark));
    };
    let (asker, head) = (Arc::clone(call.conn), call.request.head);
    tokio::spawn(async move {
        let mut body = GetConsumerStatusBody::default();
        for member in members {
            if let Some(offsets) = ask(&member, &topic, &group).await {
                body.consumer_table.insert(member.client_id.to_string(), offsets);
            }
        }
        drop(permit);
        let told = asker.push(|out| match json::to_vec_standard(&body) {
            Ok(body) => FrameWriter::response(out, &head, response::SUCCESS).finish_with_body(&body),
            Err(e) => Refusal::new(response::SYSTEM_ERROR, e.to_string()).write(&head, out),
        });
        if let Err(e) = told {
            tracing::debug!("{} does not get the offsets that consumers told: {e}", asker.peer());
        }
    });
    Ok(())
}

async fn ask(member: &Client, topic: &str, group: &str) -> Option<BTreeMap<MessageQueue, i64>> {
    let answer = member.connection.invoke(TIMEOUT, |out, opaque| {
        let code = request::GET_CONSUMER_STATUS_FROM_CLIENT;
        let mut frame = FrameWriter::request(out, Encoding::Json, code, opaque, false);
        frame.str("topic", topic).str("group", group);
        frame.finish();
    });
    let answer = answer.await.inspect_err(|e| tracing::warn!("consumer {} tells no offsets: {e}", member.client_id));
    let answer = answer.ok().filter(|answer| answer.head().code == response::SUCCESS)?;
    json::from_slice::<GetConsumerStatusBody>(answer.body()).ok().map(|body| body.message_queue_table)
}
