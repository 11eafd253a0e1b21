//! How late delayed messages come: at 5,000 a second, by delay levels and by timers, after a second and after a minute, to a
//! consumer that waits for them.

use crate::growth::asked;
use crate::verdict;
use ferromq_contract::cluster::Cluster;
use ferromq_contract::record::decode_all;
use ferromq_contract::runner::{Case, Lab};
use ferromq_contract::wire::{Conn, Header, code, frame, now_ms, pull_fields, send_fields};
use ferromq_contract::{Outcome, Stop, ensure, ensure_eq, scale};
use std::io::Write;
use std::time::{Duration, Instant};

pub fn cases() -> Vec<Case> {
    vec![Case::alone("late::delayed_messages", delayed)]
}

/// Messages a second.
const RATE: usize = 5000;
/// Messages sent together: one burst in two milliseconds.
const BURST: usize = 10;
/// How late the latest but one in a hundred may be, beyond the precision, milliseconds.
const MUST: i64 = 10;
/// Longest time without a message.
const SILENCE: Duration = Duration::from_secs(90);

/// Messages of one kind.
#[derive(Clone, Copy)]
struct Stream {
    what: &'static str,
    delay: i64,
    /// Width of a step of the timer, milliseconds; 0 for a delay level.
    precision: i64,
}

impl Stream {
    fn topic(&self) -> String {
        format!("late-{}-{}", self.what, self.delay)
    }

    /// As they are stored with a message that is due at a time.
    fn properties(&self, due: i64) -> String {
        match (self.precision, self.delay) {
            (0, 1000) => "DELAY\u{1}1\u{2}".to_owned(),
            (0, _) => "DELAY\u{1}5\u{2}".to_owned(),
            _ => format!("TIMER_DELIVER_MS\u{1}{due}\u{2}"),
        }
    }
}

/// `FERROMQ_LATE_MESSAGES` of each kind.
fn delayed(lab: &Lab) -> Outcome {
    let count = scale("FERROMQ_LATE_MESSAGES", 0) as usize;
    asked(count as u64)?;
    let both = |what, precision| [60_000, 1000].map(|delay| Stream { what, delay, precision });
    measure(lab, count, 1000, &[both("level", 0), both("timer", 1000)].concat())?;
    measure(lab, count, 1, &both("timer", 1))
}

/// Sends the streams one after the other to a broker of its own while a consumer of each waits.
fn measure(lab: &Lab, count: usize, precision: i64, streams: &[Stream]) -> Outcome {
    let precision_text = precision.to_string();
    let settings = [("timerPrecisionMs", precision_text.as_str())];
    let mut cluster = Cluster::start(&lab.tools, lab.make, &lab.folder("late")?, &settings)?;
    let addr = &cluster.broker.addr();
    for stream in streams {
        cluster.create_topic(&stream.topic(), 1)?;
    }
    let late = std::thread::scope(|scope| -> Outcome<Vec<Vec<i64>>> {
        let consumers: Vec<_> =
            streams.iter().map(|stream| scope.spawn(move || receive(addr, stream, count))).collect();
        // Those of a minute first: the others come meanwhile.
        let mut by_delay: Vec<&Stream> = streams.iter().collect();
        by_delay.sort_by_key(|stream| -stream.delay);
        let sent = by_delay.into_iter().try_for_each(|stream| send(addr, stream, count));
        let late =
            consumers.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err("a consumer panicked".into())));
        let late = late.collect();
        sent.and(late)
    })?;
    for (stream, mut late) in streams.iter().zip(late) {
        late.sort_unstable();
        let at = |share: f64| late[((late.len() - 1) as f64 * share) as usize];
        ensure!(late[0] >= 0, "a message came {} ms early", -late[0]);
        let beyond = at(0.99) - stream.precision;
        let step = if stream.precision == 0 { String::new() } else { format!(", precision {} ms", stream.precision) };
        lab.row(
            &format!("delayed messages: {}{step}", stream.what),
            format!("{RATE}/s for {} s, {} s", count / RATE, stream.delay / 1000),
            format!(
                "late by {} ms (p50), {} ms (p99), {} ms (max), {}",
                at(0.5),
                at(0.99),
                at(1.0),
                verdict("<= 10 ms beyond the precision", beyond <= MUST)
            ),
        );
    }
    cluster.broker.stop()
}

/// Sends at the rate; each message says when it is due.
fn send(addr: &str, stream: &Stream, count: usize) -> Outcome {
    let mut conn = Conn::open(addr)?;
    let (topic, begun) = (stream.topic(), Instant::now());
    let mut bytes = Vec::new();
    for first in (0..count).step_by(BURST) {
        let at = Duration::from_micros(first as u64 * 1_000_000 / RATE as u64);
        std::thread::sleep(at.saturating_sub(begun.elapsed()));
        bytes.clear();
        for number in first..count.min(first + BURST) {
            let now = now_ms();
            let (due, born) = (now + stream.delay, now.to_string());
            let properties = stream.properties(due);
            let fields = send_fields(&topic, "0", &born, &properties);
            let body = due.to_string();
            bytes.extend(frame(Header::Binary, code::SEND_MESSAGE_V2, number as i32, 0, &fields, body.as_bytes()));
        }
        conn.stream.write_all(&bytes)?;
        for _ in first..count.min(first + BURST) {
            conn.read()?.ok()?;
        }
    }
    Ok(())
}

/// Waits for all messages of a stream; how late each came, milliseconds.
fn receive(addr: &str, stream: &Stream, count: usize) -> Outcome<Vec<i64>> {
    let mut conn = Conn::open(addr)?;
    conn.header = Header::Binary;
    let topic = stream.topic();
    let (mut late, mut next, mut last) = (Vec::with_capacity(count), 0, Instant::now());
    while late.len() < count {
        ensure!(last.elapsed() < SILENCE, "{} of {count} messages of {topic} came", late.len());
        let offset = next.to_string();
        let mut fields = pull_fields(&topic, "0", &offset, "32");
        for (key, value) in &mut fields {
            match *key {
                // The broker waits, and takes the subscription of the request.
                "sysFlag" => *value = "6",
                "suspendTimeoutMillis" => *value = "15000",
                _ => {}
            }
        }
        let answer = conn.call(code::PULL_MESSAGE, &fields, &[])?;
        let came = now_ms();
        if answer.code == 0 {
            last = Instant::now();
            for record in decode_all(&answer.body)? {
                ensure_eq!(record.queue_offset, next, "offset of the next message of {topic}");
                let due = String::from_utf8_lossy(&record.body).parse::<i64>();
                late.push(came - due.map_err(|_| Stop::from("a foreign body"))?);
                next += 1;
            }
        }
    }
    Ok(late)
}
