//! Pop consumption as a state machine: random sends, pops, acknowledgements, changes, expiries, restarts and kills on the
//! real store. Nothing is lost, nothing comes twice under two live handles, nothing comes back once it was acknowledged.

use std::collections::{BTreeMap, BTreeSet};

use ferromq_protocol::header::pop::PopMessageHeader;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::client::*;
use crate::support::*;

const INVISIBLE_MS: i64 = 400;

#[derive(Clone, Debug)]
enum Step {
    Send(u8),
    Pop(u8),
    /// Acknowledges the n-th message that is held, by its newest handle.
    Ack(u8),
    /// Makes it come back at once, or stay long.
    Change(u8, bool),
    Expire,
    Restart,
    Kill,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (1..20_u8).prop_map(Step::Send),
        5 => (1..33_u8).prop_map(Step::Pop),
        8 => any::<u8>().prop_map(Step::Ack),
        2 => (any::<u8>(), any::<bool>()).prop_map(|(n, back)| Step::Change(n, back)),
        1 => Just(Step::Expire),
        1 => Just(Step::Restart),
        2 => Just(Step::Kill),
    ]
}

#[derive(Default)]
struct Model {
    sent: u32,
    /// Newest handle of each message that was popped and not acknowledged.
    held: BTreeMap<String, Message>,
    acked: BTreeSet<String>,
    /// Acknowledged at the end of their time: they may come again or not.
    late: BTreeSet<String>,
}

impl Model {
    fn took(&mut self, popped: Vec<Message>) {
        for message in popped {
            assert!(!self.acked.contains(&message.body), "{} came again after its acknowledgement", message.body);
            self.late.remove(&message.body);
            // A second copy is the same message back from the retry topic.
            if let Some(before) = self.held.insert(message.body.clone(), message.clone()) {
                assert!(
                    message.reconsume_times > before.reconsume_times,
                    "{} and {} at once",
                    before.handle,
                    message.handle
                );
            }
        }
    }

    fn pick(&self, n: u8) -> Option<Message> {
        let at = usize::from(n) % self.held.len().max(1);
        self.held.values().nth(at).cloned()
    }
}

fn run(steps: &[Step]) {
    let mut bench = small();
    let mut model = Model::default();
    fill(&bench, "T", 0..1);
    model.sent = 1;
    let header = PopMessageHeader { invisible_time: INVISIBLE_MS, ..pop_header("T") };
    for step in steps {
        match step {
            Step::Send(count) => {
                let next = model.sent + u32::from(*count);
                fill(&bench, "T", model.sent..next);
                model.sent = next;
            }
            Step::Pop(max) => {
                model.took(pop(&bench, &PopMessageHeader { max_msg_nums: i32::from(*max), ..header }).1);
            }
            Step::Ack(n) => {
                let Some(message) = model.pick(*n) else { continue };
                ack(&bench, &message);
                if is_live(&message) {
                    model.held.remove(&message.body);
                    model.acked.insert(message.body);
                } else {
                    model.late.insert(message.body);
                }
            }
            Step::Change(n, back) => {
                let Some(message) = model.pick(*n) else { continue };
                if let Ok(changed) = change(&bench, &message, if *back { 0 } else { 2 * INVISIBLE_MS }) {
                    model.held.insert(message.body, changed);
                }
            }
            Step::Expire => sleep(INVISIBLE_MS as u64 + 100),
            Step::Restart => bench = restart(bench, config()),
            Step::Kill => bench = kill(bench, config()),
        }
    }
    // All that is left comes, and ends with an acknowledgement each.
    let long = PopMessageHeader { invisible_time: 30_000, ..header };
    wait_until("the last message", || {
        let popped = pop(&bench, &long).1;
        for message in &popped {
            ack(&bench, message);
        }
        let done: Vec<_> = popped.iter().map(|message| message.body.clone()).collect();
        model.took(popped);
        for body in done {
            model.held.remove(&body);
            model.acked.insert(body);
        }
        model.acked.union(&model.late).count() == model.sent as usize
    });
    // Of one that was acknowledged late the check point ends a moment later.
    wait_until("the end of all check points", || bench.broker.as_ref().unwrap().shared().pops.check_points() == 0);
}

/// Whether the handle has so much time left that the acknowledgement before came in time.
pub fn is_live(message: &Message) -> bool {
    let handle = ferromq_protocol::pop::ReceiptHandle::parse(&message.handle).unwrap();
    ferromq_common::clock::now_millis() < handle.pop_time + handle.invisible_time
}

#[test]
fn random_histories_lose_nothing_and_repeat_nothing() {
    let mut runner =
        TestRunner::new(Config { cases: 24, max_shrink_iters: 20, failure_persistence: None, ..Config::default() });
    let steps = proptest::collection::vec(step(), 5..40);
    runner
        .run(&steps, |steps| {
            run(&steps);
            Ok(())
        })
        .unwrap();
}
