//! The remoting frame: `total length (4) | encoding (1) | header length (3) | header | body`, big-endian, where the
//! total length does not count itself (RocketMQ 5.5 `NettyDecoder`, `RemotingCommand`).

use thiserror::Error;

/// Largest frame accepted, in bytes, the length word included (`com.rocketmq.remoting.frameMaxLength`).
pub const MAX_FRAME_BYTES: usize = 16_777_216;

/// Largest header a frame can carry, in bytes: its length has 24 bits.
pub const MAX_HEADER_BYTES: usize = 0x00FF_FFFF;

/// Bytes before the header: the total length and the marked header length.
pub const PREFIX_BYTES: usize = 8;

/// How the header of one frame is written (`SerializeType`); every frame says its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Encoding {
    /// A JSON object (type byte 0).
    Json,
    /// The compact binary form (type byte 1, `ROCKETMQ`).
    Binary,
}

/// One complete frame, borrowed from the receive buffer.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    pub encoding: Encoding,
    pub header: &'a [u8],
    pub body: &'a [u8],
}

/// Why the bytes are not a frame. The stream cannot be resynchronised: the connection has to be closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum FrameError {
    #[error("frame of {len} bytes is larger than the limit of {max} bytes; raise the frame limit or send less")]
    TooLarge { len: usize, max: usize },
    #[error("frame length word {0} is too small to hold a header length; the peer does not speak remoting")]
    TooSmall(usize),
    #[error("header of {header} bytes does not fit its frame of {frame} bytes; the peer does not speak remoting")]
    HeaderTooLong { header: usize, frame: usize },
    #[error("unknown header encoding {0}; expected 0 (JSON) or 1 (ROCKETMQ)")]
    UnknownEncoding(u8),
}

fn word(buf: &[u8], at: usize) -> Option<[u8; 4]> {
    buf.get(at..at + 4).and_then(|bytes| bytes.try_into().ok())
}

/// Bytes of the frame that starts at `buf`, the length word included, if its length word is there. Not checked against
/// any limit: [`split`] does that.
pub fn announced_len(buf: &[u8]) -> Option<usize> {
    word(buf, 0).map(|bytes| (u32::from_be_bytes(bytes) as usize).saturating_add(4))
}

/// What stands before a header and a body of these lengths, bytes.
pub(crate) fn prefix(encoding: Encoding, header: usize, body: usize) -> [u8; PREFIX_BYTES] {
    let kind = if encoding == Encoding::Json { 0 } else { 1 << 24 };
    let total = (PREFIX_BYTES - 4 + header + body) as u32;
    let mut prefix = [0; PREFIX_BYTES];
    prefix[..4].copy_from_slice(&total.to_be_bytes());
    prefix[4..].copy_from_slice(&((header as u32) | kind).to_be_bytes());
    prefix
}

/// Takes the frame at the start of `buf`. `Ok(None)`: more bytes are needed. `Ok(Some((frame, len)))`: `len` bytes are
/// consumed by the frame. Both length words are checked as soon as they are there, before the body has arrived.
pub fn split(buf: &[u8], max_frame: usize) -> Result<Option<(Frame<'_>, usize)>, FrameError> {
    let Some(len) = announced_len(buf) else { return Ok(None) };
    if len > max_frame {
        return Err(FrameError::TooLarge { len, max: max_frame });
    }
    if len < PREFIX_BYTES {
        return Err(FrameError::TooSmall(len - 4));
    }
    let Some([kind, high, mid, low]) = word(buf, 4) else { return Ok(None) };
    let encoding = match kind {
        0 => Encoding::Json,
        1 => Encoding::Binary,
        other => return Err(FrameError::UnknownEncoding(other)),
    };
    let header_len = u32::from_be_bytes([0, high, mid, low]) as usize;
    let header_end = PREFIX_BYTES + header_len;
    if header_end > len {
        return Err(FrameError::HeaderTooLong { header: header_len, frame: len });
    }
    if buf.len() < len {
        return Ok(None);
    }
    Ok(Some((Frame { encoding, header: &buf[PREFIX_BYTES..header_end], body: &buf[header_end..len] }, len)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, header: &[u8], body: &[u8]) -> Vec<u8> {
        let mut out = ((4 + header.len() + body.len()) as u32).to_be_bytes().to_vec();
        out.extend_from_slice(&((header.len() as u32) | (u32::from(kind) << 24)).to_be_bytes());
        out.extend_from_slice(header);
        out.extend_from_slice(body);
        out
    }

    #[test]
    fn waits_for_every_missing_byte() {
        let bytes = frame(0, b"{}", b"body");
        for cut in 0..bytes.len() {
            assert!(split(&bytes[..cut], MAX_FRAME_BYTES).unwrap().is_none(), "cut at {cut}");
        }
        let (got, len) = split(&bytes, MAX_FRAME_BYTES).unwrap().unwrap();
        assert_eq!((got.encoding, got.header, got.body, len), (Encoding::Json, &b"{}"[..], &b"body"[..], bytes.len()));
    }

    #[test]
    fn takes_the_first_of_two() {
        let mut bytes = frame(1, b"hh", b"");
        let first = bytes.len();
        bytes.extend(frame(0, b"", b"x"));
        let (got, len) = split(&bytes, MAX_FRAME_BYTES).unwrap().unwrap();
        assert_eq!((got.encoding, got.header, len), (Encoding::Binary, &b"hh"[..], first));
        let (got, _) = split(&bytes[len..], MAX_FRAME_BYTES).unwrap().unwrap();
        assert_eq!(got.body, b"x");
    }

    #[test]
    fn refuses_bad_lengths_before_the_body_arrives() {
        assert_eq!(split(&[0, 0, 0, 3], 64), Err(FrameError::TooSmall(3)));
        assert_eq!(split(&[0, 0, 0, 61], 64), Err(FrameError::TooLarge { len: 65, max: 64 }));
        assert!(matches!(split(&[0xFF; 4], MAX_FRAME_BYTES), Err(FrameError::TooLarge { .. })));
        assert_eq!(split(&[0, 0, 0, 9, 2, 0, 0, 0], 64), Err(FrameError::UnknownEncoding(2)));
        assert_eq!(split(&[0, 0, 0, 9, 0, 0, 0, 6], 64), Err(FrameError::HeaderTooLong { header: 6, frame: 13 }));
    }

    impl PartialEq for Frame<'_> {
        fn eq(&self, other: &Self) -> bool {
            self.header == other.header && self.body == other.body
        }
    }
}
