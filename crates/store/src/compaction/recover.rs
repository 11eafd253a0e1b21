//! The copy of a queue at the start: a pass that was interrupted is settled, and the end of the last pair is found.
//!
//! A pair is forced to the disk before the next one is begun, so only the last can have been torn. And a message leaves
//! the log only when it is on the disk here. So after a crash the last pair ends at the first message that cannot be read,
//! or that is another in the log, which still has it: it, and what follows, is copied again. One that the log has no more
//! was on the disk once: when it cannot be read it is damaged, and what follows it is kept.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ferromq_protocol::record::Record;

use super::commit;
use super::copy::Compacted;
use super::pair::{Pair, next_sound, sound};
use super::writer::entry_of;
use super::{Compaction, UNIT};
use crate::config::StoreConfig;
use crate::file::{self, DataFile, MaybeFaults};
use crate::mapped;
use crate::queue::{CqEntry, Kind};

/// What is to be done about a damaged copy of a stopped store.
#[derive(Clone, Debug)]
pub(crate) struct Repair {
    pub topic: String,
    pub id: u32,
    /// Files that lack their end, and the size they get.
    pub short: Vec<(PathBuf, u64)>,
    /// Where the pairs begin whose entries are wrong.
    pub entries: Vec<u64>,
    /// Queue offset from which on the copy goes, because the log has what it lacks there.
    pub from: Option<i64>,
}

/// Makes wrong entries of the records anew, and cuts copies where the next start can copy again what is wrong.
pub(crate) fn repair(config: &StoreConfig, repairs: &[Repair]) -> io::Result<()> {
    let compaction = Compaction::new(config);
    repairs.iter().try_for_each(|repair| {
        let copy = compaction.copy_of(&repair.topic, repair.id);
        for (path, size) in &repair.short {
            DataFile::open(path, None)?.resize(*size)?;
        }
        for base in &repair.entries {
            let pair = Pair::new(&copy.log, &copy.queue, *base, 0);
            let found = copy.read_again(&pair, i64::MAX, &|_| true)?;
            copy.write_entries(&pair, &found, false, None)?;
        }
        copy.open(false, i64::MAX, &|_| true)?;
        repair.from.map_or(Ok(()), |from| copy.cut(from))
    })
}

impl Compacted {
    /// Finds what is on the disk. `clean`: all that the last process wrote is there; `in_log`: first queue offset that the log
    /// still has; `agrees`: whether it has there the message that it is shown, or none that can be read.
    pub fn open(&self, clean: bool, in_log: i64, agrees: &dyn Fn(&Record<'_>) -> bool) -> io::Result<()> {
        let faults = self.places.faults.as_ref();
        commit::settle(&self.log, &self.queue, faults)?;
        let lost_pages = mapped::lost_pages();
        let mut pairs = Vec::new();
        let bases = self.bases()?;
        let size = |path: &Path| fs::metadata(path).map_or(0, |metadata| metadata.len());
        let sizes = bases.iter().map(|base| Pair::new(&self.log, &self.queue, *base, 0));
        let mut sizes = sizes.map(|pair| [size(pair.log_path()), size(pair.queue_path())]);
        if let Some(sizes) = sizes.find(|[_, queue]| *queue >= UNIT as u64) {
            self.keep_sizes(sizes);
        }
        // From the last on: when nothing is left of it, the one before it is the last, and goes on behind what is sound.
        let mut is_last = true;
        for base in bases.iter().rev() {
            let pair = Pair::new(&self.log, &self.queue, *base, 0);
            let had_entries = self.complete(&pair, faults)?;
            let counted = if had_entries { pair.found_entries()? } else { 0 };
            pair.publish(counted);
            let ends_well = || {
                Ok::<_, io::Error>(match pair.last()? {
                    Some(last) => pair.record(&last)?.is_some(),
                    None => false,
                })
            };
            let pair = if counted == 0 || (is_last && !(clean && ends_well()?)) {
                // Of another pair than the last all was on the disk.
                let in_log = if Some(base) == bases.last() { in_log } else { i64::MAX };
                let found = self.read_again(&pair, in_log, agrees)?;
                self.write_entries(&pair, &found, is_last, faults)?;
                // What was mapped is not looked at again.
                Pair::new(&self.log, &self.queue, *base, found.len())
            } else {
                pair
            };
            if pair.count() > 0 {
                pairs.push(Arc::new(pair));
                is_last = false;
            } else {
                remove(&pair, faults)?;
            }
        }
        pairs.reverse();
        self.unreadable.store(mapped::lost_pages() != lost_pages, Ordering::Relaxed);
        self.take_over(pairs)
    }

    /// Where pairs begin. What has no file of records, or an empty one, is removed.
    fn bases(&self) -> io::Result<BTreeSet<u64>> {
        let faults = self.places.faults.as_ref();
        let mut bases = BTreeSet::new();
        for (base, path) in file::list(&self.log)? {
            if fs::metadata(&path)?.len() > 0 {
                bases.insert(base);
            } else {
                // Made when the process died.
                file::remove(&path, faults)?;
            }
        }
        for (base, path) in file::list(&self.queue)?.into_iter().filter(|(base, _)| !bases.contains(base)) {
            let has_entries = Pair::new(&self.log, &self.queue, base, 0).found_entries().is_ok_and(|count| count > 0);
            if has_entries {
                tracing::error!(path = %path.display(), "the records of these entries of a compacted queue are missing: they are lost");
            }
            file::remove(&path, faults)?;
        }
        Ok(bases)
    }

    /// Makes the file of entries if there is none; whether there was one.
    fn complete(&self, pair: &Pair, faults: MaybeFaults<'_>) -> io::Result<bool> {
        let len = fs::metadata(pair.queue_path()).map_or(0, |metadata| metadata.len());
        if len >= UNIT as u64 {
            return Ok(true);
        }
        file::remove(pair.queue_path(), faults)?;
        file::create_dir_durable(&self.queue, faults)?;
        DataFile::create_sparse(pair.queue_path(), self.sizes()[1], faults)?;
        file::sync_dir(&self.queue, faults)?;
        Ok(false)
    }

    /// The entries of a pair by its records, up to the first that has to be copied again.
    fn read_again(&self, pair: &Pair, in_log: i64, agrees: &dyn Fn(&Record<'_>) -> bool) -> io::Result<Vec<CqEntry>> {
        let bytes = pair.log_bytes()?;
        let mut there = pair.raw_entries()?;
        let (most, written_count) = (there.size_hint().0, pair.found_entries()?);
        let (mut found, mut position, mut next) = (Vec::new(), pair.base, 0);
        while found.len() < most {
            let written = there.next();
            let is_own = |record: &Record<'_>| self.is_own(record) && record.queue_offset() >= next;
            let own = sound(bytes, pair.base, position as i64).filter(is_own);
            if own.is_some_and(|record| record.queue_offset() >= in_log && !agrees(&record)) {
                break;
            }
            // The entry leads over a damaged record that the log has no more.
            let is_lost = |entry: &CqEntry| {
                let room = pair.base + bytes.len() as u64 - position;
                let fits = entry.size > 0 && entry.size as u64 <= room;
                let is_here = entry.is_written() && entry.physical_offset as u64 == position;
                is_here && fits && (next..in_log).contains(&entry.queue_offset)
            };
            // So is one that both are damaged of, and what follows it is found; behind the last entry nothing is looked for.
            let may_follow = next < in_log && (found.len() < written_count || written_count == 0);
            let follows = || {
                let was_durable = |record: &Record<'_>| is_own(record) && record.queue_offset() < in_log;
                may_follow.then(|| next_sound(bytes, pair.base, position, was_durable)).flatten()
            };
            let own = own.map(|record| entry_of(&record, position)).or_else(|| written.filter(is_lost));
            let Some(entry) = own.or_else(|| follows().map(|(position, record)| entry_of(&record, position))) else {
                break;
            };
            (position, next) = (entry.physical_offset as u64 + entry.size as u64, entry.end());
            found.push(entry);
        }
        Ok(found)
    }

    /// Whether a record is of this queue.
    pub(crate) fn is_own(&self, record: &Record<'_>) -> bool {
        record.topic() == self.topic.as_bytes() && record.queue_id() as u32 == self.queue_id
    }

    /// Lets the file of entries say what was found, and nothing stand behind the end of the last pair.
    fn write_entries(&self, pair: &Pair, found: &[CqEntry], is_last: bool, faults: MaybeFaults<'_>) -> io::Result<()> {
        let is_there = pair.raw_entries()?.take(found.len()).eq(found.iter().copied());
        let entries = DataFile::open(pair.queue_path(), faults)?;
        if !is_there {
            let mut bytes = Vec::with_capacity(found.len() * UNIT);
            found.iter().for_each(|entry| entry.encode(Kind::Batch, &mut bytes));
            entries.write_sparse_at(&bytes, 0)?;
        }
        let queue_end = (found.len() * UNIT) as u64;
        let records = DataFile::open(pair.log_path(), faults)?;
        if is_last {
            let log_end = found.last().map_or(0, |last| last.physical_offset as u64 - pair.base + last.size as u64);
            records.zero_from(log_end, records.len()?)?;
        }
        entries.zero_from(queue_end, entries.len()?)?;
        records.sync()?;
        entries.sync()
    }

    /// Drops messages from the queue offset `end` on: the log has lost them, and gives their offsets to others.
    pub fn cut(&self, end: i64) -> io::Result<()> {
        let faults = self.places.faults.as_ref();
        *self.writer.lock() = None;
        let mut kept = Vec::new();
        // From the last on: interrupted, it has left no hole.
        for pair in self.pairs().iter().rev() {
            let count = pair.partition(|entry| entry.queue_offset >= end)?;
            if count == 0 {
                remove(pair, faults)?;
                continue;
            }
            if count < pair.count() {
                let found: Vec<CqEntry> = pair.raw_entries()?.take(count).collect();
                self.write_entries(pair, &found, true, faults)?;
            }
            kept.push(Arc::new(Pair::new(&self.log, &self.queue, pair.base, count)));
        }
        kept.reverse();
        self.take_over(kept)
    }
}

/// Removes both files of a pair, durably.
fn remove(pair: &Pair, faults: MaybeFaults<'_>) -> io::Result<()> {
    for path in [pair.queue_path(), pair.log_path()] {
        file::remove(path, faults)?;
        path.parent().map_or(Ok(()), |folder| file::sync_dir(folder, faults))?;
    }
    Ok(())
}
