//! The scanner under JSON headers: positions instead of values, no recursion, bounded depth. Lenient where fastjson is
//! (single quotes, unquoted keys, trailing commas, control characters inside strings); strict about nothing a peer
//! depends on. Never panics: every read is checked.

use crate::command::HeaderError;

/// Deepest nesting skipped inside a header value that nobody reads.
const MAX_DEPTH: usize = 32;

const ESCAPED: u32 = 1 << 31;

/// A text inside a header: where it starts, how long it is, whether it holds escapes. A header has fewer than 2^24
/// bytes, so both numbers fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    start: u32,
    len_and_escaped: u32,
}

impl Span {
    pub fn new(start: usize, len: usize, escaped: bool) -> Span {
        Span { start: start as u32, len_and_escaped: (len as u32 & !ESCAPED) | if escaped { ESCAPED } else { 0 } }
    }

    pub fn len(self) -> usize {
        (self.len_and_escaped & !ESCAPED) as usize
    }

    pub fn escaped(self) -> bool {
        self.len_and_escaped & ESCAPED != 0
    }

    pub fn of(self, header: &[u8]) -> &[u8] {
        let start = self.start as usize;
        header.get(start..start + self.len()).unwrap_or_default()
    }
}

pub struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Scanner<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Scanner { bytes, at: 0 }
    }

    fn fail<T>(&self, what: &'static str) -> Result<T, HeaderError> {
        Err(HeaderError::Json { what, at: self.at })
    }

    /// The next byte that is not white space, not consumed; 0 at the end.
    #[inline(always)]
    fn peek(&mut self) -> u8 {
        loop {
            match self.bytes.get(self.at) {
                Some(b' ' | b'\t' | b'\n' | b'\r') => self.at += 1,
                Some(byte) => return *byte,
                None => return 0,
            }
        }
    }

    pub fn open_object(&mut self) -> Result<(), HeaderError> {
        if self.peek() != b'{' {
            return self.fail("expected an object");
        }
        self.at += 1;
        Ok(())
    }

    /// False: there was `null` instead.
    pub fn open_object_or_null(&mut self) -> Result<bool, HeaderError> {
        if self.peek() == b'n' {
            return match self.scalar()? {
                None => Ok(false),
                Some(_) => self.fail("expected an object"),
            };
        }
        self.open_object().map(|()| true)
    }

    /// The next key of the open object with its colon consumed, or `None` when the object was closed.
    #[inline(always)]
    pub fn next_key(&mut self) -> Result<Option<Span>, HeaderError> {
        let mut byte = self.peek();
        while byte == b',' {
            self.at += 1;
            byte = self.peek();
        }
        let key = match byte {
            b'}' => {
                self.at += 1;
                return Ok(None);
            }
            b'"' | b'\'' => self.string(byte)?,
            0 => return self.fail("the object is not closed"),
            _ => self.bare()?,
        };
        if self.peek() != b':' {
            return self.fail("expected a colon");
        }
        self.at += 1;
        Ok(Some(key))
    }

    /// The string that starts at the quote here. The span is what stands between the quotes.
    #[inline(always)]
    fn string(&mut self, quote: u8) -> Result<Span, HeaderError> {
        self.at += 1;
        let start = self.at;
        let mut escaped = false;
        loop {
            let rest = self.bytes.get(self.at..).unwrap_or_default();
            let Some(step) = find_quote_or_escape(rest, quote) else { return self.fail("the string is not closed") };
            self.at += step;
            if self.bytes[self.at] == quote {
                let span = Span::new(start, self.at - start, escaped);
                self.at += 1;
                return Ok(span);
            }
            escaped = true;
            self.at += 2;
        }
    }

    /// A number, a word or an unquoted key.
    fn bare(&mut self) -> Result<Span, HeaderError> {
        let start = self.at;
        while let Some(byte) = self.bytes.get(self.at) {
            match byte {
                b',' | b'}' | b']' | b':' | b' ' | b'\t' | b'\n' | b'\r' | b'"' | b'\'' | b'{' | b'[' => break,
                _ => self.at += 1,
            }
        }
        if self.at == start {
            return self.fail("expected a value");
        }
        Ok(Span::new(start, self.at - start, false))
    }

    /// A string, number or word; `None` for `null` and for a nested value, which no header field is.
    #[inline(always)]
    pub fn scalar(&mut self) -> Result<Option<Span>, HeaderError> {
        match self.peek() {
            quote @ (b'"' | b'\'') => self.string(quote).map(Some),
            b'{' | b'[' => self.skip_value().map(|()| None),
            _ => {
                let span = self.bare()?;
                Ok(if span.of(self.bytes) == b"null" { None } else { Some(span) })
            }
        }
    }

    /// A number, also as a quoted one; `null` is 0.
    #[inline]
    pub fn number(&mut self) -> Result<i32, HeaderError> {
        let Some(span) = self.scalar()? else { return Ok(0) };
        match parse_i64(span.of(self.bytes)).and_then(|value| i32::try_from(value).ok()) {
            Some(value) => Ok(value),
            None => self.fail("expected a 32-bit integer"),
        }
    }

    pub fn skip_value(&mut self) -> Result<(), HeaderError> {
        let mut depth = 0_usize;
        loop {
            match self.peek() {
                quote @ (b'"' | b'\'') => {
                    self.string(quote)?;
                }
                b'{' | b'[' => {
                    self.at += 1;
                    depth += 1;
                    if depth > MAX_DEPTH {
                        return self.fail("values are nested too deep");
                    }
                }
                b'}' | b']' if depth > 0 => {
                    self.at += 1;
                    depth -= 1;
                }
                b',' | b':' if depth > 0 => self.at += 1,
                _ => {
                    self.bare()?;
                }
            }
            if depth == 0 {
                return Ok(());
            }
        }
    }

    /// Nothing but white space may follow.
    pub fn finish(&mut self) -> Result<(), HeaderError> {
        self.peek();
        if self.at < self.bytes.len() { self.fail("there is more after the object") } else { Ok(()) }
    }
}

/// Distance to the first `quote` or backslash. Header strings are mostly short: eight bytes at a time, and memchr once
/// it turns out to be a long one.
#[inline(always)]
fn find_quote_or_escape(bytes: &[u8], quote: u8) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    const SHORT: usize = 64;
    let (quotes, escapes) = (ONES * u64::from(quote), ONES * u64::from(b'\\'));
    let mut at = 0;
    while at < SHORT {
        let Some(chunk) = bytes.get(at..at + 8) else { break };
        let Ok(chunk) = <[u8; 8]>::try_from(chunk) else { break };
        let word = u64::from_le_bytes(chunk);
        let (a, b) = (word ^ quotes, word ^ escapes);
        let hits = ((a.wrapping_sub(ONES) & !a) | (b.wrapping_sub(ONES) & !b)) & HIGHS;
        if hits != 0 {
            return Some(at + (hits.trailing_zeros() / 8) as usize);
        }
        at += 8;
    }
    find_far(bytes, at, quote)
}

#[inline(never)]
fn find_far(bytes: &[u8], from: usize, quote: u8) -> Option<usize> {
    memchr::memchr2(quote, b'\\', bytes.get(from..).unwrap_or_default()).map(|step| from + step)
}

/// Java's `Long.parseLong` in base 10.
#[inline]
pub fn parse_i64(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    if digits.is_empty() {
        return None;
    }
    let mut value = 0_i64;
    // 18 digits cannot overflow.
    if digits.len() <= 18 {
        for byte in digits {
            let digit = byte.wrapping_sub(b'0');
            if digit > 9 {
                return None;
            }
            value = value * 10 + i64::from(digit);
        }
        return Some(if negative { -value } else { value });
    }
    for byte in digits {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value.checked_mul(10)?;
        value = if negative { value.checked_sub(i64::from(digit))? } else { value.checked_add(i64::from(digit))? };
    }
    Some(value)
}

/// Appends `raw` with JSON escapes resolved. A lone surrogate becomes U+FFFD; an unknown escape stands for the
/// character itself.
pub fn unescape(raw: &[u8], out: &mut Vec<u8>) {
    let mut rest = raw;
    while let Some(step) = memchr::memchr(b'\\', rest) {
        out.extend_from_slice(&rest[..step]);
        let Some(kind) = rest.get(step + 1) else {
            out.push(b'\\');
            return;
        };
        rest = &rest[step + 2..];
        match kind {
            b'n' => out.push(b'\n'),
            b't' => out.push(b'\t'),
            b'r' => out.push(b'\r'),
            b'b' => out.push(8),
            b'f' | b'F' => out.push(12),
            b'v' => out.push(11),
            digit @ b'0'..=b'7' => out.push(digit - b'0'),
            b'x' => match hex(rest, 2) {
                Some(value) => {
                    rest = &rest[2..];
                    push_char(value, out);
                }
                None => out.push(b'x'),
            },
            b'u' => match hex(rest, 4) {
                Some(high @ 0xD800..=0xDBFF) => {
                    rest = &rest[4..];
                    let low = if rest.starts_with(b"\\u") { hex(&rest[2..], 4) } else { None };
                    match low {
                        Some(low @ 0xDC00..=0xDFFF) => {
                            rest = &rest[6..];
                            push_char(0x1_0000 + ((high - 0xD800) << 10) + (low - 0xDC00), out);
                        }
                        _ => push_char(high, out),
                    }
                }
                Some(value) => {
                    rest = &rest[4..];
                    push_char(value, out);
                }
                None => out.push(b'u'),
            },
            other => out.push(*other),
        }
    }
    out.extend_from_slice(rest);
}

fn hex(bytes: &[u8], digits: usize) -> Option<u32> {
    bytes.get(..digits)?.iter().try_fold(0_u32, |value, byte| Some(value << 4 | (*byte as char).to_digit(16)?))
}

fn push_char(value: u32, out: &mut Vec<u8>) {
    let character = char::from_u32(value).unwrap_or(char::REPLACEMENT_CHARACTER);
    out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unescaped(raw: &str) -> String {
        let mut out = Vec::new();
        unescape(raw.as_bytes(), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn resolves_escapes() {
        assert_eq!(unescaped(r"a\u0001b\u0002"), "a\u{1}b\u{2}");
        assert_eq!(unescaped(r#"\"\\\/\n\t\r\b\f"#), "\"\\/\n\t\r\u{8}\u{c}");
        assert_eq!(unescaped(r"\uD83D\uDE00 \ud83d x \u4e2d"), "😀 \u{FFFD} x 中");
        assert_eq!(unescaped(r"\uD83D\u0041"), "\u{FFFD}A");
        assert_eq!(unescaped(r"\u12 \x41 \x4"), "u12 A x4");
        assert_eq!(unescaped("end\\"), "end\\");
    }

    #[test]
    fn parses_numbers_as_java_does() {
        assert_eq!(parse_i64(b"9223372036854775807"), Some(i64::MAX));
        assert_eq!(parse_i64(b"-9223372036854775808"), Some(i64::MIN));
        assert_eq!(parse_i64(b"9223372036854775808"), None);
        assert_eq!(parse_i64(b"+7"), Some(7));
        for bad in ["", "-", "+", "1.0", " 1", "1e3", "0x1"] {
            assert_eq!(parse_i64(bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[test]
    fn finds_quotes_at_every_distance() {
        for len in 0..200 {
            let mut text = vec![b'a'; len];
            assert_eq!(find_quote_or_escape(&text, b'"'), None);
            text.push(b'"');
            text.extend_from_slice(b"\\\"");
            assert_eq!(find_quote_or_escape(&text, b'"'), Some(len));
            text[len] = b'\\';
            assert_eq!(find_quote_or_escape(&text, b'"'), Some(len));
        }
    }
}
