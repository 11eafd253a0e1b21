//! Inner batches: several messages that are one record of a batch queue and take one offset each (RocketMQ 5.5
//! `SendMessageProcessor.sendBatchMessage`, `BatchConsumeQueue.assignQueueOffset`).
//!
//! The record's body is that of the request, its properties say how many messages it holds (`INNER_NUM`) and at which
//! offset the first stands (`INNER_BASE`). That is known only under the append lock, when the record's length is settled:
//! it is written with leading zeros at the end of the record, which every reader takes.

use std::sync::Arc;

use ferromq_protocol::properties::{self, names};
use ferromq_protocol::record::{MessageParts, Record};
use ferromq_protocol::sys_flag::message as flags;

use super::AppendBatch;
use crate::error::Reject;
use crate::queue::Queue;

/// Digits of an offset: as many as the largest has.
const DIGITS: usize = 19;

impl AppendBatch {
    /// Encodes messages that are one record: `m.body` is that of a SEND_BATCH_MESSAGE with `messages` messages. Its place
    /// in the batch.
    pub fn push_inner_batch(
        &mut self,
        queue: &Arc<Queue>,
        m: &MessageParts<'_>,
        messages: i16,
    ) -> Result<usize, Reject> {
        if !queue.is_batch() || messages < 1 {
            return Err(Reject::InnerBatch);
        }
        let mut text = Vec::with_capacity(m.properties.len() + 64);
        text.extend_from_slice(m.properties);
        properties::push(&mut text, names::INNER_NUM, &messages.to_string());
        properties::push(&mut text, names::INNER_BASE, &"0".repeat(DIGITS));
        let sys_flag = m.sys_flag | flags::INNER_BATCH | flags::NEED_UNWRAP;
        let at = self.push(queue, &MessageParts { properties: &text, sys_flag, ..*m })?;
        self.messages[at].inner = Some(messages);
        Ok(at)
    }

    /// Bytes of all records. Only before the append.
    pub fn record_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// How many messages the records from the `first`-th on hold. Only before the append.
    pub fn messages_from(&self, first: usize) -> usize {
        let records = self.messages.get(first..).unwrap_or_default();
        records.iter().map(|message| usize::from(message.inner.unwrap_or(1).unsigned_abs())).sum()
    }
}

/// Writes the offset of the first message into a record, at whose end it has its place.
pub(super) fn write_base(record: &mut [u8], queue_offset: i64) {
    if let Some(first) = record.len().checked_sub(DIGITS + 1) {
        record[first..first + DIGITS].copy_from_slice(format!("{queue_offset:0DIGITS$}").as_bytes());
    }
}

/// How many offsets a stored record takes in a batch queue.
pub(crate) fn messages_in(record: &Record<'_>) -> i16 {
    if record.sys_flag() & flags::INNER_BATCH == 0 {
        return 1;
    }
    let get = |name| properties::get_str(record.properties(), name);
    let messages = get(names::INNER_BASE).and(get(names::INNER_NUM)).and_then(|text| text.parse().ok());
    messages.filter(|messages| *messages > 0).unwrap_or(1)
}
