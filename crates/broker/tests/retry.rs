//! CONSUMER_SEND_MSG_BACK, dead letters and recall over a real socket.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use ferromq_broker::BrokerConfig;
use ferromq_protocol::body::{CustomizedRetryPolicy, GroupRetryPolicy, MessageQueue, SubscriptionGroupConfig};
use ferromq_protocol::code::{request, response};
use ferromq_protocol::header::send::{ConsumerSendMsgBackHeader, SendHeader};
use ferromq_protocol::{OwnedCommand, Text};
use ferromq_store::{Fault, Faults, FlushMode, Operation, StoreConfig};
use support::*;

fn levels(store: &mut StoreConfig) {
    store.message_delay_level = "1s 1s 1s 2s".into();
    store.mapped_file_size_commit_log = 4 * 1024 * 1024;
}

/// Everything in a queue once it holds that many messages.
fn wait_for(bench: &Bench, topic: &str, count: usize) -> Vec<Record> {
    let mut found = Vec::new();
    wait_until("delivery", || {
        let pulled = bench.pull(&pull_header(topic, 0, 0, "*"));
        found = if code(&pulled) == response::SUCCESS { records(pulled.body()) } else { Vec::new() };
        found.len() >= count
    });
    found
}

fn send_back(bench: &Bench, offset: i64, group: &str, delay_level: i32, max: Option<i32>) -> OwnedCommand {
    let header = ConsumerSendMsgBackHeader {
        offset,
        group: Text::plain(group),
        delay_level,
        max_reconsume_times: max,
        ..ConsumerSendMsgBackHeader::default()
    };
    bench.call(request::CONSUMER_SEND_MSG_BACK, b"", |frame| header.write(frame))
}

fn stored(bench: &Bench, properties: &str) -> Record {
    assert_eq!(code(&bench.send("T", 0, properties, b"hello")), response::SUCCESS);
    wait_for(bench, "T", 1).remove(0)
}

#[test]
fn a_message_sent_back_climbs_the_ladder_and_dies() {
    let bench = start_with(config(), levels);
    let first = stored(&bench, "UNIQ_KEY\u{1}U1\u{2}TAGS\u{1}a\u{2}");
    let answer = send_back(&bench, first.physical_offset, "G", 0, Some(2));
    assert_eq!(code(&answer), response::SUCCESS, "{}", remark(&answer));
    let retry = wait_for(&bench, "%RETRY%G", 1).remove(0);
    assert_eq!((&retry.body[..], retry.property("RETRY_TOPIC").as_deref()), (&b"hello"[..], Some("T")));
    assert_eq!(retry.property("DELAY").as_deref(), Some("3"));
    let origin = retry.property("ORIGIN_MESSAGE_ID").unwrap();
    assert_eq!(ferromq_protocol::id::parse_offset_message_id(&origin).unwrap().1, first.physical_offset as u64);

    assert_eq!(code(&send_back(&bench, retry.physical_offset, "G", 0, Some(2))), response::SUCCESS);
    let second = wait_for(&bench, "%RETRY%G", 2).remove(1);
    assert_eq!(second.property("DELAY").as_deref(), Some("4"));
    assert_eq!(second.property("ORIGIN_MESSAGE_ID"), Some(origin.clone()));

    assert_eq!(code(&send_back(&bench, second.physical_offset, "G", 0, Some(2))), response::SUCCESS);
    let dead = wait_for(&bench, "%DLQ%G", 1).remove(0);
    for (name, value) in [
        ("DLQ_ORIGIN_TOPIC", "T"),
        ("DLQ_ORIGIN_MESSAGE_ID", "U1"),
        ("RETRY_TOPIC", "T"),
        ("ORIGIN_MESSAGE_ID", origin.as_str()),
        ("TAGS", "a"),
    ] {
        assert_eq!(dead.property(name).as_deref(), Some(value), "{name}");
    }
    let topic = bench.broker.as_ref().unwrap().shared().topics.get("%DLQ%G").unwrap();
    assert_eq!((topic.config().perm, topic.read_queues()), (6, 1));
}

#[test]
fn a_negative_level_and_a_group_without_retries_lead_to_the_dead_letters() {
    let bench = start_with(config(), levels);
    let first = stored(&bench, "");
    assert_eq!(code(&send_back(&bench, first.physical_offset, "G1", -1, None)), response::SUCCESS);
    assert_eq!(wait_for(&bench, "%DLQ%G1", 1).len(), 1);
    let none = SubscriptionGroupConfig { group_name: "G2".into(), retry_queue_nums: 0, ..Default::default() };
    bench.broker.as_ref().unwrap().shared().groups.update(vec![none]).unwrap();
    assert_eq!(code(&send_back(&bench, first.physical_offset, "G2", 0, None)), response::SUCCESS);
    assert_eq!(wait_for(&bench, "%DLQ%G2", 1)[0].property("DLQ_ORIGIN_TOPIC").as_deref(), Some("T"));
}

#[test]
fn a_policy_of_the_group_decides_how_long_the_next_try_waits() {
    let bench = start_with(BrokerConfig { timer_precision_ms: 10, ..config() }, levels);
    let policy = GroupRetryPolicy {
        customized_retry_policy: Some(CustomizedRetryPolicy { next: vec![9_000_000, 9_000_000, 200] }),
        ..GroupRetryPolicy::default()
    };
    let group = SubscriptionGroupConfig { group_name: "G".into(), group_retry_policy: policy, ..Default::default() };
    bench.broker.as_ref().unwrap().shared().groups.update(vec![group]).unwrap();
    let first = stored(&bench, "");
    let begun = std::time::Instant::now();
    assert_eq!(code(&send_back(&bench, first.physical_offset, "G", 0, None)), response::SUCCESS);
    let retry = wait_for(&bench, "%RETRY%G", 1);
    // The other times of the policy are hours.
    assert!(begun.elapsed() >= Duration::from_millis(150), "{:?}", begun.elapsed());
    assert_eq!(retry[0].property("RETRY_TOPIC").as_deref(), Some("T"));
}

#[test]
fn what_cannot_be_sent_back_is_told() {
    let refusing = BrokerConfig { auto_create_subscription_group: false, ..config() };
    let bench = start_with(refusing, levels);
    let group = |name: &str| SubscriptionGroupConfig { group_name: name.into(), ..Default::default() };
    bench.broker.as_ref().unwrap().shared().groups.update(vec![group("G"), group("CG")]).unwrap();
    let first = stored(&bench, "");
    assert_eq!(
        code(&send_back(&bench, first.physical_offset, "Unknown", 0, None)),
        response::SUBSCRIPTION_GROUP_NOT_EXIST
    );
    for offset in [-1, i64::MIN, i64::MAX, first.physical_offset + 1, first.physical_offset + 1_000_000] {
        let answer = send_back(&bench, offset, "G", 0, None);
        assert_eq!(code(&answer), response::SYSTEM_ERROR, "{offset}");
        assert!(remark(&answer).starts_with("look message by offset failed"), "{}", remark(&answer));
    }
    // A message that nobody has received yet is nobody's to send back.
    assert_eq!(code(&bench.send("T", 0, "DELAY\u{1}4\u{2}", b"later")), response::SUCCESS);
    let mut waiting = None;
    wait_until("the delayed message waits", || {
        waiting = records(bench.pull(&pull_header("SCHEDULE_TOPIC_XXXX", 3, 0, "*")).body()).pop();
        waiting.is_some()
    });
    let answer = send_back(&bench, waiting.unwrap().physical_offset, "G", 0, None);
    assert_eq!(code(&answer), response::SYSTEM_ERROR);
    assert!(remark(&answer).contains("no consumer has received it"), "{}", remark(&answer));
}

/// Nothing says who received a message: what another group's member names goes to the retries of the group it speaks for.
#[test]
fn a_message_of_another_groups_retries_stays_there() {
    let bench = start_with(config(), levels);
    let first = stored(&bench, "UNIQ_KEY\u{1}U1\u{2}");
    assert_eq!(code(&send_back(&bench, first.physical_offset, "G", 0, None)), response::SUCCESS);
    let retry = wait_for(&bench, "%RETRY%G", 1).remove(0);
    assert_eq!(code(&send_back(&bench, retry.physical_offset, "H", 0, None)), response::SUCCESS);
    let copy = wait_for(&bench, "%RETRY%H", 1).remove(0);
    assert_eq!((&copy.body[..], copy.property("RETRY_TOPIC").as_deref()), (&b"hello"[..], Some("T")));
    assert_eq!(copy.property("ORIGIN_MESSAGE_ID"), retry.property("ORIGIN_MESSAGE_ID"));
    assert_eq!(code(&send_back(&bench, retry.physical_offset, "H", -1, None)), response::SUCCESS);
    let dead = wait_for(&bench, "%DLQ%H", 1).remove(0);
    assert_eq!(dead.property("DLQ_ORIGIN_TOPIC").as_deref(), Some("T"));
    assert_eq!(dead.property("DLQ_ORIGIN_MESSAGE_ID").as_deref(), Some("U1"));
    assert_eq!(wait_for(&bench, "%RETRY%G", 1).len(), 1);
    assert!(bench.broker.as_ref().unwrap().shared().topics.get("%DLQ%G").is_none());
}

#[test]
fn a_message_is_sent_back_only_when_it_is_on_the_disk() {
    let faults = Arc::new(Faults::default());
    let bench = start_with(config(), |store| {
        levels(store);
        store.flush_disk_type = FlushMode::Sync;
        store.faults = Some(Arc::clone(&faults));
    });
    let first = stored(&bench, "");
    assert_eq!(code(&send_back(&bench, first.physical_offset, "G", 0, None)), response::SUCCESS);
    faults.inject(Operation::Sync, 0, Fault::Io);
    let refused = send_back(&bench, first.physical_offset, "G", 0, None);
    assert_eq!(code(&refused), response::SYSTEM_ERROR, "{}", remark(&refused));
}

#[test]
fn a_retry_that_a_client_sends_itself_dies_with_its_origin() {
    let bench = start_with(config(), levels);
    let properties = "UNIQ_KEY\u{1}U9\u{2}RETRY_TOPIC\u{1}T\u{2}DELAY\u{1}3\u{2}";
    let retry = SendHeader {
        default_topic_queue_nums: 1,
        reconsume_times: Some(1),
        max_reconsume_times: Some(5),
        ..send_header("%RETRY%G", 0, properties)
    };
    assert_eq!(code(&bench.send_as(&retry, b"x")), response::SUCCESS);
    assert_eq!(wait_for(&bench, "%RETRY%G", 1).len(), 1);
    let dead = SendHeader { reconsume_times: Some(6), ..retry };
    assert_eq!(code(&bench.send_as(&dead, b"y")), response::SUCCESS);
    let found = wait_for(&bench, "%DLQ%G", 1).remove(0);
    assert_eq!(found.property("DLQ_ORIGIN_TOPIC").as_deref(), Some("T"));
    assert_eq!(found.property("DLQ_ORIGIN_MESSAGE_ID").as_deref(), Some("U9"));
    assert_eq!(found.property("DELAY").as_deref(), Some("-1"));
    // An orderly group, that is one with queue locks, has had its tries.
    let broker = bench.broker.as_ref().unwrap().shared();
    let queue = MessageQueue { topic: "T".into(), broker_name: "broker-a".into(), queue_id: 0 };
    broker.locks.lock_batch("G", vec![queue], "client", std::time::Instant::now());
    assert_eq!(code(&bench.send_as(&retry, b"z")), response::SUCCESS);
    assert_eq!(wait_for(&bench, "%DLQ%G", 2).len(), 2);
}

fn recall(bench: &Bench, topic: &str, handle: &str) -> OwnedCommand {
    bench.call(request::RECALL_MESSAGE, b"", |frame| {
        frame.str("producerGroup", "PG").str("topic", topic).str("recallHandle", handle);
    })
}

#[test]
fn a_timer_message_is_taken_back_by_its_handle() {
    let fine = BrokerConfig { timer_precision_ms: 20, recall_message_enable: true, ..config() };
    let bench = start_with(fine, levels);
    let send = |key: &str, topic: &str| {
        let properties = format!("UNIQ_KEY\u{1}{key}\u{2}TIMER_DELAY_MS\u{1}3000\u{2}");
        let answer = bench.send(topic, 0, &properties, key.as_bytes());
        assert_eq!(code(&answer), response::SUCCESS, "{}", remark(&answer));
        field(&answer, "recallHandle").unwrap()
    };
    let (handle, _kept, _other) = (send("U1", "T"), send("U2", "T"), send("U1", "Other"));
    let answer = recall(&bench, "T", &handle);
    assert_eq!(code(&answer), response::SUCCESS, "{}", remark(&answer));
    assert_eq!(field(&answer, "msgId").as_deref(), Some("U1"));
    // The same id in another topic is another message.
    assert_eq!(wait_for(&bench, "Other", 1).len(), 1);
    std::thread::park_timeout(Duration::from_millis(300));
    let kept = wait_for(&bench, "T", 1);
    assert_eq!(kept.iter().map(|m| &m.body[..]).collect::<Vec<_>>(), [b"U2"]);

    for (topic, handle, expected) in [
        ("Other", handle.as_str(), response::ILLEGAL_OPERATION),
        ("T", handle.as_str(), response::ILLEGAL_OPERATION),
        ("T", "no handle", response::ILLEGAL_OPERATION),
        ("Unknown", handle.as_str(), response::TOPIC_NOT_EXIST),
    ] {
        assert_eq!(code(&recall(&bench, topic, handle)), expected, "{topic} {handle}");
    }
    let plain = start();
    plain.send("T", 0, "", b"x");
    assert_eq!(code(&recall(&plain, "T", &handle)), response::NO_PERMISSION);
}
