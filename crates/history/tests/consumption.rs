//! The judges of consumption: each planted fault of a server is counted as what it is, and a server without one is never
//! blamed.

use ferromq_history::{Must, Once, Ordered, Popped, Tally};

/// A message that was sent and is in hand from 1000 to 2000.
fn in_hand() -> Popped {
    let mut judge = Popped::default();
    judge.sending(7);
    judge.sent(7);
    judge.delivered(7, 1000, 2000);
    judge
}

fn counts(tally: &Tally) -> [u64; 4] {
    [tally.lost, tally.by_expiry, tally.by_fault, tally.unexplained]
}

#[test]
fn a_popped_message_ends_with_its_acknowledgement() {
    let mut judge = in_hand();
    assert_eq!(judge.open(), 1);
    judge.acknowledged(7, 2000, Some(1500));
    assert_eq!(judge.open(), 0);
    assert_eq!(judge.finish(), Tally::default());
}

#[test]
fn what_was_taken_and_never_ends_is_lost() {
    assert_eq!(counts(&in_hand().finish()), [1, 0, 0, 0]);
    let mut judge = Popped::default();
    judge.sending(1);
    judge.sending(2);
    judge.sent(2);
    assert_eq!(counts(&judge.finish()), [1, 0, 0, 0], "only one of them was answered");
}

#[test]
fn a_popped_message_that_comes_again_needs_a_reason() {
    let again = |change: &dyn Fn(&mut Popped), at: i64| {
        let mut judge = in_hand();
        change(&mut judge);
        judge.delivered(7, at, at + 1000);
        judge.acknowledged(7, at + 1000, Some(at));
        counts(&judge.finish())
    };
    assert_eq!(again(&|_| {}, 2000), [0, 1, 0, 0], "expired");
    assert_eq!(again(&|_| {}, 1500), [0, 0, 0, 1], "too soon");
    assert_eq!(again(&|judge| judge.fault(), 1500), [0, 0, 1, 0], "too soon after a fault");
    assert_eq!(again(&|judge| judge.changed(7, 2000, Some((1500, 3000))), 2500), [0, 0, 0, 1], "kept for longer");
    assert_eq!(again(&|judge| judge.changed(7, 2000, Some((1100, 1100))), 1500), [0, 1, 0, 0], "given back");
    assert_eq!(again(&|judge| judge.changed(7, 2000, Some((2100, 3000))), 2500), [0, 1, 0, 0], "kept when it was over");
    assert_eq!(again(&|judge| judge.changed(7, 2000, None), 1500), [0, 1, 0, 0], "nobody knows its time");
    let acknowledged = |at: Option<i64>| move |judge: &mut Popped| judge.acknowledged(7, 2000, at);
    assert_eq!(again(&acknowledged(Some(1500)), 2500), [0, 0, 0, 1], "after its acknowledgement");
    assert_eq!(again(&acknowledged(Some(1990)), 2500), [0, 1, 0, 0], "after a late one");
    assert_eq!(again(&acknowledged(None), 2500), [0, 1, 0, 0], "after one without an answer");
}

#[test]
fn an_acknowledgement_of_an_earlier_delivery_ends_nothing() {
    let mut judge = in_hand();
    judge.delivered(7, 2000, 3000);
    judge.acknowledged(7, 2000, Some(2000));
    assert_eq!(judge.open(), 1);
}

#[test]
fn what_a_fault_doubled_may_come_twice_from_then_on() {
    let mut judge = in_hand();
    judge.acknowledged(7, 2000, Some(1500));
    judge.fault();
    for at in [1600, 1700, 1800] {
        judge.delivered(7, at, at + 1000);
    }
    judge.delivered(8, 1900, 2900);
    let tally = judge.finish();
    assert_eq!((counts(&tally), tally.unwanted), ([1, 0, 3, 0], 1));
}

#[test]
fn what_came_again_over_a_fault_may_be_there_twice_although_its_time_was_over() {
    let mut judge = in_hand();
    judge.fault();
    judge.delivered(7, 2000, 3000);
    judge.delivered(7, 2100, 3100);
    judge.acknowledged(7, 3100, Some(2200));
    assert_eq!(counts(&judge.finish()), [0, 1, 1, 0]);
}

/// A queue of ten messages whose first four are in hand from 1000 to 2000.
fn batch(acknowledged: &[i64]) -> Ordered {
    let mut judge = Ordered::default();
    judge.sent(9);
    judge.delivered(&[0, 1, 2, 3], 1000, 2000);
    acknowledged.iter().for_each(|offset| judge.acknowledged(*offset, Some(1500)));
    judge
}

#[test]
fn ordered_pops_go_on_where_acknowledgements_end() {
    let mut judge = batch(&[0, 1, 2, 3]);
    judge.delivered(&[4, 5, 6, 7, 8, 9], 1600, 2600);
    (4..=9).for_each(|offset| judge.acknowledged(offset, Some(1700)));
    assert_eq!((judge.open(), judge.finish()), (0, Tally::default()));
    assert_eq!(batch(&[0, 1]).finish().lost, 8);
}

#[test]
fn ordered_pops_that_overtake_or_repeat_are_found() {
    let after = |acknowledged: &[i64], fault: bool, offsets: &[i64], at| {
        let mut judge = batch(acknowledged);
        if fault {
            judge.fault();
        }
        judge.delivered(offsets, at, at + 1000);
        let tally = judge.finish();
        [tally.by_expiry, tally.by_fault, tally.unexplained, tally.disordered]
    };
    assert_eq!(after(&[0, 2], false, &[1, 2, 3, 4], 2000), [3, 0, 0, 0], "expired, one of them behind a gap");
    assert_eq!(after(&[0, 2], false, &[1, 2], 1600), [0, 0, 1, 0], "before their time was over");
    assert_eq!(after(&[0, 1, 2, 3], false, &[2, 3], 1600), [0, 0, 2, 0], "acknowledged");
    assert_eq!(after(&[0, 1, 2, 3], true, &[2, 3], 1600), [0, 2, 0, 0], "acknowledged before a fault");
    assert_eq!(after(&[0], false, &[2, 3], 2000), [0, 0, 0, 1], "one was passed over");
    assert_eq!(after(&[0, 1, 2, 3], false, &[5, 6], 1600), [0, 0, 0, 1], "one behind the batch was passed over");
    assert_eq!(after(&[0, 1, 2, 3], false, &[4, 6], 1600), [0, 0, 0, 1], "one amid a batch was passed over");
}

#[test]
fn an_acknowledgement_without_an_answer_leaves_two_places_to_go_on() {
    for next in [1, 2] {
        let mut judge = batch(&[0]);
        judge.acknowledged(1, None);
        judge.fault();
        judge.delivered(&[next], 2000, 3000);
        let tally = judge.finish();
        assert_eq!((tally.unexplained, tally.by_fault, tally.disordered), (0, 0, 0));
    }
}

#[test]
fn what_comes_once_is_neither_missing_nor_double_nor_early() {
    let mut judge = Once::default();
    for (message, must) in [(0, Must::Come), (1, Must::Come), (2, Must::NotCome), (3, Must::Perhaps), (4, Must::Come)] {
        judge.expect(message, must, Some(1000));
    }
    assert_eq!(judge.open(), 3);
    for (message, at) in [(0, 900), (1, 1300), (1, 1400), (2, 1000), (9, 1000)] {
        judge.came(message, at);
    }
    let tally = judge.finish();
    assert_eq!(counts(&tally), [1, 0, 0, 1]);
    assert_eq!((tally.unwanted, tally.early, tally.late, tally.late_after_fault), (2, 1, 300, 0));
}

#[test]
fn a_fault_explains_what_is_double_and_counts_what_is_late_from_its_end() {
    let mut judge = Once::default();
    judge.fault(1100, 3000);
    judge.expect(0, Must::Come, Some(1000));
    [1050, 3100, 3200].iter().for_each(|at| judge.came(0, *at));
    judge.expect(1, Must::Come, Some(1200));
    judge.came(1, 3400);
    judge.expect(2, Must::Come, Some(9000));
    judge.came(2, 9700);
    let tally = judge.finish();
    assert_eq!(counts(&tally), [0, 0, 2, 0]);
    assert_eq!((tally.late, tally.late_after_fault), (700, 400));
}
