//! ReceiveMessage: pops messages, and waits for them if there are none (`ReceiveMessageActivity`).

use std::collections::HashMap;
use std::time::Duration;

use ferromq_common::clock;
use ferromq_protocol::body::SubscriptionData;
use ferromq_protocol::code::{request, response};
use ferromq_protocol::header::pop::{PopMessageHeader, PopMessageResponseHeader};
use ferromq_protocol::pop::{Origin, ReceiptHandle};
use ferromq_protocol::properties::{self, names as keys};
use ferromq_protocol::record::{self, Entry, Record};
use ferromq_protocol::{OwnedCommand, Text};

use crate::call::Caller;
use crate::door::{Line, TIMEOUT};
use crate::handle::Handle;
use crate::message::{self, Received, millis};
use crate::names;
use crate::pb::receive_message_response::Content;
use crate::pb::{Code, ReceiveMessageRequest, ReceiveMessageResponse};
use crate::renewal::Held;
use crate::rpc::{ack, dead_letter};
use crate::service::Service;
use crate::settings::{self, RECEIVE_BATCH};
use crate::status::{self, Refused};

/// Bounds of the time a call waits for messages, milliseconds (`grpcClientConsumerMinLongPollingTimeoutMillis`, Max).
const POLLING_MS: std::ops::RangeInclusive<i64> = 5_000..=20_000;
/// Bounds of the time a message is invisible, milliseconds.
const INVISIBLE_MS: std::ops::RangeInclusive<i64> = 10_000..=43_200_000;
/// For how long messages are invisible that the proxy keeps so (`defaultInvisibleTimeMills`).
const RENEWED_MS: i64 = 60_000;
/// Where a new group begins: at the end of the queue (`ConsumeInitMode.MAX`).
const FROM_END: i32 = 1;

/// The answer of a call that hands out nothing.
pub(crate) fn nothing(refused: Refused) -> Vec<ReceiveMessageResponse> {
    vec![piece(Content::Status(refused.into())), delivered()]
}

fn piece(content: Content) -> ReceiveMessageResponse {
    ReceiveMessageResponse { content: Some(content) }
}

fn delivered() -> ReceiveMessageResponse {
    piece(Content::DeliveryTimestamp(message::timestamp(clock::now_millis())))
}

pub(crate) async fn receive(
    service: &Service,
    caller: &Caller,
    request: ReceiveMessageRequest,
) -> Vec<ReceiveMessageResponse> {
    match pop(service, caller, &request).await {
        Ok(messages) => {
            let mut answer = vec![piece(Content::Status(status::ok()))];
            answer.extend(messages.into_iter().map(|message| piece(Content::Message(message))));
            answer.push(delivered());
            answer
        }
        Err(refused) => nothing(refused),
    }
}

/// What one call asks for.
struct Asked<'a> {
    topic: String,
    group: String,
    invisible_ms: i64,
    subscription: SubscriptionData,
    auto_renew: bool,
    max_attempts: i32,
    caller: &'a Caller,
}

async fn pop(
    service: &Service,
    caller: &Caller,
    request: &ReceiveMessageRequest,
) -> Result<Vec<crate::pb::Message>, Refused> {
    let client = service.clients.receiving(caller, request).await?;
    let settings = client.settings();
    let queue = request.message_queue.as_ref();
    let topic = names::topic(queue.and_then(|queue| queue.topic.as_ref()))?;
    let group = names::group(request.group.as_ref())?;
    let mut invisible_ms = request.invisible_duration.as_ref().map_or(RENEWED_MS, millis);
    if request.auto_renew {
        invisible_ms = RENEWED_MS;
    } else if !INVISIBLE_MS.contains(&invisible_ms) {
        let why = format!("the invisible time {invisible_ms} ms is not within {INVISIBLE_MS:?}");
        return Err(Refused::new(Code::IllegalInvisibleTime, why));
    }
    let poll_ms = polling_time(caller, request)?;
    let (kind, expression) = settings::expression(request.filter_expression.as_ref());
    let header = PopMessageHeader {
        consumer_group: Text::plain(&group),
        topic: Text::plain(&topic),
        // The broker deals out of all its queues, whichever the client has picked (`ReceiveMessageQueueSelector`).
        queue_id: -1,
        max_msg_nums: request.batch_size.clamp(1, RECEIVE_BATCH),
        invisible_time: invisible_ms,
        poll_time: poll_ms,
        born_time: clock::now_millis(),
        init_mode: FROM_END,
        exp_type: Some(Text::plain(kind)),
        exp: Some(Text::plain(expression)),
        order: Some(settings::is_fifo(&settings)),
        attempt_id: request.attempt_id.as_deref().map(Text::plain),
    };
    // Its end, when the client goes away while it waits, takes the pop back.
    let line = service.door.line(caller);
    let timeout = Duration::from_millis(poll_ms.unsigned_abs()) + TIMEOUT;
    let answer = line.ask(request::POP_MESSAGE, timeout, |frame| header.write(frame), &[]).await?;
    match answer.head().code {
        response::SUCCESS => {}
        response::POLLING_FULL => return Err(Refused::new(Code::TooManyRequests, "too many calls wait for messages")),
        response::POLLING_TIMEOUT | response::PULL_NOT_FOUND => {
            return Err(Refused::new(Code::MessageNotFound, "no new message"));
        }
        _ => return Err(Refused::by_broker(&answer)),
    }
    let subscription = SubscriptionData::of(&topic, kind, expression, 0);
    let max_attempts = settings::max_attempts(&settings);
    let asked =
        Asked { topic, group, invisible_ms, subscription, auto_renew: request.auto_renew, max_attempts, caller };
    hand_out(service, &line, &asked, &answer).await
}

fn polling_time(caller: &Caller, request: &ReceiveMessageRequest) -> Result<i64, Refused> {
    let deadline = caller.timeout.map(|timeout| i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX));
    let asked = request.long_polling_timeout.as_ref().map(millis).or(deadline.map(|deadline| deadline - 1500));
    let poll = asked.unwrap_or(*POLLING_MS.end()).clamp(*POLLING_MS.start(), *POLLING_MS.end());
    match deadline {
        Some(deadline) if deadline < *POLLING_MS.start() && deadline < poll => {
            let why = format!("the call's deadline of {deadline} ms is too short to wait for messages");
            Err(Refused::new(Code::IllegalPollingTime, why))
        }
        Some(deadline) => Ok(poll.min(deadline)),
        None => Ok(poll),
    }
}

/// The messages of a pop. What must not reach the consumer is acknowledged, or goes to the dead letters.
async fn hand_out(
    service: &Service,
    line: &Line,
    asked: &Asked<'_>,
    answer: &OwnedCommand,
) -> Result<Vec<crate::pb::Message>, Refused> {
    let command = answer.command();
    let header = PopMessageResponseHeader::read(&command.fields)
        .map_err(|error| Refused::new(Code::InternalServerError, error.to_string()))?;
    let broker_name = service.door.broker_name();
    let starts = numbers(header.start_offset_info);
    let counts = numbers(header.order_count_info);
    let mut messages = Vec::new();
    let mut rest = command.body;
    while let Entry::Record(record) = record::read(rest) {
        rest = &rest[record.bytes().len()..];
        let of_retry = properties::get_str(record.properties(), keys::POP_CK).and_then(ReceiptHandle::parse);
        let key = format!("0 {}", record.queue_id());
        let of_pop = of_retry.unwrap_or(ReceiptHandle {
            start_offset: starts.get(&key).copied().unwrap_or_else(|| record.queue_offset()),
            pop_time: header.pop_time,
            invisible_time: header.invisible_time,
            revive_queue: header.revive_qid,
            origin: Origin::Topic,
            broker_name,
            queue_id: Some(record.queue_id()),
            queue_offset: Some(record.queue_offset()),
        });
        let handle = Handle::new(&of_pop, Some(record.physical_offset()));
        let in_order = counts.get(&format!("0 qo{}%{}", record.queue_id(), record.queue_offset()));
        let times = in_order.or_else(|| counts.get(&key)).copied();
        let times = times.and_then(|times| i32::try_from(times).ok()).filter(|times| *times > 0);
        let times = times.unwrap_or_else(|| record.reconsume_times());
        if !is_wanted(&asked.subscription, &record) {
            ack::one(line, &asked.topic, &asked.group, &handle).await?;
        } else if times >= asked.max_attempts {
            dead_letter::forward_one(line, &asked.topic, &asked.group, &handle, &unique_id(&record)).await?;
        } else {
            messages.push(made(service, asked, &record, handle, times));
        }
    }
    if messages.is_empty() {
        return Err(Refused::new(Code::MessageNotFound, "no new message"));
    }
    Ok(messages)
}

fn made(service: &Service, asked: &Asked<'_>, record: &Record<'_>, handle: Handle, times: i32) -> crate::pb::Message {
    let received = Received { handle: &handle, invisible_ms: asked.invisible_ms };
    let mut message = message::of_record(record, &asked.topic, Some(received));
    if let Some(properties) = &mut message.system_properties {
        properties.delivery_attempt = Some(times.saturating_add(1));
        if asked.auto_renew {
            let held = Held::new(asked.caller, &asked.topic, &asked.group, handle);
            service.renewals.hold(held);
        }
    }
    message
}

/// Brokers compare hashes of tags; this compares their text.
fn is_wanted(subscription: &SubscriptionData, record: &Record<'_>) -> bool {
    let tag = properties::get_str(record.properties(), keys::TAGS);
    subscription.tags_set.is_empty() || tag.is_some_and(|tag| subscription.tags_set.contains(tag))
}

pub(crate) fn unique_id(record: &Record<'_>) -> String {
    properties::get_str(record.properties(), keys::UNIQ_CLIENT_MESSAGE_ID_KEYIDX).unwrap_or_default().to_owned()
}

/// `origin key number`, joined by semicolons.
fn numbers(text: Option<Text<'_>>) -> HashMap<String, i64> {
    let text = text.map(|text| text.to_lossy().into_owned()).unwrap_or_default();
    let parts = text.split(';').filter_map(|part| part.rsplit_once(' '));
    parts.filter_map(|(key, number)| Some((key.to_owned(), number.parse().ok()?))).collect()
}
