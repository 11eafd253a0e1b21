//! Lite topics: POP_LITE_MESSAGE (200070), LITE_SUBSCRIPTION_CTL (200071), and what tools ask (200074-200079). Acknowledgements
//! and changes of the invisible time are those of every pop, with a `liteTopic` (`handler/ack.rs`). `lite/` does the rest.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ferromq_common::clock;
use ferromq_protocol::body::{
    LiteSubscriptionAction, LiteSubscriptionCtlRequestBody, OffsetOptionType, SubscriptionGroupConfig,
};
use ferromq_protocol::code::response;
use ferromq_protocol::header::lite::{
    GetLiteClientInfoHeader, GetLiteGroupInfoHeader, GetLiteTopicInfoHeader, PopLiteMessageHeader,
    PopLiteMessageResponseHeader, TriggerLiteDispatchHeader,
};
use ferromq_protocol::header::topic::TopicHeader;
use ferromq_protocol::pop::ORDER_REVIVE_QUEUE;
use ferromq_protocol::{FrameWriter, Head, Text, json};

use super::admin::write_json;
use super::pop::{MAX_POLL, attempt_id, check_pop, time_left, with_records};
use super::{Call, Refusal};
use crate::broker::Shared;
use crate::filter::Filter;
use crate::lite::polls::{self, Waiter};
use crate::lite::take::{self, LitePop};
use crate::lite::{BIND_TOPIC, info, subscribe};
use crate::pop::polls::Woken;
use crate::pop::popped::Popped;
use crate::pop::take::{MAX_MESSAGES, PopRequest, check_invisible_time};
use crate::topics::Topic;

/// Where a new group begins: with the newest message, or with all of a topic that is in memory (`ConsumeInitMode.MAX`).
const FROM_NEWEST: i32 = 1;
/// Most clients in one LITE_SUBSCRIPTION_CTL.
const MAX_CHANGES: usize = 1000;
/// Most lite topics of one client in one LITE_SUBSCRIPTION_CTL.
const MAX_LITE_TOPICS: usize = 100_000;

/// Code 200070.
pub(crate) fn pop(broker: &Arc<Shared>, call: &Call<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let header = PopLiteMessageHeader::read(&call.request.fields)?;
    let left = time_left(header.born_time, header.poll_time, clock::now_millis());
    check_pop(broker, left, header.max_msg_num)?;
    let (parent, group) = (header.topic.to_str()?, header.consumer_group.to_str()?);
    take::check(broker, &parent, &group)?;
    check_invisible_time(header.invisible_time, 1)?;
    let request = PopRequest {
        topic: Arc::from(&*parent),
        group: Arc::from(&*group),
        queue_id: None,
        max_messages: header.max_msg_num.clamp(1, MAX_MESSAGES) as u32,
        invisible_ms: header.invisible_time,
        init_mode: FROM_NEWEST,
        filter: Filter::All,
        order: true,
        attempt_id: attempt_id(header.attempt_id)?,
    };
    let pop = LitePop { client: Arc::from(&*header.client_id.to_str()?), request };
    let head = call.request.head;
    let invisible_ms = header.invisible_time;
    let write = move |woken: Woken<'_>, out: &mut Vec<u8>| match woken {
        Woken::Found(popped, records) => {
            answer(&head, response::SUCCESS, "FOUND", popped, invisible_ms, records, out);
        }
        Woken::TimedOut => nothing(&head, response::POLLING_TIMEOUT, invisible_ms, out),
        Woken::Full => nothing(&head, response::POLLING_FULL, invisible_ms, out),
        Woken::Refused(refusal) => refusal.write(&head, out),
    };
    let is_cold = take::is_cold(broker, &pop);
    if !is_cold {
        let answered = with_records(|records| {
            take::take(broker, &pop, records).map(|popped| {
                let found = popped.count > 0;
                if found {
                    write(Woken::Found(&popped, records), out);
                }
                found
            })
        })?;
        if answered {
            return Ok(());
        }
        if left <= 0 {
            nothing(&head, response::POLLING_TIMEOUT, invisible_ms, out);
            return Ok(());
        }
    }
    let (open, conn) = (Arc::clone(call.conn), Arc::clone(call.conn));
    let waiter = Waiter {
        pop,
        deadline: Instant::now() + Duration::from_millis(left.max(0).unsigned_abs()).min(MAX_POLL),
        is_open: Box::new(move || open.is_open()),
        reply: Box::new(move |woken| {
            // A push fails when the client has gone: what it did not get comes back when its invisible time is over.
            let _ = conn.push(|out| write(woken, out));
        }),
    };
    if is_cold {
        let shared = Arc::clone(broker);
        return broker.blocking.run(move || polls::serve(&shared, waiter));
    }
    polls::serve(broker, waiter);
    Ok(())
}

fn nothing(head: &Head, code: i32, invisible_ms: i64, out: &mut Vec<u8>) {
    let popped = Popped { pop_time: clock::now_millis(), revive_queue: ORDER_REVIVE_QUEUE, ..Popped::default() };
    answer(head, code, "NO_MESSAGE_IN_QUEUE", &popped, invisible_ms, &[], out);
}

fn answer(
    head: &Head,
    code: i32,
    remark: &str,
    popped: &Popped,
    invisible_time: i64,
    records: &[u8],
    out: &mut Vec<u8>,
) {
    let mut frame = FrameWriter::response(out, head, code);
    frame.remark(remark);
    PopLiteMessageResponseHeader {
        pop_time: popped.pop_time,
        invisible_time,
        revive_qid: popped.revive_queue,
        order_count_info: Some(Text::plain(&popped.order_count_info)),
    }
    .write(&mut frame);
    frame.finish_with_body(records);
}

/// Code 200071.
pub(crate) fn subscribe(broker: &Arc<Shared>, call: &Call<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let illegal = |remark: String| Refusal::new(response::ILLEGAL_OPERATION, remark);
    if call.request.body.is_empty() {
        return Err(illegal("Request body is null.".into()));
    }
    let body: LiteSubscriptionCtlRequestBody =
        json::from_slice(call.request.body).map_err(|error| illegal(format!("the body cannot be read: {error}")))?;
    let changes = body.subscription_set;
    if changes.is_empty() {
        return Err(illegal("LiteSubscriptionCtlRequestBody is empty.".into()));
    }
    if changes.len() > MAX_CHANGES || changes.iter().any(|change| change.lite_topic_set.len() > MAX_LITE_TOPICS) {
        let remark = format!("one request names at most {MAX_CHANGES} clients with {MAX_LITE_TOPICS} lite topics each");
        return Err(illegal(remark));
    }
    let conn = Arc::clone(call.conn);
    let by_time = |of: &ferromq_protocol::body::LiteSubscription| {
        let option = of.offset_option.filter(|_| of.action == LiteSubscriptionAction::PartialAdd);
        option.is_some_and(|option| option.r#type == OffsetOptionType::Timestamp)
    };
    if changes.iter().any(by_time) {
        return call.answer_later(broker, move |broker, head, out| {
            changes.iter().try_for_each(|change| subscribe::change(broker, &conn, change))?;
            broker.answer_ready_polls();
            FrameWriter::response(out, head, response::SUCCESS).finish();
            Ok(())
        });
    }
    changes.iter().try_for_each(|change| subscribe::change(broker, &conn, change))?;
    call.respond(out, response::SUCCESS).finish();
    Ok(())
}

/// Code 200074.
pub(crate) fn broker_info(broker: &Arc<Shared>, call: &Call<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    call.respond_json(out, &info::of_broker(broker))
}

/// Code 200075.
pub(crate) fn parent_info(broker: &Arc<Shared>, call: &Call<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let name = TopicHeader::read(&call.request.fields)?.topic.to_str()?;
    call.respond_json(out, &info::of_parent(broker, &*parent(broker, &name)?))
}

/// Code 200076.
pub(crate) fn topic_info(broker: &Arc<Shared>, call: &Call<'_>, _out: &mut Vec<u8>) -> Result<(), Refusal> {
    let header = GetLiteTopicInfoHeader::read(&call.request.fields)?;
    let (name, lite) = (header.parent_topic.to_str()?, header.lite_topic.to_str()?);
    parent(broker, &name)?;
    let (name, lite) = (name.into_owned(), lite.into_owned());
    call.answer_later(broker, move |broker, head, out| write_json(head, out, &info::of_topic(broker, &name, &lite)))
}

/// Code 200077.
pub(crate) fn client_info(broker: &Arc<Shared>, call: &Call<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let header = GetLiteClientInfoHeader::read(&call.request.fields)?;
    let (name, group) = (header.parent_topic.to_str()?, header.group.to_str()?);
    parent(broker, &name)?;
    let bound = known_group(broker, &group)?;
    if bound.attributes.get(BIND_TOPIC).is_none_or(|bound| *bound != *name) {
        let remark = format!("Subscription [{group}]-[{name}] not match.");
        return Err(Refusal::new(response::INVALID_PARAMETER, remark));
    }
    let client = header.client_id.to_str()?;
    call.respond_json(out, &info::of_client(&broker.lites, &name, &group, &client, header.max_count))
}

/// Code 200078.
pub(crate) fn group_info(broker: &Arc<Shared>, call: &Call<'_>, _out: &mut Vec<u8>) -> Result<(), Refusal> {
    let header = GetLiteGroupInfoHeader::read(&call.request.fields)?;
    let group = header.group.to_str()?.into_owned();
    let parent = bound_topic(broker, &group)?;
    let lite = header.lite_topic.map(|lite| lite.to_str()).transpose()?.map(|lite| lite.into_owned());
    let top = header.top_k;
    call.answer_later(broker, move |broker, head, out| {
        write_json(head, out, &info::of_group(broker, &group, &parent, lite.as_deref(), top))
    })
}

/// Code 200079.
pub(crate) fn trigger(broker: &Arc<Shared>, call: &Call<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let header = TriggerLiteDispatchHeader::read(&call.request.fields)?;
    let group = header.group.to_str()?;
    bound_topic(broker, &group)?;
    let client = header.client_id.map(|client| client.to_str()).transpose()?;
    broker.lites.trigger(broker, &group, client.as_deref().filter(|client| !client.is_empty()));
    call.respond(out, response::SUCCESS).finish();
    Ok(())
}

fn parent(broker: &Shared, name: &str) -> Result<Arc<Topic>, Refusal> {
    let topic = broker.topics.get(name);
    let topic = topic.ok_or_else(|| Refusal::new(response::TOPIC_NOT_EXIST, format!("Topic [{name}] not exist.")))?;
    match topic.is_lite() {
        true => Ok(topic),
        false => Err(Refusal::new(response::INVALID_PARAMETER, format!("Topic [{name}] type not match."))),
    }
}

fn known_group(broker: &Shared, name: &str) -> Result<Arc<SubscriptionGroupConfig>, Refusal> {
    broker
        .groups
        .find(name)
        .ok_or_else(|| Refusal::new(response::SUBSCRIPTION_GROUP_NOT_EXIST, format!("Group [{name}] not exist.")))
}

fn bound_topic(broker: &Shared, group: &str) -> Result<String, Refusal> {
    let config = known_group(broker, group)?;
    let bound = config.attributes.get(BIND_TOPIC).filter(|topic| !topic.is_empty());
    bound
        .cloned()
        .ok_or_else(|| Refusal::new(response::INVALID_PARAMETER, format!("Group [{group}] is not a LITE group.")))
}
