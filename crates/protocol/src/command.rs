//! The header of one request or response, read in one pass without a map and without copying: the head's numbers,
//! and spans of the field texts in the frame (RocketMQ 5.5 `RemotingCommand`, `RocketMQSerializable`).
//!
//! JSON headers are scanned directly. Escapes are resolved only when a value is taken out; unknown keys are skipped;
//! a later duplicate of a key wins, as in Java's map.

use std::borrow::Cow;

use smallvec::SmallVec;
use thiserror::Error;

use crate::frame::{Encoding, Frame};
use crate::scan::{self, Scanner, Span};

mod owned;

pub use owned::{CommandError, OwnedCommand};

/// Most extension fields one header may carry. RocketMQ's largest family has fewer than 40.
pub const MAX_FIELDS: usize = 1024;

/// Fields held without allocation. A Java send carries about 20.
const INLINE_FIELDS: usize = 24;

const FLAG_RESPONSE: i32 = 1;
const FLAG_ONEWAY: i32 = 1 << 1;

/// The fixed part of a header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    pub encoding: Encoding,
    /// Request code, or response code in a response.
    pub code: i32,
    /// `LanguageCode` number of the sender, see [`crate::version::language_name`].
    pub language: u8,
    /// `MQVersion` ordinal of the sender.
    pub version: i32,
    /// Matches a response to its request.
    pub opaque: i32,
    /// Bit 0 response, bit 1 one-way.
    pub flag: i32,
}

impl Head {
    pub fn is_response(&self) -> bool {
        self.flag & FLAG_RESPONSE != 0
    }

    pub fn is_oneway(&self) -> bool {
        self.flag & FLAG_ONEWAY != 0
    }
}

/// Why the bytes are not a header. The frame was complete, but what it means is unknown: the connection has to be
/// closed, as RocketMQ does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum HeaderError {
    #[error("header is not a JSON object that can be read: {what} at byte {at}")]
    Json { what: &'static str, at: usize },
    #[error("binary header ends inside {0}")]
    Truncated(&'static str),
    #[error("header has more than {MAX_FIELDS} extension fields")]
    TooManyFields,
    #[error("header text is not valid UTF-8")]
    NotUtf8,
}

/// A field that is missing or cannot be read. Its text is the remark a client gets with code 1.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum FieldError {
    #[error("the custom field <{field}> is null")]
    Missing { field: &'static str },
    #[error("the custom field <{field}> is not a valid {expected}: {value:?}")]
    Invalid { field: &'static str, expected: &'static str, value: String },
}

/// A header string as it stands in the frame; JSON escapes not yet resolved.
#[derive(Clone, Copy, Debug, Default)]
pub struct Text<'a> {
    raw: &'a [u8],
    escaped: bool,
}

impl<'a> Text<'a> {
    /// A text that needs no unescaping, e.g. for building a header by hand.
    pub fn plain(text: &'a str) -> Self {
        Text { raw: text.as_bytes(), escaped: false }
    }

    /// The text, borrowed unless it holds JSON escapes.
    pub fn to_str(&self) -> Result<Cow<'a, str>, HeaderError> {
        if !self.escaped {
            return std::str::from_utf8(self.raw).map(Cow::Borrowed).map_err(|_| HeaderError::NotUtf8);
        }
        let mut out = Vec::with_capacity(self.raw.len());
        scan::unescape(self.raw, &mut out);
        String::from_utf8(out).map(Cow::Owned).map_err(|_| HeaderError::NotUtf8)
    }

    /// The text, with bytes that are not UTF-8 replaced: for logs and remarks.
    pub fn to_lossy(&self) -> Cow<'a, str> {
        match self.bytes() {
            Cow::Borrowed(bytes) => String::from_utf8_lossy(bytes),
            Cow::Owned(bytes) => Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()),
        }
    }

    /// The text's bytes with escapes resolved; not checked to be UTF-8.
    pub fn bytes(&self) -> Cow<'a, [u8]> {
        if !self.escaped {
            return Cow::Borrowed(self.raw);
        }
        let mut out = Vec::with_capacity(self.raw.len());
        scan::unescape(self.raw, &mut out);
        Cow::Owned(out)
    }

    /// Appends the bytes with escapes resolved; not checked to be UTF-8.
    pub fn push_to(&self, out: &mut Vec<u8>) {
        if self.escaped {
            scan::unescape(self.raw, out);
        } else {
            out.extend_from_slice(self.raw);
        }
    }

    pub fn parse_i32(&self) -> Option<i32> {
        self.parse_i64().and_then(|value| i32::try_from(value).ok())
    }

    pub fn parse_i64(&self) -> Option<i64> {
        if self.escaped { scan::parse_i64(&self.bytes()) } else { scan::parse_i64(self.raw) }
    }

    /// Java's `Boolean.parseBoolean`, except that a text which is neither `true` nor `false` is `None`.
    pub fn parse_bool(&self) -> Option<bool> {
        if self.raw.eq_ignore_ascii_case(b"true") {
            Some(true)
        } else if self.raw.eq_ignore_ascii_case(b"false") {
            Some(false)
        } else {
            None
        }
    }

    pub fn is_empty(&self) -> bool {
        self.raw.is_empty()
    }

    /// The byte of a text that has only one: the keys of a short send.
    #[inline]
    pub(crate) fn single_byte(&self) -> Option<u8> {
        match self.raw {
            [byte] => Some(*byte),
            _ => None,
        }
    }

    /// Bytes as they stand in the frame: at least as many as the unescaped text has.
    pub fn raw_len(&self) -> usize {
        self.raw.len()
    }

    pub fn eq_str(&self, text: &str) -> bool {
        if self.escaped { *self.bytes() == *text.as_bytes() } else { self.raw == text.as_bytes() }
    }
}

impl<'a> From<&'a str> for Text<'a> {
    fn from(text: &'a str) -> Self {
        Text::plain(text)
    }
}

impl PartialEq for Text<'_> {
    fn eq(&self, other: &Self) -> bool {
        if self.escaped || other.escaped { self.bytes() == other.bytes() } else { self.raw == other.raw }
    }
}

impl Eq for Text<'_> {}

/// The extension fields of one header, in the order they were written.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    header: &'a [u8],
    spans: SmallVec<[(Span, Span); INLINE_FIELDS]>,
    present: bool,
}

impl<'a> Fields<'a> {
    /// No extension fields at all: RocketMQ then checks no required field.
    pub fn is_absent(&self) -> bool {
        !self.present
    }

    pub fn len(&self) -> usize {
        self.spans.len()
    }

    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (Text<'a>, Text<'a>)> + '_ {
        self.spans.iter().map(|(key, value)| (self.text(*key), self.text(*value)))
    }

    fn text(&self, span: Span) -> Text<'a> {
        Text { raw: span.of(self.header), escaped: span.escaped() }
    }

    /// The value of `key`; the last one if it stands twice.
    pub fn get(&self, key: &str) -> Option<Text<'a>> {
        let wanted = key.as_bytes();
        for (name, value) in self.spans.iter().rev() {
            let found = if name.escaped() {
                self.text(*name).eq_str(key)
            } else {
                name.len() == wanted.len() && name.of(self.header) == wanted
            };
            if found {
                return Some(self.text(*value));
            }
        }
        None
    }

    pub fn text_of(&self, key: &'static str) -> Result<Text<'a>, FieldError> {
        self.get(key).ok_or(FieldError::Missing { field: key })
    }

    pub fn str(&self, key: &'static str) -> Result<Cow<'a, str>, FieldError> {
        let text = self.text_of(key)?;
        text.to_str().map_err(|_| FieldError::invalid(key, "UTF-8 text", text))
    }

    pub fn i32(&self, key: &'static str) -> Result<i32, FieldError> {
        let text = self.text_of(key)?;
        text.parse_i32().ok_or_else(|| FieldError::invalid(key, "32-bit integer", text))
    }

    pub fn i64(&self, key: &'static str) -> Result<i64, FieldError> {
        let text = self.text_of(key)?;
        text.parse_i64().ok_or_else(|| FieldError::invalid(key, "64-bit integer", text))
    }

    /// Java's reading: anything but `true` is false.
    pub fn bool(&self, key: &'static str) -> Result<bool, FieldError> {
        Ok(self.text_of(key)?.parse_bool().unwrap_or(false))
    }

    /// A value that is not UTF-8 counts as absent.
    pub fn opt_str(&self, key: &str) -> Option<Cow<'a, str>> {
        self.get(key).and_then(|text| text.to_str().ok())
    }

    /// A value that is not a number counts as absent: RocketMQ leaves the field at its default.
    pub fn opt_i32(&self, key: &str) -> Option<i32> {
        self.get(key).and_then(|text| text.parse_i32())
    }

    /// A value that is not a number counts as absent.
    pub fn opt_i64(&self, key: &str) -> Option<i64> {
        self.get(key).and_then(|text| text.parse_i64())
    }

    /// Java's reading: anything but `true` is false.
    pub fn opt_bool(&self, key: &str) -> Option<bool> {
        self.get(key).map(|text| text.parse_bool().unwrap_or(false))
    }
}

impl FieldError {
    /// The first characters of the value are kept for the remark.
    pub(crate) fn invalid(field: &'static str, expected: &'static str, text: Text<'_>) -> FieldError {
        const SHOWN: usize = 64;
        FieldError::Invalid { field, expected, value: text.to_lossy().chars().take(SHOWN).collect() }
    }
}

/// One request or response, borrowed from its frame.
#[derive(Clone, Debug)]
pub struct Command<'a> {
    pub head: Head,
    pub remark: Option<Text<'a>>,
    pub fields: Fields<'a>,
    pub body: &'a [u8],
}

impl<'a> Command<'a> {
    pub fn parse(frame: Frame<'a>) -> Result<Command<'a>, HeaderError> {
        let mut command = Command {
            head: Head { encoding: frame.encoding, code: 0, language: 0, version: 0, opaque: 0, flag: 0 },
            remark: None,
            fields: Fields { header: frame.header, spans: SmallVec::new(), present: false },
            body: frame.body,
        };
        match frame.encoding {
            Encoding::Json => command.read_json()?,
            Encoding::Binary => command.read_binary()?,
        }
        Ok(command)
    }

    /// Where the remark stands in a frame whose header begins at `start`, and whether it has escapes.
    fn remark_at(&self, start: usize) -> Option<(usize, usize, bool)> {
        self.remark.map(|text| {
            let at = start + (text.raw.as_ptr() as usize - self.fields.header.as_ptr() as usize);
            (at, at + text.raw.len(), text.escaped)
        })
    }

    fn read_json(&mut self) -> Result<(), HeaderError> {
        let header = self.fields.header;
        let mut scanner = Scanner::new(header);
        scanner.open_object()?;
        while let Some(key) = scanner.next_key()? {
            match key.of(header) {
                b"code" => self.head.code = scanner.number()?,
                b"language" => {
                    let language = scanner.scalar()?;
                    self.head.language = language.map_or(0, |span| read_language(span.of(header)));
                }
                b"version" => self.head.version = scanner.number()?,
                b"opaque" => self.head.opaque = scanner.number()?,
                b"flag" => self.head.flag = scanner.number()?,
                b"remark" => self.remark = scanner.scalar()?.map(|span| self.fields.text(span)),
                b"extFields" => self.read_json_fields(&mut scanner)?,
                _ => scanner.skip_value()?,
            }
        }
        scanner.finish()
    }

    fn read_json_fields(&mut self, scanner: &mut Scanner<'a>) -> Result<(), HeaderError> {
        self.fields.spans.clear();
        self.fields.present = scanner.open_object_or_null()?;
        if !self.fields.present {
            return Ok(());
        }
        while let Some(key) = scanner.next_key()? {
            if let Some(value) = scanner.scalar()? {
                if self.fields.spans.len() == MAX_FIELDS {
                    return Err(HeaderError::TooManyFields);
                }
                self.fields.spans.push((key, value));
            }
        }
        Ok(())
    }

    fn read_binary(&mut self) -> Result<(), HeaderError> {
        let header = self.fields.header;
        let mut reader = Binary { bytes: header, at: 0 };
        self.head.code = i32::from(i16::from_be_bytes(reader.take("the code")?));
        [self.head.language] = reader.take("the language")?;
        self.head.version = i32::from(i16::from_be_bytes(reader.take("the version")?));
        self.head.opaque = i32::from_be_bytes(reader.take("the opaque")?);
        self.head.flag = i32::from_be_bytes(reader.take("the flag")?);
        let remark_len = u32::from_be_bytes(reader.take("the remark's length")?);
        let remark = reader.span(remark_len as usize, "the remark")?;
        if remark.len() > 0 {
            self.remark = Some(self.fields.text(remark));
        }
        let fields_len = u32::from_be_bytes(reader.take("the length of the extension fields")?) as usize;
        let Some(end) = reader.at.checked_add(fields_len).filter(|end| *end <= header.len()) else {
            return Err(HeaderError::Truncated("the extension fields"));
        };
        self.fields.present = fields_len > 0;
        reader.bytes = &header[..end];
        while reader.at < end {
            let key_len = u16::from_be_bytes(reader.take("a field name's length")?);
            let key = reader.span(usize::from(key_len), "a field name")?;
            let value_len = u32::from_be_bytes(reader.take("a field value's length")?);
            let value = reader.span(value_len as usize, "a field value")?;
            // RocketMQ reads an empty key or value as null.
            if key.len() > 0 && value.len() > 0 {
                if self.fields.spans.len() == MAX_FIELDS {
                    return Err(HeaderError::TooManyFields);
                }
                self.fields.spans.push((key, value));
            }
        }
        Ok(())
    }
}

fn read_language(value: &[u8]) -> u8 {
    match scan::parse_i64(value) {
        Some(number) => u8::try_from(number).unwrap_or(crate::version::language::OTHER),
        None => crate::version::language_number(value),
    }
}

struct Binary<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Binary<'_> {
    fn take<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], HeaderError> {
        let bytes = self.bytes.get(self.at..self.at + N).and_then(|bytes| bytes.try_into().ok());
        self.at += N;
        bytes.ok_or(HeaderError::Truncated(what))
    }

    fn span(&mut self, len: usize, what: &'static str) -> Result<Span, HeaderError> {
        let end = self.at.checked_add(len).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or(HeaderError::Truncated(what))?;
        let span = Span::new(self.at, len, false);
        self.at = end;
        Ok(span)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::write::FrameWriter;

    fn json(header: &str) -> Result<Command<'_>, HeaderError> {
        Command::parse(Frame { encoding: Encoding::Json, header: header.as_bytes(), body: b"" })
    }

    /// As Java 5.5 writes a send.
    const SEND: &str = concat!(
        r#"{"code":310,"extFields":{"a":"group","b":"TopicTest","c":"TBW102","d":"4","e":"2","f":"0","#,
        r#""g":"1732413600000","h":"0","i":"KEYS\u0001k 1\u0002UNIQ_KEY\u00017F0000010203AABB\u0002","j":"0","k":"false","#,
        r#""m":"false","n":"broker-a"},"flag":0,"language":"JAVA","opaque":17,"serializeTypeCurrentRPC":"JSON","version":513}"#
    );

    #[test]
    fn reads_a_java_send() {
        let command = json(SEND).unwrap();
        let expected = Head { encoding: Encoding::Json, code: 310, language: 0, version: 513, opaque: 17, flag: 0 };
        assert_eq!(command.head, expected);
        assert_eq!(command.fields.len(), 13);
        assert_eq!(command.fields.str("b").unwrap(), "TopicTest");
        assert_eq!(command.fields.i64("g"), Ok(1_732_413_600_000));
        assert_eq!(command.fields.i32("e"), Ok(2));
        assert_eq!(command.fields.bool("k"), Ok(false));
        let mut properties = Vec::new();
        command.fields.get("i").unwrap().push_to(&mut properties);
        assert_eq!(properties, b"KEYS\x01k 1\x02UNIQ_KEY\x017F0000010203AABB\x02");
        assert_eq!(command.fields.i32("l").unwrap_err().to_string(), "the custom field <l> is null");
    }

    #[test]
    fn is_lenient_where_fastjson_is() {
        let command = json(
            " {code : '12' , language:\"GO\", flag:3,, 'remark':null, x:{a:[1,{b:'}'}],}, \"extFields\" :{ 1 : 7,
             \"n\":null, \"o\":{}, \"t\":true, \"t\":\"False\", 'e':''},\"version\":\"401\",}\n",
        )
        .unwrap();
        assert_eq!((command.head.code, command.head.language, command.head.version), (12, 9, 401));
        assert!(command.head.is_response() && command.head.is_oneway() && command.remark.is_none());
        assert_eq!(command.fields.opt_i32("1"), Some(7));
        assert_eq!(command.fields.opt_bool("t"), Some(false));
        assert!(command.fields.get("n").is_none() && command.fields.get("o").is_none());
        assert!(command.fields.get("e").unwrap().is_empty());
    }

    #[test]
    fn absent_fields_are_told_from_empty_ones() {
        assert!(json("{}").unwrap().fields.is_absent());
        assert!(json(r#"{"extFields":null}"#).unwrap().fields.is_absent());
        assert!(!json(r#"{"extFields":{}}"#).unwrap().fields.is_absent());
    }

    #[test]
    fn refuses_what_is_no_header() {
        let deep = format!("{{\"x\":{}", "[".repeat(1000));
        for bad in ["", "{", "[]", "{\"a\"", "{\"a\":", "{\"a\":\"", "{\"a\":\"\\", "{}x", "{\"code\":\"x\"}", &deep] {
            assert!(matches!(json(bad), Err(HeaderError::Json { .. })), "{bad:?}");
        }
        let many: String = (0..=MAX_FIELDS).map(|n| format!("\"{n}\":1,")).collect();
        assert_eq!(json(&format!("{{\"extFields\":{{{many}}}}}")).unwrap_err(), HeaderError::TooManyFields);
    }

    #[test]
    fn both_encodings_carry_the_same_command() {
        for encoding in [Encoding::Json, Encoding::Binary] {
            let mut out = b"before".to_vec();
            let mut writer = FrameWriter::request(&mut out, encoding, 310, -5, true);
            writer
                .remark("why \"not\"\n")
                .str("k\"", "v\u{1}\\ä")
                .i32("i", i32::MIN)
                .i64("l", i64::MAX)
                .bool("b", true);
            writer.finish_with_body(b"body");
            let owned = OwnedCommand::from_frame_bytes(out.split_off(6)).unwrap();
            let command = owned.command();
            assert_eq!((command.head.code, command.head.opaque, command.head.flag), (310, -5, 2));
            assert_eq!((command.head.version, command.head.language), (crate::version::CURRENT, 12));
            assert_eq!(command.remark.unwrap().to_str().unwrap(), "why \"not\"\n");
            assert_eq!(command.fields.str("k\"").unwrap(), "v\u{1}\\ä");
            assert_eq!(command.fields.i32("i"), Ok(i32::MIN));
            assert_eq!(command.fields.i64("l"), Ok(i64::MAX));
            assert_eq!(command.fields.bool("b"), Ok(true));
            assert_eq!(command.body, b"body");
        }
    }

    #[test]
    fn responses_copy_encoding_and_opaque() {
        for encoding in [Encoding::Json, Encoding::Binary] {
            let request = Head { encoding, code: 10, language: 9, version: 317, opaque: 99, flag: 0 };
            let mut out = Vec::new();
            FrameWriter::response(&mut out, &request, 0).finish();
            let owned = OwnedCommand::from_frame_bytes(out).unwrap();
            assert_eq!(owned.head().encoding, encoding);
            assert_eq!(owned.head().opaque, 99);
            assert!(owned.head().is_response() && owned.command().fields.is_absent() && owned.body().is_empty());
        }
    }

    #[test]
    fn large_codes_are_always_json() {
        let mut out = Vec::new();
        FrameWriter::request(&mut out, Encoding::Binary, 200_050, 1, false).finish();
        let owned = OwnedCommand::from_frame_bytes(out).unwrap();
        assert_eq!((owned.head().code, owned.head().encoding), (200_050, Encoding::Json));
    }

    #[test]
    fn an_unfinished_frame_is_taken_back() {
        let mut out = b"kept".to_vec();
        let mut writer = FrameWriter::request(&mut out, Encoding::Json, 10, 1, false);
        writer.str("a", "b");
        drop(writer);
        assert_eq!(out, b"kept");
    }

    #[test]
    fn binary_headers_are_bounded() {
        let mut out = Vec::new();
        let mut writer = FrameWriter::request(&mut out, Encoding::Binary, 10, 1, false);
        writer.remark("r").str("key", "value").str("empty", "");
        writer.finish();
        let header = out[8..].to_vec();
        let parse = |header: &[u8]| {
            Command::parse(Frame { encoding: Encoding::Binary, header, body: b"" }).map(|command| command.fields.len())
        };
        assert_eq!(parse(&header), Ok(1));
        for cut in 0..header.len() {
            assert!(matches!(parse(&header[..cut]), Err(HeaderError::Truncated(_))), "cut at {cut}");
        }
        let mut wild = header.clone();
        wild[13..17].copy_from_slice(&[0xFF; 4]);
        assert_eq!(parse(&wild), Err(HeaderError::Truncated("the remark")));
    }
}
