//! A pop consumer by raw requests, and a broker that can be killed.

use std::path::Path;
use std::time::Duration;

use ferromq_broker::{Broker, BrokerConfig};
use ferromq_protocol::code::request;
use ferromq_protocol::header::pop::{AckMessageHeader, ChangeInvisibleTimeHeader, PopMessageHeader};
use ferromq_protocol::pop::{Origin, ReceiptHandle};
use ferromq_protocol::{OwnedCommand, Text, record};

use crate::support::*;

/// A message with the handle a client would make.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    pub body: String,
    pub reconsume_times: i32,
    pub topic: String,
    /// The topic whose queue has it.
    pub real_topic: String,
    pub queue_id: i32,
    pub queue_offset: i64,
    pub handle: String,
    pub properties: Vec<u8>,
}

pub fn pop_header(topic: &str) -> PopMessageHeader<'_> {
    PopMessageHeader {
        consumer_group: Text::plain("G"),
        topic: Text::plain(topic),
        queue_id: -1,
        max_msg_nums: 32,
        invisible_time: 60_000,
        ..PopMessageHeader::default()
    }
}

/// Sends numbered messages to queue 0 and waits until they can be read.
pub fn fill(bench: &Bench, topic: &str, bodies: impl Iterator<Item = u32>) {
    for n in bodies {
        let tag = if n % 2 == 0 { "even" } else { "odd" };
        let answer =
            bench.send(topic, 0, &format!("TAGS\u{1}{tag}\u{2}UNIQ_KEY\u{1}id{n}\u{2}"), n.to_string().as_bytes());
        assert_eq!(code(&answer), 0, "{}", remark(&answer));
    }
    bench.wait_dispatched();
}

pub fn pop(bench: &Bench, header: &PopMessageHeader<'_>) -> (OwnedCommand, Vec<Message>) {
    let answer = bench.call(request::POP_MESSAGE, b"", |frame| header.write(frame));
    let messages = messages(&answer, &header.topic.to_lossy(), &header.consumer_group.to_lossy());
    (answer, messages)
}

/// The messages of an answer, each with the handle that a client makes from the offset lists.
pub fn messages(answer: &OwnedCommand, topic: &str, group: &str) -> Vec<Message> {
    let starts = field(answer, "startOffsetInfo").unwrap_or_default();
    let start_of = |origin: char, queue_id: i32| -> i64 {
        let key = format!("{origin} {queue_id} ");
        starts.split(';').find_map(|part| part.strip_prefix(&key)).unwrap().parse().unwrap()
    };
    let lists = field(answer, "msgOffsetInfo").unwrap_or_default();
    let mut bytes = answer.body();
    let mut found = Vec::new();
    while let record::Entry::Record(one) = record::read(bytes) {
        bytes = &bytes[one.bytes().len()..];
        let given = ferromq_protocol::properties::get_str(one.properties(), "POP_CK").map(str::to_owned);
        let stored = String::from_utf8_lossy(one.topic()).into_owned();
        let handle = given.unwrap_or_else(|| {
            let origin = Origin::of_topic(&stored);
            let offset = one.queue_offset();
            let list =
                lists.split(';').find_map(|l| l.strip_prefix(&format!("{} {} ", origin.digit(), one.queue_id())));
            assert!(list.unwrap().split(',').any(|o| o == offset.to_string()), "{lists} lacks {offset}");
            ReceiptHandle {
                start_offset: start_of(origin.digit(), one.queue_id()),
                pop_time: number(answer, "popTime").unwrap(),
                invisible_time: number(answer, "invisibleTime").unwrap(),
                revive_queue: number(answer, "reviveQid").unwrap() as i32,
                origin,
                broker_name: "broker-a",
                queue_id: Some(one.queue_id()),
                queue_offset: Some(offset),
            }
            .to_string()
        });
        let origin = ReceiptHandle::parse(&handle).unwrap().origin;
        found.push(Message {
            body: String::from_utf8_lossy(one.body()).into_owned(),
            reconsume_times: one.reconsume_times(),
            real_topic: origin.real_topic(topic, group),
            topic: stored,
            queue_id: one.queue_id(),
            queue_offset: one.queue_offset(),
            handle,
            properties: one.properties().to_vec(),
        });
    }
    assert!(bytes.is_empty());
    found
}

pub fn bodies(messages: &[Message]) -> Vec<&str> {
    messages.iter().map(|message| message.body.as_str()).collect()
}

pub fn ack_as(bench: &Bench, group: &str, message: &Message) -> OwnedCommand {
    let header = AckMessageHeader {
        consumer_group: Text::plain(group),
        topic: Text::plain(&message.real_topic),
        queue_id: message.queue_id,
        extra_info: Text::plain(&message.handle),
        offset: message.queue_offset,
        lite_topic: None,
    };
    bench.call(request::ACK_MESSAGE, b"", |frame| header.write(frame))
}

pub fn ack(bench: &Bench, message: &Message) {
    let answer = ack_as(bench, "G", message);
    assert_eq!(code(&answer), 0, "{}", remark(&answer));
}

/// Changes the invisible time; the message with its new handle.
pub fn change(bench: &Bench, message: &Message, invisible_time: i64) -> Result<Message, i32> {
    let header = ChangeInvisibleTimeHeader {
        consumer_group: Text::plain("G"),
        topic: Text::plain(&message.real_topic),
        queue_id: message.queue_id,
        extra_info: Text::plain(&message.handle),
        offset: message.queue_offset,
        invisible_time,
        ..ChangeInvisibleTimeHeader::default()
    };
    let answer = bench.call(request::CHANGE_MESSAGE_INVISIBLETIME, b"", |frame| header.write(frame));
    if code(&answer) != 0 {
        return Err(code(&answer));
    }
    let mut handle = ReceiptHandle::parse(&message.handle).unwrap();
    handle.pop_time = number(&answer, "popTime").unwrap();
    handle.invisible_time = number(&answer, "invisibleTime").unwrap();
    handle.revive_queue = number(&answer, "reviveQid").unwrap() as i32;
    if handle.revive_queue != 999 {
        handle.start_offset = message.queue_offset;
    }
    Ok(Message { handle: handle.to_string(), ..message.clone() })
}

/// Pops until a message comes.
pub fn pop_one(bench: &Bench, header: &PopMessageHeader<'_>) -> Message {
    let mut found = None;
    wait_until("a popped message", || {
        found = pop(bench, &PopMessageHeader { max_msg_nums: 1, ..*header }).1.pop();
        found.is_some()
    });
    found.unwrap()
}

/// Pops until `n` messages came.
pub fn pop_all(bench: &Bench, header: &PopMessageHeader<'_>, n: usize) -> Vec<Message> {
    let mut found = Vec::new();
    wait_until("popped messages", || {
        found.extend(pop(bench, header).1);
        found.len() >= n
    });
    found
}

/// Starts another broker on what a kill at this moment leaves behind.
pub fn kill(bench: Bench, config: BrokerConfig) -> Bench {
    kill_before(bench, config, &[])
}

/// The same before these files of its tables were written.
pub fn kill_before(mut bench: Bench, config: BrokerConfig, unwritten: &[&str]) -> Bench {
    let left = tempfile::tempdir().unwrap();
    killed_copy(bench.folder.path(), left.path());
    for file in unwritten {
        let path = left.path().join("config").join(file);
        assert!(!path.exists() || std::fs::remove_file(path).is_ok());
    }
    // The killed one is put away, its folder is not looked at again.
    bench.client.close();
    bench.broker.take().unwrap().shutdown();
    bench.folder = left;
    let broker = Broker::start(config, small_store(bench.folder.path())).unwrap();
    bench.addr = broker.addr().to_string();
    bench.broker = Some(broker);
    bench.client = ferromq_remoting::Client::new(ferromq_remoting::ClientConfig::default(), None);
    bench
}

/// Stops the broker and starts it again.
pub fn restart(mut bench: Bench, config: BrokerConfig) -> Bench {
    bench.client.close();
    bench.broker.take().unwrap().shutdown();
    let broker = Broker::start(config, small_store(bench.folder.path())).unwrap();
    bench.addr = broker.addr().to_string();
    bench.broker = Some(broker);
    bench.client = ferromq_remoting::Client::new(ferromq_remoting::ClientConfig::default(), None);
    bench
}

fn shrink(store: &mut ferromq_store::StoreConfig) {
    store.mapped_file_size_commit_log = 1 << 20;
}

fn small_store(root: &Path) -> ferromq_store::StoreConfig {
    let mut store = store_config(root);
    shrink(&mut store);
    store
}

/// A broker with these settings whose store is small.
pub fn small_with(config: BrokerConfig) -> Bench {
    start_with(config, shrink)
}

/// A broker whose store is small, so that a copy of it is quick.
pub fn small() -> Bench {
    start_with(config(), shrink)
}

pub fn sleep(millis: u64) {
    std::thread::park_timeout(Duration::from_millis(millis));
}
