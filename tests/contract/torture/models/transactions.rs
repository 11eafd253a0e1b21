//! Transactions: halves are sent and ended, some twice, and the server's questions are answered. What the producer decided
//! stays so, as it does in a producer with a data base. A Java broker delivers a message once for each commit that it is told,
//! so that its row has repetitions without a fault, too.

use super::handle::message_of;
use super::lane::{Lane, Part, settle};
use super::timers::read_on;
use ferromq_contract::record::decode_all;
use ferromq_contract::wire::{Answer, Conn, code, now_ms, send_fields, sent};
use ferromq_contract::{Outcome, While};
use ferromq_history::{Must, Once, Tally};
use std::collections::HashMap;
use std::sync::mpsc::{Receiver, sync_channel};

const TOPIC: &str = "Orders";
const GROUP: &str = "Shops";
const HEART_BEAT: i32 = 34;
const END_TRANSACTION: i32 = 37;
const CHECK_TRANSACTION_STATE: i32 = 39;
/// System flag of a half message, and those of the outcomes.
const HALF: &str = "4";
const COMMIT: &str = "8";
const ROLLBACK: &str = "12";

/// Checks that may wait to be answered.
const MOST_CHECKS: usize = 10_000;

/// Where a half message stands in its queue, and in the log.
type Place = (i64, i64);

struct Transaction {
    /// None until the server tells it.
    place: Option<Place>,
    decided: Option<&'static str>,
}

enum Asked {
    Half(usize),
    End,
}

pub struct Transactions {
    addr: String,
    lane: Lane,
    judge: Once,
    all: Vec<Transaction>,
    asked: HashMap<i32, Asked>,
    checks: Receiver<Answer>,
    read: i64,
}

impl Transactions {
    pub fn new(addr: &str) -> Outcome<Transactions> {
        let mut lane = Lane::open(addr)?;
        lane.conn().create_topic(TOPIC, 1)?;
        let (addr, checks) = (addr.to_owned(), listen(addr)?);
        let (judge, all, asked) = (Once::default(), Vec::new(), HashMap::new());
        Ok(Transactions { addr, lane, judge, all, asked, checks, read: 0 })
    }

    fn half(&mut self) -> Outcome {
        let (number, born) = (self.all.len(), now_ms().to_string());
        self.all.push(Transaction { place: None, decided: None });
        self.judge.expect(number as u64, Must::NotCome, None);
        let properties = format!("UNIQ_KEY\u{1}o{number}\u{2}TRAN_MSG\u{1}true\u{2}PGROUP\u{1}{GROUP}\u{2}");
        let mut fields = send_fields(TOPIC, "0", &born, &properties);
        fields[5].1 = HALF;
        let opaque = self.lane.begin(code::SEND_MESSAGE_V2, &fields, number.to_string().as_bytes())?;
        self.asked.insert(opaque, Asked::Half(number));
        Ok(())
    }

    /// Ends a transaction as it was decided, or as it is now.
    fn end(&mut self, number: usize, roll: u64, checked: bool) -> Outcome {
        let transaction = &mut self.all[number];
        let Some((queue_offset, position)) = transaction.place else { return Ok(()) };
        let outcome = *transaction.decided.get_or_insert(if roll.is_multiple_of(3) { ROLLBACK } else { COMMIT });
        let must = if outcome == COMMIT { Must::Come } else { Must::NotCome };
        self.judge.expect(number as u64, must, None);
        let (queue_offset, position, id) = (queue_offset.to_string(), position.to_string(), format!("o{number}"));
        let fields = [
            ("producerGroup", GROUP),
            ("tranStateTableOffset", queue_offset.as_str()),
            ("commitLogOffset", position.as_str()),
            ("commitOrRollback", outcome),
            ("fromTransactionCheck", if checked { "true" } else { "false" }),
            ("msgId", id.as_str()),
            ("transactionId", id.as_str()),
        ];
        let opaque = self.lane.begin(END_TRANSACTION, &fields, &[])?;
        self.asked.insert(opaque, Asked::End);
        Ok(())
    }

    /// Ends one of those that are decided, or are not.
    fn end_one(&mut self, roll: u64, is_decided: bool) -> Outcome {
        let fits = |t: &Transaction| t.place.is_some() && t.decided.is_some() == is_decided;
        let fitting: Vec<usize> = (0..self.all.len()).filter(|n| fits(&self.all[*n])).collect();
        match fitting.get(roll as usize % fitting.len().max(1)) {
            Some(number) => self.end(*number, roll / 7, false),
            None => self.half(),
        }
    }

    /// Answers what the server has asked; how many questions that were.
    fn answer_checks(&mut self) -> Outcome<usize> {
        let checks: Vec<Answer> = self.checks.try_iter().collect();
        for check in &checks {
            let records = decode_all(&check.body).doing("the message of a check")?;
            let number = message_of(records.first().ok_or("a check without a message")?)? as usize;
            let place = (check.num("tranStateTableOffset")?, check.num("commitLogOffset")?);
            self.all.get_mut(number).ok_or("a check of no transaction")?.place = Some(place);
            self.end(number, number as u64, true)?;
        }
        Ok(checks.len())
    }
}

/// Registers as a producer; what the server asks it, until the connection ends.
fn listen(addr: &str) -> Outcome<Receiver<Answer>> {
    let mut conn = Conn::open(addr)?;
    let body = format!(r#"{{"clientID":"shop","producerDataSet":[{{"groupName":"{GROUP}"}}],"consumerDataSet":[]}}"#);
    conn.call(HEART_BEAT, &[], body.as_bytes())?.ok()?;
    conn.stream.set_read_timeout(None)?;
    let (sender, checks) = sync_channel(MOST_CHECKS);
    std::thread::spawn(move || {
        while let Ok(asked) = conn.read() {
            if asked.code == CHECK_TRANSACTION_STATE && sender.send(asked).is_err() {
                return;
            }
        }
    });
    Ok(checks)
}

impl Part for Transactions {
    fn name(&self) -> &'static str {
        "transactions"
    }

    fn lane(&mut self) -> &mut Lane {
        &mut self.lane
    }

    fn begin(&mut self, roll: u64) -> Outcome {
        let (kind, roll) = (roll % 10, roll / 10);
        match kind {
            0..=4 => self.half(),
            5..=7 => self.end_one(roll, false),
            8 => self.end_one(roll, true),
            _ => self.answer_checks().map(drop),
        }
    }

    fn settle(&mut self, opaque: i32, answer: Option<&Answer>) -> Outcome {
        match (self.asked.remove(&opaque).ok_or("an answer to no request")?, answer) {
            (Asked::Half(number), Some(answer)) if answer.code == 0 => {
                let sent = sent(answer)?;
                let position = sent.offset_id.get(16..).and_then(|digits| i64::from_str_radix(digits, 16).ok());
                let position = position.ok_or_else(|| format!("a message id '{}'", sent.offset_id))?;
                self.all[number].place.get_or_insert((sent.offset, position));
            }
            (Asked::Half(_), Some(_)) => self.lane.refused += 1,
            // An end that is refused, as each second one, or unheard: what was decided stays, and the server asks.
            (Asked::Half(_), None) | (Asked::End, _) => {}
        }
        Ok(())
    }

    fn fault(&mut self, from: i64, to: i64) -> Outcome {
        self.judge.fault(from, to);
        self.checks = listen(&self.addr)?;
        Ok(())
    }

    fn drain(&mut self) -> Outcome<bool> {
        for number in 0..self.all.len() {
            if self.all[number].decided.is_none() {
                self.end(number, number as u64, false)?;
                settle(self, 0)?;
            }
        }
        let asked = self.answer_checks()?;
        settle(self, 0)?;
        Ok(read_on(self.lane.conn(), TOPIC, &mut self.read, &mut self.judge)? || asked > 0)
    }

    fn open(&self) -> usize {
        self.judge.open()
    }

    fn finish(&mut self) -> Tally {
        std::mem::take(&mut self.judge).finish()
    }
}
