//! The records of pop consumption in the revive topic, in RocketMQ's format.
//!
//! A check point and the acknowledgements that belong to it go to the same revive queue. RocketMQ sends them through its
//! timer, so that they arrive there when they are due; here they stand there at once and say when they are due
//! (`TIMER_DELIVER_MS`), which its reviving understands too. They carry no unique key: that tells them from its own.
//! Each thread keeps one batch and its buffers.

use std::cell::Cell;

use ferromq_common::clock;
use ferromq_protocol::java;
use ferromq_protocol::pop::{self, AckMsg, PopCheckPoint};
use ferromq_protocol::properties::{self, names};
use ferromq_protocol::record::MessageParts;
use ferromq_store::{AppendBatch, AppendError, Appended};

use super::check_point::Key;
use super::queue::PopQueue;
use crate::broker::Shared;
use crate::handler::Refusal;

thread_local! {
    static WRITER: Cell<Writer> = Cell::default();
}

/// Capacity the buffers of a thread keep, bytes.
const KEPT_BYTES: usize = 64 * 1024;

/// How long before a check point is due RocketMQ wants to see it, milliseconds (`ackTimeInterval`).
const DELIVERED_BEFORE_MS: i64 = 1000;

/// Records that are appended together.
#[derive(Default)]
pub(super) struct Writer {
    pub batch: AppendBatch,
    pub body: Vec<u8>,
    pub properties: Vec<u8>,
    /// The revive queue of each of its records there.
    revive_queues: Vec<u32>,
}

/// Lends the thread's writer, empty.
pub(super) fn with_writer<R>(f: impl FnOnce(&mut Writer) -> R) -> R {
    let mut writer = WRITER.take();
    writer.batch.clear();
    writer.revive_queues.clear();
    let result = f(&mut writer);
    if writer.body.capacity() + writer.properties.capacity() <= KEPT_BYTES {
        WRITER.set(writer);
    }
    result
}

/// The answer when the log takes no record.
pub(super) fn refused(error: AppendError) -> Refusal {
    Refusal::new(ferromq_protocol::code::response::SERVICE_NOT_AVAILABLE, format!("service not available now. {error}"))
}

/// The one revive queue for the ordered pops of a queue: read back, they have to come in order.
fn order_queue(broker: &Shared, queue: &PopQueue) -> u32 {
    let hash = java::string_hash(&queue.topic).wrapping_mul(31) ^ java::string_hash(&queue.group);
    (hash as u32).wrapping_add(queue.id) % broker.pops.revive_queues()
}

impl Writer {
    /// Adds the check point of a pop, or without `offsets` that of the one message whose invisible time was changed:
    /// only a pop moves the group's offset.
    pub fn check_point(
        &mut self,
        broker: &Shared,
        revive_queue: u32,
        queue: &PopQueue,
        key: Key,
        invisible_time: i64,
        offsets: Option<&[i64]>,
    ) -> Result<(), Refusal> {
        let due = key.1.saturating_add(invisible_time) - DELIVERED_BEFORE_MS;
        self.popped(broker, (pop::CHECK_POINT_TAG, revive_queue, due), queue, key, invisible_time, offsets)
    }

    /// Adds an ordered pop. It is in no hurry: nothing comes back by it.
    pub fn order_pop(
        &mut self,
        broker: &Shared,
        queue: &PopQueue,
        key: Key,
        invisible_time: i64,
        offsets: &[i64],
    ) -> Result<(), Refusal> {
        let place = (pop::ORDER_POP_TAG, order_queue(broker, queue), clock::now_millis());
        self.popped(broker, place, queue, key, invisible_time, Some(offsets))
    }

    fn popped(
        &mut self,
        broker: &Shared,
        (tag, revive_queue, deliver_ms): (&str, u32, i64),
        queue: &PopQueue,
        (start_offset, pop_time): Key,
        invisible_time: i64,
        offsets: Option<&[i64]>,
    ) -> Result<(), Refusal> {
        let diff = |offset: &i64| (offset - start_offset) as i32;
        let ck = PopCheckPoint {
            bit_map: 0,
            broker_name: broker.config.broker_name.as_str(),
            group: &*queue.group,
            diffs: offsets.map(|offsets| offsets.iter().map(diff).collect()),
            invisible_time,
            count: offsets.map_or(1, |offsets| offsets.len() as i8),
            pop_time,
            queue_id: queue.id as i32,
            revive_offset: 0,
            start_offset,
            topic: &*queue.topic,
        };
        self.body.clear();
        pop::push_json(&mut self.body, &ck);
        self.push(broker, revive_queue, tag, deliver_ms)
    }

    /// Adds the acknowledgement of messages of one check point.
    pub fn ack(
        &mut self,
        broker: &Shared,
        revive_queue: u32,
        queue: &PopQueue,
        key: Key,
        offsets: &[i64],
    ) -> Result<(), Refusal> {
        let tag = if offsets.len() == 1 { pop::ACK_TAG } else { pop::BATCH_ACK_TAG };
        self.acked(broker, (tag, revive_queue), queue, key, offsets)
    }

    /// Adds the acknowledgement of a message of an ordered pop; the group stands at `next` now.
    pub fn order_ack(
        &mut self,
        broker: &Shared,
        queue: &PopQueue,
        pop_time: i64,
        offset: i64,
        next: i64,
    ) -> Result<(), Refusal> {
        self.acked(broker, (pop::ORDER_ACK_TAG, order_queue(broker, queue)), queue, (next, pop_time), &[offset])
    }

    fn acked(
        &mut self,
        broker: &Shared,
        (tag, revive_queue): (&str, u32),
        queue: &PopQueue,
        (start_offset, pop_time): Key,
        offsets: &[i64],
    ) -> Result<(), Refusal> {
        let single = match offsets {
            [offset] => Some(*offset),
            _ => None,
        };
        let ack = AckMsg {
            ack_offset: single.unwrap_or(-1),
            offsets: if single.is_some() { Vec::new() } else { offsets.to_vec() },
            broker_name: broker.config.broker_name.as_str(),
            group: &*queue.group,
            pop_time,
            queue_id: queue.id as i32,
            start_offset,
            topic: &*queue.topic,
        };
        self.body.clear();
        pop::push_json(&mut self.body, &ack);
        self.push(broker, revive_queue, tag, clock::now_millis())
    }

    fn push(&mut self, broker: &Shared, revive_queue: u32, tag: &str, deliver_ms: i64) -> Result<(), Refusal> {
        self.properties.clear();
        properties::push(&mut self.properties, names::TAGS, tag);
        properties::push(&mut self.properties, names::TIMER_DELIVER_MS, itoa::Buffer::new().format(deliver_ms));
        let queue = broker.store.queue(&broker.revive_topic, revive_queue);
        let parts = MessageParts {
            topic: &broker.revive_topic,
            queue_id: revive_queue,
            body: &self.body,
            properties: &self.properties,
            tags: Some(tag.as_bytes()),
            keys: None,
            uniq_key: None,
            flag: 0,
            sys_flag: 0,
            born_timestamp: clock::now_millis(),
            born_host: broker.store_host,
            store_host: broker.store_host,
            reconsume_times: 0,
            prepared_transaction_offset: 0,
        };
        self.batch.push(&queue, &parts).map_err(|reject| {
            let remark = format!("the record of the pop cannot be stored: {reject}");
            Refusal::new(ferromq_protocol::code::response::SYSTEM_ERROR, remark)
        })?;
        self.revive_queues.push(revive_queue);
        Ok(())
    }

    /// Appends all records, or none.
    pub fn append(&mut self, broker: &Shared) -> Result<&[Appended], AppendError> {
        broker.store.append(&mut self.batch)?;
        self.revive_queues.drain(..).for_each(|queue| broker.pops.foreign.own(queue));
        Ok(self.batch.results())
    }
}
