//! Statistics, lags, and settings that change while the broker runs.

use ferromq_protocol::code::request::*;
use serde_json::json;

use crate::support::{Peer, run, start};

#[test]
fn statistics_count_what_went_in_and_out() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), |_| {});
    run(async {
        let peer = Peer::new(broker.addr());
        let topic = [
            ("topic", "T"),
            ("defaultTopic", "TBW102"),
            ("readQueueNums", "1"),
            ("writeQueueNums", "1"),
            ("perm", "6"),
            ("topicFilterType", "SINGLE_TAG"),
            ("order", "false"),
        ];
        peer.ok(UPDATE_AND_CREATE_TOPIC, &topic, b"").await;
        let asked = |name, key| [("statsName", name), ("statsKey", key)];
        assert_eq!(peer.call(VIEW_BROKER_STATS_DATA, &asked("TOPIC_PUT_NUMS", "T"), b"").await.code, 1);
        let send = [
            ("a", "p"),
            ("b", "T"),
            ("c", "TBW102"),
            ("d", "4"),
            ("e", "0"),
            ("f", "0"),
            ("g", "0"),
            ("h", "0"),
            ("i", ""),
        ];
        for _ in 0..3 {
            peer.ok(SEND_MESSAGE_V2, &send, b"body").await;
        }
        let pull = [
            ("consumerGroup", "g"),
            ("topic", "T"),
            ("queueId", "0"),
            ("queueOffset", "0"),
            ("maxMsgNums", "2"),
            ("sysFlag", "4"),
            ("commitOffset", "0"),
            ("suspendTimeoutMillis", "0"),
            ("subscription", "*"),
            ("subVersion", "0"),
        ];
        peer.ok(PULL_MESSAGE, &pull, b"").await;
        let put = peer.ok(VIEW_BROKER_STATS_DATA, &asked("TOPIC_PUT_NUMS", "T"), b"").await.json();
        assert_eq!((&put["statsMinute"]["sum"], &put["statsDay"]["sum"]), (&json!(3), &json!(3)));
        let stats = peer.ok(GET_TOPIC_STATS_INFO, &[("topic", "T")], b"").await.json();
        assert!(stats["topicPutTps"].as_f64().unwrap() > 0.0, "{stats}");
        let got = peer.ok(VIEW_BROKER_STATS_DATA, &asked("GROUP_GET_NUMS", "T@g"), b"").await.json();
        assert_eq!(got["statsHour"]["sum"], json!(2));
        let bytes = peer.ok(VIEW_BROKER_STATS_DATA, &asked("TOPIC_PUT_SIZE", "T"), b"").await.json();
        assert!(bytes["statsDay"]["sum"].as_i64().unwrap() > 3 * 80, "{bytes}");

        let commit = [("consumerGroup", "g"), ("topic", "T"), ("queueId", "0"), ("commitOffset", "99")];
        peer.ok(UPDATE_CONSUMER_OFFSET, &commit, b"").await;
        let lag = peer.ok(GET_BROKER_CONSUME_STATS, &[("isOrder", "false")], b"").await.json();
        assert_eq!(lag["totalDiff"], json!(0), "a lag is never negative: {lag}");
        let clone = [("srcGroup", "g"), ("destGroup", "h"), ("topic", "T"), ("offline", "true")];
        peer.ok(CLONE_GROUP_OFFSET, &clone, b"").await;
        let read = [("consumerGroup", "h"), ("topic", "T"), ("queueId", "0")];
        assert_eq!(peer.ok(QUERY_CONSUMER_OFFSET, &read, b"").await.field("offset").unwrap(), "99");
        let forbid = [("group", "g"), ("topic", "T"), ("readable", "false")];
        assert_eq!(peer.ok(UPDATE_AND_GET_GROUP_FORBIDDEN, &forbid, b"").await.json()["readable"], json!(false));
        let span = peer.ok(QUERY_CONSUME_TIME_SPAN, &[("topic", "T"), ("group", "h")], b"").await.json();
        assert_eq!(span["consumeTimeSpanSet"].as_array().unwrap().len(), 1);
    });
    broker.shutdown();
}

#[test]
fn settings_change_all_or_none_and_only_those_of_the_list() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("broker.conf");
    std::fs::write(&file, "# mine\nmaxMsgsNumBatch=64\n").unwrap();
    let broker = start(dir.path(), |config| {
        config.config_file = Some(file.clone());
        config.effective_properties = "maxMsgsNumBatch=64\nlistenPort=1\nautoCreateTopicEnable=true".into();
    });
    run(async {
        let peer = Peer::new(broker.addr());
        for bad in [
            "",
            "maxMsgsNumBatch=0",
            "maxMsgsNumBatch=7\nlistenPort=2",
            "brokerConfigPath=/x",
            "autoCreateTopicEnable=1",
        ] {
            let answer = peer.call(UPDATE_BROKER_CONFIG, &[], bad.as_bytes()).await;
            assert!(answer.code == 29 || answer.code == 16, "{bad}: {} {}", answer.code, answer.remark);
        }
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "# mine\nmaxMsgsNumBatch=64\n");
        for (mode, code) in [("1", 0), ("0", 0), ("2", 29), ("", 29)] {
            assert_eq!(peer.call(SET_COMMITLOG_READ_MODE, &[("READ_AHEAD_MODE", mode)], b"").await.code, code);
        }
        peer.ok(UPDATE_BROKER_CONFIG, &[], b"maxMsgsNumBatch=7\nautoCreateTopicEnable=false\n").await;
        let shown = peer.ok(GET_BROKER_CONFIG, &[], b"").await.text();
        assert_eq!(shown, "maxMsgsNumBatch=7\nlistenPort=1\nautoCreateTopicEnable=false\n");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "# mine\nmaxMsgsNumBatch=7\nautoCreateTopicEnable=false\n");
    });
    broker.shutdown();
}
