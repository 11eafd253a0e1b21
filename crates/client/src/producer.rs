//! Sending messages (RocketMQ 5.5 `DefaultMQProducer`).
//!
//! A producer owns its round-robin position and its group's place in the heartbeats. Sends run on the caller's task and
//! may overlap freely: all of one broker share one pipelined connection.

use std::borrow::Cow;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use ferromq_common::clock;
use ferromq_protocol::code::{request, response};
use ferromq_protocol::header::send::{SendHeader, SendResponseHeader};
use ferromq_protocol::properties::names;
use ferromq_protocol::record::{self, InnerMessage};
use ferromq_protocol::sys_flag::message as flags;
use ferromq_protocol::{FrameWriter, OwnedCommand, Text, java, topic};
use tokio::time::Instant;

use crate::client::{Client, refused};
use crate::error::{Error, Result};
use crate::message::{Message, MessageQueue};
use crate::producer_config::ProducerConfig;

/// Answers after which another broker is tried (`retryResponseCodes`).
const RETRY_CODES: [i32; 8] = [
    response::SYSTEM_ERROR,
    response::SYSTEM_BUSY,
    response::SERVICE_NOT_AVAILABLE,
    response::NO_PERMISSION,
    response::TOPIC_NOT_EXIST,
    response::NO_BUYER_ID,
    response::NOT_IN_CURRENT_UNIT,
    response::GO_AWAY,
];

/// How far a message has come. All four are stored in the broker's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendStatus {
    /// Everything the broker's configuration asks for is done.
    Ok,
    /// Stored, but not flushed to disk in time.
    FlushDiskTimeout,
    /// Stored, but not replicated in time.
    FlushSlaveTimeout,
    /// Stored, but no slave is there.
    SlaveNotAvailable,
}

impl SendStatus {
    fn of(code: i32) -> Option<Self> {
        Some(match code {
            response::SUCCESS => Self::Ok,
            response::FLUSH_DISK_TIMEOUT => Self::FlushDiskTimeout,
            response::FLUSH_SLAVE_TIMEOUT => Self::FlushSlaveTimeout,
            response::SLAVE_NOT_AVAILABLE => Self::SlaveNotAvailable,
            _ => return None,
        })
    }
}

/// The acknowledgement of one send. It cannot be dropped unseen:
///
/// ```compile_fail
/// #![deny(unused_must_use)]
/// # use ferromq_client::{Message, Producer};
/// # async fn run(producer: &Producer) -> ferromq_client::Result<()> {
/// producer.send(&Message::new("orders", "one more")).await?;
/// # Ok(())
/// # }
/// ```
#[must_use = "a message that is stored may still be less safe than was asked for: look at the status"]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SendResult {
    /// How far it has come.
    pub status: SendStatus,
    /// Unique id the client gave; of a batch the ids joined by commas.
    pub message_id: String,
    /// Id that says where it is stored; of a batch the ids joined by commas.
    pub offset_message_id: String,
    /// Queue it is in.
    pub queue: MessageQueue,
    /// Position in the queue; of a batch that of its first message.
    pub queue_offset: i64,
}

/// Sends messages.
pub struct Producer {
    client: Client,
    config: ProducerConfig,
    next: AtomicUsize,
    /// The brokers of a producer should know it soon, but its first send must not wait for that.
    announced: AtomicBool,
}

impl Client {
    /// Makes a producer with RocketMQ's defaults.
    pub fn producer(&self, producer_group: &str) -> Result<Producer> {
        self.producer_with(ProducerConfig::new(producer_group))
    }

    /// Makes a producer.
    pub fn producer_with(&self, config: ProducerConfig) -> Result<Producer> {
        topic::validate_group(&config.producer_group).map_err(|e| Error::Illegal(e.to_string()))?;
        self.shared.join_producers(&config.producer_group);
        Ok(Producer {
            client: self.clone(),
            config,
            next: AtomicUsize::new(clock::now_millis() as usize),
            announced: AtomicBool::new(false),
        })
    }
}

/// What is the same in every try of one send.
struct Prepared<'m> {
    topic: &'m str,
    body: Cow<'m, [u8]>,
    flag: i32,
    sys_flag: i32,
    properties: String,
    message_id: String,
    batch: bool,
}

impl Producer {
    /// Sends to the topic's queues in turn; after a failure tries another broker.
    pub async fn send(&self, message: &Message) -> Result<SendResult> {
        let prepared = self.prepare(message)?;
        self.send_anywhere(&prepared).await
    }

    /// Sends to the queue that `select` picks by its index in the sorted list; no retry elsewhere, so that order holds.
    pub async fn send_by(
        &self,
        message: &Message,
        select: impl FnOnce(&[MessageQueue]) -> usize,
    ) -> Result<SendResult> {
        let prepared = self.prepare(message)?;
        let route = self.route(prepared.topic).await?;
        let index = select(&route.publish);
        let queue = route
            .publish
            .get(index)
            .ok_or_else(|| Error::Illegal(format!("the selector picked queue {index} of {}", route.publish.len())))?;
        self.send_once(&prepared, queue, self.deadline()).await
    }

    /// Sends all messages with one key to one queue (RocketMQ's `SelectMessageQueueByHash`).
    pub async fn send_by_key(&self, message: &Message, key: &str) -> Result<SendResult> {
        let hash = java::string_hash(key);
        self.send_by(message, |queues| match i32::try_from(queues.len()) {
            Ok(len @ 1..) => (hash % len).unsigned_abs() as usize,
            _ => 0,
        })
        .await
    }

    /// Sends to one queue; no retry elsewhere.
    pub async fn send_to(&self, message: &Message, queue: &MessageQueue) -> Result<SendResult> {
        let prepared = self.prepare(message)?;
        if queue.topic != message.topic() {
            return Err(Error::Illegal(format!("the queue {queue} is not of the topic {}", message.topic())));
        }
        self.route(prepared.topic).await?;
        self.send_once(&prepared, queue, self.deadline()).await
    }

    /// Sends messages of one topic in one request, stored together.
    pub async fn send_batch(&self, messages: &[Message]) -> Result<SendResult> {
        let first = messages.first().ok_or_else(|| Error::Illegal("the batch is empty".into()))?;
        let (mut body, mut ids) = (Vec::new(), Vec::new());
        for message in messages {
            message.check(self.config.max_message_size)?;
            let illegal = message.topic() != first.topic()
                || message.get(names::WAIT_STORE_MSG_OK) != first.get(names::WAIT_STORE_MSG_OK)
                || topic::is_retry_topic(message.topic())
                || message.get(names::DELAY_TIME_LEVEL).is_some();
            if illegal {
                let reason = "the messages of a batch must agree in topic and wait, without delay level or retry topic";
                return Err(Error::Illegal(reason.into()));
            }
            let id = self.unique_id();
            let properties = message.property_text(&id)?;
            let inner =
                InnerMessage { flag: message.flag_bits(), body: message.body(), properties: properties.as_bytes() };
            record::push_inner(&inner, &mut body);
            ids.push(id);
        }
        if body.len() > self.config.max_message_size {
            let (len, max) = (body.len(), self.config.max_message_size);
            return Err(Error::Illegal(format!("the batch has {len} bytes, at most {max} are taken")));
        }
        let head = first.get(names::WAIT_STORE_MSG_OK) != Some("false");
        let head = Message::default().wait_store_ok(head);
        let prepared = Prepared {
            topic: first.topic(),
            body: Cow::Owned(body),
            flag: 0,
            sys_flag: 0,
            properties: head.property_text(&self.unique_id())?,
            message_id: ids.join(","),
            batch: true,
        };
        self.send_anywhere(&prepared).await
    }

    /// Sends without waiting for an answer; the message may be lost without notice.
    pub async fn send_oneway(&self, message: &Message) -> Result<()> {
        let prepared = self.prepare(message)?;
        let route = self.route(prepared.topic).await?;
        let queue = self.next_queue(&route.publish, None);
        let addr = self.client.shared.master_addr(&queue.broker_name)?;
        let fields = |writer: &mut FrameWriter<'_>| self.header(&prepared, queue, writer);
        self.client.shared.tell(&addr, request::SEND_MESSAGE_V2, fields, &prepared.body).await?;
        self.announce();
        Ok(())
    }

    /// Takes the group out of the heartbeats and tells the brokers.
    pub async fn shutdown(self) {
        let shared = &self.client.shared;
        if shared.leave_producers(&self.config.producer_group) {
            shared.unregister(Some(&self.config.producer_group), None).await;
        }
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.config.send_msg_timeout
    }

    fn unique_id(&self) -> String {
        self.client.shared.ids.next(clock::now_millis())
    }

    fn prepare<'m>(&self, message: &'m Message) -> Result<Prepared<'m>> {
        message.check(self.config.max_message_size)?;
        let message_id = self.unique_id();
        let (body, sys_flag) = match self.compressed(message.body()) {
            Some(smaller) => (Cow::Owned(smaller), flags::COMPRESSED | flags::COMPRESSION_ZLIB),
            None => (Cow::Borrowed(message.body()), 0),
        };
        Ok(Prepared {
            topic: message.topic(),
            body,
            flag: message.flag_bits(),
            sys_flag,
            properties: message.property_text(&message_id)?,
            message_id,
            batch: false,
        })
    }

    /// The body compressed, if it is long and becomes shorter by it.
    fn compressed(&self, body: &[u8]) -> Option<Vec<u8>> {
        if body.len() <= self.config.compress_msg_body_over_howmuch {
            return None;
        }
        let level = flate2::Compression::new(self.config.compress_level.min(9));
        let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), level);
        zlib.write_all(body).ok()?;
        zlib.finish().ok().filter(|smaller| smaller.len() < body.len())
    }

    async fn route(&self, topic: &str) -> Result<std::sync::Arc<crate::route::Route>> {
        let config = &self.config;
        let shared = &self.client.shared;
        let route = shared.publish_route(topic, &config.create_topic_key, config.default_topic_queue_nums).await?;
        if route.publish.is_empty() {
            return Err(Error::NoQueue { topic: topic.to_owned(), wanted: "written" });
        }
        Ok(route)
    }

    /// The next queue in turn, of another broker than the last try's if there is one. `queues` is not empty.
    fn next_queue<'q>(&self, queues: &'q [MessageQueue], last_broker: Option<&str>) -> &'q MessageQueue {
        let start = self.next.fetch_add(1, Ordering::Relaxed);
        let others = (0..queues.len()).map(|i| &queues[start.wrapping_add(i) % queues.len()]);
        let mut others = others.filter(|q| Some(q.broker_name.as_str()) != last_broker);
        others.next().unwrap_or_else(|| &queues[start % queues.len()])
    }

    async fn send_anywhere(&self, prepared: &Prepared<'_>) -> Result<SendResult> {
        let deadline = self.deadline();
        let within = tokio::time::timeout_at(deadline, self.route(prepared.topic));
        let route = within.await.map_err(|_| self.timed_out())??;
        let mut last_broker: Option<&str> = None;
        let mut outcome = Err(self.timed_out());
        for _ in 0..=self.config.retry_times_when_send_failed {
            if Instant::now() >= deadline {
                break;
            }
            let queue = self.next_queue(&route.publish, last_broker);
            last_broker = Some(&queue.broker_name);
            match self.send_once(prepared, queue, deadline).await {
                Ok(sent) if sent.status == SendStatus::Ok => return Ok(sent),
                Ok(sent) if !self.config.retry_another_broker_when_not_store_ok => return Ok(sent),
                Ok(sent) => outcome = Ok(sent),
                Err(e) if e.code().is_some_and(|code| !RETRY_CODES.contains(&code)) => return Err(e),
                // A message that is already stored somewhere is acknowledged whatever happens to its copies.
                Err(e) => outcome = outcome.or(Err(e)),
            }
        }
        outcome
    }

    fn timed_out(&self) -> Error {
        Error::TimedOut { what: "send", after: self.config.send_msg_timeout }
    }

    async fn send_once(&self, prepared: &Prepared<'_>, queue: &MessageQueue, deadline: Instant) -> Result<SendResult> {
        let shared = &self.client.shared;
        let addr = shared.master_addr(&queue.broker_name)?;
        let code = if prepared.batch { request::SEND_BATCH_MESSAGE } else { request::SEND_MESSAGE_V2 };
        let left = deadline.saturating_duration_since(Instant::now());
        let fields = |writer: &mut FrameWriter<'_>| self.header(prepared, queue, writer);
        let answer = shared.call(&addr, code, left, fields, &prepared.body).await?;
        self.announce();
        let Some(status) = SendStatus::of(answer.head().code) else {
            return Err(refused(&addr, &answer));
        };
        result(&addr, &answer, status, prepared, queue)
    }

    fn header(&self, prepared: &Prepared<'_>, queue: &MessageQueue, writer: &mut FrameWriter<'_>) {
        let header = SendHeader {
            producer_group: Text::plain(&self.config.producer_group),
            topic: Text::plain(prepared.topic),
            default_topic: Text::plain(&self.config.create_topic_key),
            default_topic_queue_nums: self.config.default_topic_queue_nums,
            queue_id: queue.queue_id,
            sys_flag: prepared.sys_flag,
            born_timestamp: clock::now_millis(),
            flag: prepared.flag,
            properties: Text::plain(&prepared.properties),
            reconsume_times: Some(0),
            unit_mode: false,
            batch: prepared.batch,
            max_reconsume_times: None,
            broker_name: Some(Text::plain(&queue.broker_name)),
        };
        header.write_short(writer);
    }

    /// After its first send the brokers are told of the producer at once, not at the next beat.
    fn announce(&self) {
        if !self.announced.swap(true, Ordering::Relaxed) {
            let shared = self.client.shared.clone();
            tokio::spawn(async move { shared.heartbeat().await });
        }
    }
}

fn result(
    addr: &str,
    answer: &OwnedCommand,
    status: SendStatus,
    prepared: &Prepared<'_>,
    queue: &MessageQueue,
) -> Result<SendResult> {
    let bad = |reason: String| Error::BadAnswer { addr: addr.to_owned(), reason };
    let command = answer.command();
    let header = SendResponseHeader::read(&command.fields).map_err(|e| bad(e.to_string()))?;
    Ok(SendResult {
        status,
        message_id: prepared.message_id.clone(),
        offset_message_id: header.msg_id.to_lossy().into_owned(),
        queue: MessageQueue { queue_id: header.queue_id, ..queue.clone() },
        queue_offset: header.queue_offset,
    })
}
