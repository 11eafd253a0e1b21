//! The records that a pop hands out: their offsets, and the name and handle that messages of a retry topic get.

use ferromq_protocol::pop::{self, ReceiptHandle};
use ferromq_protocol::properties::{self, names};
use ferromq_protocol::record::{self, Entry};
use ferromq_store::{MessageParts, Queue, offset_in};

/// The offsets in the queue of records back to back; in a light queue they are others than the records' own.
pub(crate) fn queue_offsets(mut bytes: &[u8], queue: &Queue) -> Vec<i64> {
    let mut offsets = Vec::with_capacity(pop::MAX_MESSAGES);
    while let Entry::Record(record) = record::read(bytes) {
        offsets.push(offset_in(&record, queue).unwrap_or_else(|| record.queue_offset()));
        bytes = &bytes[record.bytes().len()..];
    }
    offsets
}

/// Rewrites the records of a retry topic behind `from`: they get the topic that consumers know, and their handle as a
/// property.
pub(super) fn rename(records: &mut Vec<u8>, from: usize, topic: &str, mut handle: ReceiptHandle<'_>) {
    let stored = records.split_off(from);
    let mut bytes = &stored[..];
    let mut text = Vec::new();
    while let Entry::Record(record) = record::read(bytes) {
        bytes = &bytes[record.bytes().len()..];
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
        let at = records.len();
        match record::encode(&parts, records) {
            Ok(_) => {
                let position = record.physical_offset() as u64;
                record::patch(&mut records[at..], record.queue_offset(), position, record.store_timestamp());
            }
            // No room for the handle: the message goes out under its retry topic, which clients understand too.
            Err(_) => records.extend_from_slice(record.bytes()),
        }
    }
}
