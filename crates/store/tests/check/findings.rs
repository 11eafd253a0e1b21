//! Each kind of damage is found where it is, and what is none is not.

use std::fs;

use ferromq_store::{AppendBatch, Kind, MessageParts, OpenError, Severity, Store, StoreConfig, check_store};

use crate::common::{self, copy_as_killed, open, send};
use crate::support::*;

#[test]
fn a_healthy_java_store_has_no_findings() {
    let report = after(|_| ());
    assert_eq!(kinds(&report), []);
    assert!(report.is_safe());
    assert_eq!((report.records, report.topics, report.queues), (122, 2, 3));
    assert_eq!((report.log_start, report.log_end), (0, 30_862));
    assert_eq!((report.index_files, report.index_entries), (2, 122));
}

#[test]
fn without_a_configuration_the_files_tell_their_sizes() {
    let (dir, _) = java_store();
    let config = StoreConfig { root: dir.path().to_owned(), message_index_enable: false, ..StoreConfig::default() };
    let report = check_store(&config, false, &mut |_| ()).unwrap();
    assert_eq!(kinds(&report), [(Kind::SettingNeeded, 2)]);
    assert!(first(&report, Kind::SettingNeeded).contains("mappedFileSizeConsumeQueue=400"));
}

#[test]
fn our_own_stores_are_healthy_stopped_and_killed() {
    let dir = tempfile::tempdir().unwrap();
    let killed = tempfile::tempdir().unwrap();
    let config = common::config(dir.path());
    let store = open(config.clone());
    let bodies = common::numbered(300);
    for n in 0..3 {
        send(&store, "A", n, &common::as_slices(&bodies)).unwrap();
    }
    copy_as_killed(dir.path(), killed.path());
    drop(store);
    for root in [dir.path(), killed.path()] {
        table(root, "topics.json", &topics(&["A"]));
        table(root, "consumerOffset.json", r#"{"offsetTable":{"A@G":{0:300,1:7}}}"#);
    }
    let report = check(&config);
    assert_eq!((kinds(&report), report.records), (vec![], 900));

    // Entries that were in memory when it died are no damage: the next start builds them.
    let report = check(&common::config(killed.path()));
    assert!(report.is_safe(), "{:?}", report.findings);
    assert_eq!(report.findings.count(Kind::NotStopped), 1);
    let store = open(common::config(killed.path()));
    assert_eq!(common::read_all(&store, "A", 2), common::expect(&bodies));
    drop(store);
    assert_eq!(kinds(&check(&common::config(killed.path()))), []);
}

#[test]
fn a_file_without_blocks_behind_the_last_record_is_healthy() {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig { mapped_file_size_commit_log: 16 << 20, ..common::config(dir.path()) };
    let store = open(config.clone());
    let bodies: Vec<Vec<u8>> = (0..150).map(|n| vec![b'a' + n % 26; 20_000]).collect();
    send(&store, "A", 0, &common::as_slices(&bodies)).unwrap();
    let end = store.max_physical_offset() as usize;
    drop(store);
    // A Java broker's file: as long, but only what was written takes room.
    let written = fs::read(dir.path().join(LOG)).unwrap();
    fs::remove_file(dir.path().join(LOG)).unwrap();
    let file = fs::File::create(dir.path().join(LOG)).unwrap();
    file.set_len(16 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &written[..end], 0).unwrap();
    table(dir.path(), "topics.json", &topics(&["A"]));
    let report = check(&config);
    assert_eq!((kinds(&report), report.log_end), (vec![], end as u64));
}

#[test]
fn long_topics_and_ipv6_hosts_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let config = common::config(dir.path());
    let store = open(config.clone());
    let topic = format!("%RETRY%{}", "g".repeat(200));
    let queue = store.queue(&topic, 0);
    let mut batch = AppendBatch::default();
    for host in ["[2001:db8::1]:10911", "127.0.0.1:10911"] {
        let host = host.parse().unwrap();
        let parts = common::parts(&topic, 0, b"body", b"KEYS\x01k\x02");
        batch.push(&queue, &MessageParts { born_host: host, store_host: host, ..parts }).unwrap();
    }
    store.append(&mut batch).unwrap();
    common::dispatch(&store);
    drop(store);
    table(dir.path(), "topics.json", &topics(&[&topic]));
    let report = check(&config);
    assert_eq!((kinds(&report), report.records, report.index_entries), (vec![], 2, 2));
}

#[test]
fn a_running_store_and_a_folder_that_is_none_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let config = common::config(dir.path());
    assert!(matches!(check_store(&config, true, &mut |_| ()), Err(OpenError::NoStore { .. })));
    let store = open(config.clone());
    let error = check_store(&config, true, &mut |_| ()).unwrap_err();
    assert!(matches!(error, OpenError::InUse { .. }), "{error}");
    drop(store);
    assert!(check(&config).is_safe());
}

#[test]
fn a_flipped_bit_of_a_body_is_found_at_its_record() {
    let report = after(|root| {
        edit(root.join(LOG), |log| {
            let at = bodies(log)[2].start;
            log[at] ^= 1;
        });
    });
    assert_eq!(report.findings.count(Kind::RecordDamaged), 1);
    let place = first(&report, Kind::RecordDamaged);
    assert!(place.contains(LOG) && place.contains("CRC"), "{place}");
    // Its queue entry and its key lead to what is no message any more.
    assert_eq!(report.findings.count(Kind::EntryStray), 1, "{:?}", report.findings);
    assert_eq!(report.findings.count(Kind::IndexWrong), 1);
    assert_eq!(report.records, 121);
}

#[test]
fn damage_in_the_last_file_does_not_hide_the_records_behind_it() {
    let report = after(|root| edit(root.join(LAST_LOG), |log| log[600..640].fill(0xFF)));
    assert_eq!(report.findings.count(Kind::RecordsBehindDamage), 1);
    assert!(report.records > 110, "{}", report.records);
    assert_eq!(report.log_end, 30_862);
}

#[test]
fn a_torn_end_is_a_note() {
    let report = after(|root| edit(root.join(LAST_LOG), |log| log[30_862 - 16_384 + 8..][..40].fill(7)));
    assert_eq!(kinds(&report), [(Kind::TornEnd, 1)]);
    assert!(report.is_safe());
    assert!(first(&report, Kind::TornEnd).contains("48 bytes at 30862"));
}

#[test]
fn missing_log_files_are_noticed_wherever_they_stood() {
    let report = after(|root| fs::remove_file(root.join(LAST_LOG)).unwrap());
    assert_eq!(report.findings.count(Kind::LogShorterThanKnown), 1, "the checkpoint remembers");
    assert!(report.findings.count(Kind::EntryBeyondEnd) > 0);

    let report = after(|root| {
        fs::copy(root.join(LAST_LOG), root.join("commitlog/00000000000000049152")).unwrap();
    });
    assert_eq!(report.findings.worst(), Some(Severity::Unusable));
    assert!(first(&report, Kind::LogGap).contains("00000000000000032768"));

    let report = after(|root| edit(root.join(LOG), |log| log.truncate(10_000)));
    assert_eq!(report.findings.worst(), Some(Severity::Unusable));
}

#[test]
fn other_file_sizes_than_the_configured_are_told() {
    let (_dir, mut config) = java_store();
    config.mapped_file_size_commit_log = 1 << 20;
    let report = check(&config);
    assert_eq!(kinds(&report), [(Kind::LogSetting, 1)]);
    assert!(first(&report, Kind::LogSetting).contains("16384"));
}

#[test]
fn queue_entries_are_compared_with_their_records() {
    // Offset 5 of JavaT/0 leads elsewhere, has another size, another tag.
    for at in [107, 111, 119] {
        let report = after(|root| edit(root.join(QUEUE), |queue| queue[at] ^= 1));
        assert_eq!(kinds(&report), [(Kind::EntryWrong, 1)], "byte {at}");
        assert!(first(&report, Kind::EntryWrong).starts_with("JavaT/0 from offset 5,"));
    }
    let hole = after(|root| edit(root.join(QUEUE), |queue| queue[60..120].fill(0)));
    assert_eq!(kinds(&hole), [(Kind::EntryMissing, 3)]);
    assert!(first(&hole, Kind::EntryMissing).starts_with("JavaT/0 from offset 3,"));
    let gone = after(|root| fs::remove_dir_all(root.join("consumequeue/JavaT/1")).unwrap());
    assert_eq!(kinds(&gone), [(Kind::EntryMissing, 45)]);
    let short = after(|root| edit(root.join(QUEUE), |queue| queue.truncate(100)));
    assert_eq!(short.findings.count(Kind::QueueFile), 1);
    assert_eq!(short.findings.count(Kind::EntryMissing), 45);
    let more = after(|root| {
        edit(root.join("consumequeue/JavaB/0/00000000000000000400"), |queue| {
            let entry = queue[20..40].to_vec();
            queue[240..260].copy_from_slice(&entry);
        });
    });
    assert_eq!(kinds(&more), [(Kind::EntryStray, 1)]);
}

#[test]
fn the_index_is_compared_with_the_keys() {
    let entry = |n: usize| 40 + 50 * 4 + n * 20;
    let damage = |n: usize, at: usize| after(|root| edit(index_file(root, n), |index| index[at] ^= 1));
    let hash = damage(0, entry(7) + 3);
    assert_eq!((hash.findings.count(Kind::IndexWrong), hash.findings.count(Kind::IndexMissing)), (1, 1));
    let position = damage(0, entry(7) + 11);
    assert!(position.findings.count(Kind::IndexMissing) >= 1, "{:?}", position.findings);
    assert_eq!(kinds(&damage(0, entry(7) + 14)), [(Kind::IndexWrong, 1)], "seconds");
    assert_eq!(kinds(&damage(0, entry(7) + 19)), [(Kind::IndexFile, 1)], "link");
    assert_eq!(kinds(&damage(1, 40 + 3)), [(Kind::IndexFile, 1)], "slot");
    assert_eq!(kinds(&damage(1, 35)), [(Kind::IndexFile, 1)], "slots in use");
    assert_eq!(kinds(&damage(1, 31)), [(Kind::IndexFile, 1)], "end");
    assert_eq!(kinds(&damage(0, 39)), [(Kind::IndexFile, 1)], "count");

    let gone = after(|root| fs::remove_file(index_file(root, 0)).unwrap());
    assert_eq!(kinds(&gone), [(Kind::IndexMissing, 99)]);
    let none = after(|root| fs::remove_dir_all(root.join("index")).unwrap());
    assert_eq!(kinds(&none), [(Kind::NoIndex, 122)]);
    let short = after(|root| edit(index_file(root, 1), |index| index.truncate(1000)));
    assert_eq!(short.findings.count(Kind::IndexFile), 1);
}

#[test]
fn the_checkpoint_is_compared_with_the_log() {
    let gone = after(|root| fs::remove_file(root.join("checkpoint")).unwrap());
    assert_eq!(kinds(&gone), [(Kind::NoCheckpoint, 1)]);
    let short = after(|root| edit(root.join("checkpoint"), |bytes| bytes.truncate(10)));
    assert_eq!(kinds(&short), [(Kind::Checkpoint, 1)]);
    let ahead = after(|root| edit(root.join("checkpoint"), |bytes| bytes[2] = 9));
    assert_eq!(kinds(&ahead), [(Kind::LogShorterThanKnown, 1)]);
}

#[test]
fn tables_are_read_as_a_broker_reads_them_and_compared_with_the_queues() {
    let offsets = |text: &str| {
        let text = format!(r#"{{"offsetTable":{{"JavaT@G":{text}}}}}"#);
        after(move |root| table(root, "consumerOffset.json", &text))
    };
    assert_eq!(kinds(&offsets("{0:45,1:0}")), []);
    let beyond = offsets("{0:46,1:45,7:1}");
    assert_eq!(kinds(&beyond), [(Kind::ConsumerOffset, 2)]);
    assert!(first(&beyond, Kind::ConsumerOffset).contains("group G, JavaT/0: offset 46, the queue ends at 45"));

    let from_copy = after(|root| {
        table(root, "consumerOffset.json", r#"{"offsetTable":{"JavaT@G":{0:1"#);
        table(root, "consumerOffset.json.bak", r#"{"offsetTable":{"JavaT@G":{0:50}}}"#);
    });
    assert_eq!(kinds(&from_copy), [(Kind::TableFromCopy, 1), (Kind::ConsumerOffset, 1)]);
    for name in ["topics.json", "subscriptionGroup.json", "consumerOrderInfo.json", "delayOffset.json"] {
        let broken = after(|root| {
            table(root, name, "{");
            table(root, &format!("{name}.bak"), "");
        });
        assert_eq!(broken.findings.count(Kind::TableLost), 1, "{name}");
        assert_eq!(broken.findings.worst(), Some(Severity::Damage), "{name}");
    }
    // Offsets stand nowhere else, and what is whole may be a newer broker's.
    for (name, text) in [("consumerOffset.json", "{"), ("topics.json", r#"{"topicConfigTable":7}"#)] {
        let broken = after(|root| {
            table(root, name, text);
            table(root, &format!("{name}.bak"), "");
        });
        assert_eq!(broken.findings.count(Kind::TableUnreadable), 1, "{name}");
        assert_eq!(broken.findings.worst(), Some(Severity::Unusable), "{name}");
    }
    let delays = after(|root| table(root, "delayOffset.json", r#"{"offsetTable":{1:0,3:5}}"#));
    assert_eq!(kinds(&delays), [(Kind::DelayOffset, 1)]);
    let unknown = after(|root| table(root, "topics.json", &topics(&["JavaT"])));
    assert_eq!(kinds(&unknown), [(Kind::TopicUnknown, 1)]);
    let none = after(|root| fs::remove_file(root.join("config/topics.json")).unwrap());
    assert_eq!(kinds(&none), [(Kind::NoTopicTable, 2)]);
}

#[test]
fn a_topic_that_was_deleted_or_made_again_is_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    let config = common::config(dir.path());
    let store = open(config.clone());
    let bodies = common::numbered(250);
    for topic in ["Gone", "Again", "Kept"] {
        send(&store, topic, 0, &common::as_slices(&bodies)).unwrap();
    }
    store.delete_topic("Gone").unwrap();
    store.delete_topic("Again").unwrap();
    send(&store, "Again", 0, &common::as_slices(&bodies[..30])).unwrap();
    drop(store);
    table(dir.path(), "topics.json", &topics(&["Again", "Kept"]));
    let report = check(&config);
    assert_eq!(kinds(&report), [(Kind::TopicUnknown, 250)]);
    assert!(report.is_safe());
}

#[test]
fn rocksdb_stores_are_recognised_and_refused_with_the_way_out() {
    for folder in ["consumequeue", "consumequeue_rocksdb", "kvStore", "config/topics", "config/rdb"] {
        let (dir, config) = java_store();
        fs::create_dir_all(dir.path().join(folder)).unwrap();
        fs::write(dir.path().join(folder).join("CURRENT"), "MANIFEST-000005\n").unwrap();
        let report = check(&config);
        assert_eq!(kinds(&report), [(Kind::RocksDb, 1)]);
        assert!(first(&report, Kind::RocksDb).ends_with(folder));
        let error = Store::open(config, std::sync::Arc::new(|_| ())).err().unwrap().to_string();
        assert!(error.contains(folder) && error.contains("docs/migration.md"), "{error}");
        assert!(!dir.path().join("abort").exists(), "nothing was touched");
    }
}
