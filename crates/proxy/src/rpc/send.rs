//! SendMessage: one message, or several of one topic as one batch (`SendMessageActivity`).

use std::sync::atomic::{AtomicU32, Ordering};

use ferromq_common::clock;
use ferromq_protocol::code::{request, response};
use ferromq_protocol::header::send::{SendHeader, SendResponseHeader};
use ferromq_protocol::record::{self, InnerMessage};
use ferromq_protocol::sys_flag::message as flags;
use ferromq_protocol::{OwnedCommand, Text, id, java, topic};

use crate::call::Caller;
use crate::door::TIMEOUT;
use crate::names;
use crate::pb::{
    Code, Encoding, Message, MessageType, SendMessageRequest, SendMessageResponse, SendResultEntry, Status,
};
use crate::rpc::end_transaction::HalfId;
use crate::rpc::route::{self, Shape};
use crate::service::Service;
use crate::status::{self, Refused};

mod properties;

use properties::Checked;

/// Most messages of one call.
const MAX_MESSAGES: usize = 1024;
/// Queues that a topic which is made by its first message has at most.
const DEFAULT_QUEUES: i32 = 4;
/// Messages without a group go to the queues in turn.
static TURN: AtomicU32 = AtomicU32::new(0);

pub(crate) async fn send(
    service: &Service,
    caller: &Caller,
    request: SendMessageRequest,
) -> Result<SendMessageResponse, Refused> {
    let messages = &request.messages;
    let Some(first) = messages.first() else {
        return Err(Refused::new(Code::MessageCorrupted, "no message to send"));
    };
    if messages.len() > MAX_MESSAGES {
        return Err(Refused::new(Code::MessageCorrupted, format!("more than {MAX_MESSAGES} messages in one call")));
    }
    let name = names::topic(first.topic.as_ref())?;
    if messages.iter().any(|message| message.topic != first.topic) {
        return Err(Refused::new(Code::MessageCorrupted, "the messages are of different topics"));
    }
    let shape = route::shape(&service.door.broker, &name)
        .ok_or_else(|| Refused::new(Code::TopicNotFound, format!("no route of topic {name}")))?;
    let mut checked = Vec::with_capacity(messages.len());
    for message in messages {
        checked.push(check(service, caller, &name, &shape, message)?);
    }
    let entries = match &checked[..] {
        [one] => vec![send_one(service, caller, &name, &shape, first, one).await?],
        all => send_batch(service, caller, &name, &shape, messages, all).await?,
    };
    let status = status::overall(entries.iter().map(|entry| &entry.status));
    Ok(SendMessageResponse { status: Some(status), entries })
}

fn check(
    service: &Service,
    caller: &Caller,
    topic: &str,
    shape: &Shape,
    message: &Message,
) -> Result<Checked, Refused> {
    let limit = service.door.broker.max_message_size;
    if message.body.is_empty() {
        return Err(Refused::new(Code::MessageBodyEmpty, "the message has no body"));
    }
    if message.body.len() > limit {
        let why = format!("the body has {} bytes, more than {limit}", message.body.len());
        return Err(Refused::new(Code::MessageBodyTooLarge, why));
    }
    let max_delay = service.door.broker.timer.max_delay();
    let checked = properties::check(topic, message, caller.ends.peer, clock::now_millis(), max_delay)?;
    let accepted = route::accepted(shape.message_type.as_deref());
    if !accepted.contains(&checked.kind) && !accepted.contains(&MessageType::Unspecified) {
        let why = format!(
            "topic {topic} takes messages of the kinds {accepted:?}, not {:?}; its attribute message.type says which",
            checked.kind
        );
        return Err(Refused::new(Code::MessagePropertyConflictWithType, why));
    }
    Ok(checked)
}

fn header<'a>(topic: &'a str, queue_id: i32, sys_flag: i32, born: i64, properties: &'a str) -> SendHeader<'a> {
    SendHeader {
        producer_group: Text::plain(topic),
        topic: Text::plain(topic),
        default_topic: Text::plain(topic::AUTO_CREATE_TOPIC_KEY),
        default_topic_queue_nums: DEFAULT_QUEUES,
        queue_id,
        sys_flag,
        born_timestamp: born,
        properties: Text::plain(properties),
        ..SendHeader::default()
    }
}

fn sys_flag(message: &Message, kind: MessageType) -> i32 {
    let encoding = message.system_properties.as_ref().map_or(Encoding::Identity, |system| system.body_encoding());
    let compressed = if encoding == Encoding::Gzip { flags::COMPRESSED } else { 0 };
    let prepared = if kind == MessageType::Transaction { flags::TRANSACTION_PREPARED } else { 0 };
    compressed | prepared
}

async fn send_one(
    service: &Service,
    caller: &Caller,
    topic: &str,
    shape: &Shape,
    message: &Message,
    checked: &Checked,
) -> Result<SendResultEntry, Refused> {
    let queues = shape.write.max(1);
    let queue_id = match &checked.group {
        Some(group) => consistent_hash(i64::from(java::string_hash(group)), queues),
        None => in_turn(queues),
    };
    let header = header(topic, queue_id, sys_flag(message, checked.kind), checked.born_ms, &checked.properties);
    let line = service.door.line(caller);
    let answer = line.ask(request::SEND_MESSAGE_V2, TIMEOUT, |frame| header.write_short(frame), &message.body).await?;
    let stored = Stored::read(&answer)?;
    let transaction_id = match checked.kind {
        MessageType::Transaction => stored.half().unwrap_or_default(),
        _ => checked.message_id.clone(),
    };
    Ok(SendResultEntry {
        status: Some(stored.status),
        message_id: checked.message_id.clone(),
        transaction_id,
        offset: stored.queue_offset,
        recall_handle: stored.recall_handle,
    })
}

async fn send_batch(
    service: &Service,
    caller: &Caller,
    topic: &str,
    shape: &Shape,
    messages: &[Message],
    checked: &[Checked],
) -> Result<Vec<SendResultEntry>, Refused> {
    if let Some(other) = checked.iter().find(|checked| !matches!(checked.kind, MessageType::Normal)) {
        let why = format!("messages of the kind {:?} are sent one in a call", other.kind);
        return Err(Refused::new(Code::MessageCorrupted, why));
    }
    let mut body = Vec::new();
    for (message, checked) in messages.iter().zip(checked) {
        let inner = InnerMessage { flag: 0, body: &message.body, properties: checked.properties.as_bytes() };
        record::push_inner(&inner, &mut body);
    }
    let header = SendHeader { batch: true, ..header(topic, in_turn(shape.write.max(1)), 0, checked[0].born_ms, "") };
    let line = service.door.line(caller);
    let answer = line.ask(request::SEND_BATCH_MESSAGE, TIMEOUT, |frame| header.write_short(frame), &body).await?;
    let stored = Stored::read(&answer)?;
    let entries = checked.iter().zip(0..).map(|(checked, at)| SendResultEntry {
        status: Some(stored.status.clone()),
        message_id: checked.message_id.clone(),
        transaction_id: checked.message_id.clone(),
        offset: stored.queue_offset.saturating_add(at),
        recall_handle: String::new(),
    });
    Ok(entries.collect())
}

/// What the broker says of messages it has stored.
struct Stored {
    status: Status,
    queue_offset: i64,
    message_id: String,
    recall_handle: String,
}

impl Stored {
    fn read(answer: &OwnedCommand) -> Result<Self, Refused> {
        let code = match answer.head().code {
            response::SUCCESS => Code::Ok,
            response::FLUSH_DISK_TIMEOUT => Code::MasterPersistenceTimeout,
            response::FLUSH_SLAVE_TIMEOUT => Code::SlavePersistenceTimeout,
            response::SLAVE_NOT_AVAILABLE => Code::HaNotAvailable,
            _ => return Err(Refused::by_broker(answer)),
        };
        let command = answer.command();
        let header = SendResponseHeader::read(&command.fields)
            .map_err(|error| Refused::new(Code::InternalServerError, error.to_string()))?;
        Ok(Stored {
            status: status::status(code, code.as_str_name()),
            queue_offset: header.queue_offset,
            message_id: header.msg_id.to_lossy().into_owned(),
            recall_handle: header.recall_handle.map(|handle| handle.to_lossy().into_owned()).unwrap_or_default(),
        })
    }

    /// The transaction id of a half message.
    fn half(&self) -> Option<String> {
        let (_, position) = id::parse_offset_message_id(&self.message_id)?;
        let half = HalfId { queue_offset: self.queue_offset, log_position: i64::try_from(position).ok()? };
        Some(half.to_string())
    }
}

fn in_turn(queues: i32) -> i32 {
    (TURN.fetch_add(1, Ordering::Relaxed) % queues.unsigned_abs().max(1)) as i32
}

/// The bucket of a key: few keys move when buckets are added (Guava's `Hashing.consistentHash`, which RocketMQ's proxy
/// uses; messages of a group must go where they went before).
fn consistent_hash(key: i64, buckets: i32) -> i32 {
    let (mut state, mut candidate) = (key, 0_i32);
    loop {
        state = state.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
        let fraction = f64::from(((state as u64) >> 33) as i32 + 1) / f64::from(2.0_f32).powi(31);
        let next = (f64::from(candidate + 1) / fraction) as i32;
        if !(0..buckets).contains(&next) {
            return candidate;
        }
        candidate = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_go_to_the_queues_that_guava_chooses() {
        // Hashing.consistentHash(key.hashCode(), 8) of Guava 32.
        for key in ["", "a", "order-1", "order-2"] {
            let hash = i64::from(java::string_hash(key));
            assert!((0..8).contains(&consistent_hash(hash, 8)));
            assert_eq!(consistent_hash(hash, 1), 0);
        }
    }
}
