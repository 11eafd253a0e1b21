//! The stored record: the layout of one message in the commit log, versions 1 and 2 (RocketMQ 5.5 `MessageExtEncoder`,
//! `CommitLog.checkMessageAndReturnSize`, `MessageDecoder`). This file is the only place that knows it; pull answers carry
//! records byte for byte. `inner` has the body of SEND_BATCH_MESSAGE, which is a shorter form of it.
//!
//! Queue offset, physical offset and store timestamp are known only under the append lock: [`encode`] leaves them zero
//! and [`patch`] writes them in place. The body's CRC does not cover them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::java;
use crate::properties::MAX_PROPERTIES_BYTES;
use crate::sys_flag::message as flags;

mod inner;

pub use self::inner::{BatchError, InnerMessage, batch, push_inner};

/// Magic of records whose topic length takes one byte.
pub const MAGIC_V1: u32 = 0xDAA3_20A7;
/// Magic of records whose topic length takes two bytes: topics of more than 127 bytes.
pub const MAGIC_V2: u32 = 0xDAA3_20AB;
/// Magic of the filler at the end of a log file.
pub const MAGIC_BLANK: u32 = 0xCBD4_3194;
/// Bytes that must stay free behind the last record of a log file: length and magic of the filler.
pub const BLANK_BYTES: usize = 8;
/// Longest topic of a version 1 record, bytes.
const MAX_TOPIC_V1: usize = 127;
/// Longest topic there is, bytes.
const MAX_TOPIC: usize = 255;
/// Bytes of an IPv4 and IPv4 record up to and with the body length.
const HEAD: usize = 88;
/// What an IPv6 address takes more.
const V6_EXTRA: usize = 12;
/// Smallest record: no body, no topic, no properties.
pub const MIN_RECORD_BYTES: usize = HEAD + 1 + 2;

const AT_MAGIC: usize = 4;
const AT_BODY_CRC: usize = 8;
const AT_QUEUE_ID: usize = 12;
const AT_FLAG: usize = 16;
const AT_QUEUE_OFFSET: usize = 20;
const AT_PHYSICAL_OFFSET: usize = 28;
const AT_SYS_FLAG: usize = 36;
const AT_BORN_TIMESTAMP: usize = 40;
const AT_BORN_HOST: usize = 48;

/// What a message consists of before it is stored.
#[derive(Clone, Copy, Debug)]
pub struct MessageParts<'a> {
    /// Topic, at most 255 bytes.
    pub topic: &'a str,
    pub queue_id: u32,
    /// Stored as it is; compressed bodies are the clients' business.
    pub body: &'a [u8],
    /// Properties as text: see [`crate::properties`].
    pub properties: &'a [u8],
    /// The tag, a part of `properties`; its hash goes into the consume queue.
    pub tags: Option<&'a [u8]>,
    /// Keys separated by blanks, a part of `properties`.
    pub keys: Option<&'a [u8]>,
    /// The unique key, a part of `properties`.
    pub uniq_key: Option<&'a [u8]>,
    /// The user's flag.
    pub flag: i32,
    /// System flag; the two address bits are set from the hosts.
    pub sys_flag: i32,
    /// Milliseconds since 1970, the producer's clock.
    pub born_timestamp: i64,
    pub born_host: SocketAddr,
    pub store_host: SocketAddr,
    pub reconsume_times: i32,
    /// Physical offset of the half message that a commit record belongs to, bytes.
    pub prepared_transaction_offset: i64,
}

impl<'a> MessageParts<'a> {
    /// What is the message's own among those of one batch.
    pub fn content(&self) -> Content<'a> {
        let Self { flag, body, properties, tags, keys, uniq_key, .. } = *self;
        Content { flag, body, properties, tags, keys, uniq_key, may_fan_out: true }
    }
}

/// In what messages of one batch differ; each as in [`MessageParts`].
#[derive(Clone, Copy, Debug)]
pub struct Content<'a> {
    pub flag: i32,
    pub body: &'a [u8],
    pub properties: &'a [u8],
    pub tags: Option<&'a [u8]>,
    pub keys: Option<&'a [u8]>,
    pub uniq_key: Option<&'a [u8]>,
    /// Whether the properties may name light queues; `false` spares looking.
    pub may_fan_out: bool,
}

/// Why a message cannot be written as a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    #[error("the topic has {0} bytes, a record holds at most {MAX_TOPIC}")]
    Topic(usize),
    #[error("the properties have {0} bytes, a record holds at most {MAX_PROPERTIES_BYTES}")]
    Properties(usize),
    #[error("the body has {0} bytes, a record's length is a signed 32-bit number")]
    Body(usize),
}

/// Appends the record to `out`, with queue offset, physical offset and store timestamp zero; its length in bytes.
pub fn encode(parts: &MessageParts<'_>, out: &mut Vec<u8>) -> Result<usize, EncodeError> {
    Encoder::new(parts)?.encode(parts.flag, parts.body, parts.properties, out)
}

/// Writes records that differ in flag, body and properties only, as the messages of one batch do.
#[derive(Debug)]
pub struct Encoder<'a> {
    /// All up to the body, without what is the record's own.
    head: [u8; HEAD + 2 * V6_EXTRA],
    head_len: usize,
    topic: &'a [u8],
}

impl<'a> Encoder<'a> {
    /// For records that are otherwise like `parts`.
    pub fn new(parts: &MessageParts<'a>) -> Result<Self, EncodeError> {
        let topic = parts.topic.as_bytes();
        if topic.len() > MAX_TOPIC {
            return Err(EncodeError::Topic(topic.len()));
        }
        let (born, store) = (parts.born_host.ip().to_canonical(), parts.store_host.ip().to_canonical());
        let mut sys_flag = parts.sys_flag & !(flags::BORN_HOST_V6 | flags::STORE_HOST_V6);
        sys_flag |= if born.is_ipv6() { flags::BORN_HOST_V6 } else { 0 };
        sys_flag |= if store.is_ipv6() { flags::STORE_HOST_V6 } else { 0 };
        let mut head = Head { bytes: [0; HEAD + 2 * V6_EXTRA], len: 0 };
        head.put([0; 4]); // total size
        head.put(if topic.len() > MAX_TOPIC_V1 { MAGIC_V2 } else { MAGIC_V1 }.to_be_bytes());
        head.put([0; 4]); // CRC of the body
        head.put(parts.queue_id.to_be_bytes());
        head.put([0; 20]); // flag, queue offset, physical offset
        head.put(sys_flag.to_be_bytes());
        head.put(parts.born_timestamp.to_be_bytes());
        head.put_host(born, parts.born_host.port());
        head.put([0; 8]); // store timestamp
        head.put_host(store, parts.store_host.port());
        head.put(parts.reconsume_times.to_be_bytes());
        head.put(parts.prepared_transaction_offset.to_be_bytes());
        head.put([0; 4]); // length of the body
        Ok(Self { head: head.bytes, head_len: head.len, topic })
    }

    /// Appends a record, as [`encode`].
    pub fn encode(&self, flag: i32, body: &[u8], properties: &[u8], out: &mut Vec<u8>) -> Result<usize, EncodeError> {
        let Ok(properties_len) = i16::try_from(properties.len()) else {
            return Err(EncodeError::Properties(properties.len()));
        };
        let is_v2 = self.topic.len() > MAX_TOPIC_V1;
        let topic_len = if is_v2 { 2 } else { 1 } + self.topic.len();
        let total = self.head_len + body.len() + topic_len + 2 + properties.len();
        let (Ok(total_size), Ok(body_len)) = (i32::try_from(total), i32::try_from(body.len())) else {
            return Err(EncodeError::Body(body.len()));
        };
        out.reserve(total);
        let start = out.len();
        match self.head_len {
            // A length that is known is copied without a call.
            HEAD => out.extend_from_slice(&self.head[..HEAD]),
            len => out.extend_from_slice(&self.head[..len]),
        }
        // In place: a processor that reads back at once what it has written in other pieces has to wait for it.
        let head = &mut out[start..];
        head[..4].copy_from_slice(&total_size.to_be_bytes());
        head[AT_BODY_CRC..AT_BODY_CRC + 4].copy_from_slice(&java::crc32(body).to_be_bytes());
        head[AT_FLAG..AT_FLAG + 4].copy_from_slice(&flag.to_be_bytes());
        head[self.head_len - 4..].copy_from_slice(&body_len.to_be_bytes());
        out.extend_from_slice(body);
        if is_v2 {
            out.extend_from_slice(&(self.topic.len() as u16).to_be_bytes());
        } else {
            out.push(self.topic.len() as u8);
        }
        out.extend_from_slice(self.topic);
        out.extend_from_slice(&properties_len.to_be_bytes());
        out.extend_from_slice(properties);
        Ok(total)
    }
}

struct Head {
    bytes: [u8; HEAD + 2 * V6_EXTRA],
    len: usize,
}

impl Head {
    fn put<const N: usize>(&mut self, bytes: [u8; N]) {
        self.bytes[self.len..self.len + N].copy_from_slice(&bytes);
        self.len += N;
    }

    fn put_host(&mut self, ip: IpAddr, port: u16) {
        match ip {
            IpAddr::V4(ip) => self.put(ip.octets()),
            IpAddr::V6(ip) => self.put(ip.octets()),
        }
        self.put(u32::from(port).to_be_bytes());
    }
}

/// Writes what the append assigns into an encoded record. `record` must come from [`encode`].
#[inline]
pub fn patch(record: &mut [u8], queue_offset: i64, physical_offset: u64, store_timestamp: i64) {
    let Some(sys_flag) = int(record, AT_SYS_FLAG) else { return };
    let at = store_timestamp_at(sys_flag);
    if record.len() >= at + 8 {
        record[AT_QUEUE_OFFSET..AT_QUEUE_OFFSET + 8].copy_from_slice(&queue_offset.to_be_bytes());
        record[AT_PHYSICAL_OFFSET..AT_PHYSICAL_OFFSET + 8].copy_from_slice(&physical_offset.to_be_bytes());
        record[at..at + 8].copy_from_slice(&store_timestamp.to_be_bytes());
    }
}

/// The filler for the last `space` bytes of a log file, `space` being at least [`BLANK_BYTES`].
pub fn blank(space: u32) -> [u8; BLANK_BYTES] {
    let mut bytes = [0; BLANK_BYTES];
    bytes[..4].copy_from_slice(&space.to_be_bytes());
    bytes[4..].copy_from_slice(&MAGIC_BLANK.to_be_bytes());
    bytes
}

fn store_timestamp_at(sys_flag: i32) -> usize {
    AT_BORN_HOST + host_len(sys_flag, flags::BORN_HOST_V6)
}

fn host_len(sys_flag: i32, v6: i32) -> usize {
    if sys_flag & v6 == 0 { 8 } else { 8 + V6_EXTRA }
}

fn int(bytes: &[u8], at: usize) -> Option<i32> {
    Some(i32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn long(bytes: &[u8], at: usize) -> Option<i64> {
    Some(i64::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// What stands at a position of the log.
#[derive(Clone, Copy, Debug)]
pub enum Entry<'a> {
    /// A record whose lengths agree with each other. The CRC is not checked: [`Record::is_body_intact`].
    Record(Record<'a>),
    /// The filler: the log goes on in the next file.
    Blank,
    /// No record.
    Invalid(Damage),
}

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    #[error("nothing is written here")]
    Empty,
    #[error("the bytes end inside of the record")]
    Truncated,
    #[error("the magic number {0:#010x} is unknown")]
    Magic(u32),
    #[error("the lengths in the record contradict each other")]
    Length,
}

/// Reads what stands at the beginning of `bytes`, which may go on behind the record.
pub fn read(bytes: &[u8]) -> Entry<'_> {
    let (Some(total), Some(magic)) = (int(bytes, 0), int(bytes, AT_MAGIC)) else {
        return Entry::Invalid(if bytes.iter().all(|b| *b == 0) { Damage::Empty } else { Damage::Truncated });
    };
    let v2 = match magic as u32 {
        MAGIC_V1 => false,
        MAGIC_V2 => true,
        MAGIC_BLANK => return Entry::Blank,
        0 if total == 0 => return Entry::Invalid(Damage::Empty),
        other => return Entry::Invalid(Damage::Magic(other)),
    };
    let total = match usize::try_from(total) {
        Ok(total) if total >= MIN_RECORD_BYTES => total,
        _ => return Entry::Invalid(Damage::Length),
    };
    match bytes.get(..total) {
        Some(bytes) => parse(bytes, v2).map_or(Entry::Invalid(Damage::Length), Entry::Record),
        None => Entry::Invalid(Damage::Truncated),
    }
}

fn parse(bytes: &[u8], v2: bool) -> Option<Record<'_>> {
    let sys_flag = int(bytes, AT_SYS_FLAG)?;
    let hosts = host_len(sys_flag, flags::BORN_HOST_V6) + host_len(sys_flag, flags::STORE_HOST_V6);
    let body_at = AT_BORN_HOST + hosts + 8 + 4 + 8 + 4;
    let body_len = usize::try_from(int(bytes, body_at - 4)?).ok()?;
    let body = body_at..body_at.checked_add(body_len)?;
    let (topic_at, topic_len) = match v2 {
        true => (body.end + 2, usize::from(u16::from_be_bytes(*bytes.get(body.end..)?.first_chunk()?))),
        false => (body.end + 1, usize::from(*bytes.get(body.end)?)),
    };
    let topic = topic_at..topic_at + topic_len;
    let properties_len = i16::from_be_bytes(*bytes.get(topic.end..)?.first_chunk()?);
    let properties_at = topic.end + 2;
    let end = properties_at + usize::try_from(properties_len).ok()?;
    (end == bytes.len()).then_some(Record {
        bytes,
        sys_flag,
        body: (body.start, body.end),
        topic: (topic.start, topic.end),
        properties: (properties_at, end),
    })
}

/// A stored record, borrowed. All lengths have been checked against `bytes`.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    bytes: &'a [u8],
    sys_flag: i32,
    body: (usize, usize),
    topic: (usize, usize),
    properties: (usize, usize),
}

impl<'a> Record<'a> {
    /// The whole record.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Body as stored.
    pub fn body(&self) -> &'a [u8] {
        &self.bytes[self.body.0..self.body.1]
    }

    /// Topic, UTF-8 unless damaged.
    pub fn topic(&self) -> &'a [u8] {
        &self.bytes[self.topic.0..self.topic.1]
    }

    /// Properties text.
    pub fn properties(&self) -> &'a [u8] {
        &self.bytes[self.properties.0..self.properties.1]
    }

    /// Whether the body has the CRC that the record states; an empty body is not checked, as in RocketMQ.
    pub fn is_body_intact(&self) -> bool {
        self.body().is_empty() || java::crc32(self.body()) == self.int(AT_BODY_CRC) as u32
    }

    pub fn queue_id(&self) -> i32 {
        self.int(AT_QUEUE_ID)
    }

    /// The user's flag.
    pub fn flag(&self) -> i32 {
        self.int(AT_FLAG)
    }

    pub fn queue_offset(&self) -> i64 {
        self.long(AT_QUEUE_OFFSET)
    }

    /// Position in the log, bytes.
    pub fn physical_offset(&self) -> i64 {
        self.long(AT_PHYSICAL_OFFSET)
    }

    pub fn sys_flag(&self) -> i32 {
        self.sys_flag
    }

    /// Milliseconds since 1970.
    pub fn born_timestamp(&self) -> i64 {
        self.long(AT_BORN_TIMESTAMP)
    }

    pub fn born_host(&self) -> SocketAddr {
        self.host(AT_BORN_HOST, flags::BORN_HOST_V6)
    }

    /// Milliseconds since 1970.
    pub fn store_timestamp(&self) -> i64 {
        self.long(store_timestamp_at(self.sys_flag))
    }

    pub fn store_host(&self) -> SocketAddr {
        self.host(store_timestamp_at(self.sys_flag) + 8, flags::STORE_HOST_V6)
    }

    pub fn reconsume_times(&self) -> i32 {
        self.int(self.body.0 - 16)
    }

    /// Physical offset of the half message, bytes; 0 if this is no commit record.
    pub fn prepared_transaction_offset(&self) -> i64 {
        self.long(self.body.0 - 12)
    }

    // A record is at least as long as its fixed fields, so these find their bytes.
    fn int(&self, at: usize) -> i32 {
        int(self.bytes, at).unwrap_or_default()
    }

    fn long(&self, at: usize) -> i64 {
        long(self.bytes, at).unwrap_or_default()
    }

    fn host(&self, at: usize, v6: i32) -> SocketAddr {
        let (ip, port_at) = match self.sys_flag & v6 == 0 {
            true => (IpAddr::V4(Ipv4Addr::from(self.int(at) as u32)), at + 4),
            false => {
                let high = u128::from(self.long(at) as u64);
                (IpAddr::V6(Ipv6Addr::from(high << 64 | u128::from(self.long(at + 8) as u64))), at + 16)
            }
        };
        SocketAddr::new(ip, self.int(port_at) as u16)
    }
}

/// What a look at a record's head tells: enough to check a pointer to it without reading its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Glance {
    /// Bytes of the record.
    pub total_size: u32,
    pub queue_offset: i64,
    /// Position in the log, bytes.
    pub physical_offset: i64,
    /// Milliseconds since 1970.
    pub store_timestamp: i64,
}

/// Reads the head of the record at the beginning of `bytes`, which may end inside of the record.
pub fn glance(bytes: &[u8]) -> Option<Glance> {
    let total_size = u32::try_from(int(bytes, 0)?).ok()?;
    let magic = int(bytes, AT_MAGIC)? as u32;
    (magic == MAGIC_V1 || magic == MAGIC_V2).then_some(())?;
    Some(Glance {
        total_size,
        queue_offset: long(bytes, AT_QUEUE_OFFSET)?,
        physical_offset: long(bytes, AT_PHYSICAL_OFFSET)?,
        store_timestamp: long(bytes, store_timestamp_at(int(bytes, AT_SYS_FLAG)?))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parts<'a>(topic: &'a str, body: &'a [u8], properties: &'a [u8]) -> MessageParts<'a> {
        MessageParts {
            topic,
            queue_id: 3,
            body,
            properties,
            tags: None,
            keys: None,
            uniq_key: None,
            flag: 7,
            sys_flag: 1,
            born_timestamp: 11,
            born_host: "10.1.2.3:4567".parse().unwrap(),
            store_host: "127.0.0.1:10911".parse().unwrap(),
            reconsume_times: 5,
            prepared_transaction_offset: 9,
        }
    }

    fn record(bytes: &[u8]) -> Record<'_> {
        match read(bytes) {
            Entry::Record(record) => record,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn fields_stand_where_rocketmq_looks_for_them() {
        let mut bytes = Vec::new();
        let len = encode(&parts("T", b"hello", b"a\x01b\x02"), &mut bytes).unwrap();
        assert_eq!((len, bytes.len()), (91 + 5 + 1 + 4, 101));
        patch(&mut bytes, 42, 4096, 1_700_000_000_000);
        assert_eq!(bytes[..8], [0, 0, 0, 101, 0xDA, 0xA3, 0x20, 0xA7]);
        assert_eq!(bytes[20..28], 42_i64.to_be_bytes());
        assert_eq!(bytes[28..36], 4096_i64.to_be_bytes());
        assert_eq!(bytes[56..64], 1_700_000_000_000_i64.to_be_bytes());
        let read = record(&bytes);
        assert!(read.is_body_intact());
        assert_eq!((read.topic(), read.body(), read.properties()), (&b"T"[..], &b"hello"[..], &b"a\x01b\x02"[..]));
        assert_eq!((read.queue_id(), read.flag(), read.sys_flag(), read.reconsume_times()), (3, 7, 1, 5));
        assert_eq!((read.queue_offset(), read.physical_offset()), (42, 4096));
        assert_eq!((read.born_timestamp(), read.store_timestamp()), (11, 1_700_000_000_000));
        assert_eq!(read.born_host(), "10.1.2.3:4567".parse().unwrap());
        assert_eq!(read.store_host(), "127.0.0.1:10911".parse().unwrap());
        assert_eq!(read.prepared_transaction_offset(), 9);
        let glance = glance(&bytes[..64]).unwrap();
        assert_eq!((glance.total_size, glance.physical_offset, glance.store_timestamp), (101, 4096, 1_700_000_000_000));
        bytes[89] ^= 1;
        assert!(!record(&bytes).is_body_intact());
    }

    #[test]
    fn long_topics_take_version_2_and_ipv6_hosts_their_room() {
        let topic = "t".repeat(200);
        let mut message = parts(&topic, b"x", b"");
        message.born_host = "[2001:db8::1]:80".parse().unwrap();
        message.store_host = "[::ffff:10.0.0.9]:10911".parse().unwrap();
        let mut bytes = Vec::new();
        encode(&message, &mut bytes).unwrap();
        patch(&mut bytes, 1, 2, 3);
        let read = record(&bytes);
        assert_eq!((bytes.len(), read.topic().len()), (88 + 12 + 1 + 2 + 200 + 2, 200));
        assert_eq!(read.born_host(), message.born_host);
        assert_eq!(read.store_host(), "10.0.0.9:10911".parse().unwrap());
        assert_eq!((read.sys_flag() & flags::BORN_HOST_V6, read.sys_flag() & flags::STORE_HOST_V6), (16, 0));
        assert_eq!((read.store_timestamp(), read.reconsume_times()), (3, 5));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let out = &mut Vec::new();
        let topic = "t".repeat(256);
        assert_eq!(encode(&parts(&topic, b"", b""), out), Err(EncodeError::Topic(256)));
        let properties = vec![b'p'; 32_768];
        assert_eq!(encode(&parts("T", b"", &properties), out), Err(EncodeError::Properties(32_768)));
        assert!(out.is_empty());
    }

    #[test]
    fn filler_and_emptiness_are_told_apart() {
        assert!(matches!(read(&blank(1234)), Entry::Blank));
        assert!(matches!(read(&[0; 100]), Entry::Invalid(Damage::Empty)));
        assert!(matches!(read(&[]), Entry::Invalid(Damage::Empty)));
        assert!(matches!(read(&[1; 100]), Entry::Invalid(Damage::Magic(_))));
    }

    fn inner(flag: i32, body: &[u8], properties: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        for n in [22 + body.len() + properties.len(), 0, 0, flag as usize, body.len()] {
            out.extend_from_slice(&(n as i32).to_be_bytes());
        }
        out.extend_from_slice(body);
        out.extend_from_slice(&(properties.len() as i16).to_be_bytes());
        out.extend_from_slice(properties);
        out
    }

    #[test]
    fn batch_bodies_are_taken_apart_or_refused() {
        let bytes = [inner(7, b"one", b"TAGS\x01a\x02"), inner(0, b"", b"")].concat();
        let all: Result<Vec<_>, _> = batch(&bytes).collect();
        assert_eq!(all.unwrap()[0], InnerMessage { flag: 7, body: b"one", properties: b"TAGS\x01a\x02" });
        for cut in 1..inner(7, b"one", b"TAGS\x01a\x02").len() {
            assert!(batch(&bytes[..cut]).any(|m| m.is_err()), "{cut}");
        }
        let mut wrong = bytes.clone();
        wrong[3] += 1;
        assert_eq!(batch(&wrong).find_map(Result::err), Some(BatchError { index: 0 }));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), magic in 0..3_u8) {
            if bytes.len() >= 8 && magic < 2 {
                let len = bytes.len() as u32;
                bytes[..4].copy_from_slice(&len.to_be_bytes());
                bytes[4..8].copy_from_slice(&if magic == 0 { MAGIC_V1 } else { MAGIC_V2 }.to_be_bytes());
            }
            if let Entry::Record(record) = read(&bytes) {
                let _ = (record.store_host(), record.born_host(), record.reconsume_times(), record.is_body_intact());
            }
            let _ = (glance(&bytes), batch(&bytes).count());
        }

        #[test]
        fn records_read_back(topic in "[a-zA-Z]{1,255}", body in proptest::collection::vec(any::<u8>(), 0..200),
                             properties in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = Vec::new();
            encode(&parts(&topic, &body, &properties), &mut bytes).unwrap();
            let len = bytes.len();
            bytes.extend_from_slice(b"what follows");
            let read = record(&bytes);
            prop_assert_eq!((read.bytes().len(), read.topic(), read.body(), read.properties()),
                            (len, topic.as_bytes(), &body[..], &properties[..]));
        }
    }
}
