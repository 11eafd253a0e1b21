//! A consumer of lite topics by raw requests.

use std::sync::Arc;

use ferromq_broker::BrokerConfig;
use ferromq_protocol::body::{
    LiteSubscription, LiteSubscriptionAction, LiteSubscriptionCtlRequestBody, SubscriptionGroupConfig, TopicConfig,
};
use ferromq_protocol::code::request;
use ferromq_protocol::header::lite::{NotifyUnsubscribeLiteHeader, PopLiteMessageHeader};
use ferromq_protocol::header::pop::{AckMessageHeader, ChangeInvisibleTimeHeader};
use ferromq_protocol::pop::{Origin, ReceiptHandle};
use ferromq_protocol::{OwnedCommand, Text, json, record};
use ferromq_remoting::{Client, ClientConfig, Connection, Requests, Service};
use ferromq_store::StoreConfig;
use parking_lot::Mutex;

use crate::support::*;

pub const PARENT: &str = "P";

/// Lite topics that were taken off a client of this process, as `client group lite`.
#[derive(Default)]
pub struct Notices(pub Mutex<Vec<String>>);

impl Service for Notices {
    fn serve(&self, _: &Arc<Connection>, requests: &mut Requests<'_>, _: &mut Vec<u8>) {
        for command in requests.filter(|command| command.head.code == request::NOTIFY_UNSUBSCRIBE_LITE) {
            let header = NotifyUnsubscribeLiteHeader::read(&command.fields).unwrap();
            let texts = [header.client_id, header.consumer_group, header.lite_topic].map(|text| text.to_lossy());
            self.0.lock().push(texts.join(" "));
        }
    }
}

pub fn with_lights(store: &mut StoreConfig) {
    store.mapped_file_size_commit_log = 1 << 20;
    store.multi_dispatch = true;
}

pub fn lite_config() -> BrokerConfig {
    BrokerConfig { enable_lmq: true, ..config() }
}

/// A broker with the parent topic, and one group `G` with these attributes besides its parent.
pub fn lite(attributes: &[(&str, &str)]) -> Bench {
    lite_with(lite_config(), with_lights, attributes)
}

pub fn lite_with(config: BrokerConfig, store: impl Fn(&mut StoreConfig), attributes: &[(&str, &str)]) -> Bench {
    let bench = start_with(config, store);
    let topic = TopicConfig {
        topic_name: PARENT.into(),
        read_queue_nums: 4,
        write_queue_nums: 4,
        perm: 6,
        attributes: pairs(&[("message.type", "LITE"), ("lite.topic.expiration", "1")]),
        ..TopicConfig::default()
    };
    bench.broker.as_ref().unwrap().shared().topics.update(vec![topic]).unwrap();
    group(&bench, "G", attributes);
    bench
}

pub fn group(bench: &Bench, name: &str, attributes: &[(&str, &str)]) {
    let mut all = pairs(attributes);
    all.insert("+lite.bind.topic".into(), PARENT.into());
    let group = SubscriptionGroupConfig { group_name: name.into(), attributes: all, ..Default::default() };
    let answer =
        bench.call(request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, &json::to_vec_standard(&group).unwrap(), |_| {});
    assert_eq!(code(&answer), 0, "{}", remark(&answer));
}

fn pairs(of: &[(&str, &str)]) -> std::collections::BTreeMap<String, String> {
    of.iter().map(|(key, value)| (format!("+{key}"), (*value).to_owned())).collect()
}

/// Lets the bench be asked by the broker.
pub fn listen(bench: &mut Bench) -> Arc<Notices> {
    let notices = Arc::new(Notices::default());
    bench.client = Client::new(ClientConfig::default(), Some(Arc::clone(&notices) as Arc<dyn Service>));
    notices
}

/// Sends a message to a lite topic.
pub fn send_lite(bench: &Bench, lite: &str, body: &str) {
    let answer = bench.send(PARENT, 0, &format!("__LITE_TOPIC\u{1}{lite}\u{2}TAGS\u{1}t\u{2}"), body.as_bytes());
    assert_eq!(code(&answer), 0, "{}", remark(&answer));
}

pub fn change(client: &str, action: LiteSubscriptionAction, topics: &[&str]) -> LiteSubscription {
    LiteSubscription {
        action,
        client_id: client.into(),
        group: "G".into(),
        topic: PARENT.into(),
        lite_topic_set: topics.iter().map(|topic| (*topic).to_owned()).collect(),
        ..LiteSubscription::default()
    }
}

pub fn sync(bench: &Bench, change: LiteSubscription) -> OwnedCommand {
    let body = LiteSubscriptionCtlRequestBody { subscription_set: vec![change] };
    bench.call(request::LITE_SUBSCRIPTION_CTL, &json::to_vec_standard(&body).unwrap(), |_| {})
}

pub fn subscribe(bench: &Bench, client: &str, topics: &[&str]) {
    let answer = sync(bench, change(client, LiteSubscriptionAction::PartialAdd, topics));
    assert_eq!(code(&answer), 0, "{}", remark(&answer));
}

/// A message with the handle a client would make.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    pub body: String,
    pub lite: String,
    pub offset: i64,
    /// How often it was handed out before.
    pub times: i32,
    pub handle: String,
}

pub fn pop_header(client: &str) -> PopLiteMessageHeader<'_> {
    PopLiteMessageHeader {
        client_id: Text::plain(client),
        consumer_group: Text::plain("G"),
        topic: Text::plain(PARENT),
        max_msg_num: 32,
        invisible_time: 60_000,
        poll_time: 0,
        ..PopLiteMessageHeader::default()
    }
}

pub fn pop_as(bench: &Bench, header: &PopLiteMessageHeader<'_>) -> (OwnedCommand, Vec<Message>) {
    let answer = bench.call(request::POP_LITE_MESSAGE, b"", |frame| header.write(frame));
    let messages = messages(&answer);
    (answer, messages)
}

/// As official clients read an answer.
fn messages(answer: &OwnedCommand) -> Vec<Message> {
    let counts = field(answer, "orderCountInfo").unwrap_or_default();
    let mut counts = counts.split(';');
    let mut bytes = answer.body();
    let mut found = Vec::new();
    while let record::Entry::Record(one) = record::read(bytes) {
        bytes = &bytes[one.bytes().len()..];
        let get = |name| ferromq_protocol::properties::get_str(one.properties(), name).unwrap();
        let offset = get("INNER_MULTI_QUEUE_OFFSET").parse().unwrap();
        let lite = get("__LITE_TOPIC");
        assert_eq!(get("INNER_MULTI_DISPATCH"), format!("%LMQ%${PARENT}${lite}"));
        let handle = ReceiptHandle {
            start_offset: 0,
            pop_time: number(answer, "popTime").unwrap(),
            invisible_time: number(answer, "invisibleTime").unwrap(),
            revive_queue: number(answer, "reviveQid").unwrap() as i32,
            origin: Origin::Topic,
            broker_name: "broker-a",
            queue_id: Some(0),
            queue_offset: Some(offset),
        };
        found.push(Message {
            body: String::from_utf8_lossy(one.body()).into_owned(),
            lite: lite.into(),
            offset,
            times: counts.next().unwrap().parse().unwrap(),
            handle: handle.to_string(),
        });
    }
    assert!(bytes.is_empty());
    found
}

/// One pop that does not wait.
pub fn pop(bench: &Bench, client: &str) -> Vec<Message> {
    pop_as(bench, &pop_header(client)).1
}

/// Pops until so many messages came.
pub fn pop_all(bench: &Bench, client: &str, count: usize) -> Vec<Message> {
    let mut found = Vec::new();
    wait_until("popped messages", || {
        found.extend(pop_as(bench, &PopLiteMessageHeader { poll_time: 500, ..pop_header(client) }).1);
        found.len() >= count
    });
    found
}

pub fn bodies(messages: &[Message]) -> Vec<&str> {
    messages.iter().map(|message| message.body.as_str()).collect()
}

pub fn ack(bench: &Bench, message: &Message) -> OwnedCommand {
    let header = AckMessageHeader {
        consumer_group: Text::plain("G"),
        topic: Text::plain(PARENT),
        queue_id: 0,
        extra_info: Text::plain(&message.handle),
        offset: message.offset,
        lite_topic: Some(Text::plain(&message.lite)),
    };
    bench.call(request::ACK_MESSAGE, b"", |frame| header.write(frame))
}

pub fn ack_all(bench: &Bench, messages: &[Message]) {
    for message in messages {
        let answer = ack(bench, message);
        assert_eq!(code(&answer), 0, "{}", remark(&answer));
    }
}

/// Changes the invisible time; the answer.
pub fn change_time(bench: &Bench, message: &Message, invisible_time: i64, suspend: bool) -> OwnedCommand {
    let header = ChangeInvisibleTimeHeader {
        consumer_group: Text::plain("G"),
        topic: Text::plain(PARENT),
        queue_id: 0,
        extra_info: Text::plain(&message.handle),
        offset: message.offset,
        invisible_time,
        lite_topic: Some(Text::plain(&message.lite)),
        suspend,
    };
    bench.call(request::CHANGE_MESSAGE_INVISIBLETIME, b"", |frame| header.write(frame))
}

/// The JSON body of an answer that is to be good.
pub fn info(bench: &Bench, code_of: i32, fields: &[(&str, &str)]) -> serde_json::Value {
    let answer = bench.call(code_of, b"", |frame| {
        for (key, value) in fields {
            frame.str(key, value);
        }
    });
    assert_eq!(code(&answer), 0, "{}", remark(&answer));
    serde_json::from_slice(answer.body()).unwrap()
}
