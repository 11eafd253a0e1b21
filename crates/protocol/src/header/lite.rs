//! Lite topics (RocketMQ 5.5): codes 200070 and 200073-200079. These codes exist with JSON headers only; 200071 has a body
//! and no header, acknowledgements are those of `pop.rs` with a `liteTopic`.

use super::headers;
use crate::command::Text;

headers! {
    /// POP_LITE_MESSAGE: messages of the lite topics that the client subscribes to.
    PopLiteMessageHeader<'a> {
        client_id: Text<'a> = "clientId",
        consumer_group: Text<'a> = "consumerGroup",
        /// The parent topic.
        topic: Text<'a> = "topic",
        max_msg_num: i32 = "maxMsgNum",
        /// Milliseconds.
        invisible_time: i64 = "invisibleTime",
        /// How long the broker may keep an empty pop, milliseconds.
        poll_time: i64 = "pollTime",
        /// Milliseconds since 1970; 0 for now.
        born_time: i64 = "bornTime" or 0,
        attempt_id: Option<Text<'a>> = "attemptId",
    }

    /// Answer to POP_LITE_MESSAGE; the body is records back to back.
    PopLiteMessageResponseHeader<'a> {
        /// Milliseconds since 1970.
        pop_time: i64 = "popTime",
        /// Milliseconds.
        invisible_time: i64 = "invisibleTime",
        revive_qid: i32 = "reviveQid",
        /// How often each message was handed out before, in the order of the body, joined by semicolons.
        order_count_info: Option<Text<'a>> = "orderCountInfo",
    }

    /// NOTIFY_UNSUBSCRIBE_LITE: the broker took a lite topic off a client.
    NotifyUnsubscribeLiteHeader<'a> {
        lite_topic: Text<'a> = "liteTopic",
        consumer_group: Text<'a> = "consumerGroup",
        client_id: Text<'a> = "clientId",
    }

    /// GET_LITE_TOPIC_INFO.
    GetLiteTopicInfoHeader<'a> {
        parent_topic: Text<'a> = "parentTopic",
        lite_topic: Text<'a> = "liteTopic",
    }

    /// GET_LITE_CLIENT_INFO.
    GetLiteClientInfoHeader<'a> {
        parent_topic: Text<'a> = "parentTopic",
        group: Text<'a> = "group",
        client_id: Text<'a> = "clientId",
        /// Most lite topics in the answer.
        max_count: i32 = "maxCount" or 1000,
    }

    /// GET_LITE_GROUP_INFO, of one lite topic or of all.
    GetLiteGroupInfoHeader<'a> {
        group: Text<'a> = "group",
        lite_topic: Option<Text<'a>> = "liteTopic",
        /// Length of the two lists in the answer.
        top_k: i32 = "topK" or 0,
    }

    /// TRIGGER_LITE_DISPATCH, for one client or for all of the group.
    TriggerLiteDispatchHeader<'a> {
        group: Text<'a> = "group",
        client_id: Option<Text<'a>> = "clientId",
    }
}
