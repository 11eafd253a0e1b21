//! JSON bodies in fastjson's dialect, which is what RocketMQ's Java side speaks (fastjson 1.2 up to 5.3, fastjson 2 in
//! 5.5; measured with both).
//!
//! Reading is lenient: keys without quotes, in single quotes, or whole objects (`{{"topic":"t"}:1}`); commas too many;
//! numbers as text and texts as numbers; members that are `null` count as absent; enums by name or ordinal. Depth and
//! the number of items are bounded.
//!
//! Writing leaves out absent members, and writes a map keyed by an object the only way RocketMQ can read it: the bare
//! object as the key. Integer keys are quoted in [`to_vec_standard`] and bare in [`to_vec_fastjson1`].

use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use crate::{Command, version};

mod read;
mod write;

/// What reading and writing fail with.
pub type Error = serde_json::Error;

/// Deepest nesting of objects and arrays.
pub const MAX_DEPTH: usize = 64;

/// Most array elements and map entries in one body, all levels together. A registration of 262,144 topics has fewer.
pub const MAX_ITEMS: usize = 1_000_000;

/// Reads one value; nothing but white space may follow it.
pub fn from_slice<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    let mut reader = read::Reader::new(bytes);
    let value = T::deserialize(&mut reader)?;
    reader.finish()?;
    Ok(value)
}

/// Whether this is one whole object or array, whatever is in it. A word alone, or zeros, which are one, are none.
pub fn is_document(bytes: &[u8]) -> bool {
    matches!(bytes.trim_ascii_start().first(), Some(b'{' | b'[')) && from_slice::<IgnoredAny>(bytes).is_ok()
}

/// Writes with quoted integer keys: what every reader takes. The default for every answer.
pub fn to_vec_standard<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, Error> {
    write::to_vec(value, true)
}

/// Writes as the sender of a request reads: with quoted keys if it is new enough or asks for them.
pub fn to_vec_for<T: Serialize + ?Sized>(request: &Command<'_>, value: &T) -> Result<Vec<u8>, Error> {
    let asked = || request.fields.opt_bool("acceptStandardJsonOnly") == Some(true);
    if request.head.version >= version::V4_9_4 || asked() { to_vec_standard(value) } else { to_vec_fastjson1(value) }
}

/// Writes with bare integer keys, as fastjson 1 does: for routes asked by clients before 4.9.4 that do not say
/// `acceptStandardJsonOnly`.
pub fn to_vec_fastjson1<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>, Error> {
    write::to_vec(value, false)
}
