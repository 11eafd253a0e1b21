//! Offsets of consumers and queues, and messages by key and place, over a real socket.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use ferromq_protocol::body::QueryCorrectionOffsetBody;
use ferromq_protocol::code::{request, response};
use ferromq_protocol::json;
use support::*;

#[test]
fn a_young_topic_starts_at_zero_unless_the_client_says_otherwise() {
    let bench = start();
    bench.send("T", 0, "", b"x");
    let ask = |more: &[(&str, &str)]| {
        let answer = bench.call(request::QUERY_CONSUMER_OFFSET, b"", |frame| {
            frame.str("topic", "T").i32("queueId", 0).str("consumerGroup", "G");
            for (key, value) in more {
                frame.str(key, value);
            }
        });
        (code(&answer), number(&answer, "offset"))
    };
    assert_eq!(ask(&[]), (response::SUCCESS, Some(0)));
    assert_eq!(ask(&[("setZeroIfNotFound", "false")]), (response::QUERY_NOT_FOUND, None));
}

#[test]
fn commits_are_kept_over_a_restart() {
    let mut bench = start();
    bench.send("T", 0, "", b"x");
    let commit = |bench: &Bench, group: &str, topic: &str, queue: i32, offset: i64| {
        let answer = bench.call(request::UPDATE_CONSUMER_OFFSET, b"", |frame| {
            frame.str("topic", topic).i32("queueId", queue).str("consumerGroup", group).i64("commitOffset", offset);
        });
        code(&answer)
    };
    assert_eq!(commit(&bench, "G", "T", 0, 7), response::SUCCESS);
    assert_eq!(commit(&bench, "G", "Nothing", 0, 7), response::TOPIC_NOT_EXIST);
    assert_eq!(commit(&bench, "a/b", "T", 0, 7), response::SUBSCRIPTION_GROUP_NOT_EXIST);
    // Queues that no topic has would fill the table for ever.
    for queue in [-3, 10_000, i32::MAX] {
        assert_eq!(commit(&bench, "G", "T", queue, 7), response::INVALID_PARAMETER, "{queue}");
    }
    let committed =
        |bench: &Bench| bench.ask(request::QUERY_CONSUMER_OFFSET, "T", 0, "offset", &[("consumerGroup", "G")]);
    assert_eq!(committed(&bench), Some(7));

    bench.broker.take().unwrap().shutdown();
    let store = store_config(bench.folder.path());
    let again = ferromq_broker::Broker::start(config(), store).unwrap();
    bench.addr = again.addr().to_string();
    bench.broker = Some(again);
    assert_eq!(committed(&bench), Some(7));
    assert_eq!(bench.ask(request::GET_MAX_OFFSET, "T", 0, "offset", &[]), Some(1));
}

#[test]
fn a_reset_moves_one_group_and_no_other() {
    let bench = start();
    let topics = [("T", 0), ("T", 1), ("Other", 0)];
    for (topic, queue) in topics {
        for _ in 0..5 {
            bench.send(topic, queue, "", b"x");
        }
        wait_until("dispatch", || bench.ask(request::GET_MAX_OFFSET, topic, queue, "offset", &[]) == Some(5));
    }
    let committed = |group: &str| {
        topics.map(|(topic, queue)| {
            bench.ask(request::QUERY_CONSUMER_OFFSET, topic, queue, "offset", &[("consumerGroup", group)])
        })
    };
    for (group, offset) in [("A", 3), ("B", 4)] {
        bench.call(
            request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP,
            format!("{{\"groupName\":\"{group}\"}}").as_bytes(),
            |_| {},
        );
        for (topic, queue) in topics {
            bench.call(request::UPDATE_CONSUMER_OFFSET, b"", |frame| {
                frame.str("topic", topic).i32("queueId", queue).str("consumerGroup", group).i64("commitOffset", offset);
            });
        }
    }
    let reset = |queue: i32, timestamp: i64| {
        let answer = bench.call(request::INVOKE_BROKER_TO_RESET_OFFSET, b"", |frame| {
            frame.str("topic", "T").str("group", "A").i32("queueId", queue).i64("timestamp", timestamp);
            frame.bool("isForce", true);
        });
        assert_eq!(code(&answer), response::SUCCESS, "{}", remark(&answer));
    };
    reset(-1, 0);
    assert_eq!(committed("A"), [Some(0), Some(0), Some(3)], "its queues of the topic, all of them");
    assert_eq!(committed("B"), [Some(4); 3]);
    reset(1, -1);
    assert_eq!(committed("A"), [Some(0), Some(5), Some(3)], "one queue");
    assert_eq!(committed("B"), [Some(4); 3]);
}

#[test]
fn the_bounds_of_a_queue_are_told() {
    let bench = start();
    for _ in 0..3 {
        bench.send("T", 0, "", b"x");
    }
    wait_until("dispatch", || bench.ask(request::GET_MAX_OFFSET, "T", 0, "offset", &[]) == Some(3));
    assert_eq!(bench.ask(request::GET_MIN_OFFSET, "T", 0, "offset", &[]), Some(0));
    assert!(bench.ask(request::GET_EARLIEST_MSG_STORETIME, "T", 0, "timestamp", &[]).unwrap() > 1_700_000_000_000);
    assert_eq!(bench.ask(request::GET_EARLIEST_MSG_STORETIME, "T", 3, "timestamp", &[]), Some(-1));
    for queue in [1, -1, i32::MAX] {
        assert_eq!(bench.ask(request::GET_MAX_OFFSET, "T", queue, "offset", &[]), Some(0), "{queue}");
        assert_eq!(bench.ask(request::GET_MIN_OFFSET, "T", queue, "offset", &[]), Some(0), "{queue}");
    }
    let at = |time: &str| bench.ask(request::SEARCH_OFFSET_BY_TIMESTAMP, "T", 0, "offset", &[("timestamp", time)]);
    assert_eq!(at("0"), Some(0));
    assert_eq!(at("9000000000000"), Some(3));
}

#[test]
fn offsets_are_corrected_by_the_slowest_of_other_groups() {
    let bench = start();
    for queue in 0..2 {
        bench.send("T", queue, "", b"x");
    }
    for (group, queue, offset) in [("A", 0, 5), ("B", 0, 3), ("C", 0, 1), ("A", 1, 2), ("B", 1, -1)] {
        bench.call(request::UPDATE_CONSUMER_OFFSET, b"", |frame| {
            frame.str("topic", "T").i32("queueId", queue).str("consumerGroup", group).i64("commitOffset", offset);
        });
    }
    let ask = |left_out: &str, compared: &str| {
        let answer = bench.call(request::QUERY_CORRECTION_OFFSET, b"", |frame| {
            frame.str("topic", "T").str("filterGroups", left_out).str("compareGroup", compared);
        });
        let body: QueryCorrectionOffsetBody = json::from_slice(answer.body()).unwrap();
        body.correction_offsets.into_iter().collect::<Vec<_>>()
    };
    assert_eq!(ask("", "nobody"), [(0, 1), (1, 2)]);
    assert_eq!(ask("C,X", "nobody"), [(0, 3), (1, 2)]);
    // C is behind the others already: its queue stays where it is. Nobody's offset is forgotten by asking.
    assert_eq!(ask("C", "C"), [(0, i64::MAX), (1, 2)]);
    assert_eq!(ask("", "A"), [(0, 1), (1, 2)]);
}

#[test]
fn messages_are_found_by_key_and_by_place() {
    let bench = start();
    bench.send("T", 0, "UNIQ_KEY\u{1}UNIQUE1\u{2}KEYS\u{1}order-1 order-2\u{2}", b"first");
    bench.send("T", 1, "UNIQ_KEY\u{1}UNIQUE2\u{2}KEYS\u{1}order-2\u{2}", b"second");
    let query = |key: &str, unique: bool| {
        let answer = bench.call(request::QUERY_MESSAGE, b"", |frame| {
            frame.str("topic", "T").str("key", key).i32("maxNum", 10);
            frame.i64("beginTimestamp", 0).i64("endTimestamp", i64::MAX).bool("_UNIQUE_KEY_QUERY", unique);
        });
        (code(&answer), records(answer.body()).len())
    };
    wait_until("the index", || query("order-2", false) == (response::SUCCESS, 2));
    assert_eq!(query("order-1", false), (response::SUCCESS, 1));
    assert_eq!(query("UNIQUE1", true), (response::SUCCESS, 1));
    assert_eq!(query("nothing", false), (response::QUERY_NOT_FOUND, 0));
    for offset in [-1, 1, i64::MAX] {
        let answer = bench.call(request::VIEW_MESSAGE_BY_ID, b"", |frame| {
            frame.i64("offset", offset);
        });
        assert_eq!(code(&answer), response::SYSTEM_ERROR, "{offset}");
    }
}

#[test]
fn queries_have_limits_whatever_is_asked_for() {
    let bench = start();
    for n in 0..70 {
        bench.send("T", 0, "UNIQ_KEY\u{1}same\u{2}KEYS\u{1}many\u{2}", format!("{n}").as_bytes());
    }
    for _ in 0..4 {
        bench.send("T", 0, "KEYS\u{1}large\u{2}", &vec![b'x'; 3 << 20]);
    }
    let query = |key: &str, max: i32, unique: bool, (begin, end): (i64, i64)| {
        let answer = bench.call(request::QUERY_MESSAGE, b"", |frame| {
            frame.str("topic", "T").str("key", key).i32("maxNum", max);
            frame.i64("beginTimestamp", begin).i64("endTimestamp", end).bool("_UNIQUE_KEY_QUERY", unique);
        });
        (code(&answer), records(answer.body()).len())
    };
    let ever = (0, i64::MAX);
    // The answer ends before 8 MiB.
    wait_until("the index", || query("large", 100, false, ever) == (response::SUCCESS, 2));
    assert_eq!(query("many", 3, false, ever), (response::SUCCESS, 3));
    for most in [65, i32::MAX] {
        assert_eq!(query("many", most, false, ever), (response::SUCCESS, 64));
        assert_eq!(query("same", most, true, ever), (response::SUCCESS, 32));
    }
    for none in [0, -1, i32::MIN] {
        assert_eq!(query("many", none, false, ever), (response::QUERY_NOT_FOUND, 0));
    }
    for range in [(i64::MAX, 0), (0, 1), (i64::MIN, -1)] {
        assert_eq!(query("many", 64, false, range), (response::QUERY_NOT_FOUND, 0), "{range:?}");
    }
}
