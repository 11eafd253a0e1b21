//! Messages as a program writes and reads them.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use ferromq_protocol::properties::{self, names};
use ferromq_protocol::topic;

use crate::error::{Error, Result};

/// Largest body accepted by default, bytes (`maxMessageSize`).
pub const MAX_BODY_BYTES: usize = 4 * 1024 * 1024;

/// Property names a program may not set (RocketMQ's `MessageConst.STRING_HASH_SET`): the client or the broker sets them.
const RESERVED: &[&str] = &[
    names::TRANSACTION_PREPARED,
    names::KEYS,
    names::TAGS,
    names::WAIT_STORE_MSG_OK,
    names::DELAY_TIME_LEVEL,
    names::RETRY_TOPIC,
    names::REAL_TOPIC,
    names::REAL_QUEUE_ID,
    names::PRODUCER_GROUP,
    names::MIN_OFFSET,
    names::MAX_OFFSET,
    names::BUYER_ID,
    names::ORIGIN_MESSAGE_ID,
    names::TRANSFER_FLAG,
    names::CORRECTION_FLAG,
    names::MQ2_FLAG,
    names::RECONSUME_TIME,
    names::MSG_REGION,
    names::TRACE_SWITCH,
    names::UNIQ_CLIENT_MESSAGE_ID_KEYIDX,
    names::EXTEND_UNIQ_INFO,
    names::MAX_RECONSUME_TIMES,
    names::CONSUME_START_TIMESTAMP,
    names::INSTANCE_ID,
];

/// A message to send.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    topic: String,
    body: Vec<u8>,
    flag: i32,
    properties: BTreeMap<String, String>,
}

impl Message {
    /// A message of `topic` with `body`, 1 byte to 4 MiB.
    pub fn new(topic: impl Into<String>, body: impl Into<Vec<u8>>) -> Self {
        Self { topic: topic.into(), body: body.into(), ..Self::default() }
    }

    /// Sets the tag that subscriptions filter by.
    pub fn tag(self, tag: impl Into<String>) -> Self {
        self.with(names::TAGS, tag)
    }

    /// Sets the keys that the message can be looked up by.
    pub fn keys<K: AsRef<str>>(self, keys: impl IntoIterator<Item = K>) -> Self {
        let keys: Vec<String> = keys.into_iter().map(|k| k.as_ref().to_owned()).collect();
        self.with(names::KEYS, keys.join(" "))
    }

    /// Sets a property of the program's own. Refused when it is sent: RocketMQ's names, empty names and values, and the
    /// characters U+0001 and U+0002.
    pub fn property(self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let name = name.into();
        // A reserved name is marked so that `check` finds it and the system property stays as it is.
        let name = if RESERVED.contains(&name.as_str()) { format!("{name}\u{1}") } else { name };
        self.with(name, value)
    }

    /// Delivers after one of the broker's delay levels, 1 to 18 (1 s to 2 h by default).
    pub fn delay_level(self, level: u8) -> Self {
        self.with(names::DELAY_TIME_LEVEL, level.to_string())
    }

    /// Whether the acknowledgement waits for flush and replicas as the broker is configured; the default is to wait.
    pub fn wait_store_ok(self, wait: bool) -> Self {
        self.with(names::WAIT_STORE_MSG_OK, wait.to_string())
    }

    /// Sets the 32 bits that RocketMQ carries without a meaning.
    pub fn flag(mut self, flag: i32) -> Self {
        self.flag = flag;
        self
    }

    fn with(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.properties.insert(name.into(), value.into());
        self
    }

    /// Its topic.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Its body.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The 32 bits of [`Self::flag`].
    pub(crate) fn flag_bits(&self) -> i32 {
        self.flag
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.properties.get(name).map(String::as_str)
    }

    /// What RocketMQ's `Validators.checkMessage` refuses, and what would not survive the way.
    pub(crate) fn check(&self, max_body: usize) -> Result<()> {
        topic::validate_topic(&self.topic).map_err(|e| Error::Illegal(e.to_string()))?;
        if topic::is_not_allowed_send_topic(&self.topic) {
            return Err(Error::Illegal(format!("sending to the system topic {} is forbidden", self.topic)));
        }
        if self.body.is_empty() || self.body.len() > max_body {
            let len = self.body.len();
            return Err(Error::Illegal(format!("the body has {len} bytes, it must have 1 to {max_body}")));
        }
        for (name, value) in &self.properties {
            if name.is_empty() || value.is_empty() || !properties::is_clean(name) || !properties::is_clean(value) {
                return Err(Error::Illegal(format!(
                    "the property {name:?} is reserved, empty, or contains a separator (U+0001, U+0002)"
                )));
            }
        }
        Ok(())
    }

    /// The properties as they are sent, with `unique_id` as UNIQ_KEY.
    pub(crate) fn property_text(&self, unique_id: &str) -> Result<String> {
        let mut text = Vec::new();
        for (name, value) in &self.properties {
            properties::push(&mut text, name, value);
        }
        properties::push(&mut text, names::UNIQ_CLIENT_MESSAGE_ID_KEYIDX, unique_id);
        if text.len() > properties::MAX_PROPERTIES_BYTES {
            let max = properties::MAX_PROPERTIES_BYTES;
            return Err(Error::Illegal(format!("the properties have {} bytes, at most {max} are stored", text.len())));
        }
        String::from_utf8(text).map_err(|e| Error::Illegal(e.to_string()))
    }
}

/// One queue of a topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageQueue {
    /// Topic.
    pub topic: String,
    /// Broker group that holds it.
    pub broker_name: String,
    /// Number, from 0.
    pub queue_id: i32,
}

impl std::fmt::Display for MessageQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}:{}", self.topic, self.broker_name, self.queue_id)
    }
}

/// A stored message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceivedMessage {
    /// Where it lies.
    pub queue: MessageQueue,
    /// Its position in the queue.
    pub queue_offset: i64,
    /// Its position in the broker's commit log, bytes.
    pub commit_log_offset: i64,
    /// Bytes of the stored record.
    pub store_size: u32,
    /// The body, decompressed if it was compressed with zlib.
    pub body: Vec<u8>,
    /// All properties, the system's included.
    pub properties: BTreeMap<String, String>,
    /// The 32 bits that RocketMQ carries without a meaning.
    pub flag: i32,
    /// `MessageSysFlag` bits; the bit 1 is left only when the body is still compressed (LZ4, ZSTD).
    pub sys_flag: i32,
    /// When the producer made it, milliseconds since 1970 UTC.
    pub born_timestamp: i64,
    /// Where the producer was.
    pub born_host: SocketAddr,
    /// When the broker stored it, milliseconds since 1970 UTC.
    pub store_timestamp: i64,
    /// The broker that stored it.
    pub store_host: SocketAddr,
    /// How often it has been delivered and refused.
    pub reconsume_times: i32,
    /// The id that says where it is stored.
    pub offset_message_id: String,
}

impl ReceivedMessage {
    /// Its topic; of a retried message the topic it was sent to.
    pub fn topic(&self) -> &str {
        &self.queue.topic
    }

    /// The id the producer gave it, else the offset id.
    pub fn message_id(&self) -> &str {
        self.property(names::UNIQ_CLIENT_MESSAGE_ID_KEYIDX).unwrap_or(&self.offset_message_id)
    }

    /// Its tag.
    pub fn tag(&self) -> Option<&str> {
        self.property(names::TAGS)
    }

    /// Its keys.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.property(names::KEYS).unwrap_or_default().split(' ').filter(|k| !k.is_empty())
    }

    /// A property.
    pub fn property(&self, name: &str) -> Option<&str> {
        self.properties.get(name).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn property_text() {
        let message = Message::new("t", "b").tag("a").keys(["k1", "k2"]).property("mine", "ü").delay_level(3);
        message.check(10).unwrap();
        let text = message.property_text("ID").unwrap();
        assert_eq!(text, "DELAY\u{1}3\u{2}KEYS\u{1}k1 k2\u{2}TAGS\u{1}a\u{2}mine\u{1}ü\u{2}UNIQ_KEY\u{1}ID\u{2}");
    }

    #[test]
    fn what_is_refused() {
        let fine = || Message::new("t", "b");
        assert!(fine().check(1).is_ok());
        for bad in [
            Message::new("", "b"),
            Message::new("../x", "b"),
            Message::new("SCHEDULE_TOPIC_XXXX", "b"),
            Message::new("t", ""),
            Message::new("t", "bb"),
            fine().property("TAGS", "a"),
            fine().property("", "a"),
            fine().property("a", ""),
            fine().property("a\u{2}", "b"),
            fine().tag("\u{1}"),
        ] {
            assert!(matches!(bad.check(1), Err(Error::Illegal(_))), "{bad:?}");
        }
        assert!(fine().property("long", "x".repeat(32_767)).property_text("ID").is_err());
    }
}
