//! SEND_MESSAGE (10), SEND_MESSAGE_V2 (310), SEND_BATCH_MESSAGE (320) and END_TRANSACTION (37).
//!
//! All sends of the sockets that were ready together become one append: [`Sends::add`] checks a request in the order of RocketMQ's
//! `SendMessageProcessor` and encodes its messages into the batch; [`Sends::finish`] appends the batch and writes the
//! answers. A refused request is answered at once. Under SYNC_FLUSH the answers wait with the store for the flushed position.
//!
//! One [`Sends`] lives on each reactor thread and is reused: a send in steady state allocates nothing and takes no lock
//! but the append's. Nothing is acknowledged that the store did not take.

mod answer;
mod batch;
mod later;
mod lights;
mod measure;
mod topic;
mod transaction;

use std::ops::Range;
use std::sync::Arc;

use ferromq_common::clock;
use ferromq_protocol::body::TopicFilterType;
use ferromq_protocol::code::{request, response};
use ferromq_protocol::header::send::SendHeader;
use ferromq_protocol::properties::MAX_PROPERTIES_BYTES;
use ferromq_protocol::record::MessageParts;
use ferromq_protocol::sys_flag::message as flags;
use ferromq_protocol::topic as names;
use ferromq_remoting::Connection;
use ferromq_store::{AppendBatch, Queue, Reject};

pub(crate) use self::answer::SendConstants;
use self::answer::Waiting;
use self::later::{divert, route_retry};
use self::lights::{check_lights, push_lite_queue};
use self::measure::{charge, within_limits};
use self::topic::{check_key, find_topic};
use self::transaction::Ending;
use super::{Call, Refusal, send_back};
use crate::broker::Shared;
use crate::limits::InHand;
use crate::properties::{self, Kind, Seen};
use crate::rates::Flow;
use crate::topics::Topic;

/// A batch is appended when it holds this many messages, even in the middle of a turn.
const MAX_BATCH_MESSAGES: usize = 1024;
/// A batch is appended when its bodies have this many bytes, even in the middle of a turn.
const MAX_BATCH_BYTES: usize = 4 * 1024 * 1024;

/// Sends of one reactor thread that are not appended yet, and its buffers.
#[derive(Default)]
pub(crate) struct Sends {
    batch: AppendBatch,
    /// Bytes of the requests' bodies in `batch`.
    body_bytes: usize,
    waiting: Vec<Waiting>,
    /// Whose requests wait, in the order they came.
    conns: Vec<Arc<Connection>>,
    /// Something is being added or appended; still set afterwards when that has panicked.
    at_work: bool,
    /// Unique keys of the waiting answers, back to back.
    uniq_keys: Vec<u8>,
    /// The properties of the message in hand: as sent, and as they are stored.
    received: Vec<u8>,
    stored: Vec<u8>,
    /// The topic of the message before, and the generation of the topic table it was taken from.
    last_topic: Option<(Arc<Topic>, u64)>,
    /// Where the next message without a queue id goes.
    next_queue: u32,
    /// Bytes of the records by the limits they count against.
    in_hand: InHand,
    /// Runs of messages in `batch` and whose topic counts them.
    taken: Vec<(Arc<Flow>, Range<usize>)>,
    /// Halves that end with this append, and real topics of those that come with it.
    endings: Vec<Ending>,
    prepared: Vec<Arc<Topic>>,
    /// The record of the half in hand.
    half: Vec<u8>,
}

/// Where a message goes, once all checks have passed.
struct Target {
    topic: Arc<Topic>,
    queue_id: u32,
    sys_flag: i32,
    reconsume_times: i32,
    dead_letter: bool,
}

impl Sends {
    /// Forgets what a panic left behind: half a message may be in the batch.
    fn begin(&mut self, broker: &Shared) {
        if self.at_work {
            tracing::error!("a panic while storing: {} sends are neither stored nor answered", self.waiting.len());
            self.give_back(broker);
            self.clear();
        }
        self.at_work = true;
    }

    fn clear(&mut self) {
        self.batch.clear();
        self.body_bytes = 0;
        self.in_hand.clear();
        self.waiting.clear();
        self.conns.clear();
        self.uniq_keys.clear();
        self.taken.clear();
        self.at_work = false;
    }

    /// Takes one request: its messages join the batch, or the refusal is the answer.
    pub fn add(&mut self, broker: &Shared, call: &Call<'_>) -> Result<(), Refusal> {
        self.begin(broker);
        let added = match call.request.head.code {
            request::END_TRANSACTION => self.end_transaction(broker, call),
            _ => self.try_add(broker, call),
        };
        self.at_work = false;
        if self.batch.len() + self.endings.len() >= MAX_BATCH_MESSAGES || self.body_bytes >= MAX_BATCH_BYTES {
            self.finish(broker);
        }
        added
    }

    fn try_add(&mut self, broker: &Shared, call: &Call<'_>) -> Result<(), Refusal> {
        let fields = &call.request.fields;
        let header = match call.request.head.code {
            request::SEND_MESSAGE => SendHeader::read_long(fields)?,
            _ => SendHeader::read_short(fields)?,
        };
        // The topic of the message before is moved out and back instead of being shared: its counter would bounce
        // between the reactors.
        let generation = broker.topics.generation();
        let mut target = self.check(broker, call, &header, generation)?;
        let of_sender = broker.limits.of_sender(call.conn.id(), header.producer_group, broker.live.sender_limits());
        within_limits(broker, &target.topic, &of_sender, self.body_bytes, &self.in_hand)?;
        let (first, bytes) = (self.batch.len(), self.batch.record_bytes());
        let added = if call.request.head.code == request::SEND_BATCH_MESSAGE || header.batch {
            self.add_batch(broker, call, &header, &target)
        } else {
            self.add_one(broker, call, &header, &mut target)
        };
        let messages = self.batch.messages_from(first);
        if messages > 0 {
            let bytes = self.batch.record_bytes() - bytes;
            charge(broker, &target.topic, &of_sender, messages, bytes, &mut self.in_hand);
        }
        self.last_topic = Some((target.topic, generation));
        added?;
        self.body_bytes += call.request.body.len();
        Ok(())
    }

    /// The checks of `AbstractSendMessageProcessor.msgCheck` in its order, then retry and dead-letter routing.
    fn check(
        &mut self,
        broker: &Shared,
        call: &Call<'_>,
        header: &SendHeader<'_>,
        generation: u64,
    ) -> Result<Target, Refusal> {
        let start = broker.live.start_accept_send_request_time_stamp();
        if start > 0 && clock::now_millis() < start {
            return Err(Refusal::new(response::SYSTEM_ERROR, format!("broker unable to service, until {start}")));
        }
        let name = header.topic.to_str()?;
        let topic = match self.last_topic.take() {
            // A light topic ends without a word to the table.
            Some((topic, taken_at)) if taken_at == generation && topic.name() == name && !topic.is_ended_light() => {
                topic
            }
            _ => find_topic(broker, call, header, &name)?,
        };
        if let Some(attributes) = topic.unserved_attributes() {
            return Err(not_served(&format!("messages to a topic with the attributes {attributes}")));
        }
        let queues = topic.write_queues().max(topic.read_queues());
        let queue_id = match u32::try_from(header.queue_id) {
            Ok(id) if id < queues => id,
            Ok(id) => return Err(illegal_queue(call, &topic, id)),
            Err(_) if topic.write_queues() == 0 => return Err(illegal_queue(call, &topic, 0)),
            Err(_) => {
                self.next_queue = self.next_queue.wrapping_add(1);
                self.next_queue % topic.write_queues()
            }
        };
        let multi_tags =
            if topic.config().topic_filter_type == TopicFilterType::MultiTag { flags::MULTI_TAGS } else { 0 };
        let target = Target {
            topic,
            queue_id,
            sys_flag: header.sys_flag | multi_tags,
            reconsume_times: header.reconsume_times.unwrap_or(0),
            dead_letter: false,
        };
        match name.strip_prefix(names::RETRY_PREFIX) {
            Some(group) => route_retry(broker, call, header, target, group),
            None => Ok(target),
        }
    }

    fn add_one(
        &mut self,
        broker: &Shared,
        call: &Call<'_>,
        header: &SendHeader<'_>,
        target: &mut Target,
    ) -> Result<(), Refusal> {
        self.received.clear();
        self.stored.clear();
        header.properties.push_to(&mut self.received);
        let mut seen = properties::rewrite(&self.received, &mut self.stored);
        if seen.uniq_key.is_none() {
            let start = self.stored.len() + b"UNIQ_KEY\x01".len();
            properties::push(&mut self.stored, "UNIQ_KEY", broker.unique_ids.next(clock::now_millis()).as_bytes());
            seen.uniq_key = Some(start..self.stored.len() - 1);
        }
        if let Some(lite) = seen.lite.clone() {
            seen.lights = Some(push_lite_queue(broker, target, lite, &mut self.stored)?);
        }
        if let Some(priority) = seen.priority {
            target.queue_id = priority.min(target.topic.write_queues().saturating_sub(1));
        }
        check_key(target, &seen, &self.stored)?;
        // The retry of a committed message keeps its TRAN_MSG.
        let retried = target.reconsume_times > 0 && seen.delay_level > 0;
        let half = seen.kind == Kind::Transaction && !retried && !target.dead_letter;
        if seen.kind == Kind::Transaction && retried {
            seen.kind = Kind::Delay;
        }
        if target.dead_letter {
            properties::push(&mut self.stored, "DELAY", b"-1");
            send_back::mark_dead(&mut self.stored);
        } else if half {
            self.prepare(broker, &seen, target)?;
        } else if !matches!(seen.kind, Kind::Delay | Kind::Timer) {
            refuse_other_kinds(seen.kind)?;
        }
        if !half && target.sys_flag & (flags::TRANSACTION_ROLLBACK | flags::INNER_BATCH | flags::NEED_UNWRAP) != 0 {
            return Err(not_served("messages with the system flag of a half message or an inner batch"));
        }
        check_lights(broker, target, &seen, &self.stored)?;
        self.stored.extend_from_slice(&broker.send.stored_suffix);
        let waits = if target.dead_letter { None } else { divert(broker, target, &mut self.stored, &mut seen)? };
        let body = call.request.body;
        if self.stored.len() > MAX_PROPERTIES_BYTES || body.len() > broker.max_message_size {
            return Err(illegal_size(broker));
        }
        let first = self.batch.len();
        let mut parts = parts(broker, call, header, target, body, &self.stored, &seen);
        let queue = match waits {
            _ if half => {
                parts.sys_flag = flags::reset_transaction_value(parts.sys_flag, flags::TRANSACTION_NOT);
                broker.transactions.half_queue()
            }
            Some(waits) => waits,
            None => queue_of(broker, call, target)?,
        };
        (parts.topic, parts.queue_id) = (queue.topic(), queue.id());
        self.batch.push(queue, &parts).map_err(|reject| rejected(broker, reject))?;
        if half {
            // It counts for its topic when it is committed.
            self.prepared.push(Arc::clone(&target.topic));
        } else {
            self.note_taken(&target.topic, first);
        }
        let uniq_key = seen.uniq_key.map_or(&[][..], |range| &self.stored[range]);
        let uniq_key = push_key(&mut self.uniq_keys, uniq_key);
        self.wait(call, first, target.queue_id, seen.no_wait, uniq_key);
        if waits.is_some() && !target.topic.name().starts_with(names::RETRY_PREFIX) {
            self.hand_out_recall(broker, target.topic.name());
        }
        Ok(())
    }

    /// Notes the answer that the messages from `first` on will get.
    fn wait(&mut self, call: &Call<'_>, first: usize, queue_id: u32, no_wait: bool, uniq_key: (u32, u32)) {
        if !self.conns.last().is_some_and(|last| Arc::ptr_eq(last, call.conn)) {
            self.conns.push(Arc::clone(call.conn));
        }
        self.waiting.push(Waiting {
            head: call.request.head,
            conn: self.conns.len() as u32 - 1,
            first: first as u32,
            count: (self.batch.len() - first) as u32,
            queue_id,
            uniq_key,
            recall: (0, 0),
            no_wait,
            inner: false,
            end: false,
        });
    }
}

/// Keeps a unique key until its answer is written; its bounds in `keys`.
fn push_key(keys: &mut Vec<u8>, key: &[u8]) -> (u32, u32) {
    let start = keys.len() as u32;
    keys.extend_from_slice(key);
    (start, keys.len() as u32)
}

fn queue_of<'t>(broker: &Shared, call: &Call<'_>, target: &'t Target) -> Result<&'t Arc<Queue>, Refusal> {
    target
        .topic
        .queue(&broker.store, target.queue_id)
        .ok_or_else(|| illegal_queue(call, &target.topic, target.queue_id))
}

fn parts<'a>(
    broker: &Shared,
    call: &Call<'_>,
    header: &SendHeader<'_>,
    target: &'a Target,
    body: &'a [u8],
    stored: &'a [u8],
    seen: &Seen,
) -> MessageParts<'a> {
    let part = |range: &Option<std::ops::Range<usize>>| range.clone().map(|r| &stored[r]);
    MessageParts {
        topic: target.topic.name(),
        queue_id: target.queue_id,
        body,
        properties: stored,
        tags: part(&seen.tags),
        keys: part(&seen.keys),
        uniq_key: part(&seen.uniq_key),
        flag: header.flag,
        sys_flag: target.sys_flag,
        born_timestamp: header.born_timestamp,
        born_host: call.conn.peer(),
        store_host: broker.store_host,
        reconsume_times: target.reconsume_times,
        prepared_transaction_offset: 0,
    }
}

/// Kinds that have a life of their own are never stored as if they were ordinary messages.
fn refuse_other_kinds(kind: Kind) -> Result<(), Refusal> {
    match kind {
        Kind::Normal => Ok(()),
        Kind::Transaction => Err(not_served("transaction messages (property TRAN_MSG) in a batch")),
        Kind::Delay | Kind::Timer => Err(Refusal::new(
            response::MESSAGE_ILLEGAL,
            "messages of a batch cannot be delayed: send them one by one (properties DELAY, TIMER_DELIVER_MS, TIMER_DELAY_MS, TIMER_DELAY_SEC)",
        )),
        Kind::BrokenDelay => Err(Refusal::new(response::MESSAGE_ILLEGAL, "the property DELAY is not a number")),
        Kind::InnerBatch => {
            let remark = "the properties INNER_NUM and INNER_MULTI_QUEUE_OFFSET are the broker's own";
            Err(Refusal::new(response::MESSAGE_ILLEGAL, remark))
        }
    }
}

fn not_served(what: &str) -> Refusal {
    Refusal::new(response::MESSAGE_ILLEGAL, format!("{what} are not served by this version of the broker"))
}

fn illegal_queue(call: &Call<'_>, topic: &Topic, id: u32) -> Refusal {
    let remark = format!("request queueId[{id}] is illegal, {:?} Producer: {}", topic.config(), call.conn.peer());
    Refusal::new(response::INVALID_PARAMETER, remark)
}

fn illegal_size(broker: &Shared) -> Refusal {
    let remark = format!(
        "the message is illegal, maybe msg body or properties length not matched. msg body length limit {}B, msg properties length limit 32KB.",
        broker.max_message_size
    );
    Refusal::new(response::MESSAGE_ILLEGAL, remark)
}

fn rejected(broker: &Shared, _reject: Reject) -> Refusal {
    illegal_size(broker)
}
