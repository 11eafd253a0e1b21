//! Which groups filter which topics by an expression (RocketMQ's `ConsumerFilterManager`, `consumerFilter.json`).
//!
//! Filters in use are those of the heartbeats (`clients.rs`); this table is what a Java broker finds on the way back, and what
//! is kept of groups that are off line. It is brought up to date when the file's turn to be written comes.

use std::collections::HashSet;
use std::io::{self, Cursor};
use std::path::{Path, PathBuf};

use ferromq_protocol::body::{BloomFilterData, ConsumerFilterData, ConsumerFilterWrapper, FilterDataMapByTopic};
use parking_lot::Mutex;

use crate::clients::Subscription;
use crate::persist;

/// Most pairs of group and topic whose filters are kept.
pub const MAX_FILTERS: usize = 100_000;
/// A filter is kept for this long after its group has gone, milliseconds (`filterDataCleanTimeSpan`).
const KEPT_MS: i64 = 86_400_000;
/// How long before a start its group counts as gone, milliseconds.
const GONE_BEFORE_START_MS: i64 = 30_000;
/// File name in the store's `config` folder.
const FILE: &str = "consumerFilter.json";
/// Bits of the bloom filter, and positions of one member: what RocketMQ computes from `maxErrorRateOfBloomFilter=20` and
/// `expectConsumerNumUseFilter=32`.
const BLOOM_BITS: i32 = 112;
const BLOOM_POSITIONS: i32 = 3;

/// The table. Methods may be called from any thread.
pub struct ConsumerFilters {
    state: Mutex<State>,
    path: PathBuf,
}

struct State {
    table: ConsumerFilterWrapper,
    changes: u64,
}

impl ConsumerFilters {
    /// Reads `consumerFilter.json` below `store_root`. One that cannot be read is no reason not to start: heartbeats bring
    /// the filters again.
    pub fn open(store_root: &Path, now: i64) -> Self {
        let path = persist::config_path(store_root, FILE);
        let mut table = persist::load::<ConsumerFilterWrapper>(&path).unwrap_or_else(|error| {
            tracing::warn!("{error}; filters are known again when their consumers come");
            None
        });
        for filter in table.iter_mut().flat_map(all_mut).filter(|filter| filter.dead_time == 0) {
            filter.dead_time = (now - GONE_BEFORE_START_MS).max(filter.born_time);
        }
        Self { state: Mutex::new(State { table: table.unwrap_or_default(), changes: 0 }), path }
    }

    /// Takes over what connected groups subscribe to now, and forgets what is long gone; a number that grows with each change.
    pub fn update<'a>(&self, connected: impl IntoIterator<Item = (&'a str, &'a Subscription)>, now: i64) -> u64 {
        let mut state = self.state.lock();
        let State { table, changes } = &mut *state;
        let mut alive = HashSet::new();
        let mut room = MAX_FILTERS.saturating_sub(all_mut(table).count());
        for (group, subscription) in connected {
            let topic = subscription.data.topic.as_str();
            alive.insert((group, topic));
            if !table.filter_data_by_topic.get(topic).is_some_and(|t| t.group_filter_data.contains_key(group)) {
                if room == 0 {
                    tracing::warn!("{FILE} keeps at most {MAX_FILTERS} filters: that of group {group} is left out");
                    continue;
                }
                room -= 1;
            }
            let filters = table
                .filter_data_by_topic
                .entry(topic.to_owned())
                .or_insert_with(|| FilterDataMapByTopic { topic: topic.to_owned(), ..FilterDataMapByTopic::default() });
            let known = filters.group_filter_data.get(group);
            let new = filter_of(group, subscription, known, now);
            if known != Some(&new) {
                filters.group_filter_data.insert(group.to_owned(), new);
                *changes += 1;
            }
        }
        for filter in all_mut(table) {
            if filter.dead_time == 0 && !alive.contains(&(filter.consumer_group.as_str(), filter.topic.as_str())) {
                filter.dead_time = now;
                *changes += 1;
            }
        }
        table.filter_data_by_topic.retain(|_, filters| {
            let before = filters.group_filter_data.len();
            filters.group_filter_data.retain(|_, filter| filter.dead_time == 0 || now - filter.dead_time < KEPT_MS);
            *changes += (before - filters.group_filter_data.len()) as u64;
            !filters.group_filter_data.is_empty()
        });
        *changes
    }

    /// The file this table is kept in.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The content of `consumerFilter.json`.
    pub fn encode(&self) -> io::Result<Vec<u8>> {
        Ok(serde_json::to_vec(&self.state.lock().table)?)
    }
}

fn all_mut(table: &mut ConsumerFilterWrapper) -> impl Iterator<Item = &mut ConsumerFilterData> {
    table.filter_data_by_topic.values_mut().flat_map(|filters| filters.group_filter_data.values_mut())
}

/// A filter as RocketMQ keeps it; an expression that stays keeps its birth.
fn filter_of(
    group: &str,
    subscription: &Subscription,
    known: Option<&ConsumerFilterData>,
    now: i64,
) -> ConsumerFilterData {
    let data = &subscription.data;
    let same = known.filter(|k| k.expression == data.sub_string && k.expression_type == data.expression_type);
    ConsumerFilterData {
        bloom_filter_data: bloom_filter_data(&format!("{group}#{}", data.topic)),
        born_time: same.map_or(now, |known| known.born_time),
        client_version: data.sub_version,
        consumer_group: group.to_owned(),
        dead_time: 0,
        expression: data.sub_string.clone(),
        expression_type: data.expression_type.clone(),
        topic: data.topic.clone(),
    }
}

/// Where a name stands in the bloom filter (RocketMQ's `BloomFilter`: two halves of one murmur3 hash, combined).
fn bloom_filter_data(name: &str) -> BloomFilterData {
    // Reading from memory does not fail.
    let hash = murmur3::murmur3_x64_128(&mut Cursor::new(name), 0).unwrap_or_default();
    let (one, two) = (hash as i32, (hash >> 32) as i32);
    let position = |i: i32| {
        let combined = one.wrapping_add(i.wrapping_mul(two));
        (if combined < 0 { !combined } else { combined }) % BLOOM_BITS
    };
    BloomFilterData { bit_num: BLOOM_BITS, bit_pos: (1..=BLOOM_POSITIONS).map(position).collect() }
}

#[cfg(test)]
mod tests {
    use ferromq_protocol::body::SubscriptionData;

    use super::*;

    fn subscription(expression: &str, version: i64) -> Subscription {
        Subscription::new(SubscriptionData {
            topic: "T".into(),
            sub_string: expression.into(),
            expression_type: "SQL92".into(),
            sub_version: version,
            ..SubscriptionData::default()
        })
    }

    #[test]
    fn filters_live_with_their_group_and_are_forgotten_a_day_later() {
        let dir = tempfile::tempdir().unwrap();
        let filters = ConsumerFilters::open(dir.path(), 0);
        let get = || filters.state.lock().table.filter_data_by_topic.get("T").map(|t| t.group_filter_data["G"].clone());
        let first = subscription("a = 1", 5);
        assert_eq!(filters.update([("G", &first)], 100), 1);
        assert_eq!(filters.update([("G", &first)], 200), 1);
        assert_eq!(get().unwrap().born_time, 100);
        filters.update([("G", &subscription("a = 1", 6))], 300);
        assert_eq!((get().unwrap().born_time, get().unwrap().client_version), (100, 6));
        filters.update([("G", &subscription("a = 2", 7))], 400);
        assert_eq!((get().unwrap().born_time, get().unwrap().dead_time), (400, 0));
        filters.update([], 500);
        assert_eq!(get().unwrap().dead_time, 500);
        let changes = filters.update([], 500 + KEPT_MS - 1);
        assert_eq!(filters.update([], 500 + KEPT_MS), changes + 1);
        assert!(get().is_none());
    }

    #[test]
    fn a_start_takes_all_groups_for_gone_and_does_not_stop_at_a_damaged_file() {
        let dir = tempfile::tempdir().unwrap();
        let filters = ConsumerFilters::open(dir.path(), 0);
        filters.update([("G", &subscription("a = 1", 5))], 100);
        let path = filters.path().to_owned();
        ferromq_common::json_file::store(&path, &filters.encode().unwrap()).unwrap();
        let dead_after_start_at = |now| {
            let filters = ConsumerFilters::open(dir.path(), now);
            let state = filters.state.lock();
            state.table.filter_data_by_topic["T"].group_filter_data["G"].dead_time
        };
        assert_eq!((dead_after_start_at(200), dead_after_start_at(100_000)), (100, 70_000));
        std::fs::write(&path, b"").unwrap();
        assert!(ConsumerFilters::open(dir.path(), 0).state.lock().table.filter_data_by_topic.is_empty());
    }

    #[test]
    fn positions_are_those_of_rocketmq() {
        // As its class gives them.
        assert_eq!(bloom_filter_data("CID#TopicTest").bit_pos, [3, 15, 34]);
        assert_eq!(bloom_filter_data("group-ü#a-longer-topic-name").bit_pos, [5, 47, 89]);
    }
}
