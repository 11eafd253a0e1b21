//! A store written by Apache RocketMQ 5.5.0: opened in place, and its derived files built again byte for byte.
#![allow(clippy::unwrap_used, reason = "a test says by panicking what is wrong")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{copy_as_killed, open, read_all, send};
use ferromq_protocol::properties;
use ferromq_protocol::record::{self, Entry};
use ferromq_store::{Store, StoreConfig};

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/java-5.5-store")
}

fn config(root: &Path) -> StoreConfig {
    StoreConfig {
        root: root.to_owned(),
        mapped_file_size_commit_log: 16_384,
        mapped_file_size_consume_queue: 400,
        max_hash_slot_num: 50,
        max_index_num: 100,
        // Whatever else is on the disk of the machine.
        disk_space_floor: 0,
        ..StoreConfig::default()
    }
}

fn check(store: &Store) {
    for (topic, queue, count) in [("JavaT", 0, 45), ("JavaT", 1, 45), ("JavaB", 0, 32)] {
        let all = read_all(store, topic, queue);
        assert_eq!(all.len(), count, "{topic}-{queue}");
        assert!(all.iter().enumerate().all(|(n, (offset, _))| *offset == n as i64));
        let handle = store.find_queue(topic, queue).unwrap();
        for offset in 0..count as i64 {
            let place = store.entry(&handle, offset).unwrap().physical_offset as u64;
            let mut bytes = Vec::new();
            store.record_at(place, &mut bytes).unwrap();
            let Entry::Record(record) = record::read(&bytes) else { panic!() };
            if let Some(key) = properties::get_str(record.properties(), "UNIQ_KEY") {
                let hits = store.query_index(topic, key, 32, 0, i64::MAX);
                assert!(hits.physical_offsets.contains(&place), "{key}");
            }
        }
    }
}

#[test]
fn it_opens_in_place_after_a_stop_and_after_a_kill() {
    for killed in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        copy_as_killed(&fixture(), dir.path());
        if killed {
            fs::write(dir.path().join("abort"), "4711").unwrap();
        }
        let store = open(config(dir.path()));
        check(&store);
        send(&store, "JavaT", 1, &[b"from here on"]).unwrap();
        drop(store);
        let store = open(config(dir.path()));
        assert_eq!(read_all(&store, "JavaT", 1).last().unwrap(), &(45, b"from here on".to_vec()));
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 60, ..Default::default() })]

    /// Whatever bytes of whatever files are damaged: the store opens, and serves no wrong body.
    #[test]
    fn damaged_files_do_not_panic(damages in proptest::collection::vec((0..14_usize, 0..40_000_usize, 0..300_usize, 0..=255_u8), 1..8), killed: bool) {
        let dir = tempfile::tempdir().unwrap();
        copy_as_killed(&fixture(), dir.path());
        let mut files = vec![dir.path().join("checkpoint")];
        let mut folders = vec![dir.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()) {
                if entry.is_dir() { folders.push(entry) } else { files.push(entry) }
            }
        }
        files.sort();
        for (file, at, len, byte) in damages {
            let path = &files[file % files.len()];
            let mut bytes = fs::read(path).unwrap();
            let from = at % bytes.len().max(1);
            let to = (from + len).min(bytes.len());
            bytes[from..to].fill(byte);
            fs::write(path, bytes).unwrap();
        }
        if killed {
            fs::write(dir.path().join("abort"), "4711").unwrap();
        }
        let store = open(config(dir.path()));
        let queue = store.queue("JavaT", 0);
        let mut batch = ferromq_store::AppendBatch::default();
        batch.push(&queue, &common::parts("JavaT", 0, b"new", b"")).unwrap();
        store.append(&mut batch).unwrap();
        common::dispatch(&store);
        for topic in store.topics() {
            for queue in store.queues(&topic) {
                let mut offset = queue.min_offset();
                while offset < queue.max_offset() {
                    let mut out = Vec::new();
                    let outcome = store.read(&queue, offset, 32, 1 << 20, &mut |_| true, &mut out);
                    assert!(outcome.next_offset > offset, "{outcome:?}");
                    offset = outcome.next_offset;
                }
                store.search_by_time(&queue, 1_700_000_000_000, ferromq_store::Boundary::Upper);
            }
        }
        store.query_index("JavaT", "any", 32, 0, i64::MAX);
    }
}

#[test]
fn queues_and_index_are_built_as_java_builds_them() {
    let dir = tempfile::tempdir().unwrap();
    copy_as_killed(&fixture(), dir.path());
    for folder in ["consumequeue", "index"] {
        fs::remove_dir_all(dir.path().join(folder)).unwrap();
    }
    fs::remove_file(dir.path().join("checkpoint")).unwrap();
    check(&open(config(dir.path())));

    for (topic, queue, files) in [("JavaT", 0, 3), ("JavaT", 1, 3), ("JavaB", 0, 2)] {
        for file in 0..files {
            let path = format!("consumequeue/{topic}/{queue}/{:020}", file * 400);
            let (ours, java) = (fs::read(dir.path().join(&path)).unwrap(), fs::read(fixture().join(&path)).unwrap());
            assert!(ours == java, "{path}");
        }
    }
    let index = |root: &Path| {
        let mut files: Vec<_> = fs::read_dir(root.join("index")).unwrap().map(|e| e.unwrap().path()).collect();
        files.sort();
        files.iter().map(|path| fs::read(path).unwrap()).collect::<Vec<_>>()
    };
    assert!(index(dir.path()) == index(&fixture()), "index files");
}
