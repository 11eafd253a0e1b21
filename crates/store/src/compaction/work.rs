//! The thread that copies messages and makes passes (`store-compact`), and what others of the store ask for: all copies at
//! the start and the stop, and that a log file may go.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ferromq_protocol::record::Record;
use ferromq_protocol::records;
use rustix::io::Errno;

use super::{Compacted, Compaction, has_key, is_same};
use crate::append;
use crate::failure::is_out_of_space;
use crate::file;
use crate::mapped;
use crate::queue::{self, Queue};
use crate::read::ReadStatus;
use crate::store::{Inner, Queues};

/// How often messages are copied. Nobody waits for it: what is not copied yet is read in the log.
const COPY_PERIOD: Duration = Duration::from_secs(1);
/// How long the thread sleeps while no queue is compacted.
const IDLE_PERIOD: Duration = Duration::from_secs(3600);
/// Most messages copied at once.
const COPY_MESSAGES: u32 = 1024;

impl Inner {
    /// Opens the copies there are and makes each agree with its queue. After recovery, before any thread.
    pub fn open_compaction(&self, clean: bool) -> io::Result<()> {
        let Compaction { is_enabled, places, positions, topics, .. } = &self.compaction;
        let topics: Vec<String> = topics.read().iter().cloned().collect();
        if !is_enabled && !topics.is_empty() {
            tracing::warn!(
                "enableCompaction=false: topics with cleanup.policy=COMPACTION are kept like others, and lose their messages with the log"
            );
        }
        let mut known = BTreeSet::new();
        for topic in topics.iter().filter(|topic| append::is_folder_name(topic)) {
            let mut ids: BTreeSet<u32> = queue::queues_of(&places.log.join(topic))?.into_iter().collect();
            ids.extend(queue::queues_of(&places.queue.join(topic))?);
            for id in ids {
                let queue = self.queue(topic, id);
                // Without a message in the log nothing can be copied again.
                let in_log = if queue.log_min() < queue.max_offset() { queue.log_min() } else { i64::MAX };
                match queue.compacted() {
                    Some(copy) => {
                        copy.open(clean, in_log, &|copied| self.agrees(&queue, copied))?;
                        self.agree(&queue, copy)?;
                        positions.lower(topic, id, copy.end() - 1);
                    }
                    // Not now: but what a crash has torn would not be seen any more when it is.
                    // What it has is not copied again.
                    None if !clean => {
                        let copy = Compacted::new(places, topic.as_str().into(), id);
                        copy.open(clean, i64::MAX, &|_| true)?;
                        self.agree(&queue, &copy)?;
                    }
                    None => {}
                }
                known.insert((topic.as_str(), id));
            }
        }
        // A position without a copy would let a pass look too late when there is one.
        positions.keep(&known);
        if !known.is_empty() {
            self.dispatcher.lock().entries = self.all_queues().iter().map(|queue| queue.max_offset()).sum();
        }
        Ok(())
    }

    /// Whether the log has the same message as the copy, or none that can be read: then the copy is all there is of it.
    fn agrees(&self, queue: &Queue, copied: &Record<'_>) -> bool {
        let offset = copied.queue_offset();
        let entry = queue.entry(offset).filter(|entry| !entry.is_blank());
        let in_log = entry.and_then(|entry| self.look(entry.physical_offset as u64, |record| is_same(record, copied)));
        offset < queue.max_offset() && in_log.unwrap_or(true)
    }

    /// A copy does not go beyond its queue: an offset is used once.
    fn agree(&self, queue: &Queue, copy: &Compacted) -> io::Result<()> {
        let (end, copied) = (queue.max_offset(), copy.end());
        if end >= copied {
            return Ok(());
        }
        if queue.last_entry().is_none_or(|entry| entry.is_blank()) {
            // All its messages have left the log, and its files are gone: the copy knows where it goes on.
            tracing::warn!("the consume queue {queue:?} goes on at {copied}, as its compacted copy says");
            return queue.begin_at(copied);
        }
        tracing::warn!("the log has lost messages of {queue:?}: its compacted copy, which goes on to {copied}, is cut");
        copy.cut(end)
    }

    /// The thread's life.
    pub fn run_compaction(&self) {
        let every = Duration::from_millis(self.config.compaction_schedule_internal.max(1));
        let mut pass_at = Instant::now() + every;
        loop {
            let queues = self.compacted_queues();
            let now = Instant::now();
            self.copy_all(&queues, 0);
            if now >= pass_at {
                queues.iter().filter(|_| !self.failure.is_set()).for_each(|queue| self.compact(queue));
                pass_at = Instant::now() + every;
            }
            let wake_at = if queues.is_empty() { now + IDLE_PERIOD } else { (now + COPY_PERIOD).min(pass_at.max(now)) };
            if self.compaction.bell.wait(wake_at) {
                return;
            }
        }
    }

    fn compacted_queues(&self) -> Vec<Arc<Queue>> {
        // One lock after the other: who makes a queue holds the second and wants the first.
        let compacted: Vec<String> = self.compaction.topics.read().iter().cloned().collect();
        let topics = self.topics.read();
        let queues = compacted.iter().filter_map(|topic| topics.get(topic.as_str())).flat_map(|queues| queues.values());
        queues.filter(|queue| queue.is_compacted()).cloned().collect()
    }

    /// Whether the copies have, on the disk, all messages before `position` of the log; copies what they lack.
    pub fn is_copied(&self, position: u64) -> bool {
        let queues = self.compacted_queues();
        self.copy_all(&queues, position)
            && queues.iter().filter_map(|queue| queue.compacted()).all(|copy| {
                let synced = copy.sync();
                self.note_outcome("forcing a compacted queue to the disk", copy, synced).is_some()
            })
    }

    /// Copies what the disk of the log has; whether that is all before `until` in the log.
    fn copy_all(&self, queues: &[Arc<Queue>], until: u64) -> bool {
        queues.iter().fold(true, |all, queue| {
            let Some(copy) = queue.compacted() else { return all };
            let copied = if self.failure.is_set() { Ok(false) } else { self.copy_queue(queue, copy, until) };
            self.note_outcome("copying to a compacted queue", copy, copied) == Some(true) && all
        })
    }

    fn copy_queue(&self, queue: &Queue, copy: &Compacted, until: u64) -> io::Result<bool> {
        let mut bytes = Vec::new();
        loop {
            let from = copy.end().max(queue.log_min());
            if from >= queue.max_offset() || queue.is_deleted() {
                return if bytes.is_empty() { copy.rest().map(|()| true) } else { Ok(true) };
            }
            let flushed = self.log.flushed();
            bytes.clear();
            let outcome = self.read(queue, from, COPY_MESSAGES, u32::MAX, &mut |_| true, &mut bytes);
            if outcome.status == ReadStatus::OffsetFoundNull {
                return Err(io::Error::other(format!("the consume queue cannot be read at {from}")));
            }
            // A page that could not be read once is zeros until the next start; nobody knows what it held.
            if mapped::lost_pages() != self.compaction.places.lost_pages
                && outcome.next_offset - from > records::iter(&bytes).filter(has_key).count() as i64
            {
                return Err(io::Error::other(format!(
                    "the disk cannot read pages of the log, and messages between {from} and {} are missing or have no key; look at the kernel's log, and replace the disk",
                    outcome.next_offset
                )));
            }
            // What the disk of the log has not could be lost there and come again with other offsets.
            let end_of = |record: &Record<'_>| record.physical_offset() as u64 + record.bytes().len() as u64;
            let durable = records::iter(&bytes).take_while(|record| end_of(record) <= flushed);
            let pending = records::iter(&bytes).find(|record| end_of(record) > flushed);
            copy.append(durable, pending.map_or(outcome.next_offset, |record| record.queue_offset()))?;
            if let Some(pending) = pending {
                return Ok(pending.physical_offset() as u64 >= until);
            }
        }
    }

    /// Passes over a queue until nothing is left to do.
    fn compact(&self, queue: &Queue) {
        let Some(copy) = queue.compacted() else { return };
        let positions = &self.compaction.positions;
        loop {
            let passed = copy.pass(positions.of(&copy.topic, copy.queue_id), self.config.max_offset_map_size);
            let Some(Some(position)) = self.note_outcome("compacting a queue", copy, passed) else { return };
            // A topic that is deleted meanwhile leaves no position to the next of its name.
            let _replacing = copy.replacing.lock();
            if copy.is_given_up() {
                return;
            }
            if let Err(error) = positions.set(&copy.topic, copy.queue_id, Some(position)) {
                tracing::warn!("how far compaction came cannot be noted: {error}; it looks at all messages again");
                return;
            }
        }
    }

    /// What came of work on a copy. What passes by itself is told and tried again; a disk that fails ends all writing.
    fn note_outcome<T>(&self, what: &str, copy: &Compacted, outcome: io::Result<T>) -> Option<T> {
        let error = match outcome {
            Ok(done) => {
                copy.is_stuck.store(false, Ordering::Relaxed);
                return Some(done);
            }
            Err(error) => error,
        };
        let no_handles = [Errno::MFILE, Errno::NFILE, Errno::NOMEM].map(Errno::raw_os_error);
        let passes = is_out_of_space(&error)
            || matches!(error.kind(), io::ErrorKind::FileTooLarge | io::ErrorKind::Other)
            || error.raw_os_error().is_some_and(|number| no_handles.contains(&number));
        if !passes {
            self.fail(&format!("{what} ({copy:?})"), &error);
        } else if !copy.is_stuck.swap(true, Ordering::Relaxed) {
            tracing::error!(
                "{what} ({copy:?}) failed: {error}; it is tried again, and no log file is deleted before all its messages are copied"
            );
        }
        None
    }

    /// Whether queues of the topic are compacted from now on, those that are there too. What a topic of this name has left,
    /// as RocketMQ leaves it, goes.
    pub fn set_compacted(&self, topic: &str, is_compacted: bool) {
        let compaction = &self.compaction;
        // A queue that has a copy keeps it until its topic is deleted.
        let has_copies =
            || self.topics.read().get(topic).is_some_and(|queues| queues.values().any(|q| q.is_compacted()));
        let is_so = || {
            let is_known = compaction.topics.read().contains(topic);
            is_known == is_compacted || !append::is_folder_name(topic) || (is_known && has_copies())
        };
        if is_so() {
            return;
        }
        let _folders = compaction.folders.lock();
        if is_so() {
            return;
        }
        if !is_compacted {
            compaction.topics.write().remove(topic);
            return;
        }
        if compaction.is_enabled
            && !has_copies()
            && let Err(error) = self.remove_copies(topic)
        {
            self.fail("removing what a deleted topic left in the compaction folder", &error);
        }
        compaction.topics.write().insert(topic.to_owned());
        // Whoever sent to it, or delivered a message, before it was known to be compacted has made queues without a copy.
        let name = Arc::from(topic);
        for queue in self.topics.read().get(topic).into_iter().flat_map(Queues::values) {
            if let Some(copy) = compaction.copy_for(&name, queue.id(), queue.kind()) {
                queue.set_compacted(copy);
            }
        }
    }

    /// Removes the copies of a topic whose queues are gone. With `folders` held.
    pub fn remove_copies(&self, topic: &str) -> io::Result<()> {
        if !append::is_folder_name(topic) {
            return Ok(());
        }
        let Compaction { places, positions, .. } = &self.compaction;
        let folders = [&places.log, &places.queue].map(|root| root.join(topic));
        for id in queue::queues_of(&folders[0])? {
            positions.set(topic, id, None)?;
        }
        let mut there = folders.iter().filter(|folder| folder.exists());
        there.try_for_each(|folder| file::remove_dir_durable(folder, places.faults.as_ref()))
    }
}
