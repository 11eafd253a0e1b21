//! RESUME_CHECK_HALF_MESSAGE (323): a half message that was given up is asked about again.
//!
//! RocketMQ's broker makes a half of any message whose id it is given; here only those of `TRANS_CHECK_MAX_TIME_TOPIC` are
//! taken, so that nobody makes a transaction of another's message.

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
    call.answer_later(broker, move |broker, head, out| {
        resume(broker, &id)?;
        FrameWriter::response(out, head, response::SUCCESS).finish();
        Ok(())
    })
}

fn resume(broker: &Arc<Shared>, id: &str) -> Result<(), Refusal> {
    let failed = |why: &str| {
        let remark = format!("the half message {id:.100} is not checked again: {why}");
        Refusal::new(response::SYSTEM_ERROR, remark)
    };
    let (_, position) = parse_offset_message_id(id).ok_or_else(|| failed("this is no offset message id"))?;
    let mut bytes = Vec::new();
    broker.store.record_at(position, &mut bytes);
    let Entry::Record(half) = record::read(&bytes) else { return Err(failed("the log has no message there")) };
    if half.topic() != TRANS_CHECK_MAX_TIME.as_bytes() {
        return Err(failed("it is not one of those that were given up"));
    }
    let mut batch = AppendBatch::default();
    let real_topic = broker.transactions.push_again(&mut batch, &half).map_err(|reject| failed(&reject.to_string()))?;
    broker.store.append(&mut batch).map_err(|error| failed(&error.to_string()))?;
    broker.store.dispatch();
    broker.transactions.prepared(std::iter::once(&*real_topic));
    if broker.store.is_sync_flush() {
        let (told, durable) = std::sync::mpsc::sync_channel(1);
        let tell = move |durability| {
            // This thread listens until it is told.
            let _ = told.send(durability);
        };
        broker.store.when_durable(batch.end_position(), Box::new(tell));
        if !matches!(durable.recv(), Ok(Durability::Durable)) {
            return Err(failed("the disk did not sync in time or refused to"));
        }
    }
    tracing::info!("the half message {id} of topic {real_topic} is checked again");
    Ok(())
}
