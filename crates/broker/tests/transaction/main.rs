//! Transactions over real sockets: half messages, their ends, checks, and what a restart makes of them.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../support/mod.rs"]
mod support;

mod model;
#[path = "../support/producer.rs"]
mod producer;

use std::sync::Arc;
use std::time::Duration;

use ferromq_broker::{Broker, BrokerConfig};
use ferromq_protocol::Text;
use ferromq_protocol::code::{request, response};
use ferromq_protocol::header::send::EndTransactionHeader;
use ferromq_protocol::topic;
use ferromq_store::StoreConfig;
use producer::*;
use support::*;

/// Fast checks.
fn quick() -> BrokerConfig {
    BrokerConfig { transaction_time_out: 100, transaction_check_interval: 100, transaction_check_max: 1000, ..config() }
}

/// A bench whose client registers as a producer and keeps the checks.
fn with_producer(config: BrokerConfig) -> (Bench, Arc<Checks>) {
    let mut bench = start_with(config, |_| {});
    let checks = connect(&mut bench);
    (bench, checks)
}

fn restart(bench: &mut Bench, config: BrokerConfig) {
    bench.broker.take().unwrap().shutdown();
    let broker = Broker::start(config, store_config(bench.folder.path())).unwrap();
    bench.addr = broker.addr().to_string();
    bench.broker = Some(broker);
}

/// A half of the topic that is looked at here.
fn send_half(bench: &Bench, id: &str, body: &[u8], further: &str) -> Half {
    send_half_to(bench, ("Orders", 2), id, body, &format!("TAGS\u{1}t\u{2}{further}"))
}

fn all(bench: &Bench, topic: &str, queue: i32) -> Vec<Record> {
    records(bench.pull(&pull_header(topic, queue, 0, "*")).body())
}

fn bodies(bench: &Bench) -> Vec<String> {
    all(bench, "Orders", 2).iter().map(|r| String::from_utf8_lossy(&r.body).into_owned()).collect()
}

fn wait_for_checks(checks: &Checks, count: usize) -> Vec<Check> {
    wait_until("checks", || checks.0.lock().len() >= count);
    checks.0.lock().clone()
}

#[test]
fn a_half_is_hidden_until_its_commit_and_a_rollback_hides_it_for_ever() {
    let bench = start();
    let (one, two) = (send_half(&bench, "U1", b"one", ""), send_half(&bench, "U2", b"two", ""));
    assert_eq!(bench.ask(request::GET_MAX_OFFSET, "Orders", 2, "offset", &[("committed", "false")]), Some(0));
    let stored = &all(&bench, topic::TRANS_HALF, 0)[0];
    assert_eq!((stored.sys_flag & 12, stored.queue_id), (0, 0));
    for (key, value) in [("REAL_TOPIC", "Orders"), ("REAL_QID", "2"), ("__transactionId__", "U1"), ("TRAN_MSG", "true")]
    {
        assert_eq!(stored.property(key).as_deref(), Some(value), "{key}");
    }
    assert_eq!(end(&bench, two, ROLLBACK, false).0, 0);
    assert_eq!(end(&bench, one, COMMIT, false).0, 0);
    wait_until("dispatch", || !bodies(&bench).is_empty());
    let committed = all(&bench, "Orders", 2);
    assert_eq!(committed.len(), 1);
    assert_eq!((&committed[0].body[..], committed[0].sys_flag & 12, committed[0].queue_offset), (&b"one"[..], 8, 0));
    for (key, value) in
        [("REAL_TOPIC", None), ("REAL_QID", None), ("__transactionId__", Some("U1")), ("TAGS", Some("t"))]
    {
        assert_eq!(committed[0].property(key).as_deref(), value, "{key}");
    }
    let ops = all(&bench, topic::TRANS_OP_HALF, 0);
    assert_eq!(ops.iter().map(|op| &op.body[..]).collect::<Vec<_>>(), [&b"1,"[..], b"0,"]);
    assert_eq!(ops[0].property("TAGS").as_deref(), Some("d"));
    let metrics = &bench.broker.as_ref().unwrap().shared().transactions.metrics;
    assert_eq!(metrics.count("Orders"), 0);
}

#[test]
fn a_transaction_ends_once() {
    let bench = start();
    let half = send_half(&bench, "U", b"x", "");
    assert_eq!(end(&bench, half, COMMIT, false).0, 0);
    for outcome in [COMMIT, ROLLBACK] {
        let (code, remark) = end(&bench, half, outcome, false);
        assert_eq!((code, remark.contains("ended before")), (1, true), "{remark}");
    }
    wait_until("dispatch", || bodies(&bench) == ["x"]);
    // Unknown is no end.
    let open = send_half(&bench, "V", b"y", "");
    assert_eq!(end(&bench, open, 0, false).0, 0);
    assert_eq!(end(&bench, open, COMMIT, false).0, 0);
    wait_until("dispatch", || bodies(&bench) == ["x", "y"]);
}

#[test]
fn a_commit_that_meets_the_end_of_its_topic_is_not_said_to_be_stored() {
    let (bench, _checks) = with_producer(config());
    let half = send_half_to(&bench, ("Gone", 0), "id", b"in flight", "");
    let end = EndTransactionHeader {
        producer_group: Text::plain(GROUP),
        tran_state_table_offset: half.queue_offset,
        commit_log_offset: half.position,
        commit_or_rollback: COMMIT,
        ..EndTransactionHeader::default()
    };
    let answer = bench.call_as_topic_ends("Gone", request::END_TRANSACTION, b"", |frame| end.write(frame));
    assert_eq!(code(&answer), response::TOPIC_NOT_EXIST, "{}", remark(&answer));
    assert!(remark(&answer).contains("deleted"), "{}", remark(&answer));
}

#[test]
fn forged_ends_are_refused_and_change_nothing() {
    let bench = start();
    let half = send_half(&bench, "U", b"x", "");
    // Names another's half as its own first copy.
    let thief = send_half(&bench, "V", b"y", "TRAN_PREPARED_QUEUE_OFFSET\u{1}0\u{2}TRANSACTION_CHECK_TIMES\u{1}9\u{2}");
    assert_eq!(end(&bench, thief, ROLLBACK, false).0, 0);
    // Says itself where it goes, and that it has gone already.
    let own_way = "REAL_TOPIC\u{1}Elsewhere\u{2}REAL_QID\u{1}7\u{2}__transactionId__\u{1}U\u{2}";
    let stray = send_half(&bench, "W", b"z", own_way);
    assert_eq!(end(&bench, stray, COMMIT, false).0, 0);
    bench.send("Orders", 1, "UNIQ_KEY\u{1}N\u{2}", b"an ordinary message");
    let ordinary = all(&bench, "Orders", 1)[0].physical_offset;
    assert_eq!(end_as(&bench, half, COMMIT, false, "other").1, "The producer group wrong");
    let wrong = [
        Half { queue_offset: 9, ..half },
        Half { position: half.position + 1, ..half },
        Half { position: i64::MAX, ..half },
        Half { position: -1, ..half },
        Half { position: ordinary, queue_offset: 0 },
    ];
    for forged in wrong {
        let (code, remark) = end(&bench, forged, COMMIT, false);
        assert_eq!(code, response::SYSTEM_ERROR, "{forged:?} {remark}");
    }
    let (code, remark) = end(&bench, half, 7, false);
    assert_eq!((code, remark.contains("commitOrRollback=7")), (1, true));
    assert_eq!(end(&bench, half, COMMIT, false).0, 0);
    wait_until("dispatch", || bodies(&bench) == ["z", "x"]);
    assert!(bench.broker.as_ref().unwrap().shared().store.find_queue("Elsewhere", 7).is_none());
}

#[test]
fn an_end_after_the_immunity_time_waits_for_the_check() {
    let (bench, checks) = with_producer(quick());
    let half = send_half(&bench, "U", b"x", "CHECK_IMMUNITY_TIME_IN_SECONDS\u{1}1\u{2}");
    let check = &wait_for_checks(&checks, 1)[0];
    let age = ferromq_common::clock::now_millis() - check.record.born_timestamp;
    assert!(age >= 1000, "asked within the immunity time, after {age} ms");
    assert_eq!(end(&bench, half, COMMIT, false).0, response::ILLEGAL_OPERATION);
    assert_eq!(end_between_checks(&bench, check.half, COMMIT, true).0, 0);
    wait_until("dispatch", || bodies(&bench) == ["x"]);
}

#[test]
fn a_half_without_an_end_is_asked_about_and_the_answer_counts() {
    let (bench, checks) = with_producer(quick());
    send_half(&bench, "an hour", b"y", "CHECK_IMMUNITY_TIME_IN_SECONDS\u{1}3600\u{2}");
    std::thread::sleep(Duration::from_millis(2500)); // The thread sleeps for that one then.
    let half = send_half(&bench, "U", b"x", "");
    let check = wait_for_checks(&checks, 2).remove(1);
    assert_eq!((check.transaction_id.as_str(), &check.record.body[..]), ("U", &b"x"[..]));
    assert_eq!((check.record.topic.as_str(), check.record.queue_id), ("Orders", 2));
    assert_eq!(
        (check.record.queue_offset, check.record.physical_offset),
        (check.half.queue_offset, check.half.position)
    );
    assert_eq!(check.record.property("TRANSACTION_CHECK_TIMES").as_deref(), Some("2"));
    // A late end of the first copy ends the newest, too.
    assert_eq!(end_between_checks(&bench, half, COMMIT, false).0, 0);
    assert_eq!(end(&bench, check.half, COMMIT, true).0, 1);
    let count = checks.0.lock().len();
    std::thread::sleep(Duration::from_millis(400));
    assert!(checks.0.lock().len() <= count + 1);
    assert_eq!(bodies(&bench), ["x"]);
}

#[test]
fn after_the_last_check_the_message_goes_to_its_topic_of_the_given_up() {
    let (bench, checks) = with_producer(BrokerConfig { transaction_check_max: 3, ..quick() });
    send_half(&bench, "U", b"x", "");
    wait_until("giving up", || {
        bench.ask(request::GET_MAX_OFFSET, topic::TRANS_CHECK_MAX_TIME, 0, "offset", &[]) == Some(1)
    });
    assert_eq!(wait_for_checks(&checks, 3).len(), 3);
    let given_up = &all(&bench, topic::TRANS_CHECK_MAX_TIME, 0)[0];
    assert_eq!(given_up.property("REAL_TOPIC").as_deref(), Some("Orders"));
    assert_eq!(given_up.property("TRANSACTION_CHECK_TIMES").as_deref(), Some("3"));
    let shared = bench.broker.as_ref().unwrap().shared();
    wait_until("the count", || shared.transactions.metrics.count("Orders") == 0);
    assert_eq!((shared.transactions.waiting(), bodies(&bench).len()), (0, 0));
    // An administrator has it asked about again, and this time the producer knows.
    let resume = |position| {
        let id = ferromq_protocol::id::offset_message_id(shared.store_host, position);
        let answer = bench.call(request::RESUME_CHECK_HALF_MESSAGE, b"", |frame| _ = frame.str("msgId", &id));
        (code(&answer), remark(&answer))
    };
    assert_eq!(resume(given_up.physical_offset as u64).0, 0);
    // Asked twice it is one half, and it stays one when only the index knows.
    assert_eq!(resume(given_up.physical_offset as u64).0, 0);
    assert_eq!(shared.transactions.metrics.count("Orders"), 1);
    let check = &wait_for_checks(&checks, 4)[3];
    assert_eq!(check.record.property("TRANSACTION_CHECK_TIMES").as_deref(), Some("1"));
    assert_eq!(end_between_checks(&bench, check.half, COMMIT, true).0, 0);
    wait_until("the message", || bodies(&bench) == ["x"]);
    assert!(resume(check.half.position as u64).1.contains("not one of those"));
    assert!(resume(u64::MAX >> 1).1.contains("no message there"));
    let answer = bench.call(request::RESUME_CHECK_HALF_MESSAGE, b"", |frame| _ = frame.str("msgId", "x"));
    assert!(remark(&answer).contains("no offset message id"));
}

#[test]
fn without_a_producer_no_check_is_counted() {
    let mut bench = start_with(BrokerConfig { transaction_check_max: 1, ..quick() }, |_| {});
    send_half(&bench, "U", b"x", "");
    std::thread::sleep(Duration::from_millis(600));
    assert_eq!(bench.broker.as_ref().unwrap().shared().transactions.waiting(), 1);
    let checks = connect(&mut bench);
    let check = &wait_for_checks(&checks, 1)[0];
    assert_eq!(check.half.queue_offset, 1);
    assert_eq!(end_between_checks(&bench, check.half, ROLLBACK, true).0, 0);
    assert!(bodies(&bench).is_empty());
}

#[test]
fn a_restart_knows_what_has_ended_and_goes_on_with_the_rest() {
    let (mut bench, checks) = with_producer(quick());
    let halves: Vec<Half> =
        (0..6).map(|n| send_half(&bench, &format!("U{n}"), format!("{n}").as_bytes(), "")).collect();
    assert_eq!(end_between_checks(&bench, halves[0], COMMIT, false).0, 0);
    assert_eq!(end_between_checks(&bench, halves[3], ROLLBACK, false).0, 0);
    let mut asked = None;
    wait_until("a check of the second", || {
        asked = checks.0.lock().iter().find(|check| check.transaction_id == "U1").cloned();
        asked.is_some()
    });
    assert_eq!(end_between_checks(&bench, asked.unwrap().half, COMMIT, true).0, 0);
    restart(&mut bench, config());
    let shared = Arc::clone(bench.broker.as_ref().unwrap().shared());
    assert_eq!((shared.transactions.waiting(), shared.transactions.metrics.count("Orders")), (3, 3));
    assert_eq!(end(&bench, halves[0], COMMIT, false).0, 1);
    assert_eq!(end(&bench, halves[3], COMMIT, false).0, 1);
    drop(shared);
    restart(&mut bench, quick());
    let checks = connect(&mut bench);
    wait_until("all to be asked", || {
        let asked = checks.0.lock();
        ["U2", "U4", "U5"].iter().all(|id| asked.iter().any(|c| c.transaction_id == *id))
    });
    assert!(checks.0.lock().iter().all(|c| !["U0", "U1", "U3"].contains(&c.transaction_id.as_str())));
    for id in ["U2", "U4", "U5"] {
        wait_until("its end", || {
            let check = checks.0.lock().iter().rfind(|c| c.transaction_id == id).cloned().unwrap();
            end(&bench, check.half, COMMIT, true).0 == 0
        });
    }
    let mut got = bodies(&bench);
    got.sort();
    assert_eq!(got, ["0", "1", "2", "4", "5"]);
    // What is kept lets a restart pass over all of it.
    let offsets = &bench.broker.as_ref().unwrap().shared().offsets;
    let half_end = bench.broker.as_ref().unwrap().shared().store.find_queue(topic::TRANS_HALF, 0).unwrap().max_offset();
    wait_until("the offsets", || offsets.query(topic::TRANS_HALF, "CID_RMQ_SYS_TRANS", 0) == Some(half_end));
}

/// The disk did not get the message of a commit, but the op message behind it and the log's next file.
#[test]
fn an_outcome_behind_lost_records_is_not_believed() {
    let small = |store: &mut StoreConfig| store.mapped_file_size_commit_log = 128 * 1024;
    let mut bench = start_with(config(), small);
    let ids = ["before", "lost", "behind", "open"];
    let halves = ids.map(|id| send_half(&bench, id, format!("the body {id}").as_bytes(), ""));
    for half in &halves[..3] {
        assert_eq!(end(&bench, *half, COMMIT, false).0, 0);
    }
    for _ in 0..10 {
        assert_eq!(code(&bench.send("Other", 0, "", &[b'x'; 20_000])), 0);
    }
    bench.broker.take().unwrap().shutdown();
    let root = bench.folder.path();
    let path = root.join("commitlog").join(format!("{:020}", 0));
    let mut log = std::fs::read(&path).unwrap();
    let committed = log.windows(13).rposition(|bytes| bytes == b"the body lost").unwrap();
    log[committed] = 0;
    std::fs::write(path, log).unwrap();
    // Nothing else was on the disk yet.
    for name in ["consumequeue", "index"] {
        std::fs::remove_dir_all(root.join(name)).unwrap();
    }
    std::fs::remove_file(root.join("checkpoint")).unwrap();
    for name in ["consumerOffset.json", "consumerOffset.json.bak"] {
        let _ = std::fs::remove_file(root.join("config").join(name));
    }
    std::fs::write(root.join("abort"), "").unwrap();
    let mut store = store_config(root);
    small(&mut store);
    let broker = Broker::start(quick(), store).unwrap();
    bench.addr = broker.addr().to_string();
    bench.broker = Some(broker);
    let checks = connect(&mut bench);
    let mut got = Vec::new();
    wait_until("the two without an outcome to be asked about and to end", || {
        let asked = std::mem::take(&mut *checks.0.lock());
        asked.iter().for_each(|check| drop(end(&bench, check.half, COMMIT, true)));
        // The pull passes over the lost one.
        let after = bench.pull(&pull_header("Orders", 2, 0, "*"));
        let rest = bench.pull(&pull_header("Orders", 2, number(&after, "nextBeginOffset").unwrap(), "*"));
        let delivered = [records(after.body()), records(rest.body())];
        got = delivered.iter().flatten().map(|record| String::from_utf8_lossy(&record.body).into_owned()).collect();
        got.len() >= ids.len() && bench.broker.as_ref().unwrap().shared().transactions.waiting() == 0
    });
    got.sort();
    assert_eq!(got, ["the body before", "the body behind", "the body lost", "the body open"]);
}

#[test]
fn what_cannot_be_a_half_is_refused() {
    let bench = start();
    let with = |further: &str| format!("UNIQ_KEY\u{1}U\u{2}TRAN_MSG\u{1}true\u{2}PGROUP\u{1}PG\u{2}{further}");
    let delayed = bench.send("Orders", 0, &with("DELAY\u{1}3\u{2}"), b"x");
    assert_eq!((code(&delayed), remark(&delayed).contains("cannot be delayed")), (response::MESSAGE_ILLEGAL, true));
    let refusing = start_with(BrokerConfig { reject_transaction_message: true, ..config() }, |_| {});
    assert_eq!(code(&refusing.send("Orders", 0, &with(""), b"x")), response::NO_PERMISSION);
}

#[test]
fn an_outcome_that_cannot_be_written_leaves_the_half_waiting() {
    let mut bench = start();
    let half = send_half(&bench, "U", b"x", "");
    bench.broker.as_ref().unwrap().shared().store.shutdown();
    for _ in 0..2 {
        assert_eq!(end(&bench, half, COMMIT, false).0, response::SERVICE_NOT_AVAILABLE);
    }
    restart(&mut bench, config());
    assert_eq!(end(&bench, half, COMMIT, false).0, 0);
    wait_until("dispatch", || bodies(&bench) == ["x"]);
}
