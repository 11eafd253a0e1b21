//! The records that a pop hands out: their offsets, and the name and handle that messages of a retry topic get.

use ferromq_protocol::pop::{self, ReceiptHandle};
use ferromq_protocol::properties::{self, names};
use ferromq_protocol::record::{self, Record};
use ferromq_protocol::records;
use ferromq_store::{MessageParts, Queue, offset_in};

/// The offsets in the queue of records back to back; in a light queue they are others than the records' own.
pub(crate) fn queue_offsets(bytes: &[u8], queue: &Queue) -> Vec<i64> {
    let mut offsets = Vec::with_capacity(pop::MAX_MESSAGES);
    let offset = |record: Record<'_>| offset_in(&record, queue).unwrap_or_else(|| record.queue_offset());
    offsets.extend(records::iter(bytes).map(offset));
    offsets
}

/// Rewrites the records of a retry topic behind `from`: they get the topic that consumers know, and their handle as a
/// property.
pub(super) fn rename(into: &mut Vec<u8>, from: usize, topic: &str, mut handle: ReceiptHandle<'_>) {
    let stored = into.split_off(from);
    let mut text = Vec::new();
    for record in records::iter(&stored) {
        handle.queue_offset = Some(record.queue_offset());
        text.clear();
        text.extend_from_slice(record.properties());
        if properties::get(&text, names::POP_CK).is_none() {
            properties::push(&mut text, names::POP_CK, &handle.to_string());
        }
        let parts = MessageParts {
            topic,
            queue_id: record.queue_id() as u32,
            body: record.body(),
            properties: &text,
            tags: None,
            keys: None,
            uniq_key: None,
            flag: record.flag(),
            sys_flag: record.sys_flag(),
            born_timestamp: record.born_timestamp(),
            born_host: record.born_host(),
            store_host: record.store_host(),
            reconsume_times: record.reconsume_times(),
            prepared_transaction_offset: record.prepared_transaction_offset(),
        };
        let at = into.len();
        match record::encode(&parts, into) {
            Ok(_) => {
                let position = record.physical_offset() as u64;
                record::patch(&mut into[at..], record.queue_offset(), position, record.store_timestamp());
            }
            // No room for the handle: the message goes out under its retry topic, which clients understand too.
            Err(_) => into.extend_from_slice(record.bytes()),
        }
    }
}
