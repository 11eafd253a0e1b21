//! How many half messages of each topic have no outcome yet (RocketMQ's `TransactionMetrics`, file `transactionMetrics`).
//!
//! Counted anew from the log at each start, so that a kill leaves no error behind. `persist.rs` writes the file.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ferromq_common::clock;
use ferromq_protocol::body::DataVersion;
use parking_lot::Mutex;
use serde::Serialize;

use crate::persist;
use crate::topics::MAX_TOPICS;

/// File name in the store's `config` folder.
const FILE: &str = "transactionMetrics";

#[derive(Clone, Copy, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Metric {
    count: i64,
    /// Of the last change, milliseconds since 1970.
    time_stamp: i64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct File {
    data_version: DataVersion,
    transaction_count: BTreeMap<String, Metric>,
}

/// Half messages without an outcome, by topic.
pub struct Metrics {
    counts: Mutex<HashMap<Arc<str>, Metric>>,
    changes: AtomicU64,
    path: PathBuf,
}

impl Metrics {
    pub(super) fn new(store_root: &Path) -> Self {
        Self { counts: Mutex::default(), changes: AtomicU64::new(0), path: persist::config_path(store_root, FILE) }
    }

    /// Adds `by` to the count of each of these topics.
    pub(crate) fn add<'a>(&self, topics: impl IntoIterator<Item = &'a str>, by: i64) {
        let now = clock::now_millis();
        let mut counts = self.counts.lock();
        for topic in topics {
            if let Some(metric) = counts.get_mut(topic) {
                *metric = Metric { count: metric.count + by, time_stamp: now };
            } else if counts.len() < MAX_TOPICS {
                counts.insert(Arc::from(topic), Metric { count: by, time_stamp: now });
            }
        }
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    /// Half messages of a topic without an outcome.
    pub fn count(&self, topic: &str) -> i64 {
        self.counts.lock().get(topic).map_or(0, |metric| metric.count)
    }

    /// Where the counts are kept.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Number of changes since the start.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// The content of the file.
    pub(crate) fn encode(&self) -> io::Result<Vec<u8>> {
        let transaction_count = self.counts.lock().iter().map(|(topic, metric)| (topic.to_string(), *metric)).collect();
        let counter = i64::try_from(self.changes()).unwrap_or(i64::MAX);
        let data_version = DataVersion { counter, timestamp: clock::now_millis(), ..DataVersion::default() };
        Ok(serde_json::to_vec(&File { data_version, transaction_count })?)
    }
}
