//! Offsets of queues and consumers: codes 14, 15, 29, 30, 31, 32.

use super::headers;
use crate::command::Text;

headers! {
    /// QUERY_CONSUMER_OFFSET.
    QueryConsumerOffsetHeader<'a> {
        consumer_group: Text<'a> = "consumerGroup",
        topic: Text<'a> = "topic",
        queue_id: i32 = "queueId",
        set_zero_if_not_found: Option<bool> = "setZeroIfNotFound",
    }

    /// UPDATE_CONSUMER_OFFSET.
    UpdateConsumerOffsetHeader<'a> {
        consumer_group: Text<'a> = "consumerGroup",
        topic: Text<'a> = "topic",
        queue_id: i32 = "queueId",
        commit_offset: i64 = "commitOffset",
    }

    /// SEARCH_OFFSET_BY_TIMESTAMP.
    SearchOffsetHeader<'a> {
        topic: Text<'a> = "topic",
        queue_id: i32 = "queueId",
        /// Milliseconds since 1970.
        timestamp: i64 = "timestamp",
        /// `lower` or `upper`.
        boundary_type: Option<Text<'a>> = "boundaryType",
        lite_topic: Option<Text<'a>> = "liteTopic",
    }

    /// GET_MAX_OFFSET.
    GetMaxOffsetHeader<'a> {
        topic: Text<'a> = "topic",
        queue_id: i32 = "queueId",
        committed: Option<bool> = "committed",
    }

    /// GET_MIN_OFFSET.
    GetMinOffsetHeader<'a> {
        topic: Text<'a> = "topic",
        queue_id: i32 = "queueId",
    }

    /// GET_EARLIEST_MSG_STORETIME.
    GetEarliestMsgStoretimeHeader<'a> {
        topic: Text<'a> = "topic",
        queue_id: i32 = "queueId",
    }

    /// Answer to every code here that asks for an offset.
    OffsetResponseHeader {
        offset: i64 = "offset",
    }

    /// Answer to GET_EARLIEST_MSG_STORETIME.
    GetEarliestMsgStoretimeResponseHeader {
        /// Milliseconds since 1970.
        timestamp: i64 = "timestamp",
    }
}
