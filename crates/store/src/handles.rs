//! The handles of all queues, by topic and number, and of which kind a topic's queues are.

use std::io;
use std::sync::Arc;

use crate::queue::{Kind, Queue};
use crate::store::{Inner, Queues, Store};

/// What the attributes of a topic say of its queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopicKind {
    /// Neither of the others.
    Simple,
    /// `queue.type=BatchCQ`.
    Batch,
    /// `cleanup.policy=COMPACTION`.
    Compacted,
}

impl Store {
    /// The handle of a queue, made if it is not there; without messages it leaves no trace on the disk.
    pub fn queue(&self, topic: &str, queue_id: u32) -> Arc<Queue> {
        self.inner.queue(topic, queue_id)
    }

    /// The handle of a queue of a topic of that kind, made if it is not there. A queue that is there keeps its kind until
    /// its topic is deleted.
    pub fn topic_queue(&self, topic: &str, queue_id: u32, kind: TopicKind) -> Arc<Queue> {
        if self.queues(topic).is_empty() {
            self.inner.set_kind(topic, if kind == TopicKind::Batch { Kind::Batch } else { Kind::Simple });
        }
        self.inner.set_compacted(topic, kind == TopicKind::Compacted);
        self.queue(topic, queue_id)
    }

    /// Before a topic with batch queues is made: what was delivered to its name while it did not exist stands in simple
    /// queues. They end, since no queue holds entries of two kinds.
    pub fn begin_batch_topic(&self, topic: &str) -> io::Result<()> {
        let queues = self.queues(topic);
        if queues.is_empty() {
            self.inner.set_kind(topic, Kind::Batch);
        }
        if queues.iter().all(|queue| queue.is_batch()) {
            return Ok(());
        }
        let messages: i64 = queues.iter().map(|queue| queue.next_offset() - queue.min_offset()).sum();
        tracing::warn!(
            topic,
            messages,
            "the topic is made with batch queues: messages that were delivered to its name before it existed are left out"
        );
        let are_simple = |queues: &Queues| queues.values().all(|queue| !queue.is_batch());
        self.inner.end_topic(topic, Kind::Batch, are_simple)
    }

    /// The handle of a queue that has been used.
    pub fn find_queue(&self, topic: &str, queue_id: u32) -> Option<Arc<Queue>> {
        self.inner.find_queue(topic, queue_id)
    }

    /// The queues of a topic that have been used.
    pub fn queues(&self, topic: &str) -> Vec<Arc<Queue>> {
        self.inner.topics.read().get(topic).map_or_else(Vec::new, |queues| queues.values().cloned().collect())
    }

    /// Names of all topics with queues.
    pub fn topics(&self) -> Vec<Arc<str>> {
        self.inner.topics.read().keys().cloned().collect()
    }
}

impl Inner {
    pub fn queue(&self, topic: &str, id: u32) -> Arc<Queue> {
        if let Some(queue) = self.find_queue(topic, id) {
            return queue;
        }
        let mut topics = self.topics.write();
        let name = topics.get_key_value(topic).map_or_else(|| Arc::from(topic), |(name, _)| Arc::clone(name));
        let queues = topics.entry(Arc::clone(&name)).or_default();
        let kind = self.kind_of(topic);
        let make = || {
            let compacted = self.compaction.copy_for(&name, id, kind);
            Arc::new(Queue::new(&self.context, Arc::clone(&name), id, kind, compacted))
        };
        Arc::clone(queues.entry(id).or_insert_with(make))
    }

    /// Of which kind the queues of a topic are that are made from now on.
    pub fn kind_of(&self, topic: &str) -> Kind {
        if self.batch_topics.read().contains(topic) { Kind::Batch } else { Kind::Simple }
    }

    pub fn set_kind(&self, topic: &str, kind: Kind) {
        if self.kind_of(topic) != kind {
            let mut batch_topics = self.batch_topics.write();
            match kind {
                Kind::Batch => batch_topics.insert(topic.to_owned()),
                Kind::Simple => batch_topics.remove(topic),
            };
        }
    }

    pub fn find_queue(&self, topic: &str, id: u32) -> Option<Arc<Queue>> {
        self.topics.read().get(topic)?.get(&id).cloned()
    }

    pub fn queue_count(&self) -> usize {
        self.topics.read().values().map(Queues::len).sum()
    }

    pub fn all_queues(&self) -> Vec<Arc<Queue>> {
        self.topics.read().values().flat_map(|queues| queues.values().cloned()).collect()
    }
}
