//! Writes one frame straight into the caller's buffer, in either encoding. Lengths are patched when the frame is
//! finished; a writer that is dropped unfinished leaves the buffer as it was.

use crate::command::{Command, Head, Text};
use crate::frame::{Encoding, MAX_HEADER_BYTES, PREFIX_BYTES, prefix};
use crate::version;

/// What the writer has already put into the header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Head,
    Remark,
    Fields,
    Done,
}

/// One frame under construction. Order: remark, then fields, then one of the `finish` calls.
#[must_use = "a frame that is not finished is taken back"]
#[derive(Debug)]
pub struct FrameWriter<'o> {
    out: &'o mut Vec<u8>,
    /// Where the frame starts in `out`.
    start: usize,
    encoding: Encoding,
    stage: Stage,
    /// Where the length of the binary fields stands; 0 until fields begin.
    fields_len_at: usize,
    /// The request that is answered; `None` in a request of ours.
    answered: Option<Head>,
}

impl<'o> FrameWriter<'o> {
    /// An answer to `request`: its encoding and opaque, flag 1. The language is JAVA, the one name every client of
    /// every age can read in a response.
    pub fn response(out: &'o mut Vec<u8>, request: &Head, code: i32) -> Self {
        let language = version::language::JAVA;
        let mut writer = Self::begin(out, Head { code, language, version: version::CURRENT, flag: 1, ..*request });
        writer.answered = Some(*request);
        writer
    }

    /// A request of ours. Codes that do not fit the binary header's 16 bits are written as JSON whatever `encoding` says.
    pub fn request(out: &'o mut Vec<u8>, encoding: Encoding, code: i32, opaque: i32, oneway: bool) -> Self {
        Self::begin_request(out, encoding, code, opaque, if oneway { 2 } else { 0 }, version::language::RUST)
    }

    /// A request on behalf of a client of another language.
    pub fn request_of(out: &'o mut Vec<u8>, encoding: Encoding, code: i32, opaque: i32, language: u8) -> Self {
        Self::begin_request(out, encoding, code, opaque, 0, language)
    }

    /// A command that is passed on: all that its sender said, under another opaque. Fields may follow, then its body.
    pub fn passed_on(out: &'o mut Vec<u8>, command: &Command<'_>, opaque: i32) -> Self {
        let mut writer = Self::begin(out, Head { opaque, ..command.head });
        if let Some(remark) = command.remark {
            writer.remark(&remark.to_lossy());
        }
        for (key, value) in command.fields.iter() {
            writer.text(&key.to_lossy(), value);
        }
        writer
    }

    fn begin_request(
        out: &'o mut Vec<u8>,
        encoding: Encoding,
        code: i32,
        opaque: i32,
        flag: i32,
        language: u8,
    ) -> Self {
        let encoding = if i16::try_from(code).is_ok() { encoding } else { Encoding::Json };
        Self::begin(out, Head { encoding, code, language, version: version::CURRENT, opaque, flag })
    }

    fn begin(out: &'o mut Vec<u8>, head: Head) -> Self {
        let Head { encoding, code, language, version, opaque, flag } = head;
        let start = out.len();
        match encoding {
            Encoding::Json => {
                out.extend_from_slice(b"\0\0\0\0\0\0\0\0{\"code\":");
                push_int(out, code);
                out.extend_from_slice(b",\"flag\":");
                push_int(out, flag);
                out.extend_from_slice(b",\"language\":\"");
                out.extend_from_slice(version::language_name(language).as_bytes());
                out.extend_from_slice(b"\",\"opaque\":");
                push_int(out, opaque);
                out.extend_from_slice(b",\"serializeTypeCurrentRPC\":\"JSON\",\"version\":");
                push_int(out, version);
            }
            Encoding::Binary => {
                out.extend_from_slice(&[0; PREFIX_BYTES]);
                out.extend_from_slice(&(code as i16).to_be_bytes());
                out.push(language);
                out.extend_from_slice(&(version as i16).to_be_bytes());
                out.extend_from_slice(&opaque.to_be_bytes());
                out.extend_from_slice(&flag.to_be_bytes());
            }
        }
        FrameWriter { out, start, encoding, stage: Stage::Head, fields_len_at: 0, answered: None }
    }

    /// The encoding this frame is written in.
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// Sets the remark. It stands before the fields: once, and before the first of them; later calls are ignored.
    pub fn remark(&mut self, text: &str) -> &mut Self {
        debug_assert!(self.stage == Stage::Head, "the remark comes once and before the fields");
        if self.stage != Stage::Head {
            return self;
        }
        match self.encoding {
            Encoding::Json => {
                self.out.extend_from_slice(b",\"remark\":\"");
                push_escaped(self.out, text);
                self.out.push(b'"');
            }
            Encoding::Binary => push_long(self.out, text.as_bytes()),
        }
        self.stage = Stage::Remark;
        self
    }

    #[inline]
    fn key(&mut self, key: &str) {
        match (self.encoding, self.stage) {
            (Encoding::Json, Stage::Fields) => self.out.extend_from_slice(b",\""),
            (Encoding::Json, _) => self.out.extend_from_slice(b",\"extFields\":{\""),
            (Encoding::Binary, Stage::Fields) => {}
            (Encoding::Binary, _) => self.open_binary_fields(),
        }
        self.stage = Stage::Fields;
        match self.encoding {
            Encoding::Json => {
                push_escaped(self.out, key);
                self.out.extend_from_slice(b"\":\"");
            }
            Encoding::Binary => {
                let key = &key.as_bytes()[..key.len().min(usize::from(u16::MAX))];
                self.out.extend_from_slice(&(key.len() as u16).to_be_bytes());
                self.out.extend_from_slice(key);
            }
        }
    }

    fn open_binary_fields(&mut self) {
        if self.stage == Stage::Head {
            self.out.extend_from_slice(&[0; 4]);
        }
        self.fields_len_at = self.out.len();
        self.out.extend_from_slice(&[0; 4]);
    }

    #[inline]
    pub fn str(&mut self, key: &str, value: &str) -> &mut Self {
        self.key(key);
        match self.encoding {
            Encoding::Json => {
                push_escaped(self.out, value);
                self.out.push(b'"');
            }
            Encoding::Binary => push_long(self.out, value.as_bytes()),
        }
        self
    }

    /// A text of `len` bytes that `write` appends; nothing in it may need escaping (digits, letters, separators).
    pub fn plain(&mut self, key: &str, len: usize, write: impl FnOnce(&mut Vec<u8>)) -> &mut Self {
        self.key(key);
        if self.encoding == Encoding::Binary {
            self.out.extend_from_slice(&(len as u32).to_be_bytes());
        }
        self.out.reserve(len + 1);
        let at = self.out.len();
        write(self.out);
        debug_assert_eq!(self.out.len() - at, len, "{key} is as long as was said");
        if self.encoding == Encoding::Json {
            self.out.push(b'"');
        }
        self
    }

    /// A text that came in a frame, of either encoding.
    pub fn text(&mut self, key: &str, value: Text<'_>) -> &mut Self {
        self.key(key);
        let bytes = value.bytes();
        match self.encoding {
            Encoding::Json => {
                push_escaped_bytes(self.out, &bytes);
                self.out.push(b'"');
            }
            Encoding::Binary => push_long(self.out, &bytes),
        }
        self
    }

    /// A value that needs no escaping: digits, `true`, `false`.
    #[inline]
    fn word(&mut self, key: &str, value: &str) -> &mut Self {
        self.key(key);
        match self.encoding {
            Encoding::Json => {
                self.out.extend_from_slice(value.as_bytes());
                self.out.push(b'"');
            }
            Encoding::Binary => push_long(self.out, value.as_bytes()),
        }
        self
    }

    #[inline]
    pub fn i32(&mut self, key: &str, value: i32) -> &mut Self {
        self.word(key, itoa::Buffer::new().format(value))
    }

    #[inline]
    pub fn i64(&mut self, key: &str, value: i64) -> &mut Self {
        self.word(key, itoa::Buffer::new().format(value))
    }

    #[inline]
    pub fn bool(&mut self, key: &str, value: bool) -> &mut Self {
        self.word(key, if value { "true" } else { "false" })
    }

    /// Ends a frame without a body.
    pub fn finish(self) {
        self.finish_before_body(0);
    }

    /// Ends a frame whose body of `len` bytes the caller sees to: it has to stand right behind.
    pub fn finish_before_body(mut self, len: usize) {
        let header_end = self.close_header();
        self.close(header_end, len);
    }

    pub fn finish_with_body(mut self, body: &[u8]) {
        let header_end = self.close_header();
        self.out.extend_from_slice(body);
        self.close(header_end, body.len());
    }

    /// Ends the frame with the body that `f` appends in place. `f` must only append.
    pub fn body_with(mut self, f: impl FnOnce(&mut Vec<u8>)) {
        let header_end = self.close_header();
        f(self.out);
        self.close(header_end, self.out.len() - header_end);
    }

    fn close_header(&mut self) -> usize {
        match self.encoding {
            Encoding::Json if self.stage == Stage::Fields => self.out.extend_from_slice(b"}}"),
            Encoding::Json => self.out.push(b'}'),
            Encoding::Binary => {
                if self.stage != Stage::Fields {
                    self.open_binary_fields();
                }
                let len = (self.out.len() - self.fields_len_at - 4) as u32;
                self.out[self.fields_len_at..self.fields_len_at + 4].copy_from_slice(&len.to_be_bytes());
            }
        }
        self.out.len()
    }

    fn close(&mut self, header_end: usize, body: usize) {
        let header_len = header_end - self.start - PREFIX_BYTES;
        if header_len > MAX_HEADER_BYTES {
            return self.give_up(header_len);
        }
        let prefix = prefix(self.encoding, header_len, body);
        self.out[self.start..self.start + PREFIX_BYTES].copy_from_slice(&prefix);
        self.stage = Stage::Done;
    }

    /// A header whose length has more than 24 bits cannot be sent: an answer becomes an error, a request is taken back
    /// and runs into its time limit.
    #[cold]
    fn give_up(&mut self, header_len: usize) {
        self.out.truncate(self.start);
        self.stage = Stage::Done;
        if let Some(request) = self.answered {
            let mut answer = FrameWriter::response(self.out, &request, crate::code::response::SYSTEM_ERROR);
            answer.remark(&format!("the answer's header has {header_len} bytes, more than a frame can carry"));
            answer.finish();
        }
    }
}

impl Drop for FrameWriter<'_> {
    fn drop(&mut self) {
        if self.stage != Stage::Done {
            self.out.truncate(self.start);
        }
    }
}

fn push_int(out: &mut Vec<u8>, value: i32) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

fn push_long(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// Appends `text` as the inside of a JSON string.
#[inline]
pub fn push_escaped(out: &mut Vec<u8>, text: &str) {
    push_escaped_bytes(out, text.as_bytes());
}

fn push_escaped_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    let clean = clean_prefix(bytes);
    out.extend_from_slice(&bytes[..clean]);
    if clean < bytes.len() {
        escape(out, &bytes[clean..]);
    }
}

/// How many bytes at the start surely need no escaping; eight at a time.
#[inline]
fn clean_prefix(bytes: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    let mut at = 0;
    while let Some(chunk) = bytes.get(at..at + 8) {
        let Ok(chunk) = <[u8; 8]>::try_from(chunk) else { break };
        let word = u64::from_le_bytes(chunk);
        let (quotes, escapes) = (word ^ (ONES * u64::from(b'"')), word ^ (ONES * u64::from(b'\\')));
        // High bits: a byte below 0x20, a quote, a backslash; bytes from 0x80 on never count.
        let control = word.wrapping_sub(ONES * 0x20) & !word;
        let hits = (control | (quotes.wrapping_sub(ONES) & !quotes) | (escapes.wrapping_sub(ONES) & !escapes)) & HIGHS;
        if hits != 0 {
            return at + (hits.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    at + bytes[at..].iter().take_while(|byte| !needs_escape(**byte)).count()
}

#[inline]
fn needs_escape(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

#[cold]
fn escape(out: &mut Vec<u8>, bytes: &[u8]) {
    let mut from = 0;
    for (at, byte) in bytes.iter().enumerate().filter(|(_, byte)| needs_escape(**byte)) {
        out.extend_from_slice(&bytes[from..at]);
        from = at + 1;
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            other => {
                const HEX: &[u8; 16] = b"0123456789ABCDEF";
                let digits = [HEX[usize::from(other >> 4)], HEX[usize::from(other & 15)]];
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&digits);
            }
        }
    }
    out.extend_from_slice(&bytes[from..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_too_long_becomes_an_error() {
        let long = "x".repeat(MAX_HEADER_BYTES);
        let request = Head { encoding: Encoding::Binary, code: 11, language: 0, version: 0, opaque: 7, flag: 0 };
        let mut out = b"kept".to_vec();
        let mut writer = FrameWriter::response(&mut out, &request, 0);
        writer.str("k", &long);
        writer.finish_with_body(b"body");
        let answer = crate::OwnedCommand::from_frame_bytes(out.split_off(4)).unwrap();
        assert_eq!((answer.head().code, answer.head().opaque), (1, 7));
        assert!(answer.remark_lossy().contains("more than a frame can carry"));
        let mut writer = FrameWriter::request(&mut out, Encoding::Json, 11, 7, false);
        writer.str("k", &long);
        writer.finish();
        assert_eq!(out, b"kept");
    }

    #[test]
    fn escapes_at_every_place() {
        for len in 0..40 {
            for special in ["\"", "\\", "\u{1}", "\n", "\u{1f}"] {
                let text = format!("{}{special}ä 中{}", "x".repeat(len), "~".repeat(9));
                let mut out = Vec::new();
                push_escaped(&mut out, &text);
                let json = format!("\"{}\"", String::from_utf8(out).unwrap());
                assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
            }
        }
    }
}
