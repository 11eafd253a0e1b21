//! Counting what the topics of a turn took in, and keeping it within the rates that are set.

use std::sync::Arc;
use std::time::Instant;

use super::Sends;
use crate::broker::Shared;
use crate::handler::Refusal;
use crate::limits::{self, InHand, OfSender};
use crate::topics::Topic;

/// Refuses what goes beyond the limits of the disk, its topic or who sends it.
/// `bytes`: those of the turn's sends so far; `in_hand`: by the limits they count against.
pub(super) fn within_limits(
    broker: &Shared,
    topic: &Topic,
    of_sender: &OfSender,
    bytes: usize,
    in_hand: &InHand,
) -> Result<(), Refusal> {
    limits::refuse_under_pressure(broker, topic, bytes)?;
    if broker.store.is_sync_flush() {
        broker.limits.giving_way.refuse_beside_others(topic, in_hand, broker.store.flushed_position())?;
    }
    if let Some(limit) = topic.unflushed() {
        let who = format_args!("topic {}", topic.name());
        in_hand.refuse_beyond(limit, broker.store.flushed_position(), who, "topic attribute send.unflushed.limit")?;
    }
    if let Some(limit) = &of_sender.connection.unflushed {
        let (flushed, who) = (broker.store.flushed_position(), format_args!("this connection"));
        in_hand.refuse_beyond(limit, flushed, who, "setting clientUnflushedLimit")?;
    }
    if let Some(limit) = &of_sender.group {
        let (flushed, who) = (broker.store.flushed_position(), format_args!("this producer group"));
        in_hand.refuse_beyond(limit, flushed, who, "setting producerGroupUnflushedLimit")?;
    }
    if let Some(bucket) = topic.limit() {
        let who = || format!("producers of topic {}", topic.name());
        limits::refuse_beyond(bucket, who, "topic attribute send.rate.limit")?;
    }
    match &of_sender.connection.rate {
        Some(bucket) => limits::refuse_beyond(bucket, || "one connection".to_owned(), "setting clientSendRateLimit"),
        None => Ok(()),
    }
}

/// Uses the limits for messages that passed.
pub(super) fn charge(
    broker: &Shared,
    topic: &Topic,
    of_sender: &OfSender,
    messages: usize,
    bytes: usize,
    in_hand: &mut InHand,
) {
    let of_connection = &of_sender.connection;
    for bucket in topic.limit().into_iter().chain(of_connection.rate.as_deref()) {
        bucket.charge(messages as u64, Instant::now());
    }
    let of_all = broker.limits.giving_way.limit_of(topic).filter(|_| broker.store.is_sync_flush());
    for limit in topic.unflushed().into_iter().chain(&of_connection.unflushed).chain(&of_sender.group).chain(of_all) {
        in_hand.add(limit, bytes as u64);
    }
}

impl Sends {
    /// Notes whose messages those from `first` on are, to count them once they are stored.
    pub(super) fn note_taken(&mut self, topic: &Topic, first: usize) {
        let end = self.batch.len();
        match self.taken.last_mut() {
            Some((flow, messages)) if messages.end == first && Arc::ptr_eq(flow, topic.taken()) => messages.end = end,
            _ => self.taken.push((Arc::clone(topic.taken()), first..end)),
        }
    }

    /// Counts them, after the append.
    pub(super) fn count_taken(&mut self) {
        let results = self.batch.results();
        for (flow, messages) in self.taken.drain(..) {
            // Empty when the store took nothing.
            let stored = results.get(messages).unwrap_or_default();
            if !stored.is_empty() {
                let messages = stored.iter().map(|stored| u64::from(stored.messages.unsigned_abs())).sum();
                flow.count(messages, stored.iter().map(|message| u64::from(message.size)).sum());
            }
        }
    }
}
