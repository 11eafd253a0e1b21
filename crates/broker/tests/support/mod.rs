//! A broker in a temporary folder, and a client that speaks raw requests to it.

#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;
use std::time::Duration;

use ferromq_broker::{Broker, BrokerConfig, StartError};
use ferromq_protocol::body::ConsumeStats;
use ferromq_protocol::code::request;
use ferromq_protocol::header::group::GetConsumeStatsHeader;
use ferromq_protocol::header::pull::PullHeader;
use ferromq_protocol::header::send::SendHeader;
use ferromq_protocol::{Encoding, FrameWriter, OwnedCommand, Text, json, record};
use ferromq_remoting::{Client, ClientConfig, Connection};
use ferromq_store::StoreConfig;

/// Longest wait for what must come.
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// A running broker with a client connected to it.
pub struct Bench {
    pub broker: Option<Broker>,
    pub runtime: tokio::runtime::Runtime,
    pub client: Client,
    pub addr: String,
    pub folder: tempfile::TempDir,
}

pub fn config() -> BrokerConfig {
    BrokerConfig { bind_address: "127.0.0.1".into(), listen_port: 0, reactors: 2, ..BrokerConfig::default() }
}

pub fn store_config(root: &std::path::Path) -> StoreConfig {
    StoreConfig {
        root: root.to_owned(),
        // Every file, and the next one, takes its room on the disk at once.
        mapped_file_size_commit_log: 16 << 20,
        max_hash_slot_num: 1000,
        max_index_num: 10_000,
        ..StoreConfig::default()
    }
}

pub fn start() -> Bench {
    start_with(config(), |_| {})
}

pub fn start_with(config: BrokerConfig, adjust: impl Fn(&mut StoreConfig)) -> Bench {
    start_in(tempfile::tempdir().unwrap(), config, adjust).unwrap()
}

/// On what stands in a folder.
pub fn start_in(
    folder: tempfile::TempDir,
    config: BrokerConfig,
    adjust: impl Fn(&mut StoreConfig),
) -> Result<Bench, StartError> {
    let mut store = store_config(folder.path());
    adjust(&mut store);
    let broker = Broker::start(config, store)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let addr = broker.addr().to_string();
    Ok(Bench { broker: Some(broker), runtime, client: Client::new(ClientConfig::default(), None), addr, folder })
}

impl Drop for Bench {
    fn drop(&mut self) {
        if let Some(broker) = self.broker.take() {
            broker.shutdown();
        }
    }
}

impl Bench {
    pub fn connection(&self) -> Arc<Connection> {
        self.runtime.block_on(self.client.connection(&self.addr)).unwrap()
    }

    /// One request with a JSON header; its answer.
    pub fn call(&self, code: i32, body: &[u8], fields: impl FnOnce(&mut FrameWriter<'_>)) -> OwnedCommand {
        self.call_in(Encoding::Json, code, body, fields)
    }

    pub fn call_in(
        &self,
        encoding: Encoding,
        code: i32,
        body: &[u8],
        fields: impl FnOnce(&mut FrameWriter<'_>),
    ) -> OwnedCommand {
        let answer = self.client.invoke(&self.addr, TIMEOUT, |out, opaque| {
            let mut frame = FrameWriter::request(out, encoding, code, opaque, false);
            fields(&mut frame);
            frame.finish_with_body(body);
        });
        self.runtime.block_on(answer).unwrap()
    }

    /// A request that meets the end of a topic; its answer. Both arrive together: what is stored waits for the end of the turn,
    /// in which the topic is deleted.
    pub fn call_as_topic_ends(
        &self,
        topic: &str,
        code: i32,
        body: &[u8],
        fields: impl FnOnce(&mut FrameWriter<'_>),
    ) -> OwnedCommand {
        let answer = self.client.invoke(&self.addr, TIMEOUT, |out, opaque| {
            let mut frame = FrameWriter::request(out, Encoding::Json, code, opaque, false);
            fields(&mut frame);
            frame.finish_with_body(body);
            let deletion = request::DELETE_TOPIC_IN_BROKER;
            let mut frame = FrameWriter::request(out, Encoding::Json, deletion, opaque ^ i32::MIN, true);
            frame.str("topic", topic);
            frame.finish();
        });
        self.runtime.block_on(answer).unwrap()
    }

    pub fn send(&self, topic: &str, queue_id: i32, properties: &str, body: &[u8]) -> OwnedCommand {
        self.send_as(&send_header(topic, queue_id, properties), body)
    }

    pub fn send_as(&self, header: &SendHeader<'_>, body: &[u8]) -> OwnedCommand {
        self.call(request::SEND_MESSAGE_V2, body, |frame| header.write_short(frame))
    }

    /// Waits until all that is stored can be read: a thread of the store may be at it when a send is answered.
    pub fn wait_dispatched(&self) {
        let store = &self.broker.as_ref().unwrap().shared().store;
        wait_until("dispatch", || store.dispatch_behind_bytes() == 0);
    }

    /// What GET_CONSUME_STATS tells of queue 0: its end, up to where it is consumed and pulled, then what is ready and in flight.
    pub fn lag(&self, group: &str, topic: &str) -> [i64; 5] {
        let header = GetConsumeStatsHeader {
            consumer_group: Text::plain(group),
            topic: Some(Text::plain(topic)),
            lag: true,
            ..GetConsumeStatsHeader::default()
        };
        let answer = self.call(request::GET_CONSUME_STATS, b"", |frame| header.write(frame));
        let stats: ConsumeStats = json::from_slice(answer.body()).unwrap();
        let of_queue = stats.offset_table.iter().find(|(queue, _)| queue.queue_id == 0).unwrap().1;
        let lag = of_queue.lag.unwrap();
        [of_queue.broker_offset, of_queue.consumer_offset, of_queue.pull_offset, lag.ready, lag.in_flight]
    }

    pub fn pull(&self, header: &PullHeader<'_>) -> OwnedCommand {
        self.call(request::PULL_MESSAGE, b"", |frame| header.write(frame))
    }

    /// An integer field of an answer.
    pub fn ask(&self, code: i32, topic: &str, queue_id: i32, field: &str, more: &[(&str, &str)]) -> Option<i64> {
        let answer = self.call(code, b"", |frame| {
            frame.str("topic", topic).i32("queueId", queue_id);
            for (key, value) in more {
                frame.str(key, value);
            }
        });
        number(&answer, field)
    }
}

pub fn send_header<'a>(topic: &'a str, queue_id: i32, properties: &'a str) -> SendHeader<'a> {
    SendHeader {
        producer_group: Text::plain("PG"),
        topic: Text::plain(topic),
        default_topic: Text::plain("TBW102"),
        default_topic_queue_nums: 4,
        queue_id,
        born_timestamp: 1_700_000_000_000,
        properties: Text::plain(properties),
        ..SendHeader::default()
    }
}

/// A pull of everything with the subscription in the request, without waiting.
pub fn pull_header<'a>(topic: &'a str, queue_id: i32, offset: i64, tags: &'a str) -> PullHeader<'a> {
    PullHeader {
        consumer_group: Text::plain("CG"),
        topic: Text::plain(topic),
        queue_id,
        queue_offset: offset,
        max_msg_nums: 32,
        sys_flag: 4,
        subscription: Some(Text::plain(tags)),
        ..PullHeader::default()
    }
}

pub fn code(answer: &OwnedCommand) -> i32 {
    answer.head().code
}

pub fn remark(answer: &OwnedCommand) -> String {
    answer.command().remark.map(|text| text.to_lossy().into_owned()).unwrap_or_default()
}

pub fn field(answer: &OwnedCommand, key: &str) -> Option<String> {
    answer.command().fields.opt_str(key).map(|text| text.into_owned())
}

pub fn number(answer: &OwnedCommand, key: &str) -> Option<i64> {
    answer.command().fields.opt_i64(key)
}

/// One stored record as an answer carries it.
#[derive(Debug, PartialEq)]
pub struct Record {
    pub queue_id: i32,
    pub flag: i32,
    pub queue_offset: i64,
    pub physical_offset: i64,
    pub sys_flag: i32,
    pub born_timestamp: i64,
    pub store_timestamp: i64,
    pub body: Vec<u8>,
    pub topic: String,
    pub properties: Vec<u8>,
}

impl Record {
    pub fn property(&self, key: &str) -> Option<String> {
        let value = ferromq_protocol::properties::get(&self.properties, key)?;
        Some(String::from_utf8_lossy(value).into_owned())
    }
}

/// The records of an answer.
pub fn records(mut bytes: &[u8]) -> Vec<Record> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let record::Entry::Record(one) = record::read(bytes) else { panic!("the answer is not made of records") };
        assert!(one.is_body_intact());
        bytes = &bytes[one.bytes().len()..];
        all.push(Record {
            queue_id: one.queue_id(),
            flag: one.flag(),
            queue_offset: one.queue_offset(),
            physical_offset: one.physical_offset(),
            sys_flag: one.sys_flag(),
            born_timestamp: one.born_timestamp(),
            store_timestamp: one.store_timestamp(),
            body: one.body().to_vec(),
            topic: String::from_utf8_lossy(one.topic()).into_owned(),
            properties: one.properties().to_vec(),
        });
    }
    all
}

/// Polls until `done` or the time-out.
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + TIMEOUT;
    while !done() {
        assert!(std::time::Instant::now() < end, "{what} did not happen within {TIMEOUT:?}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// Copies a store as a kill would leave it; the copy is opened as another broker. The log comes last: what the other
/// files say must be in it.
pub fn killed_copy(from: &std::path::Path, to: &std::path::Path) {
    let mut entries: Vec<_> = std::fs::read_dir(from).unwrap().map(|entry| entry.unwrap()).collect();
    // The offsets are written behind other tables, so they are copied before them.
    let order = ["consumerOffset.json", "", "config", "checkpoint", "index", "consumequeue", "commitlog"];
    entries.sort_by_key(|entry| order.iter().position(|name| entry.file_name() == *name).unwrap_or(1));
    for entry in entries {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir_all(&target).unwrap();
            killed_copy(&entry.path(), &target);
        } else {
            copy_while_written(&entry.path(), &target);
        }
    }
}

/// Copies a file that may be replaced meanwhile: its predecessor is renamed before it is, so that for a moment none bears
/// the name. A kill in that moment would leave the predecessor, which may not have been there when the folder was listed.
fn copy_while_written(from: &std::path::Path, to: &std::path::Path) {
    let is_temporary = from.extension().is_some_and(|extension| extension == "tmp");
    let gone = |error: &std::io::Error| error.kind() == std::io::ErrorKind::NotFound;
    for _ in 0..1000 {
        match std::fs::copy(from, to) {
            Ok(_) => return,
            Err(error) if gone(&error) && is_temporary => return,
            Err(error) => assert!(gone(&error), "{}: {error}", from.display()),
        }
        std::thread::yield_now();
    }
    // A file of the store that was deleted.
}
