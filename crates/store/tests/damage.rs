//! Bits that flip and bytes that vanish under a running store: never a wrong body, and nothing else is hidden.
#![allow(clippy::unwrap_used, reason = "a test says by panicking what is wrong")]

mod common;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use common::{as_slices, config, copy_as_killed, expect, numbered, open, parts, read_all, records, send};
use ferromq_protocol::record::{self, Entry};
use ferromq_store::{AppendBatch, ReadStatus, Store, StoreConfig};

const MESSAGES: usize = 300;

/// Messages that are read one queue after the other, whatever is damaged: offset and body.
fn read_what_is_there(store: &Store) -> Vec<(i64, Vec<u8>)> {
    let queue = store.find_queue("T", 0).unwrap();
    let (mut all, mut offset) = (Vec::new(), queue.min_offset());
    while offset < queue.max_offset() {
        let mut out = Vec::new();
        let outcome = store.read(&queue, offset, 32, 1 << 20, &mut |_| true, &mut out);
        assert!(matches!(outcome.status, ReadStatus::Found | ReadStatus::NoMatchedMessage), "{outcome:?}");
        assert!(outcome.next_offset > offset);
        let found = records(&out);
        assert_eq!(found.len(), outcome.count as usize);
        all.extend(found);
        offset = outcome.next_offset;
    }
    all
}

fn log_file(root: &Path, n: u64) -> File {
    let path = root.join("commitlog").join(format!("{:020}", n * 64 * 1024));
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

#[test]
fn a_flipped_bit_never_gives_a_wrong_body_and_hides_one_message_at_most() {
    let dir = tempfile::tempdir().unwrap();
    let bodies = numbered(MESSAGES);
    let store = open(config(dir.path()));
    send(&store, "T", 0, &as_slices(&bodies)).unwrap();
    let places: Vec<u64> =
        (0..MESSAGES as i64).map(|n| store.entry(&store.queue("T", 0), n).unwrap().physical_offset as u64).collect();
    let file = log_file(dir.path(), 0);
    let mut reported = 0;
    for n in 0..400_u64 {
        let (at, bit) = ((n * 7919 * 31 + n * n) % 60_000, n % 8);
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ (1 << bit)], at).unwrap();
        let all = read_what_is_there(&store);
        assert!(all.len() >= MESSAGES - 1, "{} are left with bit {bit} of {at} flipped", all.len());
        for (offset, body) in &all {
            assert_eq!(bodies.get(*offset as usize), Some(body), "{offset} at {at}");
        }
        let hit = places.partition_point(|place| *place <= at) - 1;
        let mut out = Vec::new();
        reported += usize::from(all.len() < MESSAGES);
        // Asked for by its position alone, a record is served whose queue id or offset is wrong: no entry contradicts it.
        if store.record_at(places[hit], &mut out).is_some() {
            assert!(records(&out).iter().all(|(_, body)| bodies.contains(body)));
        } else {
            assert!(out.is_empty());
        }
        file.write_all_at(&byte, at).unwrap();
    }
    assert!(reported > 100 && store.damaged_records() > 50, "{reported} {}", store.damaged_records());
    assert_eq!(read_what_is_there(&store).len(), MESSAGES);
}

#[test]
fn bytes_that_the_disk_does_not_give_cost_their_messages_and_not_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(config(dir.path()));
    let bodies = numbered(MESSAGES);
    send(&store, "T", 0, &as_slices(&bodies)).unwrap();
    assert_eq!(read_what_is_there(&store).len(), MESSAGES);
    // Reading behind the end of a mapped file raises the signal that a bad sector raises.
    log_file(dir.path(), 0).set_len(8192).unwrap();
    let all = read_what_is_there(&store);
    assert!(all.iter().all(|(offset, body)| *body == bodies[*offset as usize]));
    let ends = (all[0].0, all.last().unwrap().0);
    assert!((50..MESSAGES).contains(&all.len()) && ends == (0, MESSAGES as i64 - 1), "{} {ends:?}", all.len());
    assert_eq!(store.damaged_records(), MESSAGES - all.len());
    send(&store, "T", 0, &[b"goes on"]).unwrap();
    assert_eq!(read_what_is_there(&store).last().unwrap().1, b"goes on");
}

#[test]
fn a_consume_queue_of_garbage_gives_no_garbage() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(config(dir.path()));
    let bodies = numbered(MESSAGES);
    send(&store, "T", 0, &as_slices(&bodies)).unwrap();
    store.checkpoint_now();
    let path = dir.path().join("consumequeue/T/0/00000000000000000000");
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    for (n, size) in [(3, i32::MAX - 1), (4, -1), (5, 0), (6, 91)] {
        file.write_all_at(&i32::to_be_bytes(size), n * 20 + 8).unwrap();
    }
    file.write_all_at(&i64::to_be_bytes(-5), 10 * 20).unwrap();
    file.write_all_at(&i64::to_be_bytes(i64::MAX), 11 * 20).unwrap();
    // What leads nowhere, or to another record.
    for (at, byte) in [(20 * 20 + 6, 1), (21 * 20 + 7, 64), (22 * 20 + 5, 1)] {
        let mut there = [0];
        file.read_exact_at(&mut there, at).unwrap();
        file.write_all_at(&[there[0] ^ byte], at).unwrap();
    }
    assert!(read_what_is_there(&store) == expect(&bodies));
}

/// A page of zeros in the middle of a queue file is nothing a start sees; tags screen the entries before any record is
/// looked at.
#[test]
fn entries_that_vanished_are_built_again_when_they_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let bodies = numbered(3000);
    {
        let store = open(config(dir.path()));
        for bodies in bodies.chunks(50) {
            send(&store, "T", 0, &as_slices(bodies)).unwrap();
            send(&store, "U", 0, &as_slices(bodies)).unwrap();
        }
    }
    let path = dir.path().join("consumequeue/T/0").join(format!("{:020}", 6000));
    let sound = std::fs::read(&path).unwrap();
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[0; 4096], 1000).unwrap();
    let store = open(config(dir.path()));
    let queue = store.find_queue("T", 0).unwrap();
    let (mut offset, mut found) = (0, 0);
    while offset < queue.max_offset() {
        let mut out = Vec::new();
        let outcome =
            store.read(&queue, offset, 32, 1 << 20, &mut |entry| entry.tags_code == i64::from(b't'), &mut out);
        found += records(&out).len();
        offset = outcome.next_offset;
    }
    assert_eq!(found, bodies.len());
    assert!(std::fs::read(&path).unwrap() == sound, "the file is as it was");
    assert_eq!(store.damaged_records(), 0);
}

/// No entry before the damaged ones leads to a record: what lies near the next one that does is searched, not the beginning
/// of a log that is longer than a search.
#[test]
fn entries_at_the_beginning_of_a_queue_are_built_again_far_into_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig { mapped_file_size_commit_log: 16 << 20, ..config(dir.path()) };
    let bodies = numbered(400);
    {
        let store = open(config.clone());
        let large = vec![b'x'; 1 << 20];
        for _ in 0..80 {
            let mut batch = AppendBatch::default();
            batch.push(&store.queue("U", 0), &parts("U", 0, &large, b"")).unwrap();
            store.append(&mut batch).unwrap();
        }
        send(&store, "T", 0, &as_slices(&bodies)).unwrap();
    }
    let path = dir.path().join("consumequeue/T/0").join(format!("{:020}", 0));
    OpenOptions::new().write(true).open(&path).unwrap().write_all_at(&[0; 5 * 20], 0).unwrap();
    assert!(read_all(&open(config), "T", 0) == expect(&bodies));
}

/// Where the records of a log file begin, with their queues and offsets.
fn places(log: &[u8]) -> Vec<(usize, i32, i64)> {
    let (mut all, mut at) = (Vec::new(), 0);
    while let Entry::Record(record) = record::read(&log[at..]) {
        all.push((at, record.queue_id(), record.queue_offset()));
        at += record.bytes().len();
    }
    all
}

/// No checksum guards queue and offset of a record: a bit that flips there must not cost the others of the queue.
#[test]
fn a_record_that_names_a_wrong_place_costs_itself_only_when_all_is_rebuilt() {
    let made = tempfile::tempdir().unwrap();
    let bodies = numbered(MESSAGES);
    {
        let store = open(config(made.path()));
        for bodies in bodies.chunks(7) {
            send(&store, "T", 0, &as_slices(bodies)).unwrap();
            send(&store, "T", 1, &as_slices(&bodies[..1])).unwrap();
        }
    }
    std::fs::remove_dir_all(made.path().join("consumequeue")).unwrap();
    let path = |root: &Path| root.join("commitlog").join(format!("{:020}", 0));
    let records = places(&std::fs::read(path(made.path())).unwrap());
    for (number, byte, bit) in [
        // Queue offset: one off, far beyond the end, to 0, and the first one of the queue.
        (100, 27, 0),
        (101, 25, 2),
        (records.iter().position(|(_, queue, offset)| (*queue, *offset) == (0, 64)).unwrap(), 27, 6),
        (0, 26, 1),
        // Queue id, from either queue to the other.
        (100, 15, 0),
        (records.iter().rposition(|(_, queue, _)| *queue == 1).unwrap() - 3, 15, 0),
        (records.iter().position(|(_, queue, offset)| (*queue, *offset) == (1, 5)).unwrap(), 15, 0),
        (0, 15, 0),
    ] {
        let dir = tempfile::tempdir().unwrap();
        copy_as_killed(made.path(), dir.path());
        let (at, queue, offset) = records[number];
        let file = log_file(dir.path(), 0);
        let mut there = [0];
        file.read_exact_at(&mut there, at as u64 + byte).unwrap();
        file.write_all_at(&[there[0] ^ 1 << bit], at as u64 + byte).unwrap();
        for round in ["built again", "opened again"] {
            let store = open(config(dir.path()));
            let all = read_what_is_there(&store);
            let wrong = format!("record {number} of queue {queue} offset {offset}, bit {bit} of {byte}, {round}");
            let expected =
                (0..MESSAGES as i64).filter(|n| (0, *n) != (queue, offset)).map(|n| (n, bodies[n as usize].clone()));
            let (found, expected): (Vec<_>, Vec<_>) = (all, expected.collect());
            assert!(found == expected, "{wrong}: {} of {}", found.len(), expected.len());
            assert_eq!(store.queue("T", 0).next_offset(), MESSAGES as i64, "{wrong}");
            assert_eq!(store.queue("T", 1).next_offset(), MESSAGES.div_ceil(7) as i64, "{wrong}");
        }
    }
}
