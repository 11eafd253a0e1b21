//! Changes of subscriptions (`LiteSubscriptionCtlProcessor`, `LiteSubscriptionRegistryImpl`).
//!
//! Clients tell each change, and from time to time all they subscribe to. In a group of the exclusive model a lite topic
//! belongs to who subscribed last: the one before is told. A complete set takes nothing away from others; its sender is told
//! again. Unlike RocketMQ every broker keeps the whole set, also of lite topics whose messages go to others.

use std::collections::HashSet;
use std::sync::Arc;

use ferromq_protocol::body::{LiteSubscription, LiteSubscriptionAction as Action, OffsetOption, OffsetOptionType};
use ferromq_protocol::code::{request, response};
use ferromq_protocol::header::lite::NotifyUnsubscribeLiteHeader;
use ferromq_protocol::{Encoding, FrameWriter, Text, topic};
use ferromq_remoting::Connection;
use ferromq_store::Boundary;

use super::registry::{MAX_CLIENTS, wildcard};
use super::{Lites, MODEL, QUEUE_ID, RESET_EXCLUSIVE, RESET_UNSUBSCRIBE, State, Traits};
use crate::broker::Shared;
use crate::clients::MAX_CLIENT_ID_BYTES;
use crate::handler::Refusal;

const OLDEST: OffsetOption = OffsetOption { r#type: OffsetOptionType::Policy, value: OffsetOption::POLICY_MIN };

/// Does what one client wants. May wait for the disk when the change names a time.
pub(crate) fn change(broker: &Shared, conn: &Arc<Connection>, change: &LiteSubscription) -> Result<(), Refusal> {
    let LiteSubscription { action, client_id, group, topic, .. } = change;
    if [client_id, group, topic].iter().any(|name| name.trim().is_empty()) || client_id.len() > MAX_CLIENT_ID_BYTES {
        return Err(illegal("a subscription wants a client id, a group and a topic"));
    }
    let lites = &broker.lites;
    match action {
        Action::PartialAdd => {
            check(broker, group)?;
            lites.add(broker, conn, change)
        }
        Action::PartialRemove => {
            lites.remove(broker, change);
            Ok(())
        }
        Action::CompleteAdd => {
            check(broker, group)?;
            lites.set(broker, conn, change)
        }
        Action::CompleteRemove => {
            lites.leave(broker, client_id);
            Ok(())
        }
    }
}

fn illegal(remark: &'static str) -> Refusal {
    Refusal::new(response::ILLEGAL_OPERATION, remark)
}

fn check(broker: &Shared, group: &str) -> Result<(), Refusal> {
    if !broker.store.has_light_queues() {
        return Err(illegal("lite topics want enableLmq=true and enableMultiDispatch=true"));
    }
    match broker.groups.get(group) {
        Some(group) if group.consume_enable => Ok(()),
        _ => Err(illegal("Consumer group is not allowed to consume.")),
    }
}

/// The queues a change names, those that can exist.
fn queues(change: &LiteSubscription) -> HashSet<String> {
    let names = change.lite_topic_set.iter().filter(|name| topic::is_lite_topic(name));
    names.map(|name| topic::lite_queue(&change.topic, name)).collect()
}

impl Lites {
    fn add(&self, broker: &Shared, conn: &Arc<Connection>, change: &LiteSubscription) -> Result<(), Refusal> {
        let LiteSubscription { client_id, group, .. } = change;
        let traits = Traits::of(broker, group);
        if traits.is_wildcard() {
            return Err(illegal("subscribe lite operation is not supported for this group"));
        }
        let queues = queues(change);
        {
            let mut state = self.state.lock();
            heard(broker, &mut state, conn, change, queues.iter())?;
            for queue in &queues {
                state.registry.add(client_id, queue);
                if traits.is_exclusive() {
                    self.take_from_others(broker, &mut state, change, queue, &traits);
                }
            }
        }
        for queue in &queues {
            if let Some(option) = change.offset_option {
                self.reset(broker, queue, group, option);
            }
            self.tell(broker, queue, Some(group), "");
        }
        Ok(())
    }

    /// Who else has the topic loses it, and is told.
    fn take_from_others(
        &self,
        broker: &Shared,
        state: &mut State,
        change: &LiteSubscription,
        queue: &str,
        traits: &Traits,
    ) {
        for other in state.registry.holders(&change.group, queue, &change.client_id) {
            if let Some(subscriber) = state.registry.get(&other) {
                notify(&subscriber.connection, &other, &change.group, queue);
            }
            tracing::info!("lite topic {queue} of group {}: {other} -> {}", change.group, change.client_id);
            state.registry.remove(&other, queue);
            if traits.is(RESET_EXCLUSIVE, "true") {
                self.reset(broker, queue, &change.group, OLDEST);
            }
        }
    }

    fn remove(&self, broker: &Shared, change: &LiteSubscription) {
        let reset = Traits::of(broker, &change.group).is(RESET_UNSUBSCRIBE, "true");
        for queue in queues(change) {
            if self.state.lock().registry.remove(&change.client_id, &queue) {
                if reset {
                    self.reset(broker, &queue, &change.group, OLDEST);
                }
                self.tell(broker, &queue, Some(&change.group), "");
            }
        }
    }

    fn set(&self, broker: &Shared, conn: &Arc<Connection>, change: &LiteSubscription) -> Result<(), Refusal> {
        let LiteSubscription { client_id, group, topic: parent, .. } = change;
        let traits = Traits::of(broker, group);
        let is_wildcard = traits.is_wildcard();
        let mut wanted = if is_wildcard { HashSet::from([wildcard(parent, group)]) } else { queues(change) };
        let mut added = Vec::new();
        {
            let mut state = self.state.lock();
            if traits.is(MODEL, "Exclusive") {
                wanted.retain(|queue| {
                    let is_free = state.registry.holders(group, queue, client_id).is_empty();
                    if !is_free {
                        notify(conn, client_id, group, queue);
                    }
                    is_free
                });
            }
            heard(broker, &mut state, conn, change, wanted.iter())?;
            let before = state.registry.get(client_id).map(|known| known.queues.clone()).unwrap_or_default();
            for queue in before.iter().filter(|queue| !wanted.contains(&***queue)) {
                state.registry.remove(client_id, queue);
            }
            added.extend(wanted.iter().filter(|queue| state.registry.add(client_id, queue)));
        }
        if is_wildcard && !added.is_empty() {
            self.refill(broker, client_id);
        }
        for queue in added {
            self.tell(broker, queue, Some(group), "");
        }
        Ok(())
    }

    /// Lets a group begin elsewhere in a queue.
    fn reset(&self, broker: &Shared, name: &str, group: &str, option: OffsetOption) {
        let current = broker.offsets.query(name, group, QUEUE_ID);
        let queue = broker.store.find_queue(name, QUEUE_ID);
        let target = match (option.r#type, option.value) {
            (OffsetOptionType::Policy, OffsetOption::POLICY_MIN) => Some(0),
            (OffsetOptionType::Policy, OffsetOption::POLICY_MAX) => Some(queue.map_or(0, |queue| queue.max_offset())),
            (OffsetOptionType::Policy, _) => None,
            (OffsetOptionType::Offset, offset) => Some(offset.max(0)),
            (OffsetOptionType::TailN, count) => current.map(|current| current.saturating_sub(count).max(0)),
            (OffsetOptionType::Timestamp, time) => {
                queue.map(|queue| broker.store.search_by_time(&queue, time, Boundary::Lower))
            }
        };
        if let Some(target) = target.filter(|target| current != Some(*target)) {
            tracing::info!("group {group} begins at {target} of lite topic {name}, it stood at {current:?}");
            broker.offsets.reset(name, group, QUEUE_ID, target);
            self.orders.clear(name, group, QUEUE_ID);
        }
    }
}

/// Notes that a client is there and has room for the queues it names.
fn heard<'q>(
    broker: &Shared,
    state: &mut State,
    conn: &Arc<Connection>,
    change: &LiteSubscription,
    queues: impl Iterator<Item = &'q String>,
) -> Result<(), Refusal> {
    let max = broker.config.lite.max_lite_subscription_count;
    let count = state.registry.count();
    let exceeded = |remark: String| Refusal::new(response::LITE_SUBSCRIPTION_QUOTA_EXCEEDED, remark);
    let subscriber = state
        .registry
        .heard(&change.client_id, &change.group, &change.topic, Arc::clone(conn))
        .ok_or_else(|| exceeded(format!("{MAX_CLIENTS} clients subscribe to lite topics already")))?;
    subscriber.connection = Arc::clone(conn);
    let new = queues.filter(|queue| !subscriber.queues.contains(queue.as_str())).count();
    match new > 0 && count + new > max {
        true => Err(exceeded(format!("lite subscription quota exceeded {max} (maxLiteSubscriptionCount)"))),
        false => Ok(()),
    }
}

/// Tells a client that a lite topic is not its own any more (code 200073).
fn notify(connection: &Arc<Connection>, client: &str, group: &str, queue: &str) {
    let Some((_, lite)) = topic::lite_parts(queue) else { return };
    let told = connection.oneway(|out, opaque| {
        let mut frame = FrameWriter::request(out, Encoding::Json, request::NOTIFY_UNSUBSCRIBE_LITE, opaque, true);
        let header = NotifyUnsubscribeLiteHeader {
            lite_topic: Text::plain(lite),
            consumer_group: Text::plain(group),
            client_id: Text::plain(client),
        };
        header.write(&mut frame);
        frame.finish();
    });
    if let Err(error) = told {
        tracing::debug!("client {client} is not told that {queue} is not its own any more: {error}");
    }
}
