//! Which queues a pop looks at, and in what order (RocketMQ's `PopMessageProcessor.popMsgFromTopic`).

use std::sync::Arc;

use ferromq_protocol::body::SubscriptionGroupConfig;
use ferromq_protocol::pop::Origin;
use ferromq_store::Queue;

use super::take::PopRequest;
use crate::broker::Shared;
use crate::config::PopConfig;

/// Attribute of a group: the share of its pops that look at important messages first, percent; 100 without one.
const PRIORITY_FACTOR: &str = "priority.factor";

/// The way of one pop over the queues of its topic.
#[derive(Clone, Copy, Default)]
pub(super) struct Walk {
    /// Number of the pop: each begins with another queue.
    pub turn: u32,
    /// Begins with the most important messages instead.
    pub by_priority: bool,
}

impl Walk {
    pub fn of(broker: &Shared, request: &PopRequest, group: Option<&SubscriptionGroupConfig>, turn: u32) -> Walk {
        let topic = if request.order { None } else { broker.topics.get(&request.topic) };
        let factor = || group?.attributes.get(PRIORITY_FACTOR)?.parse().ok();
        let by_priority = topic.is_some_and(|topic| topic.is_by_priority()) && share(turn) < factor().unwrap_or(100);
        Walk { turn, by_priority }
    }

    /// Whether the pop looks at the group's retry topic before the topic itself.
    pub fn retry_first(self, config: &PopConfig) -> bool {
        let percent = match self.by_priority {
            true => config.pop_from_retry_probability_for_priority,
            false => config.pop_from_retry_probability,
        };
        share(self.turn) < percent
    }
}

/// 61 and 100 have no common divisor: every share of a hundred pops comes up evenly.
fn share(turn: u32) -> u32 {
    turn.wrapping_mul(61) % 100
}

/// The queues a pop looks at, those of the topic first and then those of the group's retry topic.
pub(super) fn sources(
    broker: &Shared,
    request: &PopRequest,
    walk: Walk,
) -> impl Iterator<Item = (Origin, Arc<Queue>)> + use<> {
    let own = broker.topics.get(&request.topic).map_or_else(Vec::new, |topic| {
        let count = topic.read_queues();
        let ids = match request.queue_id {
            Some(id) => id..id + 1,
            None => 0..count,
        };
        let place = |id| match walk {
            _ if request.queue_id.is_some() => id,
            Walk { by_priority: true, .. } if broker.config.pop.priority_order_asc => count - 1 - id,
            Walk { by_priority: true, .. } => id,
            Walk { turn, .. } => (id + turn % count) % count,
        };
        ids.filter_map(|id| topic.queue(&broker.store, place(id)).cloned())
            .map(|queue| (Origin::Topic, queue))
            .collect()
    });
    let retry = if request.order { Vec::new() } else { retry_queues(broker, request, walk.turn) };
    own.into_iter().chain(retry)
}

/// The queue of the group's retry topic. With the second naming the first may be looked at too, one in a pop.
fn retry_queues(broker: &Shared, request: &PopRequest, turn: u32) -> Vec<(Origin, Arc<Queue>)> {
    let config = &broker.config.pop;
    let origin = match config.enable_retry_topic_v2 {
        false => Origin::RetryV1,
        true if config.retrieve_message_from_pop_retry_topic_v1 && turn.is_multiple_of(2) => Origin::RetryV1,
        true => Origin::RetryV2,
    };
    let name = origin.real_topic(&request.topic, &request.group);
    broker.topics.get(&name).map_or_else(Vec::new, |topic| {
        let queues = (0..topic.read_queues()).filter_map(|id| topic.queue(&broker.store, id).cloned());
        queues.map(|queue| (origin, queue)).collect()
    })
}

/// All queues that can give this pop a message, whichever a single pop looks at.
pub(super) fn watched(broker: &Shared, request: &PopRequest) -> Vec<Arc<Queue>> {
    let mut queues: Vec<_> = sources(broker, request, Walk::default()).map(|(_, queue)| queue).collect();
    if broker.config.pop.enable_retry_topic_v2 {
        queues.extend(retry_queues(broker, request, 1).into_iter().map(|(_, queue)| queue));
    }
    queues
}
