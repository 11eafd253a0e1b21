//! Consuming as a member of a group (RocketMQ 5.5 `DefaultMQPushConsumer`, clustering).
//!
//! Owns the group's settings, subscriptions and handler. Tasks on the caller's tokio runtime: one that rebalances and
//! commits offsets (`rebalance.rs`), one per queue that pulls (`queue_task.rs`), and, unless the group is orderly, one per
//! message under way. A message is committed when its handler acknowledged it or it went back to the broker for a later
//! try.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ferromq_protocol::body::{
    ConsumeFromWhere, ConsumeType, ConsumerData, GetConsumerListByGroupResponseBody, MessageModel,
};
use ferromq_protocol::code::request;
use ferromq_protocol::header::client::GetConsumerListByGroupHeader;
use ferromq_protocol::{FrameWriter, Text, topic};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinHandle;

use crate::client::{Client, Shared, body_of};
use crate::error::{Error, Result};
use crate::filter::Subscription;
use crate::message::{MessageQueue, ReceivedMessage};
use crate::pull;
use crate::rebalance;

/// What a handler says of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ack {
    /// It is done.
    Done,
    /// Try it again later. The broker delivers it again after a while, after so many times to the group's dead letter
    /// topic; an orderly consumer keeps it and its queue waiting.
    Later,
}

/// Where a group without committed offsets begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConsumeFrom {
    /// At the end of each queue.
    Last,
    /// At the beginning.
    First,
    /// At the first message stored at or after this time, milliseconds since 1970 UTC.
    Timestamp(i64),
}

/// Settings of a [`Consumer`], by RocketMQ's names and with its defaults.
#[derive(Clone, Debug)]
pub struct ConsumerConfig {
    /// Group whose members share the messages.
    pub consumer_group: String,
    /// Where to begin.
    pub consume_from_where: ConsumeFrom,
    /// Most messages handled at a time.
    pub consume_thread_max: usize,
    /// Most messages of one pull.
    pub pull_batch_size: u32,
    /// Deliveries before a message goes to the dead letter topic. -1 leaves it to the group's configuration (16); for
    /// an orderly consumer it means never.
    pub max_reconsume_times: i32,
    /// How long a pull may wait at the broker for a message.
    pub broker_suspend_max_time: Duration,
    /// How long an orderly consumer waits before it tries a message again.
    pub suspend_current_queue_time: Duration,
    /// How often offsets are committed.
    pub persist_consumer_offset_interval: Duration,
    /// How long a shutdown waits for handlers.
    pub await_termination_when_shutdown: Duration,
}

impl ConsumerConfig {
    /// Defaults of RocketMQ 5.5 for a group.
    pub fn new(consumer_group: impl Into<String>) -> Self {
        Self {
            consumer_group: consumer_group.into(),
            consume_from_where: ConsumeFrom::Last,
            consume_thread_max: 20,
            pull_batch_size: 32,
            max_reconsume_times: -1,
            broker_suspend_max_time: Duration::from_secs(15),
            suspend_current_queue_time: Duration::from_secs(1),
            persist_consumer_offset_interval: Duration::from_secs(5),
            await_termination_when_shutdown: Duration::from_secs(5),
        }
    }
}

/// A consumer that is not started yet.
pub struct ConsumerBuilder {
    client: Client,
    config: ConsumerConfig,
    subscriptions: BTreeMap<String, Subscription>,
}

/// A started member of a group. Call [`Consumer::shutdown`]: a consumer that is only dropped stops too, but its last
/// offsets are not committed and the group learns of it late.
pub struct Consumer {
    group: Arc<Group>,
    main: JoinHandle<()>,
}

pub(crate) type Handling = Pin<Box<dyn Future<Output = Ack> + Send>>;
type Handler = Box<dyn Fn(ReceivedMessage) -> Handling + Send + Sync>;

/// What the tasks of one consumer share.
pub(crate) struct Group {
    pub shared: Arc<Shared>,
    pub config: ConsumerConfig,
    pub subscriptions: BTreeMap<String, Subscription>,
    pub handler: Handler,
    /// One message of a queue at a time, by one member of the group.
    pub orderly: bool,
    /// One permit for each message under way.
    pub permits: Arc<Semaphore>,
    pub stop: watch::Sender<bool>,
}

impl Client {
    /// Begins a consumer with RocketMQ's defaults.
    pub fn consumer(&self, consumer_group: &str) -> ConsumerBuilder {
        self.consumer_with(ConsumerConfig::new(consumer_group))
    }

    /// Begins a consumer.
    pub fn consumer_with(&self, config: ConsumerConfig) -> ConsumerBuilder {
        ConsumerBuilder { client: self.clone(), config, subscriptions: BTreeMap::new() }
    }
}

impl ConsumerBuilder {
    /// Adds a topic. All members of a group have to subscribe to the same.
    pub fn subscribe(mut self, topic: impl Into<String>, subscription: Subscription) -> Self {
        self.subscriptions.insert(topic.into(), subscription);
        self
    }

    /// Joins the group and calls `handler` for each message, many at a time.
    pub async fn start<F, R>(self, handler: F) -> Result<Consumer>
    where
        F: Fn(ReceivedMessage) -> R + Send + Sync + 'static,
        R: Future<Output = Ack> + Send + 'static,
    {
        self.begin(false, Box::new(move |message| Box::pin(handler(message)))).await
    }

    /// Joins the group and calls `handler` for the messages of each queue one after the other, in their order. Queues
    /// are locked at the broker, so that no other member reads them meanwhile.
    pub async fn start_orderly<F, R>(self, handler: F) -> Result<Consumer>
    where
        F: Fn(ReceivedMessage) -> R + Send + Sync + 'static,
        R: Future<Output = Ack> + Send + 'static,
    {
        self.begin(true, Box::new(move |message| Box::pin(handler(message)))).await
    }

    async fn begin(mut self, orderly: bool, handler: Handler) -> Result<Consumer> {
        let name = &self.config.consumer_group;
        topic::validate_group(name).map_err(|e| Error::Illegal(e.to_string()))?;
        if self.subscriptions.is_empty() {
            return Err(Error::Illegal(format!("consumer group {name} subscribes to no topic")));
        }
        for topic in self.subscriptions.keys() {
            topic::validate_topic(topic).map_err(|e| Error::Illegal(e.to_string()))?;
        }
        self.subscriptions.insert(topic::retry_topic(name), Subscription::all());
        let group = Arc::new(Group {
            shared: self.client.shared.clone(),
            permits: Arc::new(Semaphore::new(self.config.consume_thread_max.max(1))),
            handler,
            orderly,
            subscriptions: self.subscriptions,
            config: self.config,
            stop: watch::Sender::new(false),
        });
        let changed = Arc::new(Notify::new());
        // Brokers hear of the group before it pulls: they are known from the routes.
        for topic in group.subscriptions.keys() {
            if let Err(e) = group.shared.route(topic).await
                && !topic::is_retry_topic(topic)
            {
                tracing::warn!(%topic, "subscribed, but not there yet: {e}");
            }
        }
        group.shared.join_consumers(group.heartbeat_data(), changed.clone())?;
        group.shared.heartbeat().await;
        let main = tokio::spawn(rebalance::run(group.clone(), changed));
        Ok(Consumer { group, main })
    }
}

impl Consumer {
    /// Stops pulling, waits for handlers, commits and leaves the group.
    pub async fn shutdown(mut self) {
        let _ = self.group.stop.send_replace(true);
        if let Err(e) = (&mut self.main).await {
            tracing::error!("consumer ended badly: {e}");
        }
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        let _ = self.group.stop.send_replace(true);
        self.group.shared.leave_consumers(&self.group.config.consumer_group);
    }
}

impl Group {
    fn heartbeat_data(&self) -> ConsumerData {
        let from = match self.config.consume_from_where {
            ConsumeFrom::Last => ConsumeFromWhere::ConsumeFromLastOffset,
            ConsumeFrom::First => ConsumeFromWhere::ConsumeFromFirstOffset,
            ConsumeFrom::Timestamp(_) => ConsumeFromWhere::ConsumeFromTimestamp,
        };
        ConsumerData {
            group_name: self.config.consumer_group.clone(),
            consume_type: ConsumeType::ConsumePassively,
            message_model: MessageModel::Clustering,
            consume_from_where: from,
            subscription_data_set: self.subscriptions.iter().map(|(topic, s)| s.data(topic)).collect(),
            unit_mode: false,
        }
    }

    /// Client ids of the group as the first broker knows them that answers.
    pub async fn members(&self, queues: &[MessageQueue]) -> Result<Vec<String>> {
        let brokers: BTreeSet<&str> = queues.iter().map(|queue| queue.broker_name.as_str()).collect();
        let topic = queues.first().map(|queue| queue.topic.clone()).unwrap_or_default();
        let mut outcome = Err(Error::NoQueue { topic, wanted: "read" });
        for broker in brokers {
            outcome = self.members_at(broker).await;
            if outcome.is_ok() {
                break;
            }
        }
        outcome
    }

    async fn members_at(&self, broker_name: &str) -> Result<Vec<String>> {
        let addr = self.shared.read_addr(broker_name, crate::client::MASTER_ID)?;
        let header = GetConsumerListByGroupHeader { consumer_group: Text::plain(&self.config.consumer_group) };
        let fields = |writer: &mut FrameWriter<'_>| header.write(writer);
        let answer = self.shared.ask(&addr, request::GET_CONSUMER_LIST_BY_GROUP, fields, &[]).await?;
        let body: GetConsumerListByGroupResponseBody = body_of(&addr, &answer)?;
        Ok(body.consumer_id_list)
    }

    /// Where reading a queue begins: at the committed offset, else as configured. A retry topic is read from its
    /// beginning, or with a start time from its end.
    pub async fn first_offset(&self, queue: &MessageQueue) -> Result<i64> {
        let committed = pull::committed_offset(&self.shared, &self.config.consumer_group, queue).await?;
        if let Some(offset) = committed {
            return Ok(offset);
        }
        let retry = topic::is_retry_topic(&queue.topic);
        match self.config.consume_from_where {
            ConsumeFrom::First => Ok(0),
            ConsumeFrom::Last if retry => Ok(0),
            ConsumeFrom::Timestamp(ms) if !retry => pull::search_offset(&self.shared, queue, ms).await,
            ConsumeFrom::Last | ConsumeFrom::Timestamp(_) => pull::max_offset(&self.shared, queue).await,
        }
    }
}
