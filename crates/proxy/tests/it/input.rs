//! Requests that make no sense: each is answered by its status, and the connection goes on.

use ferromq_protocol::body::TopicConfig;
use tokio::net::TcpStream;

use crate::bench::{self, Client, resource};
use crate::pb::*;

const TOPICS: [&str; 5] = ["", "with space", "sla/sh", "TBW102", "SCHEDULE_TOPIC_XXXX"];

/// The code of a call's answer.
macro_rules! code {
    ($client:expr, $name:literal, $answer:ident, $request:expr) => {
        status(&$client, $name, $request, |answer: $answer| answer.status).await
    };
}

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
        let receive =
            ReceiveMessageRequest { group: resource("names"), message_queue: queue.clone(), ..Default::default() };
        assert_eq!(received(&client, receive).await, Code::IllegalTopic, "{topic:?}");
        let of_queue = of_queue(&client, queue, "names").await;
        assert_eq!(of_queue, [Code::IllegalTopic; 3], "{topic:?}");
        let of_group = of_group(&client, topic.clone(), "names").await;
        assert_eq!(of_group, [Code::IllegalTopic; 5], "{topic:?}");
        let end = EndTransactionRequest { topic: topic.clone(), ..Default::default() };
        assert_eq!(code!(client, "EndTransaction", EndTransactionResponse, end), Code::IllegalTopic, "{topic:?}");
        let recall = RecallMessageRequest { topic: topic.clone(), ..Default::default() };
        assert_eq!(code!(client, "RecallMessage", RecallMessageResponse, recall), Code::IllegalTopic, "{topic:?}");
    }
    client.send("Fine", b"makes the topic").await;
    for group in ["", "with space", "CID_RMQ_SYS_x"] {
        let queue = Some(MessageQueue { topic: resource("Fine"), ..MessageQueue::default() });
        let receive =
            ReceiveMessageRequest { group: resource(group), message_queue: queue.clone(), ..Default::default() };
        assert_eq!(received(&client, receive).await, Code::IllegalConsumerGroup, "{group}");
        assert_eq!(of_queue(&client, queue, group).await, [Code::IllegalConsumerGroup; 3], "{group}");
        let of_group = of_group(&client, resource("Fine"), group).await;
        assert_eq!(of_group, [Code::IllegalConsumerGroup; 5], "{group}");
        let beat = HeartbeatRequest { group: resource(group), client_type: ClientType::SimpleConsumer.into() };
        assert_eq!(code!(client, "Heartbeat", HeartbeatResponse, beat), Code::IllegalConsumerGroup, "{group}");
    }
}

/// What calls about one queue say of a topic and a group.
async fn of_queue(client: &Client, queue: Option<MessageQueue>, group: &str) -> [Code; 3] {
    let group = resource(group);
    let pull = PullMessageRequest { group: group.clone(), message_queue: queue.clone(), ..Default::default() };
    let mut pieces = client.stream::<_, PullMessageResponse>("PullMessage", pull).await.unwrap();
    let pulled = match pieces.message().await.unwrap().unwrap().content {
        Some(pull_message_response::Content::Status(status)) => status.code(),
        other => panic!("{other:?}"),
    };
    let update = UpdateOffsetRequest { group: group.clone(), message_queue: queue.clone(), offset: 0 };
    let get = GetOffsetRequest { group, message_queue: queue };
    [
        pulled,
        code!(client, "UpdateOffset", UpdateOffsetResponse, update),
        code!(client, "GetOffset", GetOffsetResponse, get),
    ]
}

/// What calls of members of a group say of a topic and the group.
async fn of_group(client: &Client, topic: Option<Resource>, group: &str) -> [Code; 5] {
    let group = resource(group);
    let assignment = QueryAssignmentRequest { topic: topic.clone(), group: group.clone(), endpoints: None };
    let ack = AckMessageRequest { group: group.clone(), topic: topic.clone(), entries: Vec::new() };
    let change = ChangeInvisibleDurationRequest { group: group.clone(), topic: topic.clone(), ..Default::default() };
    let forward =
        ForwardMessageToDeadLetterQueueRequest { group: group.clone(), topic: topic.clone(), ..Default::default() };
    let sync = SyncLiteSubscriptionRequest { group, topic, ..Default::default() };
    [
        code!(client, "QueryAssignment", QueryAssignmentResponse, assignment),
        code!(client, "AckMessage", AckMessageResponse, ack),
        code!(client, "ChangeInvisibleDuration", ChangeInvisibleDurationResponse, change),
        code!(client, "ForwardMessageToDeadLetterQueue", ForwardMessageToDeadLetterQueueResponse, forward),
        code!(client, "SyncLiteSubscription", SyncLiteSubscriptionResponse, sync),
    ]
}

/// A message that is not as it should be, or might be.
fn wrong(change: impl FnOnce(&mut Message, &mut SystemProperties)) -> SendMessageRequest {
    let mut message = bench::message("Checked", b"x");
    let mut system = message.system_properties.take().unwrap();
    change(&mut message, &mut system);
    message.system_properties = Some(system);
    SendMessageRequest { messages: vec![message] }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_cannot_be_are_refused_and_nothing_of_them_is_stored() {
    let bench = bench::start();
    let client = bench.client("sender").await;
    let many = |count: usize| (0..count).map(|n| (format!("p{n}"), "v".to_owned())).collect();
    let far = prost_types::Timestamp { seconds: 4_102_444_800, nanos: 0 };
    let text = |text: &str| Some(text.to_owned());
    let one = || bench::message("Checked", b"x");
    let elsewhere = bench::message("Elsewhere", b"x");
    let table = [
        ("no message", SendMessageRequest::default(), Code::MessageCorrupted),
        ("two topics", SendMessageRequest { messages: vec![one(), elsewhere] }, Code::MessageCorrupted),
        ("1025 messages", SendMessageRequest { messages: vec![one(); 1025] }, Code::MessageCorrupted),
        ("no body", wrong(|message, _| message.body.clear()), Code::MessageBodyEmpty),
        ("129 properties", wrong(|message, _| message.user_properties = many(129)), Code::MessagePropertiesTooLarge),
        (
            "a large property",
            wrong(|message, _| drop(message.user_properties.insert("p".into(), "v".repeat(16 * 1024)))),
            Code::MessagePropertiesTooLarge,
        ),
        ("large keys", wrong(|_, system| system.keys = vec!["k".repeat(17_000)]), Code::MessagePropertiesTooLarge),
        (
            "a property of RocketMQ's own",
            wrong(|message, _| drop(message.user_properties.insert("KEYS".into(), "v".into()))),
            Code::IllegalMessagePropertyKey,
        ),
        (
            "a property that would end the text of another",
            wrong(|message, _| drop(message.user_properties.insert("p".into(), "v\u{2}q\u{1}w".into()))),
            Code::IllegalMessagePropertyKey,
        ),
        ("no id", wrong(|_, system| system.message_id.clear()), Code::IllegalMessageId),
        ("two tags", wrong(|_, system| system.tag = text("a|b")), Code::IllegalMessageTag),
        ("an empty tag", wrong(|_, system| system.tag = text(" ")), Code::IllegalMessageTag),
        ("an empty key", wrong(|_, system| system.keys = vec![String::new()]), Code::IllegalMessageKey),
        ("a long group", wrong(|_, system| system.message_group = text(&"g".repeat(64))), Code::IllegalMessageGroup),
        ("an illegal lite topic", wrong(|_, system| system.lite_topic = text("a/b")), Code::IllegalLiteTopic),
        ("a delivery in 2100", wrong(|_, system| system.delivery_timestamp = Some(far)), Code::IllegalDeliveryTime),
        ("a negative priority", wrong(|_, system| system.priority = Some(-1)), Code::BadRequest),
    ];
    for (what, request, expected) in table {
        assert_eq!(code!(client, "SendMessage", SendMessageResponse, request), expected, "{what}");
    }
    let answer: SendMessageResponse = client.call("SendMessage", wrong(|_, _| {})).await.unwrap();
    assert_eq!((answer.status.unwrap().code(), answer.entries[0].offset), (Code::Ok, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_contradict_themselves_end_their_stream_alone() {
    let bench = bench::start();
    let client = bench.client("undecided").await;
    let of = |client_type: ClientType, pub_sub| Settings {
        client_type: Some(client_type.into()),
        pub_sub,
        ..Settings::default()
    };
    let consuming = |group: &str, topics: &[&str]| {
        let entry = |topic: &&str| SubscriptionEntry { topic: resource(topic), expression: None };
        let subscriptions = topics.iter().map(entry).collect();
        let subscription = Subscription { group: resource(group), subscriptions, ..Subscription::default() };
        Some(settings::PubSub::Subscription(subscription))
    };
    let producing = |topics: &[&str]| {
        let topics = topics.iter().filter_map(|topic| resource(topic)).collect();
        Some(settings::PubSub::Publishing(Publishing { topics, ..Publishing::default() }))
    };
    for (what, settings) in [
        ("neither producer nor consumer", of(ClientType::PushConsumer, None)),
        ("a consumer that says it is a producer", of(ClientType::Producer, consuming("fine", &["Fine"]))),
        ("lite topics of a group that has none", of(ClientType::LitePushConsumer, consuming("fine", &["Fine"]))),
        ("a consumer of no group", of(ClientType::PushConsumer, consuming("", &["Fine"]))),
        ("a consumer of a system topic", of(ClientType::PushConsumer, consuming("fine", &["TBW102"]))),
        ("a producer for no topic's name", of(ClientType::Producer, producing(&["with space"]))),
        ("too many topics", of(ClientType::Producer, producing(&["Fine"; 1001]))),
    ] {
        let refused = client.talk(settings).await.map(drop);
        assert_eq!(refused.unwrap_err().code(), tonic::Code::InvalidArgument, "{what}");
    }
    client.talk(of(ClientType::PushConsumer, consuming("fine", &["Fine"]))).await.unwrap();
    // A client may change its mind.
    client.talk(of(ClientType::SimpleConsumer, consuming("other", &["Fine", "Other"]))).await.unwrap();
    client.send("Fine", b"served").await;
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
        // Its time is over.
        format!("0 {} 10000 0 0 broker-a 0 0 0", now - 10_001),
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

#[tokio::test(flavor = "multi_thread")]
async fn a_delay_may_be_as_long_as_the_broker_allows_and_no_longer() {
    const DAY: i64 = 24 * 3600;
    let bench = bench::start();
    let topic = TopicConfig {
        topic_name: "Checked".into(),
        read_queue_nums: 1,
        write_queue_nums: 1,
        perm: 6,
        attributes: [("+message.type".to_owned(), "DELAY".to_owned())].into(),
        ..TopicConfig::default()
    };
    bench.broker().shared().topics.update(vec![topic]).unwrap();
    let client = bench.client("patient").await;
    let now = ferromq_common::clock::now_millis() / 1000;
    for (days, expected) in [(2, Code::Ok), (4, Code::IllegalDeliveryTime)] {
        let at = prost_types::Timestamp { seconds: now + days * DAY, nanos: 0 };
        let request = wrong(|_, system| system.delivery_timestamp = Some(at));
        assert_eq!(code!(client, "SendMessage", SendMessageResponse, request), expected, "{days} days");
    }
}
