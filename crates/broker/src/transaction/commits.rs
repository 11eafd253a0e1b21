//! Finding what became of a half before: its message, when the op message was lost in a kill or in a Java broker's batch of
//! op messages, and the half that was made of one that had been given up.

use ferromq_protocol::record::{self as stored, Entry, Record};
use ferromq_protocol::sys_flag::message as flags;
use ferromq_protocol::topic;
use ferromq_store::Store;

use super::HalfView;

/// Records one look into the index may find.
const INDEX_HITS: u32 = 32;

/// Whether the message of this half is in the log.
pub(super) fn was_committed(store: &Store, half: &Record<'_>, view: &HalfView<'_>) -> bool {
    any_with_key(store, view.real_topic, view, |record| {
        flags::transaction_value(record.sys_flag()) == flags::TRANSACTION_COMMIT
            && is_of(half, view, record.born_timestamp(), record.prepared_transaction_offset())
    })
}

/// Whether a half was made of this one after it had been given up.
pub(super) fn was_resumed(store: &Store, given_up: &Record<'_>, view: &HalfView<'_>) -> bool {
    any_with_key(store, Some(topic::TRANS_HALF), view, |record| {
        record.physical_offset() > given_up.physical_offset() && record.born_timestamp() == given_up.born_timestamp()
    })
}

/// Whether a message of the topic with the half's key is what is looked for.
fn any_with_key(store: &Store, topic: Option<&str>, view: &HalfView<'_>, is_it: impl Fn(&Record<'_>) -> bool) -> bool {
    let (Some(topic), Some(key)) = (topic, view.uniq_key) else { return false };
    let hits = store.query_index(topic, key, INDEX_HITS, 0, i64::MAX);
    hits.physical_offsets.iter().any(|position| {
        let mut bytes = Vec::new();
        store.record_at(*position, &mut bytes);
        let Entry::Record(record) = stored::read(&bytes) else { return false };
        HalfView::of(record.properties()).uniq_key == Some(key) && is_it(&record)
    })
}

/// Whether a commit with these marks is that of the half. A message object that is sent twice keeps its key, and is two
/// transactions. A copy may have been committed under the position of one before it.
fn is_of(half: &Record<'_>, view: &HalfView<'_>, born: i64, prepared: i64) -> bool {
    let same_place = prepared == 0 || prepared == half.physical_offset() || view.first.is_some();
    born == half.born_timestamp() && same_place
}
