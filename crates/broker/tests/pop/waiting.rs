//! Pops and notifications that wait.

use std::time::{Duration, Instant};

use ferromq_protocol::code::{request, response};
use ferromq_protocol::header::pop::{NotificationHeader, PopMessageHeader};
use ferromq_protocol::{Encoding, FrameWriter, OwnedCommand, Text};

use crate::client::*;
use crate::support::*;

type Answer = tokio::task::JoinHandle<OwnedCommand>;

/// Sends a pop without waiting for its answer.
fn start_pop(bench: &Bench, header: PopMessageHeader<'static>) -> Answer {
    let connection = bench.connection();
    bench.runtime.spawn(async move {
        let answer = connection.invoke(TIMEOUT, |out, opaque| {
            let mut frame = FrameWriter::request(out, Encoding::Json, request::POP_MESSAGE, opaque, false);
            header.write(&mut frame);
            frame.finish();
        });
        answer.await.unwrap()
    })
}

fn parked(bench: &Bench) -> i64 {
    let group = [("consumerGroup", "G")];
    bench.ask(request::POLLING_INFO, "T", -1, "pollingNum", &group).unwrap()
}

fn finish(bench: &Bench, pop: Answer) -> OwnedCommand {
    bench.runtime.block_on(pop).unwrap()
}

#[test]
fn a_waiting_pop_is_answered_by_an_arrival() {
    let bench = small();
    fill(&bench, "T", 0..1);
    assert_eq!(pop(&bench, &pop_header("T")).1.len(), 1);
    let waiting = start_pop(&bench, PopMessageHeader { poll_time: 60_000, ..pop_header("T") });
    wait_until("parking", || parked(&bench) == 1);
    fill(&bench, "T", 1..2);
    let answer = finish(&bench, waiting);
    assert_eq!(bodies(&messages(&answer, "T", "G")), ["1"]);
    assert_eq!(parked(&bench), 0);
}

#[test]
fn a_waiting_pop_is_not_woken_by_other_tags_and_told_when_its_time_is_over() {
    let bench = small();
    fill(&bench, "T", 0..1);
    pop(&bench, &pop_header("T"));
    let began = Instant::now();
    let odd = PopMessageHeader { exp: Some(Text::plain("odd")), poll_time: 3000, ..pop_header("T") };
    let waiting = start_pop(&bench, odd);
    wait_until("parking", || parked(&bench) == 1);
    fill(&bench, "T", 2..3);
    let answer = finish(&bench, waiting);
    assert_eq!(code(&answer), response::POLLING_TIMEOUT);
    assert!(began.elapsed() >= Duration::from_millis(2950), "{:?}", began.elapsed());
}

#[test]
fn one_arrival_goes_to_one_of_many_and_the_others_get_theirs() {
    let bench = small();
    fill(&bench, "T", 0..1);
    pop(&bench, &pop_header("T"));
    let waiting: Vec<_> =
        (0..5).map(|_| start_pop(&bench, PopMessageHeader { poll_time: 25_000, ..pop_header("T") })).collect();
    wait_until("parking", || parked(&bench) == 5);
    for n in 1..6 {
        fill(&bench, "T", n..n + 1);
        wait_until("one answer", || parked(&bench) == 5 - i64::from(n));
    }
    let mut found: Vec<String> = waiting
        .into_iter()
        .flat_map(|pop| messages(&finish(&bench, pop), "T", "G"))
        .map(|message| message.body)
        .collect();
    found.sort();
    assert_eq!(found, ["1", "2", "3", "4", "5"]);
}

#[test]
fn a_waiting_pop_gets_what_comes_back() {
    let bench = small();
    fill(&bench, "T", 0..1);
    pop(&bench, &PopMessageHeader { invisible_time: 500, ..pop_header("T") });
    let waiting = start_pop(&bench, PopMessageHeader { poll_time: 25_000, ..pop_header("T") });
    let answer = finish(&bench, waiting);
    assert_eq!(messages(&answer, "T", "G")[0].reconsume_times, 1);
}

#[test]
fn more_than_may_wait_are_told_so_and_closed_ones_leave() {
    let mut settings = config();
    settings.pop.max_pop_polling_size = 2;
    let bench = small_with(settings);
    fill(&bench, "T", 0..1);
    pop(&bench, &pop_header("T"));
    let patient = PopMessageHeader { poll_time: 25_000, ..pop_header("T") };
    let _waiting = [start_pop(&bench, patient), start_pop(&bench, patient)];
    wait_until("parking", || parked(&bench) == 2);
    assert_eq!(code(&finish(&bench, start_pop(&bench, patient))), response::POLLING_FULL);
    bench.client.close();
    let shared = bench.broker.as_ref().unwrap().shared();
    wait_until("leaving", || shared.pops.waiting() == 0);
}

#[test]
fn a_notification_says_that_there_is_a_message_and_leaves_it() {
    let bench = small();
    fill(&bench, "T", 0..1);
    let notify = |poll_time: i64| {
        let header = NotificationHeader {
            consumer_group: Text::plain("G"),
            topic: Text::plain("T"),
            queue_id: -1,
            poll_time,
            ..NotificationHeader::default()
        };
        bench.call(request::NOTIFICATION, b"", |frame| header.write(frame))
    };
    assert_eq!(field(&notify(0), "hasMsg").as_deref(), Some("true"));
    assert_eq!(pop(&bench, &pop_header("T")).1.len(), 1);
    assert_eq!(field(&notify(0), "hasMsg").as_deref(), Some("false"));
    assert_eq!(field(&notify(300), "hasMsg").as_deref(), Some("false"));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| notify(25_000));
        wait_until("parking", || parked(&bench) == 1);
        fill(&bench, "T", 1..2);
        assert_eq!(field(&waiting.join().unwrap(), "hasMsg").as_deref(), Some("true"));
    });
    assert_eq!(pop(&bench, &pop_header("T")).1.len(), 1);
}

#[test]
fn a_notification_leaves_its_arrival_to_a_pop_that_waits_behind_it() {
    let bench = small();
    fill(&bench, "T", 0..1);
    assert_eq!(pop(&bench, &pop_header("T")).1.len(), 1);
    let header = NotificationHeader {
        consumer_group: Text::plain("G"),
        topic: Text::plain("T"),
        queue_id: -1,
        poll_time: 25_000,
        ..NotificationHeader::default()
    };
    std::thread::scope(|scope| {
        let notified = scope.spawn(|| bench.call(request::NOTIFICATION, b"", |frame| header.write(frame)));
        wait_until("parking", || parked(&bench) == 1);
        let waiting = start_pop(&bench, PopMessageHeader { poll_time: 25_000, ..pop_header("T") });
        wait_until("parking", || parked(&bench) == 2);
        fill(&bench, "T", 1..2);
        assert_eq!(field(&notified.join().unwrap(), "hasMsg").as_deref(), Some("true"));
        assert_eq!(bodies(&messages(&finish(&bench, waiting), "T", "G")), ["1"]);
    });
}

#[test]
fn a_peek_takes_nothing() {
    let bench = small();
    fill(&bench, "T", 0..3);
    let peek = || {
        bench.call(request::PEEK_MESSAGE, b"", |frame| {
            frame.str("consumerGroup", "G").str("topic", "T").i32("queueId", -1).i32("maxMsgNums", 2);
        })
    };
    for _ in 0..2 {
        assert_eq!((code(&peek()), records(peek().body()).len(), number(&peek(), "restNum")), (0, 2, Some(3)));
    }
    assert_eq!(pop(&bench, &pop_header("T")).1.len(), 3);
    assert_eq!(code(&peek()), response::PULL_NOT_FOUND);
}

#[test]
fn a_group_with_a_rate_gets_no_more_than_that() {
    let bench = small();
    let group = r#"{"groupName":"G","attributes":{"+read.rate.limit":"10"}}"#;
    assert_eq!(code(&bench.call(request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, group.as_bytes(), |_| {})), 0);
    fill(&bench, "T", 0..90);
    let begun = Instant::now();
    // A second's worth is free, and what a pop takes beyond it is paid for by those behind it.
    assert_eq!(pop(&bench, &pop_header("T")).1.len(), 32);
    let (answer, none) = pop(&bench, &pop_header("T"));
    assert_eq!((code(&answer), none.len()), (response::POLLING_TIMEOUT, 0));
    let other = PopMessageHeader { consumer_group: Text::plain("H"), ..pop_header("T") };
    assert_eq!(pop(&bench, &other).1.len(), 32);
    // One that may wait gets its messages when it is time.
    let waits =
        PopMessageHeader { poll_time: 25_000, born_time: ferromq_common::clock::now_millis(), ..pop_header("T") };
    assert_eq!(pop(&bench, &waits).1.len(), 32);
    assert!(begun.elapsed() >= Duration::from_secs(2), "answered after {:?}", begun.elapsed());
}
