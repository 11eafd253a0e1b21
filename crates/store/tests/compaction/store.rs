//! What stays and what goes, how it is read, and what a start makes of it.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use ferromq_protocol::properties;
use ferromq_store::{Boundary, ReadStatus, Severity, StoreConfig, TopicKind, check_store};

use crate::common::{copy_as_killed, open, parts};
use crate::support::{
    ENTRIES, RECORDS, Seen, TOPIC, all, body, copies, newest, put, queue, rounds, seen, settings, short_lived, wait,
};

#[test]
fn the_newest_of_each_key_stays_and_offsets_have_holes() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(settings(dir.path(), 50));
    put(&store, &rounds(0, 200, 5));
    // All full pairs become one, or two.
    wait("a pass", || all(&store).len() < 60);
    let left = all(&store);
    let last = newest(&left);
    assert_eq!(last.len(), 5);
    for n in 195..200 {
        assert_eq!(last[&format!("k{}", n % 5)].body, body(n));
    }
    assert!(left.windows(2).all(|two| two[0].offset < two[1].offset));
    let queue = queue(&store);
    assert_eq!((queue.min_offset(), queue.max_offset()), (left[0].offset, 200));
    assert!(queue.min_offset() > 100 && queue.is_compacted());
    // A read in a hole goes on behind it.
    let mut out = Vec::new();
    let outcome = store.read(&queue, 3, 1, 1 << 20, &mut |_| true, &mut out);
    assert_eq!((outcome.status, outcome.next_offset), (ReadStatus::Found, left[0].offset + 1));
    assert_eq!((outcome.min_offset, outcome.max_offset), (left[0].offset, 200));
    assert_eq!(seen(&out), left[..1]);
    assert!(store.entry(&queue, 3).is_none());
    drop(store);
    // Another start, in order or not, finds the same.
    let killed = tempfile::tempdir().unwrap();
    copy_as_killed(dir.path(), killed.path());
    std::fs::write(killed.path().join("abort"), "1").unwrap();
    for root in [dir.path(), killed.path()] {
        let store = open(settings(root, 3_600_000));
        assert_eq!(all(&store), left);
        put(&store, &rounds(200, 3, 5));
        assert_eq!(all(&store).len(), left.len() + 3);
    }
}

#[test]
fn files_are_those_of_rocketmq() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(settings(dir.path(), 3_600_000));
    put(&store, &rounds(0, 100, 100));
    drop(store);
    let [records, entries] = copies(dir.path());
    let names = |files: &[std::path::PathBuf]| -> Vec<u64> {
        files.iter().map(|path| path.file_name().unwrap().to_str().unwrap().parse().unwrap()).collect()
    };
    let expected: Vec<u64> = (0..records.len() as u64).map(|n| n * RECORDS).collect();
    assert_eq!((names(&records), names(&entries)), (expected.clone(), expected));
    assert!(records.len() > 3);
    assert!(records.iter().all(|path| std::fs::metadata(path).unwrap().len() == RECORDS));
    assert!(entries.iter().all(|path| std::fs::metadata(path).unwrap().len() == ENTRIES));
    let (records, entries) = (std::fs::read(&records[0]).unwrap(), std::fs::read(&entries[0]).unwrap());
    let long = |at: usize| i64::from_be_bytes(entries[at..at + 8].try_into().unwrap());
    let int = |at: usize| i32::from_be_bytes(entries[at..at + 4].try_into().unwrap());
    // The second message: its place, size, offset, one message, and what RocketMQ reserves.
    let size = int(8) as usize;
    assert_eq!((long(46), long(46 + 28)), (size as i64, 1));
    assert_eq!(entries[46 + 36..92], [0, 1, 255, 255, 255, 255, 0, 0, 0, 0]);
    // The record says where it stands now.
    assert_eq!(records[size + 28..size + 36], (size as i64).to_be_bytes());
    // A full pair ends with an entry of nothing, and with the length and the mark of the rest.
    let end = (0..20).find(|n| int(n * 46 + 8) == 0).unwrap();
    assert_eq!((long(end * 46), long(end * 46 + 28)), (-1, 0));
    let last = (end - 1) * 46;
    let filled = long(last) as usize + int(last + 8) as usize;
    assert_eq!(records[filled..filled + 4], (RECORDS as u32 - filled as u32).to_be_bytes());
    assert_eq!(records[filled + 4..filled + 8], 0xCBD4_3194_u32.to_be_bytes());
}

#[test]
fn a_queue_keeps_the_sizes_of_its_files() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..2 {
        let times = 1 + 3 * round as u64;
        let store = open(StoreConfig {
            compaction_mapped_file_size: times * (RECORDS - ENTRIES),
            compaction_cq_mapped_file_size: times * ENTRIES,
            ..settings(dir.path(), 50)
        });
        put(&store, &rounds(round * 100, 100, 60));
        wait("a pass", || all(&store).len() < 100 + 40 * round);
        assert!(
            (100 * round + 40..100 * round + 100)
                .all(|n| newest(&all(&store))[&format!("k{}", n % 60)].body == body(n))
        );
        drop(store);
        let sizes = copies(dir.path())
            .map(|files| files.iter().map(|path| std::fs::metadata(path).unwrap().len()).collect::<Vec<_>>());
        assert!(
            sizes[0].iter().all(|size| *size == RECORDS) && sizes[1].iter().all(|size| *size == ENTRIES),
            "{sizes:?}"
        );
    }
}

#[test]
fn an_empty_body_deletes_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(settings(dir.path(), 50));
    put(&store, &rounds(0, 30, 3));
    put(&store, &[("k1".to_owned(), Vec::new())]);
    assert!(all(&store).iter().any(|seen| seen.body.is_empty()), "a deletion is seen until a pass");
    // Others push it out of the pair that is written to.
    put(&store, &(0..60).map(|n| ("other".to_owned(), body(n))).collect::<Vec<_>>());
    wait("a pass", || all(&store).iter().all(|seen| seen.key != "k1"));
    let last = newest(&all(&store));
    assert_eq!((last["k0"].body.clone(), last["k2"].body.clone()), (body(27), body(29)));
}

#[test]
fn the_copy_outlives_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(short_lived(dir.path(), 100));
    let mut sent = 0;
    wait("old log files go", || {
        put(&store, &rounds(sent, 50, 7));
        sent += 50;
        store.min_physical_offset() > 40_000
    });
    let expected = |left: &[Seen]| {
        let last = newest(left);
        (sent - 7..sent).all(|n| last[&format!("k{}", n % 7)].body == body(n))
    };
    assert!(expected(&all(&store)));
    // A key that came once, long ago.
    let rare = put(&store, &[("rare".to_owned(), b"long ago".to_vec())])[0];
    let start = store.max_physical_offset();
    wait("its log file goes", || {
        put(&store, &rounds(0, 50, 7));
        store.min_physical_offset() > start
    });
    let is_there =
        |store: &ferromq_store::Store| newest(&all(store)).get("rare").is_some_and(|seen| seen.offset == rare);
    assert!(is_there(&store));
    let queue = queue(&store);
    let entry = store.entry(&queue, rare).unwrap();
    assert_eq!(store.look_entry(&queue, &entry, |record| record.body().to_vec()).unwrap(), b"long ago");
    assert!(queue.min_offset() <= rare);
    drop(queue);
    drop(store);
    let table = format!(
        r#"{{"topicConfigTable":{{"{TOPIC}":{{"topicName":"{TOPIC}","readQueueNums":1,"writeQueueNums":1,"perm":6,"attributes":{{"cleanup.policy":"COMPACTION"}}}}}}}}"#
    );
    std::fs::create_dir_all(dir.path().join("config")).unwrap();
    std::fs::write(dir.path().join("config/topics.json"), table).unwrap();
    let findings = check_store(&settings(dir.path(), 1), true, &mut |_| ()).unwrap().findings;
    assert!(findings.worst().is_none_or(|worst| worst == Severity::Note), "{findings:?}");
    let store = open(short_lived(dir.path(), 100));
    assert!(is_there(&store));
}

#[test]
fn a_log_that_is_gone_does_not_let_an_offset_be_used_twice() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(settings(dir.path(), 3_600_000));
    put(&store, &rounds(0, 40, 100));
    let before = all(&store);
    drop(store);
    for gone in ["commitlog", "consumequeue"] {
        std::fs::remove_dir_all(dir.path().join(gone)).unwrap();
    }
    // Nor does a process that died.
    std::fs::write(dir.path().join("abort"), "1").unwrap();
    for round in 0..3 {
        let store = open(settings(dir.path(), 3_600_000));
        assert_eq!(all(&store)[..40], before);
        assert_eq!(put(&store, &rounds(40 + round, 1, 100)), [40 + round as i64]);
        assert_eq!(all(&store).len(), 41 + round);
    }
}

#[test]
fn what_the_log_has_lost_the_copy_loses_too() {
    let dir = tempfile::tempdir().unwrap();
    let early = tempfile::tempdir().unwrap();
    let store = open(settings(dir.path(), 3_600_000));
    put(&store, &rounds(0, 60, 100));
    drop(store);
    copy_as_killed(dir.path(), early.path());
    let store = open(settings(dir.path(), 3_600_000));
    put(&store, &rounds(60, 60, 100));
    drop(store);
    // A copy that is ahead of its log, as RocketMQ leaves it after a power cut.
    std::fs::remove_dir_all(early.path().join("compaction")).unwrap();
    copy_as_killed(&dir.path().join("compaction"), &early.path().join("compaction"));
    let store = open(settings(early.path(), 3_600_000));
    assert_eq!(all(&store).len(), 60);
    put(&store, &rounds(200, 70, 100));
    let now = all(&store);
    assert_eq!((now.len(), &now[60].body, &now[129].body), (130, &body(200), &body(269)));
    drop(store);
    assert_eq!(all(&open(settings(early.path(), 3_600_000))), now);
}

#[test]
fn passes_work_in_parts_when_memory_is_small() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(StoreConfig { max_offset_map_size: 400, ..settings(dir.path(), 50) });
    put(&store, &rounds(0, 120, 8));
    // Six keys at a time: what is left of older ones goes with the next parts.
    wait("all parts", || all(&store).len() < 60);
    let last = newest(&all(&store));
    assert!((112..120).all(|n| last[&format!("k{}", n % 8)].body == body(n)));
}

#[test]
fn filters_times_and_places_lead_to_the_copy() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(short_lived(dir.path(), 100));
    let mut sent = 0;
    wait("old log files go", || {
        put(&store, &rounds(sent, 30, 9));
        sent += 30;
        store.min_physical_offset() > 20_000 && all(&store).len() < sent / 2
    });
    let (left, queue) = (all(&store), queue(&store));
    let odd: Vec<_> = left.iter().filter(|seen| seen.body.len() % 2 == 1).cloned().collect();
    let (mut found, mut offset) = (Vec::new(), 0);
    while offset < queue.max_offset() {
        let mut out = Vec::new();
        let mut wanted = |entry: &ferromq_store::CqEntry| {
            let tag = |record: &ferromq_protocol::record::Record<'_>| {
                properties::get_str(record.properties(), "TAGS") == Some("t1")
            };
            store.look_entry(&queue, entry, tag).unwrap()
        };
        offset = store.read(&queue, offset, 32, 1 << 20, &mut wanted, &mut out).next_offset;
        found.extend(seen(&out));
    }
    assert_eq!(found, odd);
    for boundary in [Boundary::Lower, Boundary::Upper] {
        for seen in &left {
            let at = store.store_time(&queue, seen.offset).unwrap();
            let found = store.search_by_time(&queue, at, boundary);
            let is_right = if boundary == Boundary::Lower { found <= seen.offset } else { found >= seen.offset };
            assert!(is_right && store.store_time(&queue, found) == Some(at), "{boundary:?} {seen:?} {found}");
        }
    }
    assert_eq!(store.search_by_time(&queue, 0, Boundary::Lower), left[0].offset);
    assert!(store.is_in_memory(&queue, left[0].offset));
}

#[test]
fn a_topic_of_the_same_name_begins_anew() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(settings(dir.path(), 50));
    put(&store, &rounds(0, 100, 5));
    wait("a pass", || all(&store).len() < 60);
    store.delete_topic(TOPIC).unwrap();
    assert!(copies(dir.path()).iter().all(Vec::is_empty));
    // Another kind in between, and what RocketMQ would have left.
    assert!(!store.topic_queue(TOPIC, 0, TopicKind::Simple).is_compacted());
    store.delete_topic(TOPIC).unwrap();
    let left = dir.path().join("compaction/compactionLog").join(TOPIC).join("0");
    std::fs::create_dir_all(&left).unwrap();
    std::fs::write(left.join("00000000000000000000"), vec![1; RECORDS as usize]).unwrap();
    put(&store, &rounds(500, 40, 100));
    assert_eq!(all(&store).len(), 40);
    drop(store);
    let store = open(settings(dir.path(), 50));
    assert_eq!(
        all(&store).iter().map(|seen| seen.body.clone()).collect::<Vec<_>>(),
        (500..540).map(body).collect::<Vec<_>>()
    );
}

#[test]
fn without_compaction_the_topic_is_like_others() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(StoreConfig { enable_compaction: false, ..settings(dir.path(), 50) });
    put(&store, &rounds(0, 200, 5));
    assert_eq!(all(&store).len(), 200);
    assert!(!queue(&store).is_compacted() && !dir.path().join("compaction").exists());
    drop(store);
    let store = open(settings(dir.path(), 50));
    wait("a pass", || all(&store).len() < 60);
}

#[test]
fn damage_costs_the_message_it_hits() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(short_lived(dir.path(), 3_600_000));
    put(&store, &rounds(0, 400, 1000));
    wait("old log files go", || store.min_physical_offset() > 32_000);
    drop(store);
    let hit = |root: &Path, which: usize, file: usize, at: u64| {
        use std::os::unix::fs::FileExt;
        let path = &copies(root)[which][file];
        std::fs::File::options().write(true).open(path).unwrap().write_all_at(&[0xA5; 3], at).unwrap();
    };
    hit(dir.path(), 0, 0, 100);
    hit(dir.path(), 0, 2, 500);
    hit(dir.path(), 1, 3, 5 * 46 + 6);
    for abort in [false, true] {
        if abort {
            std::fs::write(dir.path().join("abort"), "1").unwrap();
        }
        let store = open(settings(dir.path(), 3_600_000));
        let left = all(&store);
        assert!((395..400).contains(&left.len()), "{}", left.len());
        assert!(left.iter().all(|seen| seen.body == body(seen.offset as usize)));
    }
    // Entries that are missing are made of the records.
    std::fs::remove_file(&copies(dir.path())[1][5]).unwrap();
    let store = open(settings(dir.path(), 3_600_000));
    assert!(all(&store).len() >= 395);
    let no_key = parts(TOPIC, 0, b"x", b"");
    let mut batch = ferromq_store::AppendBatch::default();
    batch.push(&queue(&store), &no_key).unwrap();
    store.append(&mut batch).unwrap();
}

#[test]
fn queues_that_were_there_before_their_topic_are_compacted_too() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(StoreConfig { compacted_topics: HashSet::new(), ..settings(dir.path(), 50) });
    // As a delayed message of a deleted topic makes one, before the topic is made again.
    let early = [store.queue(TOPIC, 0), store.queue(TOPIC, 3)];
    assert!(early.iter().all(|queue| !queue.is_compacted()));
    assert!(Arc::ptr_eq(&queue(&store), &early[0]) && early.iter().all(|queue| queue.is_compacted()));
    put(&store, &rounds(0, 200, 5));
    wait("a pass", || all(&store).len() < 60);
}

#[test]
fn a_position_that_says_too_much_brings_no_deleted_key_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(settings(dir.path(), 3_600_000));
    put(&store, &rounds(0, 30, 1));
    drop(store);
    // As after a start that has cut the copy, and a second crash.
    let position = dir.path().join("compaction/position-checkpoint");
    std::fs::write(&position, format!("{{\"queueOffsetMap\":{{\"{TOPIC}_0\":150,\"{TOPIC}_1\":7}}}}")).unwrap();
    let store = open(settings(dir.path(), 50));
    let text = std::fs::read_to_string(&position).unwrap();
    assert!(!text.contains("150") && !text.contains(&format!("{TOPIC}_1")), "{text}");
    put(&store, &[("k0".to_owned(), Vec::new())]);
    put(&store, &rounds(1000, 100, 1_000_000));
    wait("the key goes", || all(&store).iter().all(|seen| seen.key != "k0"));
}

#[test]
fn whoever_is_called_behind_a_deletion_may_use_a_compacted_topic() {
    let dir = tempfile::tempdir().unwrap();
    let (told, heard) = std::sync::mpsc::sync_channel(1);
    let config = settings(dir.path(), 50);
    // Threads of the store that never end must not keep the test from failing.
    std::thread::spawn(move || {
        let store = Arc::new(open(config));
        let caller = Arc::downgrade(&store);
        store.set_after_dispatch(move || {
            // As the broker does for a pop that waits.
            if let Some(store) = caller.upgrade() {
                store.topic_queue("Another", 0, TopicKind::Compacted);
            }
        });
        put(&store, &rounds(0, 10, 5));
        store.delete_topic(TOPIC).unwrap();
        told.send(store.queue("Another", 0).is_compacted()).unwrap();
    });
    assert_eq!(heard.recv_timeout(std::time::Duration::from_secs(20)), Ok(true));
}

#[test]
fn what_has_rotted_in_the_log_survives_a_crash_in_the_copy() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(settings(dir.path(), 3_600_000));
    put(&store, &rounds(0, 15, 100));
    let before = all(&store);
    drop(store);
    assert_eq!(copies(dir.path())[0].len(), 1, "all of it is in the last pair");
    let path = dir.path().join("commitlog/00000000000000000000");
    let mut log = std::fs::read(&path).unwrap();
    let at = log.windows(7).position(|bytes| bytes == b"body-5-").unwrap();
    log[at] ^= 1;
    std::fs::write(path, log).unwrap();
    std::fs::write(dir.path().join("abort"), "1").unwrap();
    let store = open(settings(dir.path(), 3_600_000));
    assert_eq!(all(&store), before);
    put(&store, &rounds(15, 15, 100));
    drop(store);
    std::fs::write(dir.path().join("abort"), "1").unwrap();
    let now = all(&open(settings(dir.path(), 3_600_000)));
    assert_eq!((&now[..15], now.len()), (&before[..], 30));
}
