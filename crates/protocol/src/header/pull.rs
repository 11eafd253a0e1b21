//! Pulling: codes 11 and 361.

use super::headers;
use crate::command::Text;

headers! {
    /// PULL_MESSAGE and LITE_PULL_MESSAGE.
    PullHeader<'a> {
        consumer_group: Text<'a> = "consumerGroup",
        topic: Text<'a> = "topic",
        queue_id: i32 = "queueId",
        queue_offset: i64 = "queueOffset",
        max_msg_nums: i32 = "maxMsgNums",
        /// Bits of [`crate::sys_flag::pull`].
        sys_flag: i32 = "sysFlag",
        commit_offset: i64 = "commitOffset",
        /// How long the broker may keep an empty pull, milliseconds.
        suspend_timeout_millis: i64 = "suspendTimeoutMillis",
        subscription: Option<Text<'a>> = "subscription",
        sub_version: i64 = "subVersion",
        expression_type: Option<Text<'a>> = "expressionType",
        max_msg_bytes: Option<i32> = "maxMsgBytes",
        request_source: Option<i32> = "requestSource",
        /// Spelled as RocketMQ spells it.
        proxy_forward_client_id: Option<Text<'a>> = "proxyFrowardClientId",
        lite_topic: Option<Text<'a>> = "liteTopic",
    }

    /// Answer to a pull; the body is records back to back.
    PullResponseHeader {
        suggest_which_broker_id: i64 = "suggestWhichBrokerId",
        next_begin_offset: i64 = "nextBeginOffset",
        min_offset: i64 = "minOffset",
        max_offset: i64 = "maxOffset",
        offset_delta: Option<i64> = "offsetDelta",
        topic_sys_flag: Option<i32> = "topicSysFlag",
        group_sys_flag: Option<i32> = "groupSysFlag",
        /// 1 broker, 2 group, 3 topic, 4 broadcasting, 5 subscription.
        forbidden_type: Option<i32> = "forbiddenType",
    }
}
