//! PULL_MESSAGE (11) and LITE_PULL_MESSAGE (361).
//!
//! Checks in the order of RocketMQ's `PullMessageProcessor`, then one read of the queue: entries are screened by tag
//! hash and the stored records go out byte for byte. Nothing there and the client may wait: the pull is parked
//! (`longpoll.rs`) and answered once, by arrival or deadline, without being parked again. Data that is not in memory
//! is read by a helper thread, so that the reading of sockets never waits for a disk. A `liteTopic` is read from its light
//! queue, whose offsets the answer has.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferromq_protocol::body::SubscriptionGroupConfig;
use ferromq_protocol::code::response;
use ferromq_protocol::header::pull::{PullHeader, PullResponseHeader};
use ferromq_protocol::sys_flag::pull as flags;
use ferromq_protocol::{FrameWriter, Head};
use ferromq_remoting::Connection;
use ferromq_store::{CqEntry, Queue, ReadOutcome, ReadStatus};

use super::{Call, Refusal};
use crate::broadcast;
use crate::broker::Shared;
use crate::clients::Subscription;
use crate::filter::Filter;
use crate::limits::Bucket;
use crate::longpoll::Parked;
use crate::rates::Flow;

/// Longest time a pull is parked, whatever its client asks.
const MAX_SUSPEND: Duration = Duration::from_secs(120);

/// A pull from a lite topic that is not there is answered after this time, at the latest.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Remark of an answer with records.
const FOUND: &str = "FOUND";
/// Most messages an answer is expected to have: RocketMQ's default.
const LIKELY_MESSAGES: u32 = 32;

mod check;

use check::{Refused, check};

/// Where a pull's filter comes from.
pub(crate) enum Wanted {
    /// From the group's heartbeats.
    Registered(Arc<Subscription>),
    /// From the request.
    Given(Filter),
}

impl Wanted {
    pub fn filter(&self) -> &Filter {
        match self {
            Wanted::Registered(subscription) => &subscription.filter,
            Wanted::Given(filter) => filter,
        }
    }
}

/// A pull that has passed all checks: what is needed to read and answer, now or later.
pub(crate) struct Pull {
    pub head: Head,
    pub queue: Arc<Queue>,
    pub offset: i64,
    pub wanted: Wanted,
    max_messages: u32,
    topic_sys_flag: i32,
    group: Arc<SubscriptionGroupConfig>,
    /// The queue is a light one of its topic, with offsets of its own.
    is_light: bool,
    /// Counts what is handed out.
    read: Option<Arc<Flow>>,
    /// How fast the group may read.
    limit: Option<Arc<Bucket>>,
    /// Whether the group's reading of old messages is counted.
    is_counted: bool,
}

/// Codes 11 and 361.
pub(crate) fn pull(broker: &Arc<Shared>, call: &Call<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let header = PullHeader::read(&call.request.fields)?;
    let (topic, group) = (header.topic.to_str()?, header.consumer_group.to_str()?);
    let pull = match check(broker, call, &header, &topic, &group) {
        Ok(pull) => pull,
        Err(refused) if refused.may_wait() && header.sys_flag & flags::SUSPEND != 0 => {
            // It is asked for again until its lite topic has a first message.
            let wait = suspend_time(broker, header.suspend_timeout_millis).min(LOOK_AGAIN);
            let (conn, head) = (Arc::clone(call.conn), call.request.head);
            return broker.lites.answer_later(wait, move || {
                // A push fails when the client has gone.
                let _ = conn.push(|out| refused.write(&head, out));
            });
        }
        Err(refused) => {
            refused.write(&call.request.head, out);
            return Ok(());
        }
    };
    let queue_id = pull.queue.id();
    if header.sys_flag & flags::COMMIT_OFFSET != 0 && header.commit_offset >= 0 {
        broker.offsets.commit(&topic, &group, queue_id, header.commit_offset);
    }
    let reset = broker.live.use_server_side_reset_offset().then(|| broker.offsets.take_reset(&topic, &group, queue_id));
    if let Some(offset) = broadcast::follow(broker, call.conn, &header, &pull.queue, &group, reset.flatten()) {
        let offsets = [offset, pull.queue.min_offset(), pull.queue.max_offset()];
        pull.write_header(response::PULL_OFFSET_MOVED, "OFFSET_RESET", offsets, 0, out);
        return Ok(());
    }
    let too_fast = pull.limit.as_ref().and_then(|limit| limit.wait(Instant::now()));
    let too_cold = pull.is_counted && is_cold(broker, &pull);
    if let Some(wait) = too_fast.max(too_cold.then(|| broker.cold.wait(broker, &group)).flatten()) {
        let (shared, conn) = (Arc::clone(broker), Arc::clone(call.conn));
        return broker.limits.hold(wait, move || {
            let _ = read_later(&shared, conn, pull);
        });
    }
    let suspend = (header.sys_flag & flags::SUSPEND != 0).then(|| suspend_time(broker, header.suspend_timeout_millis));
    serve(broker, call.conn, pull, suspend, out)
}

/// Answers a parked pull, once: it has been woken or its time is over.
pub(crate) fn resume(broker: &Arc<Shared>, parked: Parked) {
    if is_cold(broker, &parked.pull) {
        // When too many wait already, the client asks again after its own time-out.
        let _ = read_later(broker, parked.conn, parked.pull);
    } else {
        push_answer(broker, &parked.conn, &parked.pull);
    }
}

/// Whether the messages of a pull may have to come from the disk.
fn is_cold(broker: &Shared, pull: &Pull) -> bool {
    let log = broker.store.max_physical_offset() - broker.store.min_physical_offset();
    // A compacted queue is read from the first message behind the offset.
    let first = if pull.queue.is_compacted() { i64::MIN } else { pull.queue.min_offset() };
    log > broker.warm_log_bytes
        && (first..pull.queue.max_offset()).contains(&pull.offset)
        && !broker.store.is_in_memory(&pull.queue, pull.offset)
}

/// Lets the thread that may wait for a disk read and answer.
fn read_later(broker: &Arc<Shared>, conn: Arc<Connection>, pull: Pull) -> Result<(), Refusal> {
    let shared = Arc::clone(broker);
    broker.blocking.run(move || push_answer(&shared, &conn, &pull))
}

fn push_answer(broker: &Shared, conn: &Connection, pull: &Pull) {
    if let Err(refusal) = broker.groups.refuse_paused(&pull.group.group_name) {
        let _ = conn.push(|out| Refused::paused(refusal).write(&pull.head, out));
        return;
    }
    // A push fails when the client has gone or reads nothing; it will pull again from the same offset.
    let _ = conn.push(|out| {
        let (outcome, header) = pull.read(broker, out);
        pull.answer(&outcome, header, out);
    });
}

/// Reads and answers, or parks the pull when nothing is there and it may wait.
fn serve(
    broker: &Arc<Shared>,
    conn: &Arc<Connection>,
    pull: Pull,
    suspend: Option<Duration>,
    out: &mut Vec<u8>,
) -> Result<(), Refusal> {
    if is_cold(broker, &pull) {
        return read_later(broker, Arc::clone(conn), pull);
    }
    let (outcome, header) = pull.read(broker, out);
    match suspend {
        Some(suspend) if pull.judge(&outcome).0 == response::PULL_NOT_FOUND => {
            out.truncate(header.start);
            park(broker, conn, pull, suspend)
        }
        _ => {
            pull.answer(&outcome, header, out);
            Ok(())
        }
    }
}

fn park(broker: &Arc<Shared>, conn: &Arc<Connection>, pull: Pull, suspend: Duration) -> Result<(), Refusal> {
    let deadline = Instant::now() + suspend;
    let parked = Parked { conn: Arc::clone(conn), pull, deadline };
    broker.polls.park(parked).map_err(|_| {
        let remark = "[OVERLOAD]system busy, too many pull requests wait for messages";
        Refusal::new(response::SYSTEM_BUSY, remark)
    })?;
    // It may be ready already.
    broker.answer_ready_polls();
    Ok(())
}

fn suspend_time(broker: &Shared, asked_millis: i64) -> Duration {
    let asked = || u64::try_from(asked_millis).unwrap_or(0);
    let millis = broker.live.short_polling_mills().unwrap_or_else(asked);
    Duration::from_millis(millis).min(MAX_SUSPEND)
}

impl Pull {
    /// Appends records behind a header that says what is likely; what was found, and where that header stands.
    fn read(&self, broker: &Shared, out: &mut Vec<u8>) -> (ReadOutcome, Range<usize>) {
        let (start, max) = (out.len(), self.queue.max_offset());
        let next = self.offset.saturating_add(self.max_messages.min(LIKELY_MESSAGES).into()).min(max);
        self.write_header(response::SUCCESS, FOUND, [next, self.queue.min_offset(), max], 0, out);
        let header = start..out.len();
        let mut wanted = |entry: &CqEntry| self.wanted.filter().wants_entry(&broker.store, &self.queue, entry);
        let outcome = broker.store.read(&self.queue, self.offset, self.max_messages, u32::MAX, &mut wanted, out);
        let bytes = (out.len() - header.end) as u64;
        broker.stats.count_pull(u64::from(outcome.count));
        if let Some(flow) = &self.read {
            if !self.is_light {
                flow.note_pulled(self.queue.id(), outcome.next_offset);
            }
            if outcome.count > 0 {
                flow.count(u64::from(outcome.count), bytes);
            }
        }
        if self.is_counted && outcome.cold {
            broker.cold.count(&self.group.group_name, bytes);
        }
        if let Some(limit) = self.limit.as_ref().filter(|_| outcome.count > 0) {
            limit.charge(u64::from(outcome.count), Instant::now());
        }
        (outcome, header)
    }

    /// The response code of what the store found (`composeResponseHeader`), and its name in RocketMQ.
    fn judge(&self, outcome: &ReadOutcome) -> (i32, &'static str) {
        match outcome.status {
            ReadStatus::Found => (response::SUCCESS, FOUND),
            ReadStatus::NoMatchedMessage => (response::PULL_RETRY_IMMEDIATELY, "NO_MATCHED_MESSAGE"),
            ReadStatus::MessageWasRemoving => (response::PULL_RETRY_IMMEDIATELY, "MESSAGE_WAS_REMOVING"),
            ReadStatus::NoMessageInQueue if self.offset == 0 => (response::PULL_NOT_FOUND, "NO_MESSAGE_IN_QUEUE"),
            ReadStatus::NoMessageInQueue => (response::PULL_OFFSET_MOVED, "NO_MESSAGE_IN_QUEUE"),
            ReadStatus::OffsetOverflowOne => (response::PULL_NOT_FOUND, "OFFSET_OVERFLOW_ONE"),
            ReadStatus::OffsetFoundNull => (response::PULL_NOT_FOUND, "OFFSET_FOUND_NULL"),
            ReadStatus::OffsetOverflowBadly => (response::PULL_OFFSET_MOVED, "OFFSET_OVERFLOW_BADLY"),
            ReadStatus::OffsetTooSmall => (response::PULL_OFFSET_MOVED, "OFFSET_TOO_SMALL"),
        }
    }

    /// Puts the true header before the records, where the `likely` one stands. Both are equally long, unless the outcome
    /// is a rare one or a number has gained a digit: so the records need not move.
    fn answer(&self, outcome: &ReadOutcome, likely: Range<usize>, out: &mut Vec<u8>) {
        let (code, remark) = self.judge(outcome);
        let offsets = [outcome.next_offset, outcome.min_offset, outcome.max_offset];
        let end = out.len();
        self.write_header(code, remark, offsets, end - likely.end, out);
        let header = out.len() - end;
        if header == likely.len() {
            out.copy_within(end.., likely.start);
            out.truncate(end);
        } else {
            out[likely.end..].rotate_right(header);
            out.drain(likely);
        }
    }

    /// Appends a frame up to its body of `body` bytes.
    fn write_header(&self, code: i32, remark: &str, [next, min, max]: [i64; 3], body: usize, out: &mut Vec<u8>) {
        let header = PullResponseHeader {
            next_begin_offset: next,
            min_offset: min,
            max_offset: max,
            topic_sys_flag: Some(self.topic_sys_flag),
            group_sys_flag: Some(self.group.group_sys_flag),
            ..PullResponseHeader::default()
        };
        let mut frame = FrameWriter::response(out, &self.head, code);
        header.write(frame.remark(remark));
        frame.finish_before_body(body);
    }
}
