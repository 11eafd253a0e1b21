//! PullMessage: reads from an offset of one queue, and waits there for messages. RocketMQ's proxy does not serve it; it
//! does what remoting clients ask for.

use std::sync::Arc;
use std::time::Duration;

use ferromq_protocol::body::SubscriptionData;
use ferromq_protocol::code::{request, response};
use ferromq_protocol::header::pull::{PullHeader, PullResponseHeader};
use ferromq_protocol::records;
use ferromq_protocol::sys_flag::pull as flags;
use ferromq_protocol::{OwnedCommand, Text};

use crate::call::Caller;
use crate::door::TIMEOUT;
use crate::message::{self, millis};
use crate::names;
use crate::pb::pull_message_response::Content;
use crate::pb::{Code, MessageQueue, PullMessageRequest, PullMessageResponse};
use crate::rpc::receive::{ANSWER_MS, is_wanted};
use crate::service::{Answers, Service};
use crate::settings::{self, RECEIVE_BATCH};
use crate::status::{self, Refused};

/// Longest time a call waits for messages, milliseconds.
const MAX_POLLING_MS: i64 = 20_000;

/// A queue that a request names.
pub(crate) struct Place {
    pub topic: String,
    pub queue_id: i32,
    pub broker: Arc<str>,
}

impl Place {
    /// The queue's broker may go unnamed where the topic has only one.
    pub async fn find(service: &Service, queue: Option<&MessageQueue>) -> Result<Self, Refused> {
        let topic = names::topic(queue.and_then(|queue| queue.topic.as_ref()))?;
        let queue_id = queue.map_or(-1, |queue| queue.id);
        let wanted = queue.and_then(|queue| queue.broker.as_ref()).map_or("", |broker| &broker.name);
        let found = service.door.topic(&topic).await?;
        let share = match &found.brokers[..] {
            [one] if wanted.is_empty() => Some(one),
            all => all.iter().find(|share| *share.broker == *wanted),
        };
        match share.filter(|share| (0..share.read).contains(&queue_id)) {
            Some(share) => Ok(Place { topic, queue_id, broker: Arc::clone(&share.broker) }),
            None => {
                let why = format!("topic {topic} has no queue {queue_id} to read on broker '{wanted}'");
                Err(Refused::new(Code::BadRequest, why))
            }
        }
    }
}

fn piece(content: Content) -> PullMessageResponse {
    PullMessageResponse { content: Some(content) }
}

/// The answer of a call that reads nothing.
pub(crate) fn nothing(refused: Refused) -> Answers<PullMessageResponse> {
    Box::pin(tokio_stream::iter([Ok(piece(Content::Status(refused.into())))]))
}

pub(crate) async fn pull(
    service: &Service,
    caller: &Caller,
    asked: PullMessageRequest,
) -> Result<Answers<PullMessageResponse>, Refused> {
    service.shelves.check(caller)?;
    let pieces = read(service, caller, &asked).await?;
    // What is left unread is still where it was.
    service.shelves.answer(caller, pieces, |_| std::future::ready(()))
}

async fn read(
    service: &Service,
    caller: &Caller,
    asked: &PullMessageRequest,
) -> Result<Vec<PullMessageResponse>, Refused> {
    let place = Place::find(service, asked.message_queue.as_ref()).await?;
    let group = names::group(asked.group.as_ref())?;
    if asked.offset < 0 {
        return Err(Refused::new(Code::IllegalOffset, format!("the offset {} is below 0", asked.offset)));
    }
    let deadline = caller.timeout.map_or(i64::MAX, |timeout| i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX));
    let poll_ms =
        asked.long_polling_timeout.as_ref().map_or(0, millis).min(deadline - ANSWER_MS).clamp(0, MAX_POLLING_MS);
    let (kind, expression) = settings::expression(asked.filter_expression.as_ref());
    let header = PullHeader {
        consumer_group: Text::plain(&group),
        topic: Text::plain(&place.topic),
        queue_id: place.queue_id,
        queue_offset: asked.offset,
        max_msg_nums: asked.batch_size.clamp(1, RECEIVE_BATCH),
        sys_flag: flags::SUBSCRIPTION | if poll_ms > 0 { flags::SUSPEND } else { 0 },
        commit_offset: 0,
        suspend_timeout_millis: poll_ms,
        subscription: Some(Text::plain(expression)),
        sub_version: 0,
        expression_type: Some(Text::plain(kind)),
        max_msg_bytes: None,
        request_source: None,
        proxy_forward_client_id: None,
        lite_topic: None,
    };
    // Its end, when the client goes away while it waits, takes the pull back.
    let line = service.door.waiting_line(caller);
    let timeout = Duration::from_millis(poll_ms.unsigned_abs()) + TIMEOUT;
    let answer = line.at(&place.broker)?.ask(request::PULL_MESSAGE, timeout, |frame| header.write(frame), &[]).await?;
    let status = match answer.head().code {
        response::SUCCESS => status::ok(),
        response::PULL_NOT_FOUND | response::PULL_RETRY_IMMEDIATELY => {
            status::status(Code::MessageNotFound, "no new message")
        }
        response::PULL_OFFSET_MOVED => {
            status::status(Code::IllegalOffset, format!("the queue has no offset {}", asked.offset))
        }
        _ => return Err(service.door.refused(&place.topic, &answer)),
    };
    let next = PullResponseHeader::read(&answer.command().fields)?.next_begin_offset;
    let mut pieces = vec![piece(Content::Status(status))];
    pieces.extend(messages(&answer, &SubscriptionData::of(&place.topic, kind, expression, 0), &place.topic));
    pieces.push(piece(Content::NextOffset(next)));
    Ok(pieces)
}

fn messages(answer: &OwnedCommand, subscription: &SubscriptionData, topic: &str) -> Vec<PullMessageResponse> {
    let wanted = records::iter(answer.command().body).filter(|record| is_wanted(subscription, record));
    wanted.map(|record| piece(Content::Message(message::of_record(&record, topic, None)))).collect()
}
