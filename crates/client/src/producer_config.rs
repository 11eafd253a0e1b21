//! Settings of a producer.

use std::time::Duration;

use ferromq_protocol::topic;

use crate::message::MAX_BODY_BYTES;

/// Settings of a [`crate::Producer`], by RocketMQ's names and with its defaults.
#[derive(Clone, Debug)]
pub struct ProducerConfig {
    /// Group, for transactions and for `producerConnection`.
    pub producer_group: String,
    /// Longest time for one send with all its retries.
    pub send_msg_timeout: Duration,
    /// How many more brokers are tried after a failure.
    pub retry_times_when_send_failed: usize,
    /// Whether a message stored without its flush or replica is sent again to another broker.
    pub retry_another_broker_when_not_store_ok: bool,
    /// Largest body, bytes.
    pub max_message_size: usize,
    /// Bodies of more bytes are compressed with zlib, unless that makes them longer.
    pub compress_msg_body_over_howmuch: usize,
    /// Effort of compressing, 0 to 9.
    pub compress_level: u32,
    /// Topic whose settings a new topic takes.
    pub create_topic_key: String,
    /// Queues of a new topic.
    pub default_topic_queue_nums: i32,
}

impl ProducerConfig {
    /// Defaults of RocketMQ 5.5 for a group.
    pub fn new(producer_group: impl Into<String>) -> Self {
        Self {
            producer_group: producer_group.into(),
            send_msg_timeout: Duration::from_millis(3000),
            retry_times_when_send_failed: 2,
            retry_another_broker_when_not_store_ok: false,
            max_message_size: MAX_BODY_BYTES,
            compress_msg_body_over_howmuch: 4096,
            compress_level: 5,
            create_topic_key: topic::AUTO_CREATE_TOPIC_KEY.to_owned(),
            default_topic_queue_nums: 4,
        }
    }
}
