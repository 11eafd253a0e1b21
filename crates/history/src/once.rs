//! The judge of messages that come once or not at all, and not before their time: transactions and timers.

use std::collections::BTreeMap;

use crate::tally::Tally;

/// Milliseconds after a fault's end in which what is late or double may be so because of it.
const WARMING: i64 = 5000;

/// What a message has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Must {
    Come,
    NotCome,
    /// Nobody knows whether the server has it.
    Perhaps,
}

#[derive(Debug)]
struct Known {
    must: Must,
    /// Not before.
    due: Option<i64>,
    /// When it came.
    came: Vec<i64>,
}

/// What is known of each message. Times are milliseconds of one clock.
#[derive(Debug, Default)]
pub struct Once {
    messages: BTreeMap<u64, Known>,
    /// From the last moment before it to the first moment a server served again.
    faults: Vec<(i64, i64)>,
    tally: Tally,
}

impl Once {
    /// What a message has to do from now on, and its time, if it has one.
    pub fn expect(&mut self, message: u64, must: Must, due: Option<i64>) {
        let known = self.messages.entry(message).or_insert(Known { must, due, came: Vec::new() });
        (known.must, known.due) = (must, due);
    }

    /// A message came.
    pub fn came(&mut self, message: u64, at: i64) {
        match self.messages.get_mut(&message) {
            Some(known) => known.came.push(at),
            None => {
                self.tally.unwanted += 1;
                self.tally.say(format!("message {message} was never sent"));
            }
        }
    }

    /// Something broke and was mended.
    pub fn fault(&mut self, from: i64, to: i64) {
        self.faults.push((from, to));
    }

    /// Messages that still have to come.
    pub fn open(&self) -> usize {
        self.messages.values().filter(|known| known.must == Must::Come && known.came.is_empty()).count()
    }

    /// The judgement, when nothing comes any more.
    pub fn finish(mut self) -> Tally {
        let tally = &mut self.tally;
        for (message, Known { must, due, came }) in self.messages {
            match (must, came.first()) {
                (Must::Come, None) => {
                    tally.lost += 1;
                    tally.say(format!("message {message} never came"));
                }
                (Must::NotCome, Some(_)) => {
                    tally.unwanted += 1;
                    tally.say(format!("message {message} came and was to be dropped"));
                }
                _ => {}
            }
            let mut with_fault = false;
            for two in came.windows(2) {
                // After a fault there may be two of them from then on.
                with_fault |= self.faults.iter().any(|(from, to)| two[0] <= to + WARMING && two[1] >= *from);
                tally.again(1, with_fault, format!("message {message} came again {} ms later", two[1] - two[0]));
            }
            let (Some(due), Some(at)) = (due, came.first().copied()) else { continue };
            if at < due {
                tally.early += 1;
                tally.say(format!("message {message} came {} ms before its time", due - at));
            }
            match self.faults.iter().rev().find(|(from, to)| *from <= at && due <= to + WARMING) {
                Some((_, back)) => tally.late_after_fault = tally.late_after_fault.max(at - due.max(*back)),
                None => tally.late = tally.late.max(at - due),
            }
        }
        self.tally
    }
}
