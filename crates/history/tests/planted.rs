//! A small server with planted bugs: each bug is found in every history that shows it, and a server without one is never
//! blamed.

use ferromq_history::{Checker, Event, Outcome, Report, Scan, Send, Violation};
use proptest::prelude::*;

const MS: u64 = 1_000_000;

/// The bugs. Each is planted at the message the test chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    None,
    AckWithoutStore,
    StoreTwice,
    SameOffsetForTwo,
    SwapInQueue,
    DamagedBody,
    ForeignMessage,
    StoreTheRefused,
    ForgetWhatWasShown,
}

/// Two queues, filled by producers that send one after the other, read by one consumer, then killed and scanned.
fn history(producers: &[(u32, u32)], planted: usize, bug: Bug) -> Vec<Event> {
    let mut events = Vec::new();
    let mut log: [Vec<u64>; 2] = [Vec::new(), Vec::new()];
    for (n, (producer, queue)) in producers.iter().enumerate() {
        let (message, begun) = (n as u64, n as u64 * MS);
        let hit = n == planted;
        let stored = &mut log[*queue as usize];
        let mut offset = stored.len() as i64;
        let mut outcome = Outcome::Ok { queue: *queue, offset };
        match bug {
            Bug::AckWithoutStore if hit => {}
            Bug::StoreTwice if hit => stored.extend([message, message]),
            Bug::SameOffsetForTwo if hit && offset > 0 => {
                offset -= 1;
                outcome = Outcome::Ok { queue: *queue, offset };
            }
            Bug::SwapInQueue if hit && offset > 0 => {
                // The message before it learns its place too late: both are told the other's.
                stored.insert(stored.len() - 1, message);
                outcome = Outcome::Ok { queue: *queue, offset: offset - 1 };
            }
            Bug::StoreTheRefused if hit => {
                stored.push(message);
                outcome = Outcome::Refused;
            }
            _ => stored.push(message),
        }
        events.push(Event::Send(Send { message, producer: *producer, begun, ended: begun + MS / 2, outcome }));
    }
    let at = producers.len() as u64 * MS;
    if bug == Bug::ForgetWhatWasShown {
        // Stored and shown, but its sender never heard of it.
        let offset = log[0].len() as i64;
        let send = Send { message: 777, producer: 9, begun: at, ended: at, outcome: Outcome::Unknown };
        events.push(Event::Send(send));
        events.push(Event::Delivery { consumer: 0, at, queue: 0, offset, message: Some(777) });
    }
    events.push(Event::Fault { at: at + MS, before: 0, after: 0 });
    for (queue, stored) in log.iter().enumerate() {
        let mut found: Vec<(i64, Option<u64>)> = (0..).zip(stored.iter().map(|m| Some(*m))).collect();
        match bug {
            Bug::DamagedBody if !found.is_empty() => found[0].1 = None,
            Bug::ForeignMessage => found.push((found.len() as i64, Some(1 << 40))),
            _ => {}
        }
        let end = found.len() as i64;
        events.push(Event::Scan(Scan { at: at + 2 * MS, queue: queue as u32, from: 0, end, found }));
    }
    events
}

fn judge(events: &[Event]) -> Report {
    let mut checker = Checker::default();
    events.iter().for_each(|event| checker.observe(event));
    checker.finish()
}

fn has(report: &Report, is: impl Fn(&Violation) -> bool) -> bool {
    report.violations.iter().any(is)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_right_history_is_clean(sends in proptest::collection::vec((0..4_u32, 0..2_u32), 0..200)) {
        let report = judge(&history(&sends, usize::MAX, Bug::None));
        prop_assert!(report.is_clean(), "{report}");
        prop_assert_eq!(report.acked, sends.len() as u64);
    }

    #[test]
    fn each_planted_bug_is_found(
        sends in proptest::collection::vec((0..4_u32, 0..2_u32), 3..100),
        at in any::<proptest::sample::Index>(),
    ) {
        // The last message of a queue that has one before it, so that each bug can show.
        let planted = at.index(sends.len());
        let before = sends[..planted].iter().filter(|s| s.1 == sends[planted].1).count();
        let find = |bug| judge(&history(&sends, planted, bug));
        assert!(has(&find(Bug::StoreTwice), |v| matches!(v, Violation::Duplicated { .. })));
        prop_assert!(!find(Bug::AckWithoutStore).is_clean());
        let last = sends.iter().rposition(|s| s.1 == sends[planted].1) == Some(planted);
        if last {
            assert!(has(&find(Bug::AckWithoutStore), |v| matches!(v, Violation::Lost { .. })));
        }
        if before > 0 {
            assert!(has(&find(Bug::SameOffsetForTwo), |v| matches!(v, Violation::OffsetUsedTwice { .. })));
            prop_assert!(!find(Bug::SwapInQueue).is_clean());
        }
        assert!(has(&find(Bug::StoreTheRefused), |v| matches!(v, Violation::RefusedButStored { .. })));
        assert!(has(&find(Bug::DamagedBody), |v| matches!(v, Violation::Damaged { .. })));
        assert!(has(&find(Bug::ForeignMessage), |v| matches!(v, Violation::NeverSent { .. })));
        assert!(has(&find(Bug::ForgetWhatWasShown), |v| matches!(v, Violation::Vanished { .. })));
    }
}

fn ok(message: u64, producer: u32, begun: u64, ended: u64, offset: i64) -> Event {
    Event::Send(Send { message, producer, begun, ended, outcome: Outcome::Ok { queue: 0, offset } })
}

fn scan(at: u64, found: &[u64]) -> Event {
    let end = found.len() as i64;
    Event::Scan(Scan { at, queue: 0, from: 0, end, found: (0..).zip(found.iter().map(|m| Some(*m))).collect() })
}

#[test]
fn a_power_cut_may_take_back_its_window_and_no_more() {
    let sends = [ok(1, 0, 0, 100 * MS, 0), ok(2, 0, 500 * MS, 600 * MS, 1), ok(3, 0, 900 * MS, 950 * MS, 2)];
    let cut = |before| Event::Fault { at: 1000 * MS, before, after: 0 };
    let run = |may_lose, left: &[u64]| judge(&[&sends[..], &[cut(may_lose), scan(2000 * MS, left)]].concat());
    let report = run(500 * MS, &[1]);
    assert!(report.is_clean(), "{report}");
    assert_eq!((report.lost_within_window, report.loss_window, report.lost), (2, 400 * MS, 0));
    let report = run(500 * MS, &[]);
    assert_eq!((report.lost, report.loss_window), (1, 900 * MS), "{report}");
    let report = run(0, &[1, 2]);
    assert_eq!(report.lost, 1, "with SYNC_FLUSH nothing is taken back: {report}");
}

#[test]
fn an_offset_may_be_given_again_only_after_a_loss_that_was_allowed() {
    let run = |may_lose| {
        judge(&[
            ok(1, 0, 0, 10, 0),
            Event::Fault { at: 20, before: may_lose, after: 0 },
            scan(30, &[]),
            ok(2, 0, 40, 50, 0),
            scan(60, &[2]),
        ])
    };
    assert!(run(20).is_clean());
    assert!(has(&run(0), |v| matches!(v, Violation::OffsetUsedTwice { first: 1, second: 2, .. })));
}

#[test]
fn an_acknowledgement_long_after_the_fault_is_a_false_one() {
    let events =
        [Event::Fault { at: 10 * MS, before: 0, after: MS }, ok(1, 0, 50 * MS, 60 * MS, 0), scan(90 * MS, &[])];
    let report = judge(&events);
    assert!(has(&report, |v| matches!(v, Violation::Lost { age, .. } if *age < 0)), "{report}");
}

#[test]
fn sends_that_overlap_may_stand_in_any_order_but_not_those_that_do_not() {
    assert!(judge(&[ok(1, 0, 0, 10, 1), ok(2, 1, 5, 15, 0), scan(20, &[2, 1])]).is_clean());
    let report = judge(&[ok(1, 0, 0, 10, 1), ok(2, 1, 11, 15, 0), scan(20, &[2, 1])]);
    assert_eq!(report.violations, [Violation::Reordered { queue: 0, earlier: 1, later: 2 }]);
    // One producer with two sends under way.
    let report = judge(&[ok(1, 0, 0, 10, 1), ok(2, 0, 5, 15, 0), scan(20, &[2, 1])]);
    assert_eq!(report.violations, [Violation::Reordered { queue: 0, earlier: 1, later: 2 }]);
}

#[test]
fn the_end_of_a_queue_never_goes_back() {
    let longer = Event::Scan(Scan { at: 20, queue: 0, from: 2, end: 5, found: Vec::new() });
    let report = judge(&[ok(1, 0, 0, 10, 0), longer, scan(30, &[1])]);
    assert_eq!(report.violations, [Violation::WentBack { queue: 0, was: 5, is: 1 }]);
}

#[test]
fn an_unknown_send_may_stand_once_or_not_at_all() {
    let unknown = Event::Send(Send { message: 1, producer: 0, begun: 0, ended: 10, outcome: Outcome::Unknown });
    assert!(judge(&[unknown.clone(), scan(20, &[])]).is_clean());
    assert!(judge(&[unknown.clone(), scan(20, &[1])]).is_clean());
    assert!(!judge(&[unknown, scan(20, &[1, 1])]).is_clean());
}

#[test]
fn a_message_given_again_is_counted_and_one_that_moves_is_wrong() {
    let give = |offset| Event::Delivery { consumer: 0, at: 20, queue: 0, offset, message: Some(1) };
    let report = judge(&[ok(1, 0, 0, 10, 0), give(0), give(0)]);
    assert!(report.is_clean());
    assert_eq!((report.delivered, report.delivered_again), (2, 1));
    assert!(!judge(&[ok(1, 0, 0, 10, 0), give(0), give(1)]).is_clean());
}
