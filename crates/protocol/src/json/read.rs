//! A serde deserializer for fastjson's dialect. It never borrows from its input, so that object keys which came as
//! text can be read with a second reader.

use serde::de::value::{StrDeserializer, U32Deserializer};
use serde::de::{DeserializeSeed, Deserializer, Error as _, IntoDeserializer, MapAccess, SeqAccess, Visitor};

use super::{Error, MAX_DEPTH, MAX_ITEMS};
use crate::scan;

/// Position in one body. Every method leaves it behind what was read.
pub(super) struct Reader<'b> {
    bytes: &'b [u8],
    at: usize,
    depth: usize,
    items: usize,
}

/// A scalar as it stands: its bytes, whether it was quoted, whether it holds escapes.
struct Scalar<'b> {
    raw: &'b [u8],
    quoted: bool,
    escaped: bool,
}

impl Scalar<'_> {
    fn text(&self) -> Result<String, Error> {
        let mut out = Vec::with_capacity(self.raw.len());
        if self.escaped {
            scan::unescape(self.raw, &mut out);
        } else {
            out.extend_from_slice(self.raw);
        }
        String::from_utf8(out).map_err(|_| Error::custom("a text is not valid UTF-8"))
    }

    fn is_null(&self) -> bool {
        !self.quoted && self.raw == b"null"
    }

    fn integer(&self) -> Option<i64> {
        scan::parse_i64(self.raw).or_else(|| match self.raw {
            // fastjson takes a boolean or nothing for a number, and drops a fraction.
            b"true" => Some(1),
            b"" | b"false" | b"null" => Some(0),
            _ => self.float().filter(|value| value.abs() < 9.0e18).map(|value| value as i64),
        })
    }

    fn float(&self) -> Option<f64> {
        let starts = self.raw.first().is_some_and(|byte| byte.is_ascii_digit() || matches!(byte, b'-' | b'+' | b'.'));
        // JSON has no infinity: what is too large for a double could not be written again.
        std::str::from_utf8(self.raw).ok().filter(|_| starts)?.parse().ok().filter(|value: &f64| value.is_finite())
    }
}

impl<'b> Reader<'b> {
    pub(super) fn new(bytes: &'b [u8]) -> Self {
        Reader { bytes, at: 0, depth: 0, items: 0 }
    }

    fn fail<T>(&self, what: &str) -> Result<T, Error> {
        Err(Error::custom(format_args!("{what} at byte {}", self.at)))
    }

    /// The next byte that is not white space, not consumed; 0 at the end.
    fn peek(&mut self) -> u8 {
        while let Some(byte) = self.bytes.get(self.at) {
            match byte {
                b' ' | b'\t' | b'\n' | b'\r' => self.at += 1,
                _ => return *byte,
            }
        }
        0
    }

    pub(super) fn finish(&mut self) -> Result<(), Error> {
        self.peek();
        if self.at < self.bytes.len() { self.fail("there is more after the value") } else { Ok(()) }
    }

    fn scalar(&mut self) -> Result<Scalar<'b>, Error> {
        match self.peek() {
            quote @ (b'"' | b'\'') => self.quoted(quote),
            b'{' | b'[' => self.nested_text(),
            _ => {
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
                Ok(Scalar { raw: &self.bytes[start..self.at], quoted: false, escaped: false })
            }
        }
    }

    fn quoted(&mut self, quote: u8) -> Result<Scalar<'b>, Error> {
        self.at += 1;
        let start = self.at;
        let mut escaped = false;
        loop {
            let rest = self.bytes.get(self.at..).unwrap_or_default();
            let Some(step) = memchr::memchr2(quote, b'\\', rest) else {
                return self.fail("a string is not closed");
            };
            self.at += step;
            if self.bytes[self.at] == quote {
                let raw = &self.bytes[start..self.at];
                self.at += 1;
                return Ok(Scalar { raw, quoted: true, escaped });
            }
            escaped = true;
            self.at += 2;
        }
    }

    /// An object or array where a text is wanted: the text is the JSON itself, as in fastjson.
    fn nested_text(&mut self) -> Result<Scalar<'b>, Error> {
        let start = self.at;
        self.skip()?;
        Ok(Scalar { raw: &self.bytes[start..self.at], quoted: true, escaped: false })
    }

    /// Passes over one value, without recursion.
    fn skip(&mut self) -> Result<(), Error> {
        let mut depth = 0_usize;
        loop {
            match self.peek() {
                quote @ (b'"' | b'\'') => {
                    self.quoted(quote)?;
                }
                b'{' | b'[' => {
                    self.at += 1;
                    depth += 1;
                    if depth + self.depth > MAX_DEPTH {
                        return self.fail("values are nested too deep");
                    }
                }
                b'}' | b']' if depth > 0 => {
                    self.at += 1;
                    depth -= 1;
                }
                b',' | b':' if depth > 0 => self.at += 1,
                _ => {
                    self.scalar()?;
                }
            }
            if depth == 0 {
                return Ok(());
            }
        }
    }

    /// Consumes `null` if it stands here.
    fn take_null(&mut self) -> bool {
        let null = self.peek() == b'n'
            && self.bytes[self.at..].starts_with(b"null")
            && !self.bytes.get(self.at + 4).is_some_and(|byte| byte.is_ascii_alphanumeric());
        if null {
            self.at += 4;
        }
        null
    }

    fn open(&mut self, bracket: u8, what: &str) -> Result<(), Error> {
        if self.peek() != bracket {
            return self.fail(what);
        }
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return self.fail("values are nested too deep");
        }
        self.at += 1;
        Ok(())
    }

    fn close(&mut self) {
        self.at += 1;
        self.depth -= 1;
    }

    fn count_item(&mut self) -> Result<(), Error> {
        self.items += 1;
        if self.items > MAX_ITEMS { self.fail("there are too many items") } else { Ok(()) }
    }

    fn integer(&mut self, what: &str) -> Result<i64, Error> {
        let scalar = self.scalar()?;
        match scalar.integer() {
            Some(value) => Ok(value),
            None => self.fail(what),
        }
    }

    fn object<'de, V: Visitor<'de>>(&mut self, visitor: V, counted: bool) -> Result<V::Value, Error> {
        match self.peek() {
            // A key that came as text, or an object written into a text.
            quote @ (b'"' | b'\'') => {
                let text = self.quoted(quote)?.text()?;
                let mut inner = Reader::new(text.as_bytes());
                (inner.depth, inner.items) = (self.depth + 1, self.items);
                let value = inner.object_here(visitor, counted)?;
                self.items = inner.items;
                inner.finish()?;
                Ok(value)
            }
            _ => self.object_here(visitor, counted),
        }
    }

    fn object_here<'de, V: Visitor<'de>>(&mut self, visitor: V, counted: bool) -> Result<V::Value, Error> {
        if self.take_null() {
            return visitor.visit_map(Entries { reader: self, open: false, counted });
        }
        self.open(b'{', "expected an object")?;
        visitor.visit_map(Entries { reader: self, open: true, counted })
    }
}

/// The entries of an open object; those whose value is `null` are passed over.
struct Entries<'r, 'b> {
    reader: &'r mut Reader<'b>,
    open: bool,
    counted: bool,
}

impl<'de> MapAccess<'de> for Entries<'_, '_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let reader = &mut *self.reader;
        while self.open {
            match reader.peek() {
                b',' => reader.at += 1,
                b'}' => {
                    reader.close();
                    self.open = false;
                }
                0 => return reader.fail("an object is not closed"),
                _ => {
                    let start = reader.at;
                    reader.skip()?;
                    if reader.peek() != b':' {
                        return reader.fail("expected a colon");
                    }
                    reader.at += 1;
                    if reader.take_null() {
                        continue;
                    }
                    if self.counted {
                        reader.count_item()?;
                    }
                    reader.at = start;
                    return seed.deserialize(reader).map(Some);
                }
            }
        }
        Ok(None)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        if self.reader.peek() != b':' {
            return self.reader.fail("expected a colon");
        }
        self.reader.at += 1;
        seed.deserialize(&mut *self.reader)
    }
}

struct Elements<'r, 'b> {
    reader: &'r mut Reader<'b>,
    open: bool,
}

impl<'de> SeqAccess<'de> for Elements<'_, '_> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        let reader = &mut *self.reader;
        while self.open {
            match reader.peek() {
                b',' => reader.at += 1,
                b']' => {
                    reader.close();
                    self.open = false;
                }
                0 => return reader.fail("an array is not closed"),
                _ if reader.take_null() => {}
                _ => {
                    reader.count_item()?;
                    return seed.deserialize(reader).map(Some);
                }
            }
        }
        Ok(None)
    }
}

macro_rules! integers {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            visitor.visit_i64(self.integer("expected an integer")?)
        }
    )*};
}

impl<'de> Deserializer<'de> for &mut Reader<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.peek() {
            b'{' => self.object_here(visitor, true),
            b'[' => self.deserialize_seq(visitor),
            _ => {
                let scalar = self.scalar()?;
                if scalar.quoted {
                    return visitor.visit_string(scalar.text()?);
                }
                match scalar.raw {
                    b"null" => visitor.visit_unit(),
                    b"true" => visitor.visit_bool(true),
                    b"false" => visitor.visit_bool(false),
                    raw => match (scan::parse_i64(raw), scalar.float()) {
                        (Some(value), _) => visitor.visit_i64(value),
                        (None, Some(value)) => visitor.visit_f64(value),
                        _ => self.fail("expected a value"),
                    },
                }
            }
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let scalar = self.scalar()?;
        match scalar.raw {
            raw if raw.eq_ignore_ascii_case(b"true") || raw == b"1" => visitor.visit_bool(true),
            raw if raw.eq_ignore_ascii_case(b"false") || matches!(raw, b"0" | b"" | b"null") => {
                visitor.visit_bool(false)
            }
            _ => self.fail("expected a boolean"),
        }
    }

    integers! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let scalar = self.scalar()?;
        match scalar.float().or_else(|| scalar.integer().map(|value| value as f64)) {
            Some(value) => visitor.visit_f64(value),
            None => self.fail("expected a number"),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let scalar = self.scalar()?;
        if scalar.is_null() { visitor.visit_str("") } else { visitor.visit_string(scalar.text()?) }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.take_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.take_null() {
            return visitor.visit_seq(Elements { reader: self, open: false });
        }
        self.open(b'[', "expected an array")?;
        visitor.visit_seq(Elements { reader: self, open: true })
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.object(visitor, true)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.object(visitor, false)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let scalar = self.scalar()?;
        match scan::parse_i64(scalar.raw) {
            Some(ordinal) => {
                let ordinal = u32::try_from(ordinal).unwrap_or(variants.len() as u32);
                let ordinal: U32Deserializer<Error> = ordinal.into_deserializer();
                visitor.visit_enum(ordinal)
            }
            None => {
                let name = scalar.text()?;
                visitor.visit_enum(StrDeserializer::<Error>::new(&name))
            }
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.skip()?;
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! { char bytes byte_buf unit unit_struct tuple tuple_struct i128 u128 }
}
