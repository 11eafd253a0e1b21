//! What the tests of compacted topics share: small files, messages with keys, and all that a queue shows.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferromq_protocol::properties;
use ferromq_protocol::record::{self, Entry};
use ferromq_store::{AppendBatch, Durability, Faults, Queue, ReadStatus, Store, StoreConfig, TopicKind};

use crate::common::{self, parts};

pub const TOPIC: &str = "Compact";
/// Bytes of a file of entries and of one of records: twenty entries.
pub const ENTRIES: u64 = 46 * 20;
pub const RECORDS: u64 = 6 * ENTRIES;

/// Small files, passes when `every` milliseconds are over, and log files that go as soon as they may.
pub fn settings(root: &Path, every: u64) -> StoreConfig {
    let faults = Faults::default();
    faults.set_volume(10, 1 << 40);
    StoreConfig {
        compacted_topics: [TOPIC.to_owned()].into(),
        compaction_mapped_file_size: RECORDS - ENTRIES,
        compaction_cq_mapped_file_size: ENTRIES,
        compaction_schedule_internal: every,
        mapped_file_size_commit_log: 16 * 1024,
        max_message_size: 8 * 1024,
        file_reserved_time: 1000,
        delete_when: (0..24).collect(),
        clean_resource_interval: 5,
        delete_commit_log_files_interval: 0,
        faults: Some(Arc::new(faults)),
        ..common::config(root)
    }
}

/// The same, deleting log files at once.
pub fn short_lived(root: &Path, every: u64) -> StoreConfig {
    StoreConfig { file_reserved_time: 0, ..settings(root, every) }
}

pub fn queue(store: &Store) -> Arc<Queue> {
    store.topic_queue(TOPIC, 0, TopicKind::Compacted)
}

/// Appends messages, each of a key and a body, and waits until they are on the disk.
pub fn put(store: &Store, messages: &[(String, Vec<u8>)]) -> Vec<i64> {
    let batch = append(store, messages);
    let (tell, told) = std::sync::mpsc::sync_channel(1);
    store.when_durable(batch.end_position(), Box::new(move |durability| tell.send(durability).unwrap()));
    assert_eq!(told.recv().unwrap(), Durability::Durable);
    batch.results().iter().map(|at| at.queue_offset).collect()
}

/// The same without waiting.
pub fn append(store: &Store, messages: &[(String, Vec<u8>)]) -> AppendBatch {
    let queue = queue(store);
    let mut batch = AppendBatch::default();
    for (key, body) in messages {
        let text = format!("KEYS\u{1}{key}\u{2}TAGS\u{1}t{}\u{2}", body.len() % 2);
        batch.push(&queue, &parts(TOPIC, 0, body, text.as_bytes())).unwrap();
    }
    store.append(&mut batch).unwrap();
    common::dispatch(store);
    batch
}

/// `count` messages of `keys` keys in turn, with bodies of some hundred bytes that say which they are.
pub fn rounds(from: usize, count: usize, keys: usize) -> Vec<(String, Vec<u8>)> {
    (from..from + count).map(|n| (format!("k{}", n % keys), body(n))).collect()
}

pub fn body(n: usize) -> Vec<u8> {
    format!("body-{n}-{}", "x".repeat(n * 37 % 200)).into_bytes()
}

/// A message as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub offset: i64,
    pub key: String,
    pub body: Vec<u8>,
}

/// All messages of the queue, from the beginning on.
pub fn all(store: &Store) -> Vec<Seen> {
    let Some(queue) = store.find_queue(TOPIC, 0) else { return Vec::new() };
    let (mut all, mut offset) = (Vec::new(), 0);
    loop {
        let mut out = Vec::new();
        let outcome = store.read(&queue, offset, 7, 1 << 20, &mut |_| true, &mut out);
        match outcome.status {
            ReadStatus::Found | ReadStatus::NoMatchedMessage => {}
            ReadStatus::OffsetOverflowOne | ReadStatus::NoMessageInQueue => return all,
            ReadStatus::OffsetTooSmall => {}
            _ => panic!("{outcome:?} at {offset}"),
        }
        assert!(outcome.next_offset > offset, "{outcome:?} at {offset}");
        let seen = seen(&out);
        assert_eq!(seen.len(), outcome.count as usize);
        assert!(seen.iter().all(|one| (offset..outcome.next_offset).contains(&one.offset)), "{outcome:?} at {offset}");
        all.extend(seen);
        offset = outcome.next_offset;
    }
}

pub fn seen(mut bytes: &[u8]) -> Vec<Seen> {
    let mut all = Vec::new();
    while let Entry::Record(record) = record::read(bytes) {
        bytes = &bytes[record.bytes().len()..];
        assert!(record.is_body_intact());
        let key = properties::get_str(record.properties(), "KEYS").unwrap().to_owned();
        all.push(Seen { offset: record.queue_offset(), key, body: record.body().to_vec() });
    }
    assert!(bytes.is_empty());
    all
}

/// The last message of each key.
pub fn newest(all: &[Seen]) -> BTreeMap<String, Seen> {
    all.iter().map(|seen| (seen.key.clone(), seen.clone())).collect()
}

pub fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(30), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Numbered files of the queue's copy: of records and of entries.
pub fn copies(root: &Path) -> [Vec<PathBuf>; 2] {
    ["compactionLog", "compactionCq"].map(|name| {
        let folder = root.join("compaction").join(name).join(TOPIC).join("0");
        let entries = std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap());
        let files = entries.filter(|entry| entry.file_type().unwrap().is_file());
        let mut files: Vec<PathBuf> = files.map(|entry| entry.path()).collect();
        files.sort();
        files
    })
}
