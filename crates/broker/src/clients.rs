//! Connected producers and consumers, as their heartbeats tell (RocketMQ's `ConsumerManager`, `ProducerManager`).
//!
//! A client is known per group and connection. It is forgotten when it unregisters, when its connection closes, or after
//! `channelExpiredTimeout` without a heartbeat. What a consumer group subscribes to is one table per group: the newest
//! heartbeat wins, so members are expected to subscribe to the same; when they do not, a warning says so.
//!
//! The table only records and answers; it sends nothing. Groups whose membership changed are collected for
//! [`Clients::take_notices`], which one task of the broker drains and tells their members (code 40).
//! One lock over everything, held for look-ups only: heartbeats come every 30 s per client, pulls take the read side.

mod group;
mod limits;
mod service;
mod view;

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferromq_protocol::body::{ConsumeFromWhere, ConsumeType, MessageModel, SubscriptionData};
use ferromq_remoting::Connection;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, Semaphore};

use crate::filter::{ExpressionError, Filter};

use group::{ConsumerGroup, Member, text_bytes};
pub use limits::{
    ClientsFull, MAX_CLIENT_GROUPS, MAX_CLIENT_ID_BYTES, MAX_CLIENTS_PER_GROUP, MAX_GROUPS_PER_CONNECTION, MAX_MEMBERS,
    MAX_SUBSCRIPTION_BYTES, MAX_SUBSCRIPTIONS_PER_GROUP,
};
use limits::{MAX_RELAYS, MAX_REPLIES};
pub(crate) use service::{drop_silent, tell_changes};

/// One connected client of a group. `C` is its connection.
#[derive(Clone, Debug)]
pub struct Client<C = Arc<Connection>> {
    pub connection: C,
    /// Unique per connection.
    pub connection_id: u64,
    pub client_id: Arc<str>,
    pub address: SocketAddr,
    /// Language code of its frames.
    pub language: u8,
    /// `MQVersion` ordinal of its frames.
    pub version: i32,
}

/// What a group takes from one topic.
#[derive(Debug)]
pub struct Subscription {
    /// As the heartbeat said it.
    pub data: SubscriptionData,
    /// The same, ready for the filter at the broker; takes nothing when the expression is wrong.
    pub filter: Filter,
    /// Why the expression is refused.
    pub error: Option<ExpressionError>,
}

impl Subscription {
    pub(crate) fn new(data: SubscriptionData) -> Self {
        let (filter, error) = match Filter::of(&data) {
            Ok(filter) => (filter, None),
            Err(error) => (Filter::none(), Some(error)),
        };
        Self { data, filter, error }
    }
}

/// What a heartbeat says of one consumer group.
#[derive(Debug)]
pub struct ConsumerBeat {
    pub consume_type: ConsumeType,
    pub message_model: MessageModel,
    pub consume_from_where: ConsumeFromWhere,
    /// `None` in a heartbeat without subscriptions (V2): what is known stays.
    pub subscriptions: Option<Vec<SubscriptionData>>,
    /// 0 from a client of the first heartbeat version.
    pub fingerprint: i32,
    /// Whether members of this group want to be told of changes.
    pub notify: bool,
}

/// What a heartbeat did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BeatOutcome {
    /// A member or a topic is new, or a topic went.
    pub changed: bool,
    /// The client should send its subscriptions with the next heartbeat (`IS_SUB_CHANGE`).
    pub wants_subscriptions: bool,
}

struct Tables<C> {
    consumers: HashMap<Arc<str>, ConsumerGroup<C>>,
    producers: HashMap<Arc<str>, HashMap<u64, Member<C>>>,
    /// Groups each connection speaks for; the flag tells consumers from producers.
    of_connection: HashMap<u64, HashSet<(bool, Arc<str>)>>,
    /// The newest connection of each producer, for replies that name it.
    producer_ids: HashMap<Arc<str>, Client<C>>,
    subscription_bytes: usize,
    /// Entries of `of_connection`.
    members: usize,
}

/// Connected clients by group.
pub struct Clients<C = Arc<Connection>> {
    tables: RwLock<Tables<C>>,
    /// Groups whose members are to be told of a change.
    notices: Mutex<HashSet<Arc<str>>>,
    noticed: Notify,
    /// One permit per request that waits for a consumer's answer.
    relays: Arc<Semaphore>,
    /// One permit per reply under way.
    replies: Arc<Semaphore>,
}

impl<C> Default for Clients<C> {
    fn default() -> Self {
        Self {
            tables: RwLock::new(Tables {
                consumers: HashMap::new(),
                producers: HashMap::new(),
                of_connection: HashMap::new(),
                producer_ids: HashMap::new(),
                subscription_bytes: 0,
                members: 0,
            }),
            notices: Mutex::new(HashSet::new()),
            noticed: Notify::new(),
            relays: Arc::new(Semaphore::new(MAX_RELAYS)),
            replies: Arc::new(Semaphore::new(MAX_REPLIES)),
        }
    }
}

const CONSUMER: bool = true;
const PRODUCER: bool = false;

impl<C: Clone> Clients<C> {
    /// Records a heartbeat of one consumer group.
    pub fn consumer_beat(
        &self,
        group: &str,
        client: Client<C>,
        beat: ConsumerBeat,
        now: Instant,
    ) -> Result<BeatOutcome, ClientsFull> {
        let mut tables = self.tables.write();
        let tables = &mut *tables;
        if !tables.consumers.contains_key(group) && tables.consumers.len() >= MAX_CLIENT_GROUPS {
            return Err(ClientsFull::Groups);
        }
        let bytes = beat.subscriptions.as_deref().map(text_bytes);
        if beat.subscriptions.as_ref().is_some_and(|list| list.len() > MAX_SUBSCRIPTIONS_PER_GROUP) {
            return Err(ClientsFull::Subscriptions);
        }
        let before = tables.consumers.get(group).map_or(0, |g| g.subscription_bytes);
        if tables.subscription_bytes - before + bytes.unwrap_or(before) > MAX_SUBSCRIPTION_BYTES {
            return Err(ClientsFull::SubscriptionBytes);
        }
        let name = tables.claim(CONSUMER, group, client.connection_id)?;
        let entry = tables.consumers.entry(Arc::clone(&name)).or_insert_with(|| ConsumerGroup::new(&beat));
        if !entry.members.contains_key(&client.connection_id) && entry.members.len() >= MAX_CLIENTS_PER_GROUP {
            tables.release(CONSUMER, &name, client.connection_id);
            return Err(ClientsFull::Clients);
        }
        entry.consume_type = beat.consume_type;
        entry.message_model = beat.message_model;
        entry.consume_from_where = beat.consume_from_where;
        entry.notify = beat.notify;
        let other_fingerprint = beat.fingerprint == 0 || entry.fingerprint != beat.fingerprint;
        entry.fingerprint = beat.fingerprint;

        let mut changed = entry.touch(group, client, beat.subscriptions.as_deref(), now);
        if let Some(subscriptions) = beat.subscriptions {
            changed |= entry.subscribe(group, subscriptions);
            entry.report_differing(group);
            let bytes = entry.subscriptions.values().map(|s| text_bytes(std::slice::from_ref(&s.data))).sum();
            tables.subscription_bytes = tables.subscription_bytes - entry.subscription_bytes + bytes;
            entry.subscription_bytes = bytes;
        }
        let wants_subscriptions = other_fingerprint || entry.subscriptions.is_empty();
        if changed {
            self.note_change(&name, entry);
        }
        Ok(BeatOutcome { changed, wants_subscriptions })
    }

    /// Records a heartbeat of one producer group.
    pub fn producer_beat(&self, group: &str, client: Client<C>, now: Instant) -> Result<(), ClientsFull> {
        let mut tables = self.tables.write();
        if !tables.producers.contains_key(group) && tables.producers.len() >= MAX_CLIENT_GROUPS {
            return Err(ClientsFull::Groups);
        }
        let tables = &mut *tables;
        let name = tables.claim(PRODUCER, group, client.connection_id)?;
        let members = tables.producers.entry(Arc::clone(&name)).or_default();
        if let Some(member) = members.get_mut(&client.connection_id) {
            member.seen = now;
            return Ok(());
        }
        if members.len() >= MAX_CLIENTS_PER_GROUP {
            tables.release(PRODUCER, &name, client.connection_id);
            return Err(ClientsFull::Clients);
        }
        tracing::info!("producer {} of group {group} connected from {}", client.client_id, client.address);
        tables.producer_ids.insert(Arc::clone(&client.client_id), client.clone());
        members.insert(client.connection_id, Member { client, seen: now, said: None });
        Ok(())
    }

    /// A consumer leaves its group.
    pub fn unregister_consumer(&self, group: &str, connection_id: u64) {
        self.leave(&mut self.tables.write(), CONSUMER, group, connection_id, "unregistered");
    }

    /// A producer leaves its group.
    pub fn unregister_producer(&self, group: &str, connection_id: u64) {
        self.leave(&mut self.tables.write(), PRODUCER, group, connection_id, "unregistered");
    }

    /// Forgets everything known through a connection that ended; group and id of each consumer that has no other one.
    pub fn connection_closed(&self, connection_id: u64) -> Vec<(Arc<str>, Arc<str>)> {
        let mut tables = self.tables.write();
        let mut gone = Vec::new();
        let Some(groups) = tables.of_connection.get(&connection_id).cloned() else { return gone };
        for (kind, group) in groups {
            let Some(client_id) = self.leave(&mut tables, kind, &group, connection_id, "lost its connection") else {
                continue;
            };
            let has_other = |entry: &ConsumerGroup<C>| entry.members.values().any(|m| m.client.client_id == client_id);
            if !tables.consumers.get(&group).is_some_and(has_other) {
                gone.push((group, client_id));
            }
        }
        gone
    }

    /// Lets the members of a group be told to rebalance.
    pub fn call_to_rebalance(&self, group: &str) {
        if let Some((name, entry)) = self.tables.read().consumers.get_key_value(group) {
            self.note_change(name, entry);
        }
    }

    /// Forgets clients without a heartbeat for `timeout`; the caller closes their connections.
    pub fn expire(&self, now: Instant, timeout: Duration) -> Vec<C> {
        let silent = |member: &Member<C>| now.saturating_duration_since(member.seen) > timeout;
        let gone: Vec<(bool, Arc<str>, Client<C>)> = {
            let tables = self.tables.read();
            let consumers = tables.consumers.iter().flat_map(|(name, group)| {
                group.members.values().filter(|m| silent(m)).map(|m| (CONSUMER, Arc::clone(name), m.client.clone()))
            });
            let producers = tables.producers.iter().flat_map(|(name, members)| {
                members.values().filter(|m| silent(m)).map(|m| (PRODUCER, Arc::clone(name), m.client.clone()))
            });
            consumers.chain(producers).collect()
        };
        if gone.is_empty() {
            return Vec::new();
        }
        let mut tables = self.tables.write();
        let mut closing = HashSet::new();
        let mut connections = Vec::new();
        for (kind, group, client) in gone {
            self.leave(&mut tables, kind, &group, client.connection_id, "sent no heartbeat for too long");
            if closing.insert(client.connection_id) {
                connections.push(client.connection);
            }
        }
        connections
    }

    /// Groups to tell of a change since the last call, each with its members of this moment.
    pub fn take_notices(&self) -> Vec<(Arc<str>, Vec<C>)> {
        let groups = std::mem::take(&mut *self.notices.lock());
        let tables = self.tables.read();
        groups
            .into_iter()
            .filter_map(|name| {
                let group = tables.consumers.get(&name)?;
                Some((name, group.members.values().map(|m| m.client.connection.clone()).collect()))
            })
            .collect()
    }

    /// Returns when there is something for [`Clients::take_notices`].
    pub async fn noticed(&self) {
        self.noticed.notified().await;
    }

    /// Removes a member; the id of a consumer.
    fn leave(
        &self,
        tables: &mut Tables<C>,
        kind: bool,
        group: &str,
        connection_id: u64,
        why: &str,
    ) -> Option<Arc<str>> {
        tables.release(kind, group, connection_id);
        if kind == PRODUCER {
            let members = tables.producers.get_mut(group)?;
            let left = members.remove(&connection_id);
            if members.is_empty() {
                tables.producers.remove(group);
            }
            if let Some(member) = left {
                tracing::info!("producer {} of group {group} {why}", member.client.client_id);
                tables.forget_producer_id(&member.client);
            }
            return None;
        }
        let (name, entry) = tables.consumers.get_key_value(group)?;
        let name = Arc::clone(name);
        let bytes = entry.subscription_bytes;
        let entry = tables.consumers.get_mut(group)?;
        let member = entry.members.remove(&connection_id)?;
        tracing::info!("consumer {} of group {group} {why}", member.client.client_id);
        if entry.members.is_empty() {
            tables.consumers.remove(group);
            tables.subscription_bytes -= bytes;
        } else {
            self.note_change(&name, entry);
        }
        Some(member.client.client_id)
    }

    fn note_change(&self, name: &Arc<str>, group: &ConsumerGroup<C>) {
        if group.notify && group.message_model != MessageModel::Broadcasting {
            self.notices.lock().insert(Arc::clone(name));
            self.noticed.notify_one();
        }
    }
}

impl<C> Tables<C> {
    /// Notes that a connection speaks for a group; the group's name as it is kept.
    fn claim(&mut self, kind: bool, group: &str, connection_id: u64) -> Result<Arc<str>, ClientsFull> {
        let known = match kind {
            CONSUMER => self.consumers.get_key_value(group).map(|(name, _)| Arc::clone(name)),
            PRODUCER => self.producers.get_key_value(group).map(|(name, _)| Arc::clone(name)),
        };
        let name = known.unwrap_or_else(|| Arc::from(group));
        let key = (kind, Arc::clone(&name));
        let groups = self.of_connection.get(&connection_id);
        if groups.is_some_and(|groups| groups.contains(&key)) {
            return Ok(name);
        }
        if groups.is_some_and(|groups| groups.len() >= MAX_GROUPS_PER_CONNECTION) {
            return Err(ClientsFull::GroupsOfConnection);
        }
        if self.members >= MAX_MEMBERS {
            return Err(ClientsFull::Members);
        }
        self.of_connection.entry(connection_id).or_default().insert(key);
        self.members += 1;
        Ok(name)
    }

    /// A producer has left a group; its id goes with its last one.
    fn forget_producer_id(&mut self, client: &Client<C>) {
        let groups = self.of_connection.get(&client.connection_id);
        let speaks_on = groups.is_some_and(|groups| groups.iter().any(|(kind, _)| *kind == PRODUCER));
        let is_newest =
            self.producer_ids.get(&client.client_id).is_some_and(|kept| kept.connection_id == client.connection_id);
        if is_newest && !speaks_on {
            self.producer_ids.remove(&client.client_id);
        }
    }

    fn release(&mut self, kind: bool, group: &str, connection_id: u64) {
        if let Some(groups) = self.of_connection.get_mut(&connection_id) {
            self.members -= usize::from(groups.remove(&(kind, Arc::from(group))));
            if groups.is_empty() {
                self.of_connection.remove(&connection_id);
            }
        }
    }
}

#[cfg(test)]
mod tests;
