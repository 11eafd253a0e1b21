//! Counting what the topics of a turn took in, and keeping it within the rates that are set.

use std::sync::Arc;
use std::time::Instant;

use super::Sends;
use crate::broker::Shared;
use crate::handler::Refusal;
use crate::limits::{self, Bucket};
use crate::topics::Topic;

/// Refuses what goes beyond the limits of the disk, its topic or its connection.
/// `in_hand`: bytes of the turn's sends so far.
pub(super) fn within_limits(
    broker: &Shared,
    topic: &Topic,
    of_client: Option<&Bucket>,
    in_hand: usize,
) -> Result<(), Refusal> {
    limits::refuse_under_pressure(broker, topic, in_hand)?;
    if let Some(bucket) = topic.limit() {
        let who = || format!("producers of topic {}", topic.name());
        limits::refuse_beyond(bucket, who, "topic attribute send.rate.limit")?;
    }
    match of_client {
        Some(bucket) => limits::refuse_beyond(bucket, || "one connection".to_owned(), "setting clientSendRateLimit"),
        None => Ok(()),
    }
}

/// Uses the limits for messages that passed.
pub(super) fn charge(topic: &Topic, of_client: Option<&Bucket>, messages: usize) {
    for bucket in topic.limit().into_iter().chain(of_client) {
        bucket.charge(messages as u64, Instant::now());
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
