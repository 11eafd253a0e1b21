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
fn what_is_popped_in_order_and_not_acknowledged_counts_as_in_flight() {
    let bench = small();
    fill(&bench, "T", 0..5);
    let popped = pop(&bench, &PopMessageHeader { invisible_time: 60_000, ..ordered(3) }).1;
    // End, consumed, pulled; ready, in flight.
    assert_eq!(bench.lag("G", "T"), [5, 0, 3, 2, 3]);
    ack(&bench, &popped[1]);
    assert_eq!(bench.lag("G", "T"), [5, 0, 3, 2, 2]);
    ack(&bench, &popped[0]);
    assert_eq!(bench.lag("G", "T"), [5, 2, 3, 2, 1]);
    // Its time is over: it waits for the next pop.
    change(&bench, &popped[2], 0).unwrap();
    assert_eq!(bench.lag("G", "T"), [5, 2, 2, 3, 0]);
}

#[test]
fn a_topic_made_anew_knows_nothing_of_what_was_popped_before() {
    let bench = small();
    fill(&bench, "T", 0..2);
    assert_eq!(pop(&bench, &PopMessageHeader { invisible_time: 60_000, ..ordered(2) }).1.len(), 2);
    assert_eq!(code(&bench.call(request::DELETE_TOPIC_IN_BROKER, b"", |frame| _ = frame.str("topic", "T"))), 0);
    assert!(bench.broker.as_ref().unwrap().shared().rates.find("T@G").is_none());
    fill(&bench, "T", 5..6);
    assert_eq!(bodies(&pop(&bench, &ordered(2)).1), ["5"]);
}

#[test]
fn a_forged_acknowledgement_passes_over_no_message() {
    let bench = small();
    fill(&bench, "T", 0..3);
    // The group stands at 0, but nobody has popped.
    bench.broker.as_ref().unwrap().shared().offsets.commit("T", "G", 0, 0);
    let handle = "0 1 60000 999 0 broker-a 0 2";
    let forged = Message {
        body: String::new(),
        reconsume_times: 0,
        topic: "T".into(),
        real_topic: "T".into(),
        queue_id: 0,
        queue_offset: 2,
        handle: handle.into(),
        properties: Vec::new(),
    };
    ack(&bench, &forged);
    let all = r#"{"acks":[{"c":"G","t":"T","r":"0","so":1,"pt":1,"rq":999,"b":"Aw=="}]}"#;
    assert_eq!(code(&bench.call(request::BATCH_ACK_MESSAGE, all.as_bytes(), |_| {})), 0);
    assert_eq!(committed(&bench), Some(0));
    let popped = pop(&bench, &ordered(3)).1;
    assert_eq!(bodies(&popped), ["0", "1", "2"]);
    ack(&bench, &forged);
    assert_eq!(committed(&bench), Some(0));
    popped.iter().for_each(|message| ack(&bench, message));
    assert_eq!(committed(&bench), Some(3));
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
