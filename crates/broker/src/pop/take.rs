//! Popping: messages of one topic are handed to a group, with what their receipt handles are made of.
//!
//! One queue after the other is read behind the group's offset, its retry topic first or last; the messages of each queue
//! become one check point in the log before they leave (RocketMQ's `PopMessageProcessor`). While a queue is looked at no
//! other pop of the group looks at it; that takes microseconds. The answer need not wait for the disk: a crash that takes
//! the check point back takes the offset back too (`Pops::settle`), and the messages are popped again.

use std::sync::Arc;
use std::time::Instant;

use ferromq_common::clock;
use ferromq_protocol::body::SubscriptionGroupConfig;
use ferromq_protocol::code::response;
use ferromq_protocol::pop::{self, Origin, ReceiptHandle};
use ferromq_store::{CqEntry, Queue, ReadOutcome, ReadStatus};

use super::check_point::{CheckPoint, Key};
use super::log::{self, with_writer};
use super::popped::Popped;
use super::queue::PopQueue;
use super::sources::{Walk, sources, watched};
use super::{rate, records};
use crate::broker::Shared;
use crate::filter::Filter;
use crate::groups::refuse_paused;
use crate::handler::Refusal;
use crate::handler::offset::no_room;
use crate::offsets::Committed;
use crate::topics::Topic;

/// When a queue with too many messages in flight is looked at again, milliseconds.
const FULL_PAUSE_MS: i64 = 1000;

/// Most messages of one pop.
pub(crate) const MAX_MESSAGES: i32 = pop::MAX_MESSAGES as i32;
/// Longest invisible time, milliseconds: RocketMQ's timer takes three days at most.
pub(crate) const MAX_INVISIBLE_MS: i64 = 3 * 86_400_000;
/// `initMode` of a group that starts with the oldest message.
const INIT_OLDEST: i32 = 0;

/// What one pop asks for; checked by [`check`].
#[derive(Clone, Debug)]
pub(crate) struct PopRequest {
    pub topic: Arc<str>,
    pub group: Arc<str>,
    /// `None`: all queues.
    pub queue_id: Option<u32>,
    pub max_messages: u32,
    pub invisible_ms: i64,
    pub init_mode: i32,
    pub filter: Filter,
    pub order: bool,
    pub attempt_id: Option<Box<str>>,
}

/// Checks that topic and group may be popped, in RocketMQ's order; both.
pub(crate) fn check(
    broker: &Shared,
    topic_name: &str,
    group_name: &str,
    queue_id: i32,
    what: &str,
) -> Result<(Arc<Topic>, Arc<SubscriptionGroupConfig>), Refusal> {
    if broker.live.broker_permission() & 4 == 0 {
        let remark = format!("the broker[{}] {what} message is forbidden", broker.config.broker_ip1);
        return Err(Refusal::new(response::NO_PERMISSION, remark));
    }
    let topic = broker.topics.get(topic_name).ok_or_else(|| {
        Refusal::new(response::TOPIC_NOT_EXIST, format!("topic[{topic_name}] not exist, apply first please!"))
    })?;
    if !topic.is_readable() {
        let remark = format!("the topic[{topic_name}] {what} message is forbidden");
        return Err(Refusal::new(response::NO_PERMISSION, remark));
    }
    if u32::try_from(queue_id).is_ok_and(|id| id >= topic.read_queues()) {
        let queues = topic.read_queues();
        let remark =
            format!("queueId[{queue_id}] is illegal, topic:[{topic_name}] topicConfig.readQueueNums:[{queues}]");
        return Err(Refusal::new(response::INVALID_PARAMETER, remark));
    }
    let group = broker.groups.find(group_name).ok_or_else(|| {
        let remark = format!("subscription group [{group_name}] does not exist");
        Refusal::new(response::SUBSCRIPTION_GROUP_NOT_EXIST, remark)
    })?;
    refuse_paused(&group)?;
    Ok((topic, group))
}

/// Checks how long messages may stay invisible.
pub(crate) fn check_invisible_time(millis: i64, least: i64) -> Result<(), Refusal> {
    if (least..=MAX_INVISIBLE_MS).contains(&millis) {
        return Ok(());
    }
    let remark = format!("invisibleTime[{millis}] is illegal, it must be {least} to {MAX_INVISIBLE_MS} milliseconds");
    Err(Refusal::new(response::INVALID_PARAMETER, remark))
}

/// Whether messages that the pop would hand out may have to come from the disk.
pub(crate) fn is_cold(broker: &Shared, request: &PopRequest) -> bool {
    let log = broker.store.max_physical_offset() - broker.store.min_physical_offset();
    log > broker.warm_log_bytes
        && sources(broker, request, Walk::default()).any(|(_, queue)| {
            let offset = broker.offsets.query(queue.topic(), &request.group, queue.id()).unwrap_or(0);
            (queue.min_offset()..queue.max_offset()).contains(&offset) && !broker.store.is_in_memory(&queue, offset)
        })
}

/// Whether a message waits behind the group's offsets and may be popped now: the answer of a notification.
pub(crate) fn has_message(broker: &Shared, request: &PopRequest) -> bool {
    let now = clock::now_millis();
    let group = broker.groups.get(&request.group);
    let may_read = rate::held_until(rate::limit_of(broker, group.as_deref()).as_deref(), now).is_none();
    may_read
        && watched(broker, request).iter().any(|queue| {
            let committed = broker.offsets.query(queue.topic(), &request.group, queue.id());
            let blocked = request.order && broker.order_pops.blocked_until(request, queue.id(), now).is_some();
            !blocked && queue.max_offset() > committed.unwrap_or_else(|| queue.min_offset())
        })
}

/// Pops for a group with these settings, if it has any: appends the records to `records`; none for one that has read too
/// fast. One that was paused while it waited is refused.
pub(crate) fn take(
    broker: &Shared,
    request: &PopRequest,
    group: Option<&SubscriptionGroupConfig>,
    records: &mut Vec<u8>,
) -> Result<Popped, Refusal> {
    group.map_or(Ok(()), refuse_paused)?;
    let limit = rate::limit_of(broker, group);
    let now = clock::now_millis();
    if let Some(until) = rate::held_until(limit.as_deref(), now) {
        return Ok(Popped { pop_time: now, blocked_until: Some(until), ..Popped::default() });
    }
    let pops = &broker.pops;
    let turn = pops.turn();
    let walk = Walk::of(broker, request, group, turn);
    let mut sources: Vec<_> = sources(broker, request, walk).collect();
    if walk.retry_first(&broker.config.pop) {
        let own = sources.iter().take_while(|(origin, _)| *origin == Origin::Topic).count();
        sources.rotate_left(own);
    }
    let revive_queue = pops.next_revive_queue(turn);
    let mut popped = Popped {
        pop_time: now,
        revive_queue: if request.order { pop::ORDER_REVIVE_QUEUE } else { revive_queue as i32 },
        ..Popped::default()
    };
    let mut refused = None;
    for (origin, queue) in &sources {
        let end = queue.max_offset();
        let committed = broker.offsets.query(queue.topic(), &request.group, queue.id());
        let nothing = committed == Some(end) || popped.count >= request.max_messages;
        if nothing && !broker.offsets.has_reset(queue.topic(), &request.group, queue.id()) {
            popped.rest += (end - committed.unwrap_or_else(|| would_begin(broker, request, queue))).max(0);
            continue;
        }
        let before = (popped.count, records.len());
        let taken = take_from(broker, request, (*origin, queue), revive_queue, &mut popped, records);
        if let Err(refusal) = taken {
            // Others may have messages all the same.
            refused.get_or_insert(refusal);
        }
        if popped.count > before.0
            && let Some(flow) = broker.rates.read_by(queue.topic(), &request.group)
        {
            flow.count(u64::from(popped.count - before.0), (records.len() - before.1) as u64);
        }
    }
    if let Some(refusal) = refused.filter(|_| popped.count == 0) {
        return Err(refusal);
    }
    broker.stats.count_pull(u64::from(popped.count));
    if let Some(limit) = limit.filter(|_| popped.count > 0) {
        limit.charge(u64::from(popped.count), Instant::now());
    }
    Ok(popped)
}

/// What a pop would hand out from queues it did not look at before: nothing is taken, no offset moves.
pub(crate) fn peek(broker: &Shared, request: &PopRequest, records: &mut Vec<u8>) -> Popped {
    let turn = broker.pops.turn();
    let mut found = Popped { pop_time: clock::now_millis(), ..Popped::default() };
    for (_, queue) in sources(broker, request, Walk { turn, by_priority: false }) {
        let committed = broker.offsets.query(queue.topic(), &request.group, queue.id());
        let offset = committed.unwrap_or_default().max(queue.min_offset());
        found.rest += (queue.max_offset() - offset).max(0);
        let left = request.max_messages.saturating_sub(found.count);
        if left > 0 {
            found.count += read(broker, request, &queue, offset, left, records).count;
        }
    }
    found
}

/// Pops from one queue; a refusal has taken nothing from it.
fn take_from(
    broker: &Shared,
    request: &PopRequest,
    (origin, queue): (Origin, &Arc<Queue>),
    revive_queue: u32,
    popped: &mut Popped,
    records: &mut Vec<u8>,
) -> Result<(), Refusal> {
    let (topic, group) = (queue.topic(), &*request.group);
    let pop_queue = broker.pops.queue(topic, group, queue.id())?;
    let _taking = pop_queue.taking.lock();
    let mut offset = start_offset(broker, request, queue)?;
    if request.order
        && let Some(until) = broker.order_pops.blocked_until(request, queue.id(), popped.pop_time)
    {
        popped.look_again(until);
        return Ok(());
    }
    if broker.live.pop_inflight_limit().is_some_and(|limit| pop_queue.in_flight() > limit) {
        // What is acknowledged or comes back makes room: those that wait look again in a while.
        popped.look_again(popped.pop_time.saturating_add(FULL_PAUSE_MS));
        popped.rest += (queue.max_offset() - offset).max(0);
        return Ok(());
    }
    let before = records.len();
    let left = request.max_messages.saturating_sub(popped.count);
    let mut outcome = read(broker, request, queue, offset, left, records);
    if let ReadStatus::OffsetTooSmall | ReadStatus::OffsetOverflowBadly | ReadStatus::OffsetFoundNull = outcome.status {
        tracing::warn!(
            "group {group} stood at {offset} of {topic}/{}, which has {} to {}; it goes on at {}",
            queue.id(),
            outcome.min_offset,
            outcome.max_offset,
            outcome.next_offset
        );
        offset = outcome.next_offset;
        broker.offsets.commit(topic, group, queue.id(), offset);
        outcome = read(broker, request, queue, offset, left, records);
    }
    if outcome.count == 0 {
        if let ReadStatus::NoMatchedMessage | ReadStatus::MessageWasRemoving = outcome.status {
            broker.offsets.commit(topic, group, queue.id(), outcome.next_offset);
        }
        let rest = (outcome.max_offset - outcome.next_offset).max(0);
        if rest > 0 {
            // What lies behind messages that the filter passed by wakes nobody: the next sweep looks on.
            popped.look_again(popped.pop_time);
        }
        popped.rest += rest;
        return Ok(());
    }
    let offsets = records::queue_offsets(&records[before..], queue);
    let pop_time = if request.order {
        let _gate = broker.pops.gate.read();
        let stored = with_writer(|writer| {
            writer.order_pop(broker, &pop_queue, (offset, popped.pop_time), request.invisible_ms, &offsets)?;
            writer.append(broker).map(drop).map_err(log::refused)
        });
        if let Err(refusal) = stored {
            records.truncate(before);
            popped.rest += outcome.max_offset - offset;
            return Err(refusal);
        }
        let counts = broker.order_pops.popped(request, queue.id(), popped.pop_time, &offsets);
        if !popped.order_count_info.is_empty() {
            popped.order_count_info.push(';');
        }
        popped.order_count_info.push_str(&counts);
        broker.offsets.commit(topic, group, queue.id(), offset);
        popped.pop_time
    } else {
        let pop_time = popped.pop_time;
        let key = (offset, pop_time);
        if pop_queue.check_point(key).is_some() {
            // The same message twice in one millisecond, after a reset: the next pop has another time.
            records.truncate(before);
            popped.rest += outcome.max_offset - offset;
            popped.look_again(popped.pop_time);
            return Ok(());
        }
        let due = pop_time + request.invisible_ms;
        let commit = || {
            broker.offsets.commit(topic, group, queue.id(), outcome.next_offset);
        };
        if let Err(refusal) = hand_out(broker, &pop_queue, revive_queue, key, due, &offsets, commit) {
            records.truncate(before);
            popped.rest += outcome.max_offset - offset;
            return Err(refusal);
        }
        pop_time
    };
    popped.count += outcome.count;
    popped.rest += (outcome.max_offset - outcome.next_offset).max(0);
    pop::begin_part(&mut popped.start_offset_info, origin, format_args!("{}", queue.id()));
    pop::push_offsets(&mut popped.start_offset_info, &[offset]);
    pop::begin_part(&mut popped.msg_offset_info, origin, format_args!("{}", queue.id()));
    pop::push_offsets(&mut popped.msg_offset_info, &offsets);
    if origin != Origin::Topic && !broker.config.pop.pop_response_return_actual_retry_topic {
        let handle = ReceiptHandle {
            start_offset: offset,
            pop_time,
            invisible_time: request.invisible_ms,
            revive_queue: popped.revive_queue,
            origin,
            broker_name: &broker.config.broker_name,
            queue_id: Some(queue.id() as i32),
            queue_offset: None,
        };
        records::rename(records, before, &request.topic, handle);
    }
    Ok(())
}

/// Appends a check point, enters it and commits the offset, so that no file can have one without the other.
fn hand_out(
    broker: &Shared,
    pop_queue: &Arc<PopQueue>,
    revive_queue: u32,
    key: Key,
    due: i64,
    offsets: &[i64],
    commit: impl FnOnce(),
) -> Result<(), Refusal> {
    if broker.pops.is_full() {
        let remark = "[OVERLOAD]system busy, too many popped messages wait for their acknowledgement";
        return Err(Refusal::new(response::SYSTEM_BUSY, remark));
    }
    let _gate = broker.pops.gate.read();
    with_writer(|writer| {
        writer.check_point(broker, revive_queue, pop_queue, key, due - key.1, Some(offsets))?;
        let revive_offset = writer.append(broker).map_err(log::refused)?.first().map_or(0, |at| at.queue_offset);
        broker.pops.appended_to(writer.batch.end_position());
        broker.pops.insert(pop_queue, key, CheckPoint::new(key, revive_queue, revive_offset, due, offsets));
        Ok::<(), Refusal>(())
    })?;
    commit();
    Ok(())
}

fn read(
    broker: &Shared,
    request: &PopRequest,
    queue: &Queue,
    offset: i64,
    max: u32,
    records: &mut Vec<u8>,
) -> ReadOutcome {
    let mut wanted = |entry: &CqEntry| request.filter.wants_entry(&broker.store, queue, entry);
    broker.store.read(queue, offset, max, u32::MAX, &mut wanted, records)
}

/// Where the group's pop of a queue begins; a group without an offset gets one, which is committed at once.
fn start_offset(broker: &Shared, request: &PopRequest, queue: &Queue) -> Result<i64, Refusal> {
    let (topic, group) = (queue.topic(), &*request.group);
    if let Some(reset) = broker.offsets.take_reset(topic, group, queue.id()) {
        broker.order_pops.clear(topic, group, queue.id());
        broker.offsets.commit(topic, group, queue.id(), reset);
        return Ok(reset);
    }
    broker.offsets.query(topic, group, queue.id()).map_or_else(|| first_offset(broker, request, queue), Ok)
}

/// Where a group without an offset begins; it has one from now on. Refused without room for it: the group would pop the same
/// messages for ever.
pub(crate) fn first_offset(broker: &Shared, request: &PopRequest, queue: &Queue) -> Result<i64, Refusal> {
    let offset = would_begin(broker, request, queue);
    match broker.offsets.commit(queue.topic(), &request.group, queue.id(), offset) {
        Committed::Full => Err(no_room()),
        Committed::Stored | Committed::Reset => Ok(offset),
    }
}

/// Where a group without an offset would begin.
fn would_begin(broker: &Shared, request: &PopRequest, queue: &Queue) -> i64 {
    if request.init_mode == INIT_OLDEST || ferromq_protocol::topic::is_retry_topic(queue.topic()) {
        queue.min_offset()
    } else if broker.config.pop.init_pop_offset_by_check_msg_in_mem
        && queue.min_offset() <= 0
        && broker.store.is_in_memory(queue, 0)
    {
        0
    } else {
        (queue.max_offset() - 1).max(0)
    }
}
