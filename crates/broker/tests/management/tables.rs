//! Topics, groups and the settings that outlive a restart.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::{Peer, eventually, run, start};

const UPDATE_AND_CREATE_TOPIC: i32 = 17;
const UPDATE_AND_CREATE_STATIC_TOPIC: i32 = 513;
const UPDATE_AND_CREATE_TOPIC_LIST: i32 = 18;
const GET_ALL_TOPIC_CONFIG: i32 = 21;
const GET_BROKER_CONFIG: i32 = 26;
const GET_BROKER_RUNTIME_INFO: i32 = 28;
const UPDATE_AND_CREATE_SUBSCRIPTIONGROUP: i32 = 200;
const GET_ALL_SUBSCRIPTIONGROUP_CONFIG: i32 = 201;
const GET_TOPIC_STATS_INFO: i32 = 202;
const DELETE_SUBSCRIPTIONGROUP: i32 = 207;
const GET_CONSUME_STATS: i32 = 208;
const DELETE_TOPIC_IN_BROKER: i32 = 215;
const UPDATE_AND_CREATE_SUBSCRIPTIONGROUP_LIST: i32 = 225;
const GET_SYSTEM_TOPIC_LIST_FROM_BROKER: i32 = 305;
const QUERY_TOPICS_BY_CONSUMER: i32 = 343;
const GET_TOPIC_CONFIG: i32 = 351;
const GET_SUBSCRIPTIONGROUP_CONFIG: i32 = 352;
const UPDATE_CONSUMER_OFFSET: i32 = 15;
const SEND_MESSAGE: i32 = 10;
const INVOKE_BROKER_TO_RESET_OFFSET: i32 = 222;
const SEND_MESSAGE_V2: i32 = 310;
const QUERY_CONSUME_QUEUE: i32 = 321;

fn topic_fields<'a>(topic: &'a str, queues: &'a str, attributes: &'a str) -> [(&'a str, &'a str); 9] {
    [
        ("topic", topic),
        ("defaultTopic", "TBW102"),
        ("readQueueNums", queues),
        ("writeQueueNums", queues),
        ("perm", "6"),
        ("topicFilterType", "SINGLE_TAG"),
        ("topicSysFlag", "0"),
        ("order", "false"),
        ("attributes", attributes),
    ]
}

/// A send that may make its topic with 3 queues.
fn v2_send(topic: &'static str) -> [(&'static str, &'static str); 9] {
    [
        ("a", "p"),
        ("b", topic),
        ("c", "TBW102"),
        ("d", "3"),
        ("e", "0"),
        ("f", "0"),
        ("g", "1764000000000"),
        ("h", "0"),
        ("i", ""),
    ]
}

fn saved(dir: &Path, name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(dir.join("config").join(name)).unwrap()).unwrap()
}

#[test]
fn a_topic_is_on_disk_when_its_creation_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), |_| {});
    run(async {
        let peer = Peer::new(broker.addr());
        peer.ok(UPDATE_AND_CREATE_TOPIC, &topic_fields("T", "3", "+message.type=FIFO"), b"").await;
        let file = saved(dir.path(), "topics.json");
        assert_eq!(file["topicConfigTable"]["T"]["readQueueNums"], 3);
        assert_eq!(file["topicConfigTable"]["T"]["attributes"]["message.type"], "FIFO");
        assert_eq!(file["topicConfigTable"]["T"]["topicFilterType"], "SINGLE_TAG");
        assert!(file["dataVersion"]["counter"].as_i64().unwrap() > 0);
        let shown = peer.ok(GET_TOPIC_CONFIG, &[("topic", "T")], b"").await.json();
        assert_eq!((&shown["topicName"], &shown["writeQueueNums"]), (&json!("T"), &json!(3)));
    });
    broker.shutdown();

    let broker = start(dir.path(), |_| {});
    run(async {
        let peer = Peer::new(broker.addr());
        let shown = peer.ok(GET_TOPIC_CONFIG, &[("topic", "T")], b"").await.json();
        assert_eq!(shown["readQueueNums"], 3);
        peer.ok(DELETE_TOPIC_IN_BROKER, &[("topic", "T")], b"").await;
        let gone = peer.call(GET_TOPIC_CONFIG, &[("topic", "T")], b"").await;
        assert_eq!((gone.code, &*gone.remark), (17, "No topic in this broker. topic: T"));
        assert!(saved(dir.path(), "topics.json")["topicConfigTable"].get("T").is_none());
    });
    broker.shutdown();
}

#[test]
fn bad_topics_are_refused_with_rocketmqs_codes() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), |_| {});
    run(async {
        let peer = Peer::new(broker.addr());
        let refused = async |topic: &str, queues: &str, attributes: &str| {
            let answer = peer.call(UPDATE_AND_CREATE_TOPIC, &topic_fields(topic, queues, attributes), b"").await;
            (answer.code, answer.remark)
        };
        let illegal = "The specified topic: ../../x, contains illegal characters, allowing only ^[%|a-zA-Z0-9_-]+$";
        assert_eq!(refused("../../x", "4", "").await, (29, illegal.into()));
        assert_eq!(refused("", "4", "").await, (29, "The specified topic is blank.".into()));
        assert_eq!(refused("TBW102", "4", "").await, (29, "The topic[TBW102] is conflict with system topic.".into()));
        assert_eq!(refused("T", "-1", "").await.0, 29);
        assert_eq!(refused("T", "2147483647", "").await.0, 29);
        assert_eq!(refused("T", "99999999999", "").await.0, 1);
        assert_eq!(refused("T", "4", "+colour=red").await, (1, "unsupported key: colour".into()));
        assert_eq!(peer.call(UPDATE_AND_CREATE_TOPIC, &[("topic", "T")], b"").await.code, 1);
        assert_eq!(peer.call(UPDATE_AND_CREATE_TOPIC_LIST, &[], b"{]").await.code, 1);
        assert_eq!(peer.call(DELETE_TOPIC_IN_BROKER, &[("topic", "TBW102")], b"").await.code, 29);
        assert_eq!(peer.call(DELETE_TOPIC_IN_BROKER, &[("topic", " ")], b"").await.code, 29);
        let of_many = peer.call(UPDATE_AND_CREATE_STATIC_TOPIC, &topic_fields("T", "4", ""), b"{}").await;
        assert_eq!((of_many.code, of_many.remark.contains("static topics")), (3, true), "{}", of_many.remark);
        assert_eq!(peer.call(GET_TOPIC_CONFIG, &[("topic", "T")], b"").await.code, 17);
        assert_eq!(peer.call(DELETE_TOPIC_IN_BROKER, &[("topic", "../config")], b"").await.code, 29);
    });
    broker.shutdown();
}

#[test]
fn all_topics_come_at_once_or_in_pages() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), |_| {});
    run(async {
        let peer = Peer::new(broker.addr());
        let config = |name: &str| json!({"topicName": name, "readQueueNums": 2, "writeQueueNums": 2, "perm": 6});
        let list = json!({"topicConfigList": [config("A1"), config("A2"), config("A3")]});
        assert_eq!(peer.post(UPDATE_AND_CREATE_TOPIC_LIST, list).await.code, 0);
        let all = peer.ok(GET_ALL_TOPIC_CONFIG, &[], b"").await;
        let total: usize = all.field("totalTopicNum").unwrap().parse().unwrap();
        assert_eq!(all.json()["topicConfigTable"].as_object().unwrap().len(), total);
        let version = all.json()["dataVersion"].to_string();
        let page = [("topicSeq", "1"), ("maxTopicNum", "2"), ("dataVersion", &*version)];
        let page = peer.ok(GET_ALL_TOPIC_CONFIG, &page, b"").await.json();
        let names: Vec<&String> = page["topicConfigTable"].as_object().unwrap().keys().collect();
        assert_eq!(names, ["A2", "A3"]);
        let stale = [("topicSeq", "1"), ("maxTopicNum", "1"), ("dataVersion", "{}")];
        let first = peer.ok(GET_ALL_TOPIC_CONFIG, &stale, b"").await.json();
        assert!(first["topicConfigTable"].get("A1").is_some());
        let system = peer.ok(GET_SYSTEM_TOPIC_LIST_FROM_BROKER, &[], b"").await.json();
        assert!(system["topicList"].as_array().unwrap().contains(&json!("TBW102")));
    });
    broker.shutdown();
}

#[test]
fn group_settings_are_on_disk_when_their_change_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), |config| config.auto_create_subscription_group = false);
    run(async {
        let peer = Peer::new(broker.addr());
        assert_eq!(peer.call(GET_SUBSCRIPTIONGROUP_CONFIG, &[("group", "g")], b"").await.code, 26);
        let config = json!({"groupName": "g", "consumeEnable": true, "retryMaxTimes": 5, "retryQueueNums": 2});
        assert_eq!(peer.post(UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, config).await.code, 0);
        let file = saved(dir.path(), "subscriptionGroup.json");
        assert_eq!(file["subscriptionGroupTable"]["g"]["retryMaxTimes"], 5);
        assert_eq!(file["subscriptionGroupTable"]["g"]["consumeBroadcastEnable"], true);
        let shown = peer.ok(GET_SUBSCRIPTIONGROUP_CONFIG, &[("group", "g")], b"").await.json();
        assert_eq!(shown["retryQueueNums"], 2);
        let bad = peer.post(UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, json!({"groupName": "../x"})).await;
        assert_eq!(bad.code, 29);
        let list = json!({"groupConfigList": [{"groupName": "h"}, {"groupName": "i"}]});
        assert_eq!(peer.post(UPDATE_AND_CREATE_SUBSCRIPTIONGROUP_LIST, list).await.code, 0);
        let all = peer.ok(GET_ALL_SUBSCRIPTIONGROUP_CONFIG, &[], b"").await;
        assert!(all.json()["subscriptionGroupTable"].get("i").is_some());
        assert!(all.field("totalGroupNum").is_some());
        peer.ok(DELETE_SUBSCRIPTIONGROUP, &[("groupName", "h"), ("cleanOffset", "true")], b"").await;
    });
    broker.shutdown();

    let broker = start(dir.path(), |config| config.auto_create_subscription_group = false);
    run(async {
        let peer = Peer::new(broker.addr());
        assert_eq!(peer.call(GET_SUBSCRIPTIONGROUP_CONFIG, &[("group", "g")], b"").await.code, 0);
        assert_eq!(peer.call(GET_SUBSCRIPTIONGROUP_CONFIG, &[("group", "h")], b"").await.code, 26);
    });
    broker.shutdown();
}

#[test]
fn offsets_and_statistics_are_shown() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), |config| config.effective_properties = "brokerName=broker-a\n".into());
    run(async {
        let peer = Peer::new(broker.addr());
        peer.ok(UPDATE_AND_CREATE_TOPIC, &topic_fields("T", "2", ""), b"").await;
        let commit = [("consumerGroup", "g"), ("topic", "T"), ("queueId", "1"), ("commitOffset", "0")];
        peer.ok(UPDATE_CONSUMER_OFFSET, &commit, b"").await;
        let topics = peer.ok(QUERY_TOPICS_BY_CONSUMER, &[("group", "g")], b"").await.json();
        assert_eq!(topics["topicList"], json!(["T"]));
        let stats = peer.ok(GET_TOPIC_STATS_INFO, &[("topic", "T")], b"").await;
        assert!(stats.text().contains("maxOffset"), "{}", stats.text());
        let consumed = peer.ok(GET_CONSUME_STATS, &[("consumerGroup", "g")], b"").await;
        assert!(consumed.text().contains("consumerOffset"), "{}", consumed.text());
        assert_eq!(peer.call(GET_TOPIC_STATS_INFO, &[("topic", "no-such")], b"").await.code, 17);
        let runtime = peer.ok(GET_BROKER_RUNTIME_INFO, &[], b"").await.json();
        assert_eq!(runtime["table"]["brokerVersionDesc"], "V5_5_0");
        assert_eq!(runtime["table"]["putTps"].as_str().unwrap().split(' ').count(), 3);
        let config = peer.ok(GET_BROKER_CONFIG, &[], b"").await;
        assert_eq!(config.text(), "brokerName=broker-a\n");
    });
    broker.shutdown();
}

#[test]
fn a_topics_messages_are_counted_reset_and_gone_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), |_| {});
    run(async {
        let peer = Peer::new(broker.addr());
        peer.ok(UPDATE_AND_CREATE_TOPIC, &topic_fields("T", "1", ""), b"").await;
        let send = [
            ("producerGroup", "p"),
            ("topic", "T"),
            ("defaultTopic", "TBW102"),
            ("defaultTopicQueueNums", "4"),
            ("queueId", "0"),
            ("sysFlag", "0"),
            ("bornTimestamp", "1764000000000"),
            ("flag", "0"),
            ("properties", "TAGS\u{1}a\u{2}"),
        ];
        for _ in 0..3 {
            peer.ok(SEND_MESSAGE, &send, b"body").await;
        }
        let stats = async || peer.ok(GET_TOPIC_STATS_INFO, &[("topic", "T")], b"").await.text();
        eventually("three messages are counted", async || stats().await.contains("\"maxOffset\":3")).await;
        assert!(!stats().await.contains("\"lastUpdateTimestamp\":0"));
        let entries = [("topic", "T"), ("queueId", "0"), ("index", "1"), ("count", "10"), ("consumerGroup", "g")];
        let queue = peer.ok(QUERY_CONSUME_QUEUE, &entries, b"").await.json();
        assert_eq!((&queue["minQueueIndex"], &queue["maxQueueIndex"]), (&json!(0), &json!(3)));
        assert_eq!(queue["queueData"].as_array().unwrap().len(), 2);
        assert_eq!(queue["queueData"][0]["tagsCode"], 97);
        assert_eq!(queue["filterData"], "g@T is not online!");
        let absent = peer.call(QUERY_CONSUME_QUEUE, &[("topic", "T"), ("queueId", "7"), ("count", "1")], b"").await;
        assert_eq!((absent.code, &*absent.remark), (1, "7@T is not exist!"));

        let reset =
            |timestamp: &'static str| [("topic", "T"), ("group", "g"), ("timestamp", timestamp), ("isForce", "true")];
        assert_eq!(peer.call(INVOKE_BROKER_TO_RESET_OFFSET, &reset("-1"), b"").await.code, 26);
        peer.post(UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, json!({"groupName": "g"})).await;
        let to_end = peer.ok(INVOKE_BROKER_TO_RESET_OFFSET, &reset("-1"), b"").await.text();
        assert!(to_end.ends_with(":3}}"), "{to_end}");
        let to_start = peer.ok(INVOKE_BROKER_TO_RESET_OFFSET, &reset("0"), b"").await.text();
        assert!(to_start.ends_with(":0}}"), "{to_start}");
        let runtime = peer.ok(GET_BROKER_RUNTIME_INFO, &[], b"").await.json();
        assert_eq!(runtime["table"]["msgPutTotalTodayNow"], "3");
        assert!(runtime["table"]["earliestMessageTimeStamp"].as_str().unwrap().parse::<i64>().unwrap() > 0);
        let ratio: f64 = runtime["table"]["commitLogDiskRatio"].as_str().unwrap().parse().unwrap();
        assert!((0.0..=1.0).contains(&ratio), "{ratio}");

        peer.ok(DELETE_TOPIC_IN_BROKER, &[("topic", "T")], b"").await;
        assert!(!dir.path().join("consumequeue/T").exists());
        let topics = peer.ok(QUERY_TOPICS_BY_CONSUMER, &[("group", "g")], b"").await.json();
        assert_eq!(topics["topicList"], json!([]));
        peer.ok(UPDATE_AND_CREATE_TOPIC, &topic_fields("T", "1", ""), b"").await;
        peer.ok(SEND_MESSAGE, &send, b"body").await;
        eventually("a topic made again starts at 0", async || stats().await.contains("\"maxOffset\":1")).await;
    });
    broker.shutdown();
}

#[test]
fn topics_in_which_something_waits_are_never_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), |config| config.validate_system_topic_when_update_topic = false);
    run(async {
        let peer = Peer::new(broker.addr());
        let revive = broker.shared().revive_topic.as_str();
        for topic in [
            "SCHEDULE_TOPIC_XXXX",
            "rmq_sys_wheel_timer",
            "RMQ_SYS_TRANS_HALF_TOPIC",
            "RMQ_SYS_TRANS_OP_HALF_TOPIC",
            revive,
        ] {
            assert_eq!(peer.call(DELETE_TOPIC_IN_BROKER, &[("topic", topic)], b"").await.code, 29, "{topic}");
        }
        peer.ok(DELETE_TOPIC_IN_BROKER, &[("topic", "SELF_TEST_TOPIC")], b"").await;
    });
    broker.shutdown();
}

#[test]
fn a_first_send_makes_a_topic_that_outlives_the_broker() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), |_| {});
    run(async {
        let peer = Peer::new(broker.addr());
        peer.ok(SEND_MESSAGE_V2, &v2_send("made"), b"body").await;
        let path = dir.path().join("config/topics.json");
        eventually("the new topic is on disk", async || {
            std::fs::read_to_string(&path).is_ok_and(|text| text.contains("\"made\""))
        })
        .await;
        let illegal = peer.call(SEND_MESSAGE_V2, &v2_send("../../x"), b"body").await;
        assert_eq!(illegal.code, 29);
    });
    broker.shutdown();
    let broker = start(dir.path(), |config| config.auto_create_topic_enable = false);
    run(async {
        let peer = Peer::new(broker.addr());
        let shown = peer.ok(GET_TOPIC_CONFIG, &[("topic", "made")], b"").await.json();
        assert_eq!((&shown["readQueueNums"], &shown["perm"]), (&json!(3), &json!(6)));
        assert_eq!(peer.call(SEND_MESSAGE_V2, &v2_send("other"), b"body").await.code, 17);
    });
    broker.shutdown();
}

#[test]
fn topics_with_messages_come_back_when_their_settings_are_lost() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("config");
    let broker = start(dir.path(), |_| {});
    run(async {
        let peer = Peer::new(broker.addr());
        peer.ok(UPDATE_AND_CREATE_TOPIC, &topic_fields("empty", "4", ""), b"").await;
        for queue in ["0", "2"] {
            let mut fields = v2_send("kept");
            fields[4].1 = queue;
            peer.ok(SEND_MESSAGE_V2, &fields, b"body").await;
        }
    });
    broker.shutdown();
    for name in ["topics.json", "topics.json.bak"] {
        let _ = std::fs::remove_file(config.join(name));
    }
    let broker = start(dir.path(), |_| {});
    run(async {
        let peer = Peer::new(broker.addr());
        let shown = peer.ok(GET_TOPIC_CONFIG, &[("topic", "kept")], b"").await.json();
        assert_eq!((&shown["readQueueNums"], &shown["perm"]), (&json!(3), &json!(6)));
        assert_eq!(peer.call(GET_TOPIC_CONFIG, &[("topic", "empty")], b"").await.code, 17);
    });
    broker.shutdown();
    assert_eq!(saved(dir.path(), "topics.json")["topicConfigTable"]["kept"]["writeQueueNums"], 3);
}

#[test]
fn files_of_a_java_store_that_are_not_ours_stay_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("config");
    std::fs::create_dir_all(&config).unwrap();
    let metrics: &[u8] = b"{\n\t\"dataVersion\":{\"counter\":2},\n\t\"timingCount\":{}\n}";
    std::fs::write(config.join("timermetrics"), metrics).unwrap();
    // Offsets of delay levels that the queues do not have are corrected, as in RocketMQ.
    std::fs::write(config.join("delayOffset.json"), b"{\"offsetTable\":{1:5,3:7}}").unwrap();
    std::fs::write(config.join("consumerOffset.json"), b"{\"offsetTable\":{\"T@g\":{0:12,\"1\":13}}}").unwrap();
    std::fs::write(config.join("topics.json"), b"{broken").unwrap();
    std::fs::write(config.join("topics.json.bak"), b"{\"topicConfigTable\":{\"T\":{\"topicName\":\"T\"}}}").unwrap();
    let broker = start(dir.path(), |_| {});
    run(async {
        let peer = Peer::new(broker.addr());
        peer.ok(GET_TOPIC_CONFIG, &[("topic", "T")], b"").await;
        let topics = peer.ok(QUERY_TOPICS_BY_CONSUMER, &[("group", "g")], b"").await.json();
        assert_eq!(topics["topicList"], json!(["T"]));
    });
    broker.shutdown();
    assert_eq!(std::fs::read(config.join("timermetrics")).unwrap(), metrics);
    assert_eq!(saved(dir.path(), "delayOffset.json")["offsetTable"]["3"], 0);
}
