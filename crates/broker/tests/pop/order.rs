//! Ordered pops: one pop of a queue at a time, the offset behind what is acknowledged.

use ferromq_protocol::Text;
use ferromq_protocol::code::request;
use ferromq_protocol::header::pop::PopMessageHeader;

use crate::client::*;
use crate::support::*;

fn ordered(max_msg_nums: i32) -> PopMessageHeader<'static> {
    PopMessageHeader { order: Some(true), max_msg_nums, invisible_time: 2500, ..pop_header("T") }
}

fn committed(bench: &Bench) -> Option<i64> {
    bench.ask(request::QUERY_CONSUMER_OFFSET, "T", 0, "offset", &[("consumerGroup", "G")])
}

#[test]
fn a_queue_is_blocked_until_all_of_its_pop_is_acknowledged() {
    let bench = small();
    fill(&bench, "T", 0..5);
    let ordered = |max_msg_nums| PopMessageHeader { invisible_time: 60_000, ..ordered(max_msg_nums) };
    let (answer, first) = pop(&bench, &ordered(3));
    assert_eq!((bodies(&first), number(&answer, "reviveQid")), (vec!["0", "1", "2"], Some(999)));
    assert_eq!(field(&answer, "orderCountInfo").unwrap(), "0 0 0");
    assert!(pop(&bench, &ordered(3)).1.is_empty());
    ack(&bench, &first[0]);
    ack(&bench, &first[2]);
    assert_eq!(committed(&bench), Some(1));
    assert!(pop(&bench, &ordered(3)).1.is_empty());
    ack(&bench, &first[1]);
    assert_eq!(committed(&bench), Some(3));
    assert_eq!(bodies(&pop(&bench, &ordered(3)).1), ["3", "4"]);
}

#[test]
fn what_is_not_acknowledged_comes_again_from_its_queue_with_a_count() {
    let bench = small();
    fill(&bench, "T", 0..3);
    let first = pop(&bench, &ordered(2)).1;
    ack(&bench, &first[0]);
    // The one that waits is told when the queue comes free.
    let patient = PopMessageHeader { poll_time: 25_000, ..ordered(2) };
    let (answer, again) = pop(&bench, &patient);
    assert_eq!(bodies(&again), ["1", "2"]);
    assert_eq!(field(&answer, "orderCountInfo").unwrap(), "0 qo0%1 1;0 0 0");
    // The handle of before is of no use.
    ack(&bench, &first[1]);
    assert_eq!(committed(&bench), Some(1));
    // One more time, later.
    let later = change(&bench, &again[0], 60_000).unwrap();
    ack(&bench, &again[1]);
    sleep(2700);
    assert!(pop(&bench, &ordered(2)).1.is_empty());
    ack(&bench, &later);
    assert_eq!(committed(&bench), Some(3));
}

#[test]
fn a_kill_takes_no_acknowledgement_of_an_ordered_pop_and_leaves_the_queue_blocked() {
    let bench = small();
    fill(&bench, "T", 0..6);
    let long = PopMessageHeader { invisible_time: 60_000, ..ordered(2) };
    for message in pop(&bench, &long).1 {
        ack(&bench, &message);
    }
    let second = pop(&bench, &PopMessageHeader { max_msg_nums: 3, ..long }).1;
    ack(&bench, &second[2]);
    ack(&bench, &second[0]);
    let bench = kill(bench, config());
    assert_eq!(committed(&bench), Some(3));
    assert!(pop(&bench, &long).1.is_empty());
    ack(&bench, &second[1]);
    assert_eq!(committed(&bench), Some(5));
    assert_eq!(bodies(&pop(&bench, &long).1), ["5"]);
    let bench = restart(bench, config());
    assert!(pop(&bench, &long).1.is_empty());
}

#[test]
fn the_same_attempt_gets_the_same_messages() {
    let bench = small();
    fill(&bench, "T", 0..3);
    let attempt = |id| PopMessageHeader { attempt_id: Some(Text::plain(id)), invisible_time: 60_000, ..ordered(2) };
    assert_eq!(bodies(&pop(&bench, &attempt("a")).1), ["0", "1"]);
    assert!(pop(&bench, &attempt("b")).1.is_empty());
    let (answer, again) = pop(&bench, &attempt("a"));
    assert_eq!((bodies(&again), field(&answer, "orderCountInfo").unwrap().as_str()), (vec!["0", "1"], "0 0 0"));
}

#[test]
fn an_acknowledgement_wakes_who_waits_for_the_queue() {
    let bench = small();
    fill(&bench, "T", 0..2);
    let long = PopMessageHeader { invisible_time: 60_000, ..ordered(1) };
    let first = pop(&bench, &long).1;
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| pop(&bench, &PopMessageHeader { poll_time: 25_000, ..long }).1);
        let shared = bench.broker.as_ref().unwrap().shared();
        wait_until("parking", || shared.pops.waiting() == 1);
        ack(&bench, &first[0]);
        assert_eq!(bodies(&waiting.join().unwrap()), ["1"]);
    });
}

#[test]
fn a_pop_that_made_its_group_is_remembered_when_the_group_was_not_written() {
    let bench = small();
    fill(&bench, "T", 0..1);
    let long = PopMessageHeader { invisible_time: 60_000, ..ordered(1) };
    assert_eq!(bodies(&pop(&bench, &long).1), ["0"]);
    let unwritten = ["subscriptionGroup.json", "subscriptionGroup.json.bak", "consumerOrderInfo.json"];
    let bench = kill_before(bench, config(), &unwritten);
    let bench = restart(bench, config());
    assert!(pop(&bench, &long).1.is_empty(), "handed out before its time");
}

#[test]
fn a_group_that_was_deleted_stays_so() {
    let bench = small();
    fill(&bench, "T", 0..1);
    assert_eq!(bodies(&pop(&bench, &PopMessageHeader { invisible_time: 60_000, ..ordered(1) }).1), ["0"]);
    // The pop stands in its file when the group goes.
    let bench = restart(bench, config());
    let deleted = bench.call(request::DELETE_SUBSCRIPTIONGROUP, b"", |frame| {
        frame.str("groupName", "G").str("cleanOffset", "true");
    });
    assert_eq!(code(&deleted), 0, "{}", remark(&deleted));
    let bench = restart(bench, config());
    assert!(bench.broker.as_ref().unwrap().shared().groups.get("G").is_none());
}
