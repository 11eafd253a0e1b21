//! When the disk was too full for an index file: tries again, and files the keys that were left out meanwhile.

use std::sync::atomic::Ordering;

use ferromq_protocol::record::{self, Entry, Record};
use ferromq_protocol::sys_flag::message as flags;

use super::{Index, RUNNING, key_prefix, push_hashes};
use crate::append::is_folder_name;
use crate::labels::Labels;
use crate::store::Inner;

/// Bytes of log that are read at a time, before others have their turn.
const STEP: u64 = 64 << 20;

impl Index {
    /// Position of the first record whose keys were left out, if there is one.
    fn stopped_at(&self) -> Option<u64> {
        Some(self.stopped_at.load(Ordering::Relaxed)).filter(|position| *position != RUNNING)
    }
}

impl Inner {
    /// Takes up the index again if it was stopped and there is space; whether more is to be done at once. For the
    /// preparing thread.
    pub fn resume_index(&self) -> bool {
        let Some(stopped) = self.index.stopped_at() else { return false };
        // Most of it without keeping others from dispatching.
        let reached = self.dispatched.load(Ordering::Acquire);
        let Some(position) = self.file_keys_of(stopped, reached.min(stopped.saturating_add(STEP))) else {
            return false;
        };
        self.index.stopped_at.store(position, Ordering::Relaxed);
        if position < reached {
            return true;
        }
        let dispatcher = self.dispatcher.lock();
        if self.file_keys_of(position, dispatcher.position).is_some() {
            self.index.stopped_at.store(RUNNING, Ordering::Relaxed);
            tracing::info!("there is space for index files again: all keys are filed");
        }
        drop(dispatcher);
        self.dispatch_for_others();
        false
    }

    /// Files the keys of the records from `position` to `end`; where they end. `None` if there is no place again, or the
    /// store is to be closed. Makes no queue: the topic of a record may have been deleted since.
    pub fn file_keys_of(&self, position: u64, end: u64) -> Option<u64> {
        let mut position = position.max(self.log.start());
        let mut hashes = Vec::new();
        while position < end
            && let Some(segment) = self.log.segment(position)
            && let Some(bytes) = segment.bytes_from(position, end)
        {
            match record::read(bytes) {
                Entry::Record(record) => {
                    hashes.clear();
                    hashes_of(&record, &mut hashes);
                    let mut last = self.index.last.lock();
                    let is_filed = self.index.file_keys(&mut last, &hashes, position, record.store_timestamp());
                    drop(last);
                    if !is_filed || self.closing.load(Ordering::Relaxed) {
                        return None;
                    }
                    position += record.bytes().len() as u64;
                }
                Entry::Blank => position = segment.end(),
                Entry::Invalid(_) => position = self.next_sound(&segment, position + 1, u64::MAX),
            }
        }
        Some(position)
    }
}

/// Appends the hashes of a record's keys.
fn hashes_of(record: &Record<'_>, hashes: &mut Vec<u32>) {
    let topic = std::str::from_utf8(record.topic()).ok().filter(|name| is_folder_name(name));
    let is_rollback = flags::transaction_value(record.sys_flag()) == flags::TRANSACTION_ROLLBACK;
    let Some(topic) = topic.filter(|_| !is_rollback) else { return };
    let labels = Labels::of(record.properties());
    push_hashes(key_prefix(topic), labels.uniq_key, labels.keys, hashes);
}
