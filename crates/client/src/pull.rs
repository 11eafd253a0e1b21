//! Reading queues by hand (RocketMQ 5.5 `DefaultMQPullConsumer`): pull from an offset, look offsets up, commit them.
//!
//! Owns nothing but a group name: the program keeps its positions.

use std::time::Duration;

use ferromq_protocol::code::{request, response};
use ferromq_protocol::header::offset::{
    GetMaxOffsetHeader, GetMinOffsetHeader, OffsetResponseHeader, QueryConsumerOffsetHeader, SearchOffsetHeader,
    UpdateConsumerOffsetHeader,
};
use ferromq_protocol::header::pull::{PullHeader, PullResponseHeader};
use ferromq_protocol::properties::names;
use ferromq_protocol::sys_flag::pull as flag;
use ferromq_protocol::{FrameWriter, Text, topic};

use crate::client::{Client, Shared, refused};
use crate::decode;
use crate::error::{Error, Result};
use crate::filter::Subscription;
use crate::message::{MessageQueue, ReceivedMessage};

/// Most messages one pull may ask for.
pub const MAX_PULL_MESSAGES: u32 = 1024;
/// Added to the time a pull may wait at the broker before the client gives up.
const PULL_GRACE: Duration = Duration::from_secs(15);

/// What a pull found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullStatus {
    /// Messages.
    Found,
    /// Nothing after the offset yet.
    NoNewMessage,
    /// Messages, but none that the subscription matches; go on at `next_begin_offset`.
    NoMatchedMessage,
    /// The offset is outside the queue; go on at `next_begin_offset`.
    OffsetIllegal,
}

/// The answer to one pull.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullResult {
    /// What it found.
    pub status: PullStatus,
    /// Where the next pull begins.
    pub next_begin_offset: i64,
    /// First offset of the queue.
    pub min_offset: i64,
    /// Offset after the last message of the queue.
    pub max_offset: i64,
    /// The broker id to pull from next (a slave's when the data is old).
    pub suggested_broker_id: i64,
    /// The messages, those whose tag text matches.
    pub messages: Vec<ReceivedMessage>,
}

/// One pull.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pull<'a> {
    pub group: &'a str,
    pub queue: &'a MessageQueue,
    pub offset: i64,
    pub max_messages: u32,
    pub subscription: &'a Subscription,
    /// How long the broker may wait for a message.
    pub suspend: Option<Duration>,
    /// Offset to commit on the way.
    pub commit: Option<i64>,
    pub broker_id: i64,
}

/// Reads queues at offsets of the program's choice.
pub struct PullConsumer {
    client: Client,
    group: String,
}

impl Client {
    /// Makes a pull consumer. The group names committed offsets; brokers need not know it otherwise.
    pub fn pull_consumer(&self, consumer_group: &str) -> Result<PullConsumer> {
        topic::validate_group(consumer_group).map_err(|e| Error::Illegal(e.to_string()))?;
        Ok(PullConsumer { client: self.clone(), group: consumer_group.to_owned() })
    }
}

impl PullConsumer {
    /// The queues of a topic that can be read, sorted; the route is fetched anew.
    pub async fn queues(&self, topic: &str) -> Result<Vec<MessageQueue>> {
        let route = self.client.shared.fetch_route(topic).await?;
        if route.subscribe.is_empty() {
            return Err(Error::NoQueue { topic: topic.to_owned(), wanted: "read" });
        }
        Ok(route.subscribe.clone())
    }

    /// Reads up to `max_messages` from `offset`. With `wait`, an empty queue is watched that long at the broker.
    pub async fn pull(
        &self,
        queue: &MessageQueue,
        offset: i64,
        max_messages: u32,
        subscription: &Subscription,
        wait: Option<Duration>,
    ) -> Result<PullResult> {
        let shared = &self.client.shared;
        shared.route(&queue.topic).await?;
        let pull = Pull {
            group: &self.group,
            queue,
            offset,
            max_messages: max_messages.clamp(1, MAX_PULL_MESSAGES),
            subscription,
            suspend: wait,
            commit: None,
            broker_id: crate::client::MASTER_ID,
        };
        pull.run(shared).await
    }

    /// The offset committed for this group; `None` when there is none.
    pub async fn committed_offset(&self, queue: &MessageQueue) -> Result<Option<i64>> {
        self.client.shared.route(&queue.topic).await?;
        committed_offset(&self.client.shared, &self.group, queue).await
    }

    /// Commits the offset that this group reads next.
    pub async fn commit_offset(&self, queue: &MessageQueue, offset: i64) -> Result<()> {
        let shared = &self.client.shared;
        shared.route(&queue.topic).await?;
        let addr = shared.read_addr(&queue.broker_name, crate::client::MASTER_ID)?;
        let fields = |writer: &mut FrameWriter<'_>| commit_header(&self.group, queue, offset).write(writer);
        shared.ask(&addr, request::UPDATE_CONSUMER_OFFSET, fields, &[]).await.map(drop)
    }

    /// First offset of a queue.
    pub async fn min_offset(&self, queue: &MessageQueue) -> Result<i64> {
        self.client.shared.route(&queue.topic).await?;
        min_offset(&self.client.shared, queue).await
    }

    /// Offset after the last message of a queue.
    pub async fn max_offset(&self, queue: &MessageQueue) -> Result<i64> {
        self.client.shared.route(&queue.topic).await?;
        max_offset(&self.client.shared, queue).await
    }

    /// Offset of the first message stored at or after `timestamp_ms` (milliseconds since 1970 UTC).
    pub async fn search_offset(&self, queue: &MessageQueue, timestamp_ms: i64) -> Result<i64> {
        self.client.shared.route(&queue.topic).await?;
        search_offset(&self.client.shared, queue, timestamp_ms).await
    }
}

impl Pull<'_> {
    pub async fn run(&self, shared: &Shared) -> Result<PullResult> {
        let addr = shared.read_addr(&self.queue.broker_name, self.broker_id)?;
        let timeout = match self.suspend {
            Some(suspend) => suspend + PULL_GRACE,
            None => shared.config.api_timeout,
        };
        let fields = |writer: &mut FrameWriter<'_>| self.header().write(writer);
        let answer = shared.call(&addr, request::PULL_MESSAGE, timeout, fields, &[]).await?;
        let status = match answer.head().code {
            response::SUCCESS => PullStatus::Found,
            response::PULL_NOT_FOUND => PullStatus::NoNewMessage,
            response::PULL_RETRY_IMMEDIATELY => PullStatus::NoMatchedMessage,
            response::PULL_OFFSET_MOVED => PullStatus::OffsetIllegal,
            _ => return Err(refused(&addr, &answer)),
        };
        let bad = |reason: String| Error::BadAnswer { addr: addr.clone(), reason };
        let command = answer.command();
        let header = PullResponseHeader::read(&command.fields).map_err(|e| bad(e.to_string()))?;
        let mut messages = match status {
            PullStatus::Found => decode::records(answer.body(), &self.queue.broker_name).map_err(bad)?,
            _ => Vec::new(),
        };
        messages.retain(|m| self.subscription.matches(m.tag()));
        for message in &mut messages {
            message.queue_offset += header.offset_delta.unwrap_or(0);
            for (name, offset) in [(names::MIN_OFFSET, header.min_offset), (names::MAX_OFFSET, header.max_offset)] {
                message.properties.insert(name.to_owned(), offset.to_string());
            }
        }
        Ok(PullResult {
            status,
            next_begin_offset: header.next_begin_offset,
            min_offset: header.min_offset,
            max_offset: header.max_offset,
            suggested_broker_id: header.suggest_which_broker_id,
            messages,
        })
    }

    fn header(&self) -> PullHeader<'_> {
        let mut sys_flag = flag::SUBSCRIPTION;
        if self.suspend.is_some() {
            sys_flag |= flag::SUSPEND;
        }
        if self.commit.is_some() {
            sys_flag |= flag::COMMIT_OFFSET;
        }
        PullHeader {
            consumer_group: Text::plain(self.group),
            topic: Text::plain(&self.queue.topic),
            queue_id: self.queue.queue_id,
            queue_offset: self.offset,
            max_msg_nums: self.max_messages as i32,
            sys_flag,
            commit_offset: self.commit.unwrap_or(0),
            suspend_timeout_millis: self.suspend.map_or(0, |s| s.as_millis() as i64),
            subscription: Some(Text::plain(self.subscription.expression())),
            sub_version: self.subscription.version(),
            expression_type: Some(Text::plain(self.subscription.expression_type())),
            ..PullHeader::default()
        }
    }
}

pub(crate) fn commit_header<'a>(
    group: &'a str,
    queue: &'a MessageQueue,
    commit_offset: i64,
) -> UpdateConsumerOffsetHeader<'a> {
    UpdateConsumerOffsetHeader {
        consumer_group: Text::plain(group),
        topic: Text::plain(&queue.topic),
        queue_id: queue.queue_id,
        commit_offset,
    }
}

async fn ask_offset(
    shared: &Shared,
    queue: &MessageQueue,
    code: i32,
    fields: impl FnOnce(&mut FrameWriter<'_>),
) -> Result<i64> {
    let addr = shared.read_addr(&queue.broker_name, crate::client::MASTER_ID)?;
    let answer = shared.ask(&addr, code, fields, &[]).await?;
    let header = OffsetResponseHeader::read(&answer.command().fields);
    header.map(|h| h.offset).map_err(|e| Error::BadAnswer { addr, reason: e.to_string() })
}

pub(crate) async fn min_offset(shared: &Shared, queue: &MessageQueue) -> Result<i64> {
    let header = GetMinOffsetHeader { topic: Text::plain(&queue.topic), queue_id: queue.queue_id };
    ask_offset(shared, queue, request::GET_MIN_OFFSET, |writer| header.write(writer)).await
}

pub(crate) async fn max_offset(shared: &Shared, queue: &MessageQueue) -> Result<i64> {
    let header = GetMaxOffsetHeader { topic: Text::plain(&queue.topic), queue_id: queue.queue_id, committed: None };
    ask_offset(shared, queue, request::GET_MAX_OFFSET, |writer| header.write(writer)).await
}

pub(crate) async fn search_offset(shared: &Shared, queue: &MessageQueue, timestamp_ms: i64) -> Result<i64> {
    let header = SearchOffsetHeader {
        topic: Text::plain(&queue.topic),
        queue_id: queue.queue_id,
        timestamp: timestamp_ms,
        ..SearchOffsetHeader::default()
    };
    ask_offset(shared, queue, request::SEARCH_OFFSET_BY_TIMESTAMP, |writer| header.write(writer)).await
}

pub(crate) async fn committed_offset(shared: &Shared, group: &str, queue: &MessageQueue) -> Result<Option<i64>> {
    let header = QueryConsumerOffsetHeader {
        consumer_group: Text::plain(group),
        topic: Text::plain(&queue.topic),
        queue_id: queue.queue_id,
        set_zero_if_not_found: None,
    };
    match ask_offset(shared, queue, request::QUERY_CONSUMER_OFFSET, |writer| header.write(writer)).await {
        Err(e) if e.code() == Some(response::QUERY_NOT_FOUND) => Ok(None),
        other => other.map(Some),
    }
}
