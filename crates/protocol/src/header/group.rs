//! Subscription groups: codes 201, 207, 208, 303, 308, 314, 317, 343, 345, 352, 353.

use super::headers;
use crate::command::Text;

headers! {
    /// GET_ALL_SUBSCRIPTIONGROUP_CONFIG. A caller before 5.3 sends none of the fields and wants everything.
    GetAllSubscriptionGroupHeader<'a> {
        group_seq: Option<i32> = "groupSeq",
        data_version: Option<Text<'a>> = "dataVersion",
        max_group_num: Option<i32> = "maxGroupNum",
    }

    /// Answer to GET_ALL_SUBSCRIPTIONGROUP_CONFIG.
    GetAllSubscriptionGroupResponseHeader {
        total_group_num: Option<i32> = "totalGroupNum",
    }

    /// DELETE_SUBSCRIPTIONGROUP.
    DeleteSubscriptionGroupHeader<'a> {
        group_name: Text<'a> = "groupName",
        clean_offset: bool = "cleanOffset" or false,
    }

    /// GET_SUBSCRIPTIONGROUP_CONFIG and QUERY_TOPICS_BY_CONSUMER.
    GroupHeader<'a> {
        group: Text<'a> = "group",
    }

    /// GET_CONSUME_STATS. Without `topic` all topics of the group, or those of `topicList`.
    GetConsumeStatsHeader<'a> {
        consumer_group: Text<'a> = "consumerGroup",
        topic: Option<Text<'a>> = "topic",
        /// Names separated by semicolons.
        topic_list: Option<Text<'a>> = "topicList",
        /// Asks for [`QueueLag`](crate::body::QueueLag), too; RocketMQ's broker does not know it.
        lag: bool = "lag" or false,
    }

    /// QUERY_CONSUME_TIME_SPAN.
    QueryConsumeTimeSpanHeader<'a> {
        topic: Text<'a> = "topic",
        group: Text<'a> = "group",
    }

    /// QUERY_CORRECTION_OFFSET.
    QueryCorrectionOffsetHeader<'a> {
        filter_groups: Option<Text<'a>> = "filterGroups",
        compare_group: Text<'a> = "compareGroup",
        topic: Text<'a> = "topic",
    }

    /// CLONE_GROUP_OFFSET.
    CloneGroupOffsetHeader<'a> {
        src_group: Text<'a> = "srcGroup",
        dest_group: Text<'a> = "destGroup",
        topic: Option<Text<'a>> = "topic",
        offline: bool = "offline" or false,
    }

    /// GET_BROKER_CONSUME_STATS.
    GetConsumeStatsInBrokerHeader {
        is_order: bool = "isOrder" or false,
    }

    /// QUERY_SUBSCRIPTION_BY_CONSUMER.
    QuerySubscriptionByConsumerHeader<'a> {
        group: Text<'a> = "group",
        topic: Option<Text<'a>> = "topic",
    }

    /// UPDATE_AND_GET_GROUP_FORBIDDEN.
    UpdateGroupForbiddenHeader<'a> {
        group: Text<'a> = "group",
        topic: Text<'a> = "topic",
        readable: Option<bool> = "readable",
    }
}
