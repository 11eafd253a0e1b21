//! Received messages as JSON, in the words of the envelope they can be sent with.

use std::collections::BTreeMap;
use std::io::Read;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::read::{GzDecoder, ZlibDecoder};
use prost_types::Timestamp;
use serde::Serialize;

use crate::http::body::{Room, Taken};
use crate::pb::{Encoding, Message};

/// Largest body that is unpacked, bytes; as JSON it may be six times as long.
const MAX_UNPACKED_BYTES: usize = 64 * 1024 * 1024;
/// Room is taken for so much of it at a time, KiB.
const STEP_KIB: u32 = 64;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Received {
    message_id: String,
    receipt_handle: String,
    /// Deliveries to the group, this one among them.
    delivery_attempt: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    /// A body that is no text.
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
    /// A body that a producer packed in a way that is not unpacked here.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    compressed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    tag: Option<String>,
    keys: Vec<String>,
    properties: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    order_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deliver_at_ms: Option<i64>,
    queue_id: i32,
    queue_offset: i64,
    born_at_ms: i64,
    stored_at_ms: i64,
    /// What a body takes that was unpacked, as JSON.
    #[serde(skip)]
    pub room: Option<Taken>,
}

impl Received {
    /// A message; a packed body is unpacked if there is room for that.
    pub fn of(message: Message, room: &Room) -> Self {
        let system = message.system_properties.unwrap_or_default();
        let is_packed = system.body_encoding() == Encoding::Gzip;
        let unpacked = if is_packed { unpacked(&message.body, room) } else { None };
        let compressed = is_packed && unpacked.is_none();
        let (body, room) = unpacked.map_or((message.body.to_vec(), None), |(body, room)| (body, Some(room)));
        let (body, body_base64) = match String::from_utf8(body) {
            Ok(text) => (Some(text), None),
            Err(error) => (None, Some(STANDARD.encode(error.as_bytes()))),
        };
        Received {
            message_id: system.message_id,
            receipt_handle: system.receipt_handle.unwrap_or_default(),
            delivery_attempt: system.delivery_attempt.unwrap_or(1),
            body,
            body_base64,
            compressed,
            tag: system.tag,
            keys: system.keys,
            properties: message.user_properties.into_iter().collect(),
            order_key: system.message_group,
            deliver_at_ms: system.delivery_timestamp.as_ref().map(since_1970),
            queue_id: system.queue_id,
            queue_offset: system.queue_offset.unwrap_or_default(),
            born_at_ms: system.born_timestamp.as_ref().map_or(0, since_1970),
            stored_at_ms: system.store_timestamp.as_ref().map_or(0, since_1970),
            room,
        }
    }
}

fn since_1970(time: &Timestamp) -> i64 {
    time.seconds.saturating_mul(1000).saturating_add(i64::from(time.nanos) / 1_000_000)
}

/// What a producer packed: remoting clients with zlib, unless told otherwise, gRPC clients with gzip. Few bytes may become
/// very many, so that room is taken as it grows, and in the end for what it is as JSON.
fn unpacked(body: &[u8], room: &Room) -> Option<(Vec<u8>, Taken)> {
    let mut packed: Box<dyn Read + '_> = match body {
        [0x1f, 0x8b, ..] => Box::new(GzDecoder::new(body)),
        _ => Box::new(ZlibDecoder::new(body)),
    };
    let step = u64::from(STEP_KIB) * 1024;
    let (mut whole, mut taken) = (Vec::new(), room.take(0)?);
    loop {
        taken.merge(room.take(STEP_KIB)?);
        let read = packed.by_ref().take(step).read_to_end(&mut whole).ok()?;
        if whole.len() > MAX_UNPACKED_BYTES {
            return None;
        }
        if (read as u64) < step {
            let more = written(&whole).div_ceil(1024).saturating_sub(taken.num_permits());
            taken.merge(room.take(u32::try_from(more).ok()?)?);
            return Some((whole, taken));
        }
    }
}

/// Length of a body as JSON: of a text with its escapes, or else of its base64.
fn written(body: &[u8]) -> usize {
    if std::str::from_utf8(body).is_err() {
        return body.len().div_ceil(3) * 4;
    }
    let length = |byte: &u8| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
        ..0x20 => 6,
        _ => 1,
    };
    body.iter().map(length).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::SystemProperties;
    use flate2::Compression;
    use flate2::write::{GzEncoder, ZlibEncoder};
    use std::io::Write as _;

    #[test]
    fn packed_bodies_are_unpacked_or_told() {
        let (text, room) = ("hello ".repeat(100), Room::default());
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::fast());
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        zlib.write_all(text.as_bytes()).unwrap();
        gzip.write_all(text.as_bytes()).unwrap();
        for packed in [zlib.finish().unwrap(), gzip.finish().unwrap()] {
            assert_eq!(unpacked(&packed, &room).unwrap().0, text.as_bytes());
            assert!(unpacked(&packed[..packed.len() / 2], &room).is_none(), "half of it");
        }
        for other in [&[][..], &[0x28, 0xb5, 0x2f, 0xfd, 0], b"plain"] {
            assert!(unpacked(other, &room).is_none());
        }
    }

    fn packed(bytes: usize) -> Message {
        packed_of(b'x', bytes)
    }

    fn packed_of(byte: u8, bytes: usize) -> Message {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        gzip.write_all(&vec![byte; bytes]).unwrap();
        let system_properties =
            SystemProperties { body_encoding: Encoding::Gzip.into(), ..SystemProperties::default() };
        let body = gzip.finish().unwrap().into();
        Message { system_properties: Some(system_properties), body, ..Message::default() }
    }

    #[test]
    fn a_body_stays_packed_when_there_is_no_room_for_what_it_becomes() {
        let room = Room::of_kib(3 * STEP_KIB as usize);
        let step = STEP_KIB as usize * 1024;
        let first = Received::of(packed(step + 1), &room);
        assert_eq!((first.compressed, first.body.as_ref().map(String::len)), (false, Some(step + 1)));
        let second = Received::of(packed(step + 1), &room);
        assert!(second.compressed && second.body_base64.is_some());
        drop(first);
        assert!(!Received::of(packed(2 * step + 1), &room).compressed, "there is room again");
        assert!(Received::of(packed(MAX_UNPACKED_BYTES + 1), &Room::default()).compressed, "none is so large");
    }

    #[test]
    fn room_is_taken_for_bodies_as_they_are_written() {
        for text in ["plain, \u{e9} and \u{7f}", "\"\\\n\r\t\u{8}\u{c}", "\0\u{1}\u{b}\u{1f}"] {
            let json = serde_json::to_string(text).unwrap();
            assert_eq!(written(text.as_bytes()), json.len() - 2, "{json}");
        }
        for length in 1..5 {
            let body = vec![0xff; length];
            assert_eq!(written(&body), STANDARD.encode(&body).len());
        }
        let (step, room) = (STEP_KIB as usize * 1024, Room::of_kib(6 * STEP_KIB as usize));
        let body = Received::of(packed_of(1, step - 1), &room);
        assert_eq!(body.room.as_ref().map(Taken::num_permits), Some(6 * STEP_KIB as usize));
        drop(body);
        assert!(Received::of(packed_of(1, step + 1024), &room).compressed, "its text has no room");
        assert!(!Received::of(packed_of(b'x', step + 1024), &room).compressed);
    }
}
