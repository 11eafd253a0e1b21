//! Lite topics over a real socket: subscribing, popping in order, what comes back, who loses what, and what tools are told.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod client;
#[path = "../support/mod.rs"]
mod support;
mod tools;

use ferromq_broker::{Broker, LiteConfig};
use ferromq_protocol::OwnedCommand;
use ferromq_protocol::body::{LiteSubscription, LiteSubscriptionAction as Action, OffsetOption, OffsetOptionType};
use ferromq_protocol::code::{request, response};
use ferromq_protocol::header::lite::PopLiteMessageHeader;
use ferromq_protocol::header::pull::PullHeader;

use client::*;
use support::*;

#[test]
fn one_pop_takes_from_all_lite_topics_in_order_and_gives_no_more_until_all_is_acknowledged() {
    let bench = lite(&[]);
    subscribe(&bench, "c", &["a", "b"]);
    for (lite, body) in [("a", "a0"), ("b", "b0"), ("a", "a1"), ("other", "x"), ("b", "b1")] {
        send_lite(&bench, lite, body);
    }
    let mut found = pop_all(&bench, "c", 4);
    found.sort_by_key(|message| (message.lite.clone(), message.offset));
    assert_eq!(bodies(&found), ["a0", "a1", "b0", "b1"]);
    assert!(found.iter().all(|message| message.times == 0));
    send_lite(&bench, "a", "a2");
    assert!(pop(&bench, "c").is_empty(), "a0 and a1 are out");
    ack_all(&bench, &found[..1]);
    assert!(pop(&bench, "c").is_empty(), "a1 is out");
    ack_all(&bench, &found[1..2]);
    assert_eq!(bodies(&pop_all(&bench, "c", 1)), ["a2"]);
    // The own topic has them all, as any other topic.
    let own = bench.ask(request::GET_MAX_OFFSET, PARENT, 0, "offset", &[]);
    assert_eq!(own, Some(6));
}

#[test]
fn a_pop_that_waits_gets_the_message_of_a_lite_topic_that_did_not_exist() {
    let bench = lite(&[]);
    subscribe(&bench, "c", &["new"]);
    let header = PopLiteMessageHeader { poll_time: 20_000, ..pop_header("c") };
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| pop_as(&bench, &header).1);
        let client = [("parentTopic", "P"), ("group", "G"), ("clientId", "c")];
        wait_until("the pop", || info(&bench, 200_077, &client)["lastAccessTime"].as_i64() > Some(0));
        send_lite(&bench, "new", "first");
        assert_eq!(bodies(&waiting.join().unwrap()), ["first"]);
    });
    // And one that subscribes after the message.
    send_lite(&bench, "later", "second");
    wait_until("dispatch", || bench.ask(request::GET_MAX_OFFSET, "%LMQ%$P$later", 0, "offset", &[]) == Some(1));
    subscribe(&bench, "c", &["later"]);
    assert_eq!(bodies(&pop(&bench, "c")), ["second"]);
}

#[test]
fn what_is_not_acknowledged_comes_again_and_is_counted() {
    let bench = lite(&[]);
    subscribe(&bench, "c", &["a"]);
    send_lite(&bench, "a", "0");
    send_lite(&bench, "a", "1");
    let first = pop_all(&bench, "c", 2);
    assert_eq!(code(&change_time(&bench, &first[0], 0, false)), 0);
    assert!(pop(&bench, "c").is_empty(), "message 1 of the same pop is out for a minute");
    assert_eq!(code(&change_time(&bench, &first[1], 50, false)), 0);
    let again = pop_all(&bench, "c", 2);
    assert_eq!(again.iter().map(|m| (m.body.as_str(), m.times)).collect::<Vec<_>>(), [("0", 1), ("1", 1)]);
    ack_all(&bench, &first[..1]);
    assert!(pop(&bench, "c").is_empty(), "the handle of an older pop acknowledges nothing");
    // A suspended pop has not happened.
    let answer = change_time(&bench, &again[0], 10, true);
    assert_eq!((code(&answer), number(&answer, "reviveQid")), (0, Some(999)));
    let third = pop_all(&bench, "c", 2);
    assert_eq!(third.iter().map(|message| message.times).collect::<Vec<_>>(), [1, 1]);
    ack_all(&bench, &third);
    assert!(pop(&bench, "c").is_empty());
    assert_eq!(code(&ack(&bench, &third[0])), 0, "acknowledged twice");
}

#[test]
fn the_same_attempt_may_pop_again() {
    let bench = lite(&[]);
    subscribe(&bench, "c", &["a"]);
    send_lite(&bench, "a", "0");
    let attempt = PopLiteMessageHeader { attempt_id: Some("one".into()), poll_time: 5000, ..pop_header("c") };
    assert_eq!(bodies(&pop_as(&bench, &attempt).1), ["0"]);
    send_lite(&bench, "a", "1");
    assert!(pop(&bench, "c").is_empty());
}

#[test]
fn each_group_gets_everything_and_members_of_one_share() {
    let bench = lite(&[]);
    group(&bench, "H", &[]);
    subscribe(&bench, "c1", &["a", "b"]);
    subscribe(&bench, "c2", &["a", "b"]);
    let of_h = LiteSubscription { group: "H".into(), ..change("h", Action::CompleteAdd, &["a"]) };
    assert_eq!(code(&sync(&bench, of_h)), 0);
    for n in 0..4 {
        send_lite(&bench, if n % 2 == 0 { "a" } else { "b" }, &n.to_string());
    }
    let header = PopLiteMessageHeader { consumer_group: "H".into(), poll_time: 5000, ..pop_header("h") };
    assert_eq!(pop_as(&bench, &header).1[0].body, "0");
    let mut found = Vec::new();
    wait_until("all messages", || {
        for client in ["c1", "c2"] {
            let popped = pop(&bench, client);
            ack_all(&bench, &popped);
            found.extend(popped);
        }
        found.len() == 4
    });
    found.sort_by(|a, b| a.body.cmp(&b.body));
    assert_eq!(bodies(&found), ["0", "1", "2", "3"]);
}

#[test]
fn a_lite_topic_that_is_unsubscribed_gives_no_more_and_may_begin_anew() {
    let bench = lite(&[("lite.sub.reset.offset.unsubscribe", "true")]);
    subscribe(&bench, "c", &["a", "b"]);
    send_lite(&bench, "a", "a0");
    ack_all(&bench, &pop_all(&bench, "c", 1));
    assert_eq!(code(&sync(&bench, change("c", Action::PartialRemove, &["a"]))), 0);
    send_lite(&bench, "a", "a1");
    send_lite(&bench, "b", "b0");
    let found = pop_all(&bench, "c", 1);
    assert_eq!(bodies(&found), ["b0"]);
    ack_all(&bench, &found);
    // A complete set takes the place of what was.
    assert_eq!(code(&sync(&bench, change("c", Action::CompleteAdd, &["a"]))), 0);
    assert_eq!(bodies(&pop_all(&bench, "c", 2)), ["a0", "a1"]);
    send_lite(&bench, "b", "b1");
    wait_until("dispatch", || bench.ask(request::GET_MAX_OFFSET, "%LMQ%$P$b", 0, "offset", &[]) == Some(2));
    assert!(pop(&bench, "c").is_empty());
    assert_eq!(code(&sync(&bench, change("c", Action::CompleteRemove, &[]))), 0);
    assert_eq!(info(&bench, 200_074, &[])["liteSubscriptionCount"], 0);
}

#[test]
fn a_subscription_may_say_where_to_begin() {
    let bench = lite(&[]);
    for n in 0..4 {
        send_lite(&bench, "a", &n.to_string());
    }
    wait_until("dispatch", || bench.ask(request::GET_MAX_OFFSET, "%LMQ%$P$a", 0, "offset", &[]) == Some(4));
    let begin = |kind, value| {
        let option = Some(OffsetOption { r#type: kind, value });
        let change = LiteSubscription { offset_option: option, ..change("c", Action::PartialAdd, &["a"]) };
        assert_eq!(code(&sync(&bench, change)), 0);
        bodies(&pop(&bench, "c")).join("")
    };
    assert_eq!(begin(OffsetOptionType::Policy, OffsetOption::POLICY_MAX), "");
    assert_eq!(begin(OffsetOptionType::TailN, 1), "3");
    assert_eq!(begin(OffsetOptionType::Offset, 2), "23");
    assert_eq!(begin(OffsetOptionType::Policy, OffsetOption::POLICY_MIN), "0123");
    assert_eq!(begin(OffsetOptionType::Timestamp, i64::MAX / 2), "");
    assert_eq!(begin(OffsetOptionType::Timestamp, 0), "0123");
}

#[test]
fn an_exclusive_lite_topic_goes_to_the_last_subscriber_and_the_one_before_is_told() {
    let mut bench = lite(&[("lite.sub.model", "Exclusive"), ("lite.sub.reset.offset.exclusive", "true")]);
    let notices = listen(&mut bench);
    subscribe(&bench, "c1", &["a", "b"]);
    send_lite(&bench, "a", "0");
    ack_all(&bench, &pop_all(&bench, "c1", 1));
    subscribe(&bench, "c2", &["a"]);
    wait_until("the notice", || *notices.0.lock() == ["c1 G a"]);
    assert_eq!(bodies(&pop_all(&bench, "c2", 1)), ["0"], "the new owner begins anew");
    // What the one before believes to have takes nothing away.
    assert_eq!(code(&sync(&bench, change("c1", Action::CompleteAdd, &["a", "b"]))), 0);
    wait_until("the notice", || *notices.0.lock() == ["c1 G a", "c1 G a"]);
    let of = |client| info(&bench, 200_077, &[("parentTopic", "P"), ("group", "G"), ("clientId", client)]);
    assert_eq!(of("c1")["liteTopicSet"], serde_json::json!(["%LMQ%$P$b"]));
    assert_eq!(of("c2")["liteTopicSet"], serde_json::json!(["%LMQ%$P$a"]));
}

#[test]
fn members_of_a_wildcard_group_get_all_lite_topics() {
    let bench = lite(&[("lite.sub.wildcard", "true")]);
    send_lite(&bench, "before", "0");
    wait_until("dispatch", || bench.ask(request::GET_MAX_OFFSET, "%LMQ%$P$before", 0, "offset", &[]) == Some(1));
    let refused = sync(&bench, change("c", Action::PartialAdd, &["a"]));
    assert_eq!(code(&refused), response::ILLEGAL_OPERATION);
    assert_eq!(code(&sync(&bench, change("c", Action::CompleteAdd, &[]))), 0);
    assert_eq!(bodies(&pop_all(&bench, "c", 1)), ["0"]);
    send_lite(&bench, "after", "1");
    assert_eq!(bodies(&pop_all(&bench, "c", 1)), ["1"]);
}

#[test]
fn more_topics_with_messages_than_can_be_noted_are_found_nevertheless() {
    let bench = lite(&[("lite.sub.client.max.event.cnt", "10")]);
    let names: Vec<String> = (0..35).map(|n| format!("t{n}")).collect();
    let topics: Vec<&str> = names.iter().map(String::as_str).collect();
    subscribe(&bench, "c", &topics);
    topics.iter().for_each(|topic| send_lite(&bench, topic, topic));
    let mut found = Vec::new();
    wait_until("all messages", || {
        found.extend(pop_as(&bench, &PopLiteMessageHeader { max_msg_num: 4, ..pop_header("c") }).1);
        found.len() == 35
    });
    let mut bodies = bodies(&found);
    bodies.sort_unstable();
    let mut expected = topics.clone();
    expected.sort_unstable();
    assert_eq!(bodies, expected);
}

#[test]
fn what_a_client_was_told_goes_to_another_when_it_leaves() {
    let bench = lite(&[]);
    subscribe(&bench, "c1", &["a"]);
    send_lite(&bench, "a", "0");
    wait_until("dispatch", || bench.ask(request::GET_MAX_OFFSET, "%LMQ%$P$a", 0, "offset", &[]) == Some(1));
    subscribe(&bench, "c2", &["a"]);
    assert_eq!(code(&sync(&bench, change("c1", Action::CompleteRemove, &[]))), 0);
    assert_eq!(bodies(&pop_all(&bench, "c2", 1)), ["0"]);
}

#[test]
fn offsets_of_groups_survive_a_restart_and_what_was_out_comes_again() {
    let mut bench = lite(&[]);
    subscribe(&bench, "c", &["a"]);
    (0..3).for_each(|n| send_lite(&bench, "a", &n.to_string()));
    ack_all(&bench, &pop_all(&bench, "c", 3)[..1]);
    bench.client.close();
    bench.broker.take().unwrap().shutdown();
    let mut store = store_config(bench.folder.path());
    with_lights(&mut store);
    let broker = Broker::start(lite_config(), store).unwrap();
    bench.addr = broker.addr().to_string();
    bench.broker = Some(broker);
    listen(&mut bench);
    subscribe(&bench, "c", &["a"]);
    assert_eq!(bodies(&pop_all(&bench, "c", 2)), ["1", "2"]);
}

#[test]
fn idle_lite_topics_go_with_offsets_and_subscriptions_and_silent_clients_too() {
    let quick = LiteConfig {
        min_lite_ttl: 0,
        lite_ttl_check_interval: 50,
        lite_subscription_check_interval: 50,
        lite_subscription_check_timeout_mills: 1500,
        ..LiteConfig::default()
    };
    let bench = lite_with(ferromq_broker::BrokerConfig { lite: quick, ..lite_config() }, with_lights, &[]);
    subscribe(&bench, "c", &["old"]);
    send_lite(&bench, "old", "0");
    ack_all(&bench, &pop_all(&bench, "c", 1));
    wait_until("the silent client is forgotten", || info(&bench, 200_074, &[])["liteSubscriptionCount"] == 0);
    // A parent without an end keeps them; deleted, it takes them along.
    let parent = || info(&bench, 200_075, &[("topic", "P")]);
    assert_eq!((&parent()["liteTopicCount"], &parent()["ttl"]), (&1.into(), &1.into()));
    let shared = bench.broker.as_ref().unwrap().shared();
    assert_eq!(shared.offsets.query("%LMQ%$P$old", "G", 0), Some(1));
    let answer = bench.call(request::DELETE_TOPIC_IN_BROKER, b"", |frame| {
        frame.str("topic", "P");
    });
    assert_eq!(code(&answer), 0, "{}", remark(&answer));
    assert_eq!(shared.offsets.query("%LMQ%$P$old", "G", 0), None);
    assert_eq!(info(&bench, 200_074, &[])["currentLmqNum"], 0);
}

#[test]
fn a_lite_topic_is_pulled_from_any_offset_and_waited_for() {
    let bench = lite(&[]);
    send_lite(&bench, "other", "x");
    let pull = |lite: &'static str, offset: i64| PullHeader {
        lite_topic: Some(lite.into()),
        consumer_group: "G".into(),
        ..pull_header(PARENT, 0, offset, "*")
    };
    let bodies = |answer: &OwnedCommand| {
        records(answer.body()).into_iter().map(|record| String::from_utf8(record.body).unwrap()).collect::<Vec<_>>()
    };
    // One that is not there is an empty queue.
    let nothing = bench.pull(&pull("a", 0));
    assert_eq!((code(&nothing), number(&nothing, "nextBeginOffset")), (response::PULL_NOT_FOUND, Some(0)));
    assert_eq!(code(&bench.pull(&pull("a", 5))), response::PULL_OFFSET_MOVED);
    // It is checked who asks, all the same.
    let unreadable = PullHeader { subscription: Some("||".into()), ..pull("a", 0) };
    assert_eq!(code(&bench.pull(&unreadable)), response::SUBSCRIPTION_PARSE_FAILED);
    let unknown = PullHeader { sys_flag: 2, suspend_timeout_millis: 20_000, ..pull("a", 0) };
    assert_eq!(code(&bench.pull(&unknown)), response::SUBSCRIPTION_NOT_EXIST);
    assert_eq!(bench.ask(request::GET_MAX_OFFSET, "%LMQ%$P$a", 0, "offset", &[]), Some(0));
    for body in ["a0", "a1"] {
        send_lite(&bench, "a", body);
    }
    wait_until("dispatch", || bench.ask(request::GET_MAX_OFFSET, "%LMQ%$P$a", 0, "offset", &[]) == Some(2));
    assert_eq!(bodies(&bench.pull(&pull("a", 0))), ["a0", "a1"]);
    assert_eq!(bodies(&bench.pull(&pull("a", 1))), ["a1"]);
    // One at its end waits for what comes to this lite topic.
    let header = PullHeader { sys_flag: 6, suspend_timeout_millis: 20_000, ..pull("a", 2) };
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| bench.pull(&header));
        send_lite(&bench, "other", "y");
        send_lite(&bench, "a", "a2");
        let answer = waiting.join().unwrap();
        assert_eq!((bodies(&answer), number(&answer, "nextBeginOffset")), (vec!["a2".to_owned()], Some(3)));
    });
}
