//! When the disk was too full for an index file: tries again, and files the keys that were left out meanwhile.

use std::sync::atomic::Ordering;

use ferromq_protocol::record::{self, Entry};

use super::{Index, RUNNING};
use crate::store::Inner;

impl Index {
    /// Position of the first record whose keys were left out, if there is one.
    fn stopped_at(&self) -> Option<u64> {
        Some(self.stopped_at.load(Ordering::Relaxed)).filter(|position| *position != RUNNING)
    }
}

impl Inner {
    /// Takes up the index again if it was stopped and there is space. For the preparing thread.
    pub fn resume_index(&self) {
        let Some(stopped) = self.index.stopped_at() else { return };
        // Most of it without keeping others from dispatching.
        let Some(position) = self.file_keys_of(stopped, self.dispatched.load(Ordering::Acquire)) else { return };
        let dispatcher = self.dispatcher.lock();
        if self.file_keys_of(position, dispatcher.position).is_some() {
            self.index.stopped_at.store(RUNNING, Ordering::Relaxed);
            tracing::info!(from = stopped, "there is space for index files again: all keys are filed");
        }
        drop(dispatcher);
        self.dispatch_for_others();
    }

    /// Files the keys of the records from `position` to `end`; where they end. `None` if there is no place again, or the
    /// store is to be closed.
    fn file_keys_of(&self, position: u64, end: u64) -> Option<u64> {
        let mut position = position.max(self.log.start());
        let mut hashes = Vec::new();
        while position < end
            && let Some(segment) = self.log.segment(position)
            && let Some(bytes) = segment.bytes_from(position, end)
        {
            match record::read(bytes) {
                Entry::Record(record) => {
                    hashes.clear();
                    let is_filed = self.item_of(&record, &mut hashes).is_none()
                        || self.index.file_keys(
                            &mut self.index.last.lock(),
                            &hashes,
                            position,
                            record.store_timestamp(),
                        );
                    if !is_filed || self.closing.load(Ordering::Relaxed) {
                        return None;
                    }
                    position += record.bytes().len() as u64;
                }
                Entry::Blank => position = segment.end(),
                Entry::Invalid(_) => position = self.next_sound(&segment, position + 1),
            }
        }
        Some(position)
    }
}
