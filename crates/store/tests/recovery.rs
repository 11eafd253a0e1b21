//! What comes back after a stop, a kill, and damage to everything that is derived from the log.

#![allow(clippy::unwrap_used, reason = "a test says by panicking what is wrong")]

mod common;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use common::{as_slices, config, copy_as_killed, expect, numbered, open, read_all, send, sync_config};
use ferromq_store::{Event, Faults, StoreConfig};

/// Where the checkpoint says how far the log is on the disk.
const NOTED: usize = 1032;

/// A store with messages in three queues, as it is on the disk after a kill.
fn killed(to: &Path, bodies: &[Vec<u8>]) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(config(dir.path()));
    fill(&store, bodies);
    copy_as_killed(dir.path(), to);
}

fn stopped(to: &Path, bodies: &[Vec<u8>]) {
    fill(&open(config(to)), bodies);
}

fn fill(store: &ferromq_store::Store, bodies: &[Vec<u8>]) {
    for bodies in bodies.chunks(10) {
        for queue in 0..3 {
            send(store, "T", queue, &as_slices(bodies)).unwrap();
        }
    }
}

/// All messages are there, found by key, and the queues go on where they ended.
fn check(root: &Path, bodies: &[Vec<u8>]) {
    for config in [config(root), sync_config(root)] {
        let store = open(config);
        for queue in 0..3 {
            let mut all = read_all(&store, "T", queue);
            all.truncate(bodies.len());
            assert!(all == expect(bodies), "queue {queue}: {} of {}", all.len(), bodies.len());
        }
        for body in [&bodies[0], &bodies[bodies.len() / 2], &bodies[bodies.len() - 1]] {
            let hits = store.query_index("T", &String::from_utf8_lossy(body), 32, 0, i64::MAX);
            assert!(hits.physical_offsets.len() >= 3, "{hits:?}");
        }
        let end = store.queue("T", 1).next_offset();
        send(&store, "T", 1, &[b"one more"]).unwrap();
        assert_eq!(store.queue("T", 1).next_offset(), end + 1);
    }
}

#[test]
fn a_killed_store_has_everything() {
    let dir = tempfile::tempdir().unwrap();
    let bodies = numbered(700);
    killed(dir.path(), &bodies);
    assert!(dir.path().join("abort").exists());
    check(dir.path(), &bodies);
}

#[test]
fn a_store_killed_after_checkpoints_has_everything() {
    let dir = tempfile::tempdir().unwrap();
    let to = tempfile::tempdir().unwrap();
    let bodies = numbered(700);
    {
        let quick =
            StoreConfig { flush_interval_consume_queue: 20, durable_checkpoint_interval: 60, ..config(dir.path()) };
        let store = open(quick);
        for (n, bodies) in bodies.chunks(10).enumerate() {
            for queue in 0..3 {
                send(&store, "T", queue, &as_slices(bodies)).unwrap();
            }
            if n % 10 == 0 {
                std::thread::sleep(std::time::Duration::from_millis(30));
            }
        }
        copy_as_killed(dir.path(), to.path());
    }
    check(to.path(), &bodies);
}

#[test]
fn a_store_killed_between_syncs_knows_when_its_last_message_came() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store =
        open(StoreConfig { flush_interval_consume_queue: 10, flush_interval_commit_log: 5, ..config(from.path()) });
    let checkpoint = |at: usize| fs::read(from.path().join("checkpoint")).unwrap()[at..][..8].to_vec();
    // Until it says how far the log is on the disk,
    while checkpoint(NOTED) == [0; 8] {
        send(&store, "T", 0, &[b"one more"]).unwrap();
        std::thread::park_timeout(std::time::Duration::from_millis(10));
    }
    // and that all is built. Its times are those of its own last sync.
    while checkpoint(596) != store.max_physical_offset().to_be_bytes() {
        std::thread::yield_now();
    }
    copy_as_killed(from.path(), to.path());
    assert_eq!(open(config(to.path())).last_store_timestamp(), store.last_store_timestamp());
}

type Damage = fn(&Path);

const DAMAGES: &[(&str, Damage)] = &[
    ("nothing", |_| ()),
    ("no checkpoint", |root| fs::remove_file(root.join("checkpoint")).unwrap()),
    ("a checkpoint of zeros", |root| fs::write(root.join("checkpoint"), [0; 4096]).unwrap()),
    ("an empty checkpoint", |root| fs::write(root.join("checkpoint"), []).unwrap()),
    ("a checkpoint of garbage", |root| fs::write(root.join("checkpoint"), [0x5A; 4096]).unwrap()),
    ("no queues", |root| fs::remove_dir_all(root.join("consumequeue")).unwrap()),
    ("a queue missing", |root| fs::remove_dir_all(root.join("consumequeue/T/1")).unwrap()),
    ("first file of a queue missing", |root| fs::remove_file(first_file(root)).unwrap()),
    ("first file of a queue short", |root| fs::write(first_file(root), [0; 100]).unwrap()),
    ("first file of a queue empty", |root| fs::write(first_file(root), []).unwrap()),
    ("first file of a queue of zeros", |root| fs::write(first_file(root), vec![0; 6000]).unwrap()),
    ("no abort file", |root| drop(fs::remove_file(root.join("abort")))),
    ("an abort file", |root| fs::write(root.join("abort"), "1").unwrap()),
    ("neither queues nor checkpoint nor index", |root| {
        for folder in ["consumequeue", "index"] {
            fs::remove_dir_all(root.join(folder)).unwrap();
        }
        fs::remove_file(root.join("checkpoint")).unwrap();
    }),
    ("no index", |root| fs::remove_dir_all(root.join("index")).unwrap()),
];

fn first_file(root: &Path) -> std::path::PathBuf {
    root.join("consumequeue/T/1/00000000000000000000")
}

#[test]
fn whatever_is_derived_is_built_again() {
    let bodies = numbered(700);
    for make in [killed, stopped] {
        let made = tempfile::tempdir().unwrap();
        make(made.path(), &bodies);
        for (name, damage) in DAMAGES {
            let dir = tempfile::tempdir().unwrap();
            copy_as_killed(made.path(), dir.path());
            println!("{name}");
            damage(dir.path());
            check(dir.path(), &bodies);
        }
    }
}

/// The end of the log: position behind the last record, found as any reader would.
fn log_end(root: &Path, file_size: usize) -> (std::path::PathBuf, usize, usize) {
    let mut files: Vec<_> = fs::read_dir(root.join("commitlog")).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    for path in files.into_iter().rev() {
        let bytes = fs::read(&path).unwrap();
        let (mut at, mut last) = (0, 0);
        while let ferromq_protocol::record::Entry::Record(record) = ferromq_protocol::record::read(&bytes[at..]) {
            last = at;
            at += record.bytes().len();
        }
        if at > 0 && at < file_size {
            return (path, last, at);
        }
    }
    panic!("an empty log");
}

#[test]
fn a_torn_tail_is_cut_off_and_never_comes_back() {
    let bodies = numbered(100);
    let made = tempfile::tempdir().unwrap();
    killed(made.path(), &bodies);
    let (file, last, end) = log_end(made.path(), 64 * 1024);
    let file = file.file_name().unwrap().to_owned();
    for cut in [last + 1, last + 50, last + 95, end - 1] {
        let dir = tempfile::tempdir().unwrap();
        copy_as_killed(made.path(), dir.path());
        let log = fs::OpenOptions::new().write(true).open(dir.path().join("commitlog").join(&file)).unwrap();
        log.write_all_at(&vec![0; end - cut], cut as u64).unwrap();
        // As out-of-order writing leaves it: a page that came later did reach the disk.
        log.write_all_at(&vec![0xDA; 300], end as u64 + 5000).unwrap();
        drop(log);
        let store = open(config(dir.path()));
        assert_eq!(read_all(&store, "T", 0), expect(&bodies));
        let last_queue = read_all(&store, "T", 2);
        assert!(last_queue == expect(&bodies[..99]), "cut at {cut} of {last}..{end}: {}", last_queue.len());
        assert_eq!(store.queue("T", 2).next_offset(), 99);
        send(&store, "T", 2, &[b"in its place"]).unwrap();
        drop(store);
        let store = open(config(dir.path()));
        assert_eq!(read_all(&store, "T", 2).last().unwrap(), &(99, b"in its place".to_vec()));
        assert_eq!(read_all(&store, "T", 2).len(), 100);
    }
}

#[test]
fn a_record_with_a_wrong_crc_at_the_end_is_cut_off() {
    let bodies = numbered(20);
    let dir = tempfile::tempdir().unwrap();
    killed(dir.path(), &bodies);
    let (file, last, _) = log_end(dir.path(), 64 * 1024);
    let log = fs::OpenOptions::new().write(true).open(file).unwrap();
    log.write_all_at(b"?", last as u64 + 90).unwrap();
    let store = open(config(dir.path()));
    assert_eq!(read_all(&store, "T", 2), expect(&bodies[..19]));
}

#[test]
fn a_log_without_its_first_files_is_served_from_where_it_begins() {
    let bodies = numbered(700);
    let dir = tempfile::tempdir().unwrap();
    stopped(dir.path(), &bodies);
    for file in ["00000000000000000000", "00000000000000065536"] {
        fs::remove_file(dir.path().join("commitlog").join(file)).unwrap();
    }
    for rebuild in [false, true] {
        if rebuild {
            fs::remove_dir_all(dir.path().join("consumequeue")).unwrap();
            fs::remove_file(dir.path().join("checkpoint")).unwrap();
        }
        let store = open(config(dir.path()));
        let queue = store.find_queue("T", 0).unwrap();
        assert!(queue.min_offset() > 0 && queue.max_offset() == 700);
        let all = read_all(&store, "T", 0);
        assert_eq!(all, expect(&bodies)[queue.min_offset() as usize..]);
        assert_eq!(store.min_physical_offset(), 2 * 65_536);
    }
}

#[test]
fn without_a_log_there_are_no_queues() {
    let dir = tempfile::tempdir().unwrap();
    stopped(dir.path(), &numbered(10));
    fs::remove_dir_all(dir.path().join("commitlog")).unwrap();
    let store = open(config(dir.path()));
    assert!(store.topics().is_empty());
    send(&store, "T", 0, &[b"new"]).unwrap();
    assert_eq!(read_all(&store, "T", 0), [(0, b"new".to_vec())]);
}

#[test]
fn a_topic_made_again_keeps_its_new_messages_when_all_is_rebuilt() {
    for (old, new) in [(400, 350), (1, 2), (2, 2), (3, 1)] {
        let dir = tempfile::tempdir().unwrap();
        let new: Vec<Vec<u8>> = (0..new).map(|n| format!("new {n}").into_bytes()).collect();
        {
            let store = open(config(dir.path()));
            send(&store, "T", 0, &as_slices(&numbered(old))).unwrap();
            store.delete_topic("T").unwrap();
            for bodies in new.chunks(10) {
                send(&store, "T", 0, &as_slices(bodies)).unwrap();
            }
            assert_eq!(read_all(&store, "T", 0), expect(&new));
        }
        for killed in [false, true] {
            fs::remove_dir_all(dir.path().join("consumequeue")).unwrap();
            if killed {
                fs::write(dir.path().join("abort"), "1").unwrap();
            }
            assert_eq!(read_all(&open(config(dir.path())), "T", 0), expect(&new));
        }
    }
}

#[test]
fn damage_inside_of_the_log_hides_nothing_that_follows() {
    let bodies = numbered(300);
    let made = tempfile::tempdir().unwrap();
    stopped(made.path(), &bodies);
    for (zeros, killed) in [(900, false), (900, true), (3000, false), (3000, true)] {
        let dir = tempfile::tempdir().unwrap();
        copy_as_killed(made.path(), dir.path());
        // In the first file, in the middle of a body.
        let log = fs::OpenOptions::new().write(true).open(dir.path().join("commitlog/00000000000000000000")).unwrap();
        log.write_all_at(&vec![0; zeros], 20_000).unwrap();
        fs::remove_dir_all(dir.path().join("consumequeue")).unwrap();
        if killed {
            fs::write(dir.path().join("abort"), "1").unwrap();
        }
        let store = open(config(dir.path()));
        let mut lost = 0;
        for queue in 0..3 {
            let all = read_all(&store, "T", queue);
            assert!(all.iter().all(|(offset, body)| *body == bodies[*offset as usize]));
            assert_eq!(all.last().unwrap().0, 299);
            lost += 300 - all.len();
        }
        assert!((1..30).contains(&lost), "{lost} lost");
        send(&store, "T", 0, &[b"goes on"]).unwrap();
        assert_eq!(read_all(&store, "T", 0).last().unwrap(), &(300, b"goes on".to_vec()));
    }
}

#[test]
fn a_log_file_that_was_never_used_does_not_keep_the_store_from_opening() {
    let bodies = numbered(20);
    for len in [0, 4096, 40_000] {
        let dir = tempfile::tempdir().unwrap();
        killed(dir.path(), &bodies);
        let part = dir.path().join("commitlog/00000000000000065536");
        fs::write(&part, vec![0; len]).unwrap();
        let store = open(config(dir.path()));
        assert!(!part.exists());
        send(&store, "T", 0, &as_slices(&numbered(300))).unwrap();
        assert_eq!(read_all(&store, "T", 0).len(), 320);
    }
    let dir = tempfile::tempdir().unwrap();
    killed(dir.path(), &bodies);
    let short = dir.path().join("commitlog/00000000000000065536");
    let mut content = vec![0; 4096];
    content[4000] = 1;
    fs::write(&short, content).unwrap();
    let error = ferromq_store::Store::open(config(dir.path()), std::sync::Arc::new(|_| ())).err().unwrap();
    assert!(matches!(error, ferromq_store::OpenError::FileSize { .. }) && short.exists(), "{error}");
}

/// Bytes of the log that were written and then forced to the disk, as ranges of positions.
fn forced(events: &[Event]) -> Vec<std::ops::Range<u64>> {
    let start_of = |path: &Path| path.file_name().unwrap().to_str().unwrap().parse::<u64>().ok();
    let is_forced = |of: &Path, n: usize| {
        events[n..].iter().any(|e| matches!(e, Event::Sync { path, covers } if path == of && n < *covers))
    };
    let written = events.iter().enumerate().filter_map(|(n, event)| match event {
        Event::Write { path, at, bytes } if path.to_str().unwrap().contains("/commitlog/") && is_forced(path, n) => {
            let from = start_of(path)? + at;
            Some(from..from + bytes.len() as u64)
        }
        _ => None,
    });
    written.collect()
}

#[test]
fn what_was_not_forced_to_the_disk_before_a_kill_is_written_again() {
    let bodies = numbered(200);
    for flush in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let made = tempfile::tempdir().unwrap();
        let settings = StoreConfig {
            flush_interval_commit_log: if flush { 5 } else { 3_600_000 },
            flush_interval_consume_queue: 3_600_000,
            durable_checkpoint_interval: 3_600_000,
            ..config(made.path())
        };
        let store = open(settings);
        if flush {
            // The checkpoint that the first start makes, and a note of what is forced to the disk.
            send(&store, "T", 0, &as_slices(&bodies[..100])).unwrap();
            store.checkpoint_now();
            send(&store, "T", 0, &as_slices(&bodies[100..])).unwrap();
            let most = store.max_physical_offset() * 3 / 4;
            let noted = || {
                let checkpoint = fs::read(made.path().join("checkpoint")).unwrap();
                u64::from_be_bytes(*checkpoint[NOTED..].first_chunk().unwrap())
            };
            while noted() < most {
                send(&store, "T", 0, &[b"last"]).unwrap();
                std::thread::park_timeout(std::time::Duration::from_millis(10));
            }
        } else {
            send(&store, "T", 0, &as_slices(&bodies)).unwrap();
        }
        let end = store.max_physical_offset();
        copy_as_killed(made.path(), dir.path());
        let faults = std::sync::Arc::new(Faults::recording());
        let again = open(StoreConfig { faults: Some(faults.clone()), ..config(dir.path()) });
        assert_eq!(again.flushed_position(), end);
        let forced = forced(&faults.events());
        let bytes: u64 = forced.iter().map(|range| range.end - range.start).sum();
        if flush {
            assert!(bytes < end / 2, "{bytes} of {end} were written again, though all but the last was on the disk");
        } else {
            let covered = (0..end).step_by(512).all(|at| forced.iter().any(|range| range.contains(&at)));
            assert!(covered && bytes >= end, "{forced:?} of {end}");
        }
    }
}

#[test]
fn a_short_queue_file_without_a_checkpoint_does_not_give_offsets_twice() {
    let dir = tempfile::tempdir().unwrap();
    let early = numbered(700);
    {
        let store = open(config(dir.path()));
        send(&store, "T", 1, &as_slices(&early)).unwrap();
        // Much later messages of another queue only.
        std::thread::sleep(std::time::Duration::from_millis(20));
        send(&store, "T", 0, &as_slices(&numbered(900))).unwrap();
    }
    let second = dir.path().join("consumequeue/T/1").join(format!("{:020}", 6000));
    fs::write(&second, [0; 100]).unwrap();
    fs::remove_file(dir.path().join("checkpoint")).unwrap();
    let store = open(config(dir.path()));
    assert_eq!(store.queue("T", 1).next_offset(), 700);
    assert_eq!(read_all(&store, "T", 1), expect(&early));
}
