//! POP_MESSAGE (200050), NOTIFICATION (200054), PEEK_MESSAGE (200052) and POLLING_INFO (200055).
//!
//! Headers become a [`PopRequest`], what was popped becomes the answer's header; `pop/` does the rest. A pop that finds
//! nothing waits in `pop/polls.rs`. Messages that are not in memory are read by the thread that may wait for a disk.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferromq_common::clock;
use ferromq_protocol::code::response;
use ferromq_protocol::header::pop::{
    NotificationHeader, NotificationResponseHeader, PeekMessageHeader, PollingInfoHeader, PollingInfoResponseHeader,
    PopMessageHeader, PopMessageResponseHeader,
};
use ferromq_protocol::{FrameWriter, Head, Text};

use super::{Call, Refusal};
use crate::broker::Shared;
use crate::filter::{self, Filter};
use crate::pop::polls::{self, Waiter, Woken};
use crate::pop::popped::Popped;
use crate::pop::take::{self, PopRequest};

/// A pop that is over for longer than this is not served at all, milliseconds (`isTimeoutTooMuch`).
const TOO_LATE_MS: i64 = 500;
/// Longest time a pop is parked, whatever its client asks.
pub(super) const MAX_POLL: Duration = Duration::from_secs(120);

/// Capacity the record buffer of a thread keeps between pops, bytes.
const KEPT_BYTES: usize = 512 * 1024;

thread_local! {
    /// The records of the answer in hand; they are read before their frame's header can be written.
    static RECORDS: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Lends the thread's record buffer.
pub(super) fn with_records<R>(f: impl FnOnce(&mut Vec<u8>) -> R) -> R {
    let mut records = RECORDS.take();
    records.clear();
    let result = f(&mut records);
    if records.capacity() <= KEPT_BYTES {
        RECORDS.set(records);
    }
    result
}

/// Code 200050.
pub(crate) fn pop(broker: &Arc<Shared>, call: &Call<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let header = PopMessageHeader::read(&call.request.fields)?;
    let now = clock::now_millis();
    let left = time_left(header.born_time, header.poll_time, now);
    check_pop(broker, left, header.max_msg_nums)?;
    let (topic, group) = (header.topic.to_str()?, header.consumer_group.to_str()?);
    let (_, settings) = take::check(broker, &topic, &group, header.queue_id, "pop")?;
    take::check_invisible_time(header.invisible_time, 1)?;
    let request = PopRequest {
        max_messages: header.max_msg_nums.max(1) as u32,
        invisible_ms: header.invisible_time,
        init_mode: header.init_mode,
        filter: filter(header.exp_type, header.exp)?,
        order: header.order.unwrap_or(false),
        attempt_id: attempt_id(header.attempt_id)?,
        ..look_at(&topic, &group, header.queue_id)
    };
    let head = call.request.head;
    let invisible_ms = request.invisible_ms;
    let write = move |woken: Woken<'_>, out: &mut Vec<u8>| match woken {
        Woken::Found(popped, records) => {
            answer(&head, response::SUCCESS, "FOUND", popped, invisible_ms, records, out);
        }
        Woken::TimedOut => nothing(&head, response::POLLING_TIMEOUT, 0, invisible_ms, out),
        Woken::Full => nothing(&head, response::POLLING_FULL, 0, invisible_ms, out),
        Woken::Refused(refusal) => refusal.write(&head, out),
    };
    // Most pops find messages: they are answered here, without what a parked one needs.
    if !take::is_cold(broker, &request) {
        let left_over = with_records(|records| match take::take(broker, &request, Some(&settings), records) {
            Ok(popped) if popped.count > 0 => {
                write(Woken::Found(&popped, records), out);
                if popped.rest > 0 {
                    broker.pops.polls.wake_one(&request.topic, &request.group);
                }
                Ok(None)
            }
            found => found.map(|popped| Some(popped.rest)),
        })?;
        let Some(rest) = left_over else { return Ok(()) };
        if left <= 0 {
            nothing(&head, response::POLLING_TIMEOUT, rest, invisible_ms, out);
            return Ok(());
        }
    }
    wait(broker, call, request, false, left, write)
}

/// Code 200054.
pub(crate) fn notification(broker: &Arc<Shared>, call: &Call<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let header = NotificationHeader::read(&call.request.fields)?;
    let (topic, group) = (header.topic.to_str()?, header.consumer_group.to_str()?);
    take::check(broker, &topic, &group, header.queue_id, "peeking")?;
    let request = PopRequest {
        filter: filter(header.exp_type, header.exp)?,
        order: header.order.unwrap_or(false),
        attempt_id: attempt_id(header.attempt_id)?,
        ..look_at(&topic, &group, header.queue_id)
    };
    let head = call.request.head;
    let tell = move |has_msg: bool, polling_full: bool, out: &mut Vec<u8>| {
        let mut frame = FrameWriter::response(out, &head, response::SUCCESS);
        NotificationResponseHeader { has_msg, polling_full }.write(&mut frame);
        frame.finish();
    };
    let left = time_left(header.born_time, header.poll_time, clock::now_millis());
    if left <= 0 || take::has_message(broker, &request) {
        tell(take::has_message(broker, &request), false, out);
        return Ok(());
    }
    let write = move |woken: Woken<'_>, out: &mut Vec<u8>| match woken {
        Woken::Found(..) => tell(true, false, out),
        Woken::TimedOut => tell(false, false, out),
        Woken::Full => tell(false, true, out),
        Woken::Refused(refusal) => refusal.write(&head, out),
    };
    wait(broker, call, request, true, left, write)
}

/// Serves a request that may wait; what it is told goes out by a push.
fn wait(
    broker: &Arc<Shared>,
    call: &Call<'_>,
    request: PopRequest,
    notification: bool,
    left_ms: i64,
    write: impl FnOnce(Woken<'_>, &mut Vec<u8>) + Send + 'static,
) -> Result<(), Refusal> {
    let (open, conn) = (Arc::clone(call.conn), Arc::clone(call.conn));
    let left = Duration::from_millis(left_ms.max(0).unsigned_abs()).min(MAX_POLL);
    let cold = take::is_cold(broker, &request);
    let waiter = Waiter {
        request,
        deadline: Instant::now() + left,
        notification,
        again_at: None,
        is_open: Box::new(move || open.is_open()),
        reply: Box::new(move |woken| {
            // A push fails when the client has gone: what it did not get comes back when its invisible time is over.
            let _ = conn.push(|out| write(woken, out));
        }),
    };
    let serve = move |broker: &Arc<Shared>| {
        polls::serve(broker, waiter);
        broker.answer_ready_polls();
    };
    if cold {
        let shared = Arc::clone(broker);
        broker.blocking.run(move || serve(&shared))
    } else {
        serve(broker);
        Ok(())
    }
}

/// Refuses a pop whose client has given up, or that wants too many messages.
pub(super) fn check_pop(broker: &Shared, left_ms: i64, max_messages: i32) -> Result<(), Refusal> {
    if left_ms < -TOO_LATE_MS {
        let remark = format!("the broker[{}] pop message is timeout too much", broker.config.broker_ip1);
        return Err(Refusal::new(response::POLLING_TIMEOUT, remark));
    }
    if max_messages > take::MAX_MESSAGES {
        let remark = format!("the broker[{}] pop message's num is greater than 32", broker.config.broker_ip1);
        return Err(Refusal::new(response::INVALID_PARAMETER, remark));
    }
    Ok(())
}

/// Milliseconds until a request that may wait for `poll_time` is over; negative when it is over already.
pub(super) fn time_left(born_time: i64, poll_time: i64, now: i64) -> i64 {
    let waited = if born_time <= 0 { 0 } else { now.saturating_sub(born_time).max(0) };
    poll_time.max(0).saturating_sub(waited)
}

/// A look at one message, of one queue or (with a negative number) all.
fn look_at(topic: &str, group: &str, queue_id: i32) -> PopRequest {
    PopRequest {
        topic: Arc::from(topic),
        group: Arc::from(group),
        queue_id: u32::try_from(queue_id).ok(),
        max_messages: 1,
        invisible_ms: 0,
        init_mode: 0,
        filter: Filter::All,
        order: false,
        attempt_id: None,
    }
}

pub(super) fn attempt_id(id: Option<Text<'_>>) -> Result<Option<Box<str>>, Refusal> {
    Ok(id.map(|id| id.to_str()).transpose()?.map(Box::from))
}

/// The filter a request carries.
fn filter(exp_type: Option<Text<'_>>, exp: Option<Text<'_>>) -> Result<Filter, Refusal> {
    let kind = exp_type.map(|text| text.to_str()).transpose()?.unwrap_or_default();
    let text = exp.map(|text| text.to_str()).transpose()?.unwrap_or_default();
    let kind = if text.is_empty() { filter::TAG } else { &*kind };
    Filter::parse(kind, &text).map_err(|error| {
        let remark = format!("parse the consumer's subscription failed: {error}");
        Refusal::new(response::SUBSCRIPTION_PARSE_FAILED, remark)
    })
}

fn nothing(head: &Head, code: i32, rest: i64, invisible_ms: i64, out: &mut Vec<u8>) {
    let popped = Popped { pop_time: clock::now_millis(), rest, ..Popped::default() };
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
    let order_count_info = Some(popped.order_count_info.as_str()).filter(|text| !text.is_empty());
    PopMessageResponseHeader {
        pop_time: popped.pop_time,
        invisible_time,
        revive_qid: popped.revive_queue,
        rest_num: popped.rest,
        start_offset_info: Some(Text::plain(&popped.start_offset_info)),
        msg_offset_info: Some(Text::plain(&popped.msg_offset_info)),
        order_count_info: order_count_info.map(Text::plain),
    }
    .write(&mut frame);
    frame.finish_with_body(records);
}

/// Code 200052: what a pop would find, without taking it.
pub(crate) fn peek(broker: &Arc<Shared>, call: &Call<'_>, _out: &mut Vec<u8>) -> Result<(), Refusal> {
    let header = PeekMessageHeader::read(&call.request.fields)?;
    let (topic, group) = (header.topic.to_str()?, header.consumer_group.to_str()?);
    take::check(broker, &topic, &group, header.queue_id, "peeking")?;
    let request = PopRequest {
        max_messages: header.max_msg_nums.clamp(1, take::MAX_MESSAGES) as u32,
        ..look_at(&topic, &group, header.queue_id)
    };
    call.answer_later(broker, move |broker, head, out| {
        let mut records = Vec::new();
        let found = take::peek(broker, &request, &mut records);
        let (code, remark) = match found.count {
            0 => (response::PULL_NOT_FOUND, "NO_MESSAGE_IN_QUEUE"),
            _ => (response::SUCCESS, "FOUND"),
        };
        answer(head, code, remark, &found, 0, &records, out);
        Ok(())
    })
}

/// Code 200055.
pub(crate) fn polling_info(broker: &Arc<Shared>, call: &Call<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let header = PollingInfoHeader::read(&call.request.fields)?;
    let (topic, group) = (header.topic.to_str()?, header.consumer_group.to_str()?);
    take::check(broker, &topic, &group, header.queue_id, "peeking")?;
    let waiting = broker.pops.polls.waiting(&topic, &group, u32::try_from(header.queue_id).ok());
    let mut frame = call.respond(out, response::SUCCESS);
    PollingInfoResponseHeader { polling_num: i32::try_from(waiting).unwrap_or(i32::MAX) }.write(&mut frame);
    frame.finish();
    Ok(())
}
