//! What other parts of the broker ask of the client table.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use ferromq_protocol::body::{ConsumeFromWhere, ConsumeType, MessageModel};

use tokio::sync::Semaphore;

use super::group::ConsumerGroup;
use super::{Client, Clients, Subscription};
use crate::filter::is_tag_type;

/// What a pull needs to know of its group.
#[derive(Debug)]
pub struct ConsumerView {
    pub message_model: MessageModel,
    /// `None` when the group does not subscribe to the topic.
    pub subscription: Option<Arc<Subscription>>,
}

/// A consumer group with all its members (code 203).
#[derive(Debug)]
pub struct GroupView<C> {
    pub consume_type: ConsumeType,
    pub message_model: MessageModel,
    pub consume_from_where: ConsumeFromWhere,
    pub subscriptions: Vec<Arc<Subscription>>,
    pub members: Vec<Client<C>>,
}

impl<C: Clone> Clients<C> {
    /// What `group` takes from `topic`; `None` when no consumer of the group is connected.
    pub fn consumer(&self, group: &str, topic: &str) -> Option<ConsumerView> {
        let tables = self.tables.read();
        let group = tables.consumers.get(group)?;
        let subscription = group.subscriptions.get(topic).cloned();
        Some(ConsumerView { message_model: group.message_model, subscription })
    }

    /// The id of the client that this connection speaks for, if its group is pushed to and broadcasts.
    pub fn broadcaster(&self, group: &str, connection_id: u64) -> Option<Arc<str>> {
        let tables = self.tables.read();
        let group = tables.consumers.get(group)?;
        let broadcasts =
            group.message_model == MessageModel::Broadcasting && group.consume_type == ConsumeType::ConsumePassively;
        let member = group.members.get(&connection_id).filter(|_| broadcasts)?;
        Some(Arc::clone(&member.client.client_id))
    }

    /// A connected consumer group, or `None`.
    pub fn consumer_group(&self, group: &str) -> Option<GroupView<C>> {
        let tables = self.tables.read();
        let group = tables.consumers.get(group)?;
        Some(GroupView {
            consume_type: group.consume_type,
            message_model: group.message_model,
            consume_from_where: group.consume_from_where,
            subscriptions: group.subscriptions.values().cloned().collect(),
            members: group.members.values().map(|member| member.client.clone()).collect(),
        })
    }

    /// Connected groups whose members subscribe to different things.
    pub fn differing_groups(&self) -> Vec<Arc<str>> {
        let tables = self.tables.read();
        let differing = tables.consumers.iter().filter(|(_, group)| group.differing().is_some());
        differing.map(|(name, _)| Arc::clone(name)).collect()
    }

    /// Ids of a group's connected consumers, each once (a client that reconnected may hold two connections for a while).
    pub fn consumer_ids(&self, group: &str) -> Vec<String> {
        let tables = self.tables.read();
        let ids: BTreeSet<&str> = tables
            .consumers
            .get(group)
            .into_iter()
            .flat_map(|group| group.members.values().map(|member| &*member.client.client_id))
            .collect();
        ids.into_iter().map(str::to_owned).collect()
    }

    /// Connected groups that subscribe to `topic`.
    pub fn groups_of_topic(&self, topic: &str) -> Vec<Arc<str>> {
        let tables = self.tables.read();
        let reads = tables.consumers.iter().filter(|(_, group)| group.subscriptions.contains_key(topic));
        reads.map(|(name, _)| Arc::clone(name)).collect()
    }

    /// Subscriptions of connected groups that filter by something else than tags, and can be used.
    pub fn expressions(&self) -> Vec<(Arc<str>, Arc<Subscription>)> {
        let tables = self.tables.read();
        let by_expression = |s: &&Arc<Subscription>| s.error.is_none() && !is_tag_type(&s.data.expression_type);
        let of_group = |(name, group): (&Arc<str>, &ConsumerGroup<C>)| {
            let found = group.subscriptions.values().filter(by_expression);
            found.map(|subscription| (Arc::clone(name), Arc::clone(subscription))).collect::<Vec<_>>()
        };
        tables.consumers.iter().flat_map(of_group).collect()
    }

    /// All connected producers: group, client, when it was last heard of.
    pub fn all_producers(&self) -> Vec<(Arc<str>, Client<C>, Instant)> {
        let tables = self.tables.read();
        let groups = tables.producers.iter();
        groups
            .flat_map(|(name, members)| members.values().map(|m| (Arc::clone(name), m.client.clone(), m.seen)))
            .collect()
    }

    /// Permits of requests that wait for a consumer's answer.
    pub fn relays(&self) -> &Arc<Semaphore> {
        &self.relays
    }

    /// Permits of replies that wait for the acknowledgement of the producer that asked.
    pub fn replies(&self) -> &Arc<Semaphore> {
        &self.replies
    }

    /// The connected producer with this client id.
    pub fn producer(&self, client_id: &str) -> Option<Client<C>> {
        self.tables.read().producer_ids.get(client_id).cloned()
    }

    /// Connected producers of a group, or `None` without any.
    pub fn producers(&self, group: &str) -> Option<Vec<Client<C>>> {
        let tables = self.tables.read();
        tables.producers.get(group).map(|members| members.values().map(|member| member.client.clone()).collect())
    }
}
