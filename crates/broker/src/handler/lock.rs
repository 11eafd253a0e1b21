//! Queue locks of orderly consumers: taking and giving up.

use std::sync::Arc;
use std::time::Instant;

use ferromq_protocol::body::{LockBatchRequestBody, LockBatchResponseBody, MessageQueue, UnlockBatchRequestBody};
use ferromq_protocol::code::response;
use ferromq_protocol::{json, topic as names};

use super::{Call, Refusal};
use crate::broker::Shared;
use crate::clients::MAX_CLIENT_ID_BYTES;

/// Longest name of a broker in a queue that is locked.
const MAX_BROKER_NAME_BYTES: usize = 255;

/// LOCK_BATCH_MQ (41): the answer lists the queues the client holds now.
pub(crate) fn lock_batch(broker: &Arc<Shared>, call: &Call<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let body: LockBatchRequestBody = json::from_slice(call.request.body).map_err(unreadable)?;
    check(&body.consumer_group, &body.client_id)?;
    let queues = body.mq_set.into_iter().filter(is_nameable).collect();
    let granted = broker.locks.lock_batch(&body.consumer_group, queues, &body.client_id, Instant::now());
    call.respond_json(out, &LockBatchResponseBody { lock_ok_mq_set: granted.into_iter().collect() })
}

/// UNLOCK_BATCH_MQ (42).
pub(crate) fn unlock_batch(broker: &Arc<Shared>, call: &Call<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let body: UnlockBatchRequestBody = json::from_slice(call.request.body).map_err(unreadable)?;
    let queues: Vec<_> = body.mq_set.into_iter().filter(is_nameable).collect();
    broker.locks.unlock_batch(&body.consumer_group, &queues, &body.client_id);
    call.respond(out, response::SUCCESS).finish();
    Ok(())
}

/// Whether there can be such a queue; names of any length would cost memory.
fn is_nameable(queue: &MessageQueue) -> bool {
    queue.topic.len() <= names::MAX_TOPIC_LEN && queue.broker_name.len() <= MAX_BROKER_NAME_BYTES
}

fn unreadable(error: impl std::fmt::Display) -> Refusal {
    Refusal::new(response::SYSTEM_ERROR, format!("the list of queues cannot be read: {error}"))
}

fn check(group: &str, client_id: &str) -> Result<(), Refusal> {
    names::validate_group(group).map_err(|e| Refusal::new(response::SYSTEM_ERROR, e.to_string()))?;
    if client_id.is_empty() || client_id.len() > MAX_CLIENT_ID_BYTES {
        let remark = format!("a lock needs a clientId of 1 to {MAX_CLIENT_ID_BYTES} bytes");
        return Err(Refusal::new(response::SYSTEM_ERROR, remark));
    }
    Ok(())
}
