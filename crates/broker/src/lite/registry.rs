//! Who subscribes to which lite topics (RocketMQ's `LiteSubscriptionRegistryImpl`): a table, which tells nobody anything.
//!
//! Lite topics go by the names of their light queues. A group that takes all lite topics of its parent subscribes to one
//! name that is none of a queue ([`wildcard`]).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::events::Events;

/// Most clients with a subscription.
pub const MAX_CLIENTS: usize = 100_000;

/// What one client subscribes to. `C` is the connection it is told over.
pub(super) struct Subscriber<C> {
    pub group: Arc<str>,
    pub parent: Arc<str>,
    pub queues: HashSet<Arc<str>>,
    /// When it last said anything.
    pub updated: Instant,
    pub connection: C,
    pub events: Events,
}

/// The clients of one group that may be told of a message.
pub(super) type GroupClients = (Arc<str>, Vec<Arc<str>>);

/// All subscriptions.
pub(super) struct Registry<C> {
    clients: HashMap<Arc<str>, Subscriber<C>>,
    /// Clients by queue.
    by_queue: HashMap<Arc<str>, Vec<Arc<str>>>,
    /// Groups that take all of a parent topic.
    wildcards: HashMap<Arc<str>, HashSet<Arc<str>>>,
    /// Pairs of client and queue.
    count: usize,
}

impl<C> Default for Registry<C> {
    fn default() -> Self {
        Self { clients: HashMap::new(), by_queue: HashMap::new(), wildcards: HashMap::new(), count: 0 }
    }
}

/// What a group subscribes to that takes all lite topics of its parent.
pub(super) fn wildcard(parent: &str, group: &str) -> String {
    format!("{parent}@{group}")
}

impl<C> Registry<C> {
    /// Pairs of client and lite topic.
    pub fn count(&self) -> usize {
        self.count
    }

    pub fn get(&self, client: &str) -> Option<&Subscriber<C>> {
        self.clients.get(client)
    }

    pub fn get_mut(&mut self, client: &str) -> Option<&mut Subscriber<C>> {
        self.clients.get_mut(client)
    }

    pub fn clients(&self) -> impl Iterator<Item = (&Arc<str>, &Subscriber<C>)> {
        self.clients.iter()
    }

    pub fn clients_mut(&mut self) -> impl Iterator<Item = (&Arc<str>, &mut Subscriber<C>)> {
        self.clients.iter_mut()
    }

    /// The client, which has just been heard; `None` for one more than [`MAX_CLIENTS`]. A client that comes with another group
    /// begins anew.
    pub fn heard(&mut self, client: &str, group: &str, parent: &str, connection: C) -> Option<&mut Subscriber<C>> {
        if self.clients.get(client).is_some_and(|known| *known.group != *group || *known.parent != *parent) {
            self.leave(client);
        }
        if !self.clients.contains_key(client) && self.clients.len() >= MAX_CLIENTS {
            return None;
        }
        let now = Instant::now();
        let known = self.clients.entry(client.into());
        let subscriber = known.and_modify(|known| known.updated = now);
        Some(subscriber.or_insert_with(|| Subscriber {
            group: group.into(),
            parent: parent.into(),
            queues: HashSet::new(),
            updated: now,
            connection,
            events: Events::new(now),
        }))
    }

    /// A known client subscribes to a queue; whether it is new.
    pub fn add(&mut self, client: &str, queue: &str) -> bool {
        let Some((id, _)) = self.clients.get_key_value(client) else { return false };
        let (id, queue) = (Arc::clone(id), self.by_queue.get_key_value(queue).map_or(queue.into(), |(q, _)| q.clone()));
        let Some(subscriber) = self.clients.get_mut(client) else { return false };
        if !subscriber.queues.insert(Arc::clone(&queue)) {
            return false;
        }
        if *queue == *wildcard(&subscriber.parent, &subscriber.group) {
            self.wildcards.entry(Arc::clone(&subscriber.parent)).or_default().insert(Arc::clone(&subscriber.group));
        }
        self.by_queue.entry(queue).or_default().push(id);
        self.count += 1;
        true
    }

    /// A client unsubscribes from a queue; whether it was subscribed. What it was to be told of the queue is forgotten.
    pub fn remove(&mut self, client: &str, queue: &str) -> bool {
        let Some(subscriber) = self.clients.get_mut(client) else { return false };
        if !subscriber.queues.remove(queue) {
            return false;
        }
        subscriber.events.forget(queue);
        let is_wildcard = *queue == *wildcard(&subscriber.parent, &subscriber.group);
        let place = is_wildcard.then(|| (Arc::clone(&subscriber.parent), Arc::clone(&subscriber.group)));
        self.count -= 1;
        let Some(clients) = self.by_queue.get_mut(queue) else { return true };
        clients.retain(|other| **other != *client);
        if clients.is_empty() {
            self.by_queue.remove(queue);
            if let Some((parent, group)) = place
                && let Some(groups) = self.wildcards.get_mut(&parent)
            {
                groups.remove(&group);
                if groups.is_empty() {
                    self.wildcards.remove(&parent);
                }
            }
        }
        true
    }

    /// Forgets a client; its last state.
    pub fn leave(&mut self, client: &str) -> Option<Subscriber<C>> {
        let queues: Vec<Arc<str>> = self.clients.get(client)?.queues.iter().cloned().collect();
        let events = self.clients.get_mut(client).map(|subscriber| subscriber.events.take())?;
        for queue in &queues {
            self.remove(client, queue);
        }
        let mut left = self.clients.remove(client)?;
        left.events.restore(events);
        Some(left)
    }

    /// Clients of a group that subscribe to a queue, `except` one.
    pub fn holders(&self, group: &str, queue: &str, except: &str) -> Vec<Arc<str>> {
        let clients = self.by_queue.get(queue).into_iter().flatten();
        clients.filter(|id| ***id != *except && self.is_of(id, group)).cloned().collect()
    }

    fn is_of(&self, client: &str, group: &str) -> bool {
        self.clients.get(client).is_some_and(|subscriber| *subscriber.group == *group)
    }

    /// Who gets messages of a queue of the parent topic, by group; of one group only if it is named.
    pub fn subscribers(&self, parent: &str, queue: &str, group: Option<&str>) -> Vec<GroupClients> {
        let mut found: Vec<GroupClients> = Vec::new();
        let wildcards = self.wildcards.get(parent).into_iter().flatten();
        let wildcards = wildcards.filter_map(|group| self.by_queue.get(&*wildcard(parent, group)));
        for id in self.by_queue.get(queue).into_iter().chain(wildcards).flatten() {
            let Some(subscriber) = self.clients.get(id) else { continue };
            if group.is_some_and(|group| *subscriber.group != *group) {
                continue;
            }
            match found.iter_mut().find(|(group, _)| *group == subscriber.group) {
                Some((_, clients)) => clients.push(Arc::clone(id)),
                None => found.push((Arc::clone(&subscriber.group), vec![Arc::clone(id)])),
            }
        }
        found
    }

    /// Clients of a group.
    pub fn of_group(&self, group: &str) -> Vec<Arc<str>> {
        self.clients.iter().filter(|(_, of)| *of.group == *group).map(|(id, _)| Arc::clone(id)).collect()
    }

    /// Clients that have not been heard for `limit`.
    pub fn silent(&self, now: Instant, limit: Duration) -> Vec<Arc<str>> {
        let is_silent = |of: &Subscriber<C>| now.saturating_duration_since(of.updated) > limit;
        self.clients.iter().filter(|(_, of)| is_silent(of)).map(|(id, _)| Arc::clone(id)).collect()
    }

    /// Takes a queue off all clients.
    pub fn forget_queue(&mut self, queue: &str) {
        for client in self.by_queue.get(queue).cloned().unwrap_or_default() {
            self.remove(&client, queue);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(clients: &[(&str, &str)]) -> Registry<()> {
        let mut registry = Registry::default();
        for (client, group) in clients {
            registry.heard(client, group, "P", ()).unwrap();
        }
        registry
    }

    fn named(found: &[GroupClients]) -> Vec<(&str, Vec<&str>)> {
        let mut all: Vec<_> = found.iter().map(|(g, c)| (&**g, c.iter().map(|c| &**c).collect::<Vec<_>>())).collect();
        all.iter_mut().for_each(|(_, clients)| clients.sort_unstable());
        all.sort_unstable();
        all
    }

    #[test]
    fn messages_go_to_one_list_of_clients_for_each_group() {
        let mut registry = with(&[("a", "g"), ("b", "g"), ("c", "h"), ("w", "all")]);
        assert!(registry.add("a", "q") && registry.add("b", "q") && registry.add("c", "q"));
        assert!(!registry.add("a", "q") && !registry.add("nobody", "q"));
        registry.add("w", &wildcard("P", "all"));
        assert_eq!(registry.count(), 4);
        assert_eq!(
            named(&registry.subscribers("P", "q", None)),
            [("all", vec!["w"]), ("g", vec!["a", "b"]), ("h", vec!["c"])]
        );
        assert_eq!(named(&registry.subscribers("P", "q", Some("h"))), [("h", vec!["c"])]);
        assert_eq!(named(&registry.subscribers("P", "other", None)), [("all", vec!["w"])]);
        assert_eq!(named(&registry.subscribers("Q", "other", None)), []);
        assert_eq!(registry.holders("g", "q", "a").iter().map(|c| &**c).collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn who_leaves_is_gone_everywhere() {
        let mut registry = with(&[("a", "g"), ("w", "all")]);
        registry.add("a", "q");
        registry.add("a", "r");
        registry.add("w", &wildcard("P", "all"));
        assert!(registry.remove("a", "q") && !registry.remove("a", "q"));
        assert_eq!(registry.leave("a").unwrap().group, "g".into());
        registry.leave("w");
        assert_eq!((registry.count(), registry.clients().count()), (0, 0));
        assert!(registry.subscribers("P", "r", None).is_empty() && registry.by_queue.is_empty());
        assert!(registry.wildcards.is_empty());
    }

    #[test]
    fn a_client_that_comes_back_with_another_group_begins_anew() {
        let mut registry = with(&[("a", "g")]);
        registry.add("a", "q");
        registry.heard("a", "h", "P", ()).unwrap();
        assert_eq!(registry.count(), 0);
        assert_eq!(registry.of_group("h").len(), 1);
        registry.add("a", "q");
        registry.forget_queue("q");
        assert_eq!((registry.count(), registry.get("a").unwrap().queues.len()), (0, 0));
        assert_eq!(registry.silent(Instant::now() + Duration::from_secs(2), Duration::from_secs(1)).len(), 1);
    }
}
