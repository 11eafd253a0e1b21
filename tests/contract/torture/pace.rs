//! What safety costs: SYNC_FLUSH beside the disk's own rate and beside a Java broker, and the CRC of what is read.

use crate::growth::asked;
use crate::verdict;
use ferromq_contract::cluster::Cluster;
use ferromq_contract::flood::{Message, Width, flood};
use ferromq_contract::inject::count_syncs;
use ferromq_contract::runner::{Case, Lab};
use ferromq_contract::server::Make;
use ferromq_contract::{Outcome, ensure, scale};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::time::{ClockId, clock_gettime};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub fn cases() -> Vec<Case> {
    vec![Case::alone("pace::sync_flush", sync_flush), Case::alone("pace::crc_of_what_is_read", crc_of_what_is_read)]
}

const BODY: usize = 1024;
const QUEUES: i32 = 8;
/// Each waits for its answer before it sends again.
const SENDERS: Width = Width { connections: 64, under_way: 1 };
/// How long the disk alone is measured each time.
const RAW: Duration = Duration::from_secs(3);
/// The file it is measured with.
const RAW_BYTES: u64 = 256 << 20;

fn message(topic: &str, number: usize) -> Message {
    let properties = format!("UNIQ_KEY\u{1}{number:032X}\u{2}");
    Message { topic: topic.to_owned(), queue: number as i32 % QUEUES, properties, body: vec![number as u8; BODY] }
}

/// A broker under SYNC_FLUSH.
struct Syncing {
    cluster: Cluster,
    topic: String,
    folder: PathBuf,
}

impl Syncing {
    /// It has taken `count` messages: a JVM compiles what runs often.
    fn warm(lab: &Lab, make: Make, count: usize) -> Outcome<Syncing> {
        let folder = lab.folder("sync")?;
        let cluster = Cluster::start(&lab.tools, make, &folder, &[("flushDiskType", "SYNC_FLUSH")])?;
        let topic = lab.name("sync");
        cluster.create_topic(&topic, QUEUES as u32)?;
        let broker = Syncing { cluster, topic, folder };
        broker.send(count)?;
        Ok(broker)
    }

    fn send(&self, count: usize) -> Outcome {
        flood(&self.cluster.broker.addr(), SENDERS, 0..count, |n| message(&self.topic, n))
    }

    /// Messages per second over `count` of them.
    fn rate(&self, count: usize) -> Outcome<f64> {
        let began = Instant::now();
        self.send(count)?;
        Ok(count as f64 / began.elapsed().as_secs_f64())
    }

    /// How many of `count` messages one sync of our log takes.
    fn batch(&self, count: usize) -> Outcome<f64> {
        let pid = self.cluster.broker.process.as_ref().map_or(0, |process| process.pid());
        let syncs = count_syncs(pid, "store-flush", &self.folder.join("strace.log"), || self.send(count))?;
        ensure!(syncs > 0, "no sync of the log for {count} messages");
        Ok(count as f64 / syncs as f64)
    }

    /// Bytes of a stored record.
    fn record(&self) -> Outcome<usize> {
        let pulled = self.cluster.broker.conn()?.pull(&self.topic, 0, 0, 1)?;
        Ok(pulled.records.first().map_or(BODY, |found| found.raw.len()))
    }
}

/// Syncs per second that the disk makes of writes of so many bytes, one after the other, to an allocated file.
fn raw_rate(folder: &Path, bytes: usize) -> Outcome<f64> {
    let file = File::create(folder.join("raw"))?;
    fallocate(&file, FallocateFlags::empty(), 0, RAW_BYTES).map_err(std::io::Error::from)?;
    file.sync_all()?;
    let buffer = vec![1; bytes];
    let (began, mut syncs) = (Instant::now(), 0u64);
    while began.elapsed() < RAW {
        file.write_all_at(&buffer, syncs * bytes as u64 % (RAW_BYTES - bytes as u64))?;
        file.sync_data()?;
        syncs += 1;
    }
    Ok(syncs as f64 / began.elapsed().as_secs_f64())
}

/// Messages per second that a group commit gives to as many threads of one process, without a network and a protocol: each
/// puts `bytes` into a common buffer and waits, one thread more writes and syncs what has gathered.
fn raw_group_commit(folder: &Path, bytes: usize) -> Outcome<f64> {
    let file = File::create(folder.join("group"))?;
    fallocate(&file, FallocateFlags::empty(), 0, RAW_BYTES).map_err(std::io::Error::from)?;
    file.sync_all()?;
    let group = Group::default();
    let began = Instant::now();
    let done = std::thread::scope(|scope| {
        let flusher = scope.spawn(|| group.flush(&file, began + RAW));
        (0..SENDERS.connections).for_each(|_| drop(scope.spawn(|| group.send(&vec![1; bytes]))));
        flusher.join().map_err(|_| "the flushing thread panicked")
    })??;
    Ok(done as f64 / began.elapsed().as_secs_f64())
}

/// Threads that commit together.
#[derive(Default)]
struct Group {
    state: Mutex<Gathered>,
    work: Condvar,
    durable: Condvar,
}

#[derive(Default)]
struct Gathered {
    buffer: Vec<u8>,
    /// How many messages were put into the buffer so far, and how many of them are durable.
    sent: u64,
    done: u64,
    ended: bool,
}

impl Group {
    fn send(&self, message: &[u8]) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while !state.ended {
            state.buffer.extend_from_slice(message);
            state.sent += 1;
            let mine = state.sent;
            self.work.notify_one();
            let is_waiting = |state: &mut Gathered| state.done < mine && !state.ended;
            state = self.durable.wait_while(state, is_waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Until the time is over; how many messages became durable.
    fn flush(&self, file: &File, end: Instant) -> Outcome<u64> {
        let (mut spare, mut at) = (Vec::new(), 0);
        loop {
            let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let mut state =
                self.work.wait_while(state, |s| s.buffer.is_empty()).unwrap_or_else(PoisonError::into_inner);
            let buffer = std::mem::replace(&mut state.buffer, spare);
            let sent = state.sent;
            drop(state);
            let synced = file.write_all_at(&buffer, at).and_then(|()| file.sync_data());
            at = (at + buffer.len() as u64) % (RAW_BYTES / 2);
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.done = sent;
            state.ended = synced.is_err() || Instant::now() >= end;
            self.durable.notify_all();
            if state.ended {
                return Ok(synced.map(|()| sent)?);
            }
            spare = buffer;
            spare.clear();
        }
    }
}

/// Ticks that all processors have spent, and those among them with nothing to do.
fn ticks() -> Outcome<(u64, u64)> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    // user, nice, system, idle, iowait, irq, softirq, steal
    let first = stat.lines().next().unwrap_or_default();
    let fields: Vec<u64> = first.split_whitespace().skip(1).take(8).filter_map(|field| field.parse().ok()).collect();
    Ok((fields.iter().sum(), fields.iter().skip(3).take(2).sum()))
}

/// `FERROMQ_SYNC_SENDS` messages to ours, the disk alone before and after it, and a tenth of them to the Java broker.
fn sync_flush(lab: &Lab) -> Outcome {
    let count = scale("FERROMQ_SYNC_SENDS", 0) as usize;
    asked(count as u64)?;
    let folder = lab.folder("raw")?;
    let mut broker = Syncing::warm(lab, Make::Ferro, count / 10)?;
    let batch = broker.batch(count / 4)?;
    let record = broker.record()?;
    let bytes = (batch * record as f64) as usize;
    let before = raw_rate(&folder, bytes)?;
    let start = ticks()?;
    let ours = broker.rate(count)?;
    let end = ticks()?;
    let busy = 1.0 - (end.1 - start.1) as f64 / (end.0 - start.0).max(1) as f64;
    let after = raw_rate(&folder, bytes)?;
    let threads = raw_group_commit(&folder, record)?;
    broker.cluster.broker.stop()?;
    let mut broker = Syncing::warm(lab, Make::Java, count / 20)?;
    let java = broker.rate(count / 10)?;
    broker.cluster.broker.stop()?;
    let raw = (before + after) / 2.0 * batch;
    let (of_raw, of_java) = (ours / raw, ours / java);
    let width = format!("{count} messages, {} senders", SENDERS.connections);
    let share = format!("{ours:.0}/s, the disk alone {raw:.0}/s in batches of {batch:.1}: {:.0} %", of_raw * 100.0);
    let share = format!("{share}, the processors {:.0} % busy", busy * 100.0);
    lab.row("SYNC_FLUSH and the disk", width.clone(), format!("{share}, {}", verdict(">= 80 %", of_raw >= 0.8)));
    let of_threads = ours / threads;
    let share = format!("{ours:.0}/s, threads of one process {threads:.0}/s: {:.0} %", of_threads * 100.0);
    lab.row("SYNC_FLUSH and a group commit without a network", width.clone(), share);
    let times = format!("{ours:.0}/s, Java 5.5.0 {java:.0}/s: {of_java:.2} x");
    lab.row("SYNC_FLUSH and Java", width, format!("{times}, {}", verdict(">= 1.5 x", of_java >= 1.5)));
    Ok(())
}

/// CPU time of this thread.
fn own_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// A catch-up pull of `FERROMQ_PULL_MESSAGES`: the broker's CPU, and that of the CRC of all bodies, computed here.
fn crc_of_what_is_read(lab: &Lab) -> Outcome {
    let count = scale("FERROMQ_PULL_MESSAGES", 0) as usize;
    asked(count as u64)?;
    let mut cluster = Cluster::start(&lab.tools, lab.make, &lab.folder("crc")?, &[])?;
    let topic = lab.name("crc");
    cluster.create_topic(&topic, QUEUES as u32)?;
    flood(&cluster.broker.addr(), Width { connections: 4, under_way: 64 }, 0..count, |n| message(&topic, n))?;
    let mut conn = cluster.broker.conn()?;
    let process = cluster.broker.process.as_ref().ok_or("the broker does not run")?;
    let before = process.cpu()?;
    let (mut crc, mut read) = (Duration::ZERO, 0);
    for queue in 0..QUEUES {
        let mut next = 0;
        loop {
            let pulled = conn.pull(&topic, queue, next, 32)?;
            if pulled.records.is_empty() {
                break;
            }
            let began = own_cpu();
            for record in &pulled.records {
                std::hint::black_box(crc32fast::hash(&record.body));
            }
            crc += own_cpu() - began;
            (next, read) = (pulled.next, read + pulled.records.len());
        }
    }
    let cpu = process.cpu()? - before;
    ensure!(read == count, "{read} messages read of {count}");
    let share = crc.as_secs_f64() / cpu.as_secs_f64().max(0.01);
    lab.row(
        "CRC of a catch-up pull",
        format!("{count} messages, bodies of {BODY} bytes"),
        format!("{crc:.2?} of {cpu:.2?} of CPU: {:.1} %, {}", share * 100.0, verdict("<= 10 %", share <= 0.1)),
    );
    cluster.broker.stop()
}
