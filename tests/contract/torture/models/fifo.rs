//! Ordered pops: batches of a queue are popped and acknowledged message by message, with gaps and late.

use super::handle::{ACK_MESSAGE, Handle, POP_MESSAGE, numbers, pop_fields, popped};
use super::lane::{Lane, Part};
use ferromq_contract::Outcome;
use ferromq_contract::wire::{Answer, code, now_ms, send_fields, sent};
use ferromq_history::{Ordered, Tally};
use std::collections::HashMap;

pub const QUEUES: usize = 2;
const TOPIC: &str = "Rows";
const GROUP: &str = "Readers";
/// How long a batch is invisible, milliseconds; and at the end, when every message is acknowledged at once.
const INVISIBLE: i64 = 1000;
const LONG: i64 = 30_000;

enum Asked {
    Send,
    Pop,
    Ack(i64),
}

#[derive(Default)]
struct Queue {
    judge: Ordered,
    /// What is left of the last batch.
    held: Vec<Handle>,
    /// Acknowledgements, and pops, under way: never both, as their order is the server's affair.
    acks: usize,
    pops: usize,
}

pub struct Fifo {
    lane: Lane,
    queues: [Queue; QUEUES],
    asked: HashMap<i32, (usize, Asked)>,
}

impl Fifo {
    pub fn new(addr: &str) -> Outcome<Fifo> {
        let mut lane = Lane::open(addr)?;
        lane.conn().create_topic(TOPIC, QUEUES as u32)?;
        Ok(Fifo { lane, queues: Default::default(), asked: HashMap::new() })
    }

    fn send(&mut self, queue: usize) -> Outcome {
        let (id, born) = (queue.to_string(), now_ms().to_string());
        let opaque = self.lane.begin(code::SEND_MESSAGE_V2, &send_fields(TOPIC, &id, &born, ""), b"row")?;
        self.asked.insert(opaque, (queue, Asked::Send));
        Ok(())
    }

    fn pop(&mut self, queue: usize, max: u64, invisible: i64) -> Outcome {
        let (id, numbers) = (queue.to_string(), numbers(max, invisible));
        let fields = pop_fields(GROUP, TOPIC, &id, &numbers, "true");
        let opaque = self.lane.begin(POP_MESSAGE, &fields, &[])?;
        self.queues[queue].pops += 1;
        self.asked.insert(opaque, (queue, Asked::Pop));
        Ok(())
    }

    fn acknowledge(&mut self, queue: usize, at: usize) -> Outcome {
        let handle = self.queues[queue].held.remove(at);
        let text = handle.text();
        let opaque = self.lane.begin(ACK_MESSAGE, &handle.request(GROUP, TOPIC, &text), &[])?;
        self.queues[queue].acks += 1;
        self.asked.insert(opaque, (queue, Asked::Ack(handle.offset())));
        Ok(())
    }
}

impl Queue {
    fn took(&mut self, answer: &Answer) -> Outcome {
        let batch: Vec<Handle> = popped(answer)?.into_iter().map(|(_, handle)| handle).collect();
        if let Some(first) = batch.first() {
            let offsets: Vec<i64> = batch.iter().map(Handle::offset).collect();
            let (at, until) = first.times();
            self.judge.delivered(&offsets, at, until);
            self.held = batch;
        }
        Ok(())
    }
}

impl Part for Fifo {
    fn name(&self) -> &'static str {
        "ordered pop"
    }

    fn lane(&mut self) -> &mut Lane {
        &mut self.lane
    }

    fn begin(&mut self, roll: u64) -> Outcome {
        let (kind, queue, roll) = (roll % 20, (roll / 20) as usize % QUEUES, roll / 40);
        let Queue { held, acks, pops, .. } = &self.queues[queue];
        match kind {
            0..=5 => self.send(queue),
            // Mostly from the front: so a batch comes to its end.
            6..=13 if !held.is_empty() && *pops == 0 => {
                let at = if roll % 4 == 0 { roll as usize / 4 % held.len() } else { 0 };
                self.acknowledge(queue, at)
            }
            6.. if *acks == 0 => self.pop(queue, 1 + roll % 8, INVISIBLE),
            _ => self.send(queue),
        }
    }

    fn settle(&mut self, opaque: i32, answer: Option<&Answer>) -> Outcome {
        let (at, asked) = self.asked.remove(&opaque).ok_or("an answer to no request")?;
        let queue = &mut self.queues[at];
        match asked {
            Asked::Send => {}
            Asked::Pop => queue.pops -= 1,
            Asked::Ack(_) => queue.acks -= 1,
        }
        match (asked, answer) {
            (Asked::Send | Asked::Pop, None) => {}
            (Asked::Send | Asked::Ack(_), Some(answer)) if answer.code != 0 => self.lane.refused += 1,
            (Asked::Send, Some(answer)) => queue.judge.sent(sent(answer)?.offset),
            (Asked::Pop, Some(answer)) => queue.took(answer)?,
            (Asked::Ack(offset), answer) => queue.judge.acknowledged(offset, answer.map(|_| now_ms())),
        }
        Ok(())
    }

    fn fault(&mut self, _from: i64, _to: i64) -> Outcome {
        self.queues.iter_mut().for_each(|queue| queue.judge.fault());
        Ok(())
    }

    fn drain(&mut self) -> Outcome<bool> {
        let mut any = false;
        for queue in 0..QUEUES {
            self.pop(queue, 32, LONG)?;
            super::lane::settle(self, 0)?;
            any |= !self.queues[queue].held.is_empty();
            while !self.queues[queue].held.is_empty() {
                self.acknowledge(queue, 0)?;
                super::lane::settle(self, 0)?;
            }
        }
        Ok(any)
    }

    fn open(&self) -> usize {
        self.queues.iter().map(|queue| queue.judge.open()).sum()
    }

    fn finish(&mut self) -> Tally {
        let mut tally = Tally::default();
        std::mem::take(&mut self.queues).into_iter().for_each(|queue| tally.add(queue.judge.finish()));
        tally
    }
}
