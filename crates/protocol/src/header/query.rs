//! Looking for messages: codes 12, 33, 321.

use super::headers;
use crate::command::Text;

headers! {
    /// QUERY_MESSAGE: by key. Field `_UNIQUE_KEY_QUERY` beside it says that the key is the unique id.
    QueryMessageHeader<'a> {
        topic: Text<'a> = "topic",
        key: Text<'a> = "key",
        max_num: i32 = "maxNum",
        /// Milliseconds since 1970.
        begin_timestamp: i64 = "beginTimestamp",
        /// Milliseconds since 1970.
        end_timestamp: i64 = "endTimestamp",
        /// K key, U unique id, T tag.
        index_type: Option<Text<'a>> = "indexType",
        last_key: Option<Text<'a>> = "lastKey",
    }

    /// Answer to QUERY_MESSAGE; the body is records back to back.
    QueryMessageResponseHeader {
        index_last_update_timestamp: i64 = "indexLastUpdateTimestamp",
        index_last_update_phyoffset: i64 = "indexLastUpdatePhyoffset",
    }

    /// VIEW_MESSAGE_BY_ID.
    ViewMessageHeader<'a> {
        topic: Option<Text<'a>> = "topic",
        /// Commit log offset, bytes.
        offset: i64 = "offset",
    }

    /// QUERY_CONSUME_QUEUE.
    QueryConsumeQueueHeader<'a> {
        topic: Text<'a> = "topic",
        queue_id: i32 = "queueId" or 0,
        index: i64 = "index" or 0,
        count: i32 = "count" or 0,
        consumer_group: Option<Text<'a>> = "consumerGroup",
    }
}
