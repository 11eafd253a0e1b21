//! What tools are told of lite topics, and what is refused.

use ferromq_broker::{BrokerConfig, LiteConfig};
use ferromq_protocol::body::LiteSubscriptionAction as Action;
use ferromq_protocol::code::{request, response};
use ferromq_protocol::header::lite::PopLiteMessageHeader;

use crate::client::*;
use crate::support::*;

#[test]
fn tools_are_told_of_the_broker_topics_clients_and_groups() {
    let bench = lite(&[]);
    subscribe(&bench, "c", &["a", "b"]);
    for body in ["0", "1", "2"] {
        send_lite(&bench, "a", body);
    }
    let popped = pop_all(&bench, "c", 3);
    ack_all(&bench, &popped[..1]);
    let broker = info(&bench, 200_074, &[]);
    assert_eq!(broker["liteSubscriptionCount"], 2);
    assert_eq!((&broker["currentLmqNum"], &broker["orderInfoCount"]), (&1.into(), &1.into()));
    assert_eq!(broker["topicMeta"], serde_json::json!({ "P": 1 }));
    assert_eq!(broker["groupMeta"], serde_json::json!({ "P": ["G"] }));
    let parent = info(&bench, 200_075, &[("topic", "P")]);
    assert_eq!((&parent["ttl"], &parent["liteTopicCount"]), (&1.into(), &1.into()));
    let topic = info(&bench, 200_076, &[("parentTopic", "P"), ("liteTopic", "a")]);
    assert_eq!(topic["subscriber"], serde_json::json!([{ "clientId": "c", "group": "G" }]));
    assert_eq!(topic["topicOffset"]["maxOffset"], 3);
    assert!(topic["topicOffset"]["lastUpdateTimestamp"].as_i64().unwrap() > 0);
    let client = info(&bench, 200_077, &[("parentTopic", "P"), ("group", "G"), ("clientId", "c"), ("maxCount", "1")]);
    assert_eq!((&client["liteTopicCount"], client["liteTopicSet"].as_array().unwrap().len()), (&2.into(), 1));
    assert!(client["lastAccessTime"].as_i64().unwrap() > 0 && client["lastConsumeTime"].as_i64().unwrap() > 0);
    let group = info(&bench, 200_078, &[("group", "G"), ("topK", "5")]);
    assert_eq!(group["totalLagCount"], 2);
    assert_eq!(group["lagCountTopK"][0]["liteTopic"], "a");
    assert_eq!(group["lagTimestampTopK"][0]["lagCount"], 2);
    let one = info(&bench, 200_078, &[("group", "G"), ("liteTopic", "a")]);
    assert_eq!(one["liteTopicOffsetWrapper"]["consumerOffset"], 1);
    assert_eq!(info(&bench, 200_078, &[("group", "G"), ("liteTopic", "none")])["totalLagCount"], -1);
    let triggered = bench.call(request::TRIGGER_LITE_DISPATCH, b"", |frame| {
        frame.str("group", "G").str("clientId", "c");
    });
    assert_eq!(code(&triggered), 0);
}

#[test]
fn what_does_not_fit_is_refused_with_the_reason() {
    let mut config = lite_config();
    config.lite = LiteConfig { max_lite_subscription_count: 2, ..LiteConfig::default() };
    let bench = lite_with(
        config,
        |store| {
            with_lights(store);
            store.max_lmq_consume_queue_num = 2;
        },
        &[],
    );
    subscribe(&bench, "c", &["a", "b"]);
    let refused = sync(&bench, change("c", Action::PartialAdd, &["c"]));
    assert_eq!(code(&refused), response::LITE_SUBSCRIPTION_QUOTA_EXCEEDED, "{}", remark(&refused));
    subscribe(&bench, "c", &["a"]);
    send_lite(&bench, "a", "0");
    send_lite(&bench, "b", "0");
    for (lite, expected) in [("c", response::LMQ_QUOTA_EXCEEDED), ("a$b", response::MESSAGE_ILLEGAL), ("a,b", 13)] {
        let answer = bench.send(PARENT, 0, &format!("__LITE_TOPIC\u{1}{lite}\u{2}"), b"x");
        assert_eq!(code(&answer), expected, "{lite}: {}", remark(&answer));
    }
    for (header, expected) in [
        (PopLiteMessageHeader { topic: "none".into(), ..pop_header("c") }, response::TOPIC_NOT_EXIST),
        (PopLiteMessageHeader { topic: "TBW102".into(), ..pop_header("c") }, response::INVALID_PARAMETER),
        (PopLiteMessageHeader { consumer_group: "other".into(), ..pop_header("c") }, response::INVALID_PARAMETER),
        (PopLiteMessageHeader { max_msg_num: 33, ..pop_header("c") }, response::INVALID_PARAMETER),
        (PopLiteMessageHeader { invisible_time: 0, ..pop_header("c") }, response::INVALID_PARAMETER),
    ] {
        assert_eq!(code(&pop_as(&bench, &header).0), expected, "{header:?}");
    }
    let message = pop_all(&bench, "c", 2).remove(0);
    let far = Message { offset: 7, ..message.clone() };
    assert_eq!(code(&ack(&bench, &far)), response::NO_MESSAGE);
    let other = Message { handle: message.handle.replace(" 999 ", " 3 "), ..message.clone() };
    assert_eq!(code(&ack(&bench, &other)), response::INVALID_PARAMETER);
    let empty = bench.call(request::LITE_SUBSCRIPTION_CTL, b"{}", |_| {});
    assert_eq!(code(&empty), response::ILLEGAL_OPERATION);
    for (asked, fields) in [
        (request::GET_PARENT_TOPIC_INFO, [("topic", "none"), ("a", "b")]),
        (request::GET_PARENT_TOPIC_INFO, [("topic", "TBW102"), ("a", "b")]),
        (request::GET_LITE_GROUP_INFO, [("group", "TOOLS_CONSUMER"), ("a", "b")]),
        (request::TRIGGER_LITE_DISPATCH, [("group", "TOOLS_CONSUMER"), ("a", "b")]),
    ] {
        let answer = bench.call(asked, b"", |frame| {
            fields.iter().for_each(|(key, value)| {
                frame.str(key, value);
            });
        });
        assert_ne!(code(&answer), 0, "{asked}");
        assert!(!remark(&answer).is_empty());
    }
}

#[test]
fn without_light_queues_nobody_is_left_waiting_in_vain() {
    let bench = lite_with(BrokerConfig { enable_lmq: true, ..config() }, |_| {}, &[]);
    let refused = sync(&bench, change("c", Action::CompleteAdd, &["a"]));
    assert_eq!(code(&refused), response::ILLEGAL_OPERATION);
    let answer = bench.send(PARENT, 0, "__LITE_TOPIC\u{1}a\u{2}", b"x");
    assert_eq!(code(&answer), response::MESSAGE_ILLEGAL);
    assert!(remark(&answer).contains("enableMultiDispatch"));
}
