//! The light queues in which a message stands besides its own: those it names, and that of its lite topic.

use std::ops::Range;

use ferromq_protocol::code::response;
use ferromq_protocol::topic as names;
use ferromq_store::Reject;

use super::Target;
use crate::broker::Shared;
use crate::handler::Refusal;
use crate::properties::{self, Seen};

/// Lets a message stand in the light queue of its lite topic; where the property that says so is in its properties.
pub(super) fn push_lite_queue(
    broker: &Shared,
    target: &Target,
    lite: Range<usize>,
    stored: &mut Vec<u8>,
) -> Result<Range<usize>, Refusal> {
    let lite = std::str::from_utf8(&stored[lite]).ok().filter(|lite| names::is_lite_topic(lite)).ok_or_else(|| {
        let remark = "the lite topic (property __LITE_TOPIC) may have letters, digits, hyphens and underscores only";
        Refusal::new(response::MESSAGE_ILLEGAL, remark)
    })?;
    if !broker.store.has_light_queues() {
        let remark = "messages of lite topics want enableLmq=true and enableMultiDispatch=true";
        return Err(Refusal::new(response::MESSAGE_ILLEGAL, remark));
    }
    let queue = names::lite_queue(target.topic.name(), lite);
    let start = stored.len() + b"INNER_MULTI_DISPATCH\x01".len();
    properties::push(stored, "INNER_MULTI_DISPATCH", queue.as_bytes());
    Ok(start..start + queue.len())
}

/// Whether the message may stand in the light queues it names. `text`: its properties.
pub(super) fn check_lights(broker: &Shared, target: &Target, seen: &Seen, text: &[u8]) -> Result<(), Refusal> {
    let Some(list) = &seen.lights else { return Ok(()) };
    let list = String::from_utf8_lossy(&text[list.clone()]);
    broker.store.check_light_queues(target.topic.name(), &list).map_err(|reject| match reject {
        Reject::TooManyLightQueues { .. } => {
            let remark = format!("[LMQ_CONSUME_QUEUE_NUM_EXCEEDED]{reject}");
            Refusal::new(response::LMQ_QUOTA_EXCEEDED, remark)
        }
        reject => Refusal::new(response::MESSAGE_ILLEGAL, reject.to_string()),
    })
}
