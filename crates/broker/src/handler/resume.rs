//! RESUME_CHECK_HALF_MESSAGE (323): a half message that was given up is asked about again.
//!
//! RocketMQ's broker makes a half of any message whose id it is given; here only those of `TRANS_CHECK_MAX_TIME_TOPIC` are
//! taken, so that nobody makes a transaction of another's message, and each of them once: a request that is repeated must not
//! make two messages of one.

use std::sync::Arc;

use ferromq_protocol::FrameWriter;
use ferromq_protocol::code::response;
use ferromq_protocol::header::admin::ResumeCheckHalfMessageHeader;
use ferromq_protocol::id::parse_offset_message_id;
use ferromq_protocol::record::{self, Entry};
use ferromq_protocol::topic::TRANS_CHECK_MAX_TIME;
use ferromq_store::{AppendBatch, Durability};

use super::{Call, Refusal};
use crate::broker::Shared;

/// Code 323.
pub(crate) fn check_half(broker: &Arc<Shared>, call: &Call<'_>, _out: &mut Vec<u8>) -> Result<(), Refusal> {
    let id = ResumeCheckHalfMessageHeader::read(&call.request.fields)?.msg_id;
    let id = id.map(|id| id.to_str()).transpose()?.unwrap_or_default().into_owned();
    let (shared, conn, head) = (Arc::clone(broker), Arc::clone(call.conn), call.request.head);
    let answer = move |outcome: Result<(), Refusal>| {
        // A push fails when the client has gone.
        let _ = conn.push(|out| match outcome {
            Ok(()) => FrameWriter::response(out, &head, response::SUCCESS).finish(),
            Err(refusal) => refusal.write(&head, out),
        });
    };
    broker.blocking.run(move || match resume(&shared, &id) {
        Ok(position) if shared.store.is_sync_flush() => {
            let tell = move |durability| {
                let failed = || failed(&id, "the disk did not sync in time or refused to");
                answer(if matches!(durability, Durability::Durable) { Ok(()) } else { Err(failed()) });
            };
            shared.store.when_durable(position, Box::new(tell));
        }
        outcome => answer(outcome.map(drop)),
    })
}

fn failed(id: &str, why: &str) -> Refusal {
    Refusal::new(response::SYSTEM_ERROR, format!("the half message {id:.100} is not checked again: {why}"))
}

/// Makes it a half message again; where that ends in the log.
fn resume(broker: &Arc<Shared>, id: &str) -> Result<u64, Refusal> {
    let failed = |why: &str| failed(id, why);
    let (_, position) = parse_offset_message_id(id).ok_or_else(|| failed("this is no offset message id"))?;
    let mut bytes = Vec::new();
    broker.store.record_at(position, &mut bytes);
    let Entry::Record(half) = record::read(&bytes) else { return Err(failed("the log has no message there")) };
    if half.topic() != TRANS_CHECK_MAX_TIME.as_bytes() {
        return Err(failed("it is not one of those that were given up"));
    }
    if broker.transactions.was_resumed(&broker.store, &half) {
        tracing::info!("the half message {id} is checked again already");
        return Ok(broker.store.max_physical_offset());
    }
    let mut batch = AppendBatch::default();
    let real_topic = broker.transactions.push_again(&mut batch, &half).map_err(|reject| failed(&reject.to_string()))?;
    broker.store.append(&mut batch).map_err(|error| failed(&error.to_string()))?;
    broker.transactions.note_resumed(position);
    broker.store.dispatch();
    broker.transactions.prepared(std::iter::once(&*real_topic));
    tracing::info!("the half message {id} of topic {real_topic} is checked again");
    Ok(batch.end_position())
}
