//! Pulls over a real socket: what is found, how long one waits, what is refused.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::time::{Duration, Instant};

use ferromq_protocol::Text;
use ferromq_protocol::code::{request, response};
use ferromq_protocol::header::pull::PullHeader;
use ferromq_protocol::{Encoding, FrameWriter};
use support::*;

const SUSPEND: i32 = 2;
const SUBSCRIPTION: i32 = 4;

fn filled(topic: &str, count: i64) -> Bench {
    let bench = start();
    for n in 0..count {
        let tag = if n % 2 == 0 { "even" } else { "odd" };
        let answer = bench.send(topic, 0, &format!("TAGS\u{1}{tag}\u{2}"), n.to_string().as_bytes());
        assert_eq!(code(&answer), 0);
    }
    wait_until("dispatch", || bench.ask(request::GET_MAX_OFFSET, topic, 0, "offset", &[]) == Some(count));
    bench
}

fn bodies(answer: &ferromq_protocol::OwnedCommand) -> Vec<String> {
    records(answer.body()).into_iter().map(|r| String::from_utf8(r.body).unwrap()).collect()
}

#[test]
fn messages_come_in_order_and_in_bounded_answers() {
    let bench = filled("T", 40);
    let answer = bench.pull(&pull_header("T", 0, 0, "*"));
    assert_eq!(code(&answer), response::SUCCESS);
    assert_eq!(bodies(&answer), (0..32).map(|n| n.to_string()).collect::<Vec<_>>());
    for (key, value) in [("nextBeginOffset", 32), ("minOffset", 0), ("maxOffset", 40), ("suggestWhichBrokerId", 0)] {
        assert_eq!(number(&answer, key), Some(value), "{key}");
    }
    let three = PullHeader { max_msg_nums: 3, ..pull_header("T", 0, 38, "*") };
    assert_eq!(bodies(&bench.pull(&three)), ["38", "39"]);
    let huge = PullHeader { max_msg_nums: i32::MAX, ..pull_header("T", 0, 0, "*") };
    assert_eq!(records(bench.pull(&huge).body()).len(), 32);
    let none = PullHeader { max_msg_nums: -5, ..pull_header("T", 0, 0, "*") };
    assert_eq!(records(bench.pull(&none).body()).len(), 1);
}

/// The header is written before the records are read, and again when it is known that it was wrong.
#[test]
fn an_answer_that_ends_sooner_than_expected_is_whole() {
    let bench = start();
    let body = |n: usize| vec![n as u8; 10_000];
    for n in 0..110 {
        assert_eq!(code(&bench.send("T", 0, "", &body(n))), 0);
    }
    wait_until("dispatch", || bench.ask(request::GET_MAX_OFFSET, "T", 0, "offset", &[]) == Some(110));
    // 32 messages would end at an offset of three digits; 256 KiB end before.
    let answer = bench.pull(&pull_header("T", 0, 72, "*"));
    let next = number(&answer, "nextBeginOffset").unwrap() as usize;
    assert!((73..100).contains(&next), "{next}");
    let bodies: Vec<_> = records(answer.body()).into_iter().map(|record| record.body).collect();
    assert_eq!(bodies, (72..next).map(body).collect::<Vec<_>>());
}

#[test]
fn tags_are_filtered_at_the_broker() {
    let bench = filled("T", 10);
    assert_eq!(bodies(&bench.pull(&pull_header("T", 0, 0, "odd"))), ["1", "3", "5", "7", "9"]);
    assert_eq!(bodies(&bench.pull(&pull_header("T", 0, 0, "even || odd"))).len(), 10);
    let nothing = bench.pull(&pull_header("T", 0, 0, "other"));
    assert_eq!(code(&nothing), response::PULL_RETRY_IMMEDIATELY);
    assert_eq!(number(&nothing, "nextBeginOffset"), Some(10));
    assert_eq!(code(&bench.pull(&pull_header("T", 0, 0, "||"))), response::SUBSCRIPTION_PARSE_FAILED);
    let sql = PullHeader { expression_type: Some(Text::plain("SQL92")), ..pull_header("T", 0, 0, "a > 1") };
    assert_eq!(code(&bench.pull(&sql)), response::SYSTEM_ERROR);
}

#[test]
fn offsets_beyond_the_queue_are_corrected() {
    let bench = filled("T", 5);
    for (offset, expected, next) in [
        (5, response::PULL_NOT_FOUND, 5),
        (6, response::PULL_OFFSET_MOVED, 5),
        (i64::MAX, response::PULL_OFFSET_MOVED, 5),
        (-1, response::PULL_OFFSET_MOVED, 0),
        (i64::MIN, response::PULL_OFFSET_MOVED, 0),
    ] {
        let answer = bench.pull(&pull_header("T", 0, offset, "*"));
        assert_eq!((code(&answer), number(&answer, "nextBeginOffset")), (expected, Some(next)), "{offset}");
    }
    // An empty queue: 0 waits, anything else starts over.
    assert_eq!(code(&bench.pull(&pull_header("T", 1, 0, "*"))), response::PULL_NOT_FOUND);
    let moved = bench.pull(&pull_header("T", 1, 7, "*"));
    assert_eq!((code(&moved), number(&moved, "nextBeginOffset")), (response::PULL_OFFSET_MOVED, Some(0)));
}

#[test]
fn refusals_have_the_codes_java_users_know() {
    let bench = filled("T", 1);
    assert_eq!(code(&bench.pull(&pull_header("Unknown", 0, 0, "*"))), response::TOPIC_NOT_EXIST);
    for queue in [4, -1, i32::MAX, i32::MIN] {
        assert_eq!(code(&bench.pull(&pull_header("T", queue, 0, "*"))), response::INVALID_PARAMETER, "{queue}");
    }
    let unregistered = PullHeader { sys_flag: 0, ..pull_header("T", 0, 0, "*") };
    assert_eq!(code(&bench.pull(&unregistered)), response::SUBSCRIPTION_NOT_EXIST);
    let bad_group = PullHeader { consumer_group: Text::plain("a/b"), ..pull_header("T", 0, 0, "*") };
    assert_eq!(code(&bench.pull(&bad_group)), response::SUBSCRIPTION_GROUP_NOT_EXIST);
}

#[test]
fn a_waiting_pull_is_answered_when_a_message_arrives() {
    let bench = filled("T", 1);
    // Longer than the client waits.
    let waiting =
        PullHeader { sys_flag: SUSPEND | SUBSCRIPTION, suspend_timeout_millis: 60_000, ..pull_header("T", 0, 1, "*") };
    let pull = start_pull(&bench, waiting);
    wait_until("parking", || bench.broker.as_ref().unwrap().shared().polls.len() == 1);
    bench.send("T", 0, "", b"new");
    let answer = bench.runtime.block_on(pull).unwrap();
    assert_eq!((code(&answer), bodies(&answer)), (response::SUCCESS, vec!["new".to_owned()]));
    assert!(bench.broker.as_ref().unwrap().shared().polls.is_empty());
}

#[test]
fn a_waiting_pull_is_not_woken_by_other_tags_or_queues() {
    let bench = filled("T", 1);
    let waiting =
        PullHeader { sys_flag: SUSPEND | SUBSCRIPTION, suspend_timeout_millis: 3000, ..pull_header("T", 0, 1, "a") };
    let began = Instant::now();
    let pull = start_pull(&bench, waiting);
    wait_until("parking", || bench.broker.as_ref().unwrap().shared().polls.len() == 1);
    bench.send("T", 1, "TAGS\u{1}a\u{2}", b"other queue");
    bench.send("T", 0, "TAGS\u{1}b\u{2}", b"other tag");
    let answer = bench.runtime.block_on(pull).unwrap();
    // At its deadline it reads once more and skips what is not for it.
    assert_eq!((code(&answer), number(&answer, "nextBeginOffset")), (response::PULL_RETRY_IMMEDIATELY, Some(2)));
    assert!(began.elapsed() >= Duration::from_millis(2950), "{:?}", began.elapsed());
}

#[test]
fn a_waiting_pull_is_told_nothing_was_found_at_its_deadline() {
    let bench = filled("T", 1);
    let waiting =
        PullHeader { sys_flag: SUSPEND | SUBSCRIPTION, suspend_timeout_millis: 300, ..pull_header("T", 0, 1, "*") };
    let answer = bench.runtime.block_on(start_pull(&bench, waiting)).unwrap();
    assert_eq!(code(&answer), response::PULL_NOT_FOUND);
    assert_eq!(number(&answer, "nextBeginOffset"), Some(1));
}

#[test]
fn pulls_of_a_closed_connection_are_dropped() {
    let bench = filled("T", 1);
    let waiting =
        PullHeader { sys_flag: SUSPEND | SUBSCRIPTION, suspend_timeout_millis: 60_000, ..pull_header("T", 0, 1, "*") };
    let pull = start_pull(&bench, waiting);
    let shared = bench.broker.as_ref().unwrap().shared();
    wait_until("parking", || shared.polls.len() == 1);
    bench.client.close();
    wait_until("dropping", || shared.polls.is_empty());
    assert!(bench.runtime.block_on(pull).is_err());
}

#[test]
fn a_reset_moves_the_next_pull_once() {
    let bench = filled("T", 5);
    bench.broker.as_ref().unwrap().shared().offsets.reset("T", "CG", 0, 2);
    let moved = bench.pull(&pull_header("T", 0, 5, "*"));
    assert_eq!((code(&moved), number(&moved, "nextBeginOffset")), (response::PULL_OFFSET_MOVED, Some(2)));
    assert_eq!(code(&bench.pull(&pull_header("T", 0, 5, "*"))), response::PULL_NOT_FOUND);
}

#[test]
fn a_pull_may_carry_a_commit() {
    let bench = filled("T", 5);
    let commit = PullHeader { sys_flag: SUBSCRIPTION | 1, commit_offset: 3, ..pull_header("T", 0, 3, "*") };
    assert_eq!(code(&bench.pull(&commit)), 0);
    let committed = bench.ask(request::QUERY_CONSUMER_OFFSET, "T", 0, "offset", &[("consumerGroup", "CG")]);
    assert_eq!(committed, Some(3));
}

#[test]
fn messages_that_are_not_in_memory_are_read_by_another_thread() {
    let bench = start_with(config(), |store| store.access_message_in_memory_max_ratio = 0);
    for n in 0..20 {
        assert_eq!(code(&bench.send("Old", 0, "", n.to_string().as_bytes())), 0);
    }
    wait_until("dispatch", || bench.ask(request::GET_MAX_OFFSET, "Old", 0, "offset", &[]) == Some(20));
    let first = bench.pull(&pull_header("Old", 0, 0, "*"));
    assert_eq!(code(&first), response::SUCCESS);
    // Old data comes in smaller answers (`maxTransferCountOnMessageInDisk`).
    assert_eq!(bodies(&first), (0..8).map(|n| n.to_string()).collect::<Vec<_>>());
    assert_eq!(number(&first, "nextBeginOffset"), Some(8));
    assert_eq!(code(&bench.pull(&pull_header("Old", 0, 20, "*"))), response::PULL_NOT_FOUND);
}

fn start_pull(bench: &Bench, header: PullHeader<'static>) -> tokio::task::JoinHandle<ferromq_protocol::OwnedCommand> {
    let connection = bench.connection();
    bench.runtime.spawn(async move {
        connection
            .invoke(TIMEOUT, |out, opaque| {
                let mut frame = FrameWriter::request(out, Encoding::Json, request::PULL_MESSAGE, opaque, false);
                header.write(&mut frame);
                frame.finish();
            })
            .await
            .unwrap()
    })
}

#[test]
fn a_group_reads_so_much_of_what_is_old_and_then_has_to_wait() {
    let mut config = config();
    (config.cold_data_flow_control_enable, config.cg_cold_read_threshold) = (true, 1);
    let bench = start_with(config, |store| store.access_message_in_memory_max_ratio = 0);
    for n in 0..20 {
        assert_eq!(code(&bench.send("Old", 0, "", n.to_string().as_bytes())), 0);
    }
    wait_until("dispatch", || bench.ask(request::GET_MAX_OFFSET, "Old", 0, "offset", &[]) == Some(20));
    let header = |group: &'static str, offset| PullHeader {
        consumer_group: Text::plain(group),
        ..pull_header("Old", 0, offset, "*")
    };
    let took = |header: PullHeader<'_>| {
        let began = Instant::now();
        assert_eq!(code(&bench.pull(&header)), response::SUCCESS);
        began.elapsed()
    };
    let body = |code: i32, body: &[u8]| bench.call(code, body, |_| {});
    assert_eq!(code(&body(request::UPDATE_COLD_DATA_FLOW_CTR_CONFIG, b"Patient=100000\n")), response::SUCCESS);
    let began = Instant::now();
    took(header("Hasty", 0));
    // Another group may go on, and so may one that has a threshold of its own.
    took(header("Other", 0));
    took(header("Patient", 0));
    took(header("Patient", 8));
    let info = String::from_utf8(body(request::GET_COLD_DATA_FLOW_CTR_INFO, b"").body().to_vec()).unwrap();
    assert!(info.contains(r#""configTable":{"Patient":100000}"#) && info.contains(r#""Hasty":{"coldAcc":"#), "{info}");
    took(header("Hasty", 8));
    assert!(began.elapsed() >= Duration::from_secs(5), "answered after {:?}", began.elapsed());
    for wrong in [&b"a b=1"[..], b"G=-1", b"G=much"] {
        let answer = body(request::UPDATE_COLD_DATA_FLOW_CTR_CONFIG, wrong);
        assert_eq!(code(&answer), response::INVALID_PARAMETER, "{}", remark(&answer));
    }
    assert_eq!(code(&body(request::REMOVE_COLD_DATA_FLOW_CTR_CONFIG, b"Patient")), response::SUCCESS);
    let info = String::from_utf8(body(request::GET_COLD_DATA_FLOW_CTR_INFO, b"").body().to_vec()).unwrap();
    assert!(info.contains(r#""configTable":{}"#), "{info}");
}

#[test]
fn a_group_that_is_paused_while_its_pull_waits_gets_nothing() {
    let bench = filled("T", 1);
    let header =
        PullHeader { sys_flag: SUSPEND | SUBSCRIPTION, suspend_timeout_millis: 8_000, ..pull_header("T", 0, 1, "*") };
    let waiting = start_pull(&bench, header);
    wait_until("a pull that waits", || bench.broker.as_ref().unwrap().shared().polls.len() == 1);
    let may = |is_allowed: bool| {
        let group = format!(r#"{{"groupName":"CG","consumeEnable":{is_allowed}}}"#);
        assert_eq!(code(&bench.call(request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, group.as_bytes(), |_| {})), 0);
    };
    may(false);
    assert_eq!(code(&bench.send("T", 0, "", b"1")), 0);
    let answer = bench.runtime.block_on(waiting).unwrap();
    assert_eq!((code(&answer), answer.body().len()), (response::NO_PERMISSION, 0), "{}", remark(&answer));
    may(true);
    assert_eq!(bodies(&bench.pull(&pull_header("T", 0, 1, "*"))), ["1"]);
}
