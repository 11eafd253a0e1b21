//! The properties that queues and key index are built from, found in one pass.

use ferromq_protocol::properties::{self, names};

/// What a stored message says of itself; borrowed from its properties.
#[derive(Default)]
pub(crate) struct Labels<'a> {
    pub tags: Option<&'a [u8]>,
    /// Separated by blanks.
    pub keys: Option<&'a [u8]>,
    pub uniq_key: Option<&'a [u8]>,
    /// It may stand in light queues.
    pub fans_out: bool,
}

impl<'a> Labels<'a> {
    /// Those of a record's properties. The last of two equal names wins.
    pub fn of(text: &'a [u8]) -> Labels<'a> {
        let mut labels = Labels::default();
        for (name, value) in properties::iter(text) {
            if name == names::TAGS.as_bytes() {
                labels.tags = Some(value);
            } else if name == names::KEYS.as_bytes() {
                labels.keys = Some(value);
            } else if name == names::UNIQ_CLIENT_MESSAGE_ID_KEYIDX.as_bytes() {
                labels.uniq_key = Some(value);
            } else if name == names::INNER_MULTI_DISPATCH.as_bytes() {
                labels.fans_out = true;
            }
        }
        labels
    }
}
