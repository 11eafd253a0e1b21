//! A recorded run of a broker: what clients asked for, what they were told, and what the disk got meanwhile.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferromq_broker::{Broker, BrokerConfig};
use ferromq_common::clock;
use ferromq_protocol::Text;
use ferromq_protocol::code::request;
use ferromq_remoting::{Client, ClientConfig};
use ferromq_store::{Event, Faults, FlushMode, StoreConfig};

use crate::client::{self, Message};
use crate::disk::Dice;
use crate::producer::{self, COMMIT, Checks, Half, ROLLBACK};
use crate::support::*;

/// Messages that are popped, those of transactions, and those that are delivered later.
pub const JOBS: &str = "Jobs";
pub const ORDERS: &str = "Orders";
pub const LATER: &str = "Later";
pub const QUEUES: i32 = 2;
/// How long popped messages are invisible, and how much of it may be over when one is acknowledged, milliseconds: later,
/// it may come back although it was acknowledged.
const INVISIBLE: i64 = 1500;
const ACKNOWLEDGED_WITHIN: i64 = 900;

/// When a request was begun, answered, and on the disk, each as a number of events of the recording.
#[derive(Clone, Debug)]
pub struct Told {
    pub begun: usize,
    pub answered: usize,
    pub durable: Option<usize>,
    /// The log's end when it was answered.
    position: u64,
}

/// A message that is popped.
pub struct Job {
    pub queue: i32,
    pub offset: i64,
    pub told: Told,
    /// Whether it was ever acknowledged, and when the answer came in time.
    pub acknowledged: Option<Told>,
}

pub struct Transaction {
    pub half: Half,
    pub told: Told,
    /// [`COMMIT`] or [`ROLLBACK`].
    pub end: Option<(i32, Told)>,
}

pub struct Delayed {
    /// Not to be delivered before, milliseconds since 1970.
    pub due: i64,
    pub told: Told,
}

/// The files of the `config` folder by name.
pub type Tables = BTreeMap<String, Vec<u8>>;

#[derive(Default)]
pub struct Run {
    pub events: Vec<Event>,
    /// The topics were made when so many events were done.
    pub first: usize,
    pub jobs: Vec<Job>,
    pub transactions: Vec<Transaction>,
    pub delayed: Vec<Delayed>,
    /// The tables as they were when so many events were done. Each was forced to the disk before the next began.
    pub tables: Vec<(usize, Tables)>,
    pub sync: bool,
}

pub fn broker_config() -> BrokerConfig {
    BrokerConfig {
        timer_precision_ms: 20,
        timer_roll_window_slot: 20,
        flush_consumer_offset_interval: 100,
        transaction_time_out: 150,
        transaction_check_interval: 150,
        transaction_check_max: 1000,
        ..config()
    }
}

pub fn settings(root: &Path, sync: bool) -> StoreConfig {
    StoreConfig {
        mapped_file_size_commit_log: 128 * 1024,
        mapped_file_size_consume_queue: 20 * 300,
        flush_disk_type: if sync { FlushMode::Sync } else { FlushMode::Async },
        // Long, so that the tables are often written while the log is not on the disk.
        flush_interval_commit_log: 50,
        flush_interval_consume_queue: 15,
        durable_checkpoint_interval: 40,
        message_delay_level: "1s 2s".into(),
        max_message_size: 64 * 1024,
        disk_space_floor: 0,
        ..store_config(root)
    }
}

/// A broker at work.
struct Work {
    bench: Bench,
    faults: Arc<Faults>,
    checks: Arc<Checks>,
    dice: Dice,
    /// Popped and not yet acknowledged, with the time of the pop.
    held: Vec<(Message, i64)>,
    run: Run,
}

/// Works on a broker for some rounds.
pub fn record(sync: bool, rounds: usize) -> (Run, tempfile::TempDir) {
    let faults = Arc::new(Faults::recording());
    let bench = start_with(broker_config(), |store| {
        let root = store.root.clone();
        *store = StoreConfig { faults: Some(Arc::clone(&faults)), ..settings(&root, sync) };
    });
    let run = Run { sync, ..Run::default() };
    let dice = Dice(0xB40C + u64::from(sync));
    let mut work = Work { bench, faults, checks: Arc::default(), dice, held: Vec::new(), run };
    work.checks = producer::connect(&mut work.bench);
    work.make_topics();
    for _ in 0..rounds {
        work.step();
        work.look();
    }
    // Nothing that was popped is invisible any more, nothing that was delayed is still to come.
    let last = work.run.delayed.iter().map(|delayed| delayed.due).max().unwrap_or(0);
    let end = last.max(clock::now_millis() + INVISIBLE);
    while clock::now_millis() < end {
        std::thread::sleep(Duration::from_millis(20));
        work.look();
    }
    let Work { mut bench, faults, mut run, .. } = work;
    bench.client.close();
    bench.broker.take().unwrap().shutdown();
    run.events = faults.events();
    (run, std::mem::replace(&mut bench.folder, tempfile::tempdir().unwrap()))
}

impl Work {
    /// Makes the topics, and waits until their table is on the disk.
    fn make_topics(&mut self) {
        for topic in [JOBS, ORDERS, LATER] {
            let answer = self.bench.call(request::UPDATE_AND_CREATE_TOPIC, b"", |frame| {
                frame.str("topic", topic).i32("readQueueNums", QUEUES).i32("writeQueueNums", QUEUES).i32("perm", 6);
                frame.str("topicFilterType", "SINGLE_TAG").str("defaultTopic", "TBW102");
            });
            assert_eq!(code(&answer), 0, "{}", remark(&answer));
        }
        wait_until("the tables", || {
            self.look();
            let has_all = |tables: &Tables| {
                let text = tables.get("topics.json").map(|bytes| String::from_utf8_lossy(bytes).into_owned());
                text.is_some_and(|text| [JOBS, ORDERS, LATER].iter().all(|topic| text.contains(topic)))
            };
            self.run.tables.last().is_some_and(|(_, tables)| has_all(tables))
        });
        self.run.first = self.run.tables.last().map_or(0, |(events, _)| *events);
    }

    fn step(&mut self) {
        match self.dice.below(40) {
            0 => std::thread::sleep(Duration::from_millis(30)),
            1 => self.bench.broker.as_ref().unwrap().shared().store.checkpoint_now(),
            2 if self.dice.below(5) == 0 => self.restart(),
            3..=11 => self.send_job(),
            12..=15 => self.pop(),
            16..=23 => self.acknowledge(),
            24..=28 => self.prepare(),
            29..=33 => self.end(),
            _ => self.delay(),
        }
    }

    /// Notes what is on the disk now, and the tables.
    fn look(&mut self) {
        let flushed = self.bench.broker.as_ref().unwrap().shared().store.flushed_position();
        let events = self.faults.event_count();
        let run = &mut self.run;
        let all = run.jobs.iter_mut().flat_map(|job| [Some(&mut job.told), job.acknowledged.as_mut()]);
        let all = all
            .chain(run.transactions.iter_mut().flat_map(|t| [Some(&mut t.told), t.end.as_mut().map(|(_, told)| told)]));
        let all = all.chain(run.delayed.iter_mut().map(|delayed| Some(&mut delayed.told)));
        for told in all.flatten().filter(|told| told.durable.is_none() && told.position <= flushed) {
            told.durable = Some(events);
        }
        let tables = read_tables(&self.bench.folder.path().join("config"));
        if run.tables.last().is_none_or(|(_, last)| *last != tables) {
            // What was read was there at the latest when reading ended.
            run.tables.push((self.faults.event_count(), tables));
        }
    }

    fn begin(&self) -> usize {
        self.faults.event_count()
    }

    fn told(&self, begun: usize) -> Told {
        let store = &self.bench.broker.as_ref().unwrap().shared().store;
        let answered = self.faults.event_count();
        let durable = self.run.sync.then_some(answered);
        Told { begun, answered, durable, position: store.max_physical_offset() }
    }

    fn send_job(&mut self) {
        let (number, queue) = (self.run.jobs.len(), self.dice.below(QUEUES as usize) as i32);
        let body = padded(number, self.dice.below(700));
        let begun = self.begin();
        let answer = self.bench.send(JOBS, queue, &format!("UNIQ_KEY\u{1}j{number}\u{2}"), body.as_bytes());
        assert_eq!(code(&answer), 0, "{}", remark(&answer));
        let offset = number_of(&answer, "queueOffset");
        let told = self.told(begun);
        self.run.jobs.push(Job { queue, offset, told, acknowledged: None });
    }

    fn pop(&mut self) {
        let count = 1 + self.dice.below(6) as i32;
        let header = ferromq_protocol::header::pop::PopMessageHeader {
            consumer_group: Text::plain("G"),
            invisible_time: INVISIBLE,
            max_msg_nums: count,
            ..client::pop_header(JOBS)
        };
        let at = clock::now_millis();
        self.held.extend(client::pop(&self.bench, &header).1.into_iter().map(|message| (message, at)));
    }

    fn acknowledge(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let (message, popped) = self.held.swap_remove(self.dice.below(self.held.len()));
        if clock::now_millis() - popped > ACKNOWLEDGED_WITHIN {
            return;
        }
        if self.dice.below(6) == 0 {
            // Its time begins anew, under another handle.
            let at = clock::now_millis();
            self.held.extend(client::change(&self.bench, &message, INVISIBLE).map(|changed| (changed, at)));
            return;
        }
        let number = number_in(message.body.as_bytes()).unwrap();
        let begun = self.begin();
        client::ack(&self.bench, &message);
        let told = self.told(begun);
        let in_time = clock::now_millis() - popped <= INVISIBLE - 100;
        // Answered late, it may come back or not: as if the answer had never come.
        let told = if in_time { told } else { Told { answered: usize::MAX, durable: Some(usize::MAX), ..told } };
        let job = &mut self.run.jobs[number];
        job.acknowledged.get_or_insert(told);
    }

    fn prepare(&mut self) {
        let number = self.run.transactions.len();
        let body = padded(number, self.dice.below(300));
        let begun = self.begin();
        let half = producer::send_half_to(&self.bench, (ORDERS, 0), &format!("o{number}"), body.as_bytes(), "");
        let told = self.told(begun);
        self.run.transactions.push(Transaction { half, told, end: None });
    }

    fn end(&mut self) {
        let open = |t: &&mut Transaction| t.end.is_none();
        let count = self.run.transactions.iter_mut().filter(open).count();
        if count < 3 {
            return;
        }
        let chosen = self.dice.below(count);
        let outcome = if self.dice.below(3) == 0 { ROLLBACK } else { COMMIT };
        let Some(at) =
            (0..self.run.transactions.len()).filter(|at| self.run.transactions[*at].end.is_none()).nth(chosen)
        else {
            return;
        };
        let begun = self.begin();
        let half = self.run.transactions[at].half;
        // While it is being checked the broker asks to try again.
        let give_up = Instant::now() + TIMEOUT;
        while let (code @ 1.., remark) = producer::end(&self.bench, half, outcome, true) {
            assert!(remark.contains("at this moment") && Instant::now() < give_up, "{code} {remark}");
            std::thread::yield_now();
        }
        let told = self.told(begun);
        self.run.transactions[at].end = Some((outcome, told));
    }

    fn delay(&mut self) {
        let number = self.run.delayed.len();
        let millis = 50 + self.dice.below(900) as i64;
        let (property, millis) = match self.dice.below(3) {
            0 => ("DELAY\u{1}1\u{2}".to_owned(), 1000),
            _ => (format!("TIMER_DELAY_MS\u{1}{millis}\u{2}"), millis),
        };
        let due = clock::now_millis() + millis;
        let begun = self.begin();
        let properties = format!("UNIQ_KEY\u{1}d{number}\u{2}{property}");
        let answer = self.bench.send(LATER, 0, &properties, padded(number, 20).as_bytes());
        assert_eq!(code(&answer), 0, "{}", remark(&answer));
        let told = self.told(begun);
        self.run.delayed.push(Delayed { due, told });
    }

    fn restart(&mut self) {
        self.bench.client.close();
        self.bench.broker.take().unwrap().shutdown();
        let store =
            StoreConfig { faults: Some(Arc::clone(&self.faults)), ..settings(self.bench.folder.path(), self.run.sync) };
        let broker = Broker::start(broker_config(), store).unwrap();
        self.bench.addr = broker.addr().to_string();
        self.bench.broker = Some(broker);
        self.bench.client = Client::new(ClientConfig::default(), None);
        self.checks = producer::connect(&mut self.bench);
        // Handles name the broker, not its life: what is held stays valid.
    }
}

/// The tables as they are at one moment: read until nothing changes meanwhile.
fn read_tables(folder: &Path) -> Tables {
    let read = || -> Tables {
        let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let files = files.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()));
        let files = files.filter(|(name, _)| !name.ends_with(".tmp"));
        files.filter_map(|(name, path)| Some((name, std::fs::read(path).ok()?))).collect()
    };
    let mut tables = read();
    loop {
        let again = read();
        if again == tables {
            return tables;
        }
        tables = again;
    }
}

/// A body that tells its number.
pub fn padded(number: usize, len: usize) -> String {
    format!("{number} {}", "x".repeat(len))
}

/// The number of a body.
pub fn number_in(body: &[u8]) -> Option<usize> {
    std::str::from_utf8(body).ok()?.split(' ').next()?.parse().ok()
}

fn number_of(answer: &ferromq_protocol::OwnedCommand, key: &str) -> i64 {
    number(answer, key).unwrap_or_else(|| panic!("an answer without {key}"))
}
