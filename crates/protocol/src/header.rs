//! Header families: the extension fields of each request and response as one struct (RocketMQ 5.5
//! `remoting.protocol.header`). Structs are named after RocketMQ's classes without `Request`; texts stay in the frame.
//!
//! Reading follows RocketMQ: a missing required field is an error that names it, an optional number that is none counts
//! as absent. Fields nobody needs to be told (unknown ones) are ignored.

use crate::command::{FieldError, Fields, Text};
use crate::write::FrameWriter;

pub mod admin;
pub mod client;
pub mod group;
pub mod lite;
pub mod namesrv;
pub mod offset;
pub mod pop;
pub mod pull;
pub mod query;
pub mod send;
pub mod topic;

/// A type a header field can have.
pub(crate) trait FieldValue<'a>: Sized {
    /// What a value that cannot be read should have been.
    const EXPECTED: &'static str;
    fn parse(text: Text<'a>) -> Option<Self>;
    fn put(&self, key: &str, writer: &mut FrameWriter<'_>);

    /// Reads a required field.
    fn take(fields: &Fields<'a>, key: &'static str) -> Result<Self, FieldError> {
        let text = fields.text_of(key)?;
        Self::parse(text).ok_or_else(|| FieldError::invalid(key, Self::EXPECTED, text))
    }
}

impl<'a> FieldValue<'a> for i32 {
    const EXPECTED: &'static str = "32-bit integer";
    fn parse(text: Text<'a>) -> Option<Self> {
        text.parse_i32()
    }
    fn put(&self, key: &str, writer: &mut FrameWriter<'_>) {
        writer.i32(key, *self);
    }
}

impl<'a> FieldValue<'a> for i64 {
    const EXPECTED: &'static str = "64-bit integer";
    fn parse(text: Text<'a>) -> Option<Self> {
        text.parse_i64()
    }
    fn put(&self, key: &str, writer: &mut FrameWriter<'_>) {
        writer.i64(key, *self);
    }
}

impl<'a> FieldValue<'a> for bool {
    const EXPECTED: &'static str = "boolean";
    fn parse(text: Text<'a>) -> Option<Self> {
        Some(text.parse_bool().unwrap_or(false))
    }
    fn put(&self, key: &str, writer: &mut FrameWriter<'_>) {
        writer.bool(key, *self);
    }
}

impl<'a> FieldValue<'a> for Text<'a> {
    const EXPECTED: &'static str = "text";
    fn parse(text: Text<'a>) -> Option<Self> {
        Some(text)
    }
    fn put(&self, key: &str, writer: &mut FrameWriter<'_>) {
        writer.text(key, *self);
    }
}

impl<'a, T: FieldValue<'a>> FieldValue<'a> for Option<T> {
    const EXPECTED: &'static str = T::EXPECTED;
    fn parse(text: Text<'a>) -> Option<Self> {
        Some(T::parse(text))
    }
    fn put(&self, key: &str, writer: &mut FrameWriter<'_>) {
        if let Some(value) = self {
            value.put(key, writer);
        }
    }
    fn take(fields: &Fields<'a>, key: &'static str) -> Result<Self, FieldError> {
        Ok(fields.get(key).and_then(T::parse))
    }
}

/// Declares header structs. `name: Type = "key"` is required unless the type is an `Option`;
/// `name: Type = "key" or default` takes the default when the field is absent or cannot be read.
macro_rules! headers {
    ($(
        $(#[$meta:meta])* $name:ident $(<$frame:lifetime>)? {
            $($(#[$field_meta:meta])* $field:ident: $ty:ty = $key:literal $(or $default:expr)?,)*
        }
    )*) => {$(
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name $(<$frame>)? {
            $($(#[$field_meta])* #[doc = concat!("Field `", $key, "`.")] pub $field: $ty,)*
        }

        impl $(<$frame>)? $name $(<$frame>)? {
            pub fn read(fields: &$crate::command::Fields<$($frame)?>) -> Result<Self, $crate::command::FieldError> {
                Ok(Self { $($field: headers!(@read fields, $ty, $key $(, $default)?),)* })
            }

            /// Writes the fields; absent optional ones are left out.
            pub fn write(&self, writer: &mut $crate::write::FrameWriter<'_>) {
                $($crate::header::FieldValue::put(&self.$field, $key, writer);)*
            }
        }
    )*};
    (@read $fields:ident, $ty:ty, $key:literal) => {
        <$ty as $crate::header::FieldValue>::take($fields, $key)?
    };
    (@read $fields:ident, $ty:ty, $key:literal, $default:expr) => {
        <Option<$ty> as $crate::header::FieldValue>::take($fields, $key)?.unwrap_or($default)
    };
}
pub(crate) use headers;

headers! {
    /// What any request may carry besides its own fields (`RpcRequestHeader`, `TopicRequestHeader`).
    RpcHeader<'a> {
        namespace: Option<Text<'a>> = "ns",
        /// The resource names stand without their namespace: the server adds it.
        namespaced: Option<bool> = "nsd",
        broker_name: Option<Text<'a>> = "bname",
        oneway: Option<bool> = "oway",
        logical_queue: Option<bool> = "lo",
    }
}
