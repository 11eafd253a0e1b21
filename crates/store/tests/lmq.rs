//! Light queues: one record in several queues, through kills, losses, deletion and refusals.
#![allow(clippy::unwrap_used, reason = "a test says by panicking what is wrong")]

mod common;

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use common::{config, copy_as_killed, dispatch, open, parts, read_all};
use ferromq_protocol::properties;
use ferromq_store::{
    AppendBatch, AppendError, Boundary, Fault, Faults, Operation, ReadStatus, Reject, Store, StoreConfig, check_store,
    rebuild_store,
};

fn lights(root: &Path) -> StoreConfig {
    StoreConfig { multi_dispatch: true, ..config(root) }
}

/// Sends a message that is to stand in the light queues of `list` too.
fn send(store: &Store, topic: &str, body: &str, list: &str) -> Result<(), AppendError> {
    let mut batch = AppendBatch::default();
    let text = format!("UNIQ_KEY\u{1}{body}\u{2}INNER_MULTI_DISPATCH\u{1}{list}\u{2}TAGS\u{1}t");
    batch.push(&store.queue(topic, 1), &parts(topic, 1, body.as_bytes(), text.as_bytes())).unwrap();
    store.append(&mut batch)?;
    dispatch(store);
    Ok(())
}

fn fill(store: &Store) {
    for n in 0..200 {
        let list = ["%LMQ%a", "%LMQ%a,%LMQ%b", "%LMQ%b,%LMQ%a,"][n % 3];
        send(store, "T", &format!("body {n}"), list).unwrap();
    }
}

fn bodies(numbers: impl Iterator<Item = usize>) -> Vec<(i64, Vec<u8>)> {
    numbers.enumerate().map(|(at, n)| (at as i64, format!("body {n}").into_bytes())).collect()
}

fn check(store: &Store) {
    assert_eq!(read_all(store, "T", 1), bodies(0..200));
    assert_eq!(read_all(store, "%LMQ%a", 0), bodies(0..200));
    assert_eq!(read_all(store, "%LMQ%b", 0), bodies((0..200).filter(|n| n % 3 != 0)));
}

#[test]
fn a_record_stands_in_its_queue_and_in_those_it_names() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(lights(dir.path()));
    fill(&store);
    check(&store);
    let queue = store.find_queue("%LMQ%b", 0).unwrap();
    let mut out = Vec::new();
    assert_eq!(store.read(&queue, 5, 1, 1 << 20, &mut |_| true, &mut out).status, ReadStatus::Found);
    let ferromq_protocol::record::Entry::Record(record) = ferromq_protocol::record::read(&out) else { panic!() };
    // As RocketMQ's clients read it, who ask for the number at the place of the name.
    let get = |name| properties::get_str(record.properties(), name).unwrap();
    assert_eq!((record.topic(), get("TAGS"), get("INNER_MULTI_DISPATCH")), (&b"T"[..], "t", "%LMQ%b,%LMQ%a,"));
    let offsets: Vec<i64> = get("INNER_MULTI_QUEUE_OFFSET").split(',').map(|text| text.parse().unwrap()).collect();
    assert_eq!(offsets, [5, record.queue_offset()]);
    let time = store.store_time(&queue, 0).unwrap();
    assert_eq!(store.search_by_time(&queue, time, Boundary::Lower), 0);
}

#[test]
fn light_queues_come_back_after_a_kill_whatever_else_was_lost() {
    let losses: [fn(&Path); 5] = [
        |_| (),
        |root| fs::remove_dir_all(root.join("consumequeue")).unwrap(),
        |root| fs::remove_dir_all(root.join("consumequeue/%LMQ%b")).unwrap(),
        |root| fs::remove_file(root.join("checkpoint")).unwrap(),
        |root| fs::remove_dir_all(root.join("consumequeue/T")).unwrap(),
    ];
    for loss in losses {
        let (dir, killed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let store = open(lights(dir.path()));
        fill(&store);
        store.checkpoint_now();
        copy_as_killed(dir.path(), killed.path());
        loss(killed.path());
        // The log is followed whatever the settings are now.
        for config in [config(killed.path()), lights(killed.path())] {
            let store = open(config);
            check(&store);
            assert_eq!(store.queue("%LMQ%a", 0).next_offset(), 200);
        }
    }
}

#[test]
fn a_check_compares_light_queues_and_a_rebuild_makes_them() {
    let dir = tempfile::tempdir().unwrap();
    fill(&open(lights(dir.path())));
    let config = lights(dir.path());
    fs::create_dir_all(dir.path().join("config")).unwrap();
    let topics = r#"{"topicConfigTable":{"T":{"topicName":"T"}}}"#;
    fs::write(dir.path().join("config/topics.json"), topics).unwrap();
    let report = check_store(&config, true, &mut |_| ()).unwrap();
    assert!(report.is_safe(), "{:?}", report.findings.iter().collect::<Vec<_>>());
    assert_eq!(report.queues, 3);
    fs::remove_dir_all(dir.path().join("consumequeue/%LMQ%a")).unwrap();
    let report = check_store(&config, true, &mut |_| ()).unwrap();
    assert!(!report.is_safe());
    rebuild_store(&config, &report).unwrap();
    assert!(check_store(&config, true, &mut |_| ()).unwrap().is_safe());
    check(&open(config));
}

#[test]
fn only_ordinary_topics_fan_out_and_only_when_it_is_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(lights(dir.path()));
    for topic in ["%RETRY%G", "%DLQ%G", "SCHEDULE_TOPIC_XXXX"] {
        send(&store, topic, "x", "%LMQ%a").unwrap();
    }
    for list in ["%LMQ%a,plain", "%LMQ%a,%LMQ%a", "%LMQ%../../x", ""] {
        assert!(store.check_light_queues("T", list).is_err(), "{list}");
        send(&store, "T", "x", list).unwrap();
    }
    drop(store);
    let store = open(config(dir.path()));
    send(&store, "T", "x", "%LMQ%a").unwrap();
    assert!(store.find_queue("%LMQ%a", 0).is_none());
    assert_eq!(read_all(&store, "T", 1).len(), 5);
}

#[test]
fn there_are_as_many_light_queues_as_the_setting_says() {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig { max_lmq_consume_queue_num: 2, ..lights(dir.path()) };
    let store = open(config.clone());
    assert_eq!(store.check_light_queues("T", "%LMQ%a,%LMQ%b,%LMQ%c"), Err(Reject::TooManyLightQueues { max: 2 }));
    send(&store, "T", "x", "%LMQ%a,%LMQ%b").unwrap();
    drop(store);
    let store = open(config);
    assert_eq!(store.check_light_queues("T", "%LMQ%a,%LMQ%b"), Ok(()));
    assert!(matches!(store.light_queue("%LMQ%c"), Err(Reject::TooManyLightQueues { max: 2 })));
    store.delete_topic("%LMQ%a").unwrap();
    assert!(store.light_queue("%LMQ%c").is_ok());
}

#[test]
fn a_failed_append_gives_the_offsets_back_and_who_waits_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let faults = Arc::new(Faults::default());
    let told = Arc::new(Mutex::new(Vec::new()));
    let listener = {
        let told = Arc::clone(&told);
        move |arrival: &ferromq_store::Arrival<'_>| {
            told.lock().unwrap().push((arrival.queue.topic().to_owned(), arrival.queue_offset));
        }
    };
    let config = StoreConfig { faults: Some(Arc::clone(&faults)), ..lights(dir.path()) };
    let store = Store::open(config, Arc::new(listener)).unwrap();
    send(&store, "T", "first", "%LMQ%a").unwrap();
    faults.inject(Operation::Write, 0, Fault::NoSpace);
    assert!(matches!(send(&store, "T", "refused", "%LMQ%a"), Err(AppendError::DiskFull { .. })));
    faults.heal(Operation::Write);
    store.find_queue("%LMQ%a", 0).unwrap().watchers.store(1, std::sync::atomic::Ordering::SeqCst);
    send(&store, "T", "second", "%LMQ%a").unwrap();
    let bodies: Vec<_> = read_all(&store, "%LMQ%a", 0).into_iter().map(|(_, body)| body).collect();
    assert_eq!(bodies, [&b"first"[..], b"second"]);
    assert_eq!(*told.lock().unwrap(), [("%LMQ%a".to_owned(), 1)]);
}

#[test]
fn a_damaged_entry_of_a_light_queue_is_built_again_when_it_is_read() {
    let dir = tempfile::tempdir().unwrap();
    fill(&open(lights(dir.path())));
    let path = dir.path().join("consumequeue/%LMQ%a/0/00000000000000000000");
    let mut file = fs::read(&path).unwrap();
    file[20 * 30..20 * 33].fill(0);
    fs::write(&path, file).unwrap();
    check(&open(lights(dir.path())));
}
