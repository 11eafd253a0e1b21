//! The body of SEND_BATCH_MESSAGE: messages one behind the other (RocketMQ 5.5 `MessageDecoder.encodeMessage`,
//! `MessageExtEncoder`). This file is the only place that knows its layout.

use super::int;

/// One message of a SEND_BATCH_MESSAGE body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InnerMessage<'a> {
    /// The user's flag.
    pub flag: i32,
    pub body: &'a [u8],
    /// Properties text.
    pub properties: &'a [u8],
}

/// The lengths inside of a batch body contradict each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the batch body is broken: message {index} does not fill the bytes it claims")]
pub struct BatchError {
    /// Place of the broken message, from 0.
    pub index: usize,
}

/// Appends one message of a SEND_BATCH_MESSAGE body. `properties` has at most [`crate::properties::MAX_PROPERTIES_BYTES`].
pub fn push_inner(message: &InnerMessage<'_>, out: &mut Vec<u8>) {
    let total = 4 + 4 + 4 + 4 + 4 + message.body.len() + 2 + message.properties.len();
    out.reserve(total);
    out.extend_from_slice(&(total as u32).to_be_bytes());
    out.extend_from_slice(&[0; 8]); // magic, crc
    out.extend_from_slice(&message.flag.to_be_bytes());
    out.extend_from_slice(&(message.body.len() as u32).to_be_bytes());
    out.extend_from_slice(message.body);
    out.extend_from_slice(&(message.properties.len() as u16).to_be_bytes());
    out.extend_from_slice(message.properties);
}

/// The messages of a SEND_BATCH_MESSAGE body, in order. After an error nothing follows.
pub fn batch(body: &[u8]) -> impl Iterator<Item = Result<InnerMessage<'_>, BatchError>> {
    let mut rest = body;
    let mut index = 0;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let taken = take_inner(&mut rest).ok_or(BatchError { index });
        index += 1;
        if taken.is_err() {
            rest = &[];
        }
        Some(taken)
    })
}

/// Total size, magic, crc, flag, body length, body, properties length, properties. RocketMQ reads by the inner lengths;
/// a total that disagrees with them means a broken encoder.
#[inline]
fn take_inner<'a>(rest: &mut &'a [u8]) -> Option<InnerMessage<'a>> {
    let total = usize::try_from(int(rest, 0)?).ok()?;
    let message = rest.get(..total)?;
    let flag = int(message, 12)?;
    let body_len = usize::try_from(int(message, 16)?).ok()?;
    let (body, tail) = message.get(20..)?.split_at_checked(body_len)?;
    let (properties_len, properties) = tail.split_first_chunk::<2>()?;
    let properties_len = usize::try_from(i16::from_be_bytes(*properties_len)).ok()?;
    *rest = &rest[total..];
    (properties.len() == properties_len).then_some(InnerMessage { flag, body, properties })
}
