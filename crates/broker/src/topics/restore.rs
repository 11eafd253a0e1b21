//! The topic table and the store's queues at a start: what each must know of the other.

use std::collections::HashSet;

use ferromq_protocol::body::TopicConfig;
use ferromq_protocol::sys_flag::perm;
use ferromq_protocol::topic as names;
use ferromq_store::Store;

use super::attributes::{BATCH_CQ, QUEUE_TYPE};
use super::{FILE, MAX_QUEUES_PER_TOPIC, Topics};

impl Topics {
    /// Names of the topics with `queue.type=BatchCQ`.
    pub fn batch_names(&self) -> HashSet<String> {
        let table = self.table.read();
        table.topics.values().filter(|topic| topic.is_batch()).map(|topic| topic.name().to_owned()).collect()
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
            let attributes = is_batch.then(|| (QUEUE_TYPE.to_owned(), BATCH_CQ.to_owned())).into_iter().collect();
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
