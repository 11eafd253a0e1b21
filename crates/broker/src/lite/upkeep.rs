//! What time brings: topics that may be popped again, clients that do not look at what they were told or are not heard any
//! more, lite topics that nobody writes to (`LiteLifecycleManager`, the threads of `LiteEventDispatcher` and
//! `LiteSubscriptionRegistryImpl`).

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferromq_common::clock;
use ferromq_protocol::topic;

use super::{EXPIRATION, Lites, QUEUE_ID, State};
use crate::broker::Shared;

/// How often clients are looked for that do not look at what they were told.
const SCAN: Duration = Duration::from_secs(5);
const MINUTE_MS: i64 = 60_000;

/// When what is looked at next.
pub(super) struct Clocks {
    started: Instant,
    scan: Instant,
    silent: Instant,
    idle: Instant,
}

impl Clocks {
    pub fn new(now: Instant) -> Self {
        Clocks { started: now, scan: now, silent: now, idle: now }
    }
}

/// Whether it is time; the next is after `period`.
fn is_time(clock: &mut Instant, now: Instant, period: Duration) -> bool {
    let due = now.saturating_duration_since(*clock) >= period;
    if due {
        *clock = now;
    }
    due
}

impl Lites {
    /// Looks at all clocks. Called some times a second; the caller answers waiters that are ready then.
    pub fn sweep(&self, broker: &Arc<Shared>, now: Instant) {
        let config = &broker.config.lite;
        while let Some(pair) = self.unlocked(clock::now_millis()) {
            if let Some((queue, group)) = pair.split_once('@') {
                self.tell(broker, queue, Some(group), "");
            }
        }
        let (scan, silent, idle) = {
            let clocks = &mut self.state.lock().upkeep;
            let is_old = now.saturating_duration_since(clocks.started) >= Duration::from_millis(config.min_lite_ttl);
            (
                is_time(&mut clocks.scan, now, SCAN),
                is_time(&mut clocks.silent, now, Duration::from_millis(config.lite_subscription_check_interval)),
                is_old && is_time(&mut clocks.idle, now, Duration::from_millis(config.lite_ttl_check_interval)),
            )
        };
        if scan {
            self.hand_on(broker, now);
        }
        if silent {
            let limit = Duration::from_millis(config.lite_subscription_check_timeout_mills);
            let silent = self.state.lock().registry.silent(now, limit);
            for client in silent {
                tracing::info!("client {client} has not told its lite topics for long and is forgotten");
                self.leave(broker, &client);
            }
        }
        if idle {
            let shared = Arc::clone(broker);
            // When too many jobs wait, the next time does it.
            let _ = broker.blocking.run(move || shared.lites.forget_idle_topics(&shared));
        }
    }

    /// The next pair of queue and group whose messages may be popped again.
    fn unlocked(&self, now: i64) -> Option<Arc<str>> {
        let mut state = self.state.lock();
        loop {
            let pair = state.unlocks.due(now)?;
            let free_at =
                pair.split_once('@').and_then(|(queue, group)| self.orders.free_at(queue, group, QUEUE_ID, now));
            match free_at {
                Some(at) => state.unlocks.schedule(&pair, at),
                None => return Some(pair),
            }
        }
    }

    /// What clients were told that do not ask is told to others.
    fn hand_on(&self, broker: &Shared, now: Instant) {
        let mut state = self.state.lock();
        let State { registry, polls, .. } = &mut *state;
        let mut given = Vec::new();
        for (client, subscriber) in registry.clients_mut() {
            if !polls.is_waiting(client) && subscriber.events.gives_up(now) {
                given.push((Arc::clone(client), Arc::clone(&subscriber.group), subscriber.events.take()));
            }
        }
        for (client, group, queues) in given {
            for queue in queues {
                self.tell_locked(broker, &mut state, &queue, Some(&group), &client);
            }
        }
        self.note_ready(&state);
    }

    /// A client leaves: what it was told is told to others.
    pub(super) fn leave(&self, broker: &Shared, client: &str) {
        let mut state = self.state.lock();
        let Some(mut left) = state.registry.leave(client) else { return };
        for queue in left.events.take() {
            self.tell_locked(broker, &mut state, &queue, Some(&left.group), "");
        }
        self.note_ready(&state);
    }

    /// Deletes lite topics that got no message for as long as their parent says. May wait for the disk.
    fn forget_idle_topics(&self, broker: &Shared) {
        let now = clock::now_millis();
        let least = i64::try_from(broker.config.lite.min_lite_ttl).unwrap_or(i64::MAX);
        self.delete(broker, |parent, name| {
            let ttl = broker.topics.get(parent).filter(|topic| topic.is_lite()).map_or(0, |topic| expiration(&topic));
            let end = broker.store.find_queue(name, QUEUE_ID).map_or(0, |queue| queue.max_offset());
            if ttl <= 0 || end <= 0 {
                return false;
            }
            let newest = broker.store.find_queue(name, QUEUE_ID).and_then(|q| broker.store.store_time(&q, end - 1));
            now.saturating_sub(newest.unwrap_or(0)) > least.max(ttl.saturating_mul(MINUTE_MS))
        });
        self.orders.forget_old(|_, group| broker.groups.get(group).is_some());
    }

    /// Deletes all lite topics of a parent. May wait for the disk.
    pub fn delete_of(&self, broker: &Shared, parent: &str) {
        self.delete(broker, |of, _| of == parent);
    }

    /// Deletes the lite topics that `is_gone` names by parent and queue, with the offsets of groups and the subscriptions.
    fn delete(&self, broker: &Shared, is_gone: impl Fn(&str, &str) -> bool) {
        let mut gone = HashSet::new();
        for name in broker.store.topics() {
            if !topic::lite_parts(&name).is_some_and(|(parent, _)| is_gone(parent, &name)) {
                continue;
            }
            match broker.store.delete_topic(&name) {
                Ok(()) => {
                    tracing::info!("lite topic {name} is deleted");
                    self.state.lock().registry.forget_queue(&name);
                    gone.insert(name);
                }
                Err(error) => tracing::warn!("lite topic {name} cannot be deleted: {error}"),
            }
        }
        if !gone.is_empty() {
            broker.offsets.remove_topics(|topic| gone.contains(topic));
            self.orders.forget_old(|topic, _| !gone.contains(topic));
        }
    }
}

/// Minutes without a message after which lite topics of a parent go; not above 0: never.
pub(super) fn expiration(parent: &crate::topics::Topic) -> i64 {
    parent.config().attributes.get(EXPIRATION).and_then(|text| text.parse().ok()).unwrap_or(-1)
}
