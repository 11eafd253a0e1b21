//! What a store promises, seen from its users.

#![allow(clippy::unwrap_used, reason = "a test says by panicking what is wrong")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{as_slices, config, expect, numbered, open, parts, read_all, send};
use ferromq_store::{AppendBatch, AppendError, Boundary, OpenError, ReadStatus, Reject, Store, StoreConfig};

#[test]
fn messages_read_back_across_file_borders_and_a_clean_restart() {
    let dir = tempfile::tempdir().unwrap();
    let bodies = numbered(1000);
    {
        let store = open(config(dir.path()));
        for bodies in bodies.chunks(7) {
            send(&store, "T", 1, &as_slices(bodies)).unwrap();
        }
        assert_eq!(read_all(&store, "T", 1), expect(&bodies));
        assert!(store.max_physical_offset() > 4 * 64 * 1024);
        store.shutdown();
        assert!(matches!(send(&store, "T", 1, &[b"late"]), Err(AppendError::ShuttingDown)));
    }
    assert!(!dir.path().join("abort").exists());
    let store = open(config(dir.path()));
    assert_eq!(read_all(&store, "T", 1), expect(&bodies));
    send(&store, "T", 1, &[b"next"]).unwrap();
    assert_eq!(read_all(&store, "T", 1).last().unwrap(), &(1000, b"next".to_vec()));
}

#[test]
fn a_second_store_on_the_folder_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let _store = open(config(dir.path()));
    let Err(error @ OpenError::InUse { .. }) = Store::open(config(dir.path()), Arc::new(|_| ())) else { panic!() };
    let text = error.to_string();
    assert!(text.contains(&std::process::id().to_string()) && text.contains(dir.path().to_str().unwrap()), "{text}");
}

#[test]
fn files_of_another_size_are_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    send(&open(config(dir.path())), "T", 0, &[b"x"]).unwrap();
    let other = StoreConfig { mapped_file_size_commit_log: 8192, ..config(dir.path()) };
    let error = Store::open(other, Arc::new(|_| ())).err().unwrap().to_string();
    assert!(error.contains("mappedFileSizeCommitLog") && error.contains("65536"), "{error}");
}

#[test]
fn reads_tell_what_they_met() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(config(dir.path()));
    let queue = store.queue("T", 0);
    let read = |offset, max, bytes, out: &mut Vec<u8>| store.read(&queue, offset, max, bytes, &mut |_| true, out);
    let mut out = Vec::new();
    assert_eq!(read(0, 32, 1000, &mut out).status, ReadStatus::NoMessageInQueue);
    send(&store, "T", 0, &as_slices(&numbered(100))).unwrap();
    assert_eq!(read(100, 32, 1000, &mut out).status, ReadStatus::OffsetOverflowOne);
    let badly = read(i64::MAX, 32, 1000, &mut out);
    assert_eq!((badly.status, badly.next_offset), (ReadStatus::OffsetOverflowBadly, 100));
    let small = read(-1, 32, 1000, &mut out);
    assert_eq!((small.status, small.next_offset), (ReadStatus::OffsetTooSmall, 0));
    assert!(out.is_empty());

    let limited = read(0, 5, 1 << 20, &mut out);
    assert_eq!((limited.status, limited.count, limited.next_offset), (ReadStatus::Found, 5, 5));
    assert_eq!((limited.min_offset, limited.max_offset, limited.cold), (0, 100, false));
    assert_eq!(read(0, u32::MAX, u32::MAX, &mut Vec::new()).count, 32, "the setting limits what is asked");
    assert_eq!(read(50, 32, 1, &mut Vec::new()).count, 1, "one message always");

    let none = store.read(&queue, 0, 4, 1000, &mut |_| false, &mut Vec::new());
    assert_eq!((none.status, none.count, none.next_offset), (ReadStatus::NoMatchedMessage, 0, 100));
    let mut n = 0;
    let mut third = |_: &_| {
        n += 1;
        n % 3 == 0
    };
    let mut out = Vec::new();
    let some = store.read(&queue, 0, 4, 1 << 20, &mut third, &mut out);
    assert_eq!(common::records(&out).iter().map(|r| r.0).collect::<Vec<_>>(), [2, 5, 8, 11]);
    assert_eq!((some.count, some.next_offset), (4, 12));
}

#[test]
fn records_are_found_by_place_time_and_key() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(config(dir.path()));
    let queue = store.queue("T", 2);
    let mut batch = AppendBatch::default();
    let mut places = Vec::new();
    for n in 0..50 {
        let properties = format!("UNIQ_KEY\u{1}u{n}\u{2}KEYS\u{1}k{} all\u{2}", n % 5);
        batch.push(&queue, &parts("T", 2, format!("m{n}").as_bytes(), properties.as_bytes())).unwrap();
        store.append(&mut batch).unwrap();
        places.extend_from_slice(batch.results());
        batch.clear();
        std::thread::sleep(std::time::Duration::from_millis(u64::from(n % 10 == 0) * 2));
    }
    common::dispatch(&store);

    let mut out = Vec::new();
    assert_eq!(store.record_at(places[7].physical_offset, &mut out), Some(places[7].size as usize));
    assert_eq!(common::records(&out), [(7, b"m7".to_vec())]);
    assert_eq!(store.record_at(places[7].physical_offset + 1, &mut out), None);
    assert_eq!(store.record_at(store.max_physical_offset(), &mut out), None);
    assert_eq!(store.record_at(u64::MAX, &mut out), None);

    let times: Vec<i64> = places.iter().map(|p| p.store_timestamp).collect();
    for time in times[0] - 1..=times[49] + 1 {
        let lower = times.iter().position(|t| *t >= time).map_or(50, |n| n as i64);
        let upper = times.iter().rposition(|t| *t <= time).map_or(0, |n| n as i64);
        assert_eq!(store.search_by_time(&queue, time, Boundary::Lower), lower);
        assert_eq!(store.search_by_time(&queue, time, Boundary::Upper), upper);
    }
    assert_eq!(store.earliest_store_time(&queue), Some(times[0]));
    assert!(store.is_in_memory(&queue, 0) && !store.is_in_memory(&queue, 50));

    let query = |key: &str, max| store.query_index("T", key, max, 0, i64::MAX).physical_offsets;
    assert_eq!(query("u7", 10), [places[7].physical_offset]);
    let expected: Vec<u64> = (0..50).rev().filter(|n| n % 5 == 3).map(|n| places[n].physical_offset).collect();
    assert_eq!(query("k3", 64), expected);
    assert_eq!(query("all", 7).len(), 7);
    assert!(query("none", 7).is_empty() && store.query_index("U", "u7", 7, 0, i64::MAX).physical_offsets.is_empty());
    assert!(store.query_index("T", "u7", 7, 0, times[0] - 5000).physical_offsets.is_empty());
    let hits = store.query_index("T", "u7", 7, 0, i64::MAX);
    assert_eq!(hits.last_update_physical_offset, places[49].physical_offset as i64);
    assert_eq!(hits.last_update_timestamp, times[49]);
}

#[test]
fn the_index_goes_on_in_further_files() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(StoreConfig { max_index_num: 100, max_hash_slot_num: 10, ..config(dir.path()) });
    let bodies = numbered(500);
    send(&store, "T", 0, &as_slices(&bodies)).unwrap();
    assert!(std::fs::read_dir(dir.path().join("index")).unwrap().count() > 4);
    for body in &bodies {
        let key = String::from_utf8_lossy(body);
        assert_eq!(store.query_index("T", &key, 10, 0, i64::MAX).physical_offsets.len(), 1);
    }
}

#[test]
fn what_cannot_be_stored_is_rejected_and_the_rest_of_the_batch_stays() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(StoreConfig { max_message_size: 1000, ..config(dir.path()) });
    let queue = store.queue("T", 0);
    let mut batch = AppendBatch::default();
    batch.push(&queue, &parts("T", 0, b"one", b"KEYS\x01a b\x02")).unwrap();
    assert!(matches!(batch.push(&queue, &parts("T", 0, &[0; 1001], b"")), Err(Reject::Body { len: 1001, max: 1000 })));
    assert!(matches!(batch.push(&queue, &parts("U", 0, b"", b"")), Err(Reject::OtherQueue)));
    assert!(matches!(batch.push(&queue, &parts("T", 0, b"", &[b'p'; 40_000])), Err(Reject::Record(_))));
    for name in ["", ".", "..", "../../x", "a/b", "a\0"] {
        assert!(matches!(batch.push(&store.queue(name, 0), &parts(name, 0, b"", b"")), Err(Reject::TopicName)));
    }
    assert_eq!(batch.push(&queue, &parts("T", 0, b"two", b"KEYS\x01c\x02")), Ok(1));
    batch.push(&queue, &parts("T", 0, b"three", b"KEYS\x01d e\x02")).unwrap();
    batch.truncate(2);
    store.append(&mut batch).unwrap();
    common::dispatch(&store);
    assert_eq!(read_all(&store, "T", 0), [(0, b"one".to_vec()), (1, b"two".to_vec())]);
    assert_eq!(store.query_index("T", "c", 9, 0, i64::MAX).physical_offsets.len(), 1);
    assert!(store.query_index("T", "e", 9, 0, i64::MAX).physical_offsets.is_empty());
}

#[test]
fn half_messages_have_no_place_in_a_queue() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(config(dir.path()));
    let queue = store.queue("T", 0);
    let mut batch = AppendBatch::default();
    for (sys_flag, body) in [(4, b"prepared"), (8, b"commited"), (12, b"rollback"), (0, b"ordinary")] {
        let message = ferromq_store::MessageParts { sys_flag, ..parts("T", 0, body, b"KEYS\x01k\x02") };
        batch.push(&queue, &message).unwrap();
    }
    store.append(&mut batch).unwrap();
    assert_eq!(batch.results().iter().map(|r| r.queue_offset).collect::<Vec<_>>(), [0, 0, 0, 1]);
    common::dispatch(&store);
    assert_eq!(read_all(&store, "T", 0), [(0, b"commited".to_vec()), (1, b"ordinary".to_vec())]);
    assert_eq!(store.query_index("T", "k", 9, 0, i64::MAX).physical_offsets.len(), 3, "all but the rollback");
}

#[test]
fn appenders_at_once_get_dense_offsets_and_nobody_misses_a_message() {
    const THREADS: usize = 4;
    const ROUNDS: usize = 300;
    let dir = tempfile::tempdir().unwrap();
    let arrivals = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&arrivals);
    let listener = move |_: &ferromq_store::Arrival<'_>| {
        seen.fetch_add(1, Ordering::SeqCst);
    };
    let settings = StoreConfig { mapped_file_size_commit_log: 256 * 1024, ..config(dir.path()) };
    let store = Store::open(settings, Arc::new(listener)).unwrap();
    let queues: Vec<_> = (0..3).map(|id| store.queue("T", id)).collect();
    queues.iter().for_each(|queue| queue.watchers.store(1, Ordering::SeqCst));
    std::thread::scope(|scope| {
        for t in 0..THREADS {
            let (store, queues) = (&store, &queues);
            scope.spawn(move || {
                let mut batch = AppendBatch::default();
                for n in 0..ROUNDS {
                    for queue in queues {
                        let body = format!("{t}-{n}");
                        batch.push(queue, &parts("T", queue.id(), body.as_bytes(), b"")).unwrap();
                    }
                    store.append(&mut batch).unwrap();
                    store.dispatch();
                    batch.clear();
                }
            });
        }
    });
    common::dispatch(&store);
    assert_eq!(arrivals.load(Ordering::SeqCst), THREADS * ROUNDS * 3);
    for queue in &queues {
        let all = read_all(&store, "T", queue.id());
        assert_eq!(all.len(), THREADS * ROUNDS);
        assert!(all.iter().enumerate().all(|(n, (offset, _))| n as i64 == *offset));
        let next_of = |t: usize| all.iter().filter(move |(_, b)| b.starts_with(format!("{t}-").as_bytes()));
        for t in 0..THREADS {
            assert!(next_of(t).enumerate().all(|(n, (_, b))| *b == format!("{t}-{n}").into_bytes()));
        }
    }
}

#[test]
fn a_long_undispatched_run_is_caught_up_from_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(StoreConfig { mapped_file_size_commit_log: 4 << 20, ..config(dir.path()) });
    let queue = store.queue("T", 0);
    let mut batch = AppendBatch::default();
    for n in 0..70_000_u32 {
        batch.push(&queue, &parts("T", 0, &n.to_be_bytes(), b"")).unwrap();
        if n % 1000 == 999 {
            store.append(&mut batch).unwrap();
            batch.clear();
        }
    }
    assert_eq!(queue.next_offset(), 70_000);
    common::dispatch(&store);
    assert_eq!(queue.max_offset(), 70_000);
    send(&store, "T", 0, &[b"after"]).unwrap();
    let mut out = Vec::new();
    store.read(&queue, 69_999, 2, 1 << 20, &mut |_| true, &mut out);
    let last = common::records(&out);
    assert_eq!(last, [(69_999, 69_999_u32.to_be_bytes().to_vec()), (70_000, b"after".to_vec())]);
}

#[test]
fn a_deleted_topic_is_gone_and_can_be_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(config(dir.path()));
    send(&store, "T", 0, &as_slices(&numbered(400))).unwrap();
    send(&store, "U", 0, &[b"stays"]).unwrap();
    store.delete_topic("T").unwrap();
    assert!(store.find_queue("T", 0).is_none() && !dir.path().join("consumequeue/T").exists());
    send(&store, "T", 0, &[b"new"]).unwrap();
    assert_eq!(read_all(&store, "T", 0), [(0, b"new".to_vec())]);
    drop(store);
    let store = open(config(dir.path()));
    assert_eq!(read_all(&store, "T", 0), [(0, b"new".to_vec())]);
    assert_eq!(read_all(&store, "U", 0), [(0, b"stays".to_vec())]);
}

#[test]
fn a_message_appended_during_a_checkpoint_is_seen_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(config(dir.path()));
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                store.checkpoint_now();
            }
        });
        let (queue, mut batch) = (store.queue("T", 0), AppendBatch::default());
        for n in 1..=2000 {
            batch.push(&queue, &parts("T", 0, b"x", b"")).unwrap();
            store.append(&mut batch).unwrap();
            store.dispatch();
            batch.clear();
            let began = std::time::Instant::now();
            while queue.max_offset() < n {
                // The checkpoint that held the lock dispatches when it lets go.
                assert!(began.elapsed() < std::time::Duration::from_secs(20), "message {n} is stuck");
                std::thread::yield_now();
            }
        }
        done.store(true, Ordering::Relaxed);
    });
}
