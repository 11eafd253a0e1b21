//! Topics: codes 17, 21, 202, 215, 224, 300, 351.

use super::headers;
use crate::command::Text;

headers! {
    /// UPDATE_AND_CREATE_TOPIC.
    CreateTopicHeader<'a> {
        topic: Text<'a> = "topic",
        default_topic: Text<'a> = "defaultTopic" or Text::default(),
        read_queue_nums: i32 = "readQueueNums",
        write_queue_nums: i32 = "writeQueueNums",
        perm: i32 = "perm",
        /// `SINGLE_TAG` or `MULTI_TAG`.
        topic_filter_type: Text<'a> = "topicFilterType" or Text::plain("SINGLE_TAG"),
        topic_sys_flag: Option<i32> = "topicSysFlag",
        order: bool = "order" or false,
        /// `+key=value,-key`.
        attributes: Option<Text<'a>> = "attributes",
        force: Option<bool> = "force",
    }

    /// DELETE_TOPIC_IN_BROKER, GET_TOPIC_CONFIG, GET_TOPIC_STATS_INFO, QUERY_TOPIC_CONSUME_BY_WHO and others that name
    /// only a topic.
    TopicHeader<'a> {
        topic: Text<'a> = "topic",
    }

    /// GET_ALL_TOPIC_CONFIG. A caller before 5.3 sends none of the fields and wants everything.
    GetAllTopicConfigHeader<'a> {
        topic_seq: Option<i32> = "topicSeq",
        data_version: Option<Text<'a>> = "dataVersion",
        max_topic_num: Option<i32> = "maxTopicNum",
    }

    /// Answer to GET_ALL_TOPIC_CONFIG.
    GetAllTopicConfigResponseHeader {
        total_topic_num: Option<i32> = "totalTopicNum",
    }
}
