//! Cleaning at an administrator's request: DELETE_EXPIRED_COMMITLOG (329), CLEAN_EXPIRED_CONSUMEQUEUE (306),
//! CLEAN_UNUSED_TOPIC (316). What is deleted is the store's to judge; see its `retention.rs`.

use std::sync::Arc;

use ferromq_protocol::FrameWriter;
use ferromq_protocol::code::response;
use ferromq_protocol::topic as names;

use super::{Call, Refusal};
use crate::broker::Shared;

/// Code 329: log files that are old enough go now, whatever the hour. Answered at once, as RocketMQ does.
pub(crate) fn commit_log(broker: &Arc<Shared>, call: &Call<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    tracing::info!("{} asks to delete expired commit log files", call.conn.peer());
    broker.store.delete_expired_log_files();
    call.respond(out, response::SUCCESS).finish();
    Ok(())
}

/// Code 306: consume queue and index files that point below the log go. RocketMQ also forgets the end of a queue without
/// messages, and gives its offsets out again; here it keeps it.
pub(crate) fn consume_queues(broker: &Arc<Shared>, call: &Call<'_>, _out: &mut Vec<u8>) -> Result<(), Refusal> {
    let peer = call.conn.peer();
    call.answer_later(broker, move |broker, head, out| {
        let removed = broker.store.clean_expired_queues();
        tracing::info!("{peer} has expired consume queue files removed: {removed}");
        FrameWriter::response(out, head, response::SUCCESS).finish();
        Ok(())
    })
}

/// Code 316: queues go whose topic is in the table no more.
pub(crate) fn unused_topics(broker: &Arc<Shared>, call: &Call<'_>, _out: &mut Vec<u8>) -> Result<(), Refusal> {
    let peer = call.conn.peer();
    call.answer_later(broker, move |broker, head, out| {
        for name in broker.store.topics() {
            if broker.topics.is_system(&name) || name.starts_with(names::LMQ_PREFIX) {
                continue;
            }
            if let Some(deleted) = broker.topics.clear(&name, || broker.store.delete_topic(&name)) {
                tracing::info!("{peer} has the queues of the unused topic {name} removed");
                deleted.map_err(|e| Refusal::new(response::SYSTEM_ERROR, e.to_string()))?;
            }
        }
        FrameWriter::response(out, head, response::SUCCESS).finish();
        Ok(())
    })
}
