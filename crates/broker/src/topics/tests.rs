//! Topics made, changed, refused and read back.

use ferromq_common::json_file;
use ferromq_store::{Store, StoreConfig};

use super::*;

fn open(dir: &Path, config: &BrokerConfig) -> Topics {
    Topics::open(dir, config, Arc::new(SaveSignal::default())).unwrap()
}

fn peer() -> SocketAddr {
    "127.0.0.1:5000".parse().unwrap()
}

fn named(name: &str, queues: i32) -> TopicConfig {
    TopicConfig { topic_name: name.into(), read_queue_nums: queues, write_queue_nums: queues, ..TopicConfig::default() }
}

fn shape(topics: &Topics, name: &str) -> (u32, u32, i32) {
    let topic = topics.get(name).unwrap();
    (topic.read_queues(), topic.write_queues(), topic.config().perm)
}

#[test]
fn system_topics_exist_from_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let topics = open(dir.path(), &BrokerConfig::default());
    assert_eq!(shape(&topics, "TBW102"), (8, 8, 7));
    assert_eq!(shape(&topics, "DefaultCluster"), (16, 16, 7));
    assert_eq!(shape(&topics, "broker-a"), (1, 1, 7));
    assert_eq!(shape(&topics, "SCHEDULE_TOPIC_XXXX"), (18, 18, 6));
    assert_eq!(shape(&topics, "BenchmarkTest"), (1024, 1024, 6));
    assert_eq!(shape(&topics, "DefaultCluster_REPLY_TOPIC"), (1, 1, 6));
    assert!(topics.get("RMQ_SYS_TRACE_TOPIC").is_none());
    for name in ["TBW102", "broker-a", "DefaultCluster", "rmq_sys_anything", "RMQ_SYS_TRANS_HALF_TOPIC"] {
        assert!(topics.is_system(name), "{name}");
    }
    assert!(topics.system_names().iter().any(|name| name == "broker-a"));
    assert!(topics.count() > 1, "a name server refuses a table of one topic");
}

#[test]
fn a_first_send_makes_a_topic_like_the_default_one() {
    let dir = tempfile::tempdir().unwrap();
    let topics = open(dir.path(), &BrokerConfig::default());
    let before = topics.generation();
    topics.create_on_send("few", "TBW102", 4, 0, peer()).unwrap();
    assert_eq!(shape(&topics, "few"), (4, 4, 6));
    topics.create_on_send("many", "TBW102", 100, 2, peer()).unwrap();
    assert_eq!(shape(&topics, "many"), (8, 8, 6));
    assert_eq!(topics.get("many").unwrap().config().topic_sys_flag, 2);
    topics.create_on_send("odd", "TBW102", -3, 0, peer()).unwrap();
    assert_eq!(shape(&topics, "odd"), (0, 0, 6));
    assert_eq!(topics.generation(), before + 3);
    topics.create_on_send("few", "TBW102", 8, 0, peer()).unwrap();
    assert_eq!(topics.generation(), before + 3);
}

#[test]
fn topics_are_not_made_where_that_is_off() {
    let dir = tempfile::tempdir().unwrap();
    let topics = open(dir.path(), &BrokerConfig::default());
    assert!(topics.create_on_send("x", "no-such-topic", 4, 0, peer()).is_none());
    topics.update(vec![named("plain", 4)]).unwrap();
    assert!(topics.create_on_send("x", "plain", 4, 0, peer()).is_none());
    let off = BrokerConfig { auto_create_topic_enable: false, ..Default::default() };
    let other = tempfile::tempdir().unwrap();
    assert!(open(other.path(), &off).create_on_send("x", "TBW102", 4, 0, peer()).is_none());
    // A topics.json from a time when it was on does not turn it on again.
    json_file::store(&persist::config_path(other.path(), FILE), &topics.encode().unwrap()).unwrap();
    let loaded = open(other.path(), &off);
    assert_eq!(shape(&loaded, "TBW102"), (8, 8, 7));
    assert!(loaded.create_on_send("x", "TBW102", 4, 0, peer()).is_none());
}

#[test]
fn bad_names_never_become_topics() {
    let dir = tempfile::tempdir().unwrap();
    let topics = open(dir.path(), &BrokerConfig::default());
    let count = topics.count();
    for name in ["", " ", "../../x", "a/b", "a b", "ä", "a\0b", &"x".repeat(128)] {
        assert!(topics.create_on_send(name, "TBW102", 4, 0, peer()).is_none(), "{name:?}");
        assert!(topics.create_if_absent(name, 1, 6, false, 0).is_none(), "{name:?}");
        assert!(matches!(topics.update(vec![named(name, 4)]), Err(TopicError::Invalid(_))), "{name:?}");
    }
    assert_eq!(topics.count(), count);
    let error = topics.update(vec![named("../../x", 4)]).unwrap_err().to_string();
    assert_eq!(error, "The specified topic: ../../x, contains illegal characters, allowing only ^[%|a-zA-Z0-9_-]+$");
}

#[test]
fn numbers_and_permissions_out_of_bounds_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let topics = open(dir.path(), &BrokerConfig::default());
    for queues in [-1, MAX_QUEUES_PER_TOPIC + 1, i32::MAX] {
        assert!(matches!(topics.update(vec![named("T", queues)]), Err(TopicError::Invalid(_))), "{queues}");
    }
    for perm in [-1, 16, i32::MAX] {
        let config = TopicConfig { perm, ..named("T", 4) };
        assert!(matches!(topics.update(vec![config]), Err(TopicError::Invalid(_))), "{perm}");
    }
    assert!(topics.get("T").is_none());
}

#[test]
fn system_topics_are_protected_unless_the_broker_says_otherwise() {
    let dir = tempfile::tempdir().unwrap();
    let topics = open(dir.path(), &BrokerConfig::default());
    let error = topics.update(vec![named("TBW102", 4)]).unwrap_err();
    assert_eq!(error.to_string(), "The topic[TBW102] is conflict with system topic.");
    let config = BrokerConfig { validate_system_topic_when_update_topic: false, ..Default::default() };
    let open_minded = open(tempfile::tempdir().unwrap().path(), &config);
    open_minded.update(vec![named("TBW102", 4)]).unwrap();
    assert_eq!(shape(&open_minded, "TBW102"), (4, 4, 6));
}

#[test]
fn an_update_replaces_and_the_same_again_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let topics = open(dir.path(), &BrokerConfig::default());
    let fifo = TopicConfig { attributes: [("+message.type".into(), "FIFO".into())].into(), ..named("T", 4) };
    topics.update(vec![fifo]).unwrap();
    assert_eq!(topics.get("T").unwrap().config().attributes["message.type"], "FIFO");
    let generation = topics.generation();
    topics.update(vec![named("T", 4)]).unwrap();
    assert_eq!(topics.generation(), generation);
    assert_eq!(topics.get("T").unwrap().config().attributes["message.type"], "FIFO");
    topics.update(vec![TopicConfig { perm: 4, ..named("T", 6) }]).unwrap();
    assert_eq!(shape(&topics, "T"), (6, 6, 4));
    assert!(!topics.get("T").unwrap().is_writable());
}

#[test]
fn a_list_is_taken_as_a_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let topics = open(dir.path(), &BrokerConfig::default());
    assert!(topics.update(vec![named("good", 4), named("b/d", 4)]).is_err());
    assert!(topics.get("good").is_none());
    let mixed = TopicConfig { attributes: [("+message.type".into(), "MIXED".into())].into(), ..named("m", 4) };
    assert_eq!(topics.update(vec![mixed]).unwrap_err().to_string(), "MIXED message type is not supported.");
}

#[test]
fn retry_topics_are_made_once_and_follow_the_order_flag() {
    let dir = tempfile::tempdir().unwrap();
    let topics = open(dir.path(), &BrokerConfig::default());
    topics.create_if_absent("%RETRY%g", 1, 6, false, 0).unwrap();
    assert_eq!(shape(&topics, "%RETRY%g"), (1, 1, 6));
    let generation = topics.generation();
    topics.create_if_absent("%RETRY%g", 9, 4, false, 0).unwrap();
    assert_eq!(topics.generation(), generation);
    assert!(topics.create_if_absent("%RETRY%g", 1, 6, true, 0).unwrap().config().order);
    assert_eq!(shape(&topics, "%RETRY%g"), (1, 1, 6));
}

#[test]
fn the_table_survives_a_restart_and_its_version_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let topics = open(dir.path(), &BrokerConfig::default());
    topics.update(vec![named("T", 3)]).unwrap();
    topics.set_ordered(["T", "unknown"].into_iter());
    topics.delete("SELF_TEST_TOPIC", || ()).unwrap();
    topics.delete("SELF_TEST_TOPIC", || ()).unwrap();
    json_file::store(topics.path(), &topics.encode().unwrap()).unwrap();
    let version = topics.version();
    assert_eq!(version.counter, 3);

    let again = open(dir.path(), &BrokerConfig::default());
    assert_eq!(again.version(), version);
    assert_eq!(shape(&again, "T"), (3, 3, 6));
    assert!(again.get("T").unwrap().config().order);
}

#[test]
fn a_java_file_is_read_and_bad_names_in_it_are_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let content = br#"{"dataVersion":{"counter":7,"stateVersion":0,"timestamp":1764000000000},"topicConfigTable":{
        "T":{"attributes":{"cleanup.policy":"COMPACTION"},"order":false,"perm":6,"readQueueNums":4,
        "topicFilterType":"SINGLE_TAG","topicName":"T","topicSysFlag":0,"writeQueueNums":5},
        "../x":{"order":false,"perm":6,"readQueueNums":4,"topicName":"../x","writeQueueNums":4},
        "TBW102":{"perm":7,"readQueueNums":2,"topicName":"TBW102","writeQueueNums":2}}}"#;
    json_file::store(&persist::config_path(dir.path(), FILE), content).unwrap();
    let topics = open(dir.path(), &BrokerConfig::default());
    assert_eq!(shape(&topics, "T"), (4, 5, 6));
    assert!(topics.get("T").unwrap().is_compacted());
    assert_eq!(shape(&topics, "TBW102"), (2, 2, 7));
    assert!(topics.get("../x").is_none());
    assert_eq!(topics.version().counter, 7);
}

#[test]
fn who_waits_for_a_change_sees_the_newest_generation() {
    let dir = tempfile::tempdir().unwrap();
    let topics = open(dir.path(), &BrokerConfig::default());
    let mut watch = topics.watch();
    assert!(!watch.has_changed().unwrap());
    topics.update(vec![named("T", 4), named("U", 4)]).unwrap();
    assert_eq!(*watch.borrow_and_update(), topics.generation());
    assert!(!watch.has_changed().unwrap());
}

fn open_store(dir: &Path) -> Store {
    let config = StoreConfig { root: dir.to_owned(), max_hash_slot_num: 100, max_index_num: 100, ..Default::default() };
    Store::open(config, Arc::new(|_| ())).unwrap()
}

fn compacted(name: &str) -> TopicConfig {
    let attributes = [("+cleanup.policy".to_owned(), "COMPACTION".to_owned())].into();
    TopicConfig { attributes, ..named(name, 2) }
}

#[test]
fn while_a_topic_is_deleted_nobody_makes_one_of_its_name_or_uses_what_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let (topics, store) = (open(dir.path(), &BrokerConfig::default()), open_store(dir.path()));
    topics.update(vec![named("T", 2)]).unwrap();
    let before = topics.get("T").unwrap();
    let old = Arc::clone(before.queue(&store, 0).unwrap());
    topics
        .delete("T", || {
            for removed in [false, true] {
                // The other administrator, a sender, and a request that has the topic in its hand.
                assert_eq!(topics.update(vec![compacted("T")]), Err(TopicError::Ending("T".into())));
                assert!(topics.create_on_send("T", "TBW102", 2, 0, peer()).is_none());
                assert!(topics.create_if_absent("T", 2, 6, false, 0).is_none());
                assert_eq!(topics.delete("T", || ()), Err(TopicError::Ending("T".into())));
                assert_eq!(topics.clear("T", || ()), None);
                assert!(before.queue(&store, 1).is_none());
                if !removed {
                    store.delete_topic("T").unwrap();
                }
            }
        })
        .unwrap();
    topics.update(vec![compacted("T")]).unwrap();
    assert_eq!(topics.clear("T", || ()), None, "it is in the table");
    let after = topics.get("T").unwrap();
    let new = after.queue(&store, 0).unwrap();
    assert!(new.is_compacted() && !Arc::ptr_eq(new, &old));
    assert!(before.queue(&store, 1).is_none());
    assert!(after.queue(&store, 1).unwrap().is_compacted());
}

#[test]
fn administrators_at_once_leave_a_topic_with_the_queues_of_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let (topics, store) = (open(dir.path(), &BrokerConfig::default()), open_store(dir.path()));
    let mut checked = 0;
    for round in 0..20 {
        let config = || if round % 2 == 0 { compacted("T") } else { named("T", 2) };
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let _ = topics.delete("T", || store.delete_topic("T").unwrap());
                    let _ = topics.update(vec![config()]);
                });
            }
            scope.spawn(|| {
                for n in 0..2000 {
                    topics.get("T").inspect(|topic| drop(topic.queue(&store, n % 2).cloned()));
                }
            });
        });
        let Some(topic) = topics.get("T") else { continue };
        for id in 0..2 {
            let queue = topic.queue(&store, id).unwrap();
            assert!(Arc::ptr_eq(queue, &store.find_queue("T", id).unwrap()), "round {round}");
            assert_eq!(queue.is_compacted(), topic.is_compacted(), "round {round}");
        }
        checked += 1;
        topics.delete("T", || store.delete_topic("T").unwrap()).unwrap();
    }
    assert!(checked > 0, "the last word was never a topic's making");
}
