//! POST of a message: the body as it is, with what else there is to say as parameters; or all of it as JSON.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use ferromq_common::clock;
use hyper::StatusCode;
use serde::{Deserialize, Serialize};

use crate::call::Caller;
use crate::http::answer::{self, Answer, Failure};
use crate::http::query::Query;
use crate::http::route::Asked;
use crate::http::{Endpoint, body};
use crate::message::{resource, timestamp};
use crate::pb::{Code, Message, SystemProperties};
use crate::rpc;
use crate::status::Refused;

/// What an envelope may have besides the body, bytes.
const ENVELOPE_BYTES: usize = 64 * 1024;
/// Parameters with this before their names are properties.
const PROPERTY: &str = "property.";

/// A message as JSON.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Envelope {
    body: Option<String>,
    body_base64: Option<String>,
    tag: Option<String>,
    keys: Vec<String>,
    properties: HashMap<String, String>,
    delay_ms: Option<u64>,
    deliver_at_ms: Option<u64>,
    order_key: Option<String>,
}

/// What became of it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Sent {
    message_id: String,
    queue_id: i32,
    queue_offset: i64,
    #[serde(skip_serializing_if = "String::is_empty")]
    recall_handle: String,
}

pub(crate) async fn send(endpoint: &Endpoint, topic: &str, asked: Asked) -> Result<Answer, Failure> {
    let Asked { ends, head, body } = asked;
    let mut query = Query::parse(head.uri.query())?;
    let is_json = body::is_json(&head.headers);
    let envelope = if is_json { Envelope::default() } else { of_query(&mut query)? };
    query.end()?;
    let limit = endpoint.service.door.max_message_size();
    // A body as JSON is longer, by base64 or by escapes.
    let limit = if is_json { limit.saturating_mul(2).saturating_add(ENVELOPE_BYTES) } else { limit };
    let held = endpoint.room.read(&head.headers, body, limit).await?;
    let (body, envelope) = match is_json {
        true => of_json(&held.bytes)?,
        false => (held.bytes.clone(), envelope),
    };
    let message = message(endpoint, topic, body, envelope)?;
    let caller = Caller::of_http(ends, format!("http@{}", ends.peer.ip()));
    let (entry, queue_id) = rpc::send::send_message(&endpoint.service, &caller, &message).await?;
    let status = entry.status.unwrap_or_default();
    if status.code() != Code::Ok {
        return Err(Refused::new(status.code(), format!("message {}: {}", entry.message_id, status.message)).into());
    }
    let sent =
        Sent { message_id: entry.message_id, queue_id, queue_offset: entry.offset, recall_handle: entry.recall_handle };
    Ok(answer::json(StatusCode::CREATED, &sent))
}

/// What is said of a body that is sent as it is.
fn of_query(query: &mut Query) -> Result<Envelope, Failure> {
    let mut properties = HashMap::new();
    for (name, value) in query.beginning(PROPERTY) {
        if properties.insert(name.clone(), value).is_some() {
            return Err(Failure::bad_request(format!("the property {name} stands twice")));
        }
    }
    Ok(Envelope {
        tag: query.text("tag")?,
        keys: query.all("key"),
        properties,
        delay_ms: query.number("delayMs", 0..=i64::MAX)?.map(i64::unsigned_abs),
        deliver_at_ms: query.number("deliverAtMs", 0..=i64::MAX)?.map(i64::unsigned_abs),
        order_key: query.text("orderKey")?,
        ..Envelope::default()
    })
}

fn of_json(text: &[u8]) -> Result<(Bytes, Envelope), Failure> {
    let mut envelope: Envelope = body::object(text)?;
    let body = match (envelope.body.take(), envelope.body_base64.take()) {
        (Some(text), None) => text.into(),
        (None, Some(base64)) => {
            let decoded = STANDARD.decode(&base64);
            decoded.map_err(|error| Failure::bad_request(format!("bodyBase64 is no base64: {error}")))?.into()
        }
        _ => return Err(Failure::bad_request("a message has either body or bodyBase64")),
    };
    Ok((body, envelope))
}

fn message(endpoint: &Endpoint, topic: &str, body: Bytes, envelope: Envelope) -> Result<Message, Failure> {
    let deliver_at = match (envelope.delay_ms, envelope.deliver_at_ms) {
        (Some(_), Some(_)) => return Err(Failure::bad_request("a message has either delayMs or deliverAtMs")),
        (Some(delay), None) => Some(clock::now_millis().saturating_add_unsigned(delay)),
        (None, at) => at.map(|at| i64::try_from(at).unwrap_or(i64::MAX)),
    };
    let system_properties = SystemProperties {
        message_id: endpoint.new_id(),
        tag: envelope.tag,
        keys: envelope.keys,
        delivery_timestamp: deliver_at.map(timestamp),
        message_group: envelope.order_key,
        ..SystemProperties::default()
    };
    Ok(Message {
        topic: Some(resource(topic)),
        user_properties: envelope.properties,
        system_properties: Some(system_properties),
        body,
    })
}
