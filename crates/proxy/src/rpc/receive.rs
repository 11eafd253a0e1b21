//! ReceiveMessage: pops messages, and waits for them if there are none (`ReceiveMessageActivity`).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ferromq_common::clock;
use ferromq_protocol::body::SubscriptionData;
use ferromq_protocol::code::{request, response};
use ferromq_protocol::header::pop::{PopMessageHeader, PopMessageResponseHeader};
use ferromq_protocol::pop::{Origin, ReceiptHandle};
use ferromq_protocol::properties::{self, names as keys};
use ferromq_protocol::record::Record;
use ferromq_protocol::records;
use ferromq_protocol::{OwnedCommand, Text};

use crate::call::Caller;
use crate::door::{Door, Line, TIMEOUT};
use crate::handle::Handle;
use crate::message::{self, Received, millis};
use crate::names;
use crate::pb::receive_message_response::Content;
use crate::pb::{Code, ReceiveMessageRequest, ReceiveMessageResponse};
use crate::renewal::{Held, Renewals};
use crate::rpc::invisible::{self, Wait};
use crate::rpc::{ack, dead_letter, lite};
use crate::service::{Answers, Service};
use crate::settings::{self, RECEIVE_BATCH};
use crate::status::{self, Refused};

/// Longest time a call waits for messages, milliseconds (`grpcClientConsumerMaxLongPollingTimeoutMillis`).
pub(crate) const MAX_WAIT_MS: i64 = 20_000;
/// A broker looks a few times a second whose wait is over, and the way back takes time, too, milliseconds: nobody reads an
/// answer that comes after the deadline, and its messages are gone for as long as they are invisible.
pub(crate) const ANSWER_MS: i64 = 500;
/// Bounds of the time a message is invisible, milliseconds.
pub(crate) const INVISIBLE_MS: std::ops::RangeInclusive<i64> = 10_000..=43_200_000;
/// For how long messages are invisible that the proxy keeps so (`defaultInvisibleTimeMills`).
pub(crate) const RENEWED_MS: i64 = 60_000;
/// Where a new group begins: at the end of the queue (`ConsumeInitMode.MAX`).
const FROM_END: i32 = 1;

/// Messages that a client did not take are visible again after this time, milliseconds.
const NOT_TAKEN_MS: i64 = 1000;

/// The answer of a call that hands out nothing.
pub(crate) fn nothing(refused: Refused) -> Answers<ReceiveMessageResponse> {
    Box::pin(tokio_stream::iter([piece(Content::Status(refused.into())), delivered()].map(Ok)))
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
) -> Result<Answers<ReceiveMessageResponse>, Refused> {
    match service.door {
        // The client's end is the end of the call's connection, which takes back a pop that waits.
        Door::Local(_) => answer(service, caller, &request).await,
        // The brokers of a cluster do not see the client's end: the pop goes on, and what it brings lies unread.
        Door::Cluster(_) => {
            let (service, caller) = (service.clone(), caller.clone());
            let answered = tokio::spawn(async move { answer(&service, &caller, &request).await });
            answered.await.unwrap_or_else(|error| Err(Refused::new(Code::InternalServerError, error.to_string())))
        }
    }
}

async fn answer(
    service: &Service,
    caller: &Caller,
    request: &ReceiveMessageRequest,
) -> Result<Answers<ReceiveMessageResponse>, Refused> {
    let Popped { topic, group, messages } = pop(service, caller, request).await?;
    let mut pieces = vec![piece(Content::Status(status::ok()))];
    pieces.extend(messages.into_iter().map(|message| piece(Content::Message(message))));
    pieces.push(delivered());
    let (door, renewals, receiver) = (service.door.clone(), Arc::clone(&service.renewals), caller.clone());
    service.shelves.answer(caller, pieces, move |left| {
        let left: Vec<_> = left.into_iter().filter_map(handle_in).collect();
        async move {
            let line = door.line(&receiver);
            for handle in left {
                if let Err(refused) = give_back(&line, &renewals, &receiver, (&topic, &group), handle).await {
                    tracing::debug!(?refused, "a message that was not read is visible when its time is over");
                }
            }
        }
    })
}

/// The receipt handle of a piece's message, if it has one, and its lite topic.
fn handle_in(piece: ReceiveMessageResponse) -> Option<(String, Option<String>)> {
    let Some(Content::Message(message)) = piece.content else { return None };
    let system = message.system_properties.unwrap_or_default();
    Some((system.receipt_handle.unwrap_or_default(), system.lite_topic))
}

/// A message that the client has not read is soon for others.
async fn give_back(
    line: &Line,
    renewals: &Renewals,
    caller: &Caller,
    (topic, group): (&str, &str),
    (handle, lite): (String, Option<String>),
) -> Result<(), Refused> {
    let latest = renewals.latest(caller, group, &handle).await?.of_lite(lite.as_deref());
    let outcome = invisible::one(line, topic, group, &latest.handle, Wait::of(NOT_TAKEN_MS)).await;
    renewals.release(latest);
    outcome.map(drop)
}

/// What a pop has brought.
struct Popped {
    topic: String,
    group: String,
    messages: Vec<crate::pb::Message>,
}

/// What one call asks for.
struct Asked<'a> {
    topic: String,
    /// Whose dead letters they become.
    group: String,
    /// Who takes them: the group, or the client's own.
    own: String,
    invisible_ms: i64,
    subscription: SubscriptionData,
    auto_renew: bool,
    max_attempts: i32,
    /// The topic is the parent of lite topics.
    is_lite: bool,
    caller: &'a Caller,
}

async fn pop(service: &Service, caller: &Caller, request: &ReceiveMessageRequest) -> Result<Popped, Refused> {
    service.shelves.check(caller)?;
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
    let is_lite = settings::is_lite(&settings);
    if is_lite && service.renewals.count(&caller.client_id, &group) > lite::MAX_IN_HAND {
        let why = format!("the client has more than {} messages that it has not acknowledged", lite::MAX_IN_HAND);
        return Err(Refused::new(Code::Forbidden, why));
    }
    let poll_ms = polling_time(caller, request)?;
    let own = service.clients.broadcasts.join(caller, group.clone(), std::slice::from_ref(&topic)).await?;
    let (kind, expression) = settings::expression(request.filter_expression.as_ref());
    let header = PopMessageHeader {
        consumer_group: Text::plain(&own),
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
    let wanted = queue.and_then(|queue| queue.broker.as_ref()).map_or("", |broker| &broker.name);
    let brokers = service.door.topic(&topic).await?;
    let broker = brokers.reader(&group, wanted, |broker| service.door.is_avoided(broker))?;
    let line = service.door.waiting_line(caller);
    let timeout = Duration::from_millis(poll_ms.unsigned_abs()) + TIMEOUT;
    let at = line.at(broker)?;
    let answer = match is_lite {
        false => at.ask(request::POP_MESSAGE, timeout, |frame| header.write(frame), &[]).await?,
        true => {
            let header = lite::pop_header(&caller.client_id, &header);
            at.ask(request::POP_LITE_MESSAGE, timeout, |frame| header.write(frame), &[]).await?
        }
    };
    match answer.head().code {
        response::SUCCESS => {}
        response::POLLING_FULL => return Err(Refused::new(Code::TooManyRequests, "too many calls wait for messages")),
        response::POLLING_TIMEOUT | response::PULL_NOT_FOUND => {
            return Err(Refused::new(Code::MessageNotFound, "no new message"));
        }
        _ => return Err(service.door.refused(&topic, &answer)),
    }
    let subscription = SubscriptionData::of(&topic, kind, expression, 0);
    let max_attempts = settings::max_attempts(&settings);
    let auto_renew = request.auto_renew;
    let asked = Asked { topic, group, own, invisible_ms, subscription, auto_renew, max_attempts, is_lite, caller };
    let messages = hand_out(service, &line, broker, &asked, &answer).await?;
    Ok(Popped { topic: asked.topic, group: asked.own, messages })
}

fn polling_time(caller: &Caller, request: &ReceiveMessageRequest) -> Result<i64, Refused> {
    let deadline = caller.timeout.map(|timeout| i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX));
    let asked = request.long_polling_timeout.as_ref().map(millis).or(deadline.map(|deadline| deadline - 1500));
    let least = caller.least_wait_ms;
    let poll = asked.unwrap_or(MAX_WAIT_MS).clamp(least, MAX_WAIT_MS);
    match deadline {
        Some(deadline) if deadline < least && deadline < poll => {
            let why = format!("the call's deadline of {deadline} ms is too short to wait for messages");
            Err(Refused::new(Code::IllegalPollingTime, why))
        }
        Some(deadline) => Ok(poll.min(deadline - ANSWER_MS).max(0)),
        None => Ok(poll),
    }
}

/// The messages of a pop. What must not reach the consumer is acknowledged, or goes to the dead letters.
async fn hand_out(
    service: &Service,
    line: &Line,
    broker_name: &str,
    asked: &Asked<'_>,
    answer: &OwnedCommand,
) -> Result<Vec<crate::pb::Message>, Refused> {
    let command = answer.command();
    let header = PopMessageResponseHeader::read(&command.fields)?;
    let starts = numbers(header.start_offset_info);
    let counts = numbers(header.order_count_info);
    let (mut messages, mut held) = (Vec::new(), Vec::new());
    let mut lite_counts = lite::counts(&header, asked.is_lite.then_some(command.body)).into_iter();
    for record in records::iter(command.body) {
        let lite_times = lite_counts.next();
        let of_lite = if asked.is_lite { lite::place(&record, &header, broker_name) } else { None };
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
        let lite = of_lite.map(|(_, lite)| lite);
        let of_pop = of_lite.map_or(of_pop, |(handle, _)| handle);
        let handle = Handle::new(&of_pop, Some(record.physical_offset())).of_lite(lite);
        // Only ordered pops count by message.
        let by_message = || counts.get(&format!("0 qo{}%{}", record.queue_id(), record.queue_offset()));
        let in_order = if counts.is_empty() { None } else { by_message() };
        let times = lite_times.or_else(|| in_order.or_else(|| counts.get(&key)).copied());
        let times = times.and_then(|times| i32::try_from(times).ok()).filter(|times| *times > 0);
        let times = times.unwrap_or_else(|| record.reconsume_times());
        if !is_wanted(&asked.subscription, &record) {
            ack::one(line, &asked.topic, &asked.own, &handle).await?;
        } else if times >= asked.max_attempts {
            dead_letter::forward_one(line, &asked.topic, (&asked.group, &asked.own), &handle, &unique_id(&record))
                .await?;
        } else {
            messages.push(made(asked, &record, &handle, times));
            if asked.auto_renew {
                held.push(Held::new(asked.caller, &asked.topic, &asked.own, handle, times));
            }
        }
    }
    // Only now: a call that ends while it waits above has given its caller nothing that was to be kept for it.
    held.into_iter().for_each(|held| service.renewals.hold(held));
    if messages.is_empty() {
        return Err(Refused::new(Code::MessageNotFound, "no new message"));
    }
    Ok(messages)
}

fn made(asked: &Asked<'_>, record: &Record<'_>, handle: &Handle, times: i32) -> crate::pb::Message {
    let received = Received { handle, invisible_ms: asked.invisible_ms };
    let mut message = message::of_record(record, &asked.topic, Some(received));
    if let Some(properties) = &mut message.system_properties {
        properties.delivery_attempt = Some(times.saturating_add(1));
    }
    message
}

/// Brokers compare hashes of tags; this compares their text.
pub(crate) fn is_wanted(subscription: &SubscriptionData, record: &Record<'_>) -> bool {
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
