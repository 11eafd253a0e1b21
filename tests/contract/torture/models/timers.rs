//! Messages with a delay level or a time of their own: each comes once, not before its time.

use super::handle::message_of;
use super::lane::{Lane, Part};
use ferromq_contract::Outcome;
use ferromq_contract::wire::{Answer, Conn, code, now_ms, send_fields};
use ferromq_history::{Must, Once, Tally};
use std::collections::HashMap;

const TOPIC: &str = "Later";
/// The first delay levels of a server that was not told others, milliseconds.
const LEVELS: [i64; 2] = [1000, 5000];
/// The farthest time of its own that a message gets, milliseconds.
const FARTHEST: u64 = 6000;

pub struct Timers {
    lane: Lane,
    judge: Once,
    asked: HashMap<i32, (u64, i64)>,
    sent: u64,
    read: i64,
}

impl Timers {
    pub fn new(addr: &str) -> Outcome<Timers> {
        let mut lane = Lane::open(addr)?;
        lane.conn().create_topic(TOPIC, 1)?;
        Ok(Timers { lane, judge: Once::default(), asked: HashMap::new(), sent: 0, read: 0 })
    }
}

/// Reads a queue on from an offset into the judge; whether anything came.
pub fn read_on(conn: &mut Conn, topic: &str, next: &mut i64, judge: &mut Once) -> Outcome<bool> {
    let records = conn.read_queue(topic, 0, *next)?;
    for record in &records {
        judge.came(message_of(record)?, record.store_timestamp);
    }
    *next += records.len() as i64;
    Ok(!records.is_empty())
}

impl Part for Timers {
    fn name(&self) -> &'static str {
        "timers"
    }

    fn lane(&mut self) -> &mut Lane {
        &mut self.lane
    }

    fn begin(&mut self, roll: u64) -> Outcome {
        let (message, now) = (self.sent, now_ms());
        self.sent += 1;
        let (property, due) = match roll % 4 {
            0 => {
                let level = roll as usize / 4 % LEVELS.len();
                (format!("DELAY\u{1}{}\u{2}", level + 1), now + LEVELS[level])
            }
            _ => {
                let due = now + 200 + (roll / 4 % FARTHEST) as i64;
                (format!("TIMER_DELIVER_MS\u{1}{due}\u{2}"), due)
            }
        };
        let (born, properties) = (now.to_string(), format!("UNIQ_KEY\u{1}l{message}\u{2}{property}"));
        let fields = send_fields(TOPIC, "0", &born, &properties);
        let opaque = self.lane.begin(code::SEND_MESSAGE_V2, &fields, message.to_string().as_bytes())?;
        self.judge.expect(message, Must::Perhaps, Some(due));
        self.asked.insert(opaque, (message, due));
        Ok(())
    }

    fn settle(&mut self, opaque: i32, answer: Option<&Answer>) -> Outcome {
        let (message, due) = self.asked.remove(&opaque).ok_or("an answer to no request")?;
        match answer {
            Some(answer) if answer.code == 0 => self.judge.expect(message, Must::Come, Some(due)),
            answer => self.lane.refused += u64::from(answer.is_some()),
        }
        Ok(())
    }

    fn fault(&mut self, from: i64, to: i64) -> Outcome {
        self.judge.fault(from, to);
        Ok(())
    }

    fn drain(&mut self) -> Outcome<bool> {
        read_on(self.lane.conn(), TOPIC, &mut self.read, &mut self.judge)
    }

    fn open(&self) -> usize {
        self.judge.open()
    }

    fn finish(&mut self) -> Tally {
        std::mem::take(&mut self.judge).finish()
    }
}
