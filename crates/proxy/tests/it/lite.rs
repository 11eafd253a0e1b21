//! Lite topics as gRPC clients see them.

use ferromq_protocol::body::{SubscriptionGroupConfig, TopicConfig};

use crate::bench::{self, Bench, Client, message, resource};
use crate::pb::receive_message_response::Content;
use crate::pb::telemetry_command::Command;
use crate::pb::*;

const PARENT: &str = "Sessions";
const GROUP: &str = "answering";

fn start() -> Bench {
    let bench = bench::start();
    let attributes = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| (format!("+{k}"), v.to_string())).collect();
    let topic = TopicConfig {
        topic_name: PARENT.into(),
        read_queue_nums: 2,
        write_queue_nums: 2,
        perm: 6,
        attributes: attributes(&[("message.type", "LITE")]),
        ..TopicConfig::default()
    };
    let group = SubscriptionGroupConfig {
        group_name: GROUP.into(),
        attributes: attributes(&[
            ("lite.bind.topic", PARENT),
            ("lite.sub.model", "Exclusive"),
            ("lite.sub.client.quota", "5"),
        ]),
        ..SubscriptionGroupConfig::default()
    };
    let shared = bench.broker().shared();
    shared.topics.update(vec![topic]).unwrap();
    shared.groups.update(vec![group]).unwrap();
    bench
}

fn settings(kind: ClientType) -> Settings {
    let entry = SubscriptionEntry { topic: resource(PARENT), expression: None };
    let subscription = Subscription { group: resource(GROUP), subscriptions: vec![entry], ..Subscription::default() };
    Settings {
        client_type: Some(kind.into()),
        pub_sub: Some(settings::PubSub::Subscription(subscription)),
        ..Settings::default()
    }
}

async fn sync(client: &Client, action: LiteSubscriptionAction, topics: &[&str]) -> Code {
    let request = SyncLiteSubscriptionRequest {
        action: action.into(),
        topic: resource(PARENT),
        group: resource(GROUP),
        lite_topic_set: topics.iter().map(|topic| (*topic).to_owned()).collect(),
        ..SyncLiteSubscriptionRequest::default()
    };
    let answer: SyncLiteSubscriptionResponse = client.call("SyncLiteSubscription", request).await.unwrap();
    answer.status.unwrap().code()
}

async fn send(client: &Client, lite: &str, body: &str) -> Code {
    let mut message = message(PARENT, body.as_bytes());
    let system = message.system_properties.as_mut().unwrap();
    (system.lite_topic, system.message_type) = (Some(lite.into()), MessageType::Lite.into());
    let answer: SendMessageResponse =
        client.call("SendMessage", SendMessageRequest { messages: vec![message] }).await.unwrap();
    answer.status.unwrap().code()
}

async fn receive(client: &Client) -> Vec<SystemProperties> {
    let request = ReceiveMessageRequest {
        group: resource(GROUP),
        message_queue: Some(MessageQueue { topic: resource(PARENT), ..MessageQueue::default() }),
        batch_size: 32,
        invisible_duration: Some(prost_types::Duration { seconds: 10, nanos: 0 }),
        long_polling_timeout: Some(prost_types::Duration { seconds: 20, nanos: 0 }),
        ..ReceiveMessageRequest::default()
    };
    let mut pieces = client.stream::<_, ReceiveMessageResponse>("ReceiveMessage", request).await.unwrap();
    let mut found = Vec::new();
    while let Some(piece) = pieces.message().await.unwrap() {
        if let Some(Content::Message(message)) = piece.content {
            found.push(message.system_properties.unwrap());
        }
    }
    found
}

async fn ack(client: &Client, message: &SystemProperties) -> Code {
    let entry = AckMessageEntry {
        message_id: message.message_id.clone(),
        receipt_handle: message.receipt_handle.clone().unwrap(),
        lite_topic: message.lite_topic.clone(),
    };
    let request = AckMessageRequest { topic: resource(PARENT), group: resource(GROUP), entries: vec![entry] };
    let answer: AckMessageResponse = client.call("AckMessage", request).await.unwrap();
    answer.status.unwrap().code()
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_lite_topics_are_received_acknowledged_and_made_visible_again() {
    let bench = start();
    let client = bench.client("lite-client").await;
    let (_say, _heard) = client.talk(settings(ClientType::LitePushConsumer)).await.unwrap();
    assert_eq!(sync(&client, LiteSubscriptionAction::PartialAdd, &["a", "b"]).await, Code::Ok);
    assert_eq!(send(&client, "a", "0").await, Code::Ok);
    let first = receive(&client).await.remove(0);
    assert_eq!((first.lite_topic.as_deref(), first.delivery_attempt), (Some("a"), Some(1)));
    assert_eq!(first.message_type(), MessageType::Lite);
    let change = ChangeInvisibleDurationRequest {
        topic: resource(PARENT),
        group: resource(GROUP),
        receipt_handle: first.receipt_handle.clone().unwrap(),
        invisible_duration: Some(prost_types::Duration::default()),
        message_id: first.message_id.clone(),
        lite_topic: first.lite_topic.clone(),
        ..ChangeInvisibleDurationRequest::default()
    };
    let changed: ChangeInvisibleDurationResponse = client.call("ChangeInvisibleDuration", change).await.unwrap();
    assert_eq!(changed.status.unwrap().code(), Code::Ok);
    let again = receive(&client).await.remove(0);
    assert_eq!(again.delivery_attempt, Some(2));
    let dead = ForwardMessageToDeadLetterQueueRequest {
        topic: resource(PARENT),
        group: resource(GROUP),
        receipt_handle: again.receipt_handle.clone().unwrap(),
        message_id: again.message_id.clone(),
        delivery_attempt: 2,
        max_delivery_attempts: 2,
        lite_topic: again.lite_topic.clone(),
    };
    let forwarded: ForwardMessageToDeadLetterQueueResponse =
        client.call("ForwardMessageToDeadLetterQueue", dead).await.unwrap();
    assert_eq!(forwarded.status.unwrap().code(), Code::Ok);
    assert_eq!(send(&client, "b", "1").await, Code::Ok);
    let next = receive(&client).await;
    assert_eq!((next.len(), next[0].lite_topic.as_deref()), (1, Some("b")));
    assert_eq!(ack(&client, &next[0]).await, Code::Ok);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_hears_that_another_has_taken_its_lite_topic() {
    let bench = start();
    let (first, second) = (bench.client("first").await, bench.client("second").await);
    let (_say, mut heard) = first.talk(settings(ClientType::LitePushConsumer)).await.unwrap();
    let (_other, _unheard) = second.talk(settings(ClientType::LitePushConsumer)).await.unwrap();
    assert_eq!(sync(&first, LiteSubscriptionAction::CompleteAdd, &["a"]).await, Code::Ok);
    assert_eq!(sync(&second, LiteSubscriptionAction::PartialAdd, &["a"]).await, Code::Ok);
    let Some(Command::NotifyUnsubscribeLiteCommand(told)) = heard.message().await.unwrap().unwrap().command else {
        panic!("another command");
    };
    assert_eq!(told.lite_topic, "a");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_a_lite_topic_is_refused() {
    let bench = start();
    let client = bench.client("lite-client").await;
    let refused = client.talk(settings(ClientType::PushConsumer)).await;
    assert!(refused.is_err(), "a lite group has lite consumers");
    let (_say, _heard) = client.talk(settings(ClientType::LitePushConsumer)).await.unwrap();
    assert_eq!(sync(&client, LiteSubscriptionAction::PartialAdd, &["a b"]).await, Code::IllegalLiteTopic);
    let many: Vec<String> = (0..306).map(|n| format!("t{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let outcome = sync(&client, LiteSubscriptionAction::PartialAdd, &many).await;
    assert_eq!(outcome, Code::LiteSubscriptionQuotaExceeded);
    assert_eq!(send(&client, "a$b", "x").await, Code::IllegalLiteTopic);
    assert_eq!(send(&client, &"x".repeat(65), "x").await, Code::IllegalLiteTopic);
}
