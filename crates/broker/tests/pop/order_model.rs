//! Ordered pops as a state machine: random sends, pops, acknowledgements, late ones, expiries, restarts and kills on the real
//! store. No message overtakes one before it, none is lost, and only what was acknowledged behind a gap comes again.

use std::collections::BTreeSet;

use ferromq_broker::BrokerConfig;
use ferromq_common::clock;
use ferromq_protocol::code::request;
use ferromq_protocol::header::pop::PopMessageHeader;
use ferromq_protocol::pop::ReceiptHandle;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::client::*;
use crate::model::is_live;
use crate::support::*;

const INVISIBLE_MS: i64 = 300;

/// The tables are written all the time, so that many a kill comes between two of their files.
fn often() -> BrokerConfig {
    BrokerConfig { flush_consumer_offset_interval: 100, ..config() }
}

#[derive(Clone, Debug)]
enum Step {
    Send(u8),
    Pop(u8),
    /// Acknowledges the n-th message of the last pop.
    Ack(u8),
    /// Acknowledges one of a pop before the last.
    Late(u8),
    Expire,
    Restart,
    Kill,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (1..10_u8).prop_map(Step::Send),
        6 => (1..8_u8).prop_map(Step::Pop),
        10 => any::<u8>().prop_map(Step::Ack),
        1 => any::<u8>().prop_map(Step::Late),
        1 => Just(Step::Expire),
        1 => Just(Step::Restart),
        2 => Just(Step::Kill),
    ]
}

/// Bodies are offsets: all messages are in one queue.
#[derive(Default)]
struct Model {
    sent: u32,
    /// The first message that is not acknowledged: what the group's offset is to be.
    next: i64,
    last: Vec<Message>,
    acked: BTreeSet<i64>,
    before: Vec<Message>,
}

impl Model {
    fn waiting(&self) -> impl Iterator<Item = &Message> {
        self.last.iter().filter(|message| !self.acked.contains(&message.queue_offset))
    }

    fn took(&mut self, popped: Vec<Message>) {
        if popped.is_empty() {
            return;
        }
        let now = clock::now_millis();
        for message in self.waiting() {
            let handle = ReceiptHandle::parse(&message.handle).unwrap();
            assert!(handle.pop_time + handle.invisible_time <= now, "{} was overtaken", message.body);
        }
        let offsets: Vec<i64> = popped.iter().map(|message| message.queue_offset).collect();
        assert_eq!(offsets, (self.next..self.next + offsets.len() as i64).collect::<Vec<_>>());
        assert_eq!(bodies(&popped), offsets.iter().map(i64::to_string).collect::<Vec<_>>());
        self.before.append(&mut self.last);
        self.last = popped;
        self.acked.clear();
    }

    fn ack(&mut self, bench: &Bench, message: &Message) {
        ack(bench, message);
        let in_time = is_live(message);
        let before = self.acked.clone();
        self.acked.insert(message.queue_offset);
        let next = |model: &Self| {
            model.waiting().next().or(model.last.last()).map_or(0, |m| m.queue_offset)
                + i64::from(model.waiting().next().is_none())
        };
        let expected = next(self);
        match committed(bench) {
            offset if offset == expected => self.next = expected,
            offset => {
                assert!(!in_time, "{} was acknowledged, and the offset is {offset} and not {expected}", message.body);
                self.acked = before;
            }
        }
    }
}

fn committed(bench: &Bench) -> i64 {
    bench.ask(request::QUERY_CONSUMER_OFFSET, "T", 0, "offset", &[("consumerGroup", "G")]).unwrap_or(0)
}

fn run(steps: &[Step]) {
    let mut bench = small_with(often());
    fill(&bench, "T", 0..1);
    let mut model = Model { sent: 1, ..Model::default() };
    let ordered = |max_msg_nums: u8, invisible_time| PopMessageHeader {
        order: Some(true),
        max_msg_nums: max_msg_nums.into(),
        invisible_time,
        ..pop_header("T")
    };
    for step in steps {
        match step {
            Step::Send(count) => {
                let next = model.sent + u32::from(*count);
                fill(&bench, "T", model.sent..next);
                model.sent = next;
            }
            Step::Pop(max) => model.took(pop(&bench, &ordered(*max, INVISIBLE_MS)).1),
            Step::Ack(n) => {
                let waiting: Vec<Message> = model.waiting().cloned().collect();
                let Some(message) = waiting.get(usize::from(*n) % waiting.len().max(1)) else { continue };
                model.ack(&bench, message);
            }
            Step::Late(n) => {
                let Some(message) = model.before.get(usize::from(*n) % model.before.len().max(1)) else { continue };
                ack(&bench, message);
                assert_eq!(committed(&bench), model.next, "a handle of before moved the offset");
            }
            Step::Expire => sleep(INVISIBLE_MS as u64 + 50),
            Step::Restart => bench = restart(bench, often()),
            Step::Kill => bench = kill(bench, often()),
        }
        assert_eq!(committed(&bench), model.next, "after {step:?}");
    }
    wait_until("the last message", || {
        let popped = pop(&bench, &ordered(32, 30_000)).1;
        model.took(popped.clone());
        for message in &popped {
            model.ack(&bench, message);
        }
        model.next == i64::from(model.sent)
    });
}

#[test]
fn random_histories_keep_the_order_and_lose_nothing() {
    let mut runner =
        TestRunner::new(Config { cases: 8, max_shrink_iters: 20, failure_persistence: None, ..Config::default() });
    runner
        .run(&proptest::collection::vec(step(), 10..50), |steps| {
            run(&steps);
            Ok(())
        })
        .unwrap();
}
