//! Stored records, back to back as pulls answer them, into messages.
//!
//! Pure functions on bytes from the network: bounded memory, no panic.

use std::collections::BTreeMap;
use std::io::Read;

use ferromq_protocol::record::{self, Entry, Record};
use ferromq_protocol::sys_flag::message as flag;
use ferromq_protocol::{id, properties};

use crate::message::{MessageQueue, ReceivedMessage};

/// Most bytes a compressed body may grow to.
pub const MAX_DECOMPRESSED_BYTES: u64 = 64 * 1024 * 1024;

/// All records of an answer. `broker_name` is the broker that answered.
pub(crate) fn records(mut bytes: &[u8], broker_name: &str) -> Result<Vec<ReceivedMessage>, String> {
    let mut messages = Vec::new();
    while !bytes.is_empty() {
        let record = match record::read(bytes) {
            Entry::Record(record) => record,
            Entry::Blank => return Err("a filler stands where a record should be".into()),
            Entry::Invalid(damage) => return Err(format!("a record is broken: {damage}")),
        };
        messages.push(message_of(&record, broker_name));
        bytes = &bytes[record.bytes().len()..];
    }
    Ok(messages)
}

fn message_of(record: &Record<'_>, broker_name: &str) -> ReceivedMessage {
    let mut sys_flag = record.sys_flag();
    let body = match decompressed(record.body(), sys_flag) {
        Some(body) => {
            sys_flag &= !flag::COMPRESSED;
            body
        }
        None => record.body().to_vec(),
    };
    ReceivedMessage {
        queue: MessageQueue {
            topic: String::from_utf8_lossy(record.topic()).into_owned(),
            broker_name: broker_name.to_owned(),
            queue_id: record.queue_id(),
        },
        queue_offset: record.queue_offset(),
        commit_log_offset: record.physical_offset(),
        store_size: record.bytes().len() as u32,
        body,
        properties: properties_of(record.properties()),
        flag: record.flag(),
        sys_flag,
        born_timestamp: record.born_timestamp(),
        born_host: record.born_host(),
        store_timestamp: record.store_timestamp(),
        store_host: record.store_host(),
        reconsume_times: record.reconsume_times(),
        offset_message_id: id::offset_message_id(record.store_host(), record.physical_offset() as u64),
    }
}

fn properties_of(text: &[u8]) -> BTreeMap<String, String> {
    let lossy = |bytes| String::from_utf8_lossy(bytes).into_owned();
    properties::iter(text).map(|(name, value)| (lossy(name), lossy(value))).collect()
}

/// The body behind a compressed one; `None` when it is not compressed, or in a way that cannot be undone here.
fn decompressed(body: &[u8], sys_flag: i32) -> Option<Vec<u8>> {
    let zlib = matches!(sys_flag & flag::COMPRESSION_MASK, 0 | flag::COMPRESSION_ZLIB);
    if sys_flag & flag::COMPRESSED == 0 || !zlib {
        return None;
    }
    let mut out = Vec::new();
    let mut inflated = flate2::read::ZlibDecoder::new(body).take(MAX_DECOMPRESSED_BYTES);
    inflated.read_to_end(&mut out).ok()?;
    (inflated.limit() > 0).then_some(out)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use ferromq_protocol::record::MessageParts;

    use super::*;

    fn stored(body: &[u8], sys_flag: i32) -> Vec<u8> {
        let parts = MessageParts {
            topic: "orders",
            queue_id: 3,
            body,
            properties: b"TAGS\x01a\x02UNIQ_KEY\x01ID\x02",
            tags: None,
            keys: None,
            uniq_key: None,
            flag: 5,
            sys_flag,
            born_timestamp: 1000,
            born_host: "127.0.0.1:4096".parse().unwrap(),
            store_host: "127.0.0.1:10911".parse().unwrap(),
            reconsume_times: 2,
            prepared_transaction_offset: 0,
        };
        let mut out = Vec::new();
        record::encode(&parts, &mut out).unwrap();
        record::patch(&mut out, 77, 4096, 2000);
        out
    }

    #[test]
    fn all_fields() {
        let mut bytes = stored(b"hello", 0);
        bytes.extend(stored(b"again", 0));
        let messages = records(&bytes, "broker-a").unwrap();
        assert_eq!(messages.len(), 2);
        let m = &messages[0];
        assert_eq!(m.queue.to_string(), "orders@broker-a:3");
        assert_eq!((m.queue_offset, m.commit_log_offset, m.flag, m.reconsume_times), (77, 4096, 5, 2));
        assert_eq!((m.born_timestamp, m.store_timestamp), (1000, 2000));
        assert_eq!(m.born_host.to_string(), "127.0.0.1:4096");
        assert_eq!((m.tag(), m.message_id()), (Some("a"), "ID"));
        assert_eq!(m.offset_message_id, "7F00000100002A9F0000000000001000");
        assert_eq!(messages[1].body, b"again");
    }

    #[test]
    fn compressed_bodies() {
        let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        zlib.write_all(&[b'x'; 10_000]).unwrap();
        let zlib = zlib.finish().unwrap();
        for kind in [0, flag::COMPRESSION_ZLIB] {
            let message = &records(&stored(&zlib, flag::COMPRESSED | kind), "").unwrap()[0];
            assert_eq!((message.body.len(), message.sys_flag & flag::COMPRESSED), (10_000, 0));
        }
        // What cannot be undone stays as it is, marked.
        for (body, kind) in [(&zlib[..], flag::COMPRESSION_LZ4), (b"no zlib", 0)] {
            let message = &records(&stored(body, flag::COMPRESSED | kind), "").unwrap()[0];
            assert_eq!((&message.body[..], message.sys_flag & flag::COMPRESSED), (body, flag::COMPRESSED));
        }
    }

    #[test]
    fn damage_is_an_error() {
        let bytes = stored(b"hello", 0);
        for cut in 1..bytes.len() {
            assert!(records(&bytes[..cut], "").is_err());
        }
        let mut zero = bytes.clone();
        zero[..4].fill(0);
        assert!(records(&zero, "").is_err());
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0xff;
            let _ = records(&damaged, "");
        }
    }
}
