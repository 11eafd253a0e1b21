//! Delay levels and timer messages against a real broker: where they wait, when they come, and that they come again
//! after a restart or a kill.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use ferromq_broker::BrokerConfig;
use ferromq_common::clock;
use ferromq_protocol::code::response;
use ferromq_store::{Fault, Faults, Operation, StoreConfig};
use support::*;

/// Pulls a queue until it holds `count` messages.
fn wait_for(bench: &Bench, topic: &str, queue: i32, count: usize) -> Vec<Record> {
    let mut found = Vec::new();
    wait_until("delivery", || {
        found.clear();
        loop {
            let pulled = bench.pull(&pull_header(topic, queue, found.len() as i64, "*"));
            let more = if code(&pulled) == response::SUCCESS { records(pulled.body()) } else { Vec::new() };
            if more.is_empty() {
                break;
            }
            found.extend(more);
        }
        found.len() >= count
    });
    found
}

/// Two levels, and log files that are quickly copied.
fn levels(store: &mut StoreConfig) {
    store.message_delay_level = "1s 2s".into();
    store.mapped_file_size_commit_log = 4 * 1024 * 1024;
}

fn restart(folder: tempfile::TempDir, config: BrokerConfig, adjust: impl Fn(&mut StoreConfig)) -> Bench {
    start_in(folder, config, adjust).unwrap()
}

#[test]
fn a_delay_level_waits_in_the_schedule_topic_and_is_not_delivered_early() {
    let bench = start_with(config(), levels);
    let sent = clock::now_millis();
    let answer =
        bench.send("T", 2, "UNIQ_KEY\u{1}U1\u{2}TAGS\u{1}a\u{2}DELAY\u{1}1\u{2}TIMER_DELAY_MS\u{1}9\u{2}", b"hello");
    assert_eq!(code(&answer), response::SUCCESS, "{}", remark(&answer));
    assert_eq!((number(&answer, "queueId"), number(&answer, "queueOffset")), (Some(2), Some(0)));
    let waiting = wait_for(&bench, "SCHEDULE_TOPIC_XXXX", 0, 1);
    assert_eq!(waiting[0].property("REAL_TOPIC").as_deref(), Some("T"));
    assert_eq!(waiting[0].property("REAL_QID").as_deref(), Some("2"));
    assert_eq!(waiting[0].property("TIMER_DELAY_MS"), None);
    let delivered = wait_for(&bench, "T", 2, 1);
    let late = clock::now_millis() - sent - 1000;
    assert!(late >= 0, "early by {} ms", -late);
    assert_eq!((&delivered[0].body[..], delivered[0].property("TAGS").as_deref()), (&b"hello"[..], Some("a")));
    assert_eq!(delivered[0].born_timestamp, 1_700_000_000_000);
}

#[test]
fn levels_above_the_highest_count_as_that_and_each_level_goes_its_own_way() {
    let bench = start_with(config(), levels);
    for (level, body) in [("99", b"late"), ("1", b"soon"), ("2", b"then")] {
        assert_eq!(code(&bench.send("T", 0, &format!("DELAY\u{1}{level}\u{2}"), body)), response::SUCCESS);
    }
    let bodies: Vec<_> = wait_for(&bench, "T", 0, 3).into_iter().map(|m| m.body).collect();
    assert_eq!(bodies, [b"soon", b"late", b"then"]);
    let waiting = wait_for(&bench, "SCHEDULE_TOPIC_XXXX", 1, 2);
    assert_eq!(waiting[0].property("DELAY").as_deref(), Some("2"));
}

#[test]
fn a_timer_message_comes_at_its_time_to_the_precision_set() {
    let bench = start_with(BrokerConfig { timer_precision_ms: 10, ..config() }, levels);
    let start = clock::now_millis();
    // Each with its delay, if it counts from the send, and the times before and after that.
    let mut sent = Vec::new();
    for (n, (property, delay)) in [
        (format!("TIMER_DELIVER_MS\u{1}{}\u{2}", start + 600), None),
        ("TIMER_DELAY_MS\u{1}200\u{2}".to_owned(), Some(200)),
        ("TIMER_DELAY_SEC\u{1}2\u{2}".to_owned(), Some(2000)),
        (format!("TIMER_DELIVER_MS\u{1}{}\u{2}", start - 5), None),
    ]
    .into_iter()
    .enumerate()
    {
        let before = clock::now_millis();
        let answer = bench.send("T", 1, &property, &[n as u8]);
        assert_eq!(code(&answer), response::SUCCESS, "{}", remark(&answer));
        sent.push(delay.map_or((start + 600, start + 600), |delay| (before + delay, clock::now_millis() + delay)));
    }
    let delivered = wait_for(&bench, "T", 1, 4);
    assert_eq!((delivered[0].body[0], delivered[0].property("TIMER_OUT_MS")), (3, None));
    let mut last = 0;
    for message in &delivered[1..] {
        let number = |name| message.property(name).unwrap().parse::<i64>().unwrap();
        let (out, left) = (number("TIMER_OUT_MS"), number("TIMER_DEQUEUE_MS"));
        let (from, to) = sent[usize::from(message.body[0])];
        assert!((from - 10..=to + 10).contains(&out), "{out} is not in {from}..={to}");
        assert!(left - out >= 10 && out >= last, "{out} after {last}, left {} ms later", left - out);
        assert!(message.property("TIMER_ENQUEUE_MS").is_some());
        last = out;
    }
}

#[test]
fn impossible_times_are_refused_and_nothing_is_stored() {
    let bench = start();
    for property in [
        "TIMER_DELAY_SEC\u{1}259201\u{2}",
        "TIMER_DELAY_SEC\u{1}x\u{2}",
        "TIMER_DELAY_MS\u{1}9223372036854775807\u{2}",
        "TIMER_DELIVER_MS\u{1}99999999999999\u{2}",
        "TIMER_DELIVER_MS\u{1}1\u{2}TIMER_DEL_UNIQKEY\u{1}T+U\u{2}",
    ] {
        let answer = bench.send("T", 0, property, b"x");
        assert_eq!(code(&answer), response::MESSAGE_ILLEGAL, "{property:?}");
        assert!(remark(&answer).starts_with("timer message illegal"), "{}", remark(&answer));
    }
    // Whose time is over is delivered at once, and without a level there is no delay.
    let passed = ["TIMER_DELIVER_MS\u{1}-1\u{2}", "TIMER_DELAY_MS\u{1}-9223372036854775808\u{2}", "DELAY\u{1}-3\u{2}"];
    for property in passed {
        assert_eq!(code(&bench.send("T", 0, property, b"now")), response::SUCCESS, "{property:?}");
    }
    assert_eq!(wait_for(&bench, "T", 0, passed.len()).len(), passed.len(), "nothing of what was refused is there");
    let month = start_with(BrokerConfig { timer_max_delay_sec: 30 * 86_400, ..config() }, |_| {});
    for (seconds, answer) in [(2_592_000, response::SUCCESS), (2_592_001, response::MESSAGE_ILLEGAL)] {
        let answered = month.send("T", 0, &format!("TIMER_DELAY_SEC\u{1}{seconds}\u{2}"), b"x");
        assert_eq!(code(&answered), answer, "{seconds} seconds, more than RocketMQ takes");
    }
    let off = start_with(BrokerConfig { timer_wheel_enable: false, ..config() }, |_| {});
    assert_eq!(code(&off.send("T", 0, "TIMER_DELAY_MS\u{1}5\u{2}", b"x")), response::SYSTEM_ERROR);
    assert_eq!(code(&bench.send("rmq_sys_wheel_timer", 0, "TIMER_OUT_MS\u{1}5\u{2}", b"x")), response::NO_PERMISSION);
}

#[test]
fn what_waits_survives_a_stop_and_a_kill_and_what_was_delivered_is_not_delivered_again() {
    let fine = || BrokerConfig { timer_precision_ms: 50, ..config() };
    let bench = start_with(fine(), levels);
    let send = |property: &str, body: &str| {
        assert_eq!(code(&bench.send("T", 0, property, body.as_bytes())), response::SUCCESS);
    };
    for n in 0..50 {
        send("TIMER_DELAY_MS\u{1}300\u{2}", &format!("early timer {n}"));
        send("DELAY\u{1}1\u{2}", &format!("level {n}"));
        send("TIMER_DELAY_MS\u{1}2500\u{2}", &format!("late timer {n}"));
        send("DELAY\u{1}2\u{2}", &format!("late level {n}"));
    }
    wait_for(&bench, "T", 0, 100);
    // The files of the running broker say nothing of these deliveries yet.
    let copy = tempfile::tempdir().unwrap();
    killed_copy(bench.folder.path(), copy.path());
    drop(bench);
    let bench = restart(copy, fine(), levels);
    let count = |records: &[Record]| {
        let mut bodies: Vec<_> = records.iter().map(|m| String::from_utf8(m.body.clone()).unwrap()).collect();
        bodies.sort_unstable();
        let all = bodies.len();
        bodies.dedup();
        (all, bodies.len())
    };
    assert_eq!(count(&wait_for(&bench, "T", 0, 200)), (200, 200));
    let mut bench = bench;
    bench.broker.take().unwrap().shutdown();
    let folder = std::mem::replace(&mut bench.folder, tempfile::tempdir().unwrap());
    let bench = restart(folder, fine(), levels);
    std::thread::park_timeout(Duration::from_millis(300));
    assert_eq!(count(&wait_for(&bench, "T", 0, 200)), (200, 200));
}

#[test]
fn a_smaller_limit_after_a_restart_loses_no_message_that_waits() {
    let mut bench = start_with(config(), levels);
    let body = vec![7; 200 * 1024];
    for property in ["DELAY\u{1}2\u{2}", "TIMER_DELAY_MS\u{1}2000\u{2}"] {
        assert_eq!(code(&bench.send("T", 0, property, &body)), response::SUCCESS);
    }
    bench.broker.take().unwrap().shutdown();
    let folder = std::mem::replace(&mut bench.folder, tempfile::tempdir().unwrap());
    let bench = restart(folder, config(), |store| {
        levels(store);
        store.max_message_size = 1024;
    });
    assert_eq!(code(&bench.send("T", 0, "", &body)), response::MESSAGE_ILLEGAL);
    assert!(wait_for(&bench, "T", 0, 2).iter().all(|message| message.body == body));
}

#[test]
fn a_lost_mark_costs_time_only() {
    let fine = || BrokerConfig { timer_precision_ms: 10, ..config() };
    let bench = start_with(fine(), levels);
    for n in 0..20 {
        bench.send("T", 0, &format!("UNIQ_KEY\u{1}U{n}\u{2}TIMER_DELAY_MS\u{1}50\u{2}"), b"x");
    }
    bench.send("T", 0, "UNIQ_KEY\u{1}UL\u{2}TIMER_DELAY_MS\u{1}2000\u{2}", b"late");
    wait_for(&bench, "T", 0, 20);
    for (damage, expected) in [("", 21), ("short", 21)] {
        let copy = tempfile::tempdir().unwrap();
        killed_copy(bench.folder.path(), copy.path());
        for name in ["timercheck", "timercheck.bak"] {
            let path = copy.path().join("config").join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            match damage {
                "" => drop(std::fs::remove_file(path)),
                bytes => std::fs::write(path, bytes).unwrap(),
            }
        }
        let again = restart(copy, fine(), levels);
        assert_eq!(wait_for(&again, "T", 0, expected).len(), expected);
    }
}

#[test]
fn a_store_that_refuses_for_a_while_loses_no_delayed_message() {
    let faults = Arc::new(Faults::default());
    let bench = start_with(BrokerConfig { timer_precision_ms: 10, ..config() }, |store| {
        levels(store);
        // How soon the store notices that there is room again.
        store.clean_resource_interval = 200;
        store.faults = Some(Arc::clone(&faults));
    });
    let body = vec![b'x'; 8 * 1024];
    for _ in 0..8 {
        assert_eq!(code(&bench.send("T", 0, "TIMER_DELAY_MS\u{1}400\u{2}", &body)), response::SUCCESS);
        assert_eq!(code(&bench.send("T", 0, "DELAY\u{1}1\u{2}", &body)), response::SUCCESS);
    }
    faults.inject(Operation::Write, 0, Fault::NoSpace);
    std::thread::park_timeout(Duration::from_millis(1300));
    faults.heal(Operation::Write);
    assert_eq!(wait_for(&bench, "T", 0, 16).len(), 16);
}

#[test]
fn a_message_that_waits_long_is_stored_anew_in_between() {
    let slots = BrokerConfig { timer_precision_ms: 10, timer_roll_window_slot: 20, ..config() };
    let bench = start_with(slots, levels);
    let sent = Instant::now();
    bench.send("T", 0, "TIMER_DELAY_MS\u{1}900\u{2}", b"x");
    let delivered = wait_for(&bench, "T", 0, 1);
    assert!(sent.elapsed() >= Duration::from_millis(890), "{:?}", sent.elapsed());
    let rolls: i64 = delivered[0].property("TIMER_ROLL_TIMES").unwrap().parse().unwrap();
    // Fewer, where it was looked at late.
    assert!((1..=6).contains(&rolls), "{rolls}");
    assert_eq!(wait_for(&bench, "rmq_sys_wheel_timer", 0, rolls as usize + 1).len(), rolls as usize + 1);
}

/// One step of the model.
#[derive(Clone, Debug)]
enum Step {
    /// A delay level, or 0, and the delay of a timer message otherwise, milliseconds.
    Send(u8, u16),
    Wait(u16),
    Kill,
    Stop,
}

fn step() -> impl proptest::strategy::Strategy<Value = Step> {
    use proptest::prelude::*;
    prop_oneof![
        12 => (0..3_u8, 0..900_u16).prop_map(|(level, delay)| Step::Send(level, delay)),
        4 => (1..250_u16).prop_map(Step::Wait),
        1 => Just(Step::Kill),
        1 => Just(Step::Stop),
    ]
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 6, ..Default::default() })]

    /// Whatever is sent, and however often the broker dies in between: each message comes once, and none early.
    #[test]
    fn every_message_comes_once_over_stops_and_kills(steps in proptest::collection::vec(step(), 20..60)) {
        let fine = || BrokerConfig { timer_precision_ms: 20, timer_roll_window_slot: 20, ..config() };
        let mut bench = start_with(fine(), levels);
        let mut due = Vec::new();
        for step in steps {
            match step {
                Step::Send(level, delay) => {
                    let (property, delay) = match level {
                        0 => (format!("TIMER_DELAY_MS\u{1}{delay}\u{2}"), i64::from(delay)),
                        level => (format!("DELAY\u{1}{level}\u{2}"), i64::from(level) * 1000),
                    };
                    due.push(clock::now_millis() + delay);
                    let body = (due.len() - 1).to_string();
                    assert_eq!(code(&bench.send("T", 0, &property, body.as_bytes())), response::SUCCESS);
                }
                Step::Wait(millis) => std::thread::park_timeout(Duration::from_millis(millis.into())),
                Step::Kill => {
                    let copy = tempfile::tempdir().unwrap();
                    killed_copy(bench.folder.path(), copy.path());
                    bench = restart(copy, fine(), levels);
                }
                Step::Stop => {
                    bench.broker.take().unwrap().shutdown();
                    let folder = std::mem::replace(&mut bench.folder, tempfile::tempdir().unwrap());
                    bench = restart(folder, fine(), levels);
                }
            }
        }
        let mut found = wait_for(&bench, "T", 0, due.len());
        std::thread::park_timeout(Duration::from_millis(100));
        found = wait_for(&bench, "T", 0, found.len());
        let mut numbers: Vec<usize> =
            found.iter().map(|m| String::from_utf8_lossy(&m.body).parse().unwrap()).collect();
        for (number, message) in numbers.iter().zip(&found) {
            assert!(message.store_timestamp >= due[*number], "{number} came early");
        }
        numbers.sort_unstable();
        assert_eq!(numbers, (0..due.len()).collect::<Vec<_>>());
    }
}
