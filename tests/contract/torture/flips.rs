//! Bits that flip on the disk: in every closed file of the store, at random places. `check-store` reports each one that the
//! formats can show, and a broker on such a store delivers no wrong body, and everything that is not damaged.

use ferromq_contract::cluster::Cluster;
use ferromq_contract::load::{Shape, Workload, message_of};
use ferromq_contract::record::Stored;
use ferromq_contract::runner::{Case, Lab};
use ferromq_contract::server::Broker;
use ferromq_contract::{Dice, Outcome, While, ensure, scale};
use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

pub fn cases() -> Vec<Case> {
    vec![
        Case::alone("flips::are_reported", are_reported),
        Case::alone("flips::deliver_nothing_wrong", deliver_nothing_wrong),
    ]
}

const QUEUES: i32 = 2;
const MESSAGES: u64 = 6000;
/// Small files, so that most are closed.
const SETTINGS: [(&str, &str); 4] = [
    ("mappedFileSizeCommitLog", "524288"),
    ("mappedFileSizeConsumeQueue", "20000"),
    ("maxHashSlotNum", "400"),
    ("maxIndexNum", "2000"),
];
/// Flips of one broker's store at a time.
const OF_A_ROUND: u64 = 30;
/// Bytes of one consume queue entry.
const ENTRY: u64 = 20;

/// A stopped store and what is in it.
struct Sample {
    broker: Broker,
    topic: String,
    /// By queue and offset.
    records: Vec<Vec<Stored>>,
    /// Closed files with their lengths: of the log, of the queues, of the index.
    files: [Vec<(PathBuf, u64)>; 3],
    dice: Dice,
}

/// A flipped bit.
struct Flip {
    file: PathBuf,
    at: u64,
    bit: u8,
}

impl Flip {
    /// Flips it, or back.
    fn apply(&self) -> Outcome {
        let file = OpenOptions::new().read(true).write(true).open(&self.file)?;
        let mut byte = [0];
        file.read_exact_at(&mut byte, self.at)?;
        file.write_all_at(&[byte[0] ^ 1 << self.bit], self.at)?;
        Ok(())
    }
}

impl Sample {
    fn new(lab: &Lab) -> Outcome<(Cluster, Sample)> {
        let mut cluster = Cluster::start(&lab.tools, lab.make, &lab.folder("flips")?, &SETTINGS)?;
        let topic = lab.name("flips");
        cluster.create_topic(&topic, QUEUES as u32)?;
        let mut workload = Workload::new(&topic, QUEUES);
        let load = workload.start(&cluster.broker.addr(), Shape::new(2, 800))?;
        load.wait(MESSAGES, Duration::from_secs(30))?;
        workload.take(load)?;
        workload.verify(&cluster.broker.addr(), true)?;
        workload.end()?;
        let mut conn = cluster.broker.conn()?;
        let records = (0..QUEUES).map(|queue| conn.read_queue(&topic, queue, 0)).collect::<Outcome<Vec<_>>>()?;
        cluster.broker.stop()?;
        let store = cluster.broker.store();
        let mut queues = Vec::new();
        for queue in 0..QUEUES {
            queues.extend(closed(&store.join(format!("consumequeue/{topic}/{queue}")))?);
        }
        let files = [closed(&store.join("commitlog"))?, queues, closed(&store.join("index"))?];
        ensure!(files.iter().all(|kind| !kind.is_empty()), "a kind of file has no closed one: {files:?}");
        let broker = Broker::new(lab.make, &cluster.broker.folder, "broker-a", &cluster.namesrv.addr);
        let settings = SETTINGS.iter().fold(broker, |broker, (key, value)| broker.set(key, value));
        Ok((cluster, Sample { broker: settings, topic, records, files, dice: Dice(0x000F_11B5) }))
    }

    /// A random bit of a random closed file: six of ten in the log, three in a queue, one in the index.
    fn flip(&mut self) -> Flip {
        let kind = [0, 0, 0, 0, 0, 0, 1, 1, 1, 2][self.dice.below(10) as usize];
        let of_kind = &self.files[kind];
        let (file, len) = of_kind[self.dice.below(of_kind.len() as u64) as usize].clone();
        Flip { file, at: self.dice.below(len), bit: self.dice.below(8) as u8 }
    }

    /// The record of the log that has this byte, and the byte's place in it.
    fn record_at(&self, flip: &Flip) -> Option<(&Stored, usize)> {
        if !flip.file.parent()?.ends_with("commitlog") {
            return None;
        }
        let position = start_of(&flip.file)? + flip.at;
        let has = |record: &&Stored| {
            let from = record.physical_offset as u64;
            (from..from + record.raw.len() as u64).contains(&position)
        };
        let record = self.records.iter().flatten().find(has)?;
        Some((record, (position - record.physical_offset as u64) as usize))
    }

    /// Queue and offset of the message that the flip is about; `None` in the index and between records.
    fn message_of(&self, flip: &Flip) -> Option<(i32, i64)> {
        if let Some((record, _)) = self.record_at(flip) {
            return Some((record.queue_id, record.queue_offset));
        }
        let queue = flip.file.parent()?;
        let is_queue = queue.parent()?.file_name()?.to_str()? == self.topic;
        let offset = (start_of(&flip.file)? + flip.at) / ENTRY;
        is_queue.then_some((queue.file_name()?.to_str()?.parse().ok()?, offset as i64))
    }

    /// Whether the formats can show the flip. A record's CRC is that of its body; nothing guards its flag, system flag,
    /// times, hosts, properties; what stands behind the last record of a file means nothing; and the end of an index file
    /// is known to the second.
    fn can_be_seen(&self, flip: &Flip) -> bool {
        let is_in = |name| flip.file.parent().is_some_and(|folder| folder.ends_with(name));
        if is_in("index") {
            return !matches!(flip.at, 14 | 15);
        }
        let Some((record, at)) = self.record_at(flip) else { return !is_in("commitlog") };
        let body = 88 + record.body.len();
        let topic = body + 1 + record.topic.len();
        matches!(at, 0..16 | 20..36 | 84..88) || (88..topic).contains(&at)
    }
}

/// Position of a file's first byte, by its name.
fn start_of(file: &Path) -> Option<u64> {
    file.file_name()?.to_str()?.parse().ok()
}

/// The files of a folder, without the last.
fn closed(folder: &Path) -> Outcome<Vec<(PathBuf, u64)>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).doing(folder.display())? {
        let entry = entry?;
        files.push((entry.path(), entry.metadata()?.len()));
    }
    files.sort();
    files.pop();
    Ok(files)
}

/// `FERROMQ_BIT_FLIPS` sets the number of flips. One at a time; `check-store` must tell it.
fn are_reported(lab: &Lab) -> Outcome {
    let count = scale("FERROMQ_BIT_FLIPS", 300);
    let (_cluster, mut sample) = Sample::new(lab)?;
    ensure!(!is_damaged(lab, &sample.broker)?, "check-store finds damage in a sound store");
    let (mut reported, mut unseen) = (0, 0);
    for n in 0..count {
        let flip = sample.flip();
        flip.apply()?;
        let told = is_damaged(lab, &sample.broker)?;
        flip.apply()?;
        reported += u64::from(told);
        if !told {
            let place = format!("bit {} of byte {} of {}", flip.bit, flip.at, flip.file.display());
            ensure!(!sample.can_be_seen(&flip), "flip {n}: check-store does not report {place}");
            unseen += 1;
        }
    }
    lab.row(
        "bit flips, check-store",
        format!("{count} flips in closed files"),
        format!("{reported} reported, {unseen} in bytes that no checksum or other file covers"),
    );
    Ok(())
}

fn is_damaged(lab: &Lab, broker: &Broker) -> Outcome<bool> {
    let mut command = Command::new(lab.tools.ferromq()?);
    command.arg("check-store").arg(broker.store()).arg("-c").arg(broker.folder.join("broker.conf"));
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status()?;
    match status.code() {
        Some(0) => Ok(false),
        Some(1 | 2) => Ok(true),
        _ => Err(format!("check-store ended with {status}").into()),
    }
}

/// Many at a time; then a broker serves the store.
fn deliver_nothing_wrong(lab: &Lab) -> Outcome {
    let count = scale("FERROMQ_BIT_FLIPS", 300);
    let (_cluster, mut sample) = Sample::new(lab)?;
    let store = sample.broker.store();
    let sound = store.with_file_name("sound");
    std::fs::rename(&store, &sound)?;
    let (mut done, mut delivered, mut missing) = (0, 0, 0);
    while done < count {
        let flips: Vec<Flip> = (0..OF_A_ROUND.min(count - done)).map(|_| sample.flip()).collect();
        done += flips.len() as u64;
        copy(&sound, &store)?;
        flips.iter().try_for_each(Flip::apply)?;
        let damaged: BTreeSet<(i32, i64)> = flips.iter().filter_map(|flip| sample.message_of(flip)).collect();
        sample.broker.start(&lab.tools).doing(format!("starting after {done} flips"))?;
        for queue in 0..QUEUES {
            let found = read(&sample.broker, &sample.topic, queue)?;
            let expected = &sample.records[queue as usize];
            delivered += found.len();
            for record in &found {
                let right = expected.get(record.queue_offset as usize);
                let is_right = right.is_some_and(|right| right.body == record.body) && message_of(record).is_some();
                ensure!(is_right, "queue {queue} offset {}: a wrong body is delivered", record.queue_offset);
            }
            let offsets: BTreeSet<i64> = found.iter().map(|record| record.queue_offset).collect();
            for offset in (0..expected.len() as i64).filter(|offset| !offsets.contains(offset)) {
                ensure!(
                    damaged.contains(&(queue, offset)),
                    "queue {queue} offset {offset} is not damaged, and missing"
                );
                missing += 1;
            }
        }
        sample.broker.kill();
        std::fs::remove_dir_all(&store)?;
    }
    lab.row(
        "bit flips, delivery",
        format!("{count} flips in closed files, {delivered} messages read"),
        format!("0 wrong bodies; {missing} damaged messages passed over, all others delivered"),
    );
    Ok(())
}

/// All that a queue gives; what cannot be read is passed over as the broker says.
fn read(broker: &Broker, topic: &str, queue: i32) -> Outcome<Vec<Stored>> {
    let mut conn = broker.conn()?;
    let (mut all, mut next) = (Vec::new(), 0);
    loop {
        let pulled = conn.pull(topic, queue, next, 32).doing(format!("queue {queue} from {next}"))?;
        let before = next;
        next = pulled.records.last().map_or(pulled.next, |last| (last.queue_offset + 1).max(pulled.next));
        all.extend(pulled.records);
        if next >= pulled.max {
            return Ok(all);
        }
        ensure!(next > before, "queue {queue} does not go on at {before}: code {}", pulled.code);
    }
}

fn copy(from: &Path, to: &Path) -> Outcome {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}
