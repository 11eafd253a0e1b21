//! The judge of ordered pops of one queue: messages come in their order, and none while one before it is with a consumer or
//! has still to be acknowledged.

use crate::tally::Tally;

/// Milliseconds around the end of a message's time in which it counts as over and as not over.
const MARGIN: i64 = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ack {
    None,
    /// So late, or with no answer, that it counts or not.
    Perhaps,
    Sure,
}

/// What is known of one queue and group. Times are milliseconds of one clock.
#[derive(Debug, Default)]
pub struct Ordered {
    /// The first offset behind what was sent.
    end: i64,
    /// The first offset of the batch handed out last, and what became of each of its messages.
    first: i64,
    batch: Vec<Ack>,
    until: i64,
    faults: u64,
    /// Faults before the batch was handed out.
    faults_then: u64,
    /// What was handed out when a fault took acknowledgements back: before this, they may be taken back again.
    doubled: i64,
    tally: Tally,
}

impl Ordered {
    /// The server said that it has a message there.
    pub fn sent(&mut self, offset: i64) {
        self.end = self.end.max(offset + 1);
    }

    /// A batch was handed out at a time until another.
    pub fn delivered(&mut self, offsets: &[i64], at: i64, until: i64) {
        let (Some(first), Some(last)) = (offsets.first().copied(), offsets.last()) else { return };
        if offsets.windows(2).any(|two| two[0] + 1 != two[1]) {
            self.tally.disordered += 1;
            self.tally.say(format!("a batch of offsets {offsets:?}"));
        }
        let behind = self.first + self.batch.len() as i64;
        let index = |is: &dyn Fn(&Ack) -> bool| self.batch.iter().position(is).map(|n| self.first + n as i64);
        // Where the group stands: one of these two, if some acknowledgements are open.
        let least = index(&|ack| *ack != Ack::Sure).unwrap_or(behind);
        let most = index(&|ack| *ack == Ack::None).unwrap_or(behind);
        let with_fault = self.faults != self.faults_then;
        if first > most {
            self.tally.disordered += 1;
            self.tally.say(format!("offset {first} came before {most} was acknowledged"));
        } else if most < behind && at + MARGIN < self.until {
            let finding = format!("offset {first} came {} ms before the time of {most} was over", self.until - at);
            self.tally.again(1, with_fault, finding);
        } else if first < least {
            if with_fault {
                self.doubled = behind;
            }
            let finding = format!("offset {first} came after all before {least} was acknowledged");
            self.tally.again((least - first) as u64, first < self.doubled, finding);
        } else {
            self.tally.by_expiry += (behind.min(last + 1) - first).max(0) as u64;
        }
        self.end = self.end.max(last + 1);
        (self.first, self.until, self.faults_then) = (first, until, self.faults);
        self.batch = vec![Ack::None; offsets.len()];
    }

    /// A message of the last batch was acknowledged, and the answer came then; none if it never came.
    pub fn acknowledged(&mut self, offset: i64, answered: Option<i64>) {
        let in_time = answered.is_some_and(|at| at + MARGIN <= self.until);
        let place = usize::try_from(offset - self.first).ok();
        if let Some(ack) = place.and_then(|at| self.batch.get_mut(at)) {
            *ack = match *ack {
                _ if in_time => Ack::Sure,
                Ack::None => Ack::Perhaps,
                before => before,
            };
        }
    }

    /// Something broke.
    pub fn fault(&mut self) {
        self.faults += 1;
    }

    /// Messages that still have to come.
    pub fn open(&self) -> usize {
        let waiting = self.batch.iter().filter(|ack| **ack == Ack::None).count();
        (self.end - self.first) as usize - self.batch.len() + waiting
    }

    /// The judgement, when nothing comes any more.
    pub fn finish(mut self) -> Tally {
        let open = self.open() as u64;
        if open > 0 {
            self.tally.lost += open;
            self.tally.say(format!("{open} messages before offset {} never came to their end", self.end));
        }
        self.tally
    }
}
