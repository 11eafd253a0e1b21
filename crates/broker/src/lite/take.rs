//! Popping from lite topics (RocketMQ's `PopLiteMessageProcessor`): the client's noted topics are read one after the other,
//! each behind the group's offset. The messages stay in their place until they are acknowledged; what was popped last of a
//! topic is kept in memory, so that after a restart it is popped again.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use ferromq_common::clock;
use ferromq_protocol::code::response;
use ferromq_protocol::pop;
use ferromq_remoting::Connection;
use ferromq_store::{Queue, ReadStatus};

use super::registry::Subscriber;
use super::{BIND_TOPIC, Lites, QUEUE_ID};
use crate::broker::Shared;
use crate::groups::refuse_paused;
use crate::handler::Refusal;
use crate::pop::popped::Popped;
use crate::pop::rate;
use crate::pop::records::queue_offsets;
use crate::pop::take::{self, PopRequest};

/// What one pop asks for.
#[derive(Clone, Debug)]
pub(crate) struct LitePop {
    pub client: Arc<str>,
    /// Its topic is the parent.
    pub request: PopRequest,
}

impl LitePop {
    /// Whether a subscriber is the one that pops.
    pub(super) fn is_of(&self, subscriber: &Subscriber<Arc<Connection>>) -> bool {
        subscriber.group == self.request.group
    }

    /// Whether the group has read too fast.
    pub(super) fn is_held(&self, broker: &Shared) -> bool {
        let group = broker.groups.get(&self.request.group);
        rate::held_until(rate::limit_of(broker, group.as_deref()).as_deref(), clock::now_millis()).is_some()
    }
}

/// Checks that a group may pop lite topics of a parent, beyond what every pop is checked for.
pub(crate) fn check(broker: &Shared, parent: &str, group: &str) -> Result<(), Refusal> {
    let (topic, _) = take::check(broker, parent, group, -1, "pop")?;
    if !topic.is_lite() {
        return Err(Refusal::new(response::INVALID_PARAMETER, format!("the topic [{parent}] message type not match")));
    }
    if !is_bound(broker, group, parent) {
        return Err(Refusal::new(response::INVALID_PARAMETER, format!("subscription bind topic not match, {group}")));
    }
    Ok(())
}

/// Whether a group consumes the lite topics of a parent.
pub(super) fn is_bound(broker: &Shared, group: &str, parent: &str) -> bool {
    let group = broker.groups.get(group);
    group.is_some_and(|group| group.attributes.get(BIND_TOPIC).is_some_and(|bound| bound == parent))
}

/// Whether messages that the pop would hand out may have to come from the disk.
pub(crate) fn is_cold(broker: &Shared, pop: &LitePop) -> bool {
    let log = broker.store.max_physical_offset() - broker.store.min_physical_offset();
    log > broker.warm_log_bytes
        && broker.lites.ahead(pop).iter().filter_map(|name| broker.store.find_queue(name, QUEUE_ID)).any(|queue| {
            let offset = broker.offsets.query(queue.topic(), &pop.request.group, QUEUE_ID).unwrap_or(0);
            (queue.min_offset()..queue.max_offset()).contains(&offset) && !broker.store.is_in_memory(&queue, offset)
        })
}

/// Pops: appends the records to `records`; none for a group that has read too fast. One that was paused while it waited is
/// refused.
pub(crate) fn take(broker: &Shared, pop: &LitePop, records: &mut Vec<u8>) -> Result<Popped, Refusal> {
    let group = broker.groups.get(&pop.request.group);
    group.as_deref().map_or(Ok(()), refuse_paused)?;
    let limit = rate::limit_of(broker, group.as_deref());
    let mut popped =
        Popped { pop_time: clock::now_millis(), revive_queue: pop::ORDER_REVIVE_QUEUE, ..Popped::default() };
    if rate::held_until(limit.as_deref(), popped.pop_time).is_some() {
        return Ok(popped);
    }
    let mut looked = HashSet::new();
    while popped.count < pop.request.max_messages
        && let Some(name) = broker.lites.next_event(broker, pop)
    {
        if looked.insert(Arc::clone(&name))
            && let Some(queue) = broker.store.find_queue(&name, QUEUE_ID)
        {
            let request = PopRequest { topic: name, ..pop.request.clone() };
            take_from(broker, &request, &queue, &mut popped, records);
        }
    }
    broker.stats.count_pull(u64::from(popped.count));
    if popped.count > 0 {
        if let Some(limit) = limit {
            limit.charge(u64::from(popped.count), Instant::now());
        }
        if let Some(flow) = broker.rates.read_by(&pop.request.topic, &pop.request.group) {
            flow.count(u64::from(popped.count), records.len() as u64);
        }
    }
    Ok(popped)
}

/// Pops from one lite topic, the topic of the request.
fn take_from(broker: &Shared, request: &PopRequest, queue: &Arc<Queue>, popped: &mut Popped, records: &mut Vec<u8>) {
    let lites = &broker.lites;
    let (name, group) = (queue.topic(), &*request.group);
    let _taking = lites.taking(name, group);
    if lites.orders.blocked_until(request, QUEUE_ID, popped.pop_time).is_some() {
        return;
    }
    let before = records.len();
    let left = request.max_messages - popped.count;
    let offset = match start_offset(broker, request, queue) {
        Ok(offset) => offset,
        Err(refusal) => {
            tracing::error!("group {group} cannot pop {name}: {}", refusal.remark);
            return;
        }
    };
    let mut read = |offset| broker.store.read(queue, offset, left, u32::MAX, &mut |_| true, records);
    let mut outcome = read(offset);
    if let ReadStatus::OffsetTooSmall
    | ReadStatus::OffsetOverflowBadly
    | ReadStatus::OffsetFoundNull
    | ReadStatus::NoMatchedMessage
    | ReadStatus::MessageWasRemoving = outcome.status
    {
        tracing::warn!("group {group} stood at {offset} of {name}; it goes on at {}", outcome.next_offset);
        broker.offsets.commit(name, group, QUEUE_ID, outcome.next_offset);
        outcome = read(outcome.next_offset);
    }
    if outcome.count == 0 {
        return;
    }
    let offsets = queue_offsets(&records[before..], queue);
    let counts = lites.orders.enter_pop(request, QUEUE_ID, popped.pop_time, &offsets);
    lites.unlock_at(name, group, popped.pop_time.saturating_add(request.invisible_ms));
    for offset in &offsets {
        if !popped.order_count_info.is_empty() {
            popped.order_count_info.push(';');
        }
        let times = counts.as_ref().and_then(|counts| counts.get(offset)).copied().unwrap_or(0);
        popped.order_count_info.push_str(&times.to_string());
    }
    popped.count += outcome.count;
}

/// Where the group's pop begins: where it was reset to, at its offset, or where a new group begins.
fn start_offset(broker: &Shared, request: &PopRequest, queue: &Queue) -> Result<i64, Refusal> {
    let (name, group) = (queue.topic(), &*request.group);
    if let Some(reset) = broker.offsets.take_reset(name, group, QUEUE_ID) {
        broker.lites.orders.clear(name, group, QUEUE_ID);
        broker.offsets.commit(name, group, QUEUE_ID, reset);
        return Ok(reset);
    }
    broker.offsets.query(name, group, QUEUE_ID).map_or_else(|| take::first_offset(broker, request, queue), Ok)
}

impl Lites {
    /// The next lite topic a client is to look at.
    fn next_event(&self, broker: &Shared, pop: &LitePop) -> Option<Arc<str>> {
        let overflowed = {
            let mut state = self.state.lock();
            let subscriber = state.registry.get_mut(&pop.client).filter(|of| pop.is_of(of))?;
            subscriber.events.asks(Instant::now(), clock::now_millis());
            if let Some(queue) = subscriber.events.next() {
                return Some(queue);
            }
            subscriber.events.overflowed
        };
        if overflowed {
            self.refill(broker, &pop.client);
            return self.state.lock().registry.get_mut(&pop.client)?.events.next();
        }
        None
    }

    /// The lite topics a pop would look at.
    fn ahead(&self, pop: &LitePop) -> Vec<Arc<str>> {
        let state = self.state.lock();
        let subscriber = state.registry.get(&pop.client).filter(|of| pop.is_of(of));
        subscriber.map_or_else(Vec::new, |of| of.events.ahead().take(pop::MAX_MESSAGES).cloned().collect())
    }
}
