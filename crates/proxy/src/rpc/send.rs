//! SendMessage: one message, or several of one topic as one batch (`SendMessageActivity`).

use ferromq_common::clock;
use ferromq_protocol::code::{request, response};
use ferromq_protocol::header::send::{SendHeader, SendResponseHeader};
use ferromq_protocol::record::{self, InnerMessage};
use ferromq_protocol::sys_flag::message as flags;
use ferromq_protocol::{OwnedCommand, Text, id, topic};

use crate::call::Caller;
use crate::door::TIMEOUT;
use crate::names;
use crate::pb::{
    Code, Encoding, Message, MessageType, SendMessageRequest, SendMessageResponse, SendResultEntry, Status,
};
use crate::rpc::end_transaction::HalfId;
use crate::service::Service;
use crate::status::{self, Refused};
use crate::topic::Topic;

mod properties;

use properties::Checked;

/// Most messages of one call.
const MAX_MESSAGES: usize = 1024;
/// Queues that a topic which is made by its first message has at most.
const DEFAULT_QUEUES: i32 = 4;

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
    let topic = service.door.topic(&name).await?;
    let mut checked = Vec::with_capacity(messages.len());
    for message in messages {
        checked.push(check(service, caller, &name, &topic, message)?);
    }
    let entries = match &checked[..] {
        [one] => vec![send_one(service, caller, &name, &topic, first, one).await?.0],
        all => send_batch(service, caller, &name, &topic, messages, all).await?,
    };
    let status = status::overall(entries.iter().map(|entry| &entry.status));
    Ok(SendMessageResponse { status: Some(status), entries })
}

/// One message; beside its entry the queue it went to, which gRPC clients are not told.
pub(crate) async fn send_message(
    service: &Service,
    caller: &Caller,
    message: &Message,
) -> Result<(SendResultEntry, i32), Refused> {
    let name = names::topic(message.topic.as_ref())?;
    let topic = service.door.topic(&name).await?;
    let checked = check(service, caller, &name, &topic, message)?;
    send_one(service, caller, &name, &topic, message, &checked).await
}

fn check(service: &Service, caller: &Caller, name: &str, topic: &Topic, message: &Message) -> Result<Checked, Refused> {
    let limit = service.door.max_message_size();
    if message.body.is_empty() {
        return Err(Refused::new(Code::MessageBodyEmpty, "the message has no body"));
    }
    if message.body.len() > limit {
        let why = format!("the body has {} bytes, more than {limit}", message.body.len());
        return Err(Refused::new(Code::MessageBodyTooLarge, why));
    }
    let max_delay = service.door.max_delay();
    let checked = properties::check(name, message, caller.ends.peer, clock::now_millis(), max_delay)?;
    let accepted = topic.accepted();
    if !accepted.contains(&checked.kind) && !accepted.contains(&MessageType::Unspecified) {
        let why = format!(
            "topic {name} takes messages of the kinds {accepted:?}, not {:?}; its attribute message.type says which",
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
    name: &str,
    topic: &Topic,
    message: &Message,
    checked: &Checked,
) -> Result<(SendResultEntry, i32), Refused> {
    let (broker, queue_id) = match &checked.group {
        Some(group) => topic.queue_of_group(group)?,
        None => topic.queue_in_turn(name, |broker| service.door.is_avoided(broker))?,
    };
    let header = header(name, queue_id, sys_flag(message, checked.kind), checked.born_ms, &checked.properties);
    let line = service.door.line(caller);
    let asked = line.at(broker)?;
    let answer = asked.ask(request::SEND_MESSAGE_V2, TIMEOUT, |frame| header.write_short(frame), &message.body).await?;
    let stored = Stored::read(service, name, &answer)?;
    let transaction_id = match checked.kind {
        MessageType::Transaction => stored.half(broker).unwrap_or_default(),
        _ => checked.message_id.clone(),
    };
    let entry = SendResultEntry {
        status: Some(stored.status),
        message_id: checked.message_id.clone(),
        transaction_id,
        offset: stored.queue_offset,
        recall_handle: stored.recall_handle,
    };
    Ok((entry, stored.queue_id))
}

async fn send_batch(
    service: &Service,
    caller: &Caller,
    name: &str,
    topic: &Topic,
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
    let (broker, queue_id) = topic.queue_in_turn(name, |broker| service.door.is_avoided(broker))?;
    let header = SendHeader { batch: true, ..header(name, queue_id, 0, checked[0].born_ms, "") };
    let line = service.door.line(caller);
    let asked = line.at(broker)?;
    let answer = asked.ask(request::SEND_BATCH_MESSAGE, TIMEOUT, |frame| header.write_short(frame), &body).await?;
    let stored = Stored::read(service, name, &answer)?;
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
    queue_id: i32,
    queue_offset: i64,
    message_id: String,
    recall_handle: String,
}

impl Stored {
    fn read(service: &Service, topic: &str, answer: &OwnedCommand) -> Result<Self, Refused> {
        let code = match answer.head().code {
            response::SUCCESS => Code::Ok,
            response::FLUSH_DISK_TIMEOUT => Code::MasterPersistenceTimeout,
            response::FLUSH_SLAVE_TIMEOUT => Code::SlavePersistenceTimeout,
            response::SLAVE_NOT_AVAILABLE => Code::HaNotAvailable,
            _ => return Err(service.door.refused(topic, answer)),
        };
        let command = answer.command();
        let header = SendResponseHeader::read(&command.fields)
            .map_err(|error| Refused::new(Code::InternalServerError, error.to_string()))?;
        Ok(Stored {
            status: status::status(code, code.as_str_name()),
            queue_id: header.queue_id,
            queue_offset: header.queue_offset,
            message_id: header.msg_id.to_lossy().into_owned(),
            recall_handle: header.recall_handle.map(|handle| handle.to_lossy().into_owned()).unwrap_or_default(),
        })
    }

    /// The transaction id of a half message.
    fn half(&self, broker: &str) -> Option<String> {
        let (_, position) = id::parse_offset_message_id(&self.message_id)?;
        let log_position = i64::try_from(position).ok()?;
        Some(HalfId { queue_offset: self.queue_offset, log_position, broker }.to_string())
    }
}
