//! Topics with `cleanup.policy=COMPACTION` over a real socket: what is refused, what stays, who may read what.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use ferromq_broker::BrokerConfig;
use ferromq_protocol::body::TopicConfig;
use ferromq_protocol::code::{request, response};
use ferromq_protocol::header::pop::PopMessageHeader;
use ferromq_protocol::header::pull::PullHeader;
use ferromq_protocol::record::{self, InnerMessage};
use ferromq_protocol::{Text, header::send::SendHeader};
use ferromq_store::StoreConfig;
use support::*;

const TOPIC: &str = "Compact";

fn small(store: &mut StoreConfig) {
    store.compaction_mapped_file_size = 46 * 20 * 5;
    store.compaction_cq_mapped_file_size = 46 * 20;
    store.compaction_schedule_internal = 100;
}

fn start_compacted(adjust: impl Fn(&mut StoreConfig)) -> Bench {
    let bench = start_with(BrokerConfig { enable_property_filter: true, ..config() }, adjust);
    create(&bench, TOPIC, &[("+cleanup.policy", "COMPACTION")]);
    bench
}

fn create(bench: &Bench, topic: &str, attributes: &[(&str, &str)]) {
    let config = TopicConfig {
        topic_name: topic.to_owned(),
        read_queue_nums: 1,
        write_queue_nums: 1,
        perm: 6,
        attributes: attributes.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        ..TopicConfig::default()
    };
    bench.broker.as_ref().unwrap().shared().topics.update(vec![config]).unwrap();
}

fn keyed(n: usize, keys: usize) -> String {
    format!("KEYS\u{1}k{}\u{2}TAGS\u{1}t{}\u{2}n\u{1}{n}\u{2}", n % keys, n % 2)
}

/// Sends messages of some keys in turn; their numbers are their bodies.
fn fill(bench: &Bench, topic: &str, count: usize, keys: usize) {
    for n in 0..count {
        let answer = bench.send(topic, 0, &keyed(n, keys), n.to_string().as_bytes());
        assert_eq!(code(&answer), response::SUCCESS, "{}", remark(&answer));
    }
}

/// Bodies from the offset 0 on; the offsets follow the answers.
fn read(bench: &Bench, topic: &str, expression: &str, sql: bool) -> Vec<usize> {
    let (mut offset, mut all) = (0, Vec::new());
    loop {
        let kind = if sql { "SQL92" } else { "TAG" };
        let header =
            PullHeader { expression_type: Some(Text::plain(kind)), ..pull_header(topic, 0, offset, expression) };
        let answer = bench.pull(&header);
        match code(&answer) {
            response::SUCCESS | response::PULL_RETRY_IMMEDIATELY => {}
            response::PULL_NOT_FOUND => return all,
            other => panic!("{other}: {}", remark(&answer)),
        }
        all.extend(
            records(answer.body()).iter().map(|one| String::from_utf8_lossy(&one.body).parse::<usize>().unwrap()),
        );
        offset = number(&answer, "nextBeginOffset").unwrap();
    }
}

#[test]
fn a_message_without_a_key_is_refused_as_by_rocketmq() {
    for enabled in [true, false] {
        let bench = start_compacted(|store| store.enable_compaction = enabled);
        for properties in ["", "TAGS\u{1}t\u{2}", "KEYS\u{1}  \u{2}", "KEYS\u{1}\u{2}"] {
            let answer = bench.send(TOPIC, 0, properties, b"x");
            assert_eq!((code(&answer), &*remark(&answer)), (13, "Required message key is missing"), "{properties:?}");
        }
        let mut batch = Vec::new();
        for properties in ["KEYS\u{1}k\u{2}", "TAGS\u{1}t\u{2}"] {
            record::push_inner(&InnerMessage { flag: 0, body: b"x", properties: properties.as_bytes() }, &mut batch);
        }
        let header = SendHeader { batch: true, ..send_header(TOPIC, 0, "") };
        let answer = bench.call(request::SEND_BATCH_MESSAGE, &batch, |frame| header.write_short(frame));
        assert_eq!((code(&answer), &*remark(&answer)), (13, "Required message key is missing"));
        assert_eq!(bench.ask(request::GET_MAX_OFFSET, TOPIC, 0, "offset", &[("committed", "false")]), Some(0));
        assert_eq!(code(&bench.send(TOPIC, 0, "KEYS\u{1}k\u{2}", b"x")), response::SUCCESS);
    }
}

#[test]
fn batch_queues_are_not_compacted_and_say_so() {
    let bench = start();
    create(&bench, "Both", &[("+cleanup.policy", "COMPACTION"), ("+queue.type", "BatchCQ")]);
    let answer = bench.send("Both", 0, "KEYS\u{1}k\u{2}", b"x");
    assert_eq!(code(&answer), response::MESSAGE_ILLEGAL);
    assert!(remark(&answer).contains("cleanup.policy=COMPACTION"), "{}", remark(&answer));
}

#[test]
fn the_newest_of_each_key_is_served_with_filters_and_after_a_restart() {
    let mut bench = start_compacted(small);
    fill(&bench, TOPIC, 150, 6);
    wait_until("a pass", || read(&bench, TOPIC, "*", false).len() < 60);
    let check = |bench: &Bench| {
        // What was seen while no pass came in between.
        let (mut all, mut odd, mut above, mut min) = (Vec::new(), Vec::new(), Vec::new(), None);
        wait_until("reads without a pass", || {
            all = read(bench, TOPIC, "*", false);
            odd = read(bench, TOPIC, "t1", false);
            above = read(bench, TOPIC, "n > 120", true);
            min = bench.ask(request::GET_MIN_OFFSET, TOPIC, 0, "offset", &[]);
            read(bench, TOPIC, "*", false) == all
        });
        assert!((144..150).all(|n| all.contains(&n)) && !all.contains(&0) && !all.contains(&50), "{all:?}");
        assert_eq!(odd, all.iter().copied().filter(|n| n % 2 == 1).collect::<Vec<_>>());
        assert_eq!(above, all.iter().copied().filter(|n| *n > 120).collect::<Vec<_>>());
        assert_eq!(min, Some(all[0] as i64));
        let answer = bench.pull(&pull_header(TOPIC, 0, 0, "*"));
        assert!(number(&answer, "minOffset") >= min && number(&answer, "maxOffset") == Some(150));
        // The offsets of records are those of the queue.
        assert!(records(answer.body()).iter().all(|one| one.queue_offset.to_string().as_bytes() == one.body));
    };
    check(&bench);
    bench.broker.take().unwrap().shutdown();
    // The topic table is lost: the topic is made again as what it was.
    for name in ["topics.json", "topics.json.bak"] {
        let _ = std::fs::remove_file(bench.folder.path().join("config").join(name));
    }
    let mut store = store_config(bench.folder.path());
    small(&mut store);
    store.compaction_schedule_internal = 3_600_000;
    let broker =
        ferromq_broker::Broker::start(BrokerConfig { enable_property_filter: true, ..config() }, store).unwrap();
    bench.addr = broker.addr().to_string();
    bench.broker = Some(broker);
    check(&bench);
    assert_eq!(code(&bench.send(TOPIC, 0, "", b"x")), 13);
}

#[test]
fn without_compaction_all_messages_stay() {
    let bench = start_compacted(|store| {
        small(store);
        store.enable_compaction = false;
    });
    fill(&bench, TOPIC, 100, 5);
    std::thread::sleep(std::time::Duration::from_millis(400));
    assert_eq!(read(&bench, TOPIC, "*", false), (0..100).collect::<Vec<_>>());
}

#[test]
fn a_message_cannot_be_sent_back_by_a_place_in_the_copy() {
    let bench = start_compacted(small);
    fill(&bench, TOPIC, 10, 5);
    bench.broker.as_ref().unwrap().shared().groups.find("CG").unwrap();
    let answer = bench.call(request::CONSUMER_SEND_MSG_BACK, b"", |frame| {
        frame.str("offset", "0").str("group", "CG").str("delayLevel", "0").str("originTopic", TOPIC);
    });
    assert_eq!(code(&answer), response::SYSTEM_ERROR);
    assert!(remark(&answer).starts_with("look message by offset failed"), "{}", remark(&answer));
}

#[test]
fn the_entries_of_a_queue_are_listed_across_its_holes() {
    let bench = start_compacted(small);
    assert_eq!(code(&bench.send(TOPIC, 0, "KEYS\u{1}rare\u{2}", b"1000")), response::SUCCESS);
    fill(&bench, TOPIC, 150, 6);
    wait_until("a pass", || read(&bench, TOPIC, "*", false).len() < 60);
    let list = |index: &str, count: &str| {
        let answer = bench.call(request::QUERY_CONSUME_QUEUE, b"", |frame| {
            frame.str("topic", TOPIC).str("queueId", "0").str("index", index).str("count", count);
        });
        let body: serde_json::Value = serde_json::from_slice(answer.body()).unwrap();
        let sizes = body["queueData"].as_array().unwrap().iter().map(|one| one["physicSize"].as_i64().unwrap());
        sizes.collect::<Vec<_>>()
    };
    assert_eq!(list("0", "3").len(), 3);
    wait_until("no pass in between", || {
        let before = read(&bench, TOPIC, "*", false).len();
        let listed = list("0", "1000");
        listed.len() == before && listed.iter().all(|size| *size > 100)
    });
    // From within the hole behind the first message.
    assert_eq!(list("1", "2").len(), 2);
    assert!(list("151", "10").is_empty() && list("0", "0").is_empty() && list("0", "-1").is_empty());
}

#[test]
fn what_a_pass_has_removed_can_still_be_acknowledged_in_a_batch() {
    let bench = start_compacted(small);
    fill(&bench, TOPIC, 12, 6);
    let header = PopMessageHeader {
        consumer_group: Text::plain("G"),
        topic: Text::plain(TOPIC),
        queue_id: 0,
        max_msg_nums: 32,
        invisible_time: 600_000,
        ..PopMessageHeader::default()
    };
    let answer = bench.call(request::POP_MESSAGE, b"", |frame| header.write(frame));
    assert_eq!(records(answer.body()).len(), 12, "{}", remark(&answer));
    let waiting = || bench.broker.as_ref().unwrap().shared().pops.check_points();
    assert_eq!(waiting(), 1);
    fill(&bench, TOPIC, 150, 6);
    wait_until("the popped messages go", || {
        bench.ask(request::GET_MIN_OFFSET, TOPIC, 0, "offset", &[]).is_some_and(|min| min >= 12)
    });
    let body = format!(
        r#"{{"brokerName":"broker-a","acks":[{{"c":"G","t":"{TOPIC}","r":"0","so":0,"q":0,"rq":{},"pt":{},"it":600000,"b":"/w8="}}]}}"#,
        number(&answer, "reviveQid").unwrap(),
        number(&answer, "popTime").unwrap(),
    );
    assert_eq!(code(&bench.call(request::BATCH_ACK_MESSAGE, body.as_bytes(), |_| {})), response::SUCCESS);
    assert_eq!(waiting(), 0);
}
