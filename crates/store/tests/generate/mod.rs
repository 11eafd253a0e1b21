//! Stores that are damaged as a string of bytes says, and what must hold when they are checked, opened and used. Used by
//! a seeded loop here and by the target `stores` in `fuzz/`.
#![allow(clippy::unwrap_used, reason = "a check fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use ferromq_common::json_file;
use ferromq_protocol::body::TopicConfigSerializeWrapper;
use ferromq_protocol::json;
use ferromq_protocol::record::{self, Entry, MessageParts};
use ferromq_store::{AppendBatch, Store, StoreConfig, check_store};

use crate::choices::Choices;

const TOPIC: &str = "T";
const QUEUES: u32 = 2;
/// Messages of each queue.
const MESSAGES: i64 = 90;
/// What is damaged: folders and files of a store.
const PARTS: &[&str] = &["commitlog", "consumequeue", "index", "checkpoint", "config"];
/// Numbers that mean something to one field or another.
const WORDS: &[u32] =
    &[0, 1, 2, 20, 90, 91, 400, 16_384, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 0xDAA3_20A7, 0xDAA3_20AB, 0xCBD4_3194];

fn config(root: &Path) -> StoreConfig {
    StoreConfig {
        root: root.to_owned(),
        mapped_file_size_commit_log: 16_384,
        mapped_file_size_consume_queue: 400,
        max_hash_slot_num: 50,
        max_index_num: 100,
        disk_space_floor: 0,
        ..StoreConfig::default()
    }
}

fn body(queue: u32, offset: i64) -> Vec<u8> {
    format!("{queue}-{offset}-{}", "x".repeat(offset as usize * 7 % 150)).into_bytes()
}

fn send(store: &Store, queue: u32, body: &[u8]) -> i64 {
    let (mut batch, key) = (AppendBatch::default(), format!("UNIQ_KEY\u{1}{}\u{2}", String::from_utf8_lossy(body)));
    let parts = MessageParts {
        topic: TOPIC,
        queue_id: queue,
        body,
        properties: key.as_bytes(),
        tags: None,
        keys: None,
        uniq_key: Some(body),
        flag: 0,
        sys_flag: 0,
        born_timestamp: 1,
        born_host: ([127, 0, 0, 1], 1234).into(),
        store_host: ([127, 0, 0, 1], 10_911).into(),
        reconsume_times: 0,
        prepared_transaction_offset: 0,
    };
    batch.push(&store.queue(TOPIC, queue), &parts).unwrap();
    store.append(&mut batch).unwrap();
    store.dispatch();
    while store.dispatch_behind_bytes() > 0 {
        std::thread::yield_now();
    }
    batch.results()[0].queue_offset
}

/// A sound store that was stopped in order.
fn sample() -> &'static Path {
    static SAMPLE: OnceLock<tempfile::TempDir> = OnceLock::new();
    let make = || {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(config(dir.path()), Arc::new(|_| ())).unwrap();
        for offset in 0..MESSAGES {
            for queue in 0..QUEUES {
                send(&store, queue, &body(queue, offset));
            }
        }
        for content in [r#"{"topicConfigTable":{}}"#, r#"{"topicConfigTable":{"T":{"topicName":"T"}}}"#] {
            json_file::store(&dir.path().join("config/topics.json"), content.as_bytes()).unwrap();
        }
        dir
    };
    SAMPLE.get_or_init(make).path()
}

fn files(at: &Path, found: &mut Vec<PathBuf>) {
    if at.is_dir() {
        fs::read_dir(at).unwrap().for_each(|entry| files(&entry.unwrap().path(), found));
    } else if at.is_file() {
        found.push(at.to_owned());
    }
    found.sort();
}

fn copy(from: &Path, to: &Path) {
    let mut all = Vec::new();
    files(from, &mut all);
    for file in all {
        let target = to.join(file.strip_prefix(from).unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(file, target).unwrap();
    }
}

/// Damages a file of one part, `all` being those of the same part; says what it did.
fn damage(choices: &mut Choices<'_>, all: &[PathBuf]) -> String {
    let path = &all[choices.below(all.len())];
    let mut bytes = fs::read(path).unwrap();
    let at = choices.below(bytes.len());
    let end = (at + 1 + choices.below(4096)).min(bytes.len());
    let kind = choices.byte() % 10;
    match kind {
        0 => bytes.clear(),
        1 => bytes.truncate(at),
        2 => bytes.extend(std::iter::repeat_n(choices.byte(), end)),
        3 => bytes[at.min(end)..end].fill(0),
        4 => bytes = fs::read(&all[choices.below(all.len())]).unwrap(),
        5 => bytes.fill(0),
        6 if !bytes.is_empty() => bytes[at] ^= 1 << (choices.byte() % 8),
        // A field of any format lies at a multiple of four in its file, save in the log.
        _ => {
            let word = WORDS[choices.below(WORDS.len())].to_be_bytes();
            let at = if choices.one_in(4) { at } else { at / 4 * 4 };
            bytes.iter_mut().skip(at).zip(word).for_each(|(byte, new)| *byte = new);
        }
    }
    if kind == 0 {
        fs::remove_file(path).unwrap();
    } else {
        fs::write(path, bytes).unwrap();
    }
    format!("{} {at}..{end} by {kind}", path.display())
}

/// Offsets and bodies of a queue.
fn read(store: &Store, queue: u32) -> Vec<(i64, Vec<u8>)> {
    let Some(queue) = store.find_queue(TOPIC, queue) else { return Vec::new() };
    let (mut all, mut offset) = (Vec::new(), queue.min_offset());
    while offset < queue.max_offset() {
        let mut out = Vec::new();
        let outcome = store.read(&queue, offset, 32, 1 << 20, &mut |_| true, &mut out);
        assert!(outcome.next_offset > offset, "{outcome:?} at {offset}");
        let mut rest = &out[..];
        while let Entry::Record(record) = record::read(rest) {
            assert!(record.is_body_intact());
            all.push((record.queue_offset(), record.body().to_vec()));
            rest = &rest[record.bytes().len()..];
        }
        offset = outcome.next_offset;
    }
    all
}

/// Damages a store and looks at it: the check ends, the store opens unless its log is damaged, has all that the log has,
/// gives no offset twice, and another start changes nothing.
pub fn check(data: &[u8]) {
    let mut choices = Choices(data);
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    copy(sample(), root);
    if choices.one_in(2) {
        fs::write(root.join("abort"), "1").unwrap();
    }
    let (mut is_log_damaged, mut damaged_tables, mut told) = (false, 0, Vec::new());
    for _ in 0..=choices.below(4) {
        let part = choices.pick(PARTS);
        let mut all = Vec::new();
        files(&root.join(part), &mut all);
        if !all.is_empty() {
            told.push(damage(&mut choices, &all));
            is_log_damaged |= part == "commitlog";
            damaged_tables += usize::from(part == "config");
        }
    }
    for is_configured in [true, false] {
        let _ = check_store(&config(root), is_configured, &mut |_| ());
    }
    let table = json_file::load(&root.join("config/topics.json"), json::from_slice::<TopicConfigSerializeWrapper>);
    assert!(table.is_ok() || damaged_tables > 1, "one of two copies is damaged, and nothing is read: {table:?}");
    let mut sent = [Vec::new(), Vec::new()];
    for round in 0..2 {
        let store = match Store::open(config(root), Arc::new(|_| ())) {
            Ok(store) => store,
            Err(error) => {
                assert!(is_log_damaged && round == 0, "{error}: {told:?}");
                return;
            }
        };
        for queue in 0..QUEUES {
            let all = read(&store, queue);
            let is_right = |(offset, found): &(i64, Vec<u8>)| *found == body(queue, *offset);
            let old = &all[..all.len() - sent[queue as usize].len().min(all.len())];
            if !is_log_damaged {
                assert!(old.iter().all(is_right), "queue {queue}, round {round}: {told:?}");
                assert_eq!(old.len() as i64, MESSAGES, "queue {queue}, round {round}: {told:?}");
            }
            assert!(
                all.ends_with(&sent[queue as usize]),
                "queue {queue}, round {round}: what was sent is missing: {told:?}"
            );
            let text = format!("new {round}");
            let offset = send(&store, queue, text.as_bytes());
            assert!(all.last().is_none_or(|(last, _)| *last < offset), "offset {offset} twice: {told:?}");
            sent[queue as usize].push((offset, text.into_bytes()));
        }
        for (n, key) in [body(0, 3), body(1, MESSAGES - 1), b"new 0".to_vec()].iter().enumerate() {
            let hits = store.query_index(TOPIC, &String::from_utf8_lossy(key), 32, 0, i64::MAX);
            assert!(hits.physical_offsets.iter().all(|at| store.look(*at, |_| ()).is_some() || n < 2));
        }
    }
}
