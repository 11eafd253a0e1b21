//! Counting what the topics of a turn took in.

use std::sync::Arc;

use super::Sends;
use crate::topics::Topic;

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
                flow.count(stored.len() as u64, stored.iter().map(|message| u64::from(message.size)).sum());
            }
        }
    }
}
