//! Clients and their groups: codes 35, 38, 40, 203, 204, 220-223, 307, 309.

use super::headers;
use crate::command::Text;

headers! {
    /// UNREGISTER_CLIENT.
    UnregisterClientHeader<'a> {
        client_id: Text<'a> = "clientID",
        producer_group: Option<Text<'a>> = "producerGroup",
        consumer_group: Option<Text<'a>> = "consumerGroup",
    }

    /// GET_CONSUMER_LIST_BY_GROUP.
    GetConsumerListByGroupHeader<'a> {
        consumer_group: Text<'a> = "consumerGroup",
    }

    /// NOTIFY_CONSUMER_IDS_CHANGED, broker to consumers.
    NotifyConsumerIdsChangedHeader<'a> {
        consumer_group: Text<'a> = "consumerGroup",
    }

    /// GET_CONSUMER_CONNECTION_LIST.
    GetConsumerConnectionListHeader<'a> {
        consumer_group: Text<'a> = "consumerGroup",
    }

    /// GET_PRODUCER_CONNECTION_LIST.
    GetProducerConnectionListHeader<'a> {
        producer_group: Text<'a> = "producerGroup",
    }

    /// INVOKE_BROKER_TO_RESET_OFFSET, and RESET_CONSUMER_CLIENT_OFFSET from the broker to its consumers.
    ResetOffsetHeader<'a> {
        group: Text<'a> = "group",
        topic: Text<'a> = "topic",
        /// Negative: all queues.
        queue_id: i32 = "queueId" or -1,
        /// Takes the place of `timestamp` when it is there and not negative.
        offset: Option<i64> = "offset",
        /// Milliseconds since 1970; -1 is the end.
        timestamp: i64 = "timestamp",
        is_force: bool = "isForce",
    }

    /// GET_CONSUMER_STATUS_FROM_CLIENT and INVOKE_BROKER_TO_GET_CONSUMER_STATUS.
    GetConsumerStatusHeader<'a> {
        topic: Text<'a> = "topic",
        group: Text<'a> = "group",
        client_addr: Option<Text<'a>> = "clientAddr",
    }

    /// GET_CONSUMER_RUNNING_INFO, from a tool and on to the client.
    GetConsumerRunningInfoHeader<'a> {
        consumer_group: Text<'a> = "consumerGroup",
        client_id: Text<'a> = "clientId",
        jstack_enable: bool = "jstackEnable" or false,
    }

    /// CONSUME_MESSAGE_DIRECTLY, from a tool and on to the client.
    ConsumeMessageDirectlyHeader<'a> {
        consumer_group: Text<'a> = "consumerGroup",
        client_id: Option<Text<'a>> = "clientId",
        msg_id: Option<Text<'a>> = "msgId",
        broker_name: Option<Text<'a>> = "brokerName",
        topic: Option<Text<'a>> = "topic",
        topic_sys_flag: Option<i32> = "topicSysFlag",
        group_sys_flag: Option<i32> = "groupSysFlag",
    }
}
