//! The JSON dialect: texts as RocketMQ 5.5's and 4.9's fastjson write and read them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use ferromq_protocol::body::*;
use ferromq_protocol::json::{from_slice, is_document, to_vec_fastjson1, to_vec_standard};
use serde::Serialize;
use serde::de::DeserializeOwned;

fn standard(value: &impl Serialize) -> String {
    String::from_utf8(to_vec_standard(value).unwrap()).unwrap()
}

fn fastjson1(value: &impl Serialize) -> String {
    String::from_utf8(to_vec_fastjson1(value).unwrap()).unwrap()
}

fn read<T: DeserializeOwned>(text: &str) -> T {
    from_slice(text.as_bytes()).unwrap_or_else(|e| panic!("{e}: {text}"))
}

fn queue(topic: &str, broker: &str, id: i32) -> MessageQueue {
    MessageQueue { broker_name: broker.into(), queue_id: id, topic: topic.into() }
}

#[test]
fn a_document_is_whole_whatever_is_in_it() {
    for whole in ["{}", " [1] ", r#"{{"a":"}"}:{1:2},x:null}"#] {
        assert!(is_document(whole.as_bytes()), "{whole}");
    }
    for part in ["", "\0\0\0\0", "7", "word", "{", r#"{"a":{"b":1}"#, r#"{"a":"}"#, "{}}", "{}\0"] {
        assert!(!is_document(part.as_bytes()), "{part:?}");
    }
}

#[test]
fn object_keys_are_written_bare_and_read_in_every_form() {
    let mut stats = TopicStatsTable::default();
    stats
        .offset_table
        .insert(queue("tp", "br", 3), TopicOffset { last_update_timestamp: 0, max_offset: 5, min_offset: 0 });
    let java = r#"{"offsetTable":{{"brokerName":"br","queueId":3,"topic":"tp"}:{"lastUpdateTimestamp":0,"maxOffset":5,"minOffset":0}},"topicPutTps":0.0}"#;
    assert_eq!(standard(&stats), java);
    assert_eq!(read::<TopicStatsTable>(java), stats);
    let quoted = r#"{"offsetTable":{"{\"brokerName\":\"br\",\"queueId\":3,\"topic\":\"tp\"}":{"maxOffset":5}}}"#;
    assert_eq!(read::<TopicStatsTable>(quoted), stats);

    let mut status = GetConsumerStatusBody::default();
    status.consumer_table.insert("cid".into(), BTreeMap::from([(queue("t", "b", 1), 3)]));
    status.message_queue_table.insert(queue("t", "b", 1), 3);
    let java = r#"{"consumerTable":{"cid":{{"brokerName":"b","queueId":1,"topic":"t"}:3}},"messageQueueTable":{{"brokerName":"b","queueId":1,"topic":"t"}:3}}"#;
    assert_eq!(standard(&status), java);
    assert_eq!(read::<GetConsumerStatusBody>(java), status);
}

#[test]
fn integer_keys_are_quoted_or_bare() {
    let broker = BrokerData {
        broker_addrs: BTreeMap::from([(0, "a:1".to_owned()), (1, "b:1".to_owned())]),
        broker_name: "b".into(),
        cluster: "c".into(),
        ..BrokerData::default()
    };
    let route = TopicRouteData { broker_datas: vec![broker], ..TopicRouteData::default() };
    let java = r#"{"brokerDatas":[{"brokerAddrs":{0:"a:1",1:"b:1"},"brokerName":"b","cluster":"c","enableActingMaster":false}],"filterServerTable":{},"queueDatas":[]}"#;
    assert_eq!(fastjson1(&route), java);
    assert_eq!(read::<TopicRouteData>(java), route);
    let quoted = java.replace("{0:", "{\"0\":").replace(",1:", ",\"1\":");
    assert_eq!(standard(&route), quoted);
    assert_eq!(read::<TopicRouteData>(&quoted), route);
    assert!(serde_json::from_str::<serde_json::Value>(&quoted).is_ok());
}

#[test]
fn writes_bodies_as_java_does() {
    let text = r#"{"attributes":{},"brokerId":0,"consumeBroadcastEnable":true,"consumeEnable":true,"consumeFromMinEnable":true,"consumeMessageOrderly":false,"consumeTimeoutMinute":15,"groupName":"g\"\u0001ä中😀","groupRetryPolicy":{"customizedRetryPolicy":{"next":[1000,5000,10000,30000,60000,120000,180000,240000,300000,360000,420000,480000,540000,600000,1200000,1800000,3600000,7200000]},"exponentialRetryPolicy":{"initial":5000,"max":7200000,"multiplier":2},"type":"CUSTOMIZED"},"groupSysFlag":0,"notifyConsumerIdsChangedEnable":true,"retryMaxTimes":16,"retryQueueNums":1,"whichBrokerWhenConsumeSlowly":1}"#;
    let group = SubscriptionGroupConfig {
        group_name: "g\"\u{1}ä中😀".into(),
        group_retry_policy: GroupRetryPolicy {
            customized_retry_policy: Some(CustomizedRetryPolicy::default()),
            exponential_retry_policy: Some(ExponentialRetryPolicy::default()),
            r#type: GroupRetryPolicyType::Customized,
        },
        ..SubscriptionGroupConfig::default()
    };
    assert_eq!(standard(&group), text);
    assert_eq!(read::<SubscriptionGroupConfig>(text), group);
    let topic = TopicConfig { topic_name: "t".into(), ..TopicConfig::default() };
    assert_eq!(
        standard(&topic),
        r#"{"attributes":{},"order":false,"perm":6,"readQueueNums":16,"topicFilterType":"SINGLE_TAG","topicName":"t","topicSysFlag":0,"writeQueueNums":16}"#
    );
    assert_eq!(
        standard(&ConsumeMessageDirectlyResult::default()),
        r#"{"autoCommit":true,"order":false,"spentTimeMills":0}"#
    );
}

/// Every body that Java 5.5 writes comes back byte for byte.
#[test]
fn java_texts_survive_a_round_trip() {
    fn same<T: Serialize + DeserializeOwned>(text: &str) {
        assert_eq!(fastjson1(&read::<T>(text)), text);
    }
    same::<HeartbeatData>(
        r#"{"clientID":"c@1","consumerDataSet":[{"consumeFromWhere":"CONSUME_FROM_LAST_OFFSET","consumeType":"CONSUME_PASSIVELY","groupName":"g","messageModel":"CLUSTERING","subscriptionDataSet":[{"classFilterMode":false,"codeSet":[65],"expressionType":"TAG","subString":"A||B","subVersion":1795487410009,"tagsSet":["A"],"topic":"t"}],"unitMode":false}],"heartbeatFingerprint":0,"producerDataSet":[],"withoutSub":false}"#,
    );
    same::<RegisterBrokerBody>(
        r#"{"filterServerList":[],"topicConfigSerializeWrapper":{"dataVersion":{"counter":0,"stateVersion":0,"timestamp":1795487410390},"mappingDataVersion":{"counter":0,"stateVersion":0,"timestamp":1795487410390},"topicConfigTable":{},"topicQueueMappingDetailMap":{},"topicQueueMappingInfoMap":{}}}"#,
    );
    same::<ConsumeStats>(
        r#"{"consumeTps":0.0,"offsetTable":{{"brokerName":"br","queueId":3,"topic":"tp"}:{"brokerOffset":0,"consumerOffset":0,"lastTimestamp":0,"pullOffset":0}}}"#,
    );
    same::<ResetOffsetBody>(r#"{"offsetTable":{{"brokerName":"b","queueId":1,"topic":"t"}:7}}"#);
    same::<ConsumerRunningInfo>(
        r#"{"mqPopTable":{},"mqTable":{{"brokerName":"b","queueId":1,"topic":"t"}:{"cachedMsgCount":0,"cachedMsgMaxOffset":0,"cachedMsgMinOffset":0,"cachedMsgSizeInMiB":0,"commitOffset":0,"droped":false,"lastConsumeTimestamp":0,"lastLockTimestamp":0,"lastPullTimestamp":0,"locked":false,"transactionMsgCount":0,"transactionMsgMaxOffset":0,"transactionMsgMinOffset":0,"tryUnlockTimes":0}},"properties":{"k":"v"},"statusTable":{"t":{"consumeFailedMsgs":0,"consumeFailedTPS":0.0,"consumeOKTPS":0.0,"consumeRT":0.0,"pullRT":0.0,"pullTPS":0.0}},"subscriptionSet":[],"userConsumerInfo":{}}"#,
    );
    same::<ConsumerOffsetSerializeWrapper>(r#"{"offsetTable":{"t@g":{0:5}}}"#);
    same::<QueryCorrectionOffsetBody>(r#"{"correctionOffsets":{1:2}}"#);
    same::<ClusterInfo>(
        r#"{"brokerAddrTable":{"b":{"brokerAddrs":{0:"a:1",1:"b:1"},"brokerName":"b","cluster":"c","enableActingMaster":false}},"clusterAddrTable":{"c":["b"]}}"#,
    );
    same::<SubscriptionGroupWrapper>(
        r#"{"dataVersion":{"counter":0,"stateVersion":0,"timestamp":1795487410060},"forbiddenTable":{},"subscriptionGroupTable":{}}"#,
    );
    same::<ProducerTableInfo>(r#"{"data":{}}"#);
}

#[test]
fn reads_what_fastjson_forgives() {
    let table: KvTable = read(" {'table':{'a':'b',,c : \"d\" , \"n\":null,e:5,f:{\"g\":1}},}\n");
    let expected = [("a", "b"), ("c", "d"), ("e", "5"), ("f", "{\"g\":1}")];
    assert_eq!(table.table, expected.map(|(key, value)| (key.into(), value.into())).into());
    assert_eq!(read::<KvTable>(r#"{"table":null,"x":[{"y":[]}]}"#), KvTable::default());
    assert_eq!(read::<KvTable>("null"), KvTable::default());

    let version: DataVersion = read(r#"{"counter":"7","timestamp":1.0,"stateVersion":true}"#);
    assert_eq!(version, DataVersion { counter: 7, state_version: 1, timestamp: 1 });
    let data: SubscriptionData = read(r#"{"codeSet":["1",null,2],"tagsSet":null,"classFilterMode":"false","topic":5}"#);
    assert_eq!(data.code_set, [1, 2].into());
    assert_eq!((data.topic.as_str(), data.class_filter_mode, data.tags_set.len()), ("5", false, 0));
    let consumer: ConsumerData = read(r#"{"consumeType":1,"messageModel":"BROADCASTING"}"#);
    assert_eq!(
        (consumer.consume_type, consumer.message_model),
        (ConsumeType::ConsumePassively, MessageModel::Broadcasting)
    );
    assert!(read::<HeartbeatData>(r#"{"isWithoutSub":true}"#).is_without_sub);
    assert_eq!(read::<Vec<String>>(r#"["a",'b',]"#), ["a", "b"]);
}

#[test]
fn refuses_what_is_broken() {
    let deep = format!("{{\"table\":{}", "{\"a\":".repeat(10_000));
    let deep_list = "[".repeat(10_000);
    for text in [
        "",
        "{",
        "}",
        "[",
        "{\"table\"}",
        "{\"table\":}",
        "{\"table\":{\"a\":\"b}}",
        "{}{}",
        "{\"table\":[1]}",
        &deep,
        &deep_list,
        "{\"table\":{\"a\":\"\u{1}\\",
        "x",
        "{\"table\" 1}",
    ] {
        assert!(from_slice::<KvTable>(text.as_bytes()).is_err(), "{text:.60}");
    }
    assert!(from_slice::<KvTable>(b"{\"table\":{\"a\":\"\xFF\"}}").is_err());
    assert!(from_slice::<ConsumerData>(br#"{"consumeType":"CONSUME_SOMEHOW"}"#).is_err());
    assert!(from_slice::<ConsumerData>(br#"{"consumeType":-1}"#).is_err());
    assert!(from_slice::<DataVersion>(br#"{"counter":"x"}"#).is_err());
    // Larger than a double: it could not be written again.
    assert!(from_slice::<ConsumeStats>(br#"{"consumeTps":1e400}"#).is_err());
    assert!(from_slice::<ConsumeStats>(br#"{"consumeTps":1e300}"#).is_ok());
    let many = format!("[{}", "1,".repeat(1_000_001));
    assert!(from_slice::<Vec<i32>>(many.as_bytes()).unwrap_err().to_string().contains("too many items"));
}
