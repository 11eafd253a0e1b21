//! What the tests of the store share.
#![allow(dead_code, reason = "every test file takes what it needs")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ferromq_protocol::record::{self, Entry, InnerMessage, MessageParts, Record};
use ferromq_protocol::sys_flag::message as flags;
use ferromq_store::{AppendBatch, AppendError, FlushMode, ReadStatus, Store, StoreConfig};

/// Small files, so that a few messages cross their borders.
pub fn config(root: &Path) -> StoreConfig {
    StoreConfig {
        root: root.to_owned(),
        mapped_file_size_commit_log: 64 * 1024,
        mapped_file_size_consume_queue: 20 * 300,
        mapper_file_size_batch_consume_queue: 46 * 250,
        max_hash_slot_num: 1000,
        max_index_num: 4000,
        // Whatever else is on the disk of the machine.
        disk_space_floor: 0,
        ..StoreConfig::default()
    }
}

pub fn sync_config(root: &Path) -> StoreConfig {
    StoreConfig { flush_disk_type: FlushMode::Sync, ..config(root) }
}

pub fn open(config: StoreConfig) -> Store {
    Store::open(config, Arc::new(|_| ())).unwrap()
}

pub fn parts<'a>(topic: &'a str, queue_id: u32, body: &'a [u8], properties: &'a [u8]) -> MessageParts<'a> {
    let find = |name| ferromq_protocol::properties::get(properties, name);
    MessageParts {
        topic,
        queue_id,
        body,
        properties,
        tags: find("TAGS"),
        keys: find("KEYS"),
        uniq_key: find("UNIQ_KEY"),
        flag: 0,
        sys_flag: 0,
        born_timestamp: 1,
        born_host: "127.0.0.1:1234".parse().unwrap(),
        store_host: "127.0.0.1:10911".parse().unwrap(),
        reconsume_times: 0,
        prepared_transaction_offset: 0,
    }
}

/// Appends one message for each body and dispatches.
pub fn send(store: &Store, topic: &str, queue_id: u32, bodies: &[&[u8]]) -> Result<(), AppendError> {
    let mut batch = AppendBatch::default();
    let queue = store.queue(topic, queue_id);
    for body in bodies {
        let key = format!("UNIQ_KEY\u{1}{}\u{2}TAGS\u{1}t\u{2}", String::from_utf8_lossy(body));
        batch.push(&queue, &parts(topic, queue_id, body, key.as_bytes())).unwrap();
    }
    store.append(&mut batch)?;
    dispatch(store);
    Ok(())
}

/// One record of a batch queue with these bodies.
pub fn inner_batch(bodies: &[&[u8]]) -> Vec<u8> {
    let mut batch = Vec::new();
    for body in bodies {
        record::push_inner(&InnerMessage { flag: 0, body, properties: b"" }, &mut batch);
    }
    batch
}

/// Dispatches, and waits for a thread of the store that may be at it already.
pub fn dispatch(store: &Store) {
    store.dispatch();
    while store.dispatch_behind_bytes() > 0 {
        std::thread::yield_now();
    }
}

/// Bodies of a queue from `offset` on, with their queue offsets.
pub fn read_all(store: &Store, topic: &str, queue_id: u32) -> Vec<(i64, Vec<u8>)> {
    let Some(queue) = store.find_queue(topic, queue_id) else { return Vec::new() };
    let (mut all, mut offset) = (Vec::new(), queue.min_offset());
    loop {
        let mut out = Vec::new();
        let outcome = store.read(&queue, offset, 32, 1 << 20, &mut |_| true, &mut out);
        if outcome.status != ReadStatus::Found {
            assert!(
                matches!(outcome.status, ReadStatus::OffsetOverflowOne | ReadStatus::NoMessageInQueue),
                "{outcome:?} at {offset}"
            );
            return all;
        }
        let records = records_of(topic, &out);
        assert_eq!(records.len(), outcome.count as usize);
        all.extend(records);
        offset = outcome.next_offset;
    }
}

pub fn records(bytes: &[u8]) -> Vec<(i64, Vec<u8>)> {
    records_of("", bytes)
}

/// The offset that a record has in a queue of the topic: in a light one, as its properties say.
fn offset_in(record: &Record<'_>, topic: &str) -> i64 {
    if !topic.starts_with("%LMQ%") {
        return record.queue_offset();
    }
    let list = |name| ferromq_protocol::properties::get_str(record.properties(), name).unwrap().split(',');
    let mut places = list("INNER_MULTI_DISPATCH").zip(list("INNER_MULTI_QUEUE_OFFSET"));
    places.find(|(name, _)| *name == topic).unwrap().1.parse().unwrap()
}

fn records_of(topic: &str, mut bytes: &[u8]) -> Vec<(i64, Vec<u8>)> {
    let mut all = Vec::new();
    while let Entry::Record(record) = record::read(bytes) {
        assert!(record.is_body_intact());
        let offset = offset_in(&record, topic);
        if record.sys_flag() & flags::INNER_BATCH == 0 {
            all.push((offset, record.body().to_vec()));
        } else {
            let base = ferromq_protocol::properties::get_str(record.properties(), "INNER_BASE").unwrap();
            assert_eq!(base.parse(), Ok(offset));
            let messages = record::batch(record.body()).map(|message| message.unwrap().body.to_vec());
            all.extend((offset..).zip(messages));
        }
        bytes = &bytes[record.bytes().len()..];
    }
    assert!(bytes.is_empty());
    all
}

/// Copies a folder as a kill leaves it: what was written to files, while the store runs.
pub fn copy_as_killed(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_as_killed(&entry.path(), &target);
        } else if let Err(error) = std::fs::copy(entry.path(), &target) {
            // The store removes files meanwhile.
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{}: {error}", entry.path().display());
            let _ = std::fs::remove_file(target);
        }
    }
}

/// What is in a folder, in the order of its names.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

pub fn numbered(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|n| format!("body-{n}-{}", "x".repeat(n % 700)).into_bytes()).collect()
}

pub fn as_slices(bodies: &[Vec<u8>]) -> Vec<&[u8]> {
    bodies.iter().map(Vec::as_slice).collect()
}

pub fn expect(bodies: &[Vec<u8>]) -> Vec<(i64, Vec<u8>)> {
    bodies.iter().enumerate().map(|(n, body)| (n as i64, body.clone())).collect()
}
