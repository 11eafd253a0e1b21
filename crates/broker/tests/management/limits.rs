//! Rate limits of topics, groups and connections, set while the broker runs.

use std::time::{Duration, Instant};

use ferromq_protocol::code::request::*;
use serde_json::json;

use crate::support::{Peer, run, start, start_with};

fn topic(attributes: &str) -> [(&str, &str); 8] {
    [
        ("topic", "T"),
        ("defaultTopic", "TBW102"),
        ("readQueueNums", "1"),
        ("writeQueueNums", "1"),
        ("perm", "6"),
        ("topicFilterType", "SINGLE_TAG"),
        ("order", "false"),
        ("attributes", attributes),
    ]
}

const SEND: [(&str, &str); 9] =
    [("a", "p"), ("b", "T"), ("c", "TBW102"), ("d", "1"), ("e", "0"), ("f", "0"), ("g", "0"), ("h", "0"), ("i", "")];

async fn sent(peer: &Peer, messages: usize) -> (usize, String) {
    let (mut accepted, mut remark) = (0, String::new());
    for _ in 0..messages {
        let answer = peer.call(SEND_MESSAGE_V2, &SEND, b"x").await;
        match answer.code {
            0 => accepted += 1,
            2 => remark = answer.remark,
            other => panic!("code {other}: {}", answer.remark),
        }
    }
    (accepted, remark)
}

#[test]
fn sends_beyond_a_limit_are_busy_until_it_is_lifted() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), |_| {});
    run(async {
        let (peer, other) = (Peer::new(broker.addr()), Peer::new(broker.addr()));
        peer.ok(UPDATE_AND_CREATE_TOPIC, &topic("+send.rate.limit=1"), b"").await;
        let (accepted, remark) = sent(&peer, 20).await;
        assert!((2..20).contains(&accepted), "{accepted} of 20 at one a second");
        assert!(remark.contains("topic attribute send.rate.limit") && remark.contains("retry after"), "{remark}");
        assert_eq!(peer.call(UPDATE_AND_CREATE_TOPIC, &topic("+send.rate.limit=-1"), b"").await.code, 1);
        peer.ok(UPDATE_AND_CREATE_TOPIC, &topic("-send.rate.limit"), b"").await;
        assert_eq!(sent(&peer, 20).await.0, 20);
        peer.ok(UPDATE_BROKER_CONFIG, &[], b"clientSendRateLimit=1").await;
        let (accepted, remark) = sent(&peer, 20).await;
        assert!((2..20).contains(&accepted) && remark.contains("clientSendRateLimit"), "{accepted} {remark}");
        assert_eq!(sent(&other, 2).await.0, 2, "another connection has its own limit");
        peer.ok(UPDATE_BROKER_CONFIG, &[], b"clientSendRateLimit=0").await;
        assert_eq!(sent(&peer, 20).await.0, 20);
    });
    broker.shutdown();
}

#[test]
fn a_refusal_waits_and_nothing_else_of_its_connection_does() {
    let dir = tempfile::tempdir().unwrap();
    // Nothing is forced to the disk while the test runs.
    let broker = start_with(dir.path(), |_| {}, |store| store.flush_interval_commit_log = 600_000);
    run(async {
        let peer = Peer::new(broker.addr());
        peer.ok(UPDATE_AND_CREATE_TOPIC, &topic("+send.unflushed.limit=1"), b"").await;
        let plain = topic("").map(|(key, value)| (key, if key == "topic" { "U" } else { value }));
        peer.ok(UPDATE_AND_CREATE_TOPIC, &plain, b"").await;
        assert_eq!(sent(&peer, 1).await.0, 1, "one is beyond the limit");
        let send = SEND.map(|(key, value)| (key, if key == "b" { "U" } else { value }));
        let mut overtaken = 0;
        for _ in 0..5 {
            let refused = async {
                assert_eq!(peer.call(SEND_MESSAGE_V2, &SEND, b"x").await.code, 2);
                Instant::now()
            };
            let taken = async {
                peer.ok(SEND_MESSAGE_V2, &send, b"x").await;
                Instant::now()
            };
            let (refused, taken) = tokio::join!(refused, taken);
            overtaken += usize::from(taken < refused);
        }
        assert!(overtaken > 0, "the send after a refused one is answered first");
    });
    broker.shutdown();
}

#[test]
fn pulls_beyond_a_groups_limit_are_answered_later() {
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), |_| {});
    run(async {
        let peer = Peer::new(broker.addr());
        peer.ok(UPDATE_AND_CREATE_TOPIC, &topic(""), b"").await;
        assert_eq!(sent(&peer, 30).await.0, 30);
        let group = json!({"groupName": "g", "attributes": {"+read.rate.limit": "5"}});
        assert_eq!(peer.post(UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, group).await.code, 0);
        let pull = |offset: &'static str| {
            [
                ("consumerGroup", "g"),
                ("topic", "T"),
                ("queueId", "0"),
                ("queueOffset", offset),
                ("maxMsgNums", "15"),
                ("sysFlag", "4"),
                ("commitOffset", "0"),
                ("suspendTimeoutMillis", "0"),
                ("subscription", "*"),
                ("subVersion", "0"),
            ]
        };
        let begun = Instant::now();
        assert_eq!(peer.ok(PULL_MESSAGE, &pull("0"), b"").await.field("nextBeginOffset").unwrap(), "15");
        peer.ok(PULL_MESSAGE, &pull("15"), b"").await;
        let paid = begun.elapsed();
        assert!(paid >= Duration::from_millis(1500), "answered after {paid:?}");
    });
    broker.shutdown();
}

#[test]
fn topics_marked_degradable_give_way_first_when_the_disk_falls_behind() {
    let dir = tempfile::tempdir().unwrap();
    // Nothing is forced to the disk while the test runs.
    let broker = start_with(dir.path(), |_| {}, |store| store.flush_interval_commit_log = 600_000);
    run(async {
        let peer = Peer::new(broker.addr());
        peer.ok(UPDATE_AND_CREATE_TOPIC, &topic("+degradable=true"), b"").await;
        let plain = topic("").map(|(key, value)| (key, if key == "topic" { "U" } else { value }));
        peer.ok(UPDATE_AND_CREATE_TOPIC, &plain, b"").await;
        assert_eq!(peer.call(UPDATE_AND_CREATE_TOPIC, &topic("+degradable=maybe"), b"").await.code, 1);
        peer.ok(UPDATE_BROKER_CONFIG, &[], b"maxUnflushedBytes=20000").await;
        let send = SEND.map(|(key, value)| (key, if key == "b" { "U" } else { value }));
        let mut accepted = [0, 0];
        let mut remarks = [String::new(), String::new()];
        for _ in 0..15 {
            for (of, header) in [&SEND, &send].into_iter().enumerate() {
                let answer = peer.call(SEND_MESSAGE_V2, header, &[b'x'; 1600]).await;
                match answer.code {
                    0 => accepted[of] += 1,
                    2 => remarks[of] = answer.remark,
                    other => panic!("code {other}: {}", answer.remark),
                }
            }
        }
        assert!(accepted[0] > 0 && accepted[1] > accepted[0] && accepted[1] < 15, "{accepted:?}");
        assert!(remarks[0].contains("attribute degradable") && remarks[1].contains("maxUnflushedBytes"), "{remarks:?}");
        peer.ok(UPDATE_BROKER_CONFIG, &[], b"maxUnflushedBytes=0").await;
        assert_eq!(sent(&peer, 5).await.0, 5);
    });
    broker.shutdown();
}

#[test]
fn a_topic_a_connection_and_a_producer_group_have_only_so_many_bytes_on_their_way_to_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    // Nothing is forced to the disk while the test runs.
    let broker = start_with(dir.path(), |_| {}, |store| store.flush_interval_commit_log = 600_000);
    run(async {
        let (peer, other) = (Peer::new(broker.addr()), Peer::new(broker.addr()));
        peer.ok(UPDATE_AND_CREATE_TOPIC, &topic("+send.unflushed.limit=1000"), b"").await;
        let (accepted, remark) = sent(&peer, 20).await;
        assert!((2..10).contains(&accepted), "{accepted} of 20");
        assert!(remark.contains(" bytes of topic T are not on the disk yet, 1000 may be"), "{remark}");
        let plain = topic("").map(|(key, value)| (key, if key == "topic" { "U" } else { value }));
        peer.ok(UPDATE_AND_CREATE_TOPIC, &plain, b"").await;
        let send = SEND.map(|(key, value)| (key, if key == "b" { "U" } else { value }));
        peer.ok(SEND_MESSAGE_V2, &send, &[b'x'; 400]).await;
        assert_eq!(peer.call(UPDATE_AND_CREATE_TOPIC, &topic("+send.unflushed.limit=-1"), b"").await.code, 1);
        peer.ok(UPDATE_AND_CREATE_TOPIC, &topic("-send.unflushed.limit"), b"").await;
        assert_eq!(sent(&peer, 5).await.0, 5);
        peer.ok(UPDATE_BROKER_CONFIG, &[], b"clientUnflushedLimit=1000").await;
        let (accepted, remark) = sent(&peer, 20).await;
        assert!((2..10).contains(&accepted) && remark.contains("setting clientUnflushedLimit"), "{accepted} {remark}");
        assert_eq!(sent(&other, 2).await.0, 2, "another connection has its own limit");
        peer.ok(UPDATE_BROKER_CONFIG, &[], b"clientUnflushedLimit=0\nproducerGroupUnflushedLimit=1000").await;
        let (accepted, remark) = sent(&peer, 20).await;
        assert!((2..10).contains(&accepted) && remark.contains("producerGroupUnflushedLimit"), "{accepted} {remark}");
        assert_eq!(sent(&other, 2).await.0, 0, "the same group on another connection has the same limit");
        let others = SEND.map(|(key, value)| (key, if key == "a" { "q" } else { value }));
        peer.ok(SEND_MESSAGE_V2, &others, b"x").await;
        peer.ok(UPDATE_BROKER_CONFIG, &[], b"producerGroupUnflushedLimit=0").await;
        assert_eq!(sent(&peer, 5).await.0, 5);
    });
    broker.shutdown();
}
