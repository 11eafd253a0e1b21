//! The tables that are kept in files of the store's `config` folder: how each is encoded, and when it is written.

use std::io;
use std::path::Path;
use std::sync::Arc;

use ferromq_common::clock;

use super::Shared;
use crate::persist::Saved;

/// What `persist.rs` writes, and when.
pub(super) fn tables(shared: &Arc<Shared>) -> Vec<Saved> {
    fn table(
        shared: &Arc<Shared>,
        path: &Path,
        early: bool,
        changes: fn(&Shared) -> u64,
        encode: fn(&Shared) -> io::Result<Vec<u8>>,
    ) -> Saved {
        let (a, b) = (Arc::clone(shared), Arc::clone(shared));
        Saved {
            path: path.to_owned(),
            changes: Box::new(move || changes(&a)),
            encode: Box::new(move || encode(&b)),
            early,
        }
    }
    let marks = &shared.timer.marks;
    vec![
        table(shared, shared.topics.path(), true, |s| s.topics.generation(), |s| s.topics.encode()),
        table(shared, shared.groups.path(), true, |s| s.groups.changes(), |s| s.groups.encode()),
        table(shared, shared.request_modes.path(), true, |s| s.request_modes.changes(), |s| s.request_modes.encode()),
        table(shared, shared.consumer_filters.path(), false, update_filters, |s| s.consumer_filters.encode()),
        // And that of the ordered pops with it.
        table(
            shared,
            shared.offsets.path(),
            false,
            |s| s.offsets.changes().wrapping_add(s.order_pops.changes()),
            |s| s.encode_offsets(),
        ),
        table(
            shared,
            shared.transactions.metrics.path(),
            false,
            |s| s.transactions.metrics.changes(),
            |s| s.transactions.metrics.encode(),
        ),
        table(
            shared,
            marks.levels_path(),
            false,
            |s| s.timer.marks.changes(&s.store),
            |s| s.timer.marks.encode_levels(),
        ),
        table(
            shared,
            marks.timer_path(),
            true,
            |s| s.timer.marks.changes(&s.store),
            |s| Ok(s.timer.marks.encode_timer()),
        ),
    ]
}

/// Brings the filters that are kept up to date.
fn update_filters(shared: &Shared) -> u64 {
    let expressions = shared.clients.expressions();
    let connected = expressions.iter().map(|(group, subscription)| (&**group, &**subscription));
    shared.consumer_filters.update(connected, clock::now_millis())
}
