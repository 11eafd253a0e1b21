//! RECALL_MESSAGE (370): a producer takes a timer message back before it is delivered (`RecallMessageProcessor`).
//!
//! A second timer message of the same slot names the first (TIMER_DEL_UNIQKEY); the thread that delivers meets both. The
//! handle of a message comes with the answer to its send.

use std::sync::Arc;

use ferromq_common::clock;
use ferromq_protocol::code::response;
use ferromq_protocol::header::send::{RecallMessageHeader, RecallMessageResponseHeader};
use ferromq_protocol::id::RecallHandle;
use ferromq_protocol::properties::{self as text, names};
use ferromq_protocol::record::MessageParts;
use ferromq_protocol::{FrameWriter, Text};
use ferromq_store::{AppendBatch, Durability};

use super::{Call, Refusal};
use crate::broker::Shared;
use crate::timer::When;

/// Tag of the message that takes another one back.
const TAG: &str = "_RECALL_TAG_";

/// Code 370.
pub(crate) fn recall(broker: &Arc<Shared>, call: &Call<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let header = RecallMessageHeader::read(&call.request.fields)?;
    let topic = header.topic.to_str()?;
    check(broker, &topic)?;
    let handle = RecallHandle::parse(&header.recall_handle.to_str()?)
        .ok_or_else(|| Refusal::new(response::ILLEGAL_OPERATION, "recall handle is invalid"))?;
    let illegal = |why: &'static str| Err(Refusal::new(response::ILLEGAL_OPERATION, why));
    if handle.topic != topic {
        return illegal("recall failed, topic not match");
    }
    if handle.broker_name != broker.config.broker_name {
        return illegal("recall failed, broker service not available");
    }
    let now = clock::now_millis();
    let left = handle.timestamp.saturating_sub(now);
    if left <= 0 || left >= broker.timer.settings.max_delay {
        return illegal("recall failed, timestamp invalid");
    }
    let mut stored = Vec::new();
    let group = header.producer_group.map(|group| group.to_str()).transpose()?.unwrap_or_default();
    let key = format!("{topic}+{}", handle.message_id);
    let (time, born) = (handle.timestamp.to_string(), now.to_string());
    for (name, value) in [
        (names::TAGS, TAG),
        (names::TIMER_DEL_UNIQKEY, key.as_str()),
        (names::UNIQ_CLIENT_MESSAGE_ID_KEYIDX, handle.message_id.as_str()),
        (names::TIMER_DELIVER_MS, time.as_str()),
        (names::BORN_TIMESTAMP, born.as_str()),
        (names::PRODUCER_GROUP, &*group),
    ] {
        if !text::is_clean(value) {
            return illegal("recall handle is invalid");
        }
        if !value.is_empty() {
            text::push(&mut stored, name, value);
        }
    }
    let queue = broker.timer.divert(&topic, 0, &mut stored, When::At(handle.timestamp))?;
    // Its time came while it was looked at.
    let Some(queue) = queue else { return illegal("recall failed, timestamp invalid") };
    let parts = MessageParts {
        topic: queue.topic(),
        queue_id: queue.id(),
        body: b"0",
        properties: &stored,
        tags: Some(TAG.as_bytes()),
        keys: None,
        uniq_key: Some(handle.message_id.as_bytes()),
        flag: 0,
        sys_flag: 0,
        born_timestamp: now,
        born_host: call.conn.peer(),
        store_host: broker.store_host,
        reconsume_times: 0,
        prepared_transaction_offset: 0,
    };
    let mut batch = AppendBatch::default();
    let failed = |why: String| Refusal::new(response::SYSTEM_ERROR, format!("recall failed, {why}"));
    batch.push(queue, &parts).map_err(|reject| failed(reject.to_string()))?;
    broker.store.append(&mut batch).map_err(|error| failed(error.to_string()))?;
    broker.stats.count_put(1, batch.results().iter().map(|message| u64::from(message.size)).sum());
    answer_when_durable(broker, call, batch.end_position(), handle.message_id, out);
    Ok(())
}

fn check(broker: &Shared, topic: &str) -> Result<(), Refusal> {
    let config = &broker.config;
    if !config.recall_message_enable {
        return Err(Refusal::new(response::NO_PERMISSION, "recall failed, operation is forbidden"));
    }
    let writeable = broker.live.broker_permission() & 2 != 0 || config.allow_recall_when_broker_not_writeable;
    if !writeable || clock::now_millis() < broker.live.start_accept_send_request_time_stamp() {
        return Err(Refusal::new(response::SERVICE_NOT_AVAILABLE, "recall failed, broker service not available"));
    }
    if broker.topics.get(topic).is_none() {
        let remark = format!("recall failed, the topic[{topic}] not exist");
        return Err(Refusal::new(response::TOPIC_NOT_EXIST, remark));
    }
    Ok(())
}

/// Answers with the id of the message taken back; under SYNC_FLUSH when that is on the disk.
fn answer_when_durable(broker: &Shared, call: &Call<'_>, end: u64, message_id: String, out: &mut Vec<u8>) {
    let (head, region) = (call.request.head, broker.config.region_id.clone());
    let answer = move |durability: Durability, out: &mut Vec<u8>| {
        if matches!(durability, Durability::Failed) {
            Refusal::new(response::SYSTEM_ERROR, "recall failed, the disk refused to sync").write(&head, out);
            return;
        }
        let mut frame = FrameWriter::response(out, &head, response::SUCCESS);
        RecallMessageResponseHeader { msg_id: Text::plain(&message_id) }.write(&mut frame);
        frame.str("MSG_REGION", &region);
        frame.finish();
    };
    if !broker.store.is_sync_flush() {
        return answer(Durability::Durable, out);
    }
    let conn = Arc::clone(call.conn);
    let push = move |durability| {
        if !head.is_oneway() {
            // A push fails when the client has gone.
            let _ = conn.push(|out| answer(durability, out));
        }
    };
    broker.store.when_durable(end, Box::new(push));
}
