//! Messages that do not go where they were sent to: retries that were tried too often, and what is delivered later.

use std::sync::Arc;

use ferromq_protocol::code::response;
use ferromq_protocol::header::send::SendHeader;
use ferromq_protocol::id::RecallHandle;
use ferromq_protocol::properties::{self as text, names};
use ferromq_protocol::{topic, version};
use ferromq_store::Queue;

use super::{Sends, Target, push_key};
use crate::broker::Shared;
use crate::handler::{Call, Refusal};
use crate::properties::{self, Kind, Seen};
use crate::timer::When;

/// Queues of a dead-letter topic (`DLQ_NUMS_PER_GROUP`).
const DLQ_QUEUES: i32 = 1;

impl Sends {
    /// Lets the answer noted last tell how its timer message is taken back.
    pub(super) fn hand_out_recall(&mut self, broker: &Shared, topic: &str) {
        let out_ms = text::get_str(&self.stored, names::TIMER_OUT_MS).and_then(|out| out.parse::<i64>().ok());
        let (Some(out_ms), Some(waiting)) = (out_ms, self.waiting.last_mut()) else { return };
        let key = &self.uniq_keys[waiting.uniq_key.0 as usize..waiting.uniq_key.1 as usize];
        // One more, because the slot is the time rounded down.
        let key = String::from_utf8_lossy(key);
        let handle = RecallHandle::encode(topic, &broker.config.broker_name, out_ms.saturating_add(1), &key);
        waiting.recall = push_key(&mut self.uniq_keys, handle.as_bytes());
    }
}

/// A retried message that was tried too often, or belongs to an orderly group, goes to the dead letters.
pub(super) fn route_retry(
    broker: &Shared,
    call: &Call<'_>,
    header: &SendHeader<'_>,
    target: Target,
    group: &str,
) -> Result<Target, Refusal> {
    let Some(config) = broker.groups.find(group) else {
        let remark = format!("subscription group not exist, {group}");
        return Err(Refusal::new(response::SUBSCRIPTION_GROUP_NOT_EXIST, remark));
    };
    let asked = header.max_reconsume_times.filter(|_| call.request.head.version >= version::V3_4_9);
    let max = asked.unwrap_or(config.retry_max_times);
    if target.reconsume_times <= max && !broker.locks.holds_any(group, std::time::Instant::now()) {
        return Ok(target);
    }
    let name = topic::dlq_topic(group);
    let dead = broker
        .topics
        .create_if_absent(&name, DLQ_QUEUES, 6, false, 0)
        .ok_or_else(|| Refusal::new(response::SYSTEM_ERROR, format!("topic[{name}] not exist")))?;
    Ok(Target { topic: dead, queue_id: 0, dead_letter: true, ..target })
}

/// The queue in which a message waits that is not to be delivered now.
pub(super) fn divert<'b>(
    broker: &'b Shared,
    target: &Target,
    stored: &mut Vec<u8>,
    seen: &mut Seen,
) -> Result<Option<&'b Arc<Queue>>, Refusal> {
    let when = match seen.kind {
        Kind::Delay => When::Level(seen.delay_level),
        Kind::Timer => When::At(broker.timer.asked_time(stored)?),
        _ => return Ok(None),
    };
    let queue = broker.timer.divert(target.topic.name(), target.queue_id, stored, when)?;
    let no_wait = seen.no_wait;
    *seen = properties::look(stored);
    seen.no_wait = no_wait;
    Ok(queue)
}
