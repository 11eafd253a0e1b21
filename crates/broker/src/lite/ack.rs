//! Acknowledging messages of lite topics, and changing when they may be popped again (`AckMessageProcessor.ackLite`,
//! `ChangeInvisibleTimeProcessor.processChangeInvisibleTimeForLite`). Nothing is logged: the group's offset says what is done.

use ferromq_common::clock;
use ferromq_protocol::code::response;
use ferromq_protocol::pop::{ORDER_REVIVE_QUEUE, ReceiptHandle};
use ferromq_protocol::topic;

use super::{Lites, QUEUE_ID, take};
use crate::broker::Shared;
use crate::handler::Refusal;
use crate::offsets::with_pair;
use crate::pop::ack::Changed;
use crate::pop::order::Acked;

/// A message as its client names it.
pub(crate) struct LiteMessage<'a> {
    pub parent: &'a str,
    pub lite: &'a str,
    pub group: &'a str,
    pub queue_id: i32,
    pub offset: i64,
    pub handle: ReceiptHandle<'a>,
}

impl LiteMessage<'_> {
    /// The queue's name, if a message of this offset can be there.
    fn queue(&self, broker: &Shared) -> Result<String, Refusal> {
        let name = topic::lite_queue(self.parent, self.lite);
        let end = broker.store.find_queue(&name, QUEUE_ID).map_or(0, |queue| queue.max_offset());
        if (0..=end).contains(&self.offset) {
            return Ok(name);
        }
        let remark = format!("ack offset illegal: {} of {name}, which ends at {end}", self.offset);
        Err(Refusal::new(response::NO_MESSAGE, remark))
    }

    /// Where the group stands if the message is not done.
    fn committed_before(&self, broker: &Shared, queue: &str) -> Option<i64> {
        let committed = broker.offsets.query(queue, self.group, QUEUE_ID).unwrap_or(0);
        (committed <= self.offset).then_some(committed)
    }
}

/// Acknowledges a message; the group's offset moves behind what is acknowledged without a gap.
pub(crate) fn acknowledge(broker: &Shared, message: &LiteMessage<'_>) -> Result<(), Refusal> {
    let group = message.group;
    if !take::is_bound(broker, group, message.parent) {
        return Err(Refusal::new(response::INVALID_PARAMETER, "group type or bind topic not match."));
    }
    let queue = message.queue(broker)?;
    if message.queue_id != QUEUE_ID as i32 || message.handle.revive_queue != ORDER_REVIVE_QUEUE {
        return Err(Refusal::new(response::INVALID_PARAMETER, "ack queue illegal."));
    }
    {
        let _taking = broker.lites.taking(&queue, group);
        let Some(committed) = message.committed_before(broker, &queue) else { return Ok(()) };
        let place = (queue.as_str(), group, QUEUE_ID);
        match broker.lites.orders.acknowledge(place, committed, message.offset, message.handle.pop_time) {
            // While a reset waits, nothing is committed.
            Acked::Commit(next) => broker.offsets.commit(&queue, group, QUEUE_ID, next),
            // It was popped again meanwhile, or is popped again: who has it then acknowledges it.
            Acked::Stale => return Ok(()),
            Acked::NotPopped => return Err(Refusal::new(response::MESSAGE_ILLEGAL, "ack offset illegal.")),
        };
    }
    broker.lites.tell(broker, &queue, Some(group), "");
    Ok(())
}

/// Changes when a message, or with `suspend` all of its pop as if they had not been popped, may be popped again; its handle
/// stays. `None`: it is acknowledged already.
pub(crate) fn change_invisible_time(
    broker: &Shared,
    message: &LiteMessage<'_>,
    invisible_ms: i64,
    suspend: bool,
) -> Result<Option<Changed>, Refusal> {
    let queue = message.queue(broker)?;
    let (group, pop_time) = (message.group, message.handle.pop_time);
    let lites = &broker.lites;
    let visible_at = clock::now_millis().saturating_add(invisible_ms);
    {
        let _taking = lites.taking(&queue, group);
        if message.committed_before(broker, &queue).is_none() {
            return Ok(None);
        }
        let place = (&*queue, group, QUEUE_ID);
        match suspend {
            true => lites.orders.suspend(place, pop_time, visible_at),
            false => lites.orders.set_visible_at(place, message.offset, pop_time, visible_at),
        }
    }
    if invisible_ms > 0 {
        lites.unlock_at(&queue, group, visible_at);
    } else {
        lites.tell(broker, &queue, Some(group), "");
    }
    let invisible_time = visible_at.saturating_sub(pop_time);
    Ok(Some(Changed { pop_time, invisible_time, revive_queue: message.handle.revive_queue, end_position: 0 }))
}

impl Lites {
    /// The queue is looked at again for the group at this time, milliseconds since 1970.
    pub(super) fn unlock_at(&self, queue: &str, group: &str, at: i64) {
        with_pair(queue, group, |pair| self.state.lock().unlocks.schedule(pair, at));
    }

    pub(super) fn is_blocked(&self, queue: &str, group: &str, now: i64) -> bool {
        self.orders.free_at(queue, group, QUEUE_ID, now).is_some()
    }
}
