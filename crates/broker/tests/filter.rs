//! SQL92 filters over a real socket: what a pull brings, what wakes one that waits, what is refused.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::time::Duration;

use ferromq_broker::BrokerConfig;
use ferromq_protocol::Text;
use ferromq_protocol::body::{
    CheckClientRequestBody, ConsumerData, ConsumerFilterWrapper, HeartbeatData, SubscriptionData,
};
use ferromq_protocol::code::{request, response};
use ferromq_protocol::header::pull::PullHeader;
use ferromq_protocol::json;
use support::*;

fn enabled() -> Bench {
    start_with(BrokerConfig { enable_property_filter: true, ..config() }, |_| {})
}

fn sql<'a>(topic: &'a str, offset: i64, expression: &'a str) -> PullHeader<'a> {
    PullHeader { expression_type: Some(Text::plain("SQL92")), ..pull_header(topic, 0, offset, expression) }
}

fn send_numbers(bench: &Bench, numbers: std::ops::Range<i32>) {
    for n in numbers {
        let properties = format!("UNIQ_KEY\u{1}U{n}\u{2}n\u{1}{n}\u{2}word\u{1}w{}\u{2}", n % 3);
        assert_eq!(code(&bench.send("Sql", 0, &properties, n.to_string().as_bytes())), 0);
    }
}

fn bodies(answer: &ferromq_protocol::OwnedCommand) -> Vec<String> {
    records(answer.body()).iter().map(|r| String::from_utf8_lossy(&r.body).into_owned()).collect()
}

fn subscription(expression: &str, version: i64) -> SubscriptionData {
    SubscriptionData {
        topic: "Sql".into(),
        sub_string: expression.into(),
        sub_version: version,
        expression_type: "SQL92".into(),
        ..SubscriptionData::default()
    }
}

fn beat(bench: &Bench, expression: &str, version: i64) {
    let data = HeartbeatData {
        client_id: "tester".into(),
        consumer_data_set: vec![ConsumerData {
            group_name: "CG".into(),
            subscription_data_set: vec![subscription(expression, version)],
            ..ConsumerData::default()
        }],
        ..HeartbeatData::default()
    };
    assert_eq!(code(&bench.call(request::HEART_BEAT, &json::to_vec_standard(&data).unwrap(), |_| {})), 0);
}

#[test]
fn a_pull_brings_what_the_expression_is_true_for() {
    let bench = enabled();
    send_numbers(&bench, 0..10);
    wait_until("dispatch", || bench.ask(request::GET_MAX_OFFSET, "Sql", 0, "offset", &[]) == Some(10));
    let answer = bench.pull(&sql("Sql", 0, "n between 2 and 7 and word in ('w0', 'w2')"));
    assert_eq!((code(&answer), bodies(&answer)), (0, vec!["2".into(), "3".into(), "5".into(), "6".into()]));
    let nothing = bench.pull(&sql("Sql", 0, "n > 100"));
    assert_eq!((code(&nothing), number(&nothing, "nextBeginOffset")), (response::PULL_RETRY_IMMEDIATELY, Some(10)));
}

#[test]
fn a_group_gets_what_its_heartbeat_asked_for() {
    let bench = enabled();
    send_numbers(&bench, 0..4);
    let registered = PullHeader { sys_flag: 0, ..pull_header("Sql", 0, 0, "") };
    beat(&bench, "n >= 2", 1);
    wait_until("dispatch", || bodies(&bench.pull(&registered)) == ["2", "3"]);
    let newer = PullHeader { sub_version: 2, ..registered };
    assert_eq!(code(&bench.pull(&newer)), response::SUBSCRIPTION_NOT_LATEST);
    beat(&bench, "n <", 3);
    assert_eq!(code(&bench.pull(&registered)), response::FILTER_DATA_NOT_EXIST);
    beat(&bench, "n < 1", 4);
    assert_eq!(bodies(&bench.pull(&registered)), ["0"]);
}

#[test]
fn filters_of_groups_are_kept_in_the_file_of_rocketmq() {
    let config = BrokerConfig { enable_property_filter: true, flush_consumer_offset_interval: 100, ..config() };
    let bench = start_with(config, |_| {});
    beat(&bench, "n > 1", 7);
    let path = bench.folder.path().join("config/consumerFilter.json");
    let filter = || {
        let file: ConsumerFilterWrapper = json::from_slice(&std::fs::read(&path).ok()?).unwrap();
        Some(file.filter_data_by_topic.get("Sql")?.group_filter_data["CG"].clone())
    };
    wait_until("the file", || filter().is_some());
    let kept = filter().unwrap();
    assert_eq!((kept.expression.as_str(), kept.client_version, kept.dead_time), ("n > 1", 7, 0));
    bench.client.close();
    wait_until("the group's end", || filter().is_some_and(|kept| kept.dead_time >= kept.born_time));
}

#[test]
fn only_a_wanted_message_wakes_a_waiting_pull() {
    let bench = enabled();
    send_numbers(&bench, 0..1);
    wait_until("dispatch", || bench.ask(request::GET_MAX_OFFSET, "Sql", 0, "offset", &[]) == Some(1));
    let header = PullHeader { sys_flag: 6, suspend_timeout_millis: 60_000, ..sql("Sql", 1, "n = 3") };
    let (client, addr) = (bench.client.clone(), bench.addr.clone());
    let waiting = std::thread::scope(|scope| {
        let pull = scope.spawn(|| {
            let answer = client.invoke(&addr, TIMEOUT, |out, opaque| {
                let code = request::PULL_MESSAGE;
                let mut frame =
                    ferromq_protocol::FrameWriter::request(out, ferromq_protocol::Encoding::Json, code, opaque, false);
                header.write(&mut frame);
                frame.finish();
            });
            bench.runtime.block_on(answer).unwrap()
        });
        wait_until("parking", || bench.broker.as_ref().unwrap().shared().polls.len() == 1);
        send_numbers(&bench, 1..3);
        std::thread::sleep(Duration::from_millis(200));
        assert!(!pull.is_finished(), "an unwanted message woke the pull");
        send_numbers(&bench, 3..4);
        // It would wait longer than the client.
        pull.join().unwrap()
    });
    assert_eq!(bodies(&waiting), ["3"]);
}

#[test]
fn expressions_are_checked_and_served_only_when_allowed() {
    let check = |bench: &Bench, kind: &str, expression: &str| {
        let data = SubscriptionData { expression_type: kind.into(), ..subscription(expression, 1) };
        let body = CheckClientRequestBody { subscription_data: Some(data), ..CheckClientRequestBody::default() };
        code(&bench.call(request::CHECK_CLIENT_CONFIG, &json::to_vec_standard(&body).unwrap(), |_| {}))
    };
    let bench = enabled();
    send_numbers(&bench, 0..1);
    assert_eq!(check(&bench, "SQL92", "n = 1"), response::SUCCESS);
    for (kind, expression) in [("SQL92", "n ="), ("SQL92", "n > 'x'"), ("XPATH", "n")] {
        assert_eq!(check(&bench, kind, expression), response::SUBSCRIPTION_PARSE_FAILED, "{expression}");
    }
    for bomb in ["(".repeat(4000), "n = 1 OR ".repeat(500), "x".repeat(5000)] {
        assert_eq!(code(&bench.pull(&sql("Sql", 0, &bomb))), response::SUBSCRIPTION_PARSE_FAILED);
    }
    let closed = start();
    send_numbers(&closed, 0..1);
    assert_eq!(check(&closed, "SQL92", "n = 1"), response::SYSTEM_ERROR);
    let refused = closed.pull(&sql("Sql", 0, "n = 1"));
    assert_eq!((code(&refused), remark(&refused).contains("does not support")), (response::SYSTEM_ERROR, true));
}

/// The lag counts what the group's expression or tags want, whatever lies between, and what its members have in hand.
#[test]
fn what_a_filter_leaves_out_does_not_count_in_the_lag() {
    let bench = enabled();
    send_numbers(&bench, 0..30);
    wait_until("dispatch", || bench.ask(request::GET_MAX_OFFSET, "Sql", 0, "offset", &[]) == Some(30));
    // Nobody is connected: nothing is known of a filter.
    assert_eq!(bench.lag("CG", "Sql"), [30, 0, 0, 30, 0]);
    beat(&bench, "n >= 20 AND word = 'w0'", 1);
    // 21, 24 and 27.
    assert_eq!(bench.lag("CG", "Sql"), [30, 0, 0, 3, 0]);
    let pull = |offset, commit| PullHeader {
        sys_flag: 1,
        commit_offset: commit,
        max_msg_nums: 1,
        ..pull_header("Sql", 0, offset, "")
    };
    assert_eq!(bodies(&bench.pull(&pull(22, 22))), ["24"]);
    // 24 is in hand, 27 is ready.
    assert_eq!(bench.lag("CG", "Sql"), [30, 22, 25, 1, 1]);
    bench.pull(&pull(30, 30));
    assert_eq!(bench.lag("CG", "Sql"), [30, 30, 30, 0, 0]);
    beat(&bench, "n > 1000", 2);
    send_numbers(&bench, 30..40);
    wait_until("dispatch", || bench.ask(request::GET_MAX_OFFSET, "Sql", 0, "offset", &[]) == Some(40));
    assert_eq!(bench.lag("CG", "Sql"), [40, 30, 30, 0, 0], "ten messages that the group does not want");
}
