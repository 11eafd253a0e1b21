//! A topic that is deleted and made again.
#![allow(clippy::unwrap_used, reason = "a test says by panicking what is wrong")]

mod common;

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{
    as_slices, config, copy_as_killed, dispatch, expect, inner_batch, numbered, open, parts, read_all, send,
    sync_config,
};
use ferromq_store::{AppendBatch, Fault, Faults, Operation, Queue, Store, StoreConfig, TopicKind};

/// Longest wait for a thread of the store.
const PATIENCE: Duration = Duration::from_secs(30);

fn append(store: &Store, queue: &Arc<Queue>, body: &[u8]) -> bool {
    let mut batch = AppendBatch::default();
    batch.push(queue, &parts(queue.topic(), queue.id(), body, b"KEYS\x01k\x02")).unwrap();
    store.append(&mut batch).unwrap();
    assert_eq!(batch.results().len(), 1);
    batch.results()[0].is_stored()
}

fn wait_for_dispatch(store: &Store) {
    let began = Instant::now();
    while store.flushed_position() < store.max_physical_offset() || store.dispatch_behind_bytes() > 0 {
        assert!(began.elapsed() < PATIENCE, "dispatch stands still");
        store.dispatch();
        std::thread::yield_now();
    }
}

#[test]
fn the_lives_of_a_topic_do_not_mix_whatever_was_in_flight() {
    for sync in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let killed = tempfile::tempdir().unwrap();
        let store = open(if sync { sync_config(dir.path()) } else { config(dir.path()) });
        send(&store, "T", 0, &as_slices(&numbered(50))).unwrap();
        // A handle from before, as a send has it that is being checked when the topic goes.
        let before = store.queue("T", 0);
        assert!(append(&store, &before, b"old, in flight"));
        store.delete_topic("T").unwrap();
        assert!(!append(&store, &before, b"too late"), "it has nowhere to go");
        let queue = store.queue("T", 0);
        for n in 0..60 {
            assert!(append(&store, &queue, format!("new {n}").as_bytes()));
            assert!(!append(&store, &before, b"much too late"));
        }
        wait_for_dispatch(&store);
        let new: Vec<Vec<u8>> = (0..60).map(|n| format!("new {n}").into_bytes()).collect();
        assert_eq!(read_all(&store, "T", 0), expect(&new));
        copy_as_killed(dir.path(), killed.path());
        assert_eq!(read_all(&open(config(killed.path())), "T", 0), expect(&new));
        fs::remove_dir_all(killed.path().join("consumequeue")).unwrap();
        fs::write(killed.path().join("abort"), "1").unwrap();
        assert_eq!(read_all(&open(config(killed.path())), "T", 0), expect(&new));
    }
}

#[test]
fn what_was_in_flight_costs_its_neighbours_in_the_batch_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(config(dir.path()));
    let queues = ["A", "Gone", "B", "Gone", "Away"].map(|topic| store.queue(topic, 0));
    let mut batch = AppendBatch::default();
    for (n, queue) in queues.iter().enumerate() {
        for m in 0..3 {
            let key = format!("KEYS\x01key-{n}-{m}\x02");
            let body = format!("{n}-{m}");
            batch.push(queue, &parts(queue.topic(), 0, body.as_bytes(), key.as_bytes())).unwrap();
        }
    }
    store.delete_topic("Gone").unwrap();
    store.delete_topic("Away").unwrap();
    store.append(&mut batch).unwrap();
    let stored: Vec<(bool, i64)> = batch.results().iter().map(|at| (at.is_stored(), at.queue_offset)).collect();
    let (kept, gone) = ([(true, 0), (true, 1), (true, 2)], [(false, -1); 3]);
    assert_eq!(stored, [kept, gone, kept, gone, gone].concat());
    assert_eq!(batch.end_position(), store.max_physical_offset());
    dispatch(&store);
    let bodies = |n: usize| expect(&(0..3).map(|m| format!("{n}-{m}").into_bytes()).collect::<Vec<_>>());
    assert_eq!((read_all(&store, "A", 0), read_all(&store, "B", 0)), (bodies(0), bodies(2)));
    assert!(store.queues("Gone").is_empty() && store.queues("Away").is_empty());
    for (n, topic, at) in [(0, "A", 2), (2, "B", 7)] {
        let hits = store.query_index(topic, &format!("key-{n}-{}", at % 5 % 3), 10, 0, i64::MAX);
        assert_eq!(hits.physical_offsets.len(), 1, "{topic}");
    }
    // Nobody but those is left to send.
    batch.clear();
    batch.push(&queues[1], &parts("Gone", 0, b"late", b"")).unwrap();
    let end = store.max_physical_offset();
    store.append(&mut batch).unwrap();
    assert!(!batch.results()[0].is_stored());
    assert_eq!((batch.end_position(), store.max_physical_offset()), (end, end));
}

#[test]
fn what_was_in_flight_does_not_decide_of_which_kind_the_next_topic_is() {
    let inner = inner_batch(&[b"a", b"b", b"c"]);
    for [first, next] in [
        [TopicKind::Batch, TopicKind::Simple],
        [TopicKind::Batch, TopicKind::Batch],
        [TopicKind::Simple, TopicKind::Batch],
    ] {
        let dir = tempfile::tempdir().unwrap();
        let store = open(config(dir.path()));
        let before = store.topic_queue("T", 0, first);
        let mut batch = AppendBatch::default();
        match first {
            TopicKind::Batch => batch.push_inner_batch(&before, &parts("T", 0, &inner, b""), 3).unwrap(),
            _ => batch.push(&before, &parts("T", 0, b"x", b"")).unwrap(),
        };
        store.delete_topic("T").unwrap();
        store.append(&mut batch).unwrap();
        dispatch(&store);
        let queue = store.topic_queue("T", 0, next);
        assert_eq!((queue.is_batch(), queue.next_offset()), (next == TopicKind::Batch, 0), "{first:?} {next:?}");
        batch.clear();
        if next == TopicKind::Batch {
            batch.push_inner_batch(&queue, &parts("T", 0, &inner, b""), 3).unwrap();
            store.append(&mut batch).unwrap();
            dispatch(&store);
            assert_eq!(read_all(&store, "T", 0).len(), 3);
        }
    }
}

/// A delayed message is delivered to a topic that is deleted, and is there when the topic is again. If that has batch queues
/// it goes: no queue holds entries of two kinds.
#[test]
fn a_topic_with_batch_queues_does_not_take_over_a_simple_one() {
    let dir = tempfile::tempdir().unwrap();
    let batch_config = || StoreConfig { batch_topics: ["T".to_owned()].into(), ..config(dir.path()) };
    let store = open(config(dir.path()));
    send(&store, "T", 0, &[b"while there was no topic"]).unwrap();
    send(&store, "T", 3, &[b"while there was no topic"]).unwrap();
    let inner = inner_batch(&[b"a", b"b", b"c"]);
    assert!(!store.topic_queue("T", 0, TopicKind::Batch).is_batch(), "only the making of a topic ends queues");
    assert_eq!(read_all(&store, "T", 3).len(), 1);
    store.begin_batch_topic("T").unwrap();
    let queue = store.topic_queue("T", 0, TopicKind::Batch);
    assert!(queue.is_batch());
    let mut batch = AppendBatch::default();
    batch.push_inner_batch(&queue, &parts("T", 0, &inner, b""), 3).unwrap();
    store.append(&mut batch).unwrap();
    dispatch(&store);
    let expected = expect(&[b"a".to_vec(), b"b".to_vec(), b"c".to_vec()]);
    store.begin_batch_topic("T").unwrap();
    assert_eq!(read_all(&store, "T", 0), expected);
    assert!(store.find_queue("T", 3).is_none());
    store.begin_batch_topic("U").unwrap();
    assert!(store.queue("U", 0).is_batch(), "what is delivered between the two is no simple queue");
    drop(store);
    let store = open(batch_config());
    assert_eq!(read_all(&store, "T", 0), expected);
    assert!(store.find_queue("T", 3).is_none());
}

/// More messages wait for dispatch than the list holds, so that dispatch has to read the log, where those of the topic that
/// was deleted meanwhile stand.
#[test]
fn a_topic_deleted_while_dispatch_is_far_behind_does_not_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let faults = Arc::new(Faults::default());
    let settings = StoreConfig {
        mapped_file_size_commit_log: 16 << 20,
        mapped_file_size_consume_queue: 20 * 300_000,
        multi_dispatch: true,
        faults: Some(Arc::clone(&faults)),
        ..sync_config(dir.path())
    };
    let opened = open(settings.clone());
    let store = &opened;
    send(store, "Gone", 0, &[b"seen"]).unwrap();
    send(store, "Kept", 0, &[b"seen"]).unwrap();
    faults.inject_in("commitlog", Operation::Sync, 0, Fault::Stall);
    let light = b"INNER_MULTI_DISPATCH\x01%LMQ%gone,%LMQ%kept\x02";
    let (gone, kept) = (store.queue("Gone", 0), store.queue("Kept", 0));
    let mut batch = AppendBatch::default();
    for _ in 0..140 {
        batch.clear();
        for n in 0..1000 {
            let queue = if n % 2 == 0 { &gone } else { &kept };
            let properties: &[u8] = if n == 999 { light } else { b"" };
            batch.push(queue, &parts(queue.topic(), 0, b"x", properties)).unwrap();
        }
        store.append(&mut batch).unwrap();
    }
    std::thread::scope(|scope| {
        for topic in ["Gone", "%LMQ%gone"] {
            scope.spawn(move || store.delete_topic(topic).unwrap());
        }
        let began = Instant::now();
        while ["Gone", "%LMQ%gone"].iter().any(|topic| store.find_queue(topic, 0).is_some()) {
            assert!(began.elapsed() < PATIENCE, "the topics are not deleted");
            std::thread::yield_now();
        }
        // The next life begins while nothing of the one before is dispatched.
        let next = store.queue("Gone", 0);
        assert!(append(store, &next, b"next life"));
        faults.heal(Operation::Sync);
    });
    wait_for_dispatch(store);
    let check = |store: &Store| {
        assert_eq!(read_all(store, "Gone", 0), expect(&[b"next life".to_vec()]));
        assert_eq!(store.find_queue("Kept", 0).unwrap().max_offset(), 70_001);
        assert_eq!(read_all(store, "Kept", 0).len(), 70_001);
        assert_eq!(store.find_queue("%LMQ%kept", 0).unwrap().max_offset(), 140);
    };
    check(store);
    assert!(store.find_queue("%LMQ%gone", 0).is_none_or(|queue| queue.max_offset() == 0));
    let killed = tempfile::tempdir().unwrap();
    copy_as_killed(dir.path(), killed.path());
    drop(opened);
    for root in [killed.path(), dir.path()] {
        check(&open(StoreConfig { root: root.to_owned(), faults: None, ..settings.clone() }));
    }
}
