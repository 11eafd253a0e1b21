//! Batch queues: several messages in one record, at any offset, before and after whatever happens to a store.
#![allow(clippy::unwrap_used, reason = "a test says by panicking what is wrong")]

mod common;

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use common::{config, copy_as_killed, dispatch, inner_batch, open, parts, read_all, sync_config};
use ferromq_common::clock;
use ferromq_store::{
    AppendBatch, Boundary, Durability, Faults, ReadStatus, Reject, Severity, Store, StoreConfig, TopicKind,
    check_store, rebuild_store,
};
use proptest::prelude::*;

const TOPIC: &str = "Batch";

fn batch_config(root: &Path) -> StoreConfig {
    let faults = Faults::default();
    faults.set_volume(10, 1 << 40);
    StoreConfig {
        batch_topics: [TOPIC.to_owned()].into(),
        mapper_file_size_batch_consume_queue: 46 * 20,
        delete_when: vec![(clock::local_hour() + 12) % 24],
        delete_commit_log_files_interval: 0,
        faults: Some(Arc::new(faults)),
        ..config(root)
    }
}

fn body(n: usize) -> Vec<u8> {
    format!("body-{n}").into_bytes()
}

/// Appends messages from the `first`-th on, as one record of each of these sizes; 0 stands for an ordinary message.
fn append(store: &Store, first: usize, sizes: &[usize]) -> usize {
    let queue = store.topic_queue(TOPIC, 0, TopicKind::Batch);
    let (mut batch, mut next) = (AppendBatch::default(), first);
    for size in sizes {
        let properties = format!("UNIQ_KEY\u{1}k{next}\u{2}TAGS\u{1}t{}\u{2}", next % 2);
        if *size == 0 {
            batch.push(&queue, &parts(TOPIC, 0, &body(next), properties.as_bytes())).unwrap();
        } else {
            let bodies: Vec<Vec<u8>> = (next..next + size).map(body).collect();
            let whole = inner_batch(&bodies.iter().map(Vec::as_slice).collect::<Vec<_>>());
            let parts = parts(TOPIC, 0, &whole, properties.as_bytes());
            batch.push_inner_batch(&queue, &parts, *size as i16).unwrap();
        }
        next += size.max(&1);
    }
    store.append(&mut batch).unwrap();
    if store.is_sync_flush() {
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        store.when_durable(batch.end_position(), Box::new(move |durability| tell.send(durability).unwrap()));
        assert_eq!(told.recv().unwrap(), Durability::Durable);
    }
    dispatch(store);
    let firsts: Vec<i64> = batch.results().iter().map(|stored| stored.queue_offset).collect();
    let expected = sizes.iter().scan(first as i64, |at, size| Some(std::mem::replace(at, *at + *size.max(&1) as i64)));
    assert_eq!(firsts, expected.collect::<Vec<_>>());
    next
}

/// The messages `first..end` stand at their offsets.
fn check(store: &Store, first: usize, end: usize) {
    let queue = store.find_queue(TOPIC, 0).unwrap();
    assert_eq!((queue.min_offset(), queue.max_offset()), (first as i64, end as i64));
    let expected: Vec<_> = (first..end).map(|n| (n as i64, body(n))).collect();
    assert!(read_all(store, TOPIC, 0) == expected);
}

fn healthy(config: &StoreConfig) {
    let table = r#"{"topicConfigTable":{"Batch":{"topicName":"Batch","attributes":{"queue.type":"BatchCQ"}}}}"#;
    std::fs::create_dir_all(config.root.join("config")).unwrap();
    std::fs::write(config.root.join("config/topics.json"), table).unwrap();
    let report = check_store(config, true, &mut |_| ()).unwrap();
    assert!(report.findings.worst().is_none_or(|worst| worst == Severity::Note), "{:?}", report.findings);
}

fn queue_file(root: &Path, n: usize) -> PathBuf {
    root.join("batchconsumequeue").join(TOPIC).join("0").join(format!("{:020}", n * 46 * 20))
}

#[test]
fn any_offset_leads_to_the_record_that_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(batch_config(dir.path()));
    let sizes: Vec<usize> = (0..100).map(|n| n % 7).collect();
    let mut bases = BTreeMap::new();
    let mut next = 0;
    for size in &sizes {
        bases.insert(next as i64, *size.max(&1) as u32);
        next = append(&store, next, &[*size]);
    }
    check(&store, 0, next);
    let queue = store.find_queue(TOPIC, 0).unwrap();
    for offset in 0..next as i64 {
        let (base, messages) = bases.range(..=offset).next_back().unwrap();
        let entry = store.entry(&queue, offset).unwrap();
        assert_eq!((entry.queue_offset, entry.messages as u32), (*base, *messages));
        let mut out = Vec::new();
        let outcome = store.read(&queue, offset, 1, 1 << 20, &mut |_| true, &mut out);
        assert_eq!((outcome.status, outcome.count), (ReadStatus::Found, *messages), "one record, however large");
        assert_eq!(outcome.next_offset, base + i64::from(*messages));
        assert_eq!(common::records(&out)[0].0, *base);
    }
    let mut out = Vec::new();
    let outcome = store.read(&queue, 0, 32, 1 << 20, &mut |_| true, &mut out);
    let whole = bases.iter().scan(0, |sum, (_, n)| Some(std::mem::replace(sum, *sum + n))).take_while(|sum| *sum <= 32);
    assert_eq!(outcome.count, whole.last().unwrap(), "no more messages than asked for");
    // The hash is that of the record's tag.
    let is_first = |e: &ferromq_store::CqEntry| e.queue_offset == 7;
    let outcome = store.read(&queue, 0, 32, 1 << 20, &mut |e| is_first(e), &mut out);
    assert_eq!((outcome.status, outcome.count), (ReadStatus::Found, 4));
    assert_eq!(store.read(&queue, next as i64, 1, 1, &mut |_| true, &mut out).status, ReadStatus::OffsetOverflowOne);
}

#[test]
fn times_lead_to_the_beginning_of_a_record() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(batch_config(dir.path()));
    let (mut next, mut stored) = (0, Vec::new());
    for size in [3, 0, 5, 2] {
        let before = store.last_store_timestamp();
        while clock::now_millis() <= before {
            std::hint::spin_loop();
        }
        stored.push((next as i64, size));
        next = append(&store, next, &[size]);
    }
    let queue = store.find_queue(TOPIC, 0).unwrap();
    for (base, size) in stored {
        let time = store.store_time(&queue, base).unwrap();
        assert_eq!(store.store_time(&queue, base + size.max(1) as i64 - 1), Some(time), "any message of the record");
        assert_eq!(store.search_by_time(&queue, time, Boundary::Lower), base);
        assert_eq!(store.search_by_time(&queue, time, Boundary::Upper), base);
    }
    assert_eq!(store.search_by_time(&queue, clock::now_millis() + 1000, Boundary::Lower), next as i64);
    assert_eq!(store.search_by_time(&queue, 0, Boundary::Upper), 0);
}

#[test]
fn other_queues_take_no_inner_batch() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(batch_config(dir.path()));
    let mut batch = AppendBatch::default();
    let whole = inner_batch(&[b"a", b"b"]);
    let queue = store.topic_queue("Simple", 0, TopicKind::Simple);
    let refused = batch.push_inner_batch(&queue, &parts("Simple", 0, &whole, b""), 2);
    assert_eq!(refused, Err(Reject::InnerBatch));
    assert!(batch.is_empty());
}

#[test]
fn a_topic_made_again_may_have_queues_of_the_other_kind() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(batch_config(dir.path()));
    append(&store, 0, &[5, 5]);
    store.checkpoint_now();
    store.delete_topic(TOPIC).unwrap();
    assert!(!store.topic_queue(TOPIC, 0, TopicKind::Simple).is_batch());
    common::send(&store, TOPIC, 0, &[b"simple"]).unwrap();
    store.delete_topic(TOPIC).unwrap();
    let next = append(&store, 0, &[2, 3]);
    drop(store);
    check(&open(batch_config(dir.path())), 0, next);
}

#[test]
fn the_oldest_records_go_and_offsets_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(batch_config(dir.path()));
    let mut next = 0;
    while store.max_physical_offset() < 5 * 64 * 1024 {
        next = append(&store, next, &[40, 0, 13]);
    }
    for entry in std::fs::read_dir(dir.path().join("commitlog")).unwrap() {
        let file = std::fs::File::options().write(true).open(entry.unwrap().path()).unwrap();
        file.set_modified(UNIX_EPOCH + Duration::from_secs(1_600_000_000)).unwrap();
    }
    store.delete_expired_log_files();
    let began = Instant::now();
    let queue = store.find_queue(TOPIC, 0).unwrap();
    let is_done = || store.max_physical_offset() - store.min_physical_offset() <= 64 * 1024 && queue.min_offset() > 0;
    while !is_done() || queue_file(dir.path(), 0).exists() {
        assert!(began.elapsed() < Duration::from_secs(20), "old files go");
        std::thread::sleep(Duration::from_millis(2));
    }
    let first = queue.min_offset() as usize;
    check(&store, first, next);
    let outcome = store.read(&queue, 0, 32, 1 << 20, &mut |_| true, &mut Vec::new());
    assert_eq!((outcome.status, outcome.next_offset), (ReadStatus::OffsetTooSmall, first as i64));
    let killed = tempfile::tempdir().unwrap();
    copy_as_killed(dir.path(), killed.path());
    drop(store);
    healthy(&batch_config(dir.path()));
    for root in [dir.path(), killed.path()] {
        let store = open(batch_config(root));
        check(&store, first, next);
        let end = append(&store, next, &[4]);
        check(&store, first, end);
        store.checkpoint_now();
        drop(store);
        // Built again, the queue begins in its first file with an offset above 0.
        let config = batch_config(root);
        rebuild_store(&config, &check_store(&config, true, &mut |_| ()).unwrap()).unwrap();
        healthy(&config);
        let store = open(config);
        check(&store, first, end);
        append(&store, end, &[2]);
        drop(store);
        healthy(&batch_config(root));
    }
}

#[test]
fn damaged_entries_are_found_and_put_right() {
    let dir = tempfile::tempdir().unwrap();
    let config = batch_config(dir.path());
    let mut next = 0;
    {
        let store = open(config.clone());
        for n in 0..100 {
            next = append(&store, next, &[n % 5]);
        }
        check(&store, 0, next);
    }
    {
        // Started again, it has them in its files alone.
        let store = open(config.clone());
        // Position, size, first offset and number of messages of entries in the middle of files.
        for (entry, field) in [(5, 4), (27, 10), (50, 33), (71, 37)] {
            let file =
                std::fs::File::options().read(true).write(true).open(queue_file(dir.path(), entry / 20)).unwrap();
            let (mut byte, at) = ([0], (entry % 20 * 46 + field) as u64);
            file.read_exact_at(&mut byte, at).unwrap();
            file.write_all_at(&[byte[0] ^ 0x15], at).unwrap();
        }
        check(&store, 0, next);
        check(&store, 0, next);
    }
    healthy(&config);
    let file = std::fs::File::options().write(true).open(queue_file(dir.path(), 2)).unwrap();
    file.write_all_at(&[0; 46], 46 * 3).unwrap();
    let report = check_store(&config, true, &mut |_| ()).unwrap();
    assert_eq!(report.findings.worst(), Some(Severity::Damage));
    rebuild_store(&config, &report).unwrap();
    healthy(&config);
    check(&open(config), 0, next);
}

#[test]
fn the_files_tell_the_kind_when_nobody_else_does() {
    let dir = tempfile::tempdir().unwrap();
    let end = append(&open(batch_config(dir.path())), 0, &[3, 0, 4]);
    let config = StoreConfig { batch_topics: Default::default(), ..batch_config(dir.path()) };
    check(&open(config), 0, end);
}

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<usize>),
    Checkpoint,
    Kill,
    Stop,
    LoseQueue,
    Rebuild,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => proptest::collection::vec(0..30_usize, 1..60).prop_map(Step::Append),
        2 => Just(Step::Checkpoint),
        2 => Just(Step::Kill),
        1 => Just(Step::Stop),
        1 => Just(Step::LoseQueue),
        1 => Just(Step::Rebuild),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn every_message_keeps_its_offset(steps in proptest::collection::vec(step(), 1..20), sync in any::<bool>()) {
        let mut dir = tempfile::tempdir().unwrap();
        let config = |root: &Path| StoreConfig {
            flush_disk_type: if sync { sync_config(root).flush_disk_type } else { batch_config(root).flush_disk_type },
            ..batch_config(root)
        };
        let mut store = open(config(dir.path()));
        let mut next = append(&store, 0, &[1]);
        for step in steps {
            match step {
                Step::Append(sizes) => next = append(&store, next, &sizes),
                Step::Checkpoint => store.checkpoint_now(),
                Step::Stop | Step::Rebuild => {
                    drop(store);
                    healthy(&config(dir.path()));
                    if matches!(step, Step::Rebuild) {
                        let config = config(dir.path());
                        rebuild_store(&config, &check_store(&config, true, &mut |_| ()).unwrap()).unwrap();
                        healthy(&config);
                    }
                    store = open(config(dir.path()));
                }
                Step::Kill | Step::LoseQueue => {
                    let killed = tempfile::tempdir().unwrap();
                    copy_as_killed(dir.path(), killed.path());
                    drop(store);
                    dir = killed;
                    if matches!(step, Step::LoseQueue) {
                        let _ = std::fs::remove_dir_all(dir.path().join("batchconsumequeue"));
                    }
                    store = open(config(dir.path()));
                }
            }
            check(&store, 0, next);
        }
    }
}
