//! The remoting side of what `load.rs` does over gRPC: pops of 32 messages, each acknowledged by a request of its own, as
//! official clients do.

use crate::load::CONNECTIONS;
use ferromq_contract::record::{Stored, decode_all};
use ferromq_contract::wire::{Answer, Conn, now_ms};
use ferromq_contract::{Outcome, ensure};
use std::time::{Duration, Instant};

const POP_MESSAGE: i32 = 200_050;
const ACK_MESSAGE: i32 = 200_051;
/// Answer to a pop that waited in vain.
const POLLING_TIMEOUT: i32 = 210;
/// Milliseconds.
const INVISIBLE: &str = "120000";
const POLL: &str = "1000";
/// Empty answers in a row after which a consumer takes the topic for read.
const EMPTY: u32 = 3;

/// Pops what the topic has until `time` is over or nothing comes any more, `in_flight` pops and then their acknowledgements
/// under way on each connection; how many messages were acknowledged.
pub fn pop(addr: &str, group: &str, topic: &str, in_flight: usize, time: Duration) -> Outcome<u64> {
    let end = Instant::now() + time;
    std::thread::scope(|scope| {
        let consumers: Vec<_> = (0..CONNECTIONS)
            .map(|_| scope.spawn(move || Consumer { conn: Conn::open(addr)?, group, topic }.run(in_flight, end)))
            .collect();
        consumers.into_iter().map(|thread| thread.join().map_err(|_| "a consumer panicked")?).sum()
    })
}

struct Consumer<'a> {
    conn: Conn,
    group: &'a str,
    topic: &'a str,
}

impl Consumer<'_> {
    fn run(&mut self, in_flight: usize, end: Instant) -> Outcome<u64> {
        let (mut done, mut empty) = (0, 0);
        while Instant::now() < end && empty < EMPTY {
            for _ in 0..in_flight {
                self.begin_pop()?;
            }
            // All of them before the first acknowledgement, whose answer might come between.
            let popped: Vec<_> = (0..in_flight).map(|_| self.conn.read()).collect::<Outcome<_>>()?;
            let mut acks = 0;
            for answer in popped.into_iter().filter(|answer| answer.code != POLLING_TIMEOUT) {
                acks += self.begin_acks(&answer.ok()?)?;
            }
            for _ in 0..acks {
                self.conn.read()?.ok()?;
            }
            empty = if acks == 0 { empty + 1 } else { 0 };
            done += acks;
        }
        Ok(done)
    }

    fn begin_pop(&mut self) -> Outcome {
        let now = now_ms().to_string();
        let fields = [
            ("consumerGroup", self.group),
            ("topic", self.topic),
            ("queueId", "-1"),
            ("maxMsgNums", "32"),
            ("invisibleTime", INVISIBLE),
            ("pollTime", POLL),
            ("bornTime", &now),
            // From the start: nobody has consumed it.
            ("initMode", "0"),
            ("expType", "TAG"),
            ("exp", "*"),
            ("order", "false"),
        ];
        self.conn.begin(POP_MESSAGE, &fields, &[]).map(drop)
    }

    fn begin_acks(&mut self, popped: &Answer) -> Outcome<u64> {
        let records = decode_all(&popped.body)?;
        for record in &records {
            let (queue, offset) = (record.queue_id.to_string(), record.queue_offset.to_string());
            let fields = [
                ("consumerGroup", self.group),
                ("topic", self.topic),
                ("queueId", &queue),
                ("extraInfo", &handle(popped, record)?),
                ("offset", &offset),
            ];
            // Answers that come meanwhile are read when all are under way; there is room for them.
            self.conn.begin(ACK_MESSAGE, &fields, &[])?;
        }
        Ok(records.len() as u64)
    }
}

/// The receipt handle that clients make of an answer, of a message that is popped for the first time.
fn handle(popped: &Answer, record: &Stored) -> Outcome<String> {
    let queue = record.queue_id;
    let starts = popped.fields.get("startOffsetInfo").map(String::as_str).unwrap_or_default();
    let start = starts.split(';').find_map(|part| part.strip_prefix(&format!("0 {queue} ")));
    ensure!(start.is_some(), "no start of queue {queue} in {starts:?}");
    let (pop_time, invisible) = (popped.num("popTime")?, popped.num("invisibleTime")?);
    let (revive, offset) = (popped.num("reviveQid")?, record.queue_offset);
    Ok(format!("{} {pop_time} {invisible} {revive} 0 broker-a {queue} {offset}", start.unwrap_or_default()))
}
