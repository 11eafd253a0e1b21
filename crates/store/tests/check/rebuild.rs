//! Queues and index built again from the log, and what must not be touched by it.

use std::fs;
use std::path::Path;

use ferromq_store::{Report, StoreConfig, rebuild_store};

use crate::common::{self, open, send};
use crate::support::*;

fn rebuilt(config: &StoreConfig) -> Report {
    rebuild_store(config, &check(config)).unwrap();
    check(config)
}

#[test]
fn a_rebuild_repairs_everything_but_the_log() {
    let harms: [fn(&Path); 7] = [
        |root| edit(root.join(QUEUE), |queue| queue[107] ^= 1),
        |root| edit(root.join(QUEUE), |queue| queue[60..120].fill(0)),
        |root| fs::remove_dir_all(root.join("consumequeue")).unwrap(),
        |root| edit(root.join(QUEUE), |queue| queue.truncate(100)),
        |root| edit(index_file(root, 0), |index| index[240..600].fill(9)),
        |root| fs::remove_dir_all(root.join("index")).unwrap(),
        |root| edit(root.join("checkpoint"), |bytes| bytes.truncate(10)),
    ];
    for (n, harm) in harms.into_iter().enumerate() {
        let (dir, config) = java_store();
        harm(dir.path());
        assert!(!check(&config).is_safe(), "harm {n}");
        let before = fs::read(dir.path().join(LOG)).unwrap();
        assert_eq!(kinds(&rebuilt(&config)), [], "harm {n}");
        assert!(fs::read(dir.path().join(LOG)).unwrap() == before, "the log is only read");
        let store = open(config);
        assert_eq!(common::read_all(&store, "JavaT", 0).len(), 45);
    }
}

#[test]
fn a_rebuild_keeps_the_records_behind_a_damaged_place() {
    let (dir, config) = java_store();
    edit(dir.path().join(LAST_LOG), |log| log[600..640].fill(0xFF));
    let records = check(&config).records;
    let report = rebuilt(&config);
    assert_eq!(report.records, records);
    let store = open(config);
    let served: usize = [("JavaT", 0), ("JavaT", 1), ("JavaB", 0)]
        .into_iter()
        .map(|(topic, id)| {
            let queue = store.find_queue(topic, id).unwrap();
            let is_message = |offset: &i64| store.store_time(&queue, *offset).is_some();
            (queue.min_offset()..queue.max_offset()).filter(is_message).count()
        })
        .sum();
    assert_eq!(served as u64, records);
}

#[test]
fn a_rebuild_does_not_bring_deleted_topics_back_nor_forget_where_old_queues_end() {
    let dir = tempfile::tempdir().unwrap();
    let config = common::config(dir.path());
    let store = open(config.clone());
    let bodies = common::numbered(250);
    send(&store, "Old", 0, &common::as_slices(&bodies)).unwrap();
    for topic in ["Gone", "Again", "Kept"] {
        send(&store, topic, 0, &common::as_slices(&bodies)).unwrap();
    }
    store.delete_topic("Gone").unwrap();
    store.delete_topic("Again").unwrap();
    send(&store, "Again", 0, &common::as_slices(&bodies[..30])).unwrap();
    drop(store);
    table(dir.path(), "topics.json", &topics(&["Again", "Kept", "Old"]));
    // All of Old, and more, has expired.
    fs::remove_file(dir.path().join(LOG)).unwrap();
    fs::remove_file(dir.path().join("commitlog/00000000000000065536")).unwrap();
    let report = check(&config);
    assert!(report.is_safe(), "{:?}", report.findings);
    let report = rebuilt(&config);
    assert!(report.is_safe(), "{:?}", report.findings);
    let store = open(config);
    assert!(store.find_queue("Gone", 0).is_none());
    assert_eq!(store.find_queue("Old", 0).unwrap().next_offset(), 250);
    assert_eq!(common::read_all(&store, "Again", 0), common::expect(&bodies[..30]));
    assert_eq!(common::read_all(&store, "Kept", 0), common::expect(&bodies));
}
