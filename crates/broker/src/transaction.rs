//! Transactions: half messages, their outcomes, and who is asked when (RocketMQ's `TransactionalMessageServiceImpl`).
//!
//! A half message is stored in `RMQ_SYS_TRANS_HALF_TOPIC`. Its outcome is an op message that names its queue offset, and for
//! a commit the message itself under its real topic; both go into the log with one append. So the log alone tells which
//! halves wait, and a restart reads it from there (`recover`). What did not end in time is asked about by the thread in
//! `checker.rs`; `handler/send/transaction.rs` serves the producers.
//!
//! [`Transactions`] owns the table of halves behind one lock, which is held for look-ups only. The consumer offsets of
//! `CID_RMQ_SYS_TRANS` say how far halves and op messages are done, as in RocketMQ, so that either broker goes on with the
//! other's store.

mod checker;
mod commits;
mod metrics;
mod record;
mod table;
mod wake;

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

use ferromq_common::clock;
use ferromq_protocol::properties::{self, names};
use ferromq_protocol::record::Record;
use ferromq_protocol::{records, topic};
use ferromq_store::{AppendBatch, Appended, Queue, ReadStatus, Reject, Store};
use parking_lot::Mutex;
use smallvec::SmallVec;

pub(crate) use checker::Checker;
pub use metrics::Metrics;
pub(crate) use record::{HalfView, committed, moved, push_half};
pub(crate) use table::{Claimed, NotClaimed};
use table::{Half, Table, is_among};
use wake::Wake;

use crate::broker::Shared;
use crate::config::BrokerConfig;
use crate::offsets::Offsets;

/// The group whose offsets say how far halves and op messages are done.
const GROUP: &str = "CID_RMQ_SYS_TRANS";
/// A half message without an outcome is given up when its messages' files would expire (`fileReservedTime` of RocketMQ).
const HALF_LIFE_MS: i64 = 72 * 3_600_000;
/// Most halves that were made again and are remembered without the index.
const MAX_RESUMED: usize = 4096;
/// Records taken from a queue at once while the start reads it.
const READ_BACK: u32 = 64;

/// The op messages of one append: their places in the batch, and the largest half each names.
pub(crate) type Ops = SmallVec<[(usize, i64); 2]>;

/// Half messages and their outcomes.
pub struct Transactions {
    half_queue: Arc<Queue>,
    op_queue: Arc<Queue>,
    table: Mutex<Table>,
    /// Positions of the latest that were given up and made halves again: the index may not know them yet.
    resumed: Mutex<VecDeque<u64>>,
    wake: Wake,
    pub metrics: Metrics,
    op_properties: Vec<u8>,
    /// Most bytes of one op message's body.
    op_bytes: usize,
    timeout: i64,
    interval: i64,
}

impl Transactions {
    /// Reads which half messages of the store have no outcome.
    pub(crate) fn open(root: &Path, store: &Store, offsets: &Offsets, config: &BrokerConfig, max_body: usize) -> Self {
        let mut op_properties = Vec::new();
        properties::push(&mut op_properties, names::TAGS, record::OP_TAG);
        let transactions = Self {
            half_queue: store.queue(topic::TRANS_HALF, 0),
            op_queue: store.queue(topic::TRANS_OP_HALF, 0),
            table: Mutex::default(),
            resumed: Mutex::default(),
            wake: Wake::default(),
            metrics: Metrics::new(root),
            op_properties,
            op_bytes: config.transaction_op_msg_max_size.min(max_body),
            timeout: config.transaction_time_out,
            interval: config.transaction_check_interval,
        };
        transactions.recover(store, offsets);
        transactions
    }

    /// Claims a half for ending it, by the offset of its first copy.
    pub(crate) fn claim(&self, offset: i64) -> Result<Claimed, NotClaimed> {
        self.table.lock().claim(offset)
    }

    /// The outcome of a claimed half is not written.
    pub(crate) fn restore(&self, claimed: Claimed) {
        self.table.lock().restore(claimed);
    }

    /// Adds the op messages that end these halves to a batch.
    pub(crate) fn push_ops(
        &self,
        broker: &Shared,
        batch: &mut AppendBatch,
        halves: impl Iterator<Item = i64>,
    ) -> Result<Ops, Reject> {
        let (mut ops, mut body, mut largest) = (Ops::new(), Vec::new(), i64::MIN);
        let now = clock::now_millis();
        let mut push = |body: &mut Vec<u8>, largest: &mut i64, ops: &mut Ops| {
            let parts = record::op(body, &self.op_properties, broker.store_host, now);
            ops.push((batch.push(&self.op_queue, &parts)?, *largest));
            body.clear();
            *largest = i64::MIN;
            Ok::<(), Reject>(())
        };
        for half in halves {
            if !body.is_empty() && body.len() + record::OP_OFFSET_BYTES > self.op_bytes {
                push(&mut body, &mut largest, &mut ops)?;
            }
            record::push_op(&mut body, half);
            largest = largest.max(half);
        }
        if !body.is_empty() {
            push(&mut body, &mut largest, &mut ops)?;
        }
        Ok(ops)
    }

    /// These halves have ended: their outcomes and op messages are in the log.
    pub(crate) fn settle<'a>(&self, claimed: impl Iterator<Item = &'a Claimed>, ops: &Ops, results: &[Appended]) {
        let mut table = self.table.lock();
        for claimed in claimed {
            table.settle(claimed);
        }
        note_ops(&mut table, ops, results);
    }

    /// Half messages of these topics were appended.
    pub(crate) fn prepared<'a>(&self, topics: impl Iterator<Item = &'a str>) {
        self.metrics.add(topics, 1);
        self.wake.for_new_half();
    }

    /// Adds a half that was given up to a batch, as one nobody was asked about; the topic its message is for.
    pub(crate) fn push_again(&self, batch: &mut AppendBatch, half: &Record<'_>) -> Result<String, Reject> {
        let mut properties = Vec::new();
        record::renewed(half.properties(), &mut properties);
        batch.push_stored(&self.half_queue, &moved(half, topic::TRANS_HALF, 0, &properties))?;
        Ok(HalfView::of(half.properties()).real_topic.unwrap_or_default().to_owned())
    }

    /// Whether a half was made already of this one that was given up: one more would be a second message.
    pub(crate) fn was_resumed(&self, store: &Store, given_up: &Record<'_>) -> bool {
        self.resumed.lock().contains(&(given_up.physical_offset() as u64))
            || commits::was_resumed(store, given_up, &HalfView::of(given_up.properties()))
    }

    /// A half was made of the one that was given up at this position.
    pub(crate) fn note_resumed(&self, position: u64) {
        let mut resumed = self.resumed.lock();
        if resumed.len() == MAX_RESUMED {
            resumed.pop_front();
        }
        resumed.push_back(position);
    }

    /// The queue of half messages.
    pub(crate) fn half_queue(&self) -> &Arc<Queue> {
        &self.half_queue
    }

    /// Longest time between sending a half and its first check, if the producer did not ask for more, milliseconds.
    pub(crate) fn timeout(&self) -> i64 {
        self.timeout
    }

    /// Halves that did not end in time and wait for their producer.
    pub fn waiting(&self) -> usize {
        self.table.lock().waiting()
    }

    /// Reads op messages and half messages from where their offsets stand.
    fn recover(&self, store: &Store, offsets: &Offsets) {
        let from = |queue: &Queue| {
            let kept = offsets.query(queue.topic(), GROUP, 0).unwrap_or(0);
            kept.clamp(queue.min_offset(), queue.max_offset())
        };
        // Behind records that the log has lost in a crash an op message is not believed: the message of its commit may be among
        // them. Such halves are searched for in the index, and their producer is asked again.
        let gap = store.first_gap().unwrap_or(u64::MAX);
        let mut table = self.table.lock();
        table.scanned = from(&self.half_queue);
        each_record(store, &self.op_queue, from(&self.op_queue), |op| {
            if properties::get(op.properties(), names::TAGS) == Some(record::OP_TAG.as_bytes()) {
                let is_sure = (op.physical_offset() as u64) < gap;
                let mut largest = i64::MIN;
                for half in record::op_offsets(op.body()) {
                    if is_sure {
                        table.recover_ended(half);
                    }
                    largest = largest.max(half);
                }
                table.note_op(op.queue_offset(), largest);
            }
        });
        let named = table.all_ended();
        let mut newest: HashMap<String, i64> = HashMap::new();
        let mut counts: HashMap<String, i64> = HashMap::new();
        let first = table.scanned;
        each_record(store, &self.half_queue, first, |half| {
            let offset = half.queue_offset();
            // The scan stops when too many wait; the rest is met later.
            if table.next_open(offset + 1).is_none() {
                return;
            }
            // Records may be missing before this one.
            table.pass(offset);
            let view = HalfView::of(half.properties());
            // RocketMQ's copies made during the immunity time end with the first one.
            let with_first = view.checks.is_none() && view.first.is_some_and(|first| is_among(&named, first));
            if with_first || table.has_ended(offset) {
                table.pass(offset + 1);
                return;
            }
            let mut replaces = table.admit(self.half_of(half, &view, true));
            if let Some(key) = view.uniq_key {
                // Its copies made for a check name no predecessor: the newest of one transaction counts.
                let before = newest.insert(key.to_owned(), offset);
                if let (Some(_), None, Some(before)) = (view.checks, view.first, before) {
                    replaces |= table.drop_waiting(before);
                }
            }
            if let (Some(real), false) = (view.real_topic, replaces) {
                *counts.entry(real.to_owned()).or_default() += 1;
            }
        });
        for (topic, count) in counts {
            self.metrics.add([topic.as_str()], count);
        }
        if table.waiting() > 0 {
            tracing::info!("{} half messages have no outcome yet", table.waiting());
        }
    }

    /// What is kept of a half that did not end in time.
    fn half_of(&self, half: &Record<'_>, view: &HalfView<'_>, recovered: bool) -> Half {
        let offset = half.queue_offset();
        let checks = view.checks.unwrap_or(0).max(0);
        let due = match checks {
            0 if view.first.is_some() => half.born_timestamp().saturating_add(view.immunity_or(self.timeout)),
            0 => half.store_timestamp().saturating_add(view.immunity_or(self.timeout)),
            _ => half.store_timestamp().saturating_add(self.interval),
        };
        // A producer whose clock is wrong must not lose messages that nobody was asked about.
        let since = if checks == 0 { half.store_timestamp() } else { half.born_timestamp() };
        let first = view.first.unwrap_or(offset);
        Half {
            physical: half.physical_offset() as u64,
            due,
            checks,
            first,
            expires: since.saturating_add(HALF_LIFE_MS),
            recovered,
            group: Arc::from(view.group.unwrap_or_default()),
        }
    }
}

fn note_ops(table: &mut Table, ops: &Ops, results: &[Appended]) {
    for (at, largest) in ops {
        if let Some(op) = results.get(*at) {
            table.note_op(op.queue_offset, *largest);
        }
    }
}

/// Calls `f` for each record of a queue from `from` on.
fn each_record(store: &Store, queue: &Queue, from: i64, mut f: impl FnMut(&Record<'_>)) {
    let (mut next, mut bytes) = (from, Vec::new());
    while next < queue.max_offset() {
        bytes.clear();
        let outcome = store.read(queue, next, READ_BACK, u32::MAX, &mut |_| true, &mut bytes);
        records::iter(&bytes).for_each(|record| f(&record));
        if outcome.next_offset <= next || outcome.status == ReadStatus::OffsetOverflowBadly {
            return;
        }
        next = outcome.next_offset;
    }
}
