//! Load whose every step is written down: connections that send pipelined messages, a consumer that reads along, scans of
//! the queues, faults. What it comes to is judged by `ferromq-history`. One body is sent once only; no client retries
//! behind our back.

use crate::record::Stored;
use crate::wire::{Answer, Conn, code, now_ms, send_fields, sent};
use crate::{Outcome, Stop, While};
use ferromq_history::{Checker, Event, Outcome as Told, Report, Scan, Send};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Answers by which a broker says that it has stored nothing: SYSTEM_BUSY, MESSAGE_ILLEGAL, NO_PERMISSION, TOPIC_NOT_EXIST.
/// After any other than SUCCESS the message may be in the log.
const NOT_STORED: [i32; 4] = [2, 13, 16, 17];
/// How long a consumer that has read everything waits before it looks again.
const CONSUMER_PAUSE: Duration = Duration::from_millis(2);
/// How long a sender waits after a refusal: a broker that refuses everything must not be asked in a tight loop.
const REFUSED_PAUSE: Duration = Duration::from_millis(5);
/// Bytes of the smallest body: its message number, and some more.
const MIN_BODY: usize = 16;

/// What is sent to one topic, and the judge of it.
pub struct Workload {
    topic: String,
    queues: i32,
    next_message: Arc<AtomicU64>,
    next_producer: u32,
    clock: Clock,
    checker: Checker,
    acked: u64,
    /// When the last one of those that were acknowledged was sent.
    last_acked: u64,
    /// Per queue, up to where it has been read and found right.
    verified: Vec<i64>,
}

/// How the load is made.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub connections: usize,
    /// Requests each connection keeps under way.
    pub in_flight: usize,
    /// Body sizes vary up to this.
    pub max_body: usize,
    /// How long a connection waits after each answer: without, it keeps processor and disk as busy as it can.
    pub pause: Duration,
    /// Whether a consumer reads along.
    pub consumer: bool,
}

impl Shape {
    /// That many connections with 16 sends under way each.
    pub fn new(connections: usize, max_body: usize) -> Shape {
        Shape { connections, in_flight: 16, max_body, pause: Duration::ZERO, consumer: false }
    }
}

/// The moment all times of a history count from.
#[derive(Clone, Copy)]
struct Clock(Instant);

impl Clock {
    fn at(self, moment: Instant) -> u64 {
        moment.saturating_duration_since(self.0).as_nanos() as u64
    }

    fn now(self) -> u64 {
        self.at(Instant::now())
    }
}

/// Load under way.
pub struct Load {
    stop: Arc<AtomicBool>,
    acked: Arc<AtomicU64>,
    senders: Vec<JoinHandle<Vec<Event>>>,
    consumer: Option<JoinHandle<Vec<Event>>>,
}

impl Workload {
    /// Nothing sent yet to a topic with that many queues.
    pub fn new(topic: &str, queues: i32) -> Workload {
        Workload {
            topic: topic.to_owned(),
            queues,
            next_message: Arc::default(),
            next_producer: 0,
            clock: Clock(Instant::now()),
            checker: Checker::default(),
            acked: 0,
            last_acked: 0,
            verified: vec![0; queues as usize],
        }
    }

    /// How many messages were acknowledged.
    pub fn acked(&self) -> u64 {
        self.acked
    }

    /// Whether any of the load that was taken was sent after `moment` and acknowledged.
    pub fn was_acked_after(&self, moment: Instant) -> bool {
        self.last_acked > self.clock.at(moment)
    }

    /// Starts connections that send until they are stopped or cut off.
    pub fn start(&mut self, addr: &str, shape: Shape) -> Outcome<Load> {
        let (stop, acked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut senders = Vec::new();
        for _ in 0..shape.connections {
            let mut sender = Sender {
                conn: Conn::open(addr)?,
                topic: self.topic.clone(),
                queues: self.queues,
                producer: self.next_producer,
                shape,
                next_message: Arc::clone(&self.next_message),
                clock: self.clock,
                stop: Arc::clone(&stop),
                acked: Arc::clone(&acked),
                flying: HashMap::new(),
                events: Vec::new(),
            };
            self.next_producer += 1;
            senders.push(std::thread::spawn(move || {
                // An error is the end of the connection: what was told until then counts.
                let _ = sender.run();
                sender.end()
            }));
        }
        let consumer = shape.consumer.then(|| self.consumer(addr, Arc::clone(&stop))).transpose()?;
        Ok(Load { stop, acked, senders, consumer })
    }

    /// A consumer that reads all queues from where they are verified.
    fn consumer(&self, addr: &str, stop: Arc<AtomicBool>) -> Outcome<JoinHandle<Vec<Event>>> {
        let mut conn = Conn::open(addr)?;
        let (topic, clock, mut next) = (self.topic.clone(), self.clock, self.verified.clone());
        Ok(std::thread::spawn(move || {
            let mut events = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let mut is_idle = true;
                for (queue, offset) in next.iter_mut().enumerate() {
                    // An error is the end of the connection.
                    let Ok(pulled) = conn.pull(&topic, queue as i32, *offset, 32) else { return events };
                    let at = clock.now();
                    for record in &pulled.records {
                        let (offset, message) = (record.queue_offset, message_of(record));
                        events.push(Event::Delivery { consumer: 0, at, queue: queue as u32, offset, message });
                    }
                    is_idle &= pulled.records.is_empty();
                    *offset = pulled.records.last().map_or(*offset, |record| record.queue_offset + 1);
                }
                if is_idle {
                    std::thread::sleep(CONSUMER_PAUSE);
                }
            }
            events
        }))
    }

    /// Sends one message on a connection of its own; its answer, whatever it is.
    pub fn probe(&mut self, addr: &str, queue: i32) -> Outcome<Answer> {
        let message = self.next_message.fetch_add(1, Ordering::Relaxed);
        let (producer, begun) = (self.next_producer, self.clock.now());
        self.next_producer += 1;
        let answer = Conn::open(addr)?.send_raw(&self.topic, queue, "", &body_of(message, 100));
        let outcome = answer.as_ref().map_or(Ok(Told::Unknown), told)?;
        self.acked += u64::from(matches!(outcome, Told::Ok { .. }));
        self.checker.observe(&Event::Send(Send { message, producer, begun, ended: self.clock.now(), outcome }));
        answer
    }

    /// Ends the load and takes what it saw; how many acknowledgements there were.
    pub fn take(&mut self, load: Load) -> Outcome<u64> {
        load.stop.store(true, Ordering::Relaxed);
        let before = self.acked;
        for thread in load.senders.into_iter().chain(load.consumer) {
            for event in thread.join().map_err(|_| "a thread of the load panicked")? {
                if let Event::Send(Send { outcome: Told::Ok { .. }, begun, .. }) = event {
                    self.acked += 1;
                    self.last_acked = self.last_acked.max(begun);
                }
                self.checker.observe(&event);
            }
        }
        Ok(self.acked - before)
    }

    /// Something breaks at `moment`; what was told from `before` before to `after` after it may be lost.
    pub fn fault(&mut self, moment: Instant, before: Duration, after: Duration) {
        let (before, after) = (before.as_nanos() as u64, after.as_nanos() as u64);
        self.checker.observe(&Event::Fault { at: self.clock.at(moment), before, after });
    }

    /// Reads what was not read before, or with `from_start` everything; the number of messages. To be called after each
    /// fault.
    pub fn scan(&mut self, addr: &str, from_start: bool) -> Outcome<usize> {
        let mut conn = Conn::open(addr)?;
        let mut read = 0;
        for queue in 0..self.queues {
            let slot = queue as usize;
            let end = conn.bound(code::GET_MAX_OFFSET, &self.topic, queue)?;
            let from = if from_start { 0 } else { self.verified[slot].min(end) };
            let records = conn.read_queue(&self.topic, queue, from)?;
            let end = from + records.len() as i64;
            let found = records.iter().map(|record| (record.queue_offset, message_of(record))).collect();
            self.checker.observe(&Event::Scan(Scan { at: self.clock.now(), queue: slot as u32, from, end, found }));
            read += records.len();
            self.verified[slot] = end;
        }
        Ok(read)
    }

    /// Scans and fails at the first broken promise.
    pub fn verify(&mut self, addr: &str, from_start: bool) -> Outcome<usize> {
        let read = self.scan(addr, from_start)?;
        clean(self.checker.so_far())?;
        Ok(read)
    }

    /// What is known until now.
    pub fn so_far(&self) -> &Report {
        self.checker.so_far()
    }

    /// The judgement of the whole history.
    pub fn judge(self) -> Report {
        self.checker.finish()
    }

    /// The judgement, which must find nothing.
    pub fn end(self) -> Outcome<Report> {
        let report = self.judge();
        clean(&report)?;
        Ok(report)
    }
}

fn clean(report: &Report) -> Outcome {
    if report.is_clean() { Ok(()) } else { Err(Stop::Failed(report.to_string())) }
}

impl Load {
    /// Acknowledgements so far.
    pub fn acked(&self) -> u64 {
        self.acked.load(Ordering::Relaxed)
    }

    /// Waits for that many acknowledgements.
    pub fn wait(&self, count: u64, limit: Duration) -> Outcome {
        crate::wait_for(limit, format!("{count} acknowledgements"), || Ok((self.acked() >= count).then_some(())))
            .doing(format!("{} so far", self.acked()))
    }

    /// Whether all connections that send have ended.
    pub fn over(&self) -> bool {
        self.senders.iter().all(JoinHandle::is_finished)
    }
}

/// The body of a message: its number, then bytes that follow from it, at most `max_body` in all.
fn body_of(message: u64, max_body: usize) -> Vec<u8> {
    let size = MIN_BODY + (message.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33) as usize % (max_body - MIN_BODY + 1);
    let mut body = message.to_be_bytes().to_vec();
    body.extend((8..size).map(|i| filler(message, i)));
    body
}

fn filler(message: u64, at: usize) -> u8 {
    (message as usize).wrapping_mul(7).wrapping_add(at) as u8
}

/// The number of a message, if its body is as it was sent.
pub fn message_of(record: &Stored) -> Option<u64> {
    let message = record.body.first_chunk::<8>().map(|b| u64::from_be_bytes(*b))?;
    let is_right = record.body.iter().enumerate().skip(8).all(|(i, b)| *b == filler(message, i));
    (is_right && record.body.len() >= MIN_BODY).then_some(message)
}

/// What an answer to a send tells.
fn told(answer: &Answer) -> Outcome<Told> {
    if answer.code == 0 {
        let at = sent(answer)?;
        return Ok(Told::Ok { queue: at.queue as u32, offset: at.offset });
    }
    Ok(if NOT_STORED.contains(&answer.code) { Told::Refused } else { Told::Unknown })
}

/// One connection that sends.
struct Sender {
    conn: Conn,
    topic: String,
    queues: i32,
    producer: u32,
    shape: Shape,
    next_message: Arc<AtomicU64>,
    clock: Clock,
    stop: Arc<AtomicBool>,
    acked: Arc<AtomicU64>,
    /// Messages without an answer, and when they were sent, by opaque.
    flying: HashMap<i32, (u64, u64)>,
    events: Vec<Event>,
}

impl Sender {
    fn run(&mut self) -> Outcome {
        let mut turn = self.producer as i32;
        loop {
            while self.flying.len() < self.shape.in_flight && !self.stop.load(Ordering::Relaxed) {
                turn = turn.wrapping_add(1);
                self.send(turn.rem_euclid(self.queues))?;
            }
            if self.flying.is_empty() {
                return Ok(());
            }
            let answer = self.conn.read()?;
            let (message, begun) = self.flying.remove(&answer.opaque).ok_or("an answer to no request")?;
            let outcome = told(&answer)?;
            self.note(message, begun, outcome);
            if matches!(outcome, Told::Ok { .. }) {
                self.acked.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(self.shape.pause);
            } else {
                std::thread::sleep(REFUSED_PAUSE);
            }
        }
    }

    fn send(&mut self, queue: i32) -> Outcome {
        let message = self.next_message.fetch_add(1, Ordering::Relaxed);
        let (queue, born) = (queue.to_string(), now_ms().to_string());
        let properties = format!("UNIQ_KEY\u{1}C{message:031X}\u{2}WAIT\u{1}true\u{2}");
        let fields = send_fields(&self.topic, &queue, &born, &properties);
        let begun = self.clock.now();
        let opaque = self.conn.begin(code::SEND_MESSAGE_V2, &fields, &body_of(message, self.shape.max_body));
        // A request that was written in part may have arrived.
        let flying = (message, begun);
        self.flying.insert(*opaque.as_ref().unwrap_or(&i32::MIN), flying);
        opaque.map(drop)
    }

    fn note(&mut self, message: u64, begun: u64, outcome: Told) {
        let (producer, ended) = (self.producer, self.clock.now());
        self.events.push(Event::Send(Send { message, producer, begun, ended, outcome }));
    }

    /// All it saw; nobody knows what became of the sends without an answer.
    fn end(mut self) -> Vec<Event> {
        for (message, begun) in std::mem::take(&mut self.flying).into_values() {
            self.note(message, begun, Told::Unknown);
        }
        self.events
    }
}
