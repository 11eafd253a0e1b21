//! Sending: codes 10, 310, 320, 324, 325, 326, 36, 37, 39, 370.

use super::headers;
use crate::command::{FieldError, Fields, Text};
use crate::write::FrameWriter;

/// SEND_MESSAGE and its relatives (`SendMessageRequestHeader`, `SendMessageRequestHeaderV2`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SendHeader<'a> {
    pub producer_group: Text<'a>,
    pub topic: Text<'a>,
    /// The template a missing topic is created from.
    pub default_topic: Text<'a>,
    pub default_topic_queue_nums: i32,
    /// Negative: the broker chooses.
    pub queue_id: i32,
    pub sys_flag: i32,
    /// Milliseconds since 1970.
    pub born_timestamp: i64,
    pub flag: i32,
    /// Message properties as text, see [`crate::properties`].
    pub properties: Text<'a>,
    pub reconsume_times: Option<i32>,
    pub unit_mode: bool,
    pub max_reconsume_times: Option<i32>,
    pub batch: bool,
    pub broker_name: Option<Text<'a>>,
}

/// Names of the fields, in the order of the letters of the short form.
const LONG: [&str; 14] = [
    "producerGroup",
    "topic",
    "defaultTopic",
    "defaultTopicQueueNums",
    "queueId",
    "sysFlag",
    "bornTimestamp",
    "flag",
    "properties",
    "reconsumeTimes",
    "unitMode",
    "maxReconsumeTimes",
    "batch",
    "bname",
];
const SHORT: [&str; 14] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n"];

impl<'a> SendHeader<'a> {
    /// The long names: codes 10 and 324.
    pub fn read_long(fields: &Fields<'a>) -> Result<Self, FieldError> {
        let mut found = [None; 14];
        for (key, value) in fields.iter() {
            if let Some(at) = LONG.iter().position(|name| key.eq_str(name)) {
                found[at] = Some(value);
            }
        }
        Self::from_fields(found, &LONG)
    }

    /// One letter each: codes 310, 320 and 325.
    pub fn read_short(fields: &Fields<'a>) -> Result<Self, FieldError> {
        let mut found = [None; 14];
        for (key, value) in fields.iter() {
            if let Some(letter @ b'a'..=b'n') = key.single_byte() {
                found[usize::from(letter - b'a')] = Some(value);
            }
        }
        Self::from_fields(found, &SHORT)
    }

    fn from_fields(found: [Option<Text<'a>>; 14], names: &[&'static str; 14]) -> Result<Self, FieldError> {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n] = found;
        let text = |value: Option<Text<'a>>, at: usize| value.ok_or(FieldError::Missing { field: names[at] });
        let int = |value: Option<Text<'a>>, at: usize| {
            let value = text(value, at)?;
            value.parse_i32().ok_or_else(|| FieldError::invalid(names[at], "32-bit integer", value))
        };
        let born = text(g, 6)?;
        let is_true = |value: Option<Text<'a>>| value.and_then(|text| text.parse_bool()).unwrap_or(false);
        Ok(SendHeader {
            producer_group: text(a, 0)?,
            topic: text(b, 1)?,
            default_topic: text(c, 2)?,
            default_topic_queue_nums: int(d, 3)?,
            queue_id: int(e, 4)?,
            sys_flag: int(f, 5)?,
            born_timestamp: born.parse_i64().ok_or_else(|| FieldError::invalid(names[6], "64-bit integer", born))?,
            flag: int(h, 7)?,
            properties: i.unwrap_or_default(),
            reconsume_times: j.and_then(|text| text.parse_i32()),
            unit_mode: is_true(k),
            max_reconsume_times: l.and_then(|text| text.parse_i32()),
            batch: is_true(m),
            broker_name: n,
        })
    }

    /// Writes the long names, for codes 10 and 324.
    pub fn write_long(&self, writer: &mut FrameWriter<'_>) {
        self.write(writer, &LONG);
    }

    /// Writes one letter each, for codes 310, 320 and 325.
    pub fn write_short(&self, writer: &mut FrameWriter<'_>) {
        self.write(writer, &SHORT);
    }

    fn write(&self, writer: &mut FrameWriter<'_>, names: &[&str; 14]) {
        writer
            .text(names[0], self.producer_group)
            .text(names[1], self.topic)
            .text(names[2], self.default_topic)
            .i32(names[3], self.default_topic_queue_nums)
            .i32(names[4], self.queue_id)
            .i32(names[5], self.sys_flag)
            .i64(names[6], self.born_timestamp)
            .i32(names[7], self.flag)
            .text(names[8], self.properties);
        if let Some(times) = self.reconsume_times {
            writer.i32(names[9], times);
        }
        writer.bool(names[10], self.unit_mode);
        if let Some(times) = self.max_reconsume_times {
            writer.i32(names[11], times);
        }
        writer.bool(names[12], self.batch);
        if let Some(name) = self.broker_name {
            writer.text(names[13], name);
        }
    }
}

headers! {
    /// Answer to a send (`SendMessageResponseHeader`). MSG_REGION and TRACE_ON stand beside it.
    SendResponseHeader<'a> {
        /// Offset id, or a comma list of them for a batch.
        msg_id: Text<'a> = "msgId",
        queue_id: i32 = "queueId",
        queue_offset: i64 = "queueOffset",
        transaction_id: Option<Text<'a>> = "transactionId",
        batch_uniq_id: Option<Text<'a>> = "batchUniqId",
        recall_handle: Option<Text<'a>> = "recallHandle",
    }

    /// CONSUMER_SEND_MSG_BACK: a consumer could not handle a message.
    ConsumerSendMsgBackHeader<'a> {
        /// Where the message stands in the commit log, bytes.
        offset: i64 = "offset",
        group: Text<'a> = "group",
        /// 0: 3 + reconsume times; negative: straight to the dead letters.
        delay_level: i32 = "delayLevel",
        origin_msg_id: Option<Text<'a>> = "originMsgId",
        origin_topic: Option<Text<'a>> = "originTopic",
        unit_mode: bool = "unitMode" or false,
        max_reconsume_times: Option<i32> = "maxReconsumeTimes",
    }

    /// END_TRANSACTION: a producer decides on its half message.
    EndTransactionHeader<'a> {
        topic: Option<Text<'a>> = "topic",
        producer_group: Text<'a> = "producerGroup",
        tran_state_table_offset: i64 = "tranStateTableOffset",
        commit_log_offset: i64 = "commitLogOffset",
        /// A transaction value of [`crate::sys_flag::message`]; 0 is unknown.
        commit_or_rollback: i32 = "commitOrRollback",
        from_transaction_check: Option<bool> = "fromTransactionCheck",
        msg_id: Text<'a> = "msgId" or Text::default(),
        transaction_id: Option<Text<'a>> = "transactionId",
    }

    /// CHECK_TRANSACTION_STATE: the broker asks a producer.
    CheckTransactionStateHeader<'a> {
        topic: Option<Text<'a>> = "topic",
        tran_state_table_offset: i64 = "tranStateTableOffset",
        commit_log_offset: i64 = "commitLogOffset",
        msg_id: Option<Text<'a>> = "msgId",
        transaction_id: Option<Text<'a>> = "transactionId",
        offset_msg_id: Option<Text<'a>> = "offsetMsgId",
    }

    /// PUSH_REPLY_MESSAGE_TO_CLIENT: the broker hands a reply to the requester (`ReplyMessageRequestHeader`).
    ReplyMessageHeader<'a> {
        producer_group: Text<'a> = "producerGroup",
        topic: Text<'a> = "topic",
        default_topic: Text<'a> = "defaultTopic",
        default_topic_queue_nums: i32 = "defaultTopicQueueNums",
        queue_id: i32 = "queueId",
        sys_flag: i32 = "sysFlag",
        born_timestamp: i64 = "bornTimestamp",
        flag: i32 = "flag",
        properties: Option<Text<'a>> = "properties",
        reconsume_times: Option<i32> = "reconsumeTimes",
        unit_mode: bool = "unitMode" or false,
        born_host: Text<'a> = "bornHost",
        store_host: Text<'a> = "storeHost",
        store_timestamp: i64 = "storeTimestamp",
    }

    /// RECALL_MESSAGE: takes back a timed message.
    RecallMessageHeader<'a> {
        producer_group: Option<Text<'a>> = "producerGroup",
        topic: Text<'a> = "topic",
        recall_handle: Text<'a> = "recallHandle",
    }

    /// Answer to RECALL_MESSAGE.
    RecallMessageResponseHeader<'a> {
        msg_id: Text<'a> = "msgId",
    }
}
