//! CONSUMER_SEND_MSG_BACK (36): a consumer could not handle a message (`AbstractSendMessageProcessor.consumerSendMsgBack`).
//!
//! A copy goes to `%RETRY%group`, by way of a delay level or of the group's own retry policy; after the last try to
//! `%DLQ%group`, with the place it came from. The answer follows when the copy is stored, under SYNC_FLUSH when it is on the
//! disk: the consumer passes the message over afterwards. Nothing is dropped, also for a group without retry queues,
//! whose messages RocketMQ forgets: they are dead letters at once.

use std::sync::Arc;

use ferromq_common::clock;
use ferromq_protocol::body::{GroupRetryPolicy, GroupRetryPolicyType, SubscriptionGroupConfig};
use ferromq_protocol::code::response;
use ferromq_protocol::header::send::ConsumerSendMsgBackHeader;
use ferromq_protocol::properties::{self as text, names};
use ferromq_protocol::record::{self, Entry, MessageParts, Record};
use ferromq_protocol::sys_flag::{message as flags, perm, topic as topic_flags};
use ferromq_protocol::{FrameWriter, Head, id, topic, version};
use ferromq_remoting::Connection;
use ferromq_store::{AppendBatch, Appended, Durability, Queue};

use super::{Call, Refusal};
use crate::broker::Shared;
use crate::properties;
use crate::timer::When;
use crate::topics::Topic;

/// Queues of a dead-letter topic (`DLQ_NUMS_PER_GROUP`).
const DLQ_QUEUES: i32 = 1;
/// The first retry waits as long as this delay level.
const FIRST_LEVEL: i32 = 3;
/// Entry of a customized policy that the first retry waits for.
const FIRST_ENTRY: usize = 2;
/// More doublings make no difference.
const MAX_EXPONENT: u32 = 32;

/// What is asked, with all that needs the request.
struct SendBack {
    group: Arc<SubscriptionGroupConfig>,
    retry: Option<Arc<Topic>>,
    offset: u64,
    delay_level: i32,
    max_reconsume_times: i32,
    head: Head,
    conn: Arc<Connection>,
}

/// Code 36.
pub(crate) fn send_back(broker: &Arc<Shared>, call: &Call<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let header = ConsumerSendMsgBackHeader::read(&call.request.fields)?;
    let asked = check(broker, call, &header)?;
    let end = broker.store.max_physical_offset();
    if end.saturating_sub(asked.offset) <= broker.warm_log_bytes {
        return asked.serve(broker, out);
    }
    call.answer_later(broker, move |broker, _, out| {
        let served = asked.serve(broker, out);
        broker.store.dispatch();
        broker.answer_ready_polls();
        served
    })
}

fn check(broker: &Shared, call: &Call<'_>, header: &ConsumerSendMsgBackHeader<'_>) -> Result<SendBack, Refusal> {
    let name = header.group.to_str()?;
    let group = broker.groups.find(&name).ok_or_else(|| {
        Refusal::new(response::SUBSCRIPTION_GROUP_NOT_EXIST, format!("subscription group not exist, {name}"))
    })?;
    if broker.live.broker_permission() & 2 == 0 {
        let remark = format!("the broker[{}] sending message is forbidden", broker.config.broker_ip1);
        return Err(Refusal::new(response::NO_PERMISSION, remark));
    }
    let retry = match group.retry_queue_nums {
        ..=0 => None,
        queues => {
            let flag = if header.unit_mode { topic_flags::UNIT_SUB } else { 0 };
            Some(made(broker, &topic::retry_topic(&name), queues, flag)?)
        }
    };
    let offset = u64::try_from(header.offset).map_err(|_| gone(header.offset))?;
    // What consumers have of a compacted topic may say where it stands in the copy. Refused, they send the message again
    // themselves.
    let origin = header.origin_topic.map(|name| name.to_str()).transpose()?;
    if origin.and_then(|name| broker.topics.get(&name)).is_some_and(|topic| topic.is_compacted()) {
        return Err(gone(header.offset));
    }
    let asked = header.max_reconsume_times.filter(|_| call.request.head.version >= version::V3_4_9);
    Ok(SendBack {
        max_reconsume_times: asked.unwrap_or(group.retry_max_times),
        group,
        retry,
        offset,
        delay_level: header.delay_level,
        head: call.request.head,
        conn: Arc::clone(call.conn),
    })
}

fn made(broker: &Shared, name: &str, queues: i32, sys_flag: i32) -> Result<Arc<Topic>, Refusal> {
    let topic = broker
        .topics
        .create_if_absent(name, queues, perm::READ | perm::WRITE, false, sys_flag)
        .ok_or_else(|| Refusal::new(response::SYSTEM_ERROR, format!("topic[{name}] not exist")))?;
    if !topic.is_writable() {
        let remark = format!("the topic[{name}] sending message is forbidden");
        return Err(Refusal::new(response::NO_PERMISSION, remark));
    }
    Ok(topic)
}

fn gone(offset: i64) -> Refusal {
    Refusal::new(response::SYSTEM_ERROR, format!("look message by offset failed, {offset}"))
}

impl SendBack {
    /// Stores the copy and answers.
    fn serve(self, broker: &Arc<Shared>, out: &mut Vec<u8>) -> Result<(), Refusal> {
        let mut bytes = Vec::new();
        let found = broker.store.record_at(self.offset, &mut bytes);
        let (Some(_), Entry::Record(record)) = (found, record::read(&bytes)) else {
            return Err(gone(self.offset as i64));
        };
        let from = String::from_utf8_lossy(record.topic());
        // These hold what was not delivered to anybody yet.
        if topic::is_not_allowed_send_topic(&from) {
            let remark = format!("a message of {from} cannot be sent back: no consumer has received it");
            return Err(Refusal::new(response::SYSTEM_ERROR, remark));
        }
        // The consumer sends the one message again that it could not handle.
        if record.sys_flag() & flags::INNER_BATCH != 0 {
            let remark = "a message of an inner batch cannot be sent back: its record holds others that were handled";
            return Err(Refusal::new(response::SYSTEM_ERROR, remark));
        }
        let mut stored = record.properties().to_vec();
        if text::get(&stored, names::RETRY_TOPIC).is_none() {
            text::set(&mut stored, names::RETRY_TOPIC, &from);
        }
        if text::get(&stored, names::ORIGIN_MESSAGE_ID).is_none() {
            let id = id::offset_message_id(record.store_host(), self.offset);
            text::set(&mut stored, names::ORIGIN_MESSAGE_ID, &id);
        }
        let exhausted = record.reconsume_times() >= self.max_reconsume_times || self.delay_level < 0;
        match self.retry.as_ref().filter(|_| !exhausted) {
            None => {
                let name = topic::dlq_topic(&self.group.group_name);
                let dead = made(broker, &name, DLQ_QUEUES, 0)?;
                mark_dead(&mut stored);
                text::set(&mut stored, names::DELAY_TIME_LEVEL, "0");
                tracing::info!(topic = name, origin = %from, offset = self.offset, "a message is dead: its group could not handle it");
                self.store(broker, &record, queue_of(broker, &dead, 0)?, &stored, out)
            }
            Some(retry) => {
                let queues = retry.write_queues().min(self.group.retry_queue_nums.unsigned_abs()).max(1);
                // Positions in the log are as good as random numbers.
                let queue_id = (self.offset / 64 % u64::from(queues)) as u32;
                let times = record.reconsume_times();
                let when = match own_wait(&self.group.group_retry_policy, times).filter(|_| self.delay_level == 0) {
                    Some(wait) if broker.timer.settings.enabled => When::At(clock::now_millis().saturating_add(wait)),
                    _ if self.delay_level == 0 => When::Level(FIRST_LEVEL.saturating_add(times)),
                    _ => When::Level(self.delay_level),
                };
                let waits = broker.timer.divert(retry.name(), queue_id, &mut stored, when)?;
                let queue = match waits {
                    Some(queue) => Arc::clone(queue),
                    None => queue_of(broker, retry, queue_id)?,
                };
                self.store(broker, &record, queue, &stored, out)
            }
        }
    }

    fn store(
        self,
        broker: &Shared,
        record: &Record<'_>,
        queue: Arc<Queue>,
        stored: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        let mut batch = AppendBatch::default();
        let parts = MessageParts {
            store_host: broker.store_host,
            reconsume_times: record.reconsume_times().saturating_add(1),
            ..properties::copy(record, &queue, stored)
        };
        batch.push_stored(&queue, &parts).map_err(|reject| Refusal::new(response::SYSTEM_ERROR, reject.to_string()))?;
        let result = broker.store.append(&mut batch);
        if let Err(error) = result {
            broker.stats.count_put_failed(1);
            return Err(Refusal::new(response::SYSTEM_ERROR, format!("the message is not sent back: {error}")));
        }
        if !batch.results().iter().all(Appended::is_stored) {
            let remark = format!("the message is not sent back: topic {} was deleted at this moment", queue.topic());
            return Err(Refusal::new(response::SYSTEM_ERROR, remark));
        }
        broker.stats.count_put(1, batch.results().iter().map(|message| u64::from(message.size)).sum());
        if !broker.store.is_sync_flush() {
            FrameWriter::response(out, &self.head, response::SUCCESS).finish();
            return Ok(());
        }
        let answer = move |durability: Durability| {
            if self.head.is_oneway() {
                return;
            }
            // A push fails when the client has gone: it sends the message back again, or gets it again.
            let _ = self.conn.push(|out| match durability {
                Durability::Durable => FrameWriter::response(out, &self.head, response::SUCCESS).finish(),
                Durability::TimedOut | Durability::Failed => {
                    let remark = "the message sent back is not on the disk: see the broker's log";
                    Refusal::new(response::SYSTEM_ERROR, remark).write(&self.head, out);
                }
            });
        };
        broker.store.when_durable(batch.end_position(), Box::new(answer));
        Ok(())
    }
}

fn queue_of(broker: &Shared, topic: &Topic, id: u32) -> Result<Arc<Queue>, Refusal> {
    topic
        .queue(&broker.store, id)
        .cloned()
        .ok_or_else(|| Refusal::new(response::SYSTEM_ERROR, format!("topic[{}] has no queue {id}", topic.name())))
}

/// Notes on a dead letter where it came from; of what is known already nothing is changed.
pub(super) fn mark_dead(stored: &mut Vec<u8>) {
    for (mark, sources) in [
        (names::DLQ_ORIGIN_TOPIC, [names::RETRY_TOPIC, names::REAL_TOPIC]),
        (names::DLQ_ORIGIN_MESSAGE_ID, [names::UNIQ_CLIENT_MESSAGE_ID_KEYIDX, names::ORIGIN_MESSAGE_ID]),
    ] {
        let source = sources.iter().find_map(|name| text::get_str(stored, name)).map(str::to_owned);
        if text::get(stored, mark).is_none()
            && let Some(source) = source
        {
            text::push(stored, mark, &source);
        }
    }
}

/// How long the next try waits by a policy that somebody has set, milliseconds; `None` leaves it to the delay levels.
fn own_wait(policy: &GroupRetryPolicy, times: i32) -> Option<i64> {
    let times = u32::try_from(times).unwrap_or(0);
    match policy.r#type {
        GroupRetryPolicyType::Customized => {
            let next = &policy.customized_retry_policy.as_ref()?.next;
            next.get((times as usize).saturating_add(FIRST_ENTRY).min(next.len().checked_sub(1)?)).copied()
        }
        GroupRetryPolicyType::Exponential => {
            let policy = policy.exponential_retry_policy.clone().unwrap_or_default();
            let factor = policy.multiplier.saturating_pow(times.min(MAX_EXPONENT));
            Some(policy.initial.saturating_mul(factor).min(policy.max))
        }
    }
}

#[cfg(test)]
mod tests {
    use ferromq_protocol::body::{CustomizedRetryPolicy, ExponentialRetryPolicy};

    use super::*;

    #[test]
    fn only_a_policy_that_was_set_takes_the_place_of_the_levels() {
        let waits = |policy: &GroupRetryPolicy| [0, 1, 5, i32::MAX].map(|times| own_wait(policy, times));
        assert_eq!(waits(&GroupRetryPolicy::default()), [None; 4]);
        let mut policy = GroupRetryPolicy { r#type: GroupRetryPolicyType::Exponential, ..GroupRetryPolicy::default() };
        assert_eq!(waits(&policy), [Some(5000), Some(10_000), Some(160_000), Some(7_200_000)]);
        policy.exponential_retry_policy = Some(ExponentialRetryPolicy { initial: 10, max: 70, multiplier: 3 });
        assert_eq!(waits(&policy), [Some(10), Some(30), Some(70), Some(70)]);
        let custom = |next: &[i64]| GroupRetryPolicy {
            customized_retry_policy: Some(CustomizedRetryPolicy { next: next.to_vec() }),
            ..GroupRetryPolicy::default()
        };
        assert_eq!(waits(&custom(&[1, 2, 3, 4])), [Some(3), Some(4), Some(4), Some(4)]);
        assert_eq!(waits(&custom(&[7])), [Some(7); 4]);
        assert_eq!(waits(&custom(&[])), [None; 4]);
    }

    #[test]
    fn a_dead_letter_names_its_origin_once() {
        let mut stored = b"UNIQ_KEY\x01U\x02RETRY_TOPIC\x01T\x02".to_vec();
        mark_dead(&mut stored);
        text::set(&mut stored, names::RETRY_TOPIC, "other");
        mark_dead(&mut stored);
        assert_eq!(text::get_str(&stored, names::DLQ_ORIGIN_TOPIC), Some("T"));
        assert_eq!(text::get_str(&stored, names::DLQ_ORIGIN_MESSAGE_ID), Some("U"));
    }
}
