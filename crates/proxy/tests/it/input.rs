//! Requests that make no sense: each is answered by its status, and the connection goes on.

use tokio::net::TcpStream;

use crate::bench::{self, Client, resource};
use crate::pb::*;

const TOPICS: [&str; 5] = ["", "with space", "sla/sh", "TBW102", "SCHEDULE_TOPIC_XXXX"];

async fn status<Q, A>(client: &Client, name: &str, request: Q, of: impl Fn(A) -> Option<Status>) -> Code
where
    Q: prost::Message + Send + Sync + 'static,
    A: prost::Message + Default + Send + Sync + 'static,
{
    of(client.call(name, request).await.unwrap()).unwrap().code()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_without_a_client_id_is_refused() {
    let bench = bench::start();
    let nobody = bench.client("").await;
    let code =
        status(&nobody, "QueryRoute", QueryRouteRequest::default(), |answer: QueryRouteResponse| answer.status).await;
    assert_eq!(code, Code::ClientIdRequired);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_cannot_be_are_refused_by_every_call() {
    let bench = bench::start();
    let client = bench.client("names").await;
    for topic in TOPICS {
        let topic = resource(topic);
        let queue = Some(MessageQueue { topic: topic.clone(), ..MessageQueue::default() });
        let route = QueryRouteRequest { topic: topic.clone(), endpoints: None };
        assert_eq!(
            status(&client, "QueryRoute", route, |answer: QueryRouteResponse| answer.status).await,
            Code::IllegalTopic,
            "{topic:?}"
        );
        let mut message = bench::message("x", b"x");
        message.topic = topic.clone();
        let send = SendMessageRequest { messages: vec![message] };
        assert_eq!(
            status(&client, "SendMessage", send, |answer: SendMessageResponse| answer.status).await,
            Code::IllegalTopic,
            "{topic:?}"
        );
        let receive = ReceiveMessageRequest { group: resource("names"), message_queue: queue, ..Default::default() };
        assert_eq!(received(&client, receive).await, Code::IllegalTopic, "{topic:?}");
    }
    for group in ["", "with space", "CID_RMQ_SYS_x"] {
        let queue = Some(MessageQueue { topic: resource("Fine"), ..MessageQueue::default() });
        let receive = ReceiveMessageRequest { group: resource(group), message_queue: queue, ..Default::default() };
        assert_eq!(received(&client, receive).await, Code::IllegalConsumerGroup, "{group}");
    }
}

async fn received(client: &Client, request: ReceiveMessageRequest) -> Code {
    let mut pieces = client.stream::<_, ReceiveMessageResponse>("ReceiveMessage", request).await.unwrap();
    match pieces.message().await.unwrap().unwrap().content {
        Some(receive_message_response::Content::Status(status)) => status.code(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn receipt_handles_that_were_never_given_are_refused_or_change_nothing() {
    let bench = bench::start();
    let client = bench.client("forger").await;
    client.send("Forged", b"kept").await;
    let now = ferromq_common::clock::now_millis();
    let long = "9".repeat(100_000);
    let malformed = [
        String::new(),
        "handle".to_owned(),
        "1 2 3 4 5 6 7 8 9".to_owned(),
        format!("0 {now} 60000 0 0 broker-a"),
        format!("0 {now} 60000 0 0 broker-a {long} 0 0"),
    ];
    for handle in malformed {
        assert_eq!(forged(&client, &handle).await, [Code::InvalidReceiptHandle; 3], "{handle}");
    }
    assert!(bench.broker().shared().groups.get("forger").is_none(), "who only names a group makes none");
    // They can be read; what they speak of was never handed out.
    for handle in [
        format!("0 {now} 60000 0 0 broker-a 0 0 0"),
        format!("0 {now} 60000 99 0 elsewhere 0 0 0"),
        format!("0 {now} 60000 0 0 broker-a 0 -1 0"),
        format!("0 {now} {} 0 0 broker-a 0 0 0", i64::MAX),
        format!("{} {now} 60000 0 0 broker-a 2147483647 9223372036854775807 9223372036854775807", i64::MIN),
    ] {
        forged(&client, &handle).await;
    }
    let queue = MessageQueue { topic: resource("Forged"), ..MessageQueue::default() };
    let receive = ReceiveMessageRequest {
        group: resource("forger"),
        message_queue: Some(queue),
        batch_size: 1,
        invisible_duration: Some(prost_types::Duration { seconds: 10, nanos: 0 }),
        ..Default::default()
    };
    assert_eq!(received(&client, receive).await, Code::Ok, "the message is there");
}

/// What acknowledging, changing and forwarding come to.
async fn forged(client: &Client, handle: &str) -> [Code; 3] {
    let (group, topic) = (resource("forger"), resource("Forged"));
    let entry = AckMessageEntry { receipt_handle: handle.to_owned(), ..AckMessageEntry::default() };
    let ack = AckMessageRequest { group: group.clone(), topic: topic.clone(), entries: vec![entry] };
    let change = ChangeInvisibleDurationRequest {
        group: group.clone(),
        topic: topic.clone(),
        receipt_handle: handle.to_owned(),
        invisible_duration: Some(prost_types::Duration { seconds: 20, nanos: 0 }),
        ..Default::default()
    };
    let forward = ForwardMessageToDeadLetterQueueRequest {
        group,
        topic,
        receipt_handle: handle.to_owned(),
        ..Default::default()
    };
    [
        status(client, "AckMessage", ack, |answer: AckMessageResponse| answer.status).await,
        status(client, "ChangeInvisibleDuration", change, |answer: ChangeInvisibleDurationResponse| answer.status)
            .await,
        status(
            client,
            "ForwardMessageToDeadLetterQueue",
            forward,
            |answer: ForwardMessageToDeadLetterQueueResponse| answer.status,
        )
        .await,
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_request_end_the_call_and_not_the_connection() {
    let bench = bench::start();
    let (calls, connection) = h2::client::handshake(TcpStream::connect(bench.addr()).await.unwrap()).await.unwrap();
    tokio::spawn(connection);
    let junk: [&[u8]; 5] = [
        // A field that is longer than the message, a varint without an end, an unknown compression, half a head, no
        // message at all.
        &[0, 0, 0, 0, 2, 10, 200],
        &[0, 0, 0, 0, 11, 8, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255],
        &[1, 0, 0, 0, 1, 0],
        &[0, 0, 0],
        &[],
    ];
    for name in
        ["QueryRoute", "SendMessage", "ReceiveMessage", "AckMessage", "Telemetry", "EndTransaction", "NoSuchCall"]
    {
        for bytes in junk {
            let request = tonic::codegen::http::Request::post(format!(
                "http://localhost/apache.rocketmq.v2.MessagingService/{name}"
            ))
            .header("content-type", "application/grpc")
            .header("x-mq-client-id", "junk")
            .body(())
            .unwrap();
            let mut calls = calls.clone().ready().await.unwrap();
            let (answer, mut body) = calls.send_request(request, false).unwrap();
            body.send_data(bytes.to_vec().into(), true).unwrap();
            let (head, mut body) = answer.await.unwrap().into_parts();
            while let Some(part) = body.data().await {
                body.flow_control().release_capacity(part.unwrap().len()).unwrap();
            }
            let trailers = body.trailers().await.unwrap().unwrap_or_default();
            let status = head.headers.get("grpc-status").or(trailers.get("grpc-status")).unwrap();
            let is_silent_talk = name == "Telemetry" && status == "0";
            assert!(status != "0" || is_silent_talk, "{name} {bytes:?}: {head:?} {trailers:?}");
        }
    }
    bench.client("sane").await.send("Junk", b"served").await;
}
