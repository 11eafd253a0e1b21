//! Heartbeats, membership, notices, order locks, and what a bad client may send.

use serde_json::{Value, json};

use crate::support::{Peer, eventually, run, start};

const HEART_BEAT: i32 = 34;
const UNREGISTER_CLIENT: i32 = 35;
const GET_CONSUMER_LIST_BY_GROUP: i32 = 38;
const NOTIFY_CONSUMER_IDS_CHANGED: i32 = 40;
const LOCK_BATCH_MQ: i32 = 41;
const UNLOCK_BATCH_MQ: i32 = 42;
const CHECK_CLIENT_CONFIG: i32 = 46;
const GET_CONSUMER_CONNECTION_LIST: i32 = 203;
const GET_PRODUCER_CONNECTION_LIST: i32 = 204;
const QUERY_TOPIC_CONSUME_BY_WHO: i32 = 300;
const GET_CONSUMER_RUNNING_INFO: i32 = 307;
const CONSUME_MESSAGE_DIRECTLY: i32 = 309;
const GET_ALL_PRODUCER_INFO: i32 = 328;
const QUERY_SUBSCRIPTION_BY_CONSUMER: i32 = 345;
const GET_TOPIC_CONFIG: i32 = 351;

/// A heartbeat as the Java client writes it.
fn heartbeat(client_id: &str, group: &str, topic: &str, tags: &str) -> Value {
    json!({
        "clientID": client_id,
        "consumerDataSet": [{
            "consumeFromWhere": "CONSUME_FROM_LAST_OFFSET",
            "consumeType": "CONSUME_PASSIVELY",
            "groupName": group,
            "messageModel": "CLUSTERING",
            "subscriptionDataSet": [{
                "classFilterMode": false,
                "codeSet": if tags == "*" { json!([]) } else { json!([2598919]) },
                "expressionType": "TAG",
                "subString": tags,
                "subVersion": 1764000000000_i64,
                "tagsSet": if tags == "*" { json!([]) } else { json!([tags]) },
                "topic": topic
            }],
            "unitMode": false
        }],
        "heartbeatFingerprint": 0,
        "producerDataSet": [{"groupName": "CLIENT_INNER_PRODUCER"}],
        "withoutSub": false
    })
}

async fn ids(peer: &Peer, group: &str) -> Vec<String> {
    let answer = peer.call(GET_CONSUMER_LIST_BY_GROUP, &[("consumerGroup", group)], b"").await;
    if answer.code != 0 {
        assert_eq!((answer.code, answer.remark), (1, format!("no consumer for this group, {group}")));
        return Vec::new();
    }
    answer.json()["consumerIdList"].as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()).collect()
}

#[test]
fn members_of_a_group_know_of_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), |_| {});
    run(async {
        let (a, b) = (Peer::new(broker.addr()), Peer::new(broker.addr()));
        assert!(ids(&a, "g").await.is_empty());
        let answer = a.post(HEART_BEAT, heartbeat("a", "g", "T", "*")).await;
        assert_eq!(answer.code, 0);
        assert_eq!(answer.field("IS_SUPPORT_HEART_BEAT_V2").as_deref(), Some("true"));
        assert_eq!(answer.field("IS_SUB_CHANGE").as_deref(), Some("true"));
        a.next_asked(NOTIFY_CONSUMER_IDS_CHANGED, 0).await;

        let retry = a.ok(GET_TOPIC_CONFIG, &[("topic", "%RETRY%g")], b"").await.json();
        assert_eq!((&retry["readQueueNums"], &retry["perm"]), (&json!(1), &json!(6)));

        b.post(HEART_BEAT, heartbeat("b", "g", "T", "*")).await;
        let notice = a.next_asked(NOTIFY_CONSUMER_IDS_CHANGED, 1).await;
        assert_eq!(notice.fields, [("consumerGroup".to_owned(), "g".to_owned())]);
        assert_eq!(ids(&a, "g").await, ["a", "b"]);

        let before = a.asked(NOTIFY_CONSUMER_IDS_CHANGED).len();
        b.leave();
        a.next_asked(NOTIFY_CONSUMER_IDS_CHANGED, before).await;
        assert_eq!(ids(&a, "g").await, ["a"]);

        let fields = [("clientID", "a"), ("consumerGroup", "g"), ("producerGroup", "CLIENT_INNER_PRODUCER")];
        a.ok(UNREGISTER_CLIENT, &fields, b"").await;
        assert!(ids(&a, "g").await.is_empty());
        let producers = a.call(GET_PRODUCER_CONNECTION_LIST, &[("producerGroup", "CLIENT_INNER_PRODUCER")], b"").await;
        assert_eq!(producers.code, 1);
    });
    broker.shutdown();
}

#[test]
fn a_light_heartbeat_keeps_the_subscriptions() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), |_| {});
    run(async {
        let peer = Peer::new(broker.addr());
        let mut beat = heartbeat("a", "g", "T", "TagA");
        beat["heartbeatFingerprint"] = json!(77);
        let first = peer.post(HEART_BEAT, beat.clone()).await;
        assert_eq!(first.field("IS_SUB_CHANGE").as_deref(), Some("false"));
        beat["withoutSub"] = json!(true);
        beat["consumerDataSet"][0]["subscriptionDataSet"] = json!([]);
        let second = peer.post(HEART_BEAT, beat).await;
        assert_eq!(second.field("IS_SUB_CHANGE").as_deref(), Some("false"));
        let shown = peer.ok(QUERY_SUBSCRIPTION_BY_CONSUMER, &[("group", "g"), ("topic", "T")], b"").await.json();
        assert_eq!(shown["subscriptionData"]["subString"], "TagA");
        assert_eq!(shown["subscriptionData"]["codeSet"], json!([2598919]));
    });
    broker.shutdown();
}

#[test]
fn tools_see_who_is_connected() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), |_| {});
    run(async {
        let (peer, tool) = (Peer::new(broker.addr()), Peer::new(broker.addr()));
        let offline = tool.call(GET_CONSUMER_CONNECTION_LIST, &[("consumerGroup", "g")], b"").await;
        assert_eq!((offline.code, &*offline.remark), (206, "the consumer group[g] not online"));
        peer.post(HEART_BEAT, heartbeat("a", "g", "T", "*")).await;
        let online = tool.ok(GET_CONSUMER_CONNECTION_LIST, &[("consumerGroup", "g")], b"").await.json();
        assert_eq!(online["connectionSet"][0]["clientId"], "a");
        assert_eq!(online["connectionSet"][0]["language"], "RUST");
        assert_eq!(online["messageModel"], "CLUSTERING");
        assert_eq!(online["subscriptionTable"]["T"]["subString"], "*");
        let group = [("producerGroup", "CLIENT_INNER_PRODUCER")];
        let producers = tool.ok(GET_PRODUCER_CONNECTION_LIST, &group, b"").await.json();
        assert_eq!(producers["connectionSet"][0]["clientId"], "a");
        let all = tool.ok(GET_ALL_PRODUCER_INFO, &[], b"").await.json();
        assert_eq!(all["data"]["CLIENT_INNER_PRODUCER"][0]["clientId"], "a");
        let groups = tool.ok(QUERY_TOPIC_CONSUME_BY_WHO, &[("topic", "T")], b"").await.json();
        assert_eq!(groups["groupList"], json!(["g"]));
        let info = tool.ok(GET_CONSUMER_RUNNING_INFO, &[("consumerGroup", "g"), ("clientId", "a")], b"").await;
        assert_eq!(info.text(), "{\"answer\":true}");
        assert_eq!(peer.asked(GET_CONSUMER_RUNNING_INFO).len(), 1);
        let nothing = [("consumerGroup", "g"), ("clientId", "a"), ("msgId", "x")];
        assert_eq!(tool.call(CONSUME_MESSAGE_DIRECTLY, &nothing, b"").await.code, 1);
        assert!(peer.asked(CONSUME_MESSAGE_DIRECTLY).is_empty());
        let absent = tool.call(GET_CONSUMER_RUNNING_INFO, &[("consumerGroup", "g"), ("clientId", "x")], b"").await;
        assert_eq!((absent.code, &*absent.remark), (1, "The Consumer <g> <x> not online"));
    });
    broker.shutdown();
}

#[test]
fn sql_subscriptions_are_refused_while_the_filter_is_off() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), |_| {});
    run(async {
        let peer = Peer::new(broker.addr());
        let body = |kind: &str| {
            let data = json!({"topic": "T", "subString": "a > 1", "expressionType": kind, "subVersion": 1});
            json!({"clientId": "a", "group": "g", "subscriptionData": data})
        };
        assert_eq!(peer.post(CHECK_CLIENT_CONFIG, body("TAG")).await.code, 0);
        let refused = peer.post(CHECK_CLIENT_CONFIG, body("SQL92")).await;
        let remark = "The broker does not support consumer to filter message by SQL92";
        assert_eq!((refused.code, &*refused.remark), (1, remark));
    });
    broker.shutdown();
}

#[test]
fn a_queue_has_one_owner_within_a_group() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), |_| {});
    run(async {
        let (a, b) = (Peer::new(broker.addr()), Peer::new(broker.addr()));
        let body = |client: &str| {
            let queue = |id| json!({"brokerName": "broker-a", "queueId": id, "topic": "T"});
            json!({"clientId": client, "consumerGroup": "g", "mqSet": [queue(0), queue(1)], "onlyThisBroker": false})
        };
        let granted = async |peer: &Peer, client: &str| {
            let answer = peer.post(LOCK_BATCH_MQ, body(client)).await;
            assert_eq!(answer.code, 0);
            answer.json()["lockOKMQSet"].as_array().unwrap().len()
        };
        assert_eq!(granted(&a, "a").await, 2);
        assert_eq!(granted(&b, "b").await, 0);
        assert_eq!(granted(&a, "a").await, 2);
        assert_eq!(b.post(UNLOCK_BATCH_MQ, body("b")).await.code, 0);
        assert_eq!(granted(&b, "b").await, 0);
        assert_eq!(a.post(UNLOCK_BATCH_MQ, body("a")).await.code, 0);
        assert_eq!(granted(&b, "b").await, 2);
        for (topic, broker_name) in [("T".repeat(128), "broker-a".to_owned()), ("T".to_owned(), "b".repeat(256))] {
            let queue = json!({"brokerName": broker_name, "queueId": 7, "topic": topic});
            let body = json!({"clientId": "b", "consumerGroup": "g", "mqSet": [queue]});
            assert_eq!(b.post(LOCK_BATCH_MQ, body).await.json()["lockOKMQSet"], json!([]), "no such queue");
        }
        b.leave();
        assert_eq!(granted(&a, "a").await, 0, "a lock outlives its owner's connection until it expires");
    });
    broker.shutdown();
}

#[test]
fn bad_bodies_are_answered_and_leave_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), |_| {});
    run(async {
        let peer = Peer::new(broker.addr());
        let huge = vec![b' '; 5 * 1024 * 1024];
        let deep = [b'['; 100_000];
        let garbled: [&[u8]; 6] = [b"", b"{", b"\xff\xfe\x00", b"[1,2]", &huge, &deep];
        for code in [HEART_BEAT, LOCK_BATCH_MQ, UNLOCK_BATCH_MQ, CHECK_CLIENT_CONFIG] {
            for body in garbled {
                let answer = peer.call(code, &[], body).await;
                assert_eq!(answer.code, 1, "code {code}, body of {} bytes", body.len());
                assert!(!answer.remark.is_empty());
            }
        }
        let bad_group = peer.post(HEART_BEAT, heartbeat("a", "../../x", "T", "*")).await;
        assert_eq!(bad_group.code, 0, "RocketMQ passes such a group over");
        assert!(ids(&peer, "../../x").await.is_empty());
        let no_id = peer.post(HEART_BEAT, heartbeat("", "g", "T", "*")).await;
        assert_eq!(no_id.code, 1);
        let long_id = peer.post(HEART_BEAT, heartbeat(&"x".repeat(2000), "g", "T", "*")).await;
        assert_eq!(long_id.code, 1);
        assert_eq!(peer.call(GET_CONSUMER_LIST_BY_GROUP, &[], b"").await.code, 1);
        assert!(ids(&peer, "g").await.is_empty());
    });
    broker.shutdown();
}

#[test]
fn silent_clients_are_dropped() {
    let dir = tempfile::tempdir().unwrap();
    // Long enough that a busy machine answers the question before the time is over.
    let broker = start(dir.path(), |config| config.channel_expired_timeout = 1500);
    run(async {
        let (silent, tool) = (Peer::new(broker.addr()), Peer::new(broker.addr()));
        silent.post(HEART_BEAT, heartbeat("a", "g", "T", "*")).await;
        assert_eq!(ids(&tool, "g").await, ["a"]);
        eventually("the silent client is dropped", async || ids(&tool, "g").await.is_empty()).await;
    });
    broker.shutdown();
}
