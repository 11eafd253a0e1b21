//! Received messages as JSON, in the words of the envelope they can be sent with.

use std::collections::BTreeMap;
use std::io::Read as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::read::{GzDecoder, ZlibDecoder};
use prost_types::Timestamp;
use serde::Serialize;

use crate::pb::{Encoding, Message};

/// Largest body that is unpacked, bytes.
const MAX_UNPACKED_BYTES: u64 = 64 * 1024 * 1024;

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
}

impl From<Message> for Received {
    fn from(message: Message) -> Self {
        let system = message.system_properties.unwrap_or_default();
        let (body, compressed) = match system.body_encoding() {
            Encoding::Gzip => unpacked(&message.body).map_or((message.body.to_vec(), true), |body| (body, false)),
            _ => (message.body.to_vec(), false),
        };
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
        }
    }
}

fn since_1970(time: &Timestamp) -> i64 {
    time.seconds.saturating_mul(1000).saturating_add(i64::from(time.nanos) / 1_000_000)
}

/// What a producer packed: remoting clients with zlib, unless told otherwise, gRPC clients with gzip.
fn unpacked(body: &[u8]) -> Option<Vec<u8>> {
    let mut whole = Vec::new();
    let read = match body {
        [0x1f, 0x8b, ..] => GzDecoder::new(body).take(MAX_UNPACKED_BYTES + 1).read_to_end(&mut whole),
        _ => ZlibDecoder::new(body).take(MAX_UNPACKED_BYTES + 1).read_to_end(&mut whole),
    };
    read.is_ok_and(|read| read as u64 <= MAX_UNPACKED_BYTES).then_some(whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::{GzEncoder, ZlibEncoder};
    use std::io::Write as _;

    #[test]
    fn packed_bodies_are_unpacked_or_told() {
        let text = "hello ".repeat(100);
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::fast());
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        zlib.write_all(text.as_bytes()).unwrap();
        gzip.write_all(text.as_bytes()).unwrap();
        for packed in [zlib.finish().unwrap(), gzip.finish().unwrap()] {
            assert_eq!(unpacked(&packed).unwrap(), text.as_bytes());
            assert_eq!(unpacked(&packed[..packed.len() / 2]), None, "half of it");
        }
        for other in [&[][..], &[0x28, 0xb5, 0x2f, 0xfd, 0], b"plain"] {
            assert_eq!(unpacked(other), None);
        }
    }
}
