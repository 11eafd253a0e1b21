//! Retention: what is deleted, when, what stays, and what a full volume does to appends.
#![allow(clippy::unwrap_used, reason = "a test says by panicking what is wrong")]

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::{as_slices, config, copy_as_killed, dispatch, expect, files, numbered, open, read_all, records, send};
use ferromq_common::clock;
use ferromq_store::{AppendError, Fault, Faults, Operation, ReadStatus, Store, StoreConfig};

/// An hour at which nothing happens by itself.
fn another_hour() -> u32 {
    (clock::local_hour() + 12) % 24
}

/// A volume with all the room one could want.
fn roomy() -> Arc<Faults> {
    let faults = Faults::default();
    faults.set_volume(10, 1 << 40);
    Arc::new(faults)
}

/// Deletion happens when it is asked for, whatever else is on the machine's disk.
fn quiet(root: &Path) -> StoreConfig {
    StoreConfig {
        delete_when: vec![another_hour()],
        delete_commit_log_files_interval: 0,
        faults: Some(roomy()),
        ..config(root)
    }
}

fn log_files(root: &Path) -> Vec<PathBuf> {
    files(&root.join("commitlog"))
}

/// Log files with messages; one more may be prepared.
fn in_use(store: &Store) -> u64 {
    (store.max_physical_offset() - store.min_physical_offset()).div_ceil(64 * 1024)
}

/// Lets files look as if they were last written long ago.
fn age(files: &[PathBuf]) {
    for path in files {
        let long_ago: SystemTime = UNIX_EPOCH + Duration::from_secs(1_600_000_000);
        std::fs::File::options().write(true).open(path).unwrap().set_modified(long_ago).unwrap();
    }
}

fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A store with `count` messages in one queue, whose log files but for the last `young` ones are old.
fn filled(config: StoreConfig, count: usize, young: usize) -> (Store, Vec<Vec<u8>>) {
    let root = config.root.clone();
    let store = open(config);
    let bodies = numbered(count);
    for chunk in bodies.chunks(50) {
        send(&store, "T", 0, &as_slices(chunk)).unwrap();
    }
    let old = (in_use(&store) as usize).saturating_sub(young);
    age(&log_files(&root)[..old]);
    (store, bodies)
}

#[test]
fn old_files_go_when_asked_and_the_minimum_is_right_at_once_and_after_every_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (store, bodies) = filled(quiet(dir.path()), 2000, 4);
    let before = in_use(&store);
    assert!(before > 12, "{before}");
    let queue = store.find_queue("T", 0).unwrap();
    store.delete_expired_log_files();
    let start = 64 * 1024 * (before - 4);
    let first = || store.entry(&queue, queue.min_offset()).map_or(0, |e| e.physical_offset as u64);
    wait("old files go", || store.min_physical_offset() == start && first() >= start);
    let min = queue.min_offset();
    assert!(store.entry(&queue, min - 1).is_none_or(|e| (e.physical_offset as u64) < start));
    // The rest is there, what is below is refused with the place to go on.
    let rest = expect(&bodies)[min as usize..].to_vec();
    assert!(read_all(&store, "T", 0) == rest);
    let outcome = store.read(&queue, 0, 32, 1 << 20, &mut |_| true, &mut Vec::new());
    assert_eq!((outcome.status, outcome.next_offset, outcome.min_offset), (ReadStatus::OffsetTooSmall, min, min));
    // Files of queue and index wholly below are gone: a queue file has 300 entries.
    wait("queue files go", || files(&dir.path().join("consumequeue/T/0")).len() as i64 == 7 - (min - 1) / 300);
    let index = files(&dir.path().join("index")).len();
    assert_eq!(index, 1, "4000 entries a file");

    let killed = tempfile::tempdir().unwrap();
    copy_as_killed(dir.path(), killed.path());
    store.shutdown();
    drop(store);
    for root in [dir.path(), killed.path()] {
        let store = open(quiet(root));
        let queue = store.find_queue("T", 0).unwrap();
        assert_eq!((queue.min_offset(), queue.max_offset(), store.min_physical_offset()), (min, 2000, start));
        assert!(read_all(&store, "T", 0) == rest);
        send(&store, "T", 0, &[b"next"]).unwrap();
        assert_eq!(queue.max_offset(), 2001);
    }
}

#[test]
fn the_hour_deletes_by_itself_and_never_the_last_or_a_young_file() {
    let dir = tempfile::tempdir().unwrap();
    let hourly = |hours: Vec<u32>, reserved| StoreConfig {
        delete_when: hours,
        file_reserved_time: reserved,
        clean_resource_interval: 5,
        ..quiet(dir.path())
    };
    let (store, _) = filled(hourly(vec![another_hour()], 72), 1000, 3);
    std::thread::sleep(Duration::from_millis(100));
    assert!(in_use(&store) > 6, "not its hour");
    drop(store);
    // The next one, too: it may begin while the test runs.
    let now = clock::local_hour();
    let store = open(hourly(vec![another_hour(), now, (now + 1) % 24], 72));
    wait("old files go at the hour", || in_use(&store) == 3);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(in_use(&store), 3, "young files stay");
    drop(store);
    let store = open(hourly((0..24).collect(), 0));
    wait("all but the last go", || in_use(&store) == 1);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(in_use(&store), 1);
    send(&store, "T", 0, &[b"on"]).unwrap();
    assert_eq!(store.find_queue("T", 0).unwrap().max_offset(), 1001);
}

#[test]
fn one_look_deletes_no_more_than_the_batch() {
    let dir = tempfile::tempdir().unwrap();
    let faults = roomy();
    let settings = StoreConfig {
        delete_file_batch_max: 2,
        clean_resource_interval: 3000,
        faults: Some(Arc::clone(&faults)),
        ..quiet(dir.path())
    };
    let (store, _) = filled(settings, 1000, 1);
    let before = in_use(&store);
    faults.set_volume(76, 1 << 40);
    wait("the first look", || in_use(&store) < before);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(in_use(&store), before - 2);
    drop(store);
}

#[test]
fn a_ratio_counts_by_its_rank_and_only_where_bytes_are_short() {
    // Percent in use, free bytes, floor: what is left of 3 young and many old files.
    let floor = 1 << 30;
    for (volume, forcibly, left) in [
        ((75, 0), true, None),
        ((76, 1 << 40), true, Some(3)),
        ((95, 2 << 30), true, Some(3)),
        ((86, (2 << 30) - 2), true, Some(1)),
        ((86, (2 << 30) - 2), false, Some(3)),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let faults = roomy();
        let settings = StoreConfig {
            disk_space_floor: floor,
            clean_file_forcibly_enable: forcibly,
            clean_resource_interval: 5,
            faults: Some(Arc::clone(&faults)),
            ..quiet(dir.path())
        };
        let (store, _) = filled(settings, 1000, 3);
        let before = in_use(&store);
        faults.set_volume(volume.0, volume.1);
        wait("files go", || left.is_none_or(|left| in_use(&store) == left));
        std::thread::sleep(Duration::from_millis(60));
        assert_eq!(in_use(&store), left.unwrap_or(before), "{volume:?} {forcibly}");
        drop(store);
    }
}

#[test]
fn a_nearly_full_volume_refuses_with_figures_and_resumes_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let faults = roomy();
    let settings = StoreConfig {
        disk_space_floor: 1 << 30,
        clean_file_forcibly_enable: false,
        faults: Some(Arc::clone(&faults)),
        ..quiet(dir.path())
    };
    faults.set_volume(95, 1 << 30);
    let store = open(settings);
    send(&store, "T", 0, &[b"95 % of a large volume is no emergency"]).unwrap();
    faults.set_volume(91, 123_456_789);
    wait("refuses", || store.write_error().is_some());
    let Err(AppendError::DiskFull { reason }) = send(&store, "T", 0, &[b"x"]) else { panic!("accepted") };
    for part in ["mounted at /", "91 %", "123456789 bytes free", "diskSpaceWarningLevelRatio 90 %"] {
        assert!(reason.contains(part), "{part} in {reason}");
    }
    assert_eq!(read_all(&store, "T", 0).len(), 1);
    faults.set_volume(89, 123_456_789);
    wait("resumes", || store.write_error().is_none());
    send(&store, "T", 0, &[b"x"]).unwrap();
}

#[test]
fn a_queue_that_cannot_be_written_for_lack_of_room_refuses_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let faults = roomy();
    let settings =
        StoreConfig { flush_interval_consume_queue: 20, faults: Some(Arc::clone(&faults)), ..quiet(dir.path()) };
    let store = open(settings);
    let bodies = numbered(600);
    send(&store, "T", 0, &as_slices(&bodies[..100])).unwrap();
    faults.inject(Operation::WriteSparse, 0, Fault::NoSpace);
    let mut stored = 100;
    while stored < 590 && send(&store, "T", 0, &[&bodies[stored]]).is_ok() {
        stored += 1;
    }
    wait("refuses", || store.write_error().is_some());
    assert!(matches!(store.write_error(), Some(AppendError::DiskFull { .. })), "{:?}", store.write_error());
    dispatch(&store);
    assert!(read_all(&store, "T", 0) == expect(&bodies[..stored]), "all that was acknowledged is read");
    let killed = tempfile::tempdir().unwrap();
    copy_as_killed(dir.path(), killed.path());
    faults.heal(Operation::WriteSparse);
    wait("resumes", || store.write_error().is_none());
    send(&store, "T", 0, &[&bodies[stored]]).unwrap();
    assert!(read_all(&store, "T", 0) == expect(&bodies[..=stored]));
    let again = open(quiet(killed.path()));
    assert!(read_all(&again, "T", 0) == expect(&bodies[..stored]), "after a kill in between");
}

#[test]
fn a_queue_write_that_finds_room_when_tried_again_costs_no_messages() {
    let dir = tempfile::tempdir().unwrap();
    let faults = roomy();
    // Nothing is tried again by itself.
    let settings =
        StoreConfig { flush_interval_consume_queue: 3_600_000, faults: Some(Arc::clone(&faults)), ..quiet(dir.path()) };
    let (store, bodies) = filled(settings, 600, 999);
    store.checkpoint_now();
    send(&store, "T", 0, &[b"one more"]).unwrap();
    faults.inject_once(Operation::WriteSparse, 0, Fault::NoSpace);
    store.checkpoint_now();
    wait("resumes", || store.write_error().is_none());
    store.delete_expired_log_files();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(store.min_physical_offset(), 0);
    assert_eq!(read_all(&store, "T", 0).len(), bodies.len() + 1);
}

#[test]
fn without_room_for_the_next_file_the_oldest_makes_place() {
    let dir = tempfile::tempdir().unwrap();
    let faults = roomy();
    let settings = StoreConfig { faults: Some(Arc::clone(&faults)), ..quiet(dir.path()) };
    let (store, _) = filled(settings, 600, 1);
    faults.inject(Operation::Allocate, 0, Fault::NoSpace);
    let refused = || send(&store, "T", 0, &[&[b'x'; 1000]]).is_err();
    wait("the log is full", refused);
    wait("the oldest goes", || store.min_physical_offset() > 0);
    faults.heal(Operation::Allocate);
    wait("accepts again", || !refused());
    wait("nothing is short", || store.write_error().is_none());
    std::thread::sleep(Duration::from_millis(20));
    let start = store.min_physical_offset();
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(store.min_physical_offset(), start, "no file goes without need");
}

#[test]
fn a_queue_without_messages_keeps_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(StoreConfig { file_reserved_time: 0, ..quiet(dir.path()) });
    for count in [1_usize, 299, 300, 301, 600] {
        send(&store, "quiet", count as u32, &as_slices(&numbered(count))).unwrap();
    }
    for chunk in numbered(1000).chunks(50) {
        send(&store, "busy", 0, &as_slices(chunk)).unwrap();
    }
    store.delete_expired_log_files();
    wait("all but the last go", || in_use(&store) == 1);
    let check = |store: &Store| {
        for count in [1_i64, 299, 300, 301, 600] {
            let queue = store.find_queue("quiet", count as u32).unwrap();
            assert_eq!((queue.min_offset(), queue.max_offset()), (count, count));
            assert_eq!(read_all(store, "quiet", count as u32), []);
        }
    };
    wait("minimums move", || store.find_queue("quiet", 600).unwrap().min_offset() == 600);
    check(&store);
    store.clean_expired_queues();
    assert_eq!(store.clean_expired_queues(), 0, "all done before");
    check(&store);
    let killed = tempfile::tempdir().unwrap();
    copy_as_killed(dir.path(), killed.path());
    drop(store);
    for root in [dir.path(), killed.path()] {
        let store = open(quiet(root));
        check(&store);
        send(&store, "quiet", 600, &[b"the 601st"]).unwrap();
        assert_eq!(read_all(&store, "quiet", 600), [(600, b"the 601st".to_vec())]);
    }
}

#[test]
fn dying_between_two_deletions_leaves_a_shorter_log() {
    let dir = tempfile::tempdir().unwrap();
    let (store, bodies) = filled(quiet(dir.path()), 1500, 3);
    store.checkpoint_now();
    for gone in 1..6 {
        let killed = tempfile::tempdir().unwrap();
        copy_as_killed(dir.path(), killed.path());
        // The files are unlinked, and nothing else has happened yet.
        for path in &log_files(killed.path())[..gone] {
            std::fs::remove_file(path).unwrap();
        }
        let store = open(quiet(killed.path()));
        let queue = store.find_queue("T", 0).unwrap();
        let min = queue.min_offset();
        assert!(min > 0 && store.min_physical_offset() == gone as u64 * 64 * 1024);
        assert!(read_all(&store, "T", 0) == expect(&bodies)[min as usize..]);
        // The next look finishes what was begun.
        store.delete_expired_log_files();
        wait("queue files go", || {
            let first = files(&killed.path().join("consumequeue/T/0"))[0].clone();
            first.ends_with(format!("{:020}", (min - 1) / 300 * 6000))
        });
    }
}

#[test]
fn readers_of_a_file_that_is_deleted_are_safe() {
    let dir = tempfile::tempdir().unwrap();
    let settings = StoreConfig { file_reserved_time: 0, clean_resource_interval: 1, ..quiet(dir.path()) };
    let store = Arc::new(open(settings));
    let stop = Arc::new(AtomicBool::new(false));
    send(&store, "T", 0, &[b"body-0"]).unwrap();
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (store, stop) = (Arc::clone(&store), Arc::clone(&stop));
            std::thread::spawn(move || {
                let queue = store.find_queue("T", 0).unwrap();
                let mut read = 0;
                while !stop.load(Ordering::Relaxed) {
                    let mut out = Vec::new();
                    let outcome = store.read(&queue, queue.min_offset(), 32, 1 << 20, &mut |_| true, &mut out);
                    for (offset, body) in records(&out) {
                        assert!(body.starts_with(format!("body-{offset}").as_bytes()), "{offset}");
                        read += 1;
                    }
                    assert!(outcome.min_offset <= outcome.max_offset);
                }
                read
            })
        })
        .collect();
    for n in 1..6000 {
        let body = format!("body-{n}-{}", "y".repeat(n % 400));
        send(&store, "T", 0, &[body.as_bytes()]).unwrap();
        if n % 100 == 0 {
            store.delete_expired_log_files();
        }
    }
    stop.store(true, Ordering::Relaxed);
    let read: usize = readers.into_iter().map(|reader| reader.join().unwrap()).sum();
    assert!(read > 100 && store.min_physical_offset() > 0, "{read}");
}
