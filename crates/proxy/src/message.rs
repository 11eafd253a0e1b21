//! Stored records as messages of this protocol (`GrpcConverter`).

use std::collections::HashMap;

use ferromq_protocol::properties::{self, names};
use ferromq_protocol::record::Record;
use ferromq_protocol::sys_flag::message as flags;
use md5::{Digest as _, Md5};
use prost_types::{Duration, Timestamp};

use crate::handle::Handle;
use crate::pb::{DeadLetterQueue, Digest, DigestType, Encoding, Message, MessageType, Resource, SystemProperties};

/// Names of properties that are RocketMQ's own: not shown to users, not taken from them (`MessageConst.STRING_HASH_SET`).
const SYSTEM: &[&str] = &[
    names::TRACE_SWITCH,
    names::MSG_REGION,
    names::KEYS,
    names::TAGS,
    names::WAIT_STORE_MSG_OK,
    names::DELAY_TIME_LEVEL,
    names::RETRY_TOPIC,
    names::REAL_TOPIC,
    names::REAL_QUEUE_ID,
    names::TRANSACTION_PREPARED,
    names::PRODUCER_GROUP,
    names::MIN_OFFSET,
    names::MAX_OFFSET,
    names::BUYER_ID,
    names::ORIGIN_MESSAGE_ID,
    names::TRANSFER_FLAG,
    names::CORRECTION_FLAG,
    names::MQ2_FLAG,
    names::RECONSUME_TIME,
    names::UNIQ_CLIENT_MESSAGE_ID_KEYIDX,
    names::MAX_RECONSUME_TIMES,
    names::CONSUME_START_TIMESTAMP,
    names::POP_CK,
    names::POP_CK_OFFSET,
    names::FIRST_POP_TIME,
    names::TRANSACTION_PREPARED_QUEUE_OFFSET,
    names::DUP_INFO,
    names::EXTEND_UNIQ_INFO,
    names::INSTANCE_ID,
    names::CORRELATION_ID,
    names::MESSAGE_REPLY_TO_CLIENT,
    names::MESSAGE_TTL,
    names::REPLY_MESSAGE_ARRIVE_TIME,
    names::PUSH_REPLY_TIME,
    names::CLUSTER,
    names::MESSAGE_TYPE,
    names::INNER_MULTI_QUEUE_OFFSET,
    names::TIMER_DELAY_MS,
    names::TIMER_DELAY_SEC,
    names::TIMER_DELIVER_MS,
    names::TIMER_ENQUEUE_MS,
    names::TIMER_DEQUEUE_MS,
    names::TIMER_ROLL_TIMES,
    names::TIMER_OUT_MS,
    names::TIMER_DEL_UNIQKEY,
    names::TIMER_DELAY_LEVEL,
    names::BORN_HOST,
    names::BORN_TIMESTAMP,
    names::DLQ_ORIGIN_TOPIC,
    names::DLQ_ORIGIN_MESSAGE_ID,
    names::CRC32,
];

/// Whether a property is RocketMQ's own.
pub(crate) fn is_system(name: &str) -> bool {
    SYSTEM.contains(&name)
}

/// A record that is handed out: its receipt handle, and for how long it is invisible.
pub(crate) struct Received<'a> {
    pub handle: &'a Handle,
    pub invisible_ms: i64,
}

/// Properties of a record, found once for all that is asked of them.
struct Found<'a>(Vec<(&'a [u8], &'a [u8])>);

impl<'a> Found<'a> {
    fn of(text: &'a [u8]) -> Self {
        Found(properties::iter(text).collect())
    }

    /// The value of a property that is there and is UTF-8; as everywhere, the last one counts.
    fn value(&self, name: &str) -> Option<&'a str> {
        let found = self.0.iter().rev().find(|(found, _)| *found == name.as_bytes());
        found.and_then(|(_, value)| std::str::from_utf8(value).ok())
    }

    fn number(&self, name: &str) -> Option<i64> {
        self.value(name).and_then(|value| value.parse().ok())
    }

    /// What is not RocketMQ's own.
    fn of_user(&self) -> HashMap<String, String> {
        let user = self.0.iter().map(|(name, value)| (String::from_utf8_lossy(name), String::from_utf8_lossy(value)));
        let user = user.filter(|(name, _)| !is_system(name));
        user.map(|(name, value)| (name.into_owned(), value.into_owned())).collect()
    }
}

/// The message of a record of `topic`.
pub(crate) fn of_record(record: &Record<'_>, topic: &str, received: Option<Received<'_>>) -> Message {
    let found = Found::of(record.properties());
    let value = |name: &str| found.value(name).map(str::to_owned);
    let number = |name: &str| found.number(name);
    let body = record.body().to_vec();
    let compressed = record.sys_flag() & flags::COMPRESSED != 0;
    let dead_letter = value(names::DLQ_ORIGIN_TOPIC)
        .zip(value(names::DLQ_ORIGIN_MESSAGE_ID))
        .map(|(topic, message_id)| DeadLetterQueue { topic, message_id });
    let system_properties = SystemProperties {
        tag: value(names::TAGS),
        keys: found.value(names::KEYS).map(|keys| keys.split(' ').map(str::to_owned).collect()).unwrap_or_default(),
        message_id: value(names::UNIQ_CLIENT_MESSAGE_ID_KEYIDX).unwrap_or_else(|| {
            ferromq_protocol::id::offset_message_id(record.store_host(), record.physical_offset() as u64)
        }),
        body_digest: Some(Digest { r#type: DigestType::Md5.into(), checksum: upper_hex(&Md5::digest(&body)) }),
        body_encoding: if compressed { Encoding::Gzip } else { Encoding::Identity }.into(),
        message_type: type_of(&found).into(),
        born_timestamp: Some(timestamp(record.born_timestamp())),
        born_host: value(names::BORN_HOST).unwrap_or_else(|| record.born_host().to_string()),
        store_timestamp: Some(timestamp(record.store_timestamp())),
        store_host: record.store_host().to_string(),
        delivery_timestamp: number(names::TIMER_DELIVER_MS).or_else(|| number(names::TIMER_OUT_MS)).map(timestamp),
        receipt_handle: received.as_ref().map(|received| received.handle.text().to_owned()),
        queue_id: record.queue_id(),
        queue_offset: Some(record.queue_offset()),
        invisible_duration: received.as_ref().map(|received| duration(received.invisible_ms)),
        delivery_attempt: Some(record.reconsume_times().saturating_add(1)),
        message_group: value(names::SHARDING_KEY),
        trace_context: value(names::TRACE_CONTEXT),
        orphaned_transaction_recovery_duration: number(names::CHECK_IMMUNITY_TIME_IN_SECONDS)
            .map(|seconds| duration(seconds.saturating_mul(1000))),
        dead_letter_queue: dead_letter,
        lite_topic: value(names::LITE_TOPIC),
        priority: number(names::PRIORITY).and_then(|priority| i32::try_from(priority).ok()),
    };
    Message {
        topic: Some(resource(topic)),
        user_properties: found.of_user(),
        system_properties: Some(system_properties),
        body: body.into(),
    }
}

fn type_of(found: &Found<'_>) -> MessageType {
    let has = |name: &str| found.value(name).is_some();
    if found.value(names::TRANSACTION_PREPARED).is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        MessageType::Transaction
    } else if [names::DELAY_TIME_LEVEL, names::TIMER_DELIVER_MS, names::TIMER_DELAY_SEC, names::TIMER_DELAY_MS]
        .into_iter()
        .any(has)
    {
        MessageType::Delay
    } else if has(names::SHARDING_KEY) {
        MessageType::Fifo
    } else if has(names::LITE_TOPIC) {
        MessageType::Lite
    } else if has(names::PRIORITY) {
        MessageType::Priority
    } else {
        MessageType::Normal
    }
}

/// A name with its namespace apart, as clients expect it.
pub(crate) fn resource(name: &str) -> Resource {
    let (namespace, name) = match name.split_once('%') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => (namespace, name),
        _ => ("", name),
    };
    Resource { resource_namespace: namespace.to_owned(), name: name.to_owned() }
}

pub(crate) fn timestamp(millis: i64) -> Timestamp {
    Timestamp { seconds: millis.div_euclid(1000), nanos: (millis.rem_euclid(1000) * 1_000_000) as i32 }
}

/// Milliseconds of what a client sent, cut where they do not fit.
pub(crate) fn millis(duration: &Duration) -> i64 {
    duration.seconds.saturating_mul(1000).saturating_add(i64::from(duration.nanos) / 1_000_000)
}

/// Milliseconds since 1970, likewise.
pub(crate) fn millis_of(time: &Timestamp) -> i64 {
    time.seconds.saturating_mul(1000).saturating_add(i64::from(time.nanos) / 1_000_000)
}

pub(crate) fn duration(millis: i64) -> Duration {
    Duration { seconds: millis / 1000, nanos: (millis % 1000 * 1_000_000) as i32 }
}

fn upper_hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    ferromq_protocol::id::push_hex(&mut text, bytes);
    text
}
