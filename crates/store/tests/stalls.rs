//! A disk that hangs: what waits for it and what does not.
#![allow(clippy::unwrap_used, reason = "a test says by panicking what is wrong")]

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use common::{config, open, parts, read_all, send, sync_config};
use ferromq_store::{AppendBatch, Durability, Fault, Faults, Operation, Store, StoreConfig};

fn append(store: &Store, body: &[u8]) -> u64 {
    let mut batch = AppendBatch::default();
    batch.push(&store.queue("T", 0), &parts("T", 0, body, b"KEYS\x01k\x02")).unwrap();
    store.append(&mut batch).unwrap();
    batch.end_position()
}

fn wait(store: &Store, position: u64) -> mpsc::Receiver<Durability> {
    let (tell, told) = mpsc::sync_channel(1);
    store.when_durable(position, Box::new(move |durability| tell.send(durability).unwrap()));
    told
}

/// Waits until the log is on the disk up to `position`, and who asks is told so.
fn wait_flushed(store: &Store, position: u64) {
    let began = Instant::now();
    while store.flushed_position() < position {
        assert!(began.elapsed() < Duration::from_secs(30), "the log is not forced to the disk");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(wait(store, position).recv(), Ok(Durability::Durable));
}

#[test]
fn senders_are_told_in_time_that_a_sync_hangs() {
    // The folder in which every sync hangs: the log's, or all but the log's.
    for hanging in ["commitlog", "consumequeue", "index", "checkpoint"] {
        let dir = tempfile::tempdir().unwrap();
        let faults = Arc::new(Faults::default());
        // Others than the log's hold up nobody, however slow the disk is.
        let is_waited_for = hanging == "commitlog";
        let settings = StoreConfig {
            sync_flush_timeout: if is_waited_for { 300 } else { 60_000 },
            flush_interval_consume_queue: 10,
            durable_checkpoint_interval: 10,
            faults: Some(Arc::clone(&faults)),
            ..sync_config(dir.path())
        };
        let store = open(settings);
        wait_flushed(&store, append(&store, b"before"));
        faults.inject_in(hanging, Operation::Sync, 0, Fault::Stall);
        for n in 0..5 {
            let began = Instant::now();
            let position = append(&store, b"after");
            let told = wait(&store, position).recv_timeout(Duration::from_secs(30)).unwrap();
            if is_waited_for {
                assert_eq!(told, Durability::TimedOut);
                assert!(began.elapsed() >= Duration::from_millis(280), "{n}: {:?}", began.elapsed());
                assert_eq!(store.queue("T", 0).max_offset(), 1, "not on the disk, not seen");
            } else {
                assert_eq!(told, Durability::Durable, "{hanging} is not waited for");
            }
        }
        faults.heal(Operation::Sync);
        wait_flushed(&store, append(&store, b"healed"));
        assert_eq!(read_all(&store, "T", 0).len(), 7);
    }
}

#[test]
fn the_next_log_file_is_made_while_other_syncs_hang() {
    let dir = tempfile::tempdir().unwrap();
    let faults = Arc::new(Faults::default());
    let quick = StoreConfig { durable_checkpoint_interval: 10, flush_interval_consume_queue: 10, ..config(dir.path()) };
    let store = open(StoreConfig { faults: Some(Arc::clone(&faults)), ..quick });
    send(&store, "T", 0, &[b"first"]).unwrap();
    faults.inject_in("checkpoint", Operation::Sync, 0, Fault::Stall);
    // Made before it is needed.
    while store.max_physical_offset() < 3 * 64 * 1024 - 8 * 1024 {
        append(&store, &[b'x'; 1000]);
    }
    let began = Instant::now();
    while !dir.path().join("commitlog").join(format!("{:020}", 3 * 64 * 1024)).exists() {
        assert!(began.elapsed() < Duration::from_secs(30), "nobody makes the next file");
        std::thread::sleep(Duration::from_millis(1));
    }
    faults.heal(Operation::Sync);
}

/// Acknowledged messages that are not on the disk are what a power cut takes.
#[test]
fn async_flush_goes_on_while_other_syncs_hang() {
    let dir = tempfile::tempdir().unwrap();
    let faults = Arc::new(Faults::default());
    let quick = StoreConfig { durable_checkpoint_interval: 10, flush_interval_consume_queue: 10, ..config(dir.path()) };
    let store = open(StoreConfig { faults: Some(Arc::clone(&faults)), ..quick });
    for other in ["consumequeue", "index", "checkpoint"] {
        send(&store, "T", 0, &[b"before"]).unwrap();
        faults.inject_in(other, Operation::Sync, 0, Fault::Stall);
        for _ in 0..4 {
            for _ in 0..99 {
                append(&store, &[b'x'; 500]);
                std::thread::sleep(Duration::from_millis(1));
            }
            wait_flushed(&store, append(&store, b"last"));
        }
        faults.heal(Operation::Sync);
    }
}

#[test]
fn who_appends_faster_than_another_dispatches_is_held_back_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (entered, is_in) = mpsc::sync_channel(1);
    let (let_go, may_go) = mpsc::sync_channel::<()>(0);
    let may_go = parking_lot::Mutex::new(may_go);
    let first = AtomicBool::new(true);
    let listener = move |_: &ferromq_store::Arrival<'_>| {
        if first.swap(false, Ordering::SeqCst) {
            entered.send(()).unwrap();
            may_go.lock().recv().unwrap();
        }
    };
    let settings = StoreConfig { mapped_file_size_commit_log: 16 << 20, ..config(dir.path()) };
    let store = Store::open(settings, Arc::new(listener)).unwrap();
    let queue = store.queue("T", 0);
    queue.watchers.fetch_add(1, Ordering::SeqCst);
    std::thread::scope(|scope| {
        scope.spawn(|| send(&store, "T", 0, &[b"first"]).unwrap());
        is_in.recv().unwrap();
        for _ in 0..20 {
            let mut batch = AppendBatch::default();
            for _ in 0..1000 {
                batch.push(&queue, &parts("T", 0, b"more", b"")).unwrap();
            }
            store.append(&mut batch).unwrap();
        }
        let began = Instant::now();
        store.dispatch();
        assert!(began.elapsed() >= Duration::from_millis(5), "not held back: {:?}", began.elapsed());
        assert_eq!(queue.max_offset(), 1, "another one has the work in hand");
        let_go.send(()).unwrap();
    });
    // What is too much for one call is left to a thread of the store, unless a caller comes first.
    let deadline = Instant::now() + Duration::from_secs(20);
    while queue.max_offset() < 20_001 && Instant::now() < deadline {
        store.dispatch();
    }
    assert_eq!(read_all(&store, "T", 0).len(), 20_001);
}
