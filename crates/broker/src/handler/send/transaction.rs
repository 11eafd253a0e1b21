//! Half messages and END_TRANSACTION (37), as parts of the append of a turn (RocketMQ's `EndTransactionProcessor`).
//!
//! A commit is two records in one append: the message under its real topic, and the op message that ends the half. A rollback
//! is the op message. All ends of one append share their op message. A half is claimed before, so that it ends once.

use std::sync::Arc;

use ferromq_common::clock;
use ferromq_protocol::code::response;
use ferromq_protocol::header::send::EndTransactionHeader;
use ferromq_protocol::record::{self, Entry, Record};
use ferromq_protocol::sys_flag::message as flags;
use ferromq_protocol::topic as names;
use ferromq_store::AppendError;

use super::{Sends, Target};
use crate::broker::Shared;
use crate::handler::{Call, Refusal};
use crate::properties::Seen;
use crate::topics::Topic;
use crate::transaction::{self, Claimed, HalfView, NotClaimed};

/// A half that ends with this append.
pub(super) struct Ending {
    claimed: Claimed,
    topic: Option<Arc<Topic>>,
}

impl Sends {
    /// Makes the message in hand a half message: its properties name the real place.
    pub(super) fn prepare(&mut self, broker: &Shared, seen: &Seen, target: &Target) -> Result<(), Refusal> {
        if broker.live.reject_transaction_message() {
            let remark = format!("the broker[{}] sending transaction message is forbidden", broker.config.broker_ip1);
            return Err(Refusal::new(response::NO_PERMISSION, remark));
        }
        if seen.is_delayed() {
            let remark = "a transactional message cannot be delayed: send it without DELAY and TIMER properties";
            return Err(Refusal::new(response::MESSAGE_ILLEGAL, remark));
        }
        let key = seen.uniq_key.clone().map_or(&[][..], |range| &self.stored[range]);
        let key = String::from_utf8_lossy(key).into_owned();
        transaction::push_half(&mut self.stored, &key, target.topic.name(), target.queue_id);
        Ok(())
    }

    /// Takes one END_TRANSACTION: the outcome joins the batch, or the refusal is the answer.
    pub(super) fn end_transaction(&mut self, broker: &Shared, call: &Call<'_>) -> Result<(), Refusal> {
        let header = EndTransactionHeader::read(&call.request.fields)?;
        let commit = match header.commit_or_rollback {
            flags::TRANSACTION_COMMIT => true,
            flags::TRANSACTION_ROLLBACK => false,
            flags::TRANSACTION_NOT => {
                tracing::debug!("producer {} does not know the outcome yet: it will be asked", call.conn.peer());
                self.wait_for_end(call, self.batch.len());
                return Ok(());
            }
            other => {
                return Err(refuse(format!("commitOrRollback={other} is none of 0, 8 (commit) and 12 (rollback)")));
            }
        };
        let mut bytes = std::mem::take(&mut self.half);
        bytes.clear();
        let result = self.end_half(broker, call, &header, commit, &mut bytes);
        self.half = bytes;
        result
    }

    fn end_half(
        &mut self,
        broker: &Shared,
        call: &Call<'_>,
        header: &EndTransactionHeader<'_>,
        commit: bool,
        bytes: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let half = find(broker, header, bytes)?;
        let view = HalfView::of(half.properties());
        check(broker, header, &half, &view)?;
        let (Some(name), Some(queue_id)) = (view.real_topic, view.real_queue_id) else {
            return Err(refuse("the half message does not say where it goes".into()));
        };
        let claimed = broker.transactions.claim(view.first.unwrap_or(half.queue_offset())).map_err(|why| {
            refuse(match why {
                NotClaimed::Ended => "the transaction has ended before".into(),
                NotClaimed::Busy => "the transaction is being ended or checked at this moment".into(),
            })
        })?;
        let topic = broker.topics.get(name);
        let first = self.batch.len();
        if commit && let Err(refusal) = self.commit(broker, &half, topic.as_deref(), name, queue_id) {
            broker.transactions.restore(claimed);
            return Err(refusal);
        }
        if let Some(topic) = topic.as_ref().filter(|_| commit) {
            self.note_taken(topic, first);
        }
        self.body_bytes += bytes.len();
        self.endings.push(Ending { claimed, topic });
        self.wait_for_end(call, first);
        Ok(())
    }

    /// Notes the answer of an end whose messages begin at `first`.
    fn wait_for_end(&mut self, call: &Call<'_>, first: usize) {
        self.wait(call, first, 0, false, (0, 0));
        if let Some(waiting) = self.waiting.last_mut() {
            waiting.end = true;
        }
    }

    /// Adds the message of a half under its real topic.
    fn commit(
        &mut self,
        broker: &Shared,
        half: &Record<'_>,
        topic: Option<&Topic>,
        name: &str,
        queue_id: u32,
    ) -> Result<(), Refusal> {
        self.stored.clear();
        transaction::committed(half.properties(), &mut self.stored);
        let mut parts = transaction::moved(half, name, queue_id, &self.stored);
        parts.sys_flag = flags::reset_transaction_value(parts.sys_flag, flags::TRANSACTION_COMMIT);
        parts.prepared_transaction_offset = half.physical_offset();
        // A topic that was deleted takes the message all the same, as in RocketMQ: it is there when the topic is again, if
        // that has simple queues. With one that is deleted before the append it is lost, and the answer says so.
        let pushed = match topic.and_then(|topic| topic.queue(&broker.store, queue_id)) {
            Some(queue) => self.batch.push_stored(queue, &parts),
            None => self.batch.push_stored(&broker.store.queue(name, queue_id), &parts),
        };
        pushed.map(drop).map_err(|reject| Refusal::new(response::MESSAGE_ILLEGAL, reject.to_string()))
    }

    /// Appends the batch with the op messages of its ends, and tells the transactions what became of them.
    pub(super) fn append(&mut self, broker: &Shared) -> Result<(), (i32, String)> {
        let halves = self.endings.iter().map(|ending| ending.claimed.offset);
        let appended = broker.transactions.push_ops(broker, &mut self.batch, halves);
        let appended = appended
            .map_err(|reject| (response::MESSAGE_ILLEGAL, reject.to_string()))
            .and_then(|ops| broker.store.append(&mut self.batch).map(|()| ops).map_err(failure));
        let ops = match appended {
            Ok(ops) => ops,
            Err(error) => {
                self.give_back(broker);
                return Err(error);
            }
        };
        let transactions = &broker.transactions;
        if !self.endings.is_empty() {
            transactions.settle(self.endings.iter().map(|ending| &ending.claimed), &ops, self.batch.results());
            let topics = self.endings.iter().filter_map(|ending| ending.topic.as_deref());
            transactions.metrics.add(topics.map(Topic::name), -1);
            self.endings.clear();
        }
        if !self.prepared.is_empty() {
            transactions.prepared(self.prepared.iter().map(|topic| topic.name()));
            self.prepared.clear();
        }
        Ok(())
    }

    /// Lets halves wait again whose outcomes are not written.
    pub(super) fn give_back(&mut self, broker: &Shared) {
        for ending in self.endings.drain(..) {
            broker.transactions.restore(ending.claimed);
        }
        self.prepared.clear();
    }
}

/// The half message a request names. Place and queue offset must belong together: nobody ends what is no half message.
fn find<'b>(broker: &Shared, header: &EndTransactionHeader<'_>, bytes: &'b mut Vec<u8>) -> Result<Record<'b>, Refusal> {
    let not_found = || refuse("Find prepared transaction message failed".into());
    let position = u64::try_from(header.commit_log_offset).map_err(|_| not_found())?;
    broker.store.record_at(position, bytes).ok_or_else(not_found)?;
    let Entry::Record(half) = record::read(bytes) else { return Err(not_found()) };
    if half.topic() != names::TRANS_HALF.as_bytes() {
        return Err(not_found());
    }
    let queue = broker.transactions.half_queue();
    match broker.store.entry(queue, half.queue_offset()) {
        Some(entry) if entry.physical_offset == header.commit_log_offset => Ok(half),
        // Appended a moment ago and not in its queue yet.
        None if half.queue_offset() >= queue.max_offset()
            && half.queue_offset() < queue.next_offset()
            && position + broker.store.dispatch_behind_bytes() >= broker.store.max_physical_offset() =>
        {
            Ok(half)
        }
        _ => Err(not_found()),
    }
}

/// The checks of `EndTransactionProcessor` in its order.
fn check(
    broker: &Shared,
    header: &EndTransactionHeader<'_>,
    half: &Record<'_>,
    view: &HalfView<'_>,
) -> Result<(), Refusal> {
    let immunity = view.immunity_or(broker.transactions.timeout());
    let age = clock::now_millis().saturating_sub(half.born_timestamp());
    if view.has_immunity && !header.from_transaction_check.unwrap_or(false) && age > immunity {
        let remark = format!("the producer's time of {immunity} ms to end the transaction is over, it will be asked");
        return Err(Refusal::new(response::ILLEGAL_OPERATION, remark));
    }
    if view.group != Some(&*header.producer_group.to_str()?) {
        return Err(refuse("The producer group wrong".into()));
    }
    if half.queue_offset() != header.tran_state_table_offset {
        return Err(refuse("The transaction state table offset wrong".into()));
    }
    Ok(())
}

fn refuse(remark: String) -> Refusal {
    Refusal::new(response::SYSTEM_ERROR, remark)
}

/// What a client is told when the store did not take its messages.
fn failure(error: AppendError) -> (i32, String) {
    (response::SERVICE_NOT_AVAILABLE, format!("service not available now. {error}"))
}
