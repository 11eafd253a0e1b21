//! The thread that asks producers about half messages which did not end in time (RocketMQ's
//! `TransactionalMessageCheckService`). It sleeps until the next half is due and costs nothing while none is.
//!
//! A half is first asked about `transactionTimeOut` after it was stored (or later, if its producer asked for an immunity
//! time), then every `transactionCheckInterval`. For each check it is appended again with its count, in one append with the op
//! message that ends the copy before; after `transactionCheckMax` checks it goes to `TRANS_CHECK_MAX_TIME_TOPIC`. Only checks
//! that went to a connected producer count: without one the half waits.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;
use std::time::Duration;

use ferromq_common::clock;
use ferromq_protocol::code::request::CHECK_TRANSACTION_STATE;
use ferromq_protocol::header::send::CheckTransactionStateHeader;
use ferromq_protocol::record::{self as stored, Entry, Record};
use ferromq_protocol::sys_flag::perm;
use ferromq_protocol::{Encoding, FrameWriter, Text, id, topic};
use ferromq_store::{AppendBatch, Appended, Durability};

use super::commits::was_committed;
use super::record::{copied, moved};
use super::table::Half;
use super::{GROUP, HalfView};
use crate::broker::Shared;
use crate::clients::Client;

/// Most halves of one append.
const MAX_CHECKS: usize = 256;
/// An append is made when its records have this many bytes.
const MAX_CHECK_BYTES: usize = 4 * 1024 * 1024;
/// A half this far before the end of the half queue is appended again, so that a restart reads no more than that.
const MAX_LAG: i64 = 1_000_000;
/// How long the thread waits for what is under way elsewhere: dispatch, an outcome being written, a flush.
const SHORT_PAUSE_MS: i64 = 200;
/// How often the offsets of halves and op messages are brought up to date while they move.
const FLOORS_PAUSE_MS: i64 = 1000;
/// How long a check waits for its copy to be on the disk.
const DURABLE_LIMIT: Duration = Duration::from_secs(10);
/// How many producers of a group are tried for one that can be asked.
const PRODUCERS_TRIED: usize = 3;

/// What a round does with a half.
enum Fate {
    /// Appended again at this place of the batch, and asked about.
    Asked { at: usize },
    /// Appended again at this place because it lies too far back.
    Carried { at: usize },
    /// Nobody can be asked, or its record cannot be read now.
    Later,
    /// It ends: given up, or its commit was found.
    Over { topic: String },
}

/// Offsets that may be kept once the log is on the disk up to a position.
struct Floors {
    half: i64,
    op: i64,
    position: u64,
}

/// The running thread.
pub(crate) struct Checker {
    broker: Arc<Shared>,
    thread: JoinHandle<()>,
}

impl Checker {
    /// Starts the thread.
    pub fn start(broker: Arc<Shared>) -> io::Result<Self> {
        let shared = Arc::clone(&broker);
        let thread = std::thread::Builder::new().name("transaction-check".into()).spawn(move || run(&shared))?;
        Ok(Self { broker, thread })
    }

    /// Ends the thread.
    pub fn stop(self) {
        self.broker.transactions.wake.stop();
        if self.thread.join().is_err() {
            tracing::error!(
                "the thread that checks transactions died; halves that waited are asked about after a restart"
            );
        }
    }
}

fn run(broker: &Arc<Shared>) {
    let mut round = Round { broker, batch: AppendBatch::default(), kept: None, next_producer: AtomicUsize::new(0) };
    let wake = &broker.transactions.wake;
    loop {
        wake.listen(true);
        let next = round.run();
        // A new half may be due before one with a long immunity time; one that is due later than the next round is met then.
        let soon = clock::now_millis().saturating_add(broker.transactions.timeout);
        wake.listen(next.is_none_or(|next| next > soon));
        if !wake.sleep_until(next) {
            round.keep_floors();
            return;
        }
    }
}

struct Round<'a> {
    broker: &'a Arc<Shared>,
    batch: AppendBatch,
    kept: Option<Floors>,
    next_producer: AtomicUsize,
}

impl Round<'_> {
    /// Does what is due; when to come again.
    fn run(&mut self) -> Option<i64> {
        let transactions = &self.broker.transactions;
        let scan = self.scan();
        let lagging = {
            let end = transactions.half_queue.max_offset();
            transactions.table.lock().take_lagging(end, MAX_LAG, MAX_CHECKS)
        };
        let mut more = lagging.len() == MAX_CHECKS;
        more &= self.check(lagging, true);
        let due = transactions.table.lock().take_due(clock::now_millis(), MAX_CHECKS);
        more |= due.len() == MAX_CHECKS;
        self.check(due, false);
        let offsets = self.keep_floors().then(|| clock::now_millis() + FLOORS_PAUSE_MS);
        if more {
            return Some(0);
        }
        let due = transactions.table.lock().next_due();
        [scan, due, offsets].into_iter().flatten().min()
    }

    /// Takes halves into the table that are old enough; when the next one will be.
    fn scan(&self) -> Option<i64> {
        let transactions = &self.broker.transactions;
        let queue = &transactions.half_queue;
        let soon = clock::now_millis() + SHORT_PAUSE_MS;
        let mut bytes = Vec::new();
        loop {
            let end = queue.max_offset();
            let (next, scanned) = {
                let mut table = transactions.table.lock();
                (table.next_open(end), table.scanned)
            };
            let Some(offset) = next else {
                // More is under way: a record that is not dispatched, an outcome that is being written.
                let more = scanned < end && transactions.waiting() < super::table::MAX_WAITING;
                return (more || end < queue.next_offset()).then_some(soon);
            };
            bytes.clear();
            let entry = self.broker.store.entry(queue, offset);
            let read =
                entry.and_then(|e| self.broker.store.record_at(u64::try_from(e.physical_offset).ok()?, &mut bytes));
            let record = match stored::read(&bytes) {
                Entry::Record(record) if read.is_some() => record,
                _ => {
                    tracing::warn!(
                        "the half message at queue offset {offset} cannot be read any more and is passed over"
                    );
                    transactions.table.lock().pass((offset + 1).max(queue.min_offset()));
                    continue;
                }
            };
            let due = record.store_timestamp().saturating_add(transactions.timeout);
            if due > clock::now_millis() {
                return Some(due);
            }
            let half = transactions.half_of(&record, &HalfView::of(record.properties()), false);
            let mut table = transactions.table.lock();
            if table.is_open(offset) {
                table.admit(half);
            }
        }
    }

    /// Asks about these halves, or gives them up; `carry` only appends them again. Whether the store took all of it.
    fn check(&mut self, halves: Vec<(i64, Half)>, carry: bool) -> bool {
        let mut halves = halves.into_iter().peekable();
        let mut taken = true;
        while halves.peek().is_some() {
            let (mut fates, mut bytes) = (Vec::new(), 0);
            while let Some((offset, mut half)) = halves.next_if(|_| bytes < MAX_CHECK_BYTES) {
                let (fate, size) = self.judge(&mut half, offset, carry);
                bytes += size;
                fates.push((offset, half, fate));
            }
            taken &= self.write(fates);
        }
        taken
    }

    /// What becomes of a half that is due, and the bytes this adds to the batch.
    fn judge(&mut self, half: &mut Half, offset: i64, carry: bool) -> (Fate, usize) {
        let broker = self.broker;
        let mut bytes = Vec::new();
        let given_up = half.checks >= broker.config.transaction_check_max || clock::now_millis() > half.expires;
        if !carry && !given_up && !half.recovered && broker.clients.producers(&half.group).is_none() {
            return (Fate::Later, 0);
        }
        broker.store.record_at(half.physical, &mut bytes);
        let Entry::Record(record) = stored::read(&bytes) else {
            if half.physical >= broker.store.min_physical_offset() && clock::now_millis() <= half.expires {
                // Under SYNC_FLUSH its copy is not on the disk yet.
                return (Fate::Later, 0);
            }
            tracing::error!("the half message at queue offset {offset} is lost: its log file is gone");
            return (Fate::Over { topic: String::new() }, 0);
        };
        let view = HalfView::of(record.properties());
        let over = || Fate::Over { topic: view.real_topic.unwrap_or_default().to_owned() };
        if std::mem::take(&mut half.recovered) && was_committed(&broker.store, &record, &view) {
            return (over(), 0);
        }
        let mut properties = Vec::new();
        if given_up && !carry {
            tracing::warn!(
                "the transaction {} of group {} is given up after {} checks: its message goes to {}",
                view.uniq_key.unwrap_or_default(),
                half.group,
                half.checks,
                topic::TRANS_CHECK_MAX_TIME
            );
            properties.extend_from_slice(record.properties());
            return match self.push(&record, topic::TRANS_CHECK_MAX_TIME, &properties) {
                Some(_) => (over(), bytes.len()),
                None => (Fate::Later, 0),
            };
        }
        if !carry && broker.clients.producers(&half.group).is_none() {
            return (Fate::Later, 0);
        }
        copied(record.properties(), half.checks + i32::from(!carry), half.first, &mut properties);
        match self.push(&record, topic::TRANS_HALF, &properties) {
            Some(at) if carry => (Fate::Carried { at }, bytes.len()),
            Some(at) => (Fate::Asked { at }, bytes.len()),
            None => (Fate::Later, 0),
        }
    }

    /// Adds a half's record with other properties to the batch.
    fn push(&mut self, record: &Record<'_>, name: &str, properties: &[u8]) -> Option<usize> {
        let broker = self.broker;
        let queue = if name == topic::TRANS_HALF {
            Arc::clone(&broker.transactions.half_queue)
        } else {
            broker.topics.create_if_absent(name, 1, perm::READ | perm::WRITE, false, 0)?;
            broker.store.queue(name, 0)
        };
        let pushed = self.batch.push_stored(&queue, &moved(record, name, 0, properties));
        pushed.inspect_err(|e| tracing::error!("a half message cannot be appended to {name}: {e}")).ok()
    }

    /// Appends what was judged, and tells table and producers.
    fn write(&mut self, fates: Vec<(i64, Half, Fate)>) -> bool {
        let transactions = &self.broker.transactions;
        let ended = fates.iter().filter(|(.., fate)| !matches!(fate, Fate::Later)).map(|(offset, ..)| *offset);
        let pushed = transactions.push_ops(self.broker, &mut self.batch, ended);
        let appended = pushed
            .map_err(|e| e.to_string())
            .and_then(|ops| self.broker.store.append(&mut self.batch).map(|()| ops).map_err(|e| e.to_string()));
        let now = clock::now_millis();
        let ops = match appended {
            Ok(ops) => ops,
            Err(error) => {
                tracing::error!("transactions cannot be checked now: {error}");
                let mut table = transactions.table.lock();
                for (offset, half, _) in fates {
                    table.put_back(offset, Half { due: now + transactions.interval, ..half });
                }
                self.batch.clear();
                return false;
            }
        };
        let results: Vec<Appended> = self.batch.results().to_vec();
        let mut asked = Vec::new();
        let mut gone = Vec::new();
        {
            let mut table = transactions.table.lock();
            super::note_ops(&mut table, &ops, &results);
            for (offset, half, fate) in fates {
                let place = |at: usize| (results[at].queue_offset, results[at].physical_offset);
                match fate {
                    Fate::Later => table.put_back(offset, Half { due: now + transactions.interval, ..half }),
                    Fate::Over { topic } => {
                        table.finish(offset, &half);
                        gone.push(topic);
                    }
                    Fate::Carried { at } => {
                        let (to, physical) = place(at);
                        table.copied(offset, to, Half { physical, ..half });
                    }
                    Fate::Asked { at } => {
                        let (to, physical) = place(at);
                        asked.push((Arc::clone(&half.group), half.first, physical));
                        table.copied(offset, to, Half { physical, due: now + transactions.interval, ..half });
                    }
                }
            }
        }
        transactions.metrics.add(gone.iter().map(String::as_str).filter(|topic| !topic.is_empty()), -1);
        let end = self.batch.end_position();
        self.batch.clear();
        let durable = self.wait_durable(end);
        self.broker.store.dispatch();
        self.broker.answer_ready_polls();
        // A copy that is not on the disk cannot be read, nor ended: its producer is asked the next time.
        for (group, first, physical) in asked.into_iter().filter(|_| durable) {
            transactions.table.lock().count_check(first);
            self.ask(&group, physical);
        }
        true
    }

    /// Under SYNC_FLUSH a copy can be ended only when it is on the disk; whether it is.
    fn wait_durable(&self, position: u64) -> bool {
        if !self.broker.store.is_sync_flush() {
            return true;
        }
        let (sender, done) = sync_channel::<Durability>(1);
        let waiter = move |durability| {
            // The receiver has gone when it takes too long.
            let _ = sender.try_send(durability);
        };
        self.broker.store.when_durable(position, Box::new(waiter));
        matches!(done.recv_timeout(DURABLE_LIMIT), Ok(Durability::Durable))
    }

    /// Sends CHECK_TRANSACTION_STATE (39) to one producer of the group.
    fn ask(&self, group: &str, physical: u64) {
        let Some(producers) = self.broker.clients.producers(group) else { return };
        let mut bytes = Vec::new();
        self.broker.store.record_at(physical, &mut bytes);
        let Entry::Record(record) = stored::read(&bytes) else { return };
        let view = HalfView::of(record.properties());
        let (Some(topic), Some(queue_id)) = (view.real_topic, view.real_queue_id) else { return };
        let mut body = Vec::new();
        if stored::encode(&moved(&record, topic, queue_id, record.properties()), &mut body).is_err() {
            return;
        }
        stored::patch(&mut body, record.queue_offset(), physical, record.store_timestamp());
        let uniq_key = view.uniq_key.map(Text::plain);
        let offset_id = id::offset_message_id(self.broker.store_host, physical);
        let header = CheckTransactionStateHeader {
            topic: Some(Text::plain(topic::TRANS_HALF)),
            tran_state_table_offset: record.queue_offset(),
            commit_log_offset: physical as i64,
            msg_id: uniq_key,
            transaction_id: uniq_key,
            offset_msg_id: Some(Text::plain(&offset_id)),
        };
        let turn = self.next_producer.fetch_add(1, Ordering::Relaxed);
        for attempt in 0..PRODUCERS_TRIED.min(producers.len()) {
            let producer: &Client = &producers[(turn + attempt) % producers.len()];
            let told = producer.connection.oneway(|out, opaque| {
                let mut frame = FrameWriter::request(out, Encoding::Json, CHECK_TRANSACTION_STATE, opaque, true);
                header.write(&mut frame);
                frame.str("bname", &self.broker.config.broker_name);
                frame.finish_with_body(&body);
            });
            match told {
                Ok(()) => return,
                Err(e) => tracing::debug!("producer {} of group {group} cannot be asked: {e}", producer.client_id),
            }
        }
    }

    /// Keeps how far halves and op messages are done, once what says so is on the disk: a power cut must not leave offsets
    /// behind that pass over a half whose outcome is lost. Whether there is more to keep.
    fn keep_floors(&mut self) -> bool {
        let broker = self.broker;
        let transactions = &broker.transactions;
        if let Some(floors) = self.kept.take_if(|floors| floors.position <= broker.store.flushed_position()) {
            broker.offsets.commit(topic::TRANS_HALF, GROUP, 0, floors.half);
            broker.offsets.commit(topic::TRANS_OP_HALF, GROUP, 0, floors.op);
        }
        if self.kept.is_none() {
            let Some((half, op)) = transactions.table.lock().floors(transactions.op_queue.max_offset()) else {
                return true;
            };
            let position = broker.store.max_physical_offset();
            let offset = |queue| broker.offsets.query(queue, GROUP, 0).unwrap_or(0);
            if (half, op) != (offset(topic::TRANS_HALF), offset(topic::TRANS_OP_HALF)) {
                self.kept = Some(Floors { half, op, position });
            }
        }
        self.kept.is_some()
    }
}
