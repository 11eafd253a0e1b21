//! Records one behind the other, as reads of a queue give them and pull and pop answers carry them.

use crate::record::{Entry, Record, read};

/// The records at the beginning of `bytes`, in order, up to whatever is none.
pub fn iter(bytes: &[u8]) -> impl Iterator<Item = Record<'_>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let Entry::Record(record) = read(rest) else { return None };
        rest = &rest[record.bytes().len()..];
        Some(record)
    })
}
