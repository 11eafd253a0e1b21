//! What must not grow with the store: the restart after a kill, whatever the length of the log, and what a message, a
//! start and the memory cost with very many queues; and how fast queues and index are built again from the log.

use crate::verdict;
use ferromq_contract::cluster::Cluster;
use ferromq_contract::flood::{Message, Width, flood};
use ferromq_contract::runner::{Case, Lab};
use ferromq_contract::server::{Broker, Process, START_LIMIT};
use ferromq_contract::wire::code;
use ferromq_contract::{Outcome, Stop, While, ensure, ensure_eq, scale, wait_for};
use rustix::fs::{Advice, fadvise, statvfs};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub fn cases() -> Vec<Case> {
    vec![
        Case::alone("growth::restart_of_a_long_log", restarts),
        Case::alone("growth::rebuild_of_queues_and_index", rebuild),
        Case::alone("growth::many_queues", many_queues),
    ]
}

const GIB: u64 = 1 << 30;
/// Lengths of the log, GiB, after which a broker is killed and started.
const LENGTHS: [u64; 3] = [1, 10, 50];
/// What a store needs beside its log, GiB: files allocated ahead, queues, index; and a tenth of the log.
const BESIDE: u64 = 3;
/// As brokers are shipped.
const LOG_FILE: (&str, &str) = ("mappedFileSizeCommitLog", "1073741824");
/// Nothing is to be deleted because the disk of the machine is full of something else.
const DISK: (&str, &str) = ("diskMaxUsedSpaceRatio", "95");
const WIDTH: Width = Width { connections: 4, under_way: 64 };
/// Bytes of a body; its record has 150 to 200 more.
const BODY: usize = 1024;
/// Messages between two looks at the length of the log.
const STEP: usize = 100_000;
/// The longest wait for a rebuild.
const REBUILD_LIMIT: Duration = Duration::from_secs(300);

/// A message of a load over the queues of one topic.
fn message(topic: &str, queue: i32, number: usize) -> Message {
    Message {
        topic: topic.to_owned(),
        queue,
        properties: format!("UNIQ_KEY\u{1}{number:032X}\u{2}"),
        body: vec![number as u8; BODY],
    }
}

/// Adds messages until the log has so many bytes; how many messages there are then.
fn fill(broker: &Broker, topic: &str, queues: i32, mut sent: usize, bytes: u64) -> Outcome<usize> {
    let mut conn = broker.conn()?;
    loop {
        let last = conn.bound(code::GET_MAX_OFFSET, topic, 0)?;
        let pulled = conn.pull(topic, 0, (last - 1).max(0), 1)?;
        let end = pulled.records.last().map_or(0, |record| record.physical_offset as u64);
        if end >= bytes {
            return Ok(sent);
        }
        flood(&broker.addr(), WIDTH, sent..sent + STEP, |n| message(topic, n as i32 % queues, n))?;
        sent += STEP;
    }
}

/// Fails unless the queues of a topic have that many messages, all that was acknowledged.
fn complete(broker: &Broker, topic: &str, queues: i32, sent: usize) -> Outcome {
    ensure_eq!(stored(broker, topic, queues)?, sent as i64, "messages of {topic}");
    Ok(())
}

fn stored(broker: &Broker, topic: &str, queues: i32) -> Outcome<i64> {
    let mut conn = broker.conn()?;
    (0..queues).map(|queue| conn.bound(code::GET_MAX_OFFSET, topic, queue)).sum()
}

/// Kills the broker and starts it again; the time from there to the first acknowledged send.
fn restart(lab: &Lab, broker: &mut Broker, topic: &str) -> Outcome<Duration> {
    broker.kill();
    let began = Instant::now();
    broker.launch(&lab.tools)?;
    wait_for(START_LIMIT, "the first acknowledged send", || {
        ensure!(broker.alive(), "the broker ended:\n{}", broker.log_tail());
        Ok(broker.conn().and_then(|mut conn| conn.send(topic, 0, "", b"the first")).ok())
    })?;
    Ok(began.elapsed())
}

/// Whether so many more GiB of log, and what belongs to it, have room below a folder; else a row says so.
fn has_room(lab: &Lab, what: &str, folder: &Path, log: u64) -> Outcome<bool> {
    let volume = statvfs(folder).map_err(|error| Stop::Failed(format!("{}: {error}", folder.display())))?;
    let (free, needed) = (volume.f_bavail * volume.f_frsize / GIB, log + log / 10 + BESIDE);
    if free < needed {
        lab.row(what, "not run".to_owned(), format!("no room: needs {needed} GiB more, {free} GiB are free"));
    }
    Ok(free >= needed)
}

/// `FERROMQ_LOG_GIB` is the longest log.
fn restarts(lab: &Lab) -> Outcome {
    const QUEUES: i32 = 8;
    let longest = scale("FERROMQ_LOG_GIB", 0);
    asked(longest)?;
    let folder = lab.folder("restart")?;
    let mut cluster = Cluster::start(&lab.tools, lab.make, &folder, &[LOG_FILE, DISK])?;
    let topic = lab.name("long");
    cluster.create_topic(&topic, QUEUES as u32)?;
    let (mut sent, mut done, mut slowest, mut fastest) = (0, 0, Duration::ZERO, Duration::MAX);
    for length in LENGTHS.into_iter().filter(|length| *length <= longest) {
        let what = format!("restart after kill -9, {length} GiB of log");
        if !has_room(lab, &what, &folder, length - done)? {
            continue;
        }
        sent = fill(&cluster.broker, &topic, QUEUES, sent, length * GIB).doing(&what)?;
        done = length;
        let took = restart(lab, &mut cluster.broker, &topic).doing(&what)?;
        sent += 1;
        complete(&cluster.broker, &topic, QUEUES, sent).doing(&what)?;
        (slowest, fastest) = (slowest.max(took), fastest.min(took));
        let verdict = verdict("<= 2 s", took <= Duration::from_secs(2));
        let flat = slowest.as_secs_f64() / fastest.as_secs_f64();
        let result =
            format!("first acknowledged send after {took:.2?}, {verdict}; slowest is {flat:.1} x fastest; 0 lost");
        lab.row(&what, format!("{sent} messages"), result);
    }
    cluster.broker.stop()
}

/// Ignores a case of which nothing is asked.
pub fn asked(size: u64) -> Outcome {
    if size == 0 { Err(Stop::Skipped("a matter of minutes: cargo xtask torture".to_owned())) } else { Ok(()) }
}

/// The files of a stopped broker's log.
fn log_files(broker: &Broker) -> Outcome<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(broker.store().join("commitlog"))? {
        files.push(entry?.path());
    }
    files.sort();
    Ok(files)
}

/// Lets the kernel forget what it has of files.
fn forget(files: &[PathBuf]) -> Outcome {
    for path in files {
        let file = File::open(path)?;
        file.sync_all()?;
        fadvise(&file, 0, None, Advice::DontNeed).map_err(std::io::Error::from)?;
    }
    Ok(())
}

/// Seconds that the first `bytes` of the files take to be read once from the disk.
fn read_raw(files: &[PathBuf], bytes: u64) -> Outcome<f64> {
    forget(files)?;
    let (began, mut left, mut buffer) = (Instant::now(), bytes, vec![0; 1 << 20]);
    for path in files {
        let mut file = File::open(path)?.take(left);
        loop {
            let read = file.read(&mut buffer)? as u64;
            left -= read;
            if read == 0 {
                break;
            }
        }
    }
    Ok(began.elapsed().as_secs_f64())
}

/// A broker whose queues and index were removed builds them from a log of `FERROMQ_REBUILD_GIB`.
fn rebuild(lab: &Lab) -> Outcome {
    const QUEUES: i32 = 64;
    let length = scale("FERROMQ_REBUILD_GIB", 0);
    asked(length)?;
    let folder = lab.folder("rebuild")?;
    let what = "rebuild of queues and index";
    if !has_room(lab, what, &folder, length)? {
        return Ok(());
    }
    let mut cluster = Cluster::start(&lab.tools, lab.make, &folder, &[LOG_FILE, DISK])?;
    let topic = lab.name("rebuilt");
    cluster.create_topic(&topic, QUEUES as u32)?;
    let sent = fill(&cluster.broker, &topic, QUEUES, 0, length * GIB)?;
    let broker = &mut cluster.broker;
    broker.stop()?;
    for derived in ["consumequeue", "index"] {
        std::fs::remove_dir_all(broker.store().join(derived))?;
    }
    let files = log_files(broker)?;
    let raw = read_raw(&files, length * GIB)?;
    forget(&files)?;
    let began = Instant::now();
    broker.start(&lab.tools)?;
    wait_for(REBUILD_LIMIT, "all messages in their queues", || {
        Ok((stored(broker, &topic, QUEUES)? == sent as i64).then_some(()))
    })?;
    let took = began.elapsed().as_secs_f64() / length as f64;
    let cpu = broker.process.as_ref().map_or(Ok(Duration::ZERO), Process::cpu)?;
    let (cpu, raw) = (cpu.as_secs_f64() / length as f64, raw / length as f64);
    lab.row(
        what,
        format!("{length} GiB, {sent} messages, {QUEUES} queues"),
        format!(
            "{cpu:.2} CPU s and {took:.2} s for a GiB, reading alone {raw:.2} s, {}; 0 lost",
            verdict("<= 1 CPU s, or as fast as reading", cpu <= 1.0 || took * 0.9 <= raw)
        ),
    );
    broker.stop()
}

/// `FERROMQ_QUEUES` queues beside 8: what a message costs, the memory, the restart.
fn many_queues(lab: &Lab) -> Outcome {
    const FEW: i32 = 8;
    const OF_A_TOPIC: usize = 100;
    const MESSAGES: usize = 1_000_000;
    let count = scale("FERROMQ_QUEUES", 0) as usize / OF_A_TOPIC * OF_A_TOPIC;
    asked(count as u64)?;
    let folder = lab.folder("queues")?;
    // Each message has a record of its own, and each queue a page.
    if !has_room(lab, "many queues", &folder, ((3 * MESSAGES + count) * 2 * BODY) as u64 / GIB)? {
        return Ok(());
    }
    let mut cluster = Cluster::start(&lab.tools, lab.make, &folder, &[LOG_FILE, DISK])?;
    let (few, many) = (lab.name("few"), lab.name("many"));
    cluster.create_topic(&few, FEW as u32)?;
    let mut conn = cluster.broker.conn()?;
    for topic in 0..count / OF_A_TOPIC {
        conn.create_topic(&format!("{many}-{topic}"), OF_A_TOPIC as u32)?;
    }
    let of_few = |n: usize| message(&few, n as i32 % FEW, n);
    let of_many = |n: usize| {
        let queue = n % count;
        message(&format!("{many}-{}", queue / OF_A_TOPIC), (queue % OF_A_TOPIC) as i32, n)
    };
    let addr = cluster.broker.addr();
    let process = cluster.broker.process.as_ref().ok_or("the broker does not run")?;
    // The first message of a queue makes its files.
    flood(&addr, WIDTH, 0..count, of_many)?;
    flood(&addr, WIDTH, 0..MESSAGES / 2, of_few)?;
    let start = process.cpu()?;
    flood(&addr, WIDTH, 0..MESSAGES, of_few)?;
    let between = process.cpu()?;
    flood(&addr, WIDTH, 0..MESSAGES, of_many)?;
    let end = process.cpu()?;
    let memory = process.memory() >> 20;
    let micros = |cpu: Duration| cpu.as_secs_f64() * 1e6 / MESSAGES as f64;
    let (cost_few, cost_many) = (micros(between - start), micros(end - between));
    let ratio = cost_many / cost_few.max(0.001);
    let took = restart(lab, &mut cluster.broker, &format!("{many}-0"))?;
    let mut found = 0;
    for topic in 0..count / OF_A_TOPIC {
        found += stored(&cluster.broker, &format!("{many}-{topic}"), OF_A_TOPIC as i32)?;
    }
    ensure_eq!(found, (count + MESSAGES + 1) as i64, "messages of {count} queues after the kill");
    complete(&cluster.broker, &few, FEW, MESSAGES / 2 + MESSAGES)?;
    let size = || format!("{count} queues");
    lab.row("many queues: memory", size(), format!("{memory} MiB, {}", verdict("<= 300 MiB", memory <= 300)));
    let cpu = format!("{cost_many:.1} us of CPU, {cost_few:.1} us with {FEW} queues: {ratio:.2} x");
    lab.row("many queues: a message", size(), format!("{cpu}, {}", verdict("<= 1.5 x", ratio <= 1.5)));
    let start = format!("first acknowledged send after {took:.2?}");
    let is_met = took <= Duration::from_secs(5);
    lab.row("many queues: restart after kill -9", size(), format!("{start}, {}; 0 lost", verdict("<= 5 s", is_met)));
    cluster.broker.stop()
}
