//! Finding the message of a transaction that was committed before: the op message was lost in a kill, or in a Java broker's
//! batch of op messages.

use ferromq_protocol::record::{self as stored, Entry, Record};
use ferromq_protocol::sys_flag::message as flags;
use ferromq_store::Store;

use super::HalfView;

/// Records one look into the index may find.
const INDEX_HITS: u32 = 32;

/// Whether the message of this half is in the log.
pub(super) fn was_committed(store: &Store, half: &Record<'_>, view: &HalfView<'_>) -> bool {
    let (Some(topic), Some(key)) = (view.real_topic, view.uniq_key) else { return false };
    let hits = store.query_index(topic, key, INDEX_HITS, 0, i64::MAX);
    hits.physical_offsets.iter().any(|position| {
        let mut bytes = Vec::new();
        store.record_at(*position, &mut bytes);
        let Entry::Record(record) = stored::read(&bytes) else { return false };
        flags::transaction_value(record.sys_flag()) == flags::TRANSACTION_COMMIT
            && HalfView::of(record.properties()).uniq_key == Some(key)
            && is_of(half, view, record.born_timestamp(), record.prepared_transaction_offset())
    })
}

/// Whether a commit with these marks is that of the half. A message object that is sent twice keeps its key, and is two
/// transactions. A copy may have been committed under the position of one before it.
fn is_of(half: &Record<'_>, view: &HalfView<'_>, born: i64, prepared: i64) -> bool {
    let same_place = prepared == 0 || prepared == half.physical_offset() || view.first.is_some();
    born == half.born_timestamp() && same_place
}
