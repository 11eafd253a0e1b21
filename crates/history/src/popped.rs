//! The judge of pop consumption: a message that was handed out is nobody else's until its time is over, comes again unless
//! it was acknowledged meanwhile, and not again if it was.

use std::collections::BTreeMap;

use crate::tally::Tally;

/// Milliseconds around the end of a message's time in which it counts as over and as not over.
const MARGIN: i64 = 100;

#[derive(Clone, Copy, Debug)]
enum State {
    /// `told`: the server said that it has it.
    Sent { told: bool },
    /// Handed out until then, unless `open`: then a change of that time has had no answer.
    Held { until: i64, open: bool },
    /// Acknowledged so late, or with no answer, that it may come again or not.
    Perhaps,
    /// Acknowledged.
    Done,
}

/// Why there may be two of a message from some time on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// Its time was changed when it was over.
    Expiry,
    /// It came again over a fault, be its time over or not.
    Fault,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    state: State,
    /// Faults before it was handed out.
    faults: u64,
    doubled: Option<Why>,
}

/// What is known of each message of one group. Times are milliseconds of one clock.
#[derive(Debug, Default)]
pub struct Popped {
    messages: BTreeMap<u64, Known>,
    faults: u64,
    tally: Tally,
}

impl Popped {
    /// A message is on its way: the server has it or not.
    pub fn sending(&mut self, message: u64) {
        self.messages.insert(message, Known { state: State::Sent { told: false }, faults: 0, doubled: None });
    }

    /// The server said that it has it.
    pub fn sent(&mut self, message: u64) {
        if let Some(Known { state: State::Sent { told }, .. }) = self.messages.get_mut(&message) {
            *told = true;
        }
    }

    /// A message was handed out at a time until another.
    pub fn delivered(&mut self, message: u64, at: i64, until: i64) {
        let tally = &mut self.tally;
        let Some(known) = self.messages.get_mut(&message) else {
            tally.unwanted += 1;
            tally.say(format!("message {message} was never sent"));
            return;
        };
        let before = std::mem::replace(&mut known.state, State::Held { until, open: false });
        let then = std::mem::replace(&mut known.faults, self.faults);
        if then != self.faults && !matches!(before, State::Sent { .. }) {
            known.doubled = Some(Why::Fault);
        }
        let finding = match before {
            State::Sent { .. } => return,
            State::Held { until, open: false } if at + MARGIN < until => {
                format!("message {message} came {} ms before its time was over", until - at)
            }
            State::Done => format!("message {message} came after its acknowledgement"),
            _ => {
                tally.by_expiry += 1;
                return;
            }
        };
        match known.doubled {
            Some(Why::Expiry) => tally.by_expiry += 1,
            why => tally.again(1, why.is_some(), finding),
        }
    }

    /// It was acknowledged as what was handed out until `of`, and the answer came then; none if it never came.
    pub fn acknowledged(&mut self, message: u64, of: i64, answered: Option<i64>) {
        if let Some(known) = self.held(message, of) {
            let in_time = answered.is_some_and(|at| at + MARGIN <= of);
            known.state = if in_time { State::Done } else { State::Perhaps };
        }
    }

    /// What was handed out until `of` has another end since then; none if the answer never came.
    pub fn changed(&mut self, message: u64, of: i64, since: Option<(i64, i64)>) {
        if let Some(known) = self.held(message, of) {
            if since.is_some_and(|(at, _)| at + MARGIN > of) {
                known.doubled = known.doubled.or(Some(Why::Expiry));
            }
            known.state = State::Held { until: since.map_or(of, |(_, until)| until), open: since.is_none() };
        }
    }

    /// What is known of a message, unless it was handed out again meanwhile.
    fn held(&mut self, message: u64, of: i64) -> Option<&mut Known> {
        self.messages.get_mut(&message).filter(|known| matches!(known.state, State::Held { until, .. } if until == of))
    }

    /// Something broke.
    pub fn fault(&mut self) {
        self.faults += 1;
    }

    /// Messages that still have to come.
    pub fn open(&self) -> usize {
        let is_open = |known: &&Known| matches!(known.state, State::Sent { told: true } | State::Held { .. });
        self.messages.values().filter(is_open).count()
    }

    /// The judgement, when nothing comes any more.
    pub fn finish(mut self) -> Tally {
        for (message, known) in &self.messages {
            let what = match known.state {
                State::Sent { told: true } => "never came",
                State::Held { .. } => "was not acknowledged and never came again",
                _ => continue,
            };
            self.tally.lost += 1;
            self.tally.say(format!("message {message} {what}"));
        }
        self.tally
    }
}
