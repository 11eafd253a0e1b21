//! A serde serializer for fastjson's dialect: absent members are left out, object keys are written bare.

use serde::ser::{self, Error as _, Serialize, Serializer};

use super::Error;
use crate::write::push_escaped;

pub(super) fn to_vec<T: Serialize + ?Sized>(value: &T, quoted_keys: bool) -> Result<Vec<u8>, Error> {
    let mut out = Vec::with_capacity(256);
    value.serialize(Writer { out: &mut out, quoted_keys, key: false })?;
    if out.is_empty() {
        out.extend_from_slice(b"null");
    }
    Ok(out)
}

/// Writes one value. Nothing at all is written for an absent one: the container around it knows what to do.
struct Writer<'o> {
    out: &'o mut Vec<u8>,
    quoted_keys: bool,
    /// The value is the key of a map.
    key: bool,
}

impl<'o> Writer<'o> {
    fn string(self, text: &str) -> Result<(), Error> {
        self.out.push(b'"');
        push_escaped(self.out, text);
        self.out.push(b'"');
        Ok(())
    }

    /// A number or a boolean.
    fn word(self, text: &str) -> Result<(), Error> {
        let quoted = self.key && self.quoted_keys;
        if quoted {
            self.out.push(b'"');
        }
        self.out.extend_from_slice(text.as_bytes());
        if quoted {
            self.out.push(b'"');
        }
        Ok(())
    }

    fn open(self, bracket: u8, close: u8) -> Container<'o> {
        self.out.push(bracket);
        let start = self.out.len();
        Container { out: self.out, quoted_keys: self.quoted_keys, start, member: start, close }
    }
}

/// An open object or array.
struct Container<'o> {
    out: &'o mut Vec<u8>,
    quoted_keys: bool,
    /// Where the content begins.
    start: usize,
    /// Where the current member begins, its comma included.
    member: usize,
    close: u8,
}

impl Container<'_> {
    fn comma(&mut self) {
        self.member = self.out.len();
        if self.member > self.start {
            self.out.push(b',');
        }
    }

    fn value<T: Serialize + ?Sized>(&mut self, value: &T, key: bool) -> Result<bool, Error> {
        let before = self.out.len();
        value.serialize(Writer { out: &mut *self.out, quoted_keys: self.quoted_keys, key })?;
        Ok(self.out.len() > before)
    }

    fn member_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.out.push(b':');
        if !self.value(value, false)? {
            self.out.truncate(self.member);
        }
        Ok(())
    }

    fn element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.comma();
        if !self.value(value, false)? {
            self.out.extend_from_slice(b"null");
        }
        Ok(())
    }

    fn finish(self) -> Result<(), Error> {
        self.out.push(self.close);
        Ok(())
    }
}

macro_rules! integers {
    ($($method:ident $ty:ty,)*) => {$(
        fn $method(self, value: $ty) -> Result<(), Error> {
            self.word(itoa::Buffer::new().format(value))
        }
    )*};
}

impl<'o> Serializer for Writer<'o> {
    type Ok = ();
    type Error = Error;
    type SerializeSeq = Container<'o>;
    type SerializeTuple = Container<'o>;
    type SerializeTupleStruct = Container<'o>;
    type SerializeTupleVariant = ser::Impossible<(), Error>;
    type SerializeMap = Container<'o>;
    type SerializeStruct = Container<'o>;
    type SerializeStructVariant = ser::Impossible<(), Error>;

    integers! {
        serialize_i8 i8, serialize_i16 i16, serialize_i32 i32, serialize_i64 i64,
        serialize_u8 u8, serialize_u16 u16, serialize_u32 u32, serialize_u64 u64,
    }

    fn serialize_bool(self, value: bool) -> Result<(), Error> {
        self.word(if value { "true" } else { "false" })
    }

    fn serialize_f32(self, value: f32) -> Result<(), Error> {
        self.serialize_f64(f64::from(value))
    }

    fn serialize_f64(self, value: f64) -> Result<(), Error> {
        if value.is_finite() { self.word(&format!("{value:?}")) } else { self.word("null") }
    }

    fn serialize_char(self, value: char) -> Result<(), Error> {
        self.string(value.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(self, value: &str) -> Result<(), Error> {
        self.string(value)
    }

    fn serialize_bytes(self, _value: &[u8]) -> Result<(), Error> {
        Err(Error::custom("bytes have no form in JSON"))
    }

    fn serialize_none(self) -> Result<(), Error> {
        Ok(())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Error> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), Error> {
        Ok(())
    }

    fn serialize_unit_struct(self, _name: &'static str) -> Result<(), Error> {
        Ok(())
    }

    fn serialize_unit_variant(self, _name: &'static str, _index: u32, variant: &'static str) -> Result<(), Error> {
        self.string(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _name: &'static str, value: &T) -> Result<(), Error> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        _index: u32,
        _variant: &'static str,
        _value: &T,
    ) -> Result<(), Error> {
        Err(Error::custom("variants with values have no form in RocketMQ's JSON"))
    }

    fn serialize_seq(self, _len: Option<usize>) -> Result<Container<'o>, Error> {
        Ok(self.open(b'[', b']'))
    }

    fn serialize_tuple(self, len: usize) -> Result<Container<'o>, Error> {
        self.serialize_seq(Some(len))
    }

    fn serialize_tuple_struct(self, _name: &'static str, len: usize) -> Result<Container<'o>, Error> {
        self.serialize_seq(Some(len))
    }

    fn serialize_tuple_variant(
        self,
        _name: &'static str,
        _index: u32,
        _variant: &'static str,
        _len: usize,
    ) -> Result<Self::SerializeTupleVariant, Error> {
        Err(Error::custom("variants with values have no form in RocketMQ's JSON"))
    }

    fn serialize_map(self, _len: Option<usize>) -> Result<Container<'o>, Error> {
        Ok(self.open(b'{', b'}'))
    }

    fn serialize_struct(self, _name: &'static str, _len: usize) -> Result<Container<'o>, Error> {
        Ok(self.open(b'{', b'}'))
    }

    fn serialize_struct_variant(
        self,
        _name: &'static str,
        _index: u32,
        _variant: &'static str,
        _len: usize,
    ) -> Result<Self::SerializeStructVariant, Error> {
        Err(Error::custom("variants with values have no form in RocketMQ's JSON"))
    }
}

impl ser::SerializeSeq for Container<'_> {
    type Ok = ();
    type Error = Error;
    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.element(value)
    }
    fn end(self) -> Result<(), Error> {
        self.finish()
    }
}

impl ser::SerializeTuple for Container<'_> {
    type Ok = ();
    type Error = Error;
    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.element(value)
    }
    fn end(self) -> Result<(), Error> {
        self.finish()
    }
}

impl ser::SerializeTupleStruct for Container<'_> {
    type Ok = ();
    type Error = Error;
    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.element(value)
    }
    fn end(self) -> Result<(), Error> {
        self.finish()
    }
}

impl ser::SerializeMap for Container<'_> {
    type Ok = ();
    type Error = Error;
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Error> {
        self.comma();
        if self.value(key, true)? { Ok(()) } else { Err(Error::custom("a map's key is absent")) }
    }
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.member_value(value)
    }
    fn end(self) -> Result<(), Error> {
        self.finish()
    }
}

impl ser::SerializeStruct for Container<'_> {
    type Ok = ();
    type Error = Error;
    fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), Error> {
        self.comma();
        self.out.push(b'"');
        self.out.extend_from_slice(key.as_bytes());
        self.out.push(b'"');
        self.member_value(value)
    }
    fn end(self) -> Result<(), Error> {
        self.finish()
    }
}
