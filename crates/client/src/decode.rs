//! Stored records, back to back as pulls answer them, into messages.
//!
//! Pure functions on bytes from the network: bounded memory, no panic.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::{IpAddr, SocketAddr};

use ferromq_protocol::sys_flag::message as flag;
use ferromq_protocol::{id, properties};

use crate::message::{MessageQueue, ReceivedMessage};

/// Most bytes a compressed body may grow to.
pub const MAX_DECOMPRESSED_BYTES: u64 = 64 * 1024 * 1024;

/// Magic numbers of a record with a topic length of one byte and of two.
const MAGIC_V1: u32 = 0xDAA3_20A7;
const MAGIC_V2: u32 = 0xDAA3_20AB;

/// All records of an answer. `broker_name` is the broker that answered.
pub(crate) fn records(mut bytes: &[u8], broker_name: &str) -> Result<Vec<ReceivedMessage>, String> {
    let mut messages = Vec::new();
    while !bytes.is_empty() {
        let size = Reader(bytes).u32().ok_or("a record is cut short")?;
        let record = bytes.get(..size as usize).ok_or("a record is cut short")?;
        messages.push(record_of(record, broker_name).ok_or("a record is broken")?);
        bytes = &bytes[record.len()..];
    }
    Ok(messages)
}

fn record_of(record: &[u8], broker_name: &str) -> Option<ReceivedMessage> {
    let mut r = Reader(record);
    let store_size = r.u32()?;
    let magic = r.u32()?;
    let _body_crc = r.u32()?;
    let queue_id = r.u32()? as i32;
    let user_flag = r.u32()? as i32;
    let queue_offset = r.u64()? as i64;
    let physical_offset = r.u64()?;
    let mut sys_flag = r.u32()? as i32;
    let born_timestamp = r.u64()? as i64;
    let born_host = r.host(sys_flag & flag::BORN_HOST_V6 != 0)?;
    let store_timestamp = r.u64()? as i64;
    let store_host = r.host(sys_flag & flag::STORE_HOST_V6 != 0)?;
    let reconsume_times = r.u32()? as i32;
    let _prepared_transaction_offset = r.u64()?;
    let body_len = r.u32()?;
    let stored_body = r.bytes(body_len as usize)?;
    let topic_len = match magic {
        MAGIC_V1 => usize::from(r.u8()?),
        MAGIC_V2 => usize::from(r.u16()?),
        _ => return None,
    };
    let topic = String::from_utf8_lossy(r.bytes(topic_len)?).into_owned();
    let properties_len = r.u16()?;
    let properties = properties_of(r.bytes(usize::from(properties_len))?);
    let body = match decompressed(stored_body, sys_flag) {
        Some(body) => {
            sys_flag &= !flag::COMPRESSED;
            body
        }
        None => stored_body.to_vec(),
    };
    Some(ReceivedMessage {
        queue: MessageQueue { topic, broker_name: broker_name.to_owned(), queue_id },
        queue_offset,
        commit_log_offset: physical_offset as i64,
        store_size,
        body,
        properties,
        flag: user_flag,
        sys_flag,
        born_timestamp,
        born_host,
        store_timestamp,
        store_host,
        reconsume_times,
        offset_message_id: id::offset_message_id(store_host, physical_offset),
    })
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

/// Takes big-endian numbers from the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_be_bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    fn host(&mut self, v6: bool) -> Option<SocketAddr> {
        let ip: IpAddr = if v6 { self.array::<16>()?.into() } else { self.array::<4>()?.into() };
        Some(SocketAddr::new(ip, self.u32()? as u16))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn record(body: &[u8], sys_flag: i32) -> Vec<u8> {
        let mut out = vec![0; 4];
        out.extend(MAGIC_V1.to_be_bytes());
        out.extend([0, 0, 0, 9, 0, 0, 0, 3, 0, 0, 0, 5]);
        out.extend(77u64.to_be_bytes());
        out.extend(4096u64.to_be_bytes());
        out.extend(sys_flag.to_be_bytes());
        out.extend(1000u64.to_be_bytes());
        out.extend([127, 0, 0, 1, 0, 0, 0x10, 0]);
        out.extend(2000u64.to_be_bytes());
        out.extend([127, 0, 0, 1, 0, 0, 0x2A, 0x9F]);
        out.extend(2u32.to_be_bytes());
        out.extend(0u64.to_be_bytes());
        out.extend((body.len() as u32).to_be_bytes());
        out.extend(body);
        out.extend(b"\x06orders");
        let properties = b"TAGS\x01a\x02UNIQ_KEY\x01ID\x02";
        out.extend((properties.len() as u16).to_be_bytes());
        out.extend(properties);
        let len = (out.len() as u32).to_be_bytes();
        out[..4].copy_from_slice(&len);
        out
    }

    #[test]
    fn all_fields() {
        let mut bytes = record(b"hello", 0);
        bytes.extend(record(b"again", 0));
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
            let message = &records(&record(&zlib, flag::COMPRESSED | kind), "").unwrap()[0];
            assert_eq!((message.body.len(), message.sys_flag & flag::COMPRESSED), (10_000, 0));
        }
        // What cannot be undone stays as it is, marked.
        for (body, kind) in [(&zlib[..], flag::COMPRESSION_LZ4), (b"no zlib", 0)] {
            let message = &records(&record(body, flag::COMPRESSED | kind), "").unwrap()[0];
            assert_eq!((&message.body[..], message.sys_flag & flag::COMPRESSED), (body, flag::COMPRESSED));
        }
    }

    #[test]
    fn damage_is_an_error() {
        let bytes = record(b"hello", 0);
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
