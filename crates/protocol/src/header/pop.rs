//! Pop consumption: codes 200050-200055. These codes exist with JSON headers only.

use super::headers;
use crate::command::Text;

headers! {
    /// POP_MESSAGE.
    PopMessageHeader<'a> {
        consumer_group: Text<'a> = "consumerGroup",
        topic: Text<'a> = "topic",
        /// Negative: all queues.
        queue_id: i32 = "queueId",
        max_msg_nums: i32 = "maxMsgNums",
        /// Milliseconds.
        invisible_time: i64 = "invisibleTime",
        /// How long the broker may keep an empty pop, milliseconds.
        poll_time: i64 = "pollTime",
        /// Milliseconds since 1970; 0 for now.
        born_time: i64 = "bornTime" or 0,
        /// Where a new group starts: 0 the oldest message, 1 the newest.
        init_mode: i32 = "initMode",
        exp_type: Option<Text<'a>> = "expType",
        exp: Option<Text<'a>> = "exp",
        order: Option<bool> = "order",
        attempt_id: Option<Text<'a>> = "attemptId",
    }

    /// Answer to POP_MESSAGE and PEEK_MESSAGE; the body is records back to back.
    PopMessageResponseHeader<'a> {
        /// Milliseconds since 1970.
        pop_time: i64 = "popTime",
        /// Milliseconds.
        invisible_time: i64 = "invisibleTime",
        revive_qid: i32 = "reviveQid",
        rest_num: i64 = "restNum" or 0,
        start_offset_info: Option<Text<'a>> = "startOffsetInfo",
        msg_offset_info: Option<Text<'a>> = "msgOffsetInfo",
        order_count_info: Option<Text<'a>> = "orderCountInfo",
    }

    /// PEEK_MESSAGE.
    PeekMessageHeader<'a> {
        consumer_group: Text<'a> = "consumerGroup",
        topic: Text<'a> = "topic",
        /// Negative: all queues.
        queue_id: i32 = "queueId",
        max_msg_nums: i32 = "maxMsgNums",
    }

    /// ACK_MESSAGE.
    AckMessageHeader<'a> {
        consumer_group: Text<'a> = "consumerGroup",
        topic: Text<'a> = "topic",
        queue_id: i32 = "queueId",
        extra_info: Text<'a> = "extraInfo",
        offset: i64 = "offset",
        lite_topic: Option<Text<'a>> = "liteTopic",
    }

    /// CHANGE_MESSAGE_INVISIBLETIME.
    ChangeInvisibleTimeHeader<'a> {
        consumer_group: Text<'a> = "consumerGroup",
        topic: Text<'a> = "topic",
        queue_id: i32 = "queueId",
        extra_info: Text<'a> = "extraInfo",
        offset: i64 = "offset",
        /// Milliseconds.
        invisible_time: i64 = "invisibleTime",
        lite_topic: Option<Text<'a>> = "liteTopic",
        suspend: bool = "suspend" or false,
    }

    /// Answer to CHANGE_MESSAGE_INVISIBLETIME.
    ChangeInvisibleTimeResponseHeader {
        /// Milliseconds since 1970.
        pop_time: i64 = "popTime",
        /// Milliseconds.
        invisible_time: i64 = "invisibleTime",
        revive_qid: i32 = "reviveQid",
    }

    /// NOTIFICATION: tell me when a message is there.
    NotificationHeader<'a> {
        consumer_group: Text<'a> = "consumerGroup",
        topic: Text<'a> = "topic",
        queue_id: i32 = "queueId",
        /// Milliseconds.
        poll_time: i64 = "pollTime",
        /// Milliseconds since 1970; 0 for now.
        born_time: i64 = "bornTime" or 0,
        order: Option<bool> = "order",
        attempt_id: Option<Text<'a>> = "attemptId",
        exp_type: Option<Text<'a>> = "expType",
        exp: Option<Text<'a>> = "exp",
    }

    /// Answer to NOTIFICATION.
    NotificationResponseHeader {
        has_msg: bool = "hasMsg",
        polling_full: bool = "pollingFull" or false,
    }

    /// POLLING_INFO.
    PollingInfoHeader<'a> {
        consumer_group: Text<'a> = "consumerGroup",
        topic: Text<'a> = "topic",
        queue_id: i32 = "queueId",
    }

    /// Answer to POLLING_INFO.
    PollingInfoResponseHeader {
        polling_num: i32 = "pollingNum",
    }
}
