//! Finding the end of the log and completing what is derived from it (RocketMQ 5.5 `DefaultMessageStore.load`,
//! `CommitLog.recoverNormally`, `recoverAbnormally`).
//!
//! With a checkpoint of our own the log is read from the position up to which queues and index are known to be
//! complete, so a restart takes the same time whatever the log's size. Without one, as for a store written by Java,
//! the files RocketMQ would read are read. When a queue turns out to lack entries (the sum of queue ends is wrong, or
//! a record's queue offset leaves a gap) the whole log is read and all queues are built again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use ferromq_protocol::record::{self, Entry, Record};

use crate::ahead::Ahead;
use crate::checkpoint::{Built, Loaded};
use crate::commit_log::Segment;
use crate::damage;
use crate::error::OpenError;
use crate::file;
use crate::queue::{Kind, Queue};
use crate::snapshot::Snapshot;
use crate::store::Inner;

/// Progress is told each so many bytes of log.
const TELL_EVERY: u64 = 4 << 30;

mod queues;

/// Where reading ended.
struct End {
    position: u64,
    timestamp: i64,
    /// A queue lacks entries before a record: what was read is not enough.
    gap: bool,
}

impl Inner {
    /// Brings log, queues and index to one end. `clean`: the last process stopped in order. `true` if more was built than
    /// the end of the log.
    pub fn recover(&self, clean: bool, loaded: &Loaded) -> Result<bool, OpenError> {
        let began = Instant::now();
        let root = &self.config.root;
        let fail = || OpenError::io("recover", root);
        let segments = self.log.segments();
        let Some(first) = segments.first() else {
            // Without a log, queues and index point nowhere.
            for dir in Kind::ALL.map(|kind| &self.context.place(kind).dir).into_iter().filter(|dir| dir.exists()) {
                tracing::warn!(dir = %dir.display(), "there is no commit log: consume queues are removed");
                file::remove_dir_all(dir, self.context.faults.as_ref()).map_err(fail())?;
            }
            self.index.clear().map_err(fail())?;
            self.forget_snapshot(&mut self.progress.lock()).map_err(fail())?;
            return self.log.set_end(0, 0, 0).map(|()| false).map_err(fail());
        };
        let log_start = first.start;
        let is_known = |b: &Built| self.is_boundary(b.position) && b.position >= log_start;
        let snapshot = if clean || loaded.trusted { Snapshot::load(root, loaded) } else { None };
        let snapshot = snapshot.filter(|snapshot| is_known(&snapshot.built));
        let known = loaded.built.filter(is_known).max(snapshot.as_ref().map(|snapshot| snapshot.built));
        let position = known.map(|built| built.position);
        let (queues, complete) = self.load_queues(position, log_start, snapshot.as_ref()).map_err(fail())?;
        let (mut from, mut whole) = self.begin(clean, loaded, known.as_ref(), &queues, &segments);
        let entries: i64 = queues.iter().map(|q| q.max_offset()).sum();
        let is_whole = complete && known.is_none_or(|built| built.entries == entries);
        // Entries of later records may be there already when a record is read before this position.
        let mut loaded_to = position.unwrap_or(u64::MAX);
        self.keep_snapshot(snapshot.filter(|_| is_whole), loaded).map_err(fail())?;
        if !is_whole {
            let expected = known.map(|built| built.entries);
            tracing::warn!(
                entries,
                expected,
                "consume queues lack entries: all of the commit log is read to build them again"
            );
            forget_entries(&queues, log_start);
            (from, whole, loaded_to) = (log_start, true, 0);
        }
        if known.is_some_and(|built| self.config.message_index_enable && self.index.mark() < built.index) {
            tracing::warn!("the key index lacks entries: the commit log is read to build them again");
            // Only the index is fed: what was in queues then may be deleted now. Where no file can be had it goes on later.
            self.file_keys_of(self.index.end_offset().max(log_start), from);
        }
        let certain = self.certain(known.as_ref(), &segments).max(loaded.flushed.unwrap_or(0));
        // The checkpoint's own times are those of its last sync, which may be a minute older.
        let timestamp = known.map_or(0, |built| built.timestamp).max(loaded.times.physic);
        let mut end = self.read_on(from, whole, loaded_to, certain, timestamp);
        if end.gap {
            whole = true;
            tracing::warn!("consume queues lack entries: all of the commit log is read to build them again");
            self.forget_snapshot(&mut self.progress.lock()).map_err(fail())?;
            forget_entries(&self.all_queues(), log_start);
            end = self.read_on(log_start, true, 0, certain, timestamp);
        }
        self.settle_doubts();
        let flushed = self.flushed_before(clean, loaded, log_start, end.position);
        self.log.set_end(end.position, end.timestamp, flushed).map_err(fail())?;
        self.settle(clean && !whole, known.is_some(), log_start, end.position).map_err(fail())?;
        {
            let mut d = self.dispatcher.lock();
            d.position = end.position;
            self.dispatched.store(end.position, Ordering::Release);
            d.timestamp = end.timestamp;
            d.entries = self.all_queues().iter().map(|q| q.max_offset()).sum();
        }
        self.log.write_again(flushed).map_err(fail())?;
        self.log.sync().map_err(fail())?;
        self.note_flushed();
        if !clean {
            // Nor do the last process's queue files count as being on the disk.
            self.context.touched.lock().created();
        }
        tracing::info!(
            clean,
            from,
            end = end.position,
            queues = queues.len(),
            took_ms = began.elapsed().as_millis() as u64,
            "the store is recovered"
        );
        Ok(whole || known.is_none())
    }

    /// The snapshot that was used holds further on; any other is removed.
    fn keep_snapshot(&self, snapshot: Option<Snapshot>, loaded: &Loaded) -> std::io::Result<()> {
        let mut progress = self.progress.lock();
        let Some(snapshot) = snapshot else { return self.forget_snapshot(&mut progress) };
        progress.snapshot = Some(snapshot.taken);
        if let Some(written) = loaded.built.filter(|_| loaded.trusted) {
            (progress.written, progress.written_at) = (written, Some(Instant::now()));
        }
        Ok(())
    }

    /// Position before which the log is certainly on the disk.
    fn flushed_before(&self, clean: bool, loaded: &Loaded, log_start: u64, end: u64) -> u64 {
        if clean || !loaded.same_boot {
            // Read from the disk, not from what a process that died has left in memory.
            return end;
        }
        let durable = loaded.durable.map(|durable| durable.position).max(loaded.flushed);
        durable.unwrap_or_else(|| end.saturating_sub(2 * self.log.file_size)).max(log_start)
    }

    /// Whether a record, or the end of the log, can stand at `position`.
    fn is_boundary(&self, position: u64) -> bool {
        let Some(segment) = self.log.segment(position) else {
            // Behind the last file, when it was filled to its end.
            return position > 0 && self.log.segment(position - 1).is_some();
        };
        match segment.bytes_from(position, u64::MAX).map(record::read) {
            Some(Entry::Record(record)) => record.physical_offset() as u64 == position,
            Some(Entry::Blank) => true,
            Some(Entry::Invalid(_)) => true,
            None => false,
        }
    }

    /// Where reading begins, and whether queues may begin anywhere because it is the beginning of the log.
    fn begin(
        &self,
        clean: bool,
        loaded: &Loaded,
        known: Option<&Built>,
        queues: &[Arc<Queue>],
        segments: &[Arc<Segment>],
    ) -> (u64, bool) {
        if let Some(built) = known {
            return (built.position, false);
        }
        let log_start = segments.first().map_or(0, |s| s.start);
        let first_record = |segment: &Segment| match record::read(segment.bytes().unwrap_or_default()) {
            Entry::Record(record) if record.store_timestamp() > 0 => {
                Some((record.physical_offset() as u64, record.store_timestamp()))
            }
            _ => None,
        };
        let built_to = queues.iter().map(|q| q.built_to()).max().unwrap_or(0);
        let until = loaded.times.recover_from();
        let is_candidate = |segment: &&Arc<Segment>| {
            first_record(segment).is_some_and(|(offset, time)| if clean { offset <= built_to } else { time <= until })
        };
        let start = segments.iter().rev().find(is_candidate).map_or(log_start, |s| s.start);
        (start, start == log_start)
    }

    /// Reads records from `from` and dispatches them, until there is none. Before `certain` the log is known to go on:
    /// what is no record there is damage, is reported and passed over.
    fn read_on(&self, from: u64, may_begin_anywhere: bool, loaded_to: u64, certain: u64, timestamp: i64) -> End {
        self.dispatcher.lock().doubts.clear();
        let mut end = End { position: from, timestamp, gap: false };
        let mut told = from;
        let mut ahead = Ahead::new(from);
        while let Some(segment) = self.log.segment(end.position) {
            ahead.reached(end.position, |from, len| self.log.ask(from, len));
            let Some(bytes) = segment.bytes_from(end.position, u64::MAX) else { break };
            let damage = match record::read(bytes) {
                Entry::Record(record) => {
                    let fault = self.fault(&record, end.position, bytes);
                    if fault.is_none() {
                        let may_be_behind = end.position < loaded_to;
                        if !self.redispatch(&record, may_begin_anywhere, may_be_behind) {
                            end.gap = true;
                            return end;
                        }
                        end.timestamp = record.store_timestamp();
                        end.position += record.bytes().len() as u64;
                    }
                    fault
                }
                Entry::Blank => {
                    end.position = segment.end();
                    None
                }
                Entry::Invalid(damage) => Some(damage.to_string()),
            };
            if let Some(damage) = damage {
                if end.position >= certain {
                    tracing::info!(position = end.position, damage, "the commit log ends here");
                    break;
                }
                let next = self.next_sound(&segment, end.position + 1, u64::MAX);
                self.damaged.first_gap.lock().get_or_insert(end.position);
                tracing::error!(
                    path = %segment.file.path().display(), position = end.position, bytes = next - end.position, damage,
                    "the commit log is damaged: the messages in these bytes are lost, what follows is kept"
                );
                end.position = next;
            }
            if end.position - told >= TELL_EVERY {
                told = end.position;
                let log_end = self.log.segments().last().map_or(0, |s| s.end());
                tracing::info!(position = told, log_end, "reading the commit log");
            }
        }
        end
    }

    /// Position of the first sound record of the file at or behind `from` that begins before `until`; else the file's end, or
    /// `until` if that comes first.
    pub fn next_sound(&self, segment: &Segment, from: u64, until: u64) -> u64 {
        let bytes = segment.bytes_from(from, u64::MAX).unwrap_or_default();
        let until = until.min(segment.end());
        let looks_like_one = |at: &usize| {
            let position = from + *at as u64;
            record::glance(&bytes[*at..]).is_some_and(|g| g.physical_offset as u64 == position)
                && matches!(record::read(&bytes[*at..]), Entry::Record(r) if self.fault(&r, position, &bytes[*at..]).is_none())
        };
        let most = usize::try_from(until.saturating_sub(from)).map_or(bytes.len(), |most| most.min(bytes.len()));
        (0..most).find(looks_like_one).map_or(until, |at| from + at as u64)
    }

    /// Position before which the log cannot end: it was forced to the disk, or a later file has messages.
    fn certain(&self, known: Option<&Built>, segments: &[Arc<Segment>]) -> u64 {
        let begins = |s: &&Arc<Segment>| {
            s.bytes().ok().and_then(record::glance).is_some_and(|g| g.physical_offset as u64 == s.start)
        };
        let last = segments.iter().rev().find(begins).map_or(0, |s| s.start);
        last.max(known.map_or(0, |built| built.position))
    }

    /// Why the record at the beginning of `bytes`, read at `position`, is none to go by.
    fn fault(&self, record: &Record<'_>, position: u64, bytes: &[u8]) -> Option<String> {
        let next = bytes.get(record.bytes().len()..).unwrap_or_default();
        damage::fault(record, position, next, self.config.check_crc_on_recover)
    }

    /// Cuts off what points or stands behind the end. `is_cut`: the queues were loaded up to a position before it.
    fn settle(&self, clean: bool, is_cut: bool, log_start: u64, end: u64) -> std::io::Result<()> {
        let queues = self.all_queues();
        for queue in &queues {
            // Loaded up to a known position, and built on from there, it cannot point behind the log.
            if !is_cut {
                queue.truncate(end);
            }
            if !clean {
                queue.erase_beyond_end()?;
            }
            queue.correct_min(log_start);
            queue.continue_after_recovery();
        }
        let Some(segment) = self.log.segment(end) else { return Ok(()) };
        let bytes = segment.bytes_from(end, u64::MAX).unwrap_or_default();
        if !clean || bytes.iter().take(64).any(|b| *b != 0) {
            // What stands behind the end must never be taken for records again.
            segment.file.zero_from(end - segment.start, segment.size)?;
        }
        Ok(())
    }
}

/// All entries are built again, save in queues whose messages have all left the log: they alone know where they go on.
fn forget_entries(queues: &[Arc<Queue>], log_start: u64) {
    queues.iter().filter(|queue| queue.built_to() > log_start).for_each(|queue| queue.restart());
}
