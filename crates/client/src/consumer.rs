//! Consuming as a member of a group (RocketMQ 5.5 `DefaultMQPushConsumer`, clustering, concurrent).
//!
//! Owns the group's subscriptions and the queues this member reads. Tasks on the caller's tokio runtime: one that
//! rebalances and commits offsets, one per queue that pulls (`queue_task.rs`), one per message under way. A message is
//! committed when its handler acknowledged it or it went back to the broker for a later try.

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
use tokio::time::Instant;

use crate::allocate;
use crate::client::{Client, Shared, body_of, signalled};
use crate::error::{Error, Result};
use crate::filter::Subscription;
use crate::message::{MessageQueue, ReceivedMessage};
use crate::pull;
use crate::queue_task::{self, Progress};

/// How often the queues are shared out anew without being asked to (`rebalance` of RocketMQ's client).
const REBALANCE_INTERVAL: Duration = Duration::from_secs(20);
/// After a rebalance that did not succeed.
const REBALANCE_RETRY: Duration = Duration::from_secs(1);

/// What a handler says of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ack {
    /// It is done.
    Done,
    /// The broker delivers it again later, after so many times to the group's dead letter topic.
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
    /// Deliveries before a message goes to the dead letter topic; -1 leaves it to the group's configuration (16).
    pub max_reconsume_times: i32,
    /// How long a pull may wait at the broker for a message.
    pub broker_suspend_max_time: Duration,
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

/// What the tasks of one consumer share.
pub(crate) struct Group {
    pub shared: Arc<Shared>,
    pub config: ConsumerConfig,
    pub subscriptions: BTreeMap<String, Subscription>,
    pub handler: Box<dyn Fn(ReceivedMessage) -> Handling + Send + Sync>,
    /// One permit for each message under way.
    pub permits: Arc<Semaphore>,
    stop: watch::Sender<bool>,
}

/// A queue this member reads.
struct Reading {
    progress: Arc<Progress>,
    task: JoinHandle<()>,
    committed: i64,
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
    pub async fn start<F, R>(mut self, handler: F) -> Result<Consumer>
    where
        F: Fn(ReceivedMessage) -> R + Send + Sync + 'static,
        R: Future<Output = Ack> + Send + 'static,
    {
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
            handler: Box::new(move |message| Box::pin(handler(message))),
            subscriptions: self.subscriptions,
            config: self.config,
            stop: watch::Sender::new(false),
        });
        let rebalance = Arc::new(Notify::new());
        // Brokers hear of the group before it pulls: they are known from the routes.
        for topic in group.subscriptions.keys() {
            if let Err(e) = group.shared.route(topic).await
                && !topic::is_retry_topic(topic)
            {
                tracing::warn!(%topic, "subscribed, but not there yet: {e}");
            }
        }
        group.shared.join_consumers(group.heartbeat_data(), rebalance.clone())?;
        group.shared.heartbeat().await;
        let main = tokio::spawn(run(group.clone(), rebalance));
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

/// Rebalances and commits until told to stop; then winds down.
async fn run(group: Arc<Group>, rebalance: Arc<Notify>) {
    let mut stop = group.stop.subscribe();
    let mut reading: BTreeMap<MessageQueue, Reading> = BTreeMap::new();
    let mut commits =
        tokio::time::interval(group.config.persist_consumer_offset_interval.max(Duration::from_millis(10)));
    let mut next_rebalance = Instant::now();
    loop {
        tokio::select! {
            () = signalled(&mut stop) => break,
            () = tokio::time::sleep_until(next_rebalance) => {}
            () = rebalance.notified() => {}
            _ = commits.tick() => {
                commit_all(&group, &mut reading).await;
                continue;
            }
        }
        let balanced = share_out(&group, &mut reading).await;
        next_rebalance = Instant::now() + if balanced { REBALANCE_INTERVAL } else { REBALANCE_RETRY };
    }
    for queue in reading.values() {
        queue.progress.stop();
    }
    // All permits back: no handler runs.
    let all = group.config.consume_thread_max.max(1) as u32;
    let handlers = group.permits.acquire_many(all);
    if tokio::time::timeout(group.config.await_termination_when_shutdown, handlers).await.is_err() {
        tracing::warn!("handlers still run, their messages will be delivered again");
    }
    for (queue, reading) in &mut reading {
        reading.task.abort();
        commit(&group, queue, reading).await;
    }
    let name = &group.config.consumer_group;
    group.shared.leave_consumers(name);
    group.shared.unregister(None, Some(name)).await;
}

/// Makes `reading` this member's share of all topics. False when something could not be asked.
async fn share_out(group: &Arc<Group>, reading: &mut BTreeMap<MessageQueue, Reading>) -> bool {
    let mut balanced = true;
    for topic in group.subscriptions.keys() {
        let share = match share_of(group, topic).await {
            Ok(share) => share,
            // The retry topic comes with the first heartbeat and takes a while to reach the name server.
            Err(Error::NoRoute { .. } | Error::NoQueue { .. }) if topic::is_retry_topic(topic) => continue,
            Err(e) => {
                tracing::warn!(%topic, "rebalance failed: {e}");
                balanced = false;
                continue;
            }
        };
        let gone: Vec<MessageQueue> =
            reading.keys().filter(|queue| queue.topic == *topic && !share.contains(queue)).cloned().collect();
        for queue in gone {
            if let Some(mut old) = reading.remove(&queue) {
                old.progress.stop();
                old.task.abort();
                commit(group, &queue, &mut old).await;
                tracing::info!(%queue, group = group.config.consumer_group, "queue given up");
            }
        }
        for queue in share {
            if reading.contains_key(&queue) {
                continue;
            }
            match group.first_offset(&queue).await {
                Ok(offset) => {
                    let progress = Arc::new(Progress::new(offset));
                    let work = queue_task::run(group.clone(), queue.clone(), progress.clone());
                    let task = tokio::spawn(work);
                    tracing::info!(%queue, offset, group = group.config.consumer_group, "queue taken");
                    reading.insert(queue, Reading { progress, task, committed: -1 });
                }
                Err(e) => {
                    tracing::warn!(%queue, "no offset to begin at: {e}");
                    balanced = false;
                }
            }
        }
    }
    balanced
}

/// This member's queues of a topic.
async fn share_of(group: &Group, topic: &str) -> Result<BTreeSet<MessageQueue>> {
    let route = group.shared.route(topic).await?;
    let mut members = group.members(&route.subscribe).await;
    if !members.as_ref().is_ok_and(|ids| ids.contains(&group.shared.client_id)) {
        // The broker is new, or has restarted, and does not know this member yet.
        group.shared.heartbeat().await;
        members = group.members(&route.subscribe).await;
    }
    let mut members = members?;
    members.sort();
    Ok(allocate::averagely(&group.shared.client_id, &route.subscribe, &members).iter().cloned().collect())
}

async fn commit_all(group: &Group, reading: &mut BTreeMap<MessageQueue, Reading>) {
    for (queue, reading) in reading {
        let offset = reading.progress.commit_point();
        if offset == reading.committed {
            continue;
        }
        let header = pull::commit_header(&group.config.consumer_group, queue, offset);
        let fields = |writer: &mut FrameWriter<'_>| header.write(writer);
        let sent = match group.shared.master_addr(&queue.broker_name) {
            Ok(addr) => group.shared.tell(&addr, request::UPDATE_CONSUMER_OFFSET, fields, &[]).await,
            Err(e) => Err(e),
        };
        match sent {
            Ok(()) => reading.committed = offset,
            Err(e) => tracing::warn!(%queue, "offset not committed, will be tried again: {e}"),
        }
    }
}

/// Commits one queue and waits for the answer.
async fn commit(group: &Group, queue: &MessageQueue, reading: &mut Reading) {
    let offset = reading.progress.commit_point();
    if offset == reading.committed {
        return;
    }
    let header = pull::commit_header(&group.config.consumer_group, queue, offset);
    let fields = |writer: &mut FrameWriter<'_>| header.write(writer);
    let answer = match group.shared.master_addr(&queue.broker_name) {
        Ok(addr) => group.shared.ask(&addr, request::UPDATE_CONSUMER_OFFSET, fields, &[]).await,
        Err(e) => Err(e),
    };
    match answer {
        Ok(_) => reading.committed = offset,
        Err(e) => tracing::warn!(%queue, "offset not committed, its messages may be delivered again: {e}"),
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
    async fn members(&self, queues: &[MessageQueue]) -> Result<Vec<String>> {
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
    async fn first_offset(&self, queue: &MessageQueue) -> Result<i64> {
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
