//! Telling clients in which lite topics messages wait (RocketMQ's `LiteEventDispatcher`).
//!
//! One client of each group is told, another each time; one that has not looked at what it was told for a while is the last
//! choice. A topic whose messages the group cannot have now is not told: its acknowledgement or the end of its
//! invisible time tells it (`ack.rs`, `upkeep.rs`). What there was no room for is found when the client has looked at the rest.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use ferromq_common::clock;
use ferromq_protocol::topic;

use super::registry::wildcard;
use super::{Lites, QUEUE_ID, State, Traits};
use crate::broker::Shared;

/// Group and parent topic of a client, and the queues it subscribes to if those are not all.
type Subscription = (Arc<str>, Arc<str>, Option<Vec<Arc<str>>>);

impl Lites {
    /// A message became visible in a queue that may be a lite topic. Called by dispatch.
    pub fn arrived(&self, queue: &str) {
        if !queue.starts_with(topic::LITE_PREFIX) {
            return;
        }
        let mut arrived = self.arrived.lock();
        if !arrived.contains(queue) {
            arrived.insert(queue.to_owned());
            self.any_arrived.store(true, Ordering::Release);
        }
    }

    /// Tells clients of the messages that have arrived since the last call.
    pub(super) fn spread_arrivals(&self, broker: &Shared) {
        if !self.any_arrived.load(Ordering::Acquire) || !self.any_arrived.swap(false, Ordering::AcqRel) {
            return;
        }
        let arrived = std::mem::take(&mut *self.arrived.lock());
        for queue in arrived {
            self.tell(broker, &queue, None, "");
        }
    }

    /// Tells a client of each group that subscribes to the queue, or of one group, if messages wait; rather not `not_to`.
    pub(super) fn tell(&self, broker: &Shared, queue: &str, group: Option<&str>, not_to: &str) {
        let mut state = self.state.lock();
        self.tell_locked(broker, &mut state, queue, group, not_to);
        self.note_ready(&state);
    }

    pub(super) fn tell_locked(
        &self,
        broker: &Shared,
        state: &mut State,
        queue: &str,
        group: Option<&str>,
        not_to: &str,
    ) {
        let Some((parent, _)) = topic::lite_parts(queue) else { return };
        let name: Arc<str> = queue.into();
        for (group, clients) in state.registry.subscribers(parent, queue, group) {
            if !self.has_messages(broker, queue, &group) {
                continue;
            }
            let max = Traits::of(broker, &group).max_events(&broker.config.lite);
            state.turn = state.turn.wrapping_add(1);
            let (turn, now) = (state.turn % clients.len(), Instant::now());
            let (mut first, mut last) = (Vec::new(), Vec::new());
            for client in clients[turn..].iter().chain(&clients[..turn]) {
                let is_avoided = state.registry.get(client).is_none_or(|of| of.events.is_avoided(now));
                if **client == *not_to || is_avoided { last.push(client) } else { first.push(client) }
            }
            let told = first.into_iter().chain(last).find(|client| {
                state.registry.get_mut(client).is_some_and(|subscriber| subscriber.events.offer(&name, max))
            });
            if let Some(client) = told {
                state.polls.wake(client);
            }
        }
    }

    /// Whether the group could pop a message of the queue now.
    fn has_messages(&self, broker: &Shared, queue: &str, group: &str) -> bool {
        let end = broker.store.find_queue(queue, QUEUE_ID).map_or(0, |queue| queue.max_offset());
        let offset = broker.offsets.query(queue, group, QUEUE_ID);
        let has_reset = broker.offsets.has_reset(queue, group, QUEUE_ID);
        let is_behind = offset.map_or(end > 0, |offset| offset < end);
        (is_behind || has_reset) && !self.is_blocked(queue, group, clock::now_millis())
    }

    /// Notes queues of a client's subscription in which messages wait, as many as there is room for.
    pub(super) fn refill(&self, broker: &Shared, client: &str) {
        let Some((group, parent, queues)) = self.subscription_of(client) else { return };
        let queues = queues.unwrap_or_else(|| {
            let belongs = |name: &Arc<str>| topic::lite_parts(name).is_some_and(|(of, _)| *of == *parent);
            broker.store.topics().into_iter().filter(belongs).collect()
        });
        self.note_all(broker, client, &group, &queues);
    }

    fn subscription_of(&self, client: &str) -> Option<Subscription> {
        let mut state = self.state.lock();
        let subscriber = state.registry.get_mut(client)?;
        subscriber.events.overflowed = false;
        let all = wildcard(&subscriber.parent, &subscriber.group);
        let some = !subscriber.queues.contains(&*all);
        let queues = some.then(|| subscriber.queues.iter().cloned().collect());
        Some((Arc::clone(&subscriber.group), Arc::clone(&subscriber.parent), queues))
    }

    fn note_all(&self, broker: &Shared, client: &str, group: &str, queues: &[Arc<str>]) {
        let max = Traits::of(broker, group).max_events(&broker.config.lite);
        let waiting: Vec<_> = queues.iter().filter(|queue| self.has_messages(broker, queue, group)).collect();
        let mut state = self.state.lock();
        let Some(subscriber) = state.registry.get_mut(client) else { return };
        let mut noted = false;
        for queue in waiting {
            if !subscriber.events.offer(queue, max) {
                break;
            }
            noted = true;
        }
        if noted {
            state.polls.wake(client);
        }
        self.note_ready(&state);
    }

    /// As [`Lites::refill`] for all members of a group, or the one that is named.
    pub fn trigger(&self, broker: &Shared, group: &str, client: Option<&str>) {
        let members = match client {
            Some(client) => vec![client.into()],
            None => self.state.lock().registry.of_group(group),
        };
        for member in members {
            self.refill(broker, &member);
        }
    }
}
