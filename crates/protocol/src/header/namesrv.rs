//! The NameServer's requests: codes 100-105, 205, 216, 219, 224, 322, 327, 901, 904.

use super::headers;
use crate::command::Text;

headers! {
    /// PUT_KV_CONFIG.
    PutKvConfigHeader<'a> {
        namespace: Text<'a> = "namespace",
        key: Text<'a> = "key",
        value: Text<'a> = "value",
    }

    /// GET_KV_CONFIG and DELETE_KV_CONFIG.
    KvConfigHeader<'a> {
        namespace: Text<'a> = "namespace",
        key: Text<'a> = "key",
    }

    /// Answer to GET_KV_CONFIG.
    GetKvConfigResponseHeader<'a> {
        value: Option<Text<'a>> = "value",
    }

    /// GET_KVLIST_BY_NAMESPACE.
    GetKvListByNamespaceHeader<'a> {
        namespace: Text<'a> = "namespace",
    }

    /// REGISTER_BROKER; the body is a `RegisterBrokerBody`.
    RegisterBrokerHeader<'a> {
        broker_name: Text<'a> = "brokerName",
        broker_addr: Text<'a> = "brokerAddr",
        cluster_name: Text<'a> = "clusterName",
        ha_server_addr: Text<'a> = "haServerAddr",
        broker_id: i64 = "brokerId",
        heartbeat_timeout_millis: Option<i64> = "heartbeatTimeoutMillis",
        enable_acting_master: Option<bool> = "enableActingMaster",
        compressed: bool = "compressed" or false,
        /// [`crate::java::crc32`] of the body; 0 skips the check.
        body_crc32: i32 = "bodyCrc32" or 0,
    }

    /// Answer to REGISTER_BROKER.
    RegisterBrokerResponseHeader<'a> {
        ha_server_addr: Option<Text<'a>> = "haServerAddr",
        master_addr: Option<Text<'a>> = "masterAddr",
    }

    /// UNREGISTER_BROKER, and QUERY_DATA_VERSION with a `DataVersion` as its body.
    UnregisterBrokerHeader<'a> {
        broker_name: Text<'a> = "brokerName",
        broker_addr: Text<'a> = "brokerAddr",
        cluster_name: Text<'a> = "clusterName",
        broker_id: i64 = "brokerId",
    }

    /// Answer to QUERY_DATA_VERSION.
    QueryDataVersionResponseHeader {
        changed: bool = "changed",
    }

    /// GET_ROUTEINFO_BY_TOPIC.
    GetRouteInfoHeader<'a> {
        topic: Text<'a> = "topic",
        accept_standard_json_only: Option<bool> = "acceptStandardJsonOnly",
    }

    /// WIPE_WRITE_PERM_OF_BROKER and ADD_WRITE_PERM_OF_BROKER.
    WritePermOfBrokerHeader<'a> {
        broker_name: Text<'a> = "brokerName",
    }

    /// Answer to WIPE_WRITE_PERM_OF_BROKER.
    WipeWritePermOfBrokerResponseHeader {
        wipe_topic_count: i32 = "wipeTopicCount",
    }

    /// Answer to ADD_WRITE_PERM_OF_BROKER.
    AddWritePermOfBrokerResponseHeader {
        add_topic_count: i32 = "addTopicCount",
    }

    /// DELETE_TOPIC_IN_NAMESRV.
    DeleteTopicFromNamesrvHeader<'a> {
        topic: Text<'a> = "topic",
        cluster_name: Option<Text<'a>> = "clusterName",
    }

    /// GET_TOPICS_BY_CLUSTER.
    GetTopicsByClusterHeader<'a> {
        cluster: Text<'a> = "cluster",
    }

    /// GET_BROKER_MEMBER_GROUP.
    GetBrokerMemberGroupHeader<'a> {
        cluster_name: Text<'a> = "clusterName",
        broker_name: Text<'a> = "brokerName",
    }

    /// BROKER_HEARTBEAT.
    BrokerHeartbeatHeader<'a> {
        cluster_name: Text<'a> = "clusterName",
        broker_addr: Text<'a> = "brokerAddr",
        broker_name: Text<'a> = "brokerName",
        broker_id: Option<i64> = "brokerId",
        epoch: Option<i32> = "epoch",
        max_offset: Option<i64> = "maxOffset",
        confirm_offset: Option<i64> = "confirmOffset",
        heartbeat_timeout_mills: Option<i64> = "heartbeatTimeoutMills",
        election_priority: Option<i32> = "electionPriority",
    }
}
