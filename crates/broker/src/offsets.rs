//! Consumer offsets by (topic, group, queue), and offset resets that wait for the next pull.
//!
//! RocketMQ's `consumerOffset.json` (`ConsumerOffsetManager`). The table is striped: a commit locks one of
//! [`STRIPES`] maps for a few dozen nanoseconds. `persist.rs` writes it; nothing here touches files. Offsets may go
//! backward: that is how consumers reset themselves.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::BuildHasher;
use std::hash::RandomState;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use ferromq_common::json_file::LoadError;
use ferromq_protocol::body::{ConsumerOffsetSerializeWrapper, DataVersion};
use ferromq_protocol::topic::LMQ_PREFIX;
use parking_lot::{Mutex, RwLock};

use crate::persist;

/// File name in the store's `config` folder.
const FILE: &str = "consumerOffset.json";
/// The file in its place where light groups are served: it has the same table and theirs.
const LIGHT_FILE: &str = "lmqConsumerOffset.json";

/// What it means to start without the file.
const WITHOUT: &str = ", where groups begin as their clients say, most at the end, and skip what they have not read: then set them back with `mqadmin resetOffsetByTime` to a time before the damage";

/// Maps the table is split into.
const STRIPES: usize = 16;
/// Most (topic, group) pairs kept; a commit for one more is refused, so that bad clients cost bounded memory.
pub const MAX_PAIRS: usize = 1_000_000;
/// Separates topic and group in a key (RocketMQ's `TOPIC_GROUP_SEPARATOR`).
pub(crate) const SEPARATOR: char = '@';

/// Ends the name under which the offsets of a group's broadcasting consumers are kept (`broadcast.rs`). No other group's name
/// has a separator.
pub(crate) const BROADCAST_SUFFIX: &str = "@broadcast";

/// One consumer group's offsets of one topic, by queue id.
type Queues = BTreeMap<u32, i64>;

/// Part of the table, by `topic@group`.
type Stripe = RwLock<HashMap<Box<str>, Pair>>;

/// The table of consumer offsets. All methods may be called from any thread.
pub struct Offsets {
    hasher: RandomState,
    stripes: Box<[Stripe]>,
    /// Commits since the start: `persist.rs` writes when it has moved.
    changes: AtomicU64,
    /// Resets that wait for a pull, all pairs together: 0 spares the look-up on every pull and commit.
    pending_resets: AtomicU64,
    pairs: AtomicU64,
    version: Mutex<DataVersion>,
    path: PathBuf,
    /// Light groups have a table of their own in the file (RocketMQ's `LmqConsumerOffsetManager`).
    light: bool,
}

/// What became of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Committed {
    Stored,
    /// It is ignored: a reset waits for this queue.
    Reset,
    /// There is no room for one more pair of topic and group.
    Full,
}

#[derive(Default)]
struct Pair {
    offsets: Queues,
    resets: Queues,
}

impl Default for Offsets {
    fn default() -> Self {
        Self {
            hasher: RandomState::new(),
            stripes: (0..STRIPES).map(|_| RwLock::default()).collect(),
            changes: AtomicU64::new(0),
            pending_resets: AtomicU64::new(0),
            pairs: AtomicU64::new(0),
            version: Mutex::default(),
            path: PathBuf::new(),
            light: false,
        }
    }
}

impl Offsets {
    /// The committed offset, if the group ever committed one for this queue.
    pub fn query(&self, topic: &str, group: &str, queue_id: u32) -> Option<i64> {
        with_pair(topic, group, |key| self.stripe(key).read().get(key)?.offsets.get(&queue_id).copied())
    }

    /// Stores a commit, unless a reset waits for this queue.
    pub fn commit(&self, topic: &str, group: &str, queue_id: u32, offset: i64) -> Committed {
        with_pair(topic, group, |key| {
            let mut stripe = self.stripe(key).write();
            if let Some(pair) = stripe.get_mut(key) {
                if !pair.resets.is_empty() && pair.resets.contains_key(&queue_id) {
                    return Committed::Reset;
                }
                pair.offsets.insert(queue_id, offset);
            } else if let Some(pair) = self.new_pair(&mut stripe, key) {
                pair.offsets.insert(queue_id, offset);
            } else {
                return Committed::Full;
            }
            self.changes.fetch_add(1, Ordering::Relaxed);
            Committed::Stored
        })
    }

    /// Sets the offset and lets the next pull of this queue answer with it (RocketMQ's server-side reset).
    pub fn reset(&self, topic: &str, group: &str, queue_id: u32, offset: i64) {
        with_pair(topic, group, |key| {
            let mut stripe = self.stripe(key).write();
            let pair = match stripe.contains_key(key) {
                true => stripe.get_mut(key),
                false => self.new_pair(&mut stripe, key),
            };
            if let Some(pair) = pair {
                pair.offsets.insert(queue_id, offset);
                if pair.resets.insert(queue_id, offset).is_none() {
                    self.pending_resets.fetch_add(1, Ordering::Relaxed);
                }
            }
            self.changes.fetch_add(1, Ordering::Relaxed);
        });
    }

    /// Whether a reset waits for the next pull of this queue.
    pub fn has_reset(&self, topic: &str, group: &str, queue_id: u32) -> bool {
        self.pending_resets.load(Ordering::Relaxed) > 0
            && with_pair(topic, group, |key| {
                self.stripe(key).read().get(key).is_some_and(|pair| pair.resets.contains_key(&queue_id))
            })
    }

    /// Takes the reset that waits for this queue, once.
    pub fn take_reset(&self, topic: &str, group: &str, queue_id: u32) -> Option<i64> {
        if self.pending_resets.load(Ordering::Relaxed) == 0 {
            return None;
        }
        with_pair(topic, group, |key| {
            let taken = self.stripe(key).write().get_mut(key)?.resets.remove(&queue_id)?;
            self.pending_resets.fetch_sub(1, Ordering::Relaxed);
            Some(taken)
        })
    }

    /// All offsets of a group in one topic.
    pub fn queues(&self, topic: &str, group: &str) -> BTreeMap<u32, i64> {
        with_pair(topic, group, |key| self.stripe(key).read().get(key).map(|p| p.offsets.clone()).unwrap_or_default())
    }

    /// Groups that committed offsets for a topic.
    pub fn groups_of(&self, topic: &str) -> Vec<String> {
        self.pick(|t, g| (t == topic).then(|| g.to_owned()))
    }

    /// Topics a group committed offsets for.
    pub fn topics_of(&self, group: &str) -> Vec<String> {
        self.pick(|t, g| (g == group).then(|| t.to_owned()))
    }

    /// Groups that committed offsets for any topic.
    pub fn groups(&self) -> HashSet<String> {
        self.pick(|_, g| Some(g.to_owned())).into_iter().collect()
    }

    /// Forgets a topic's offsets, as its deletion does.
    pub fn remove_topic(&self, topic: &str) {
        self.remove_topics(|t| t == topic);
    }

    /// Forgets the offsets of all topics that are gone.
    pub fn remove_topics(&self, is_gone: impl Fn(&str) -> bool) {
        self.remove_where(|t, _| is_gone(t));
    }

    /// Forgets a group's offsets, as its deletion with `cleanOffset` does.
    pub fn remove_group(&self, group: &str) {
        self.remove_where(|_, g| g.strip_suffix(BROADCAST_SUFFIX).unwrap_or(g) == group);
    }

    /// Copies the offsets of one group to another, for one topic.
    pub fn copy(&self, topic: &str, from: &str, to: &str) {
        for (queue_id, offset) in self.queues(topic, from) {
            self.commit(topic, to, queue_id, offset);
        }
    }

    /// Pairs of topic and group with an offset.
    pub fn len(&self) -> usize {
        self.pairs.load(Ordering::Relaxed) as usize
    }

    /// Number of changes since the start; equal numbers mean equal contents.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// The table in the file's shape, without a version.
    pub fn snapshot(&self) -> ConsumerOffsetSerializeWrapper {
        let (mut offset_table, mut lights) = (BTreeMap::new(), BTreeMap::new());
        for stripe in &self.stripes {
            for (key, pair) in stripe.read().iter() {
                let is_light = self.light && key.split_once(SEPARATOR).is_some_and(|(_, g)| g.starts_with(LMQ_PREFIX));
                if is_light && let Some(offset) = pair.offsets.get(&0) {
                    lights.insert(key.to_string(), *offset);
                } else if !pair.offsets.is_empty() {
                    offset_table.insert(
                        key.to_string(),
                        pair.offsets.iter().map(|(id, offset)| (*id as i32, *offset)).collect(),
                    );
                }
            }
        }
        let lmq_offset_table = self.light.then_some(lights);
        ConsumerOffsetSerializeWrapper { data_version: None, offset_table, lmq_offset_table }
    }

    /// Reads `consumerOffset.json` below `store_root`, if there is one; with `light` groups their file, and that one only
    /// at the first start with them. No other table is needed so much: nothing else tells what groups have consumed.
    pub fn open(store_root: &Path, light: bool) -> Result<Self, LoadError> {
        let usual = persist::config_path(store_root, FILE);
        let path = if light { persist::config_path(store_root, LIGHT_FILE) } else { usual.clone() };
        let offsets = Self { path, light, ..Self::default() };
        let load = |path: &Path| {
            persist::load::<ConsumerOffsetSerializeWrapper>(path).map_err(|error| error.with_advice(WITHOUT))
        };
        let mut file = load(&offsets.path)?;
        if file.is_none() && light {
            file = load(&usual)?;
        }
        if let Some(file) = file {
            offsets.load(file);
        }
        Ok(offsets)
    }

    /// Where the table is kept.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Time of the file that was read, milliseconds since 1970: it has all commits before.
    pub fn loaded_at(&self) -> i64 {
        self.version.lock().timestamp
    }

    /// The content of `consumerOffset.json`; `now` is a time before which all commits have been made.
    pub fn encode(&self, now: i64) -> io::Result<Vec<u8>> {
        let mut file = self.snapshot();
        let mut version = self.version.lock();
        version.next_version(now);
        file.data_version = Some(*version);
        drop(version);
        Ok(serde_json::to_vec_pretty(&file)?)
    }

    fn load(&self, file: ConsumerOffsetSerializeWrapper) {
        *self.version.lock() = file.data_version.unwrap_or_default();
        let lights = file.lmq_offset_table.into_iter().flatten();
        let lights = lights.map(|(key, offset)| (key, BTreeMap::from([(0, offset)])));
        for (key, queues) in file.offset_table.into_iter().chain(lights) {
            // All of them, though they be more than [`MAX_PAIRS`]: the next writing of the file would lose the others.
            let mut stripe = self.stripe(&key).write();
            self.pair(&mut stripe, &key).offsets =
                queues.into_iter().filter_map(|(id, offset)| Some((u32::try_from(id).ok()?, offset))).collect();
        }
    }

    fn new_pair<'a>(&self, stripe: &'a mut HashMap<Box<str>, Pair>, key: &str) -> Option<&'a mut Pair> {
        if self.pairs.load(Ordering::Relaxed) >= MAX_PAIRS as u64 {
            return None;
        }
        Some(self.pair(stripe, key))
    }

    /// One that is there, or one more.
    fn pair<'a>(&self, stripe: &'a mut HashMap<Box<str>, Pair>, key: &str) -> &'a mut Pair {
        stripe.entry(key.into()).or_insert_with(|| {
            self.pairs.fetch_add(1, Ordering::Relaxed);
            Pair::default()
        })
    }

    /// What `f` picks of topics and groups; groups of broadcasting consumers are none that tools should see.
    fn pick(&self, f: impl Fn(&str, &str) -> Option<String>) -> Vec<String> {
        let mut found = Vec::new();
        for stripe in &self.stripes {
            let pair = |key: &str| {
                key.split_once(SEPARATOR).filter(|(_, g)| !g.contains(SEPARATOR)).and_then(|(t, g)| f(t, g))
            };
            found.extend(stripe.read().keys().filter_map(|key| pair(key)));
        }
        found
    }

    fn remove_where(&self, gone: impl Fn(&str, &str) -> bool) {
        for stripe in &self.stripes {
            stripe.write().retain(|key, pair| {
                let keep = !key.split_once(SEPARATOR).is_some_and(|(t, g)| gone(t, g));
                if !keep {
                    self.pairs.fetch_sub(1, Ordering::Relaxed);
                    self.pending_resets.fetch_sub(pair.resets.len() as u64, Ordering::Relaxed);
                    self.changes.fetch_add(1, Ordering::Relaxed);
                }
                keep
            });
        }
    }

    fn stripe(&self, key: &str) -> &Stripe {
        &self.stripes[self.hasher.hash_one(key) as usize % STRIPES]
    }
}

/// Joins topic and group to a key without allocating for usual lengths.
pub(crate) fn with_pair<R>(topic: &str, group: &str, f: impl FnOnce(&str) -> R) -> R {
    let mut key = smallvec::SmallVec::<[u8; 256]>::new();
    key.extend_from_slice(topic.as_bytes());
    key.push(SEPARATOR as u8);
    key.extend_from_slice(group.as_bytes());
    // Two strings joined by an ASCII character are a string.
    f(std::str::from_utf8(&key).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commits_are_kept_by_queue_and_may_go_backward() {
        let offsets = Offsets::default();
        assert_eq!(offsets.query("T", "G", 0), None);
        offsets.commit("T", "G", 0, 10);
        offsets.commit("T", "G", 1, 7);
        offsets.commit("T", "G", 0, 4);
        assert_eq!((offsets.query("T", "G", 0), offsets.query("T", "G", 1)), (Some(4), Some(7)));
        assert_eq!(offsets.query("T", "other", 0), None);
    }

    #[test]
    fn a_reset_hides_commits_until_a_pull_takes_it() {
        let offsets = Offsets::default();
        offsets.commit("T", "G", 0, 10);
        offsets.reset("T", "G", 0, 3);
        assert!(offsets.has_reset("T", "G", 0));
        assert_eq!(offsets.commit("T", "G", 0, 11), Committed::Reset);
        assert_eq!(offsets.query("T", "G", 0), Some(3));
        assert_eq!(offsets.take_reset("T", "G", 0), Some(3));
        assert_eq!(offsets.take_reset("T", "G", 0), None);
        assert_eq!(offsets.commit("T", "G", 0, 11), Committed::Stored);
    }

    #[test]
    fn one_more_pair_than_there_is_room_for_is_told() {
        let offsets = Offsets::default();
        offsets.commit("T", "G", 0, 1);
        offsets.pairs.store(MAX_PAIRS as u64, Ordering::Relaxed);
        assert_eq!(offsets.commit("T", "H", 0, 1), Committed::Full);
        offsets.reset("T", "H", 0, 1);
        assert_eq!((offsets.query("T", "H", 0), offsets.has_reset("T", "H", 0)), (None, false));
        assert_eq!(offsets.commit("T", "G", 7, 1), Committed::Stored);
        offsets.load(serde_json::from_str(r#"{"offsetTable":{"T@I":{"0":5},"T@J":{"0":6}}}"#).unwrap());
        assert_eq!(
            (offsets.query("T", "I", 0), offsets.query("T", "J", 0)),
            (Some(5), Some(6)),
            "of the file none is lost"
        );
        assert_eq!(offsets.len(), MAX_PAIRS + 2);
        ["G", "I", "J"].iter().for_each(|group| offsets.remove_group(group));
        assert_eq!(offsets.commit("T", "H", 0, 1), Committed::Stored);
    }

    #[test]
    fn a_snapshot_comes_back_through_the_file_shape() {
        let offsets = Offsets::default();
        offsets.commit("T", "G", 3, 42);
        offsets.commit("%RETRY%G", "G", 0, 1);
        let text = serde_json::to_string(&offsets.snapshot()).unwrap();
        assert_eq!(text, r#"{"offsetTable":{"%RETRY%G@G":{"0":1},"T@G":{"3":42}}}"#);
        let again = Offsets::default();
        again.load(serde_json::from_str(&text).unwrap());
        assert_eq!(again.query("T", "G", 3), Some(42));
    }

    #[test]
    fn light_groups_stand_in_the_file_as_java_writes_it_and_older_offsets_are_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("config");
        std::fs::create_dir(&config).unwrap();
        std::fs::write(config.join(FILE), r#"{"offsetTable":{"T@G":{0:5}}}"#).unwrap();
        let offsets = Offsets::open(dir.path(), true).unwrap();
        assert_eq!(offsets.query("T", "G", 0), Some(5));
        offsets.commit("%LMQ%a", "%LMQ%g", 0, 9);
        let text = serde_json::to_string(&offsets.snapshot()).unwrap();
        assert_eq!(text, r#"{"offsetTable":{"T@G":{"0":5}},"lmqOffsetTable":{"%LMQ%a@%LMQ%g":9}}"#);
        std::fs::write(config.join(LIGHT_FILE), r#"{"lmqOffsetTable":{"%LMQ%a@%LMQ%g":7},"offsetTable":{}}"#).unwrap();
        let offsets = Offsets::open(dir.path(), true).unwrap();
        assert_eq!((offsets.query("%LMQ%a", "%LMQ%g", 0), offsets.query("T", "G", 0)), (Some(7), None));
    }

    #[test]
    fn topics_and_groups_can_be_listed_and_removed() {
        let offsets = Offsets::default();
        offsets.commit("T1", "G", 0, 1);
        offsets.commit("T2", "G", 0, 1);
        offsets.commit("T1", "H", 0, 1);
        let mut topics = offsets.topics_of("G");
        topics.sort();
        assert_eq!(topics, ["T1", "T2"]);
        offsets.remove_topic("T1");
        assert_eq!(offsets.topics_of("H"), Vec::<String>::new());
        offsets.remove_group("G");
        assert_eq!(offsets.groups_of("T2"), Vec::<String>::new());
    }
}
