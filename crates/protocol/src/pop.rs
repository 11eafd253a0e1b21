//! What pop consumption writes as text: receipt handles, the offset lists of an answer, and the JSON bodies of the records
//! in the revive topic (RocketMQ 5.5 `ExtraInfoUtil`, `PopCheckPoint`, `AckMsg`, `BatchAckMsg`, `KeyBuilder`).
//!
//! Pure text in and out. Which messages are invisible, and until when, is the broker's business.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::topic;

/// Revive queue that a handle of an ordered pop names; there is no such queue.
pub const ORDER_REVIVE_QUEUE: i32 = 999;
/// Tag of a check point in the revive topic: messages that were handed out.
pub const CHECK_POINT_TAG: &str = "ck";
/// Tag of the acknowledgement of one message.
pub const ACK_TAG: &str = "ack";
/// Tag of the acknowledgement of several messages of one check point.
pub const BATCH_ACK_TAG: &str = "bAck";
/// Tag of an ordered pop. RocketMQ keeps it in a file only and passes by what it does not know.
pub const ORDER_POP_TAG: &str = "orderPop";
/// Tag of the acknowledgement of one message of an ordered pop; its start offset is where the group stands now.
pub const ORDER_ACK_TAG: &str = "orderAck";
/// The group whose offsets say how far the revive topic has been worked off.
pub const REVIVE_GROUP: &str = "CID_RMQ_SYS_REVIVE_GROUP";
/// What the name of the revive topic begins with; the cluster's name follows.
pub const REVIVE_TOPIC_PREFIX: &str = "rmq_sys_REVIVE_LOG_";
/// Most messages one check point stands for: its acknowledgements are bits of a 32-bit number.
pub const MAX_MESSAGES: usize = 32;

/// Fields of a handle that every request about it needs.
const MIN_HANDLE_FIELDS: usize = 6;

/// The topic that holds check points and acknowledgements.
pub fn revive_topic(cluster: &str) -> String {
    format!("{REVIVE_TOPIC_PREFIX}{cluster}")
}

/// Where the messages of an answer or handle come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// The topic itself.
    #[default]
    Topic,
    /// `%RETRY%group_topic`.
    RetryV1,
    /// `%RETRY%group+topic`.
    RetryV2,
}

impl Origin {
    /// The digit that handles and offset lists use.
    pub fn digit(self) -> char {
        match self {
            Origin::Topic => '0',
            Origin::RetryV1 => '1',
            Origin::RetryV2 => '2',
        }
    }

    /// The origin a digit stands for.
    pub fn of_digit(text: &str) -> Option<Self> {
        match text {
            "0" => Some(Origin::Topic),
            "1" => Some(Origin::RetryV1),
            "2" => Some(Origin::RetryV2),
            _ => None,
        }
    }

    /// The topic whose queue holds the messages.
    pub fn real_topic(self, topic: &str, group: &str) -> String {
        match self {
            Origin::Topic => topic.to_owned(),
            Origin::RetryV1 => format!("{}{group}_{topic}", topic::RETRY_PREFIX),
            Origin::RetryV2 => format!("{}{group}+{topic}", topic::RETRY_PREFIX),
        }
    }

    /// The origin that a topic's name tells.
    pub fn of_topic(topic: &str) -> Self {
        match topic.strip_prefix(topic::RETRY_PREFIX) {
            None => Origin::Topic,
            Some(rest) if rest.contains('+') => Origin::RetryV2,
            Some(_) => Origin::RetryV1,
        }
    }
}

/// The topic that consumers subscribe to, from the name of one of its retry topics or itself.
pub fn normal_topic<'a>(topic: &'a str, group: &str) -> &'a str {
    let rest = topic.strip_prefix(topic::RETRY_PREFIX).and_then(|rest| rest.strip_prefix(group));
    rest.and_then(|rest| rest.strip_prefix(['_', '+'])).unwrap_or(topic)
}

/// A receipt handle: `startOffset popTime invisibleTime reviveQid origin brokerName queueId queueOffset`. The last two
/// are missing in handles of old clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiptHandle<'a> {
    /// First queue offset of the pop that handed the message out.
    pub start_offset: i64,
    /// When that was, milliseconds since 1970.
    pub pop_time: i64,
    /// Milliseconds.
    pub invisible_time: i64,
    pub revive_queue: i32,
    pub origin: Origin,
    pub broker_name: &'a str,
    pub queue_id: Option<i32>,
    pub queue_offset: Option<i64>,
}

impl<'a> ReceiptHandle<'a> {
    /// Reads a handle, or `None` when it is none.
    pub fn parse(text: &'a str) -> Option<Self> {
        let fields: smallvec::SmallVec<[&str; 10]> = text.split(' ').take(10).collect();
        if fields.len() < MIN_HANDLE_FIELDS {
            return None;
        }
        let optional = |at: usize| fields.get(at).filter(|text| !text.is_empty());
        Some(Self {
            start_offset: fields[0].parse().ok()?,
            pop_time: fields[1].parse().ok()?,
            invisible_time: fields[2].parse().ok()?,
            revive_queue: fields[3].parse().ok()?,
            origin: Origin::of_digit(fields[4])?,
            broker_name: fields[5],
            queue_id: optional(6).map(|text| text.parse()).transpose().ok()?,
            queue_offset: optional(7).map(|text| text.parse()).transpose().ok()?,
        })
    }
}

impl std::fmt::Display for ReceiptHandle<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { start_offset, pop_time, invisible_time, revive_queue, origin, broker_name, .. } = self;
        write!(f, "{start_offset} {pop_time} {invisible_time} {revive_queue} {} {broker_name}", origin.digit())?;
        if let Some(queue_id) = self.queue_id {
            write!(f, " {queue_id}")?;
        }
        if let Some(queue_offset) = self.queue_offset {
            write!(f, " {queue_offset}")?;
        }
        Ok(())
    }
}

/// Begins the part of one queue in `startOffsetInfo`, `msgOffsetInfo` or `orderCountInfo`: `origin key value`, parts
/// joined by semicolons. The caller appends the value.
pub fn begin_part(out: &mut String, origin: Origin, key: std::fmt::Arguments<'_>) {
    if !out.is_empty() {
        out.push(';');
    }
    out.push(origin.digit());
    // Writing to a string cannot fail.
    let _ = write!(out, " {key} ");
}

/// Appends numbers joined by commas.
pub fn push_offsets(out: &mut String, offsets: &[i64]) {
    for (n, offset) in offsets.iter().enumerate() {
        if n > 0 {
            out.push(',');
        }
        let _ = write!(out, "{offset}");
    }
}

/// Messages of one queue that were handed out together. Members have one-letter names because one is stored per pop.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PopCheckPoint<S = String> {
    #[serde(rename = "bm")]
    pub bit_map: i32,
    #[serde(rename = "bn")]
    pub broker_name: S,
    #[serde(rename = "c")]
    pub group: S,
    /// Distance of each message from `start_offset`; without it they follow each other.
    #[serde(rename = "d", skip_serializing_if = "Option::is_none")]
    pub diffs: Option<Vec<i32>>,
    /// Milliseconds.
    #[serde(rename = "it")]
    pub invisible_time: i64,
    /// Number of messages.
    #[serde(rename = "n")]
    pub count: i8,
    /// Milliseconds since 1970.
    #[serde(rename = "pt")]
    pub pop_time: i64,
    #[serde(rename = "q")]
    pub queue_id: i32,
    #[serde(rename = "ro")]
    pub revive_offset: i64,
    #[serde(rename = "so")]
    pub start_offset: i64,
    #[serde(rename = "t")]
    pub topic: S,
}

/// The acknowledgement of one message, or with `offsets` of several.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AckMsg<S = String> {
    /// -1 when `offsets` says it.
    #[serde(rename = "ao", alias = "ackOffset")]
    pub ack_offset: i64,
    #[serde(rename = "aol", alias = "ackOffsetList", skip_serializing_if = "Vec::is_empty")]
    pub offsets: Vec<i64>,
    #[serde(rename = "bn", alias = "brokerName")]
    pub broker_name: S,
    #[serde(rename = "c", alias = "consumerGroup")]
    pub group: S,
    /// Milliseconds since 1970.
    #[serde(rename = "pt", alias = "popTime")]
    pub pop_time: i64,
    #[serde(rename = "q", alias = "queueId")]
    pub queue_id: i32,
    #[serde(rename = "so", alias = "startOffset")]
    pub start_offset: i64,
    #[serde(rename = "t", alias = "topic")]
    pub topic: S,
}

/// Appends the JSON of a check point or acknowledgement.
pub fn push_json<T: Serialize>(out: &mut Vec<u8>, value: &T) {
    // Numbers, texts and lists of numbers: nothing that JSON cannot say.
    let _ = serde_json::to_writer(out, value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_are_read_back_and_wrong_ones_refused() {
        let text = "12 1700000000000 60000 3 1 broker-a 2 15";
        let handle = ReceiptHandle::parse(text).unwrap();
        assert_eq!((handle.start_offset, handle.pop_time, handle.origin), (12, 1_700_000_000_000, Origin::RetryV1));
        assert_eq!((handle.queue_id, handle.queue_offset), (Some(2), Some(15)));
        assert_eq!(handle.to_string(), text);
        // A proxy adds the position in the log.
        assert_eq!(ReceiptHandle::parse(&format!("{text} 4711")).unwrap(), handle);
        assert_eq!(ReceiptHandle::parse("1 2 3 4 0 b").unwrap().queue_offset, None);
        for wrong in ["", "1 2 3 4 0", "a 2 3 4 0 b", "1 2 3 4 9 b", "1 2 3 99999999999 0 b", "1 2 3 4 0 b x"] {
            assert_eq!(ReceiptHandle::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn retry_topics_are_told_from_their_topic() {
        for (origin, name) in
            [(Origin::Topic, "T_1"), (Origin::RetryV1, "%RETRY%G_T_1"), (Origin::RetryV2, "%RETRY%G+T_1")]
        {
            assert_eq!(origin.real_topic("T_1", "G"), name);
            assert_eq!((normal_topic(name, "G"), Origin::of_topic(name)), ("T_1", origin));
            assert_eq!(Origin::of_digit(&origin.digit().to_string()), Some(origin));
        }
        assert_eq!(normal_topic("%RETRY%H_T", "G"), "%RETRY%H_T");
    }

    #[test]
    fn offset_lists_have_the_shape_clients_parse() {
        let mut text = String::new();
        begin_part(&mut text, Origin::Topic, format_args!("{}", 3));
        push_offsets(&mut text, &[7, 8, 10]);
        begin_part(&mut text, Origin::RetryV1, format_args!("qo{}%{}", 0, 5));
        text.push('2');
        assert_eq!(text, "0 3 7,8,10;1 qo0%5 2");
    }

    #[test]
    fn records_are_what_fastjson_writes() {
        let written = r#"{"bm":0,"bn":"b","c":"G","d":[0,2],"it":60000,"n":2,"pt":9,"q":1,"ro":0,"so":5,"t":"T"}"#;
        let ck: PopCheckPoint = crate::json::from_slice(written.as_bytes()).unwrap();
        assert_eq!((ck.diffs.as_deref(), ck.count, ck.start_offset), (Some(&[0, 2][..]), 2, 5));
        let mut out = Vec::new();
        push_json(&mut out, &ck);
        assert_eq!(String::from_utf8(out).unwrap(), written);
        let long = r#"{"ackOffset":4,"consumerGroup":"G","topic":"T","popTime":9,"startOffset":3,"queueId":1}"#;
        let ack: AckMsg = crate::json::from_slice(long.as_bytes()).unwrap();
        assert_eq!((ack.ack_offset, ack.group.as_str(), ack.start_offset), (4, "G", 3));
        let mut out = Vec::new();
        push_json(&mut out, &AckMsg { ack_offset: -1, offsets: vec![3, 4], topic: "T", ..AckMsg::default() });
        assert_eq!(
            String::from_utf8(out).unwrap(),
            r#"{"ao":-1,"aol":[3,4],"bn":"","c":"","pt":0,"q":0,"so":0,"t":"T"}"#
        );
    }
}
