//! The JSON tables of the `config` folder, against each other and against the queues.
//!
//! They are read as a broker reads them: fastjson's dialect, and the `.bak` copy when a file is missing or damaged. Tables
//! that FerroMQ does not use yet must be readable all the same, because the way back to Java needs them.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;

use ferromq_common::json_file::{self, Loaded};
use ferromq_protocol::body::{
    ConsumerOffsetSerializeWrapper, SubscriptionGroupWrapper, TopicConfig, TopicConfigSerializeWrapper,
};
use ferromq_protocol::{json, topic};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use super::copies::Copies;
use super::queues::Queues;
use super::report::{Findings, Kind};
use crate::queue::Kind as QueueKind;

/// Tables that are only looked at for being readable. Not `consumerFilter.json`: a broker starts without it, and a killed
/// Java broker may leave it empty.
const OTHERS: &[&str] = &[
    "topicQueueMapping.json",
    "broadcastOffset.json",
    "consumerOrderInfo.json",
    "messageRequestMode.json",
    "timermetrics",
    "transactionMetrics",
];
/// Tables without which a broker does not start: nothing else tells what they say.
const NEEDED: &[&str] = &["consumerOffset.json", "lmqConsumerOffset.json"];
/// Beginning of the names of light queues, which `topics.json` does not list.
const LIGHT_QUEUE_PREFIX: &str = "%LMQ%";

/// `delayOffset.json`: by delay level, from 1.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct DelayOffsets {
    offset_table: BTreeMap<i32, i64>,
}

/// What the tables say.
pub(super) struct Tables {
    /// Names in `topics.json`; `None` without the file.
    topics: Option<BTreeSet<String>>,
    /// Those with `queue.type=BatchCQ`.
    pub batch_topics: HashSet<String>,
    /// Those with `cleanup.policy=COMPACTION`.
    pub compacted_topics: HashSet<String>,
    pub groups: u64,
    offsets: ConsumerOffsetSerializeWrapper,
    /// `lmqConsumerOffset.json`, which a broker with light groups keeps in place of the other.
    light_offsets: ConsumerOffsetSerializeWrapper,
    delays: DelayOffsets,
}

impl Tables {
    /// Reads what is there.
    pub fn load(root: &Path, findings: &mut Findings) -> Tables {
        let path = |name: &str| root.join("config").join(name);
        let topics: Option<TopicConfigSerializeWrapper> = read(&path("topics.json"), findings);
        let groups: Option<SubscriptionGroupWrapper> = read(&path("subscriptionGroup.json"), findings);
        for name in OTHERS {
            let _: Option<IgnoredAny> = read(&path(name), findings);
        }
        let with = |key: &str, value: &str| {
            let listed = topics.iter().flat_map(|table| &table.topic_config_table);
            let has = |config: &TopicConfig| config.attributes.get(key).is_some_and(|text| text == value);
            listed.filter(|(_, config)| has(config)).map(|(name, _)| name.clone()).collect()
        };
        Tables {
            batch_topics: with("queue.type", "BatchCQ"),
            compacted_topics: with("cleanup.policy", "COMPACTION"),
            topics: topics.map(|table| table.topic_config_table.into_keys().collect()),
            groups: groups.map_or(0, |table| table.subscription_group_table.len() as u64),
            offsets: read(&path("consumerOffset.json"), findings).unwrap_or_default(),
            light_offsets: read(&path("lmqConsumerOffset.json"), findings).unwrap_or_default(),
            delays: read(&path("delayOffset.json"), findings).unwrap_or_default(),
        }
    }

    /// Whether a broker knows the topic, or makes it by itself.
    pub fn is_topic(&self, name: &str) -> bool {
        let is_listed = self.topics.as_ref().is_none_or(|topics| topics.contains(name));
        is_listed || topic::is_system_topic(name) || name.starts_with(LIGHT_QUEUE_PREFIX)
    }

    /// Whether a broker keeps the newest message of each key of a topic: it is listed so, or it is not listed, has a consume
    /// queue, and is made again as what it was. Only of topics with copies.
    pub fn is_compacted(&self, root: &Path, name: &str) -> bool {
        let is_listed = self.topics.as_ref().is_some_and(|topics| topics.contains(name));
        let is_made_again = || !is_listed && root.join(QueueKind::Simple.folder()).join(name).is_dir();
        self.compacted_topics.contains(name) || is_made_again()
    }

    /// Compares with the queues, once their ends are known.
    pub fn compare(&self, queues: &Queues, copies: &Copies, findings: &mut Findings) {
        let of_clients = |name: &&str| !topic::is_system_topic(name) && !name.starts_with(LIGHT_QUEUE_PREFIX);
        let with_files = queues.topics().map(|name| &**name).filter(|name| queues.has_files(name));
        let with_files: BTreeSet<&str> = with_files.filter(of_clients).collect();
        for name in with_files {
            match &self.topics {
                None => findings.add(Kind::NoTopicTable, || name.to_owned()),
                Some(topics) if !topics.contains(name) => findings.add(Kind::TopicUnknown, || name.to_owned()),
                Some(_) => {}
            }
        }
        let usual = [&self.offsets, &self.light_offsets].into_iter().flat_map(|file| &file.offset_table);
        let usual = usual.flat_map(|(key, offsets)| offsets.iter().map(move |(id, offset)| (key, id, offset)));
        let light = self.light_offsets.lmq_offset_table.iter().flatten().map(|(key, offset)| (key, &0, offset));
        for (key, id, offset) in usual.chain(light) {
            let Some((topic, group)) = key.split_once('@') else { continue };
            // A queue that is gone goes on behind its copy.
            let end = u32::try_from(*id).map_or(0, |id| queues.end(topic, id).max(copies.end(topic, id)));
            if *offset > end && self.is_topic(topic) {
                findings.add(Kind::ConsumerOffset, || {
                    format!("group {group}, {topic}/{id}: offset {offset}, the queue ends at {end}")
                });
            }
        }
        for (level, offset) in &self.delays.offset_table {
            let end = u32::try_from(level - 1).map_or(0, |id| queues.end(topic::SCHEDULE, id));
            if *offset > end {
                findings.add(Kind::DelayOffset, || format!("level {level}: offset {offset}, the queue ends at {end}"));
            }
        }
    }
}

fn read<T: DeserializeOwned>(path: &Path, findings: &mut Findings) -> Option<T> {
    match json_file::load(path, json::from_slice::<T>) {
        Ok(Loaded::Current(table)) => Some(table),
        Ok(Loaded::Backup(table, why)) => {
            findings.add(Kind::TableFromCopy, || format!("{}: {why}", path.display()));
            Some(table)
        }
        Ok(Loaded::Absent) => None,
        Err(error) => {
            let is_needed = NEEDED.iter().any(|name| path.ends_with(name));
            let is_lost = !is_needed && json_file::is_damaged(path, json::is_document);
            findings.add(if is_lost { Kind::TableLost } else { Kind::TableUnreadable }, || error.what());
            None
        }
    }
}
