//! What the disk can do, and what is acknowledged and shown all the same: nothing that is not safe.
#![allow(clippy::unwrap_used, reason = "a test says by panicking what is wrong")]

mod common;

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use common::{as_slices, config, numbered, open, parts, read_all, send, sync_config};
use ferromq_store::{AppendBatch, AppendError, Durability, Event, Fault, Faults, Operation, Store, StoreConfig};

#[test]
fn under_sync_flush_nobody_sees_what_is_not_on_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(open(sync_config(dir.path())));
    let told = Arc::new(Mutex::new(Vec::new()));
    let queue = store.queue("T", 0);
    let mut batch = AppendBatch::default();
    for n in 0..200_u32 {
        batch.push(&queue, &parts("T", 0, &n.to_be_bytes(), b"")).unwrap();
        store.append(&mut batch).unwrap();
        assert!(queue.max_offset() <= i64::from(n) + 1);
        let (told, store_, queue_) = (Arc::clone(&told), Arc::clone(&store), Arc::clone(&queue));
        let position = batch.end_position();
        let waiter = move |durability| {
            assert_eq!(durability, Durability::Durable);
            assert!(store_.flushed_position() >= position);
            assert!(queue_.max_offset() > i64::from(n), "visible before it is acknowledged");
            told.lock().unwrap().push(n);
        };
        store.when_durable(position, Box::new(waiter));
        batch.clear();
    }
    while told.lock().unwrap().len() < 200 {
        std::thread::yield_now();
    }
    // In order, save for those that were durable when they came and were told on this thread.
    assert_eq!(read_all(&store, "T", 0).len(), 200);
}

#[test]
fn after_a_failed_sync_nothing_is_acknowledged_but_reads_go_on() {
    for (sync, at) in [(true, 0), (true, 3), (false, 0)] {
        let dir = tempfile::tempdir().unwrap();
        let faults = Arc::new(Faults::default());
        let settings = if sync { sync_config(dir.path()) } else { config(dir.path()) };
        let store = open(StoreConfig { faults: Some(Arc::clone(&faults)), flush_interval_commit_log: 5, ..settings });
        send(&store, "T", 0, &[b"before"]).unwrap();
        while store.flushed_position() < store.max_physical_offset() {
            std::thread::yield_now();
        }
        faults.inject_in("commitlog", Operation::Sync, at, Fault::Io);
        let queue = store.queue("T", 0);
        let (mut acknowledged, mut refused) = (0_u64, 0);
        // Until the flush thread has met it.
        for _ in 0..30_000 {
            let mut batch = AppendBatch::default();
            batch.push(&queue, &parts("T", 0, b"after", b"")).unwrap();
            match store.append(&mut batch) {
                Err(AppendError::ReadOnly { reason }) => {
                    assert!(reason.contains("forcing the commit log to the disk failed"), "{reason}");
                    refused += 1;
                    break;
                }
                Err(other) => panic!("{other}"),
                Ok(()) if sync => {
                    let (tell, told) = std::sync::mpsc::sync_channel(1);
                    store.when_durable(batch.end_position(), Box::new(move |d| tell.send(d).unwrap()));
                    acknowledged += u64::from(told.recv().unwrap() == Durability::Durable);
                }
                Ok(()) => std::thread::sleep(std::time::Duration::from_millis(1)),
            }
        }
        assert_eq!(refused, 1);
        assert!(!sync || acknowledged == at, "{acknowledged} {at}");
        assert!(store.write_error().is_some());
        let told = Arc::new(Mutex::new(None));
        let tell = Arc::clone(&told);
        store.when_durable(store.max_physical_offset(), Box::new(move |d| *tell.lock().unwrap() = Some(d)));
        assert_eq!(*told.lock().unwrap(), Some(Durability::Failed));
        let all = read_all(&store, "T", 0);
        assert_eq!(all[0], (0, b"before".to_vec()));
        assert!(!sync || all.len() as u64 == 1 + at, "consumers see what is on the disk only");
        drop(store);
        assert!(dir.path().join("abort").exists(), "a failed store has not stopped cleanly");
    }
}

#[test]
fn a_failed_write_acknowledges_nothing_and_gives_the_offsets_back() {
    let dir = tempfile::tempdir().unwrap();
    let faults = Arc::new(Faults::default());
    let store = open(StoreConfig { faults: Some(Arc::clone(&faults)), ..config(dir.path()) });
    send(&store, "T", 0, &[b"before"]).unwrap();
    faults.inject(Operation::Write, 0, Fault::Io);
    let error = send(&store, "T", 0, &[b"lost", b"lost too"]).unwrap_err();
    assert!(matches!(&error, AppendError::ReadOnly { reason } if reason.contains("Input/output")), "{error}");
    assert_eq!(store.queue("T", 0).next_offset(), 1);
    faults.heal(Operation::Write);
    assert!(send(&store, "T", 0, &[b"again"]).is_err(), "only a restart heals it");
    assert_eq!(read_all(&store, "T", 0), [(0, b"before".to_vec())]);
    drop(store);
    let store = open(config(dir.path()));
    assert_eq!(read_all(&store, "T", 0), [(0, b"before".to_vec())]);
    send(&store, "T", 0, &[b"healed"]).unwrap();
}

#[test]
fn without_room_for_the_next_file_writes_are_refused_until_there_is() {
    let dir = tempfile::tempdir().unwrap();
    let faults = Arc::new(Faults::default());
    let store =
        open(StoreConfig { faults: Some(Arc::clone(&faults)), message_index_enable: false, ..config(dir.path()) });
    send(&store, "T", 0, &[b"first"]).unwrap();
    faults.inject(Operation::Allocate, 0, Fault::NoSpace);
    let body = [b'x'; 1000];
    let mut stored = 1;
    let error = loop {
        match send(&store, "T", 0, &[&body, &body]) {
            Ok(()) => stored += 2,
            Err(error) => break error,
        }
    };
    assert!(matches!(&error, AppendError::DiskFull { reason } if reason.contains("No space left")), "{error}");
    assert_eq!(read_all(&store, "T", 0).len(), stored);
    faults.heal(Operation::Allocate);
    send(&store, "T", 0, &[&body]).unwrap();
    assert_eq!(read_all(&store, "T", 0).len(), stored + 1);
    assert_eq!(store.queue("T", 0).next_offset(), stored as i64 + 1);
}

#[test]
fn a_checkpoint_that_cannot_be_written_for_lack_of_room_is_written_later() {
    let dir = tempfile::tempdir().unwrap();
    let faults = Arc::new(Faults::default());
    faults.set_volume(10, 1 << 40);
    let store = open(StoreConfig { faults: Some(Arc::clone(&faults)), ..config(dir.path()) });
    send(&store, "T", 0, &[b"before"]).unwrap();
    faults.inject_in("checkpoint", Operation::Write, 0, Fault::NoSpace);
    store.checkpoint_now();
    let error = send(&store, "T", 0, &[b"refused"]).unwrap_err();
    assert!(matches!(&error, AppendError::DiskFull { reason } if reason.contains("the checkpoint")), "{error}");
    assert_eq!(read_all(&store, "T", 0).len(), 1);
    faults.heal(Operation::Write);
    store.checkpoint_now();
    send(&store, "T", 0, &[b"after"]).unwrap();
    assert_eq!(read_all(&store, "T", 0).len(), 2);
}

fn has_key(store: &Store, body: &[u8]) -> bool {
    !store.query_index("T", &String::from_utf8_lossy(body), 1, 0, i64::MAX).physical_offsets.is_empty()
}

/// Stores 20 messages with an index that takes the first 7; the disk stays full.
fn store_with_a_full_index_disk(root: &Path, faults: &Arc<Faults>) -> Store {
    // Number 0 of a file is never used.
    let settings = StoreConfig { max_index_num: 8, max_hash_slot_num: 4, ..config(root) };
    let store = open(StoreConfig { faults: Some(Arc::clone(faults)), ..settings });
    faults.inject_in("index", Operation::Allocate, 1, Fault::NoSpace);
    let bodies = numbered(20);
    send(&store, "T", 0, &as_slices(&bodies)).unwrap();
    assert_eq!(read_all(&store, "T", 0).len(), 20);
    assert_eq!(bodies.iter().filter(|body| has_key(&store, body)).count(), 7);
    store
}

#[test]
fn a_full_index_disk_stops_the_index_until_there_is_space() {
    let dir = tempfile::tempdir().unwrap();
    let faults = Arc::new(Faults::default());
    let store = store_with_a_full_index_disk(dir.path(), &faults);
    faults.heal(Operation::Allocate);
    let begun = std::time::Instant::now();
    while !has_key(&store, &numbered(20)[19]) {
        assert!(begun.elapsed().as_secs() < 60, "the index is not taken up again");
        std::thread::yield_now();
    }
    send(&store, "T", 0, &[b"one more"]).unwrap();
    assert!(numbered(20).iter().all(|body| has_key(&store, body)) && has_key(&store, b"one more"));
    let settings = StoreConfig { max_index_num: 8, max_hash_slot_num: 4, ..config(dir.path()) };
    drop(store);
    let report = ferromq_store::check_store(&settings, true, &mut |_| ()).unwrap();
    assert!(report.findings.iter().all(|(kind, _)| kind == ferromq_store::Kind::NoTopicTable), "{:?}", report.findings);
}

#[test]
fn keys_that_a_full_disk_left_out_are_filed_by_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    drop(store_with_a_full_index_disk(dir.path(), &Arc::new(Faults::default())));
    let store = open(StoreConfig { max_index_num: 8, max_hash_slot_num: 4, ..config(dir.path()) });
    assert!(numbered(20).iter().all(|body| has_key(&store, body)));
}

#[test]
fn a_start_that_files_keys_again_brings_no_deleted_topic_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = store_with_a_full_index_disk(dir.path(), &Arc::new(Faults::default()));
    send(&store, "U", 0, &[b"kept"]).unwrap();
    store.delete_topic("T").unwrap();
    drop(store);
    let store = open(StoreConfig { max_index_num: 8, max_hash_slot_num: 4, ..config(dir.path()) });
    assert_eq!(store.topics().iter().map(|topic| &**topic).collect::<Vec<_>>(), ["U"]);
    assert_eq!(store.query_index("U", "kept", 1, 0, i64::MAX).physical_offsets.len(), 1);
}

/// What a power cut after `n` events leaves if the disk kept nothing but what it had to.
fn durable_state(events: &[Event], from: &Path, to: &Path) {
    let covered = |changed: &Path, n: usize| {
        events[n..].iter().any(|sync| match sync {
            Event::Sync { path, covers } => path == changed && n < *covers,
            Event::SyncVolume { covers } => n < *covers,
            _ => false,
        })
    };
    let place = |path: &Path| to.join(path.strip_prefix(from).unwrap());
    let open = |path: &Path| std::fs::OpenOptions::new().write(true).open(place(path)).unwrap();
    for (n, event) in events.iter().enumerate() {
        match event {
            // Names are kept: that they are synced is looked at elsewhere.
            Event::Create { path } => drop(std::fs::File::create(place(path)).unwrap()),
            Event::MakeFolder { path } => std::fs::create_dir_all(place(path)).unwrap(),
            Event::Resize { path, len } => open(path).set_len(*len).unwrap(),
            Event::Write { path, at, bytes } if covered(path, n) => open(path).write_all_at(bytes, *at).unwrap(),
            Event::Zero { path, at, len } if covered(path, n) => {
                open(path).write_all_at(&vec![0; *len as usize], *at).unwrap();
            }
            Event::Remove { path } => std::fs::remove_file(place(path)).unwrap(),
            Event::RemoveFolder { path } => std::fs::remove_dir_all(place(path)).unwrap(),
            _ => {}
        }
    }
}

#[test]
fn a_recorded_run_is_replayed_to_any_power_cut() {
    let dir = tempfile::tempdir().unwrap();
    let faults = Arc::new(Faults::recording());
    let root = dir.path().join("store");
    let mut acknowledged = Vec::new();
    {
        let quick = StoreConfig { flush_interval_consume_queue: 20, ..sync_config(&root) };
        let store = open(StoreConfig { faults: Some(Arc::clone(&faults)), ..quick });
        let (queue, mut batch) = (store.queue("T", 0), AppendBatch::default());
        for body in numbered(200) {
            batch.push(&queue, &parts("T", 0, &body, b"KEYS\x01k\x02")).unwrap();
            store.append(&mut batch).unwrap();
            let (tell, told) = std::sync::mpsc::sync_channel(1);
            store.when_durable(batch.end_position(), Box::new(move |d| tell.send(d).unwrap()));
            assert_eq!(told.recv().unwrap(), Durability::Durable);
            acknowledged.push((faults.event_count(), body));
            batch.clear();
        }
    }
    let events = faults.events();
    assert!(events.iter().any(|e| matches!(e, Event::Write { path, .. } if path.starts_with(root.join("index")))));
    for n in (100..=events.len()).step_by(events.len() / 20) {
        let cut = tempfile::tempdir().unwrap();
        durable_state(&events[..n], dir.path(), cut.path());
        let store = open(config(&cut.path().join("store")));
        let expected = acknowledged.iter().filter(|(at, _)| *at <= n).count();
        let all = read_all(&store, "T", 0);
        assert!(all.len() >= expected, "{} of {expected} after {n} of {} events", all.len(), events.len());
        assert!(all.iter().zip(&acknowledged).all(|((_, body), (_, sent))| body == sent));
    }
}

#[test]
fn a_full_disk_refuses_and_a_sync_that_failed_once_is_not_believed_again() {
    let dir = tempfile::tempdir().unwrap();
    let faults = Arc::new(Faults::default());
    let store = open(StoreConfig { faults: Some(Arc::clone(&faults)), ..config(dir.path()) });
    send(&store, "T", 0, &[b"before"]).unwrap();
    faults.inject_in("commitlog", Operation::Write, 0, Fault::NoSpace);
    let error = send(&store, "T", 0, &[b"lost"]).unwrap_err();
    assert!(matches!(&error, AppendError::DiskFull { reason } if reason.contains("free space")), "{error}");
    faults.heal(Operation::Write);
    send(&store, "T", 0, &[b"after"]).unwrap();
    assert_eq!(read_all(&store, "T", 0), [(0, b"before".to_vec()), (1, b"after".to_vec())]);

    faults.inject_once(Operation::Sync, 0, Fault::Io);
    while store.write_error().is_none() {
        std::thread::yield_now();
    }
    let (flushed, error) = (store.flushed_position(), store.write_error().unwrap().to_string());
    assert!(
        error.contains("Input/output error") && error.contains("mounted at") && error.contains("restart"),
        "{error}"
    );
    // The kernel would say that all is well now.
    store.checkpoint_now();
    assert_eq!(store.flushed_position(), flushed);
    assert_eq!(read_all(&store, "T", 0).len(), 2);
}
