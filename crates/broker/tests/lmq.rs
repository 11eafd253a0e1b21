//! Light queues over a real socket: who sends to them, who reads them, what is refused.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use ferromq_broker::BrokerConfig;
use ferromq_protocol::FrameWriter;
use ferromq_protocol::Text;
use ferromq_protocol::code::{request, response};
use ferromq_protocol::header::pop::PopMessageHeader;
use ferromq_protocol::header::pull::PullHeader;
use support::*;

const SUSPEND: i32 = 2;

fn bench(most: usize) -> Bench {
    start_with(BrokerConfig { enable_lmq: true, ..config() }, |store| {
        store.multi_dispatch = true;
        store.max_lmq_consume_queue_num = most;
    })
}

fn dispatched_to(list: &str) -> String {
    // The offset that a producer writes itself means nothing.
    format!("INNER_MULTI_QUEUE_OFFSET\u{1}77\u{2}INNER_MULTI_DISPATCH\u{1}{list}\u{2}TAGS\u{1}t\u{2}")
}

#[test]
fn one_message_is_read_from_its_topic_and_from_each_light_queue() {
    let bench = bench(100);
    for (n, list) in ["%LMQ%a", "%LMQ%a,%LMQ%b", "%LMQ%b"].into_iter().enumerate() {
        assert_eq!(code(&bench.send("T", 0, &dispatched_to(list), n.to_string().as_bytes())), response::SUCCESS);
    }
    wait_until("dispatch", || bench.ask(request::GET_MAX_OFFSET, "%LMQ%b", 0, "offset", &[]) == Some(2));
    for (topic, expected) in [("T", ["0", "1", "2"].as_slice()), ("%LMQ%a", &["0", "1"]), ("%LMQ%b", &["1", "2"])] {
        let answer = bench.pull(&pull_header(topic, 0, 0, "t"));
        assert_eq!((code(&answer), number(&answer, "maxOffset")), (0, Some(expected.len() as i64)), "{topic}");
        let records = records(answer.body());
        let bodies: Vec<String> = records.iter().map(|r| String::from_utf8(r.body.clone()).unwrap()).collect();
        assert_eq!(bodies, expected);
        for (at, record) in records.iter().enumerate().filter(|_| topic != "T") {
            let (names, offsets) = (
                record.property("INNER_MULTI_DISPATCH").unwrap(),
                record.property("INNER_MULTI_QUEUE_OFFSET").unwrap(),
            );
            let place = names.split(',').zip(offsets.split(',')).find(|(name, _)| *name == topic).unwrap().1;
            assert_eq!(place.parse::<usize>().unwrap(), at);
        }
    }
    assert_eq!(code(&bench.pull(&pull_header("%LMQ%a", 1, 0, "*"))), response::INVALID_PARAMETER);
}

#[test]
fn a_pull_of_a_light_queue_that_has_no_message_yet_waits_for_the_first() {
    let bench = bench(100);
    let header = pull_header("%LMQ%new", 0, 0, "*");
    let waiting = PullHeader { sys_flag: header.sys_flag | SUSPEND, suspend_timeout_millis: 60_000, ..header };
    std::thread::scope(|scope| {
        let pull = scope.spawn(|| bench.pull(&waiting));
        wait_until("the pull waits", || bench.broker.as_ref().unwrap().shared().polls.len() == 1);
        bench.send("T", 0, &dispatched_to("%LMQ%new"), b"first");
        let answer = pull.join().unwrap();
        assert_eq!((code(&answer), records(answer.body()).len()), (0, 1));
    });
}

#[test]
fn a_light_topic_takes_messages_again_after_its_end() {
    let bench = bench(100);
    let send = || number(&bench.send("%LMQ%a", 0, "", b"x"), "queueOffset");
    assert_eq!((send(), send()), (Some(0), Some(1)));
    bench.broker.as_ref().unwrap().shared().store.delete_topic("%LMQ%a").unwrap();
    assert_eq!((send(), send()), (Some(0), Some(1)));
}

#[test]
fn light_groups_commit_offsets_without_being_made() {
    let bench = bench(100);
    bench.send("T", 0, &dispatched_to("%LMQ%a"), b"x");
    let place = [("consumerGroup", "%LMQ%g"), ("topic", "%LMQ%a"), ("queueId", "0")];
    let fields = |frame: &mut FrameWriter<'_>, more: &[(&str, &str)]| {
        for (key, value) in place.iter().chain(more) {
            frame.str(key, value);
        }
    };
    let committed = bench.call(request::UPDATE_CONSUMER_OFFSET, b"", |frame| fields(frame, &[("commitOffset", "1")]));
    assert_eq!(code(&committed), response::SUCCESS);
    let answer = bench.call(request::QUERY_CONSUMER_OFFSET, b"", |frame| fields(frame, &[]));
    assert_eq!(number(&answer, "offset"), Some(1));
}

#[test]
fn bad_names_and_too_many_queues_are_refused_and_without_the_setting_the_property_means_nothing() {
    let bench = bench(2);
    for list in ["plain", "%LMQ%a,%LMQ%a", "%LMQ%../x"] {
        let answer = bench.send("T", 0, &dispatched_to(list), b"x");
        assert_eq!(code(&answer), response::MESSAGE_ILLEGAL, "{list}");
        assert!(remark(&answer).contains("INNER_MULTI_DISPATCH"), "{}", remark(&answer));
    }
    assert_eq!(code(&bench.send("T", 0, &dispatched_to("%LMQ%a,%LMQ%b"), b"x")), response::SUCCESS);
    let answer = bench.send("T", 0, &dispatched_to("%LMQ%c"), b"x");
    assert_eq!(code(&answer), response::LMQ_QUOTA_EXCEEDED);
    assert!(remark(&answer).contains("maxLmqConsumeQueueNum"), "{}", remark(&answer));
    let plain = start();
    assert_eq!(code(&plain.send("T", 0, &dispatched_to("plain,%LMQ%a"), b"x")), response::SUCCESS);
    assert_eq!(code(&plain.pull(&pull_header("%LMQ%a", 0, 0, "*"))), response::TOPIC_NOT_EXIST);
}

#[test]
fn a_pop_of_a_light_queue_counts_in_its_own_offsets() {
    let bench = bench(100);
    for n in 0..3 {
        bench.send("T", 0, "", b"not for it");
        assert_eq!(code(&bench.send("T", 0, &dispatched_to("%LMQ%a"), n.to_string().as_bytes())), response::SUCCESS);
    }
    wait_until("dispatch", || bench.ask(request::GET_MAX_OFFSET, "%LMQ%a", 0, "offset", &[]) == Some(3));
    let pop = |invisible_time| {
        let header = PopMessageHeader {
            consumer_group: Text::plain("G"),
            topic: Text::plain("%LMQ%a"),
            queue_id: 0,
            max_msg_nums: 32,
            invisible_time,
            ..PopMessageHeader::default()
        };
        bench.call(request::POP_MESSAGE, b"", |frame| header.write(frame))
    };
    let first = pop(60_000);
    assert_eq!((code(&first), records(first.body()).len()), (0, 3), "{}", remark(&first));
    assert_eq!(field(&first, "msgOffsetInfo").as_deref(), Some("0 0 0,1,2"));
    assert_eq!(code(&pop(60_000)), response::POLLING_TIMEOUT);
}
