//! Pop consumption: messages are popped, acknowledged in time or late, and given back or kept for longer.

use super::handle::{
    ACK_MESSAGE, BATCH_ACK_MESSAGE, CHANGE_MESSAGE_INVISIBLETIME, Handle, POP_MESSAGE, message_of, numbers, pop_fields,
    popped,
};
use super::lane::{Lane, Part};
use ferromq_contract::Outcome;
use ferromq_contract::wire::{Answer, code, now_ms, send_fields};
use ferromq_history::{Popped, Tally};
use std::collections::{BTreeMap, HashMap};

pub const QUEUES: u32 = 4;
const TOPIC: &str = "Jobs";
const GROUP: &str = "Workers";
/// How long a popped message is invisible, milliseconds.
const INVISIBLE: i64 = 1500;
/// The same at the end, when every message is acknowledged at once.
const LONG: i64 = 30_000;

enum Asked {
    Send(u64),
    Pop,
    /// Messages, each with the end of its time.
    Ack(Vec<(u64, i64)>),
    Change(u64, Handle),
}

pub struct Pop {
    lane: Lane,
    judge: Popped,
    sent: u64,
    /// The newest handle of each message in hand.
    held: BTreeMap<u64, Handle>,
    asked: HashMap<i32, Asked>,
}

impl Pop {
    pub fn new(addr: &str) -> Outcome<Pop> {
        let mut lane = Lane::open(addr)?;
        lane.conn().create_topic(TOPIC, QUEUES)?;
        Ok(Pop { lane, judge: Popped::default(), sent: 0, held: BTreeMap::new(), asked: HashMap::new() })
    }

    fn send(&mut self, roll: u64) -> Outcome {
        let (message, queue, born) = (self.sent, (roll % u64::from(QUEUES)).to_string(), now_ms().to_string());
        self.sent += 1;
        self.judge.sending(message);
        let body = format!("{message} {}", "x".repeat(roll as usize % 300));
        let properties = format!("UNIQ_KEY\u{1}j{message}\u{2}");
        let fields = send_fields(TOPIC, &queue, &born, &properties);
        let opaque = self.lane.begin(code::SEND_MESSAGE_V2, &fields, body.as_bytes())?;
        self.asked.insert(opaque, Asked::Send(message));
        Ok(())
    }

    fn pop(&mut self, max: u64, invisible: i64) -> Outcome<i32> {
        let numbers = numbers(max, invisible);
        self.lane.begin(POP_MESSAGE, &pop_fields(GROUP, TOPIC, "-1", &numbers, "false"), &[])
    }

    /// Takes one of the messages in hand out of it.
    fn pick(&mut self, roll: u64) -> Option<(u64, Handle)> {
        let at = roll as usize % self.held.len().max(1);
        let message = *self.held.keys().nth(at)?;
        self.held.remove_entry(&message)
    }

    fn acknowledge(&mut self, message: u64, handle: &Handle) -> Outcome {
        let (topic, text) = (handle.real_topic(TOPIC, GROUP), handle.text());
        let opaque = self.lane.begin(ACK_MESSAGE, &handle.request(GROUP, &topic, &text), &[])?;
        self.asked.insert(opaque, Asked::Ack(vec![(message, handle.times().1)]));
        Ok(())
    }

    /// Acknowledges a message with all in hand that were handed out beside it.
    fn acknowledge_batch(&mut self, message: u64, handle: &Handle) -> Outcome {
        let mut batch: Vec<(u64, Handle)> = self.held.extract_if(.., |_, other| handle.is_beside(other)).collect();
        batch.push((message, handle.clone()));
        let offsets: Vec<i64> = batch.iter().map(|(_, handle)| handle.offset()).collect();
        let opaque = self.lane.begin(BATCH_ACK_MESSAGE, &[], &handle.batch(GROUP, TOPIC, &offsets))?;
        self.asked
            .insert(opaque, Asked::Ack(batch.iter().map(|(message, handle)| (*message, handle.times().1)).collect()));
        Ok(())
    }

    fn change(&mut self, message: u64, handle: Handle, invisible: i64) -> Outcome {
        let (topic, text, invisible) = (handle.real_topic(TOPIC, GROUP), handle.text(), invisible.to_string());
        let mut fields = handle.request(GROUP, &topic, &text).to_vec();
        fields.push(("invisibleTime", &invisible));
        let opaque = self.lane.begin(CHANGE_MESSAGE_INVISIBLETIME, &fields, &[])?;
        self.asked.insert(opaque, Asked::Change(message, handle));
        Ok(())
    }

    fn took(&mut self, answer: &Answer) -> Outcome {
        for (record, handle) in popped(answer)? {
            let (message, (at, until)) = (message_of(&record)?, handle.times());
            self.judge.delivered(message, at, until);
            self.held.insert(message, handle);
        }
        Ok(())
    }

    /// The time of a message was changed, or not.
    fn changed(&mut self, message: u64, handle: Handle, answer: Option<&Answer>) -> Outcome {
        let until = handle.times().1;
        let handle = match answer {
            // Its old handle says nothing any more.
            None => {
                self.judge.changed(message, until, None);
                return Ok(());
            }
            Some(answer) if answer.code == 0 => {
                let changed = handle.changed(answer)?;
                self.judge.changed(message, until, Some(changed.times()));
                changed
            }
            Some(_) => {
                self.lane.refused += 1;
                handle
            }
        };
        self.held.entry(message).or_insert(handle);
        Ok(())
    }
}

impl Part for Pop {
    fn name(&self) -> &'static str {
        "pop"
    }

    fn lane(&mut self) -> &mut Lane {
        &mut self.lane
    }

    fn begin(&mut self, roll: u64) -> Outcome {
        let (kind, roll) = (roll % 20, roll / 20);
        match kind {
            0..=6 => self.send(roll),
            7..=10 => {
                let opaque = self.pop(1 + roll % 16, INVISIBLE)?;
                self.asked.insert(opaque, Asked::Pop);
                Ok(())
            }
            11..=15 => match self.pick(roll) {
                Some((message, handle)) => self.acknowledge(message, &handle),
                None => self.send(roll),
            },
            16 | 17 => match self.pick(roll) {
                Some((message, handle)) => self.acknowledge_batch(message, &handle),
                None => self.send(roll),
            },
            _ => match self.pick(roll) {
                Some((message, handle)) => self.change(message, handle, (roll % 2) as i64 * 2 * INVISIBLE),
                None => self.send(roll),
            },
        }
    }

    fn settle(&mut self, opaque: i32, answer: Option<&Answer>) -> Outcome {
        match (self.asked.remove(&opaque).ok_or("an answer to no request")?, answer) {
            (Asked::Send(_) | Asked::Pop, None) => {}
            (Asked::Send(_) | Asked::Ack(_), Some(answer)) if answer.code != 0 => self.lane.refused += 1,
            (Asked::Send(message), Some(_)) => self.judge.sent(message),
            (Asked::Pop, Some(answer)) => self.took(answer)?,
            (Asked::Ack(messages), answer) => {
                let answered = answer.map(|_| now_ms());
                messages.into_iter().for_each(|(message, of)| self.judge.acknowledged(message, of, answered));
            }
            (Asked::Change(message, handle), answer) => self.changed(message, handle, answer)?,
        }
        Ok(())
    }

    fn fault(&mut self, _from: i64, _to: i64) -> Outcome {
        self.judge.fault();
        Ok(())
    }

    fn drain(&mut self) -> Outcome<bool> {
        // What is in hand still is acknowledged as long as it has time.
        let numbers = numbers(32, LONG);
        let fields = pop_fields(GROUP, TOPIC, "-1", &numbers, "false");
        let answer = self.lane.call(POP_MESSAGE, &fields, &[])?;
        self.took(&answer)?;
        let held = std::mem::take(&mut self.held);
        for (message, handle) in &held {
            self.acknowledge(*message, handle)?;
            super::lane::settle(self, 0)?;
        }
        Ok(!held.is_empty())
    }

    fn open(&self) -> usize {
        self.judge.open()
    }

    fn finish(&mut self) -> Tally {
        std::mem::take(&mut self.judge).finish()
    }
}
