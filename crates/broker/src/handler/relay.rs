//! Requests that a tool sends to the broker and a connected consumer answers: passed on, and the answer passed back.

use std::sync::Arc;
use std::time::Duration;

use ferromq_protocol::code::{request, response};
use ferromq_protocol::{Encoding, FrameWriter, OwnedCommand, id};
use ferromq_remoting::InvokeError;

use super::{Call, Refusal};
use crate::broker::Shared;
use crate::clients::Client;

/// How long a consumer may take for its answer (`Broker2Client.callClient`).
const TIMEOUT: Duration = Duration::from_secs(10);
/// First client version that answers (`V3_1_8_SNAPSHOT`).
const LEAST_VERSION: i32 = 62;

/// What is passed on.
struct Passed {
    code: i32,
    fields: Vec<(String, String)>,
    body: Vec<u8>,
}

/// GET_CONSUMER_RUNNING_INFO (307).
pub(crate) fn running_info(broker: &Arc<Shared>, call: &Call<'_>, _out: &mut Vec<u8>) -> Result<(), Refusal> {
    let passed = Passed { code: request::GET_CONSUMER_RUNNING_INFO, fields: fields(call), body: Vec::new() };
    pass_on(broker, call, passed)
}

/// CONSUME_MESSAGE_DIRECTLY (309): the consumer gets the stored record with the request.
pub(crate) fn consume_directly(broker: &Arc<Shared>, call: &Call<'_>, _out: &mut Vec<u8>) -> Result<(), Refusal> {
    let mut fields = fields(call);
    let mut set = |key: &str, value: String| {
        fields.retain(|(name, _)| name != key);
        fields.push((key.to_owned(), value));
    };
    let asked = &call.request.fields;
    set("brokerName", broker.config.broker_name.clone());
    if let Some(topic) = asked.opt_str("topic").and_then(|topic| broker.topics.get(&topic)) {
        set("topicSysFlag", topic.config().topic_sys_flag.to_string());
    }
    if let Some(group) = broker.groups.find(&asked.str("consumerGroup")?) {
        set("groupSysFlag", group.group_sys_flag.to_string());
    }
    let mut body = Vec::new();
    let message_id = asked.opt_str("msgId").unwrap_or_default();
    let offset = id::parse_offset_message_id(&message_id).map(|(_, offset)| offset);
    let found = offset.and_then(|offset| broker.store.record_at(offset, &mut body));
    if found.is_none() {
        let remark = format!("no message is stored under the id {message_id}");
        return Err(Refusal::new(response::SYSTEM_ERROR, remark));
    }
    pass_on(broker, call, Passed { code: request::CONSUME_MESSAGE_DIRECTLY, fields, body })
}

fn fields(call: &Call<'_>) -> Vec<(String, String)> {
    call.request
        .fields
        .iter()
        .map(|(key, value)| (key.to_lossy().into_owned(), value.to_lossy().into_owned()))
        .collect()
}

fn pass_on(broker: &Arc<Shared>, call: &Call<'_>, passed: Passed) -> Result<(), Refusal> {
    let group = call.request.fields.str("consumerGroup")?.into_owned();
    let client_id = call.request.fields.opt_str("clientId").unwrap_or_default().into_owned();
    let refuse = |code, remark: String| Err(Refusal::new(code, remark));
    let view = broker.clients.consumer_group(&group);
    let Some(client) = view.and_then(|view| view.members.into_iter().find(|m| *m.client_id == *client_id)) else {
        return refuse(response::SYSTEM_ERROR, format!("The Consumer <{group}> <{client_id}> not online"));
    };
    if client.version < LEAST_VERSION {
        let remark =
            format!("The Consumer <{client_id}> Version <{}> too low to finish, please upgrade it", client.version);
        return refuse(response::SYSTEM_ERROR, remark);
    }
    let Ok(permit) = Arc::clone(broker.clients.relays()).try_acquire_owned() else {
        return refuse(
            response::SYSTEM_BUSY,
            "too many requests wait for answers of consumers, try again later".into(),
        );
    };
    let (asker, head) = (Arc::clone(call.conn), call.request.head);
    tokio::spawn(async move {
        let answer = ask(&client, &passed).await;
        drop(permit);
        let told = asker.push(|out| match &answer {
            Ok(answer) => pass_back(out, &head, answer),
            Err(error) => {
                let timed_out = matches!(error, InvokeError::Timeout(_));
                let code = if timed_out { response::CONSUME_MSG_TIMEOUT } else { response::SYSTEM_ERROR };
                let mut frame = FrameWriter::response(out, &head, code);
                frame.remark(&format!("invoke consumer <{group}> <{client_id}> Exception: {error}"));
                frame.finish();
            }
        });
        if let Err(e) = told {
            tracing::debug!("{} does not get the answer of consumer {client_id}: {e}", asker.peer());
        }
    });
    Ok(())
}

async fn ask(client: &Client, passed: &Passed) -> Result<OwnedCommand, InvokeError> {
    client
        .connection
        .invoke(TIMEOUT, |out, opaque| {
            let mut frame = FrameWriter::request(out, Encoding::Json, passed.code, opaque, false);
            for (key, value) in &passed.fields {
                frame.str(key, value);
            }
            frame.finish_with_body(&passed.body);
        })
        .await
}

fn pass_back(out: &mut Vec<u8>, head: &ferromq_protocol::Head, answer: &OwnedCommand) {
    let answer = answer.command();
    let mut frame = FrameWriter::response(out, head, answer.head.code);
    if let Some(remark) = answer.remark {
        frame.remark(&remark.to_lossy());
    }
    for (key, value) in answer.fields.iter() {
        frame.str(&key.to_lossy(), &value.to_lossy());
    }
    frame.finish_with_body(answer.body);
}
