//! Message ids: the offset id that the broker gives (where a record lies) and the unique id that the producer gives
//! (RocketMQ 5.5 `MessageDecoder.createMessageId`, `MessageClientIDSetter`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};

const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// Appends `bytes` as upper-case hex.
pub fn push_hex(out: &mut String, bytes: &[u8]) {
    out.reserve(bytes.len() * 2);
    for byte in bytes {
        out.push(char::from(HEX[usize::from(byte >> 4)]));
        out.push(char::from(HEX[usize::from(byte & 15)]));
    }
}

/// Reads hex of either case; `None` if it is not.
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|value| value as u8);
    if !text.len().is_multiple_of(2) {
        return None;
    }
    text.as_bytes().chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

/// The offset id of the record at `physical_offset` (bytes into the commit log) of the broker `store_host`: 32 hex
/// digits with an IPv4 address, 56 with an IPv6 one.
pub fn offset_message_id(store_host: SocketAddr, physical_offset: u64) -> String {
    let mut id = String::with_capacity(56);
    match store_host.ip() {
        IpAddr::V4(ip) => push_hex(&mut id, &ip.octets()),
        IpAddr::V6(ip) => push_hex(&mut id, &ip.octets()),
    }
    push_hex(&mut id, &u32::from(store_host.port()).to_be_bytes());
    push_hex(&mut id, &physical_offset.to_be_bytes());
    id
}

/// Where an offset id points: broker address and commit log offset in bytes. `None` for any other text.
pub fn parse_offset_message_id(id: &str) -> Option<(SocketAddr, u64)> {
    if id.len() != 32 && id.len() != 56 {
        return None;
    }
    let bytes = from_hex(id)?;
    let (host, tail) = bytes.split_at(bytes.len() - 12);
    let ip = match host.len() {
        4 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(host).ok()?)),
        _ => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(host).ok()?)),
    };
    let port = u16::try_from(u32::from_be_bytes(tail[..4].try_into().ok()?)).ok()?;
    Some((SocketAddr::new(ip, port), u64::from_be_bytes(tail[4..].try_into().ok()?)))
}

/// Makes unique message ids: address, process id and a salt once, then milliseconds since the month began and a
/// counter. One per process; safe to share between threads.
#[derive(Debug)]
pub struct UniqueIds {
    prefix: String,
    counter: AtomicU32,
}

impl UniqueIds {
    /// `salt` separates two generators of one process (Java takes the class loader's hash).
    pub fn new(ip: IpAddr, process_id: u32, salt: u32) -> UniqueIds {
        let mut prefix = String::with_capacity(44);
        match ip {
            IpAddr::V4(ip) => push_hex(&mut prefix, &ip.octets()),
            IpAddr::V6(ip) => push_hex(&mut prefix, &ip.octets()),
        }
        push_hex(&mut prefix, &(process_id as u16).to_be_bytes());
        push_hex(&mut prefix, &salt.to_be_bytes());
        UniqueIds { prefix, counter: AtomicU32::new(0) }
    }

    /// The next id; `now_ms` is milliseconds since 1970 UTC.
    pub fn next(&self, now_ms: i64) -> String {
        let mut id = String::with_capacity(self.prefix.len() + 12);
        id.push_str(&self.prefix);
        let since_month = now_ms - month_start_ms(now_ms);
        push_hex(&mut id, &(since_month as u32).to_be_bytes());
        let count = self.counter.fetch_add(1, Ordering::Relaxed);
        push_hex(&mut id, &(count as u16).to_be_bytes());
        id
    }
}

const DAY_MS: i64 = 86_400_000;

/// Milliseconds since 1970 at which the UTC month of `now_ms` began.
pub fn month_start_ms(now_ms: i64) -> i64 {
    // Days to civil date, proleptic Gregorian, in years that begin in March.
    let days = now_ms.div_euclid(DAY_MS);
    let shifted = days.saturating_add(719_468);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month + 2) / 5;
    (days - day_of_month).saturating_mul(DAY_MS)
}

/// What a timer message is taken back with (RocketMQ's `RecallMessageHandle`): `v1 topic brokerName timestamp messageId`
/// in URL-safe base64.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecallHandle {
    pub topic: String,
    pub broker_name: String,
    /// A time in the slot of the message, milliseconds since 1970.
    pub timestamp: i64,
    /// The unique id of the message.
    pub message_id: String,
}

/// Longest recall handle that is read, bytes.
const MAX_RECALL_HANDLE: usize = 4096;
const BASE64_URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

impl RecallHandle {
    /// The text that a client keeps.
    pub fn encode(topic: &str, broker_name: &str, timestamp: i64, message_id: &str) -> String {
        let text = format!("v1 {topic} {broker_name} {timestamp} {message_id}");
        let mut out = String::with_capacity(text.len().div_ceil(3) * 4);
        for chunk in text.as_bytes().chunks(3) {
            let bits =
                chunk.iter().enumerate().fold(0_u32, |bits, (at, byte)| bits | u32::from(*byte) << (16 - 8 * at));
            for digit in 0..4 {
                let value = (bits >> (18 - 6 * digit)) as usize & 63;
                out.push(if digit <= chunk.len() { char::from(BASE64_URL[value]) } else { '=' });
            }
        }
        out
    }

    /// Reads a handle; `None` for any other text.
    pub fn parse(text: &str) -> Option<RecallHandle> {
        let digits = text.trim_end_matches('=').as_bytes();
        if digits.len() > MAX_RECALL_HANDLE || digits.len() % 4 == 1 {
            return None;
        }
        let mut bytes = Vec::with_capacity(digits.len());
        for chunk in digits.chunks(4) {
            let mut bits = 0_u32;
            for (at, digit) in chunk.iter().enumerate() {
                let value = BASE64_URL.iter().position(|known| known == digit)?;
                bits |= (value as u32) << (18 - 6 * at);
            }
            bytes.extend_from_slice(&bits.to_be_bytes()[1..chunk.len()]);
        }
        let text = String::from_utf8(bytes).ok()?;
        let mut parts = text.split(' ');
        let is_known = parts.next() == Some("v1");
        let (topic, broker_name, timestamp, message_id) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        is_known.then_some(RecallHandle {
            topic: topic.to_owned(),
            broker_name: broker_name.to_owned(),
            timestamp: timestamp.parse().unwrap_or(-1),
            message_id: message_id.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offset_ids_read_back() {
        let host: SocketAddr = "127.0.0.1:10911".parse().unwrap();
        let id = offset_message_id(host, 0x1234);
        assert_eq!(id, "7F00000100002A9F0000000000001234");
        assert_eq!(parse_offset_message_id(&id), Some((host, 0x1234)));
        assert_eq!(parse_offset_message_id(&id.to_lowercase()), Some((host, 0x1234)));
        let host: SocketAddr = "[::1]:10911".parse().unwrap();
        let id = offset_message_id(host, u64::MAX);
        assert_eq!(id.len(), 56);
        assert_eq!(parse_offset_message_id(&id), Some((host, u64::MAX)));
    }

    #[test]
    fn other_texts_are_not_offset_ids() {
        let long = "0".repeat(56);
        for bad in ["", "7F", "zz00000100002A9F0000000000001234", "7F00000100FF2A9F0000000000001234", "ä0000000000000"]
        {
            assert_eq!(parse_offset_message_id(bad), None, "{bad:?}");
        }
        assert!(parse_offset_message_id(&long).is_some());
    }

    #[test]
    fn unique_ids_hold_their_parts() {
        let ids = UniqueIds::new("10.0.0.1".parse().unwrap(), 0x1_0203, 0xAABB_CCDD);
        // 2026-11-02T00:00:00.005Z
        let now = 1_793_577_600_005;
        assert_eq!(ids.next(now), "0A0000010203AABBCCDD05265C050000");
        assert!(ids.next(now).ends_with("0001"));
        assert_eq!(UniqueIds::new("::1".parse().unwrap(), 1, 2).next(now).len(), 56);
    }

    #[test]
    fn recall_handles_are_javas() {
        // Made by RocketMQ's `RecallMessageHandle.HandleV1.buildHandle`.
        let text = "djEgVCBicm9rZXItYSAxNzAwMDAwMDAwMDAxIFVLRVk=";
        assert_eq!(RecallHandle::encode("T", "broker-a", 1_700_000_000_001, "UKEY"), text);
        let handle = RecallHandle::parse(text).unwrap();
        assert_eq!((handle.topic.as_str(), handle.broker_name.as_str()), ("T", "broker-a"));
        assert_eq!((handle.timestamp, handle.message_id.as_str()), (1_700_000_000_001, "UKEY"));
        for length in 0..9 {
            let id = "x".repeat(length + 1);
            let handle = RecallHandle::parse(&RecallHandle::encode("T", "b", 5, &id));
            assert_eq!(handle.unwrap().message_id, id);
        }
        for bad in ["", "v1 T b 5 U", "djE=", "djIgVCBiIDUgVQ==", "\u{e4}", "A", &"A".repeat(5000)] {
            assert_eq!(RecallHandle::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn months_begin_on_their_first_day() {
        assert_eq!(month_start_ms(0), 0);
        // 2024-02-29T12:00Z and 2024-03-01T00:00Z
        assert_eq!(month_start_ms(1_709_208_000_000), 1_706_745_600_000);
        assert_eq!(month_start_ms(1_709_251_200_000), 1_709_251_200_000);
        // 2023-12-31T23:59:59.999Z
        assert_eq!(month_start_ms(1_704_067_199_999), 1_701_388_800_000);
    }
}
