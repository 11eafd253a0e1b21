//! Queries by time and by key, against a model that looks at every message.
#![allow(clippy::unwrap_used, reason = "a test says by panicking what is wrong")]

mod common;

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use common::{config, dispatch, open, parts};
use ferromq_common::clock;
use ferromq_store::{AppendBatch, Boundary, Faults, Queue, Store, StoreConfig};
use proptest::prelude::*;

/// Lower: the first message at or after the time, else the end. Upper: the last at or before it, else the minimum. As
/// RocketMQ answers after `ConsumeQueueStore` has brought the offset between minimum and end.
fn model(store: &Store, queue: &Queue, time: i64, boundary: Boundary) -> i64 {
    let offsets = || queue.min_offset()..queue.max_offset();
    let stored = |offset: &i64| store.store_time(queue, *offset).unwrap();
    match boundary {
        Boundary::Lower => offsets().find(|o| stored(o) >= time).unwrap_or(queue.max_offset()),
        Boundary::Upper => offsets().rev().find(|o| stored(o) <= time).unwrap_or(queue.min_offset()),
    }
}

fn check_times(store: &Store, queue: &Queue) {
    let times: Vec<i64> = (queue.min_offset()..queue.max_offset()).filter_map(|o| store.store_time(queue, o)).collect();
    let now = clock::now_millis();
    let (first, last) = (times.first().copied().unwrap_or(now), times.last().copied().unwrap_or(now));
    for time in (first - 2..=last + 2).chain([i64::MIN, 0, i64::MAX]) {
        for boundary in [Boundary::Lower, Boundary::Upper] {
            let found = store.search_by_time(queue, time, boundary);
            assert_eq!(found, model(store, queue, time, boundary), "{queue:?} {time} {boundary:?} of {times:?}");
        }
    }
}

fn send(store: &Store, topic: &str, id: u32, properties: &str, body: &[u8]) {
    let mut batch = AppendBatch::default();
    let queue = store.queue(topic, id);
    batch.push(&queue, &parts(topic, id, body, properties.as_bytes())).unwrap();
    store.append(&mut batch).unwrap();
    dispatch(store);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Messages of three queues with pauses between them, then old log files go.
    #[test]
    fn search_by_time_is_as_looking_at_every_message(
        steps in proptest::collection::vec((0..3_u32, 0..3_u64, 0..6000_usize), 0..80), kept in 1..4_usize, restart: bool
    ) {
        let dir = tempfile::tempdir().unwrap();
        let faults = Faults::default();
        faults.set_volume(10, 1 << 40);
        let config = StoreConfig {
            mapped_file_size_consume_queue: 20 * 7,
            file_reserved_time: 1,
            delete_when: Vec::new(),
            delete_commit_log_files_interval: 0,
            faults: Some(Arc::new(faults)),
            ..config(dir.path())
        };
        let mut store = open(config.clone());
        let queues: Vec<_> = (0..4).map(|id| store.queue("T", id)).collect();
        for (id, pause, size) in steps {
            std::thread::sleep(Duration::from_millis(pause));
            send(&store, "T", id, "", &vec![b'x'; size]);
        }
        queues.iter().for_each(|queue| check_times(&store, queue));
        drop(queues);
        // All but the last files go.
        let mut files: Vec<_> = std::fs::read_dir(dir.path().join("commitlog")).unwrap().map(|e| e.unwrap().path()).collect();
        files.sort();
        let old = ((store.max_physical_offset() / (64 * 1024)) as usize).saturating_sub(kept - 1);
        for path in &files[..old.min(files.len())] {
            std::fs::File::options().write(true).open(path).unwrap().set_modified(UNIX_EPOCH).unwrap();
        }
        store.delete_expired_log_files();
        while store.min_physical_offset() < old as u64 * 64 * 1024 {
            std::thread::yield_now();
        }
        store.clean_expired_queues();
        if restart {
            drop(store);
            store = open(config);
        }
        store.queues("T").iter().for_each(|queue| check_times(&store, queue));
    }
}

#[test]
fn empty_and_one_message_queues_answer_any_time() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(config(dir.path()));
    let empty = store.queue("T", 0);
    send(&store, "T", 1, "", b"one");
    check_times(&store, &empty);
    check_times(&store, &store.find_queue("T", 1).unwrap());
    assert_eq!(store.search_by_time(&empty, clock::now_millis(), Boundary::Upper), 0);
}

/// "Aa" and "BB" have one hash, and so have any strings made of them.
#[test]
fn keys_of_one_hash_do_not_use_up_the_answer() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(config(dir.path()));
    send(&store, "T", 0, "KEYS\u{1}AaBB other\u{2}UNIQ_KEY\u{1}id-1\u{2}", b"the one");
    for n in 0..100 {
        send(&store, "T", 0, "KEYS\u{1}BBAa\u{2}", format!("{n}").as_bytes());
    }
    send(&store, "T", 0, "UNIQ_KEY\u{1}AaBB\u{2}", b"by its unique key");
    let find = |key: &str, max| store.query_index("T", key, max, 0, i64::MAX).physical_offsets;
    let body = |offset: u64| {
        let mut record = Vec::new();
        store.record_at(offset, &mut record).unwrap();
        common::records(&record)[0].1.clone()
    };
    let bodies: Vec<_> = find("AaBB", 2).into_iter().map(body).collect();
    assert_eq!(bodies, [b"by its unique key".to_vec(), b"the one".to_vec()]);
    assert_eq!((find("BBAa", 32).len(), find("BBAa", 0).len(), find("AaAa", 32).len()), (32, 0, 0));
    assert_eq!((find("other", 32).len(), find("id-1", 32).len(), find("AaBB other", 32).len()), (1, 1, 0));
    assert!(store.query_index("U", "AaBB", 32, 0, i64::MAX).physical_offsets.is_empty());
}
