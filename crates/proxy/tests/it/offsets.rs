//! Reading by offsets, which RocketMQ's own proxy does not serve.

use crate::bench::{self, Client, resource};
use crate::pb::*;

fn queue(topic: &str, id: i32) -> Option<MessageQueue> {
    Some(MessageQueue { topic: resource(topic), id, ..MessageQueue::default() })
}

/// Status, bodies, and the offset to go on at.
async fn pull(client: &Client, topic: &str, offset: i64, wait: i64) -> (Code, Vec<String>, Option<i64>) {
    let asked = PullMessageRequest {
        group: resource("readers"),
        message_queue: queue(topic, 0),
        offset,
        batch_size: 32,
        filter_expression: None,
        long_polling_timeout: Some(prost_types::Duration { seconds: wait, nanos: 0 }),
    };
    let mut pieces = client.stream::<_, PullMessageResponse>("PullMessage", asked).await.unwrap();
    let (mut code, mut bodies, mut next) = (None, Vec::new(), None);
    while let Some(piece) = pieces.message().await.unwrap() {
        match piece.content.unwrap() {
            pull_message_response::Content::Status(status) => code = Some(status.code()),
            pull_message_response::Content::Message(message) => {
                bodies.push(String::from_utf8(message.body.to_vec()).unwrap());
            }
            pull_message_response::Content::NextOffset(offset) => next = Some(offset),
        }
    }
    (code.unwrap(), bodies, next)
}

async fn ends(client: &Client, topic: &str, policy: QueryOffsetPolicy) -> (Code, i64) {
    let asked =
        QueryOffsetRequest { message_queue: queue(topic, 0), query_offset_policy: policy.into(), timestamp: None };
    let answer: QueryOffsetResponse = client.call("QueryOffset", asked).await.unwrap();
    (answer.status.unwrap().code(), answer.offset)
}

async fn committed(client: &Client, topic: &str) -> (Code, i64) {
    let asked = GetOffsetRequest { group: resource("readers"), message_queue: queue(topic, 0) };
    let answer: GetOffsetResponse = client.call("GetOffset", asked).await.unwrap();
    (answer.status.unwrap().code(), answer.offset)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_is_read_from_any_offset_and_the_group_keeps_its_own() {
    let bench = bench::start();
    let client = bench.client("reader").await;
    for number in 0..3 {
        client.send("Read", format!("m{number}").as_bytes()).await;
    }
    let end = ends(&client, "Read", QueryOffsetPolicy::End).await;
    assert_eq!((ends(&client, "Read", QueryOffsetPolicy::Beginning).await, end), ((Code::Ok, 0), (Code::Ok, 3)));
    let all = ["m0", "m1", "m2"].map(str::to_owned).to_vec();
    assert_eq!(pull(&client, "Read", 0, 0).await, (Code::Ok, all.clone(), Some(3)));
    assert_eq!(pull(&client, "Read", 2, 0).await, (Code::Ok, all[2..].to_vec(), Some(3)));
    assert_eq!(pull(&client, "Read", 3, 0).await, (Code::MessageNotFound, vec![], Some(3)));
    assert_eq!(pull(&client, "Read", 99, 0).await, (Code::IllegalOffset, vec![], Some(3)));
    assert_eq!(pull(&client, "Read", -1, 0).await, (Code::IllegalOffset, vec![], None));
    assert_eq!(pull(&client, "sla/sh", 0, 0).await, (Code::IllegalTopic, vec![], None));

    // A pull that waits is answered by the next message.
    let (waiting, _) = tokio::join!(pull(&client, "Read", 3, 20), client.send("Read", b"m3"));
    assert_eq!(waiting, (Code::Ok, vec!["m3".to_owned()], Some(4)));

    assert_eq!(committed(&client, "Read").await.0, Code::OffsetNotFound);
    let update = |offset| UpdateOffsetRequest { group: resource("readers"), message_queue: queue("Read", 0), offset };
    let answer: UpdateOffsetResponse = client.call("UpdateOffset", update(2)).await.unwrap();
    assert_eq!(answer.status.unwrap().code(), Code::Ok);
    assert_eq!(committed(&client, "Read").await, (Code::Ok, 2));
    let answer: UpdateOffsetResponse = client.call("UpdateOffset", update(-2)).await.unwrap();
    assert_eq!(answer.status.unwrap().code(), Code::IllegalOffset);
    assert_eq!(committed(&client, "Read").await, (Code::Ok, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn queues_that_are_not_there_are_told() {
    let bench = bench::start();
    let client = bench.client("reader").await;
    client.send("Read", b"x").await;
    for id in [-1, 1, i32::MAX] {
        let asked = GetOffsetRequest { group: resource("readers"), message_queue: queue("Read", id) };
        let answer: GetOffsetResponse = client.call("GetOffset", asked).await.unwrap();
        assert_eq!(answer.status.unwrap().code(), Code::BadRequest, "{id}");
    }
    let by_time = QueryOffsetRequest {
        message_queue: queue("Read", 0),
        query_offset_policy: QueryOffsetPolicy::Timestamp.into(),
        timestamp: Some(prost_types::Timestamp { seconds: i64::MIN, nanos: -5 }),
    };
    let answer: QueryOffsetResponse = client.call("QueryOffset", by_time.clone()).await.unwrap();
    assert_eq!((answer.status.unwrap().code(), answer.offset), (Code::Ok, 0));
    let without = QueryOffsetRequest { timestamp: None, ..by_time };
    let answer: QueryOffsetResponse = client.call("QueryOffset", without).await.unwrap();
    assert_eq!(answer.status.unwrap().code(), Code::BadRequest);
}
