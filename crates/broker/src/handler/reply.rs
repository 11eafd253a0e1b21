//! Replies of request-reply (324, 325): a consumer's answer is pushed to the producer that asked (326), which the property
//! REPLY_TO_CLIENT names, and stored in the cluster's reply topic (`storeReplyMessageEnable`).

use std::sync::Arc;
use std::time::Duration;

use ferromq_common::clock;
use ferromq_protocol::code::{request, response};
use ferromq_protocol::header::send::SendHeader;
use ferromq_protocol::properties::MAX_PROPERTIES_BYTES;
use ferromq_protocol::record::MessageParts;
use ferromq_protocol::{Encoding, FrameWriter, id};
use ferromq_remoting::InvokeError;
use ferromq_store::AppendBatch;

use super::{Call, Refusal};
use crate::broker::Shared;
use crate::clients::Client;
use crate::properties;

/// How long the producer may take to acknowledge (`Broker2Client.callClient`).
const TIMEOUT: Duration = Duration::from_secs(10);
/// Property that names the producer's client id.
const REPLY_TO: &[u8] = b"REPLY_TO_CLIENT";

/// A reply on its way.
struct Reply {
    /// Fields of code 326.
    fields: Vec<(&'static str, String)>,
    body: Vec<u8>,
    to: String,
}

/// SEND_REPLY_MESSAGE (324) and its short form (325).
pub(crate) fn reply(broker: &Arc<Shared>, call: &Call<'_>, _out: &mut Vec<u8>) -> Result<(), Refusal> {
    let header = match call.request.head.code {
        request::SEND_REPLY_MESSAGE => SendHeader::read_long(&call.request.fields)?,
        _ => SendHeader::read_short(&call.request.fields)?,
    };
    let refuse = |code, remark: String| Err(Refusal::new(code, remark));
    let start = broker.live.start_accept_send_request_time_stamp();
    if start > 0 && clock::now_millis() < start {
        return refuse(response::SYSTEM_ERROR, format!("broker unable to service, until {start}"));
    }
    let name = header.topic.to_str()?;
    let Some(topic) = broker.topics.get(&name).filter(|topic| topic.write_queues() > 0) else {
        return refuse(response::TOPIC_NOT_EXIST, format!("topic[{name}] not exist, apply first please!"));
    };
    let mut sent = Vec::new();
    header.properties.push_to(&mut sent);
    if sent.len() > MAX_PROPERTIES_BYTES || call.request.body.len() > broker.max_message_size {
        return refuse(response::MESSAGE_ILLEGAL, "the reply's body or properties are too long".into());
    }
    let Some(to) = properties::find(&sent, REPLY_TO).map(|to| String::from_utf8_lossy(to).into_owned()) else {
        return refuse(response::SYSTEM_ERROR, "reply message properties[REPLY_TO_CLIENT] is null".into());
    };
    let queue_id = u32::try_from(header.queue_id).unwrap_or(0) % topic.write_queues();
    let Some(requester) = broker.clients.producer(&to) else {
        return refuse(response::SYSTEM_ERROR, format!("push reply message fail, channel of <{to}> not found."));
    };
    let Ok(permit) = Arc::clone(broker.clients.replies()).try_acquire_owned() else {
        return refuse(response::SYSTEM_BUSY, "[OVERLOAD]too many replies wait for their requesters".into());
    };
    let reply = pushed(broker, call, &header, &sent, to)?;
    let stored = if broker.live.store_reply_message_enable() {
        store(broker, call, &header, &topic, queue_id, &sent)?
    } else {
        ("0".to_owned(), 0)
    };
    let (asker, head, shared) = (Arc::clone(call.conn), call.request.head, Arc::clone(broker));
    tokio::spawn(async move {
        let outcome = deliver(&requester, &reply).await;
        drop(permit);
        if head.is_oneway() {
            return;
        }
        let told = asker.push(|out| {
            let code = if outcome.is_ok() { response::SUCCESS } else { response::SYSTEM_ERROR };
            let mut frame = FrameWriter::response(out, &head, code);
            if let Err(remark) = &outcome {
                frame.remark(remark);
            }
            frame.str("msgId", &stored.0).i32("queueId", queue_id as i32).i64("queueOffset", stored.1);
            frame.str("MSG_REGION", &shared.config.region_id);
            frame.str("TRACE_ON", if shared.config.trace_on { "true" } else { "false" });
            frame.finish();
        });
        if let Err(e) = told {
            tracing::debug!("{} is not told that its reply is delivered: {e}", asker.peer());
        }
    });
    Ok(())
}

/// What the requester gets.
fn pushed(
    broker: &Shared,
    call: &Call<'_>,
    header: &SendHeader<'_>,
    sent: &[u8],
    to: String,
) -> Result<Reply, Refusal> {
    let mut properties = sent.to_vec();
    if properties.last().is_some_and(|last| *last != properties::PAIR) {
        properties.push(properties::PAIR);
    }
    let now = clock::now_millis();
    properties::push(&mut properties, "PUSH_REPLY_TIME", now.to_string().as_bytes());
    let fields = vec![
        ("producerGroup", header.producer_group.to_str()?.into_owned()),
        ("topic", header.topic.to_str()?.into_owned()),
        ("defaultTopic", header.default_topic.to_str()?.into_owned()),
        ("defaultTopicQueueNums", header.default_topic_queue_nums.to_string()),
        ("queueId", header.queue_id.to_string()),
        ("sysFlag", header.sys_flag.to_string()),
        ("bornTimestamp", header.born_timestamp.to_string()),
        ("flag", header.flag.to_string()),
        ("properties", String::from_utf8_lossy(&properties).into_owned()),
        ("reconsumeTimes", header.reconsume_times.unwrap_or(0).to_string()),
        ("unitMode", header.unit_mode.to_string()),
        ("bornHost", call.conn.peer().to_string()),
        ("storeHost", broker.address()),
        ("storeTimestamp", now.to_string()),
    ];
    Ok(Reply { fields, body: call.request.body.to_vec(), to })
}

async fn deliver(requester: &Client, reply: &Reply) -> Result<(), String> {
    let answer = requester.connection.invoke(TIMEOUT, |out, opaque| {
        let code = request::PUSH_REPLY_MESSAGE_TO_CLIENT;
        let mut frame = FrameWriter::request(out, Encoding::Json, code, opaque, false);
        for (key, value) in &reply.fields {
            frame.str(key, value);
        }
        frame.finish_with_body(&reply.body);
    });
    let failed = |why: &dyn std::fmt::Display| Err(format!("push reply message to {}fail. {why}", reply.to));
    match answer.await {
        Ok(answer) if answer.head().code == response::SUCCESS => Ok(()),
        Ok(answer) => failed(&answer.remark_lossy()),
        Err(InvokeError::Timeout(limit)) => failed(&format!("no acknowledgement within {limit:?}")),
        Err(e) => failed(&e),
    }
}

/// Keeps the reply as a message of the reply topic; its id and queue offset.
fn store(
    broker: &Shared,
    call: &Call<'_>,
    header: &SendHeader<'_>,
    topic: &crate::topics::Topic,
    queue_id: u32,
    sent: &[u8],
) -> Result<(String, i64), Refusal> {
    let mut stored = Vec::with_capacity(sent.len() + 128);
    let seen = properties::rewrite(sent, &mut stored);
    stored.extend_from_slice(&broker.send.stored_suffix);
    let part = |range: &Option<std::ops::Range<usize>>| range.clone().map(|range| &stored[range]);
    let parts = MessageParts {
        topic: topic.name(),
        queue_id,
        body: call.request.body,
        properties: &stored,
        tags: part(&seen.tags),
        keys: part(&seen.keys),
        uniq_key: part(&seen.uniq_key),
        flag: header.flag,
        sys_flag: header.sys_flag,
        born_timestamp: header.born_timestamp,
        born_host: call.conn.peer(),
        store_host: broker.store_host,
        reconsume_times: header.reconsume_times.unwrap_or(0),
        prepared_transaction_offset: 0,
    };
    let illegal = |e: &dyn std::fmt::Display| Refusal::new(response::MESSAGE_ILLEGAL, e.to_string());
    let queue = topic.queue(&broker.store, queue_id).ok_or_else(|| illegal(&"the reply topic has no such queue"))?;
    let mut batch = AppendBatch::default();
    batch.push(queue, &parts).map_err(|reject| illegal(&reject))?;
    broker
        .store
        .append(&mut batch)
        .map_err(|e| Refusal::new(response::SERVICE_NOT_AVAILABLE, format!("service not available now. {e}")))?;
    let Some(message) = batch.results().first().filter(|message| message.is_stored()) else {
        return Err(illegal(&"the reply topic was deleted at this moment"));
    };
    topic.taken().count(1, u64::from(message.size));
    broker.stats.count_put(1, u64::from(message.size));
    Ok((id::offset_message_id(broker.store_host, message.physical_offset), message.queue_offset))
}
