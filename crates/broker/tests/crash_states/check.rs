//! What a broker makes of the disk that a power cut or a kill left, compared with what clients were told.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use ferromq_broker::{Broker, BrokerConfig};
use ferromq_protocol::code::response;
use ferromq_remoting::{Client, ClientConfig};

use crate::client;
use crate::disk::{Disk, Fate};
use crate::producer::{self, COMMIT, Checks, ROLLBACK};
use crate::run::{self, JOBS, LATER, ORDERS, QUEUES, Run, Told};
use crate::support::*;

/// One state of the disk.
pub struct State<'a> {
    run: &'a Run,
    cut: usize,
    is_kill: bool,
    what: &'a str,
}

/// Opens what a cut after `cut` events left, and lets clients go on with it.
pub fn check(run: &Run, root: &Path, cut: usize, fate: Fate<'_>, what: &str) {
    let state = State { run, cut, is_kill: matches!(fate, Fate::All), what };
    let bench = state.open(root, fate);
    state.jobs_stand_where_they_were_told_to(&bench);
    state.delayed_messages_come_once(&bench);
    state.jobs_that_were_not_acknowledged_come_back(&bench);
    state.transactions_end_in_one_way(bench);
}

impl State<'_> {
    fn open(&self, root: &Path, fate: Fate<'_>) -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let mut disk = Disk::after(&self.run.events[..self.cut], fate);
        if !self.is_kill {
            disk.boot_again(root);
        }
        disk.write_to(root, folder.path());
        let tables = self.run.tables.iter().rev().find(|(events, _)| *events <= self.cut);
        std::fs::create_dir_all(folder.path().join("config")).unwrap();
        for (name, content) in tables.map(|(_, tables)| tables).into_iter().flatten() {
            std::fs::write(folder.path().join("config").join(name), content).unwrap();
        }
        // Producers are asked at once.
        let config = BrokerConfig { transaction_time_out: 0, transaction_check_interval: 50, ..run::broker_config() };
        let broker = Broker::start(config, run::settings(folder.path(), self.run.sync));
        let broker = broker.unwrap_or_else(|error| panic!("{}: the broker does not start: {error}", self.what));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let addr = broker.addr().to_string();
        Bench { broker: Some(broker), runtime, client: Client::new(ClientConfig::default(), None), addr, folder }
    }

    /// Whether it was answered, and that must hold.
    fn is_promised(&self, told: &Told) -> bool {
        if self.is_kill { told.answered <= self.cut } else { told.durable.is_some_and(|durable| durable <= self.cut) }
    }

    fn is_begun(&self, told: &Told) -> bool {
        told.begun < self.cut
    }

    /// Acknowledged messages are there, each at its offset, and no offset has another message.
    fn jobs_stand_where_they_were_told_to(&self, bench: &Bench) {
        let mut found = BTreeMap::new();
        for queue in 0..QUEUES {
            let all = read_all(bench, JOBS, queue);
            for record in &all {
                let number = run::number_in(&record.body).filter(|number| *number < self.run.jobs.len());
                let job = number.map(|number| &self.run.jobs[number]);
                let job = job.unwrap_or_else(|| panic!("{}: {JOBS}-{queue} has what nobody sent", self.what));
                assert!(self.is_begun(&job.told), "{}: job {number:?} was not sent yet", self.what);
                assert_eq!((job.queue, job.offset), (queue, record.queue_offset), "{}: job {number:?}", self.what);
                found.insert(number.unwrap_or_default(), ());
            }
            let end = all.last().map_or(0, |record| record.queue_offset + 1);
            let next = bench.send(JOBS, queue, "", run::padded(usize::MAX, 0).as_bytes());
            assert_eq!(number(&next, "queueOffset"), Some(end), "{}: {JOBS}-{queue} goes on at its end", self.what);
        }
        for (number, job) in self.run.jobs.iter().enumerate().filter(|(_, job)| self.is_promised(&job.told)) {
            assert!(found.contains_key(&number), "{}: job {number} at {} is lost", self.what, job.offset);
        }
    }

    fn delayed_messages_come_once(&self, bench: &Bench) {
        let promised = |number: &usize| self.is_promised(&self.run.delayed[*number].told);
        let promised: BTreeSet<usize> = (0..self.run.delayed.len()).filter(promised).collect();
        let mut delivered = BTreeMap::new();
        self.wait("delayed messages", || {
            delivered = copies(&read_all(bench, LATER, 0));
            promised.iter().find(|number| !delivered.contains_key(number)).map(|n| format!("message {n} is missing"))
        });
        for (number, times) in &delivered {
            let delayed = &self.run.delayed[*number];
            assert!(self.is_begun(&delayed.told), "{}: delayed message {number} was not sent yet", self.what);
            assert_eq!(times.len(), 1, "{}: delayed message {number} came more than once", self.what);
            assert!(times[0] >= delayed.due, "{}: delayed message {number} came early", self.what);
        }
    }

    /// What was popped and not acknowledged, and what was never popped; but nothing that was acknowledged.
    fn jobs_that_were_not_acknowledged_come_back(&self, bench: &Bench) {
        let jobs = self.run.jobs.iter().enumerate();
        let (mut wanted, mut done) = (BTreeSet::new(), BTreeSet::new());
        for (number, job) in jobs.filter(|(_, job)| self.is_promised(&job.told)) {
            match &job.acknowledged {
                Some(told) if self.is_promised(told) => drop(done.insert(number)),
                Some(told) if self.is_begun(told) => {}
                _ => drop(wanted.insert(number)),
            }
        }
        let mut missing = wanted;
        self.wait("popped messages", || {
            for message in client::pop(bench, &client::pop_header(JOBS)).1 {
                let Some(number) = run::number_in(message.body.as_bytes()) else { continue };
                assert!(!done.contains(&number), "{}: job {number} was acknowledged and comes back", self.what);
                missing.remove(&number);
            }
            missing.first().map(|number| format!("{} jobs do not come back, one is {number}", missing.len()))
        });
    }

    /// The producer is asked about each transaction without an outcome, and commits it.
    fn transactions_end_in_one_way(&self, mut bench: Bench) {
        let checks = producer::connect(&mut bench);
        let promised = |number: &usize| self.is_promised(&self.run.transactions[*number].told);
        let end = |number: usize| self.run.transactions[number].end.as_ref();
        let rolled_back = |number: usize, promised: bool| {
            end(number).is_some_and(|(outcome, told)| {
                *outcome == ROLLBACK && if promised { self.is_promised(told) } else { self.is_begun(told) }
            })
        };
        let wanted: Vec<usize> =
            (0..self.run.transactions.len()).filter(promised).filter(|number| !rolled_back(*number, false)).collect();
        let mut committed = BTreeMap::new();
        self.wait("transactions", || {
            commit_all(&bench, &checks);
            committed = copies(&read_all(&bench, ORDERS, 0));
            let missing = wanted.iter().find(|number| !committed.contains_key(number));
            let waiting = bench.broker.as_ref().unwrap().shared().transactions.waiting();
            match missing {
                Some(number) => Some(format!("transaction {number} has no outcome")),
                None => (waiting > 0).then(|| format!("{waiting} transactions wait")),
            }
        });
        for (number, times) in &committed {
            assert!(self.is_begun(&self.run.transactions[*number].told), "{}: {number} was not begun", self.what);
            assert_eq!(times.len(), 1, "{}: transaction {number} was committed more than once", self.what);
            assert!(!rolled_back(*number, true), "{}: {number} was rolled back and is delivered", self.what);
        }
        bench.client.close();
    }

    /// Waits until `missing` says nothing any more.
    fn wait(&self, what: &str, mut missing: impl FnMut() -> Option<String>) {
        let end = std::time::Instant::now() + TIMEOUT;
        while let Some(why) = missing() {
            assert!(std::time::Instant::now() < end, "{}: {what}: {why}", self.what);
            std::thread::park_timeout(std::time::Duration::from_millis(5));
        }
    }
}

/// Commits what the broker has asked about.
fn commit_all(bench: &Bench, checks: &Checks) {
    let asked = std::mem::take(&mut *checks.0.lock());
    for check in asked {
        // One that is asked about twice is ended by the first answer.
        producer::end(bench, check.half, COMMIT, true);
    }
}

/// Store timestamps of all copies of each number.
fn copies(records: &[Record]) -> BTreeMap<usize, Vec<i64>> {
    let mut copies: BTreeMap<usize, Vec<i64>> = BTreeMap::new();
    for record in records {
        let number = run::number_in(&record.body).expect("a body without a number");
        copies.entry(number).or_default().push(record.store_timestamp);
    }
    copies
}

fn read_all(bench: &Bench, topic: &str, queue: i32) -> Vec<Record> {
    let (mut all, mut offset) = (Vec::new(), 0);
    loop {
        let pulled = bench.pull(&pull_header(topic, queue, offset, "*"));
        match code(&pulled) {
            response::SUCCESS => all.extend(records(pulled.body())),
            response::PULL_OFFSET_MOVED | response::PULL_RETRY_IMMEDIATELY => {}
            _ => return all,
        }
        let next = number(&pulled, "nextBeginOffset").unwrap_or(0);
        if next <= offset {
            return all;
        }
        offset = next;
    }
}
