//! Load with a ledger: connections that send pipelined messages and note each acknowledgement, so that after any crash
//! the log can be checked against what was promised. One body is sent once only; no client retries behind our back.

use crate::record::Stored;
use crate::wire::{Conn, code, now_ms, send_fields, sent};
use crate::{Outcome, Stop, ensure, ensure_eq};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Requests each connection keeps in flight.
const IN_FLIGHT: usize = 16;

/// What was acknowledged: which message stands at which offset of which queue.
#[derive(Default)]
pub struct Ledger {
    topic: String,
    queues: i32,
    acked: HashMap<(i32, i64), u64>,
    next_id: Arc<AtomicU64>,
    /// Per queue, up to where the log has been read and found right.
    verified: Vec<i64>,
}

/// Load under way.
pub struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Vec<Ack>>>,
}

struct Ack {
    queue: i32,
    offset: i64,
    id: u64,
}

impl Ledger {
    /// An empty ledger for a topic with that many queues.
    pub fn new(topic: &str, queues: i32) -> Ledger {
        Ledger { topic: topic.to_owned(), queues, verified: vec![0; queues as usize], ..Ledger::default() }
    }

    /// How many acknowledgements it holds.
    pub fn len(&self) -> usize {
        self.acked.len()
    }

    pub fn is_empty(&self) -> bool {
        self.acked.is_empty()
    }

    /// Starts connections that send until they are stopped or cut off. Body sizes vary up to `max_body` bytes.
    pub fn load(&self, addr: &str, connections: usize, max_body: usize) -> Outcome<Load> {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut threads = Vec::new();
        for number in 0..connections {
            let mut conn = Conn::open(addr)?;
            let (topic, queues) = (self.topic.clone(), self.queues);
            let (ids, stop, done) = (Arc::clone(&self.next_id), Arc::clone(&stop), Arc::clone(&done));
            threads.push(std::thread::spawn(move || {
                let acks = Mutex::new(Vec::new());
                // An error is the end of the connection: what was acknowledged until then counts.
                let _ = pump(&mut conn, &topic, queues, number as i32, &ids, max_body, &stop, &done, &acks);
                acks.into_inner().unwrap_or_else(PoisonError::into_inner)
            }));
        }
        Ok(Load { stop, done, threads })
    }

    /// A body that no acknowledgement is expected for; the log may hold it.
    pub fn probe(&self) -> Vec<u8> {
        body_of(self.next_id.fetch_add(1, Ordering::Relaxed), 100)
    }

    /// Ends the load and notes its acknowledgements. An offset acknowledged for two messages fails here.
    pub fn take(&mut self, load: Load) -> Outcome<usize> {
        load.stop.store(true, Ordering::Relaxed);
        let mut count = 0;
        for thread in load.threads {
            for ack in thread.join().map_err(|_| "a load thread panicked")? {
                count += 1;
                if let Some(before) = self.acked.insert((ack.queue, ack.offset), ack.id) {
                    return Err(Stop::Failed(format!(
                        "queue {} offset {} was acknowledged for message {before} and again for {}",
                        ack.queue, ack.offset, ack.id
                    )));
                }
            }
        }
        Ok(count)
    }

    /// Reads what was written since the last call and checks it against the ledger; `from_start` reads everything.
    /// Returns the number of records read.
    pub fn verify(&mut self, addr: &str, from_start: bool) -> Outcome<usize> {
        let mut conn = Conn::open(addr)?;
        let mut read = 0;
        let mut seen: HashMap<u64, i64> = HashMap::new();
        for queue in 0..self.queues {
            let from = if from_start { 0 } else { self.verified[queue as usize] };
            let records = conn.read_queue(&self.topic, queue, from)?;
            let end = from + records.len() as i64;
            let promised =
                self.acked.keys().filter(|(q, _)| *q == queue).map(|(_, offset)| offset + 1).max().unwrap_or(0);
            ensure!(end >= promised, "queue {queue} ends at {end}, but offset {} was acknowledged: lost", promised - 1);
            for record in &records {
                let id = id_of(record)?;
                if let Some(expected) = self.acked.get(&(queue, record.queue_offset)) {
                    ensure_eq!(id, *expected, "queue {queue} offset {} holds another message", record.queue_offset);
                }
                if let Some(before) = seen.insert(id, record.queue_offset) {
                    return Err(Stop::Failed(format!(
                        "message {id} stands at queue {queue} offsets {before} and {}",
                        record.queue_offset
                    )));
                }
            }
            read += records.len();
            self.verified[queue as usize] = end;
        }
        Ok(read)
    }

    /// Checks that each acknowledged message of queue 0 stands where it was acknowledged; other messages may stand between.
    pub fn verify_acked(&self, stored: &[Stored]) -> Outcome {
        for ((_, offset), id) in &self.acked {
            let record = usize::try_from(*offset).ok().and_then(|i| stored.get(i));
            let record = record.ok_or_else(|| Stop::Failed(format!("offset {offset} was acknowledged and is lost")))?;
            ensure_eq!(id_of(record)?, *id, "message at offset {offset}");
        }
        Ok(())
    }
}

impl Load {
    /// Acknowledgements so far.
    pub fn acked(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Waits for that many acknowledgements.
    pub fn wait(&self, count: u64, limit: Duration) -> Outcome {
        crate::wait_for(limit, format!("{count} acknowledgements"), || Ok((self.acked() >= count).then_some(())))
    }

    /// Whether all connections have ended.
    pub fn over(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }
}

/// The body of a message: its id, then bytes that follow from it, at most `max_body` in all.
fn body_of(id: u64, max_body: usize) -> Vec<u8> {
    let size = 16 + (id.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33) as usize % (max_body - 15);
    let mut body = id.to_be_bytes().to_vec();
    body.extend((8..size).map(|i| (id as usize).wrapping_mul(7).wrapping_add(i) as u8));
    body
}

fn id_of(record: &Stored) -> Outcome<u64> {
    let id = record.body.first_chunk::<8>().map(|b| u64::from_be_bytes(*b)).ok_or("a body is too short")?;
    let right =
        record.body.iter().enumerate().skip(8).all(|(i, b)| *b == (id as usize).wrapping_mul(7).wrapping_add(i) as u8);
    ensure!(right, "the body of message {id} is damaged");
    Ok(id)
}

#[expect(clippy::too_many_arguments, reason = "one thread's whole state, used once")]
fn pump(
    conn: &mut Conn,
    topic: &str,
    queues: i32,
    number: i32,
    ids: &AtomicU64,
    max_body: usize,
    stop: &AtomicBool,
    done: &AtomicU64,
    acks: &Mutex<Vec<Ack>>,
) -> Outcome {
    let mut flying: HashMap<i32, u64> = HashMap::new();
    let mut turn = number;
    loop {
        while flying.len() < IN_FLIGHT && !stop.load(Ordering::Relaxed) {
            let id = ids.fetch_add(1, Ordering::Relaxed);
            turn += 1;
            let (queue, born) = ((turn % queues).to_string(), now_ms().to_string());
            let properties = format!("UNIQ_KEY\u{1}C{id:031X}\u{2}WAIT\u{1}true\u{2}");
            let opaque = conn.begin(
                code::SEND_MESSAGE_V2,
                &send_fields(topic, &queue, &born, &properties),
                &body_of(id, max_body),
            )?;
            flying.insert(opaque, id);
        }
        if flying.is_empty() {
            return Ok(());
        }
        let answer = conn.read()?;
        let id = flying.remove(&answer.opaque).ok_or("an answer to no request")?;
        if answer.code == 0 {
            let at = sent(&answer)?;
            acks.lock().unwrap_or_else(PoisonError::into_inner).push(Ack { queue: at.queue, offset: at.offset, id });
            done.fetch_add(1, Ordering::Relaxed);
        } else {
            // Refused: nothing promised. A broker that refuses everything must not be asked in a tight loop.
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
