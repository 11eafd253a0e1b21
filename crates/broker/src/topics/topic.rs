//! One topic as it stands, with the store's handles of its queues.

use std::sync::{Arc, OnceLock};

use ferromq_protocol::body::TopicConfig;
use ferromq_protocol::sys_flag::perm;
use ferromq_protocol::topic::LMQ_PREFIX;
use ferromq_store::{Queue, Store, TopicKind};
use parking_lot::RwLock;

use super::MAX_QUEUES_PER_TOPIC;
use super::attributes::{BATCH_CQ, CLEANUP_POLICY, COMPACTION, MESSAGE_TYPE, QUEUE_TYPE};
use crate::limits::{self, Bucket, Unflushed};
use crate::rates::Flow;

/// One topic as it stands; replaced as a whole by a change.
pub struct Topic {
    pub(super) config: TopicConfig,
    kind: TopicKind,
    queues: Box<[OnceLock<Arc<Queue>>]>,
    /// It is deleted, in all shapes it had since it was made: it makes no more queues.
    ended: Arc<RwLock<bool>>,
    taken: Arc<Flow>,
    limit: Option<Arc<Bucket>>,
    unflushed: Option<Arc<Unflushed>>,
    degradable: bool,
    by_priority: bool,
    lite: bool,
}

/// Which queues a topic with these settings has.
pub(super) fn kind_of(config: &TopicConfig) -> TopicKind {
    match (has_attribute(config, QUEUE_TYPE, BATCH_CQ), has_attribute(config, CLEANUP_POLICY, COMPACTION)) {
        (true, _) => TopicKind::Batch,
        (_, true) => TopicKind::Compacted,
        _ => TopicKind::Simple,
    }
}

fn has_attribute(config: &TopicConfig, key: &str, value: &str) -> bool {
    config.attributes.get(key).is_some_and(|v| v == value)
}

impl Topic {
    pub(super) fn new(config: TopicConfig, before: Option<&Topic>) -> Self {
        let count = config.read_queue_nums.max(config.write_queue_nums).clamp(0, MAX_QUEUES_PER_TOPIC);
        let queues = (0..count as usize)
            .map(|id| before.and_then(|topic| topic.queues.get(id)).cloned().unwrap_or_default())
            .collect();
        let has = |key: &str, value: &str| has_attribute(&config, key, value);
        let kind = kind_of(&config);
        let ended = before.map_or_else(Arc::default, |topic| Arc::clone(&topic.ended));
        let taken = before.map_or_else(|| Arc::new(Flow::new()), |topic| Arc::clone(&topic.taken));
        let limit = Bucket::of(&config.attributes, limits::SEND_RATE, before.and_then(|topic| topic.limit.as_ref()));
        let unflushed = before.and_then(|topic| topic.unflushed.as_ref());
        let unflushed = Unflushed::of_attribute(&config.attributes, limits::SEND_UNFLUSHED, unflushed);
        let (degradable, by_priority) = (has(limits::DEGRADABLE, "true"), has(MESSAGE_TYPE, "PRIORITY"));
        let lite = has(MESSAGE_TYPE, "LITE");
        Self { config, kind, queues, ended, taken, limit, unflushed, degradable, by_priority, lite }
    }

    /// A light topic: one queue for everybody (RocketMQ's `LmqTopicConfigManager`).
    pub(super) fn light(name: &str) -> Self {
        let config = TopicConfig {
            topic_name: name.to_owned(),
            read_queue_nums: 1,
            write_queue_nums: 1,
            perm: perm::READ | perm::WRITE,
            ..TopicConfig::default()
        };
        Self::new(config, None)
    }

    /// Settings as `topics.json` has them.
    pub fn config(&self) -> &TopicConfig {
        &self.config
    }

    pub fn name(&self) -> &str {
        &self.config.topic_name
    }

    /// Counts what producers have stored in it.
    pub fn taken(&self) -> &Arc<Flow> {
        &self.taken
    }

    /// How fast producers may send to it.
    pub fn limit(&self) -> Option<&Bucket> {
        self.limit.as_deref()
    }

    /// How many of its bytes may be in the log without being on the disk.
    pub fn unflushed(&self) -> Option<&Arc<Unflushed>> {
        self.unflushed.as_ref()
    }

    /// Whether its sends are the first to be refused under pressure.
    pub fn is_degradable(&self) -> bool {
        self.degradable
    }

    /// Whether the number of a queue is the priority of its messages (`message.type=PRIORITY`).
    pub fn is_by_priority(&self) -> bool {
        self.by_priority
    }

    /// Whether it is the parent of lite topics (`message.type=LITE`).
    pub fn is_lite(&self) -> bool {
        self.lite
    }

    /// Number of queues consumers read.
    pub fn read_queues(&self) -> u32 {
        self.config.read_queue_nums.max(0) as u32
    }

    /// Number of queues producers write.
    pub fn write_queues(&self) -> u32 {
        self.config.write_queue_nums.max(0) as u32
    }

    pub fn is_readable(&self) -> bool {
        perm::is_readable(self.config.perm)
    }

    pub fn is_writable(&self) -> bool {
        perm::is_writeable(self.config.perm)
    }

    /// Attributes that are not served together. Messages to such a topic are refused: kept as others are they would be
    /// deleted with the log.
    pub fn unserved_attributes(&self) -> Option<&'static str> {
        let compaction = || self.config.attributes.get(CLEANUP_POLICY).is_some_and(|policy| policy == COMPACTION);
        (self.is_batch() && compaction()).then_some("queue.type=BatchCQ and cleanup.policy=COMPACTION")
    }

    /// Whether its queues take a batch as one record (`queue.type=BatchCQ`).
    pub fn is_batch(&self) -> bool {
        self.kind == TopicKind::Batch
    }

    /// Whether the newest message of each key stays (`cleanup.policy=COMPACTION`).
    pub fn is_compacted(&self) -> bool {
        self.kind == TopicKind::Compacted
    }

    /// Waits for whoever makes a queue of it, and lets nobody make another.
    pub(super) fn end(&self) {
        *self.ended.write() = true;
    }

    /// Whether it is a light topic whose queue is deleted.
    pub fn is_ended_light(&self) -> bool {
        self.name().starts_with(LMQ_PREFIX)
            && self.queues.first().and_then(OnceLock::get).is_some_and(|queue| queue.is_deleted())
    }

    /// The store's handle of queue `id`, made at first use; `None` beyond both queue numbers, of a light topic when the
    /// store has as many as it may, and of a topic that is deleted.
    pub fn queue(&self, store: &Store, id: u32) -> Option<&Arc<Queue>> {
        let slot = self.queues.get(id as usize)?;
        if let Some(queue) = slot.get() {
            return Some(queue);
        }
        // Held until the queue is in its place: who deletes the topic deletes it too.
        let ended = self.ended.read();
        if *ended {
            return None;
        }
        let queue = match self.name().starts_with(LMQ_PREFIX) {
            true => store.light_queue(self.name()).ok()?,
            false => store.topic_queue(self.name(), id, self.kind),
        };
        Some(slot.get_or_init(|| queue))
    }
}
