//! How far a group is behind in a queue: messages that are ready to be read, messages its members have in hand, and since when
//! the oldest of both waits (RocketMQ's `ConsumerLagCalculator`: available, in flight; together they are the lag).
//!
//! In hand is what was popped and not acknowledged, and what a member that pulls has asked beyond and not committed. What the
//! group's filter leaves out does not count: so many entries of a queue are looked at ([`MAX_SCAN`]), and the rest is taken to
//! be like them. Only a connected group's filter is known; without one everything counts.

use std::sync::Arc;

use ferromq_common::clock;
use ferromq_protocol::body::QueueLag;
use ferromq_protocol::pop;
use ferromq_store::{CqEntry, Queue};

use crate::broker::Shared;
use crate::clients::Subscription;
use crate::filter::Filter;
use crate::topics::Topic;

/// Most entries of one queue that are looked at (RocketMQ's `maxConsumeQueueScan`).
const MAX_SCAN: i64 = 20_000;
/// Most entries of all queues of a topic.
const MAX_SCAN_ALL: i64 = 200_000;
/// So many entries are looked at in the time that an expression needs for the properties of one message.
const EXPRESSION_COST: i64 = 20;

/// One group and one topic.
pub(crate) struct Reader<'a> {
    broker: &'a Shared,
    topic: &'a Topic,
    group: &'a str,
    is_connected: bool,
    subscription: Option<Arc<Subscription>>,
}

/// Where a group is in a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    /// The queue's end.
    pub end: i64,
    /// The committed offset; a pop commits what it hands out.
    pub committed: i64,
    /// Up to where members that pull have read, or those that pop in order have messages in hand; not less than
    /// `committed`.
    pub pulled: i64,
    /// Popped messages that nobody acknowledged, all before `committed`.
    pub popped: i64,
    /// The same of an ordered pop, between `committed` and `pulled`; `None` when nobody has one in hand.
    pub popped_in_order: Option<i64>,
}

impl Place {
    /// Up to where the group is done, as far as one offset can say it.
    pub fn consumed(&self) -> i64 {
        (self.committed - self.popped).max(0)
    }
}

impl<'a> Reader<'a> {
    pub fn new(broker: &'a Shared, topic: &'a Topic, group: &'a str) -> Self {
        let subscribed = pop::normal_topic(topic.name(), group);
        let view = broker.clients.consumer(group, subscribed);
        let is_connected = view.is_some();
        let subscription = view.and_then(|view| view.subscription).filter(|known| known.error.is_none());
        Self { broker, topic, group, is_connected, subscription }
    }

    /// Where the group is in a queue, never beyond its end: a topic made anew starts at zero again.
    pub fn place(&self, queue_id: u32) -> Place {
        let (broker, topic) = (self.broker, self.topic.name());
        let end = broker.store.find_queue(topic, queue_id).map_or(0, |queue| queue.max_offset().max(0));
        let committed = broker.offsets.query(topic, self.group, queue_id);
        // What a group that has gone has pulled, it has not any more; one that commits nothing is never done.
        let pulls = self.is_connected && committed.is_some();
        let pulled = pulls.then(|| broker.rates.pulled(topic, self.group, queue_id)).flatten();
        let committed = committed.unwrap_or(0).clamp(0, end);
        let in_order = broker.order_pops.in_hand(topic, self.group, queue_id, clock::now_millis());
        let pulled = pulled.max(in_order.map(|(to, _)| to)).unwrap_or(0).clamp(committed, end);
        let popped_in_order = in_order.map(|(_, waiting)| waiting);
        let popped = broker.pops.find(topic, self.group, queue_id).map_or(0, |queue| queue.in_flight() as i64);
        Place { end, committed, pulled, popped, popped_in_order }
    }

    /// What waits in a queue of which the group is at `place`. Reads the log: not for threads that must not wait for a disk.
    pub fn lag(&self, queue_id: u32, place: Place) -> QueueLag {
        let Some(queue) = self.broker.store.find_queue(self.topic.name(), queue_id) else { return QueueLag::default() };
        let in_hand = match place.popped_in_order {
            // The group's offset is that of the first.
            Some(count) => Wanted { count, first: Some(place.committed) },
            None => self.wanted(&queue, place.committed, place.pulled),
        };
        let ready = self.wanted(&queue, place.pulled, place.end);
        let popped = self.broker.pops.find(queue.topic(), self.group, queue_id);
        let first_popped = popped.and_then(|queue| queue.first_waiting());
        let first = [first_popped, in_hand.first, ready.first].into_iter().flatten().min();
        let since = first.and_then(|offset| self.broker.store.store_time(&queue, offset));
        QueueLag {
            ready: ready.count,
            in_flight: in_hand.count + place.popped,
            delay_time: since.map_or(0, |since| (clock::now_millis() - since).max(0)),
        }
    }

    /// The messages from `from` up to `to` that the group wants.
    fn wanted(&self, queue: &Queue, from: i64, to: i64) -> Wanted {
        let from = from.max(queue.min_offset());
        if from >= to {
            return Wanted::default();
        }
        let filter = self.subscription.as_ref().map_or(&Filter::All, |subscription| &subscription.filter);
        if let Filter::All = filter {
            return Wanted { count: to - from, first: Some(from) };
        }
        let of_all = MAX_SCAN_ALL / i64::from(self.topic.read_queues().max(1));
        let most = match filter {
            Filter::Sql(_) => of_all.min(MAX_SCAN) / EXPRESSION_COST,
            _ => of_all.min(MAX_SCAN),
        };
        let stop = to.min(from + most.max(1));
        let (mut wanted, mut next) = (Wanted::default(), from);
        while next < stop {
            // Nothing is taken: a read that passes over all it looks at.
            let mut look = |entry: &CqEntry| {
                if entry.queue_offset < to && filter.wants_entry(&self.broker.store, queue, entry) {
                    wanted.count += i64::from(entry.messages.unsigned_abs());
                    wanted.first.get_or_insert(entry.queue_offset.max(from));
                }
                false
            };
            let outcome = self.broker.store.read(queue, next, u32::MAX, u32::MAX, &mut look, &mut Vec::new());
            if outcome.next_offset <= next {
                break;
            }
            next = outcome.next_offset;
        }
        let (all, seen) = (to - from, next.min(to) - from);
        if seen < all {
            wanted.count = (wanted.count as f64 * all as f64 / seen.max(1) as f64) as i64;
        }
        wanted
    }
}

/// Messages of a part of a queue.
#[derive(Clone, Copy, Debug, Default)]
struct Wanted {
    count: i64,
    /// Offset of the first.
    first: Option<i64>,
}
