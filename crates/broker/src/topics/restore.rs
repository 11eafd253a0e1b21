//! The topic table and the store's queues at a start: what each must know of the other.

use std::collections::HashSet;

use ferromq_protocol::body::TopicConfig;
use ferromq_protocol::sys_flag::perm;
use ferromq_protocol::topic as names;
use ferromq_store::Store;

use super::attributes::{BATCH_CQ, CLEANUP_POLICY, COMPACTION, QUEUE_TYPE};
use super::{FILE, MAX_QUEUES_PER_TOPIC, Topics};

impl Topics {
    /// Names of the topics with `queue.type=BatchCQ`.
    pub fn batch_names(&self) -> HashSet<String> {
        let table = self.table.read();
        table.topics.values().filter(|topic| topic.is_batch()).map(|topic| topic.name().to_owned()).collect()
    }

    /// Names of the topics with `cleanup.policy=COMPACTION`. `copied`: topics that have compacted queues in the store; those
    /// that stand in no `topics.json` are made again as what they were.
    pub fn compacted_names(&self, copied: Vec<String>) -> HashSet<String> {
        let table = self.table.read();
        let listed = table.topics.values().filter(|topic| topic.is_compacted()).map(|topic| topic.name().to_owned());
        let missing = copied.into_iter().filter(|name| !table.topics.contains_key(name.as_str()));
        listed.chain(missing).collect()
    }

    /// Makes topics again that have messages in the store but stand in no `topics.json`: the broker was killed within
    /// moments of a first send, or an older copy of the file had to be used. Each gets as many queues as have messages,
    /// and the kind they are of. A topic whose queues are of another kind than it says is an error, as in RocketMQ.
    pub fn restore_missing(&self, store: &Store) -> Result<(), String> {
        for name in store.topics() {
            let queues = store.queues(&name);
            let is_batch = queues.iter().any(|queue| queue.is_batch());
            if let Some(topic) = self.get(&name) {
                if is_batch && !topic.is_batch() {
                    return Err(format!(
                        "the topic {name} has batch queues in the store, but its attribute {QUEUE_TYPE} in {FILE} is not {BATCH_CQ}: set it there, or remove batchconsumequeue/{name} to have its queues built anew from the log"
                    ));
                }
                continue;
            }
            if name.starts_with(names::LMQ_PREFIX) || names::validate_topic(&name).is_err() {
                continue;
            }
            let count = queues.iter().map(|queue| queue.id().saturating_add(1)).max().unwrap_or(0);
            let count = i32::try_from(count).unwrap_or(MAX_QUEUES_PER_TOPIC).min(MAX_QUEUES_PER_TOPIC);
            let is_compacted = queues.iter().any(|queue| queue.is_compacted());
            let kinds = [(is_batch, QUEUE_TYPE, BATCH_CQ), (is_compacted, CLEANUP_POLICY, COMPACTION)];
            let attributes = kinds.into_iter().filter(|(has, ..)| *has);
            let attributes = attributes.map(|(_, key, value)| (key.to_owned(), value.to_owned())).collect();
            let config = TopicConfig {
                topic_name: name.to_string(),
                read_queue_nums: count,
                write_queue_nums: count,
                perm: perm::READ | perm::WRITE,
                attributes,
                ..TopicConfig::default()
            };
            if self.insert(&mut self.table.write(), config).is_some() {
                tracing::warn!(
                    "topic {name} has messages but stood in no {FILE}: it is made again with {count} queues"
                );
            }
        }
        Ok(())
    }
}
