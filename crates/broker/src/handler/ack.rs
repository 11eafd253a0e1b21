//! ACK_MESSAGE (200051), BATCH_ACK_MESSAGE (200151) and CHANGE_MESSAGE_INVISIBLETIME (200053).
//!
//! The acknowledgements of all sockets that were ready together are stored together ([`AckRequests::finish`]); a request whose messages are not
//! invisible is answered at once. Under SYNC_FLUSH the answers wait for the disk.

use std::borrow::Cow;
use std::ops::RangeInclusive;
use std::sync::Arc;

use ferromq_protocol::body::{BatchAck, BatchAckMessageRequestBody};
use ferromq_protocol::code::{request, response};
use ferromq_protocol::header::pop::{AckMessageHeader, ChangeInvisibleTimeHeader, ChangeInvisibleTimeResponseHeader};
use ferromq_protocol::pop::{ORDER_REVIVE_QUEUE, Origin, ReceiptHandle};
use ferromq_protocol::{FrameWriter, Head, Text, json};
use ferromq_remoting::Connection;
use ferromq_store::{Durability, Queue};

use super::{Call, Refusal};
use crate::broker::Shared;
use crate::lite::ack::{self as lite, LiteMessage};
use crate::pop::ack::{self, Acks, Changed};
use crate::pop::take;
use crate::topics::Topic;

/// Acknowledgements are stored when there are this many, even in the middle of a drain.
const MAX_ACKS: usize = 4096;
/// Most bytes of a bit set that are looked at: a pop has 32 messages, but their offsets may have gaps.
const MAX_BIT_SET_BYTES: usize = 8192;
/// Most messages, and most parts, of one batch of acknowledgements.
const MAX_BATCH: usize = 4096;

/// Acknowledgements of one reactor thread that are not stored yet, and who waits for them.
#[derive(Default)]
pub(crate) struct AckRequests {
    acks: Acks,
    waiting: Vec<Waiting>,
    /// Position in the log behind the acknowledgements of ordered pops, which are stored at once.
    ordered_to: u64,
}

/// A request that is answered when its acknowledgements are stored.
type Waiting = (Arc<Connection>, Head);

impl AckRequests {
    /// Codes 200051 and 200151.
    pub fn add(&mut self, broker: &Arc<Shared>, call: &Call<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
        let before = (self.acks.len(), self.ordered_to);
        match call.request.head.code {
            request::ACK_MESSAGE => self.add_one(broker, call)?,
            _ => self.add_batch(broker, call)?,
        }
        if (self.acks.len(), self.ordered_to) > before {
            if !call.request.head.is_oneway() {
                self.waiting.push((Arc::clone(call.conn), call.request.head));
            }
        } else if !call.request.head.is_oneway() {
            call.respond(out, response::SUCCESS).finish();
        }
        if self.acks.len() >= MAX_ACKS {
            self.finish(broker);
        }
        Ok(())
    }

    fn ordered(&mut self, position: Option<u64>) {
        self.ordered_to = self.ordered_to.max(position.unwrap_or(0));
    }

    fn add_one(&mut self, broker: &Arc<Shared>, call: &Call<'_>) -> Result<(), Refusal> {
        let header = AckMessageHeader::read(&call.request.fields)?;
        let (topic, group) = (header.topic.to_str()?, header.consumer_group.to_str()?);
        let text = header.extra_info.to_str()?;
        if let Some(lite) = lite_of(header.lite_topic)? {
            check_topic(broker, &topic, header.queue_id)?;
            let (queue_id, offset, handle) = (header.queue_id, header.offset, parse(&text)?);
            let message = LiteMessage { parent: &topic, lite: &lite, group: &group, queue_id, offset, handle };
            return lite::acknowledge(broker, &message);
        }
        let queue_id = check(broker, &topic, header.queue_id, header.offset)?;
        let handle = parse(&text)?;
        if handle.revive_queue == ORDER_REVIVE_QUEUE {
            let place = (&*topic, &*group, queue_id);
            self.ordered(ack::ack_in_order(broker, place, handle.pop_time, header.offset)?);
        } else {
            let key = (handle.start_offset, handle.pop_time);
            self.acks.add(broker, &topic, &group, queue_id, key, header.offset);
        }
        Ok(())
    }

    fn add_batch(&mut self, broker: &Arc<Shared>, call: &Call<'_>) -> Result<(), Refusal> {
        let body: BatchAckMessageRequestBody = json::from_slice(call.request.body).map_err(|error| {
            Refusal::new(response::SYSTEM_ERROR, format!("the list of acknowledgements cannot be read: {error}"))
        })?;
        if body.acks.is_empty() {
            return Err(Refusal::new(response::NO_MESSAGE, "the request acknowledges no message"));
        }
        if body.acks.len() > MAX_BATCH {
            return Err(too_many());
        }
        // All of the batch or nothing of it: it is read before its first message is looked for.
        let mut parts = Vec::with_capacity(body.acks.len());
        let mut left = MAX_BATCH;
        for ack in &body.acks {
            let part = BatchPart::read(ack, left)?;
            left -= part.offsets.len();
            parts.push(part);
        }
        for part in &parts {
            self.add_batch_part(broker, part)?;
        }
        Ok(())
    }

    fn add_batch_part(&mut self, broker: &Arc<Shared>, part: &BatchPart<'_>) -> Result<(), Refusal> {
        let BatchPart { ack, topic, offsets } = part;
        let Ok(queue_id) = u32::try_from(ack.queue_id) else { return Ok(()) };
        let Some(queue) = broker.store.find_queue(topic, queue_id) else { return Ok(()) };
        let known = known_offsets(&queue);
        for &offset in offsets.iter().filter(|offset| known.contains(offset)) {
            if ack.revive_queue == ORDER_REVIVE_QUEUE {
                let place = (topic.as_str(), ack.group.as_str(), queue_id);
                self.ordered(ack::ack_in_order(broker, place, ack.pop_time, offset)?);
            } else {
                let key = (ack.start_offset, ack.pop_time);
                self.acks.add(broker, topic, &ack.group, queue_id, key, offset);
            }
        }
        Ok(())
    }

    /// Stores what was added, and answers. Under SYNC_FLUSH the answers follow from the flush thread.
    pub fn finish(&mut self, broker: &Shared) {
        let ordered_to = std::mem::take(&mut self.ordered_to);
        if self.acks.len() == 0 && ordered_to == 0 {
            return;
        }
        let waiting = std::mem::take(&mut self.waiting);
        match self.acks.append(broker).map(|position| position.max(ordered_to)) {
            Ok(position) if broker.store.is_sync_flush() => {
                when_durable(broker, position, move |durable| push_answers(&waiting, &durable));
            }
            stored => {
                push_answers(&waiting, &stored.map(drop));
                self.waiting = waiting;
                self.waiting.clear();
            }
        }
    }
}

/// The acknowledgements of one pop from one queue in a batch.
struct BatchPart<'a> {
    ack: &'a BatchAck,
    /// The topic that holds the messages.
    topic: String,
    offsets: Vec<i64>,
}

impl<'a> BatchPart<'a> {
    /// Reads a part of at most `max` messages.
    fn read(ack: &'a BatchAck, max: usize) -> Result<Self, Refusal> {
        let malformed = || Refusal::new(response::SYSTEM_ERROR, "an acknowledgement of the list is malformed");
        let origin = Origin::of_digit(&ack.retry).ok_or_else(malformed)?;
        let bits = ack.bits.bytes(MAX_BIT_SET_BYTES).ok_or_else(malformed)?;
        if bits.iter().map(|byte| byte.count_ones() as usize).sum::<usize>() > max {
            return Err(too_many());
        }
        let places = (0_i64..).step_by(8).zip(bits).flat_map(|(at, byte)| {
            let set = move |bit: &i64| byte & (1 << bit) != 0;
            (0..8).filter(set).map(move |bit| at + bit)
        });
        let offsets = places.filter_map(|place| ack.start_offset.checked_add(place)).collect();
        Ok(Self { ack, topic: origin.real_topic(&ack.topic, &ack.group), offsets })
    }
}

fn too_many() -> Refusal {
    let remark = format!("a batch acknowledges at most {MAX_BATCH} messages: send several");
    Refusal::new(response::INVALID_PARAMETER, remark)
}

/// Pushes the answers, those of one connection together.
fn push_answers(waiting: &[Waiting], stored: &Result<(), Refusal>) {
    for of_one in waiting.chunk_by(|a, b| Arc::ptr_eq(&a.0, &b.0)) {
        // A push fails when the client has gone: what it acknowledged is acknowledged.
        let _ = of_one[0].0.push(|out| {
            for (_, head) in of_one {
                match stored {
                    Ok(()) => FrameWriter::response(out, head, response::SUCCESS).finish(),
                    Err(refusal) => refusal.write(head, out),
                }
            }
        });
    }
}

/// Tells once the log is on the disk up to `position`, or will not be.
fn when_durable(broker: &Shared, position: u64, tell: impl FnOnce(Result<(), Refusal>) + Send + 'static) {
    let waiter = move |durability: Durability| {
        tell(match durability {
            Durability::Durable => Ok(()),
            Durability::TimedOut | Durability::Failed => {
                let remark = "the disk did not sync in time or refused to, the change may be lost with the machine";
                Err(Refusal::new(response::SYSTEM_ERROR, remark))
            }
        });
    };
    broker.store.when_durable(position, Box::new(waiter));
}

/// Code 200053.
pub(crate) fn change_invisible_time(broker: &Arc<Shared>, call: &Call<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let header = ChangeInvisibleTimeHeader::read(&call.request.fields)?;
    let (topic, group) = (header.topic.to_str()?, header.consumer_group.to_str()?);
    let text = header.extra_info.to_str()?;
    take::check_invisible_time(header.invisible_time, 0)?;
    let head = call.request.head;
    let mut answer_now = |changed: Option<Changed>| {
        let mut frame = FrameWriter::response(out, &head, response::SUCCESS);
        if let Some(changed) = changed {
            header_of(&changed).write(&mut frame);
        }
        frame.finish();
    };
    if let Some(lite) = lite_of(header.lite_topic)? {
        check_topic(broker, &topic, header.queue_id)?;
        let (queue_id, offset, handle) = (header.queue_id, header.offset, parse(&text)?);
        let message = LiteMessage { parent: &topic, lite: &lite, group: &group, queue_id, offset, handle };
        answer_now(lite::change_invisible_time(broker, &message, header.invisible_time, header.suspend)?);
        return Ok(());
    }
    let queue_id = check(broker, &topic, header.queue_id, header.offset)?;
    let handle = parse(&text)?;
    if handle.revive_queue == ORDER_REVIVE_QUEUE {
        let place = (&*topic, &*group, queue_id);
        answer_now(ack::change_in_order(broker, place, handle.pop_time, header.offset, header.invisible_time)?);
        return Ok(());
    }
    let changed =
        ack::change_invisible_time(broker, (&topic, &group, queue_id), &handle, header.offset, header.invisible_time)?;
    let answer = header_of(&changed);
    let write = move |durable: Result<(), Refusal>, out: &mut Vec<u8>| match durable {
        Ok(()) => {
            let mut frame = FrameWriter::response(out, &head, response::SUCCESS);
            answer.write(&mut frame);
            frame.finish();
        }
        Err(refusal) => refusal.write(&head, out),
    };
    if broker.store.is_sync_flush() {
        let conn = Arc::clone(call.conn);
        // A push fails when the client has gone.
        when_durable(broker, changed.end_position, move |durable| {
            let _ = conn.push(|out| write(durable, out));
        });
    } else {
        write(Ok(()), out);
    }
    Ok(())
}

fn header_of(changed: &Changed) -> ChangeInvisibleTimeResponseHeader {
    ChangeInvisibleTimeResponseHeader {
        pop_time: changed.pop_time,
        invisible_time: changed.invisible_time,
        revive_qid: changed.revive_queue,
    }
}

/// The lite topic that a request names.
fn lite_of(lite: Option<Text<'_>>) -> Result<Option<Cow<'_, str>>, Refusal> {
    let lite = lite.map(|lite| lite.to_str()).transpose()?;
    Ok(lite.filter(|lite| !lite.trim().is_empty()))
}

/// Checks that the topic has the queue, in RocketMQ's order; the topic and the queue.
fn check_topic(broker: &Shared, topic_name: &str, queue_id: i32) -> Result<(Arc<Topic>, u32), Refusal> {
    let topic = broker.topics.get(topic_name).ok_or_else(|| {
        Refusal::new(response::TOPIC_NOT_EXIST, format!("topic[{topic_name}] not exist, apply first please!"))
    })?;
    let queues = topic.read_queues();
    match u32::try_from(queue_id) {
        Ok(id) if id < queues => Ok((topic, id)),
        _ => {
            let remark =
                format!("queueId[{queue_id}] is illegal, topic:[{topic_name}] topicConfig.readQueueNums:[{queues}]");
            Err(Refusal::new(response::MESSAGE_ILLEGAL, remark))
        }
    }
}

/// Checks that a message can be in a queue of the topic, in RocketMQ's order; the queue.
fn check(broker: &Shared, topic_name: &str, queue_id: i32, offset: i64) -> Result<u32, Refusal> {
    let (topic, id) = check_topic(broker, topic_name, queue_id)?;
    let known = topic.queue(&broker.store, id).map_or(0..=0, |queue| known_offsets(queue));
    if known.contains(&offset) {
        return Ok(id);
    }
    let (min, max) = known.into_inner();
    let remark = format!("offset is illegal, key:{topic_name}@{id}, commit:{offset}, store:{min}~{max}");
    Err(Refusal::new(response::NO_MESSAGE, remark))
}

/// Offsets that a message in the hands of a consumer may have. Of a compacted queue it may be gone meanwhile, and the
/// queue's minimum be beyond it.
fn known_offsets(queue: &Queue) -> RangeInclusive<i64> {
    let min = if queue.is_compacted() { 0 } else { queue.min_offset() };
    min..=queue.max_offset()
}

fn parse(text: &str) -> Result<ReceiptHandle<'_>, Refusal> {
    ReceiptHandle::parse(text).ok_or_else(|| {
        let remark = format!("the receipt handle [{text:.200}] is malformed");
        Refusal::new(response::SYSTEM_ERROR, remark)
    })
}
