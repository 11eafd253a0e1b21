//! From the waiting record to the delivered message, many in one append.
//!
//! The properties stay as they are stored, as in RocketMQ (REAL_TOPIC, REAL_QID, DELAY and the TIMER_ properties remain
//! visible to the consumer); timer messages get the times of their way through the wheel.

use std::sync::Arc;

use ferromq_protocol::properties::{self, names};
use ferromq_protocol::record::{self, Entry, MessageParts, Record};
use ferromq_protocol::topic;
use ferromq_store::{AppendBatch, AppendError, Queue};

use crate::broker::Shared;
use crate::properties as text;

/// Messages and bytes of one append: larger ones would keep producers waiting.
const MAX_MESSAGES: usize = 256;
const MAX_BYTES: usize = 1024 * 1024;
/// Records with the same unique key that are compared when a delivery is in doubt.
const MAX_COMPARED: u32 = 64;

/// Messages on their way out.
pub(super) struct Delivery {
    broker: Arc<Shared>,
    batch: AppendBatch,
    bytes: usize,
    properties: Vec<u8>,
    /// Position in the log behind the last delivered message.
    pub end: u64,
}

impl Delivery {
    pub fn new(broker: &Arc<Shared>) -> Self {
        Self { broker: Arc::clone(broker), batch: AppendBatch::default(), bytes: 0, properties: Vec::new(), end: 0 }
    }

    /// Adds the message that waits in `record`, with these properties more. One that can never be delivered is reported.
    pub fn add(&mut self, record: &Record<'_>, more: &[(&str, i64)]) {
        let Some((topic, queue_id)) = destination(record) else {
            tracing::error!(
                position = record.physical_offset(),
                "a delayed message has no topic it could be delivered to: it stays in the log and is passed over"
            );
            return;
        };
        let known = self.broker.topics.get(topic);
        let known = known.as_ref().and_then(|topic| topic.queue(&self.broker.store, queue_id));
        // A topic that was deleted takes the message all the same, as in RocketMQ: it is there when the topic is again, if
        // that has simple queues. With one that is deleted before the append it goes, as what was delivered before does.
        let queue = known.map_or_else(|| self.broker.store.queue(topic, queue_id), Arc::clone);
        self.push(record, &queue, more);
    }

    /// Stores the record anew in the queue it waits in.
    pub fn roll(&mut self, record: &Record<'_>, queue: &Arc<Queue>, more: &[(&str, i64)]) {
        self.push(record, queue, more);
    }

    fn push(&mut self, record: &Record<'_>, queue: &Arc<Queue>, more: &[(&str, i64)]) {
        let mut stored = std::mem::take(&mut self.properties);
        stored.clear();
        stored.extend_from_slice(record.properties());
        for (name, value) in more {
            properties::set(&mut stored, name, &value.to_string());
        }
        // What the wheel adds must not make a message too large to be delivered.
        let fits = stored.len() <= properties::MAX_PROPERTIES_BYTES;
        let kept = if fits { &stored[..] } else { record.properties() };
        let parts = MessageParts { store_host: self.broker.store_host, ..text::copy(record, queue, kept) };
        match self.batch.push_stored(queue, &parts) {
            Ok(_) => self.bytes += record.bytes().len(),
            Err(reject) => tracing::error!(
                position = record.physical_offset(), topic = queue.topic(), %reject,
                "a delayed message cannot be stored: it stays in the log and is passed over"
            ),
        }
        self.properties = stored;
    }

    pub fn is_full(&self) -> bool {
        self.batch.len() >= MAX_MESSAGES || self.bytes >= MAX_BYTES
    }

    /// Appends what was added and shows it to consumers. After an error nothing of it is stored.
    pub fn finish(&mut self) -> Result<(), AppendError> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let stored = self.broker.store.append(&mut self.batch);
        if stored.is_ok() {
            let stored = self.batch.results().iter().filter(|message| message.is_stored());
            let bytes = stored.clone().map(|message| u64::from(message.size)).sum();
            self.broker.stats.count_put(stored.count() as u64, bytes);
            self.end = self.batch.end_position();
        }
        self.batch.clear();
        self.bytes = 0;
        if stored.is_ok() {
            self.broker.store.dispatch();
            self.broker.answer_ready_polls();
        }
        stored
    }
}

/// Topic and queue the message was sent to.
fn destination<'a>(record: &Record<'a>) -> Option<(&'a str, u32)> {
    let topic = properties::get_str(record.properties(), names::REAL_TOPIC)?;
    let queue_id = properties::get_str(record.properties(), names::REAL_QUEUE_ID)?.parse().ok()?;
    // A half message has its own way back.
    (topic::validate_topic(topic).is_ok() && topic != topic::TRANS_HALF).then_some((topic, queue_id))
}

/// Whether the log has the message of `record` behind it, in `topic`: the process died between its delivery and the
/// next writing of the marks. Without an index the answer is no.
pub(super) fn was_delivered(broker: &Shared, record: &Record<'_>, topic: &str) -> bool {
    let Some(key) = properties::get_str(record.properties(), names::UNIQ_CLIENT_MESSAGE_ID_KEYIDX) else {
        return false;
    };
    let hits = broker.store.query_index(topic, key, MAX_COMPARED, record.store_timestamp(), i64::MAX);
    let mut bytes = Vec::new();
    hits.physical_offsets.iter().any(|position| {
        bytes.clear();
        if *position as i64 <= record.physical_offset() || broker.store.record_at(*position, &mut bytes).is_none() {
            return false;
        }
        matches!(record::read(&bytes), Entry::Record(other)
            if other.topic() == topic.as_bytes()
                && other.reconsume_times() == record.reconsume_times()
                && other.born_timestamp() == record.born_timestamp()
                && properties::get_str(other.properties(), names::UNIQ_CLIENT_MESSAGE_ID_KEYIDX) == Some(key)
                && other.body() == record.body())
    })
}

/// [`was_delivered`] to the topic the message was sent to.
pub(super) fn has_arrived(broker: &Shared, record: &Record<'_>) -> bool {
    destination(record).is_some_and(|(topic, _)| was_delivered(broker, record, topic))
}
