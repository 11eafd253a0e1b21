//! One pass over a queue: of the messages with the same keys only the newest stays, and none at all when its body is
//! empty (RocketMQ 5.5 `CompactionLog.compactAndReplace`).
//!
//! All pairs but the last take part. The keys of those that came since the last pass are gathered, then all is written
//! anew and put in place at once (`commit.rs`). When the keys are more than `maxOffsetMapSize` allows, the pass takes as
//! many messages as fit and says how far it came; the next goes on there.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use ferromq_protocol::record::Record;

use super::commit::{self, Commit};
use super::copy::Compacted;
use super::pair::{Pair, scan};
use super::writer::Writer;
use super::{COMPACTING, has_key, keys_of};
use crate::file;
use crate::mapped;
use crate::queue::CqEntry;

/// What a key takes in memory beyond its text, bytes.
const KEY_COST: usize = 64;

/// Where each key occurs last.
struct Newest {
    offsets: HashMap<Box<[u8]>, i64>,
    bytes: usize,
    limit: usize,
    /// Queue offset of the last message that was noted.
    last: i64,
}

impl Newest {
    fn new(limit: usize) -> Newest {
        Newest { offsets: HashMap::new(), bytes: 0, limit, last: -1 }
    }

    /// Notes a message; `false`: there is no room.
    fn note(&mut self, keys: &[u8], offset: i64) -> bool {
        if let Some(known) = self.offsets.get_mut(keys) {
            *known = offset;
        } else {
            let cost = keys.len() + KEY_COST;
            if self.bytes + cost > self.limit && !self.offsets.is_empty() {
                return false;
            }
            self.bytes += cost;
            self.offsets.insert(keys.into(), offset);
        }
        self.last = offset;
        true
    }

    /// Whether a message stays.
    fn keeps(&self, record: &Record<'_>) -> bool {
        if record.queue_offset() > self.last {
            return true;
        }
        let is_newest = |keys| self.offsets.get(keys).is_none_or(|newest| *newest <= record.queue_offset());
        !record.body().is_empty() && keys_of(record).is_some_and(is_newest)
    }
}

impl Compacted {
    /// One pass over what came behind the queue offset `position`; up to where it came, `None` when there is nothing to
    /// do. `limit`: bytes that the keys may take.
    pub fn pass(&self, position: i64, limit: usize) -> io::Result<Option<i64>> {
        self.check_readable()?;
        let _replacing = self.replacing.lock();
        let pairs = self.pairs();
        let Some((last, full)) = pairs.split_last().filter(|_| !self.is_given_up()) else { return Ok(None) };
        let newest = self.gather(full, position, limit)?;
        if newest.last <= position {
            return Ok(None);
        }
        let mut drops = false;
        self.each(full, |_, record| {
            drops = record.is_none_or(|record| !newest.keeps(&record));
            Ok(!drops)
        })?;
        if drops {
            self.rewrite(full, last.base, &newest)?;
        }
        Ok((!self.is_given_up()).then_some(newest.last))
    }

    /// The keys of what came behind `position`.
    fn gather(&self, full: &[Arc<Pair>], position: i64, limit: usize) -> io::Result<Newest> {
        let mut newest = Newest::new(limit);
        scan(full, position.saturating_add(1), |pair, entry| {
            let record = self.readable(pair, entry)?;
            let noted = record.and_then(|record| Some(newest.note(keys_of(&record)?, entry.queue_offset)));
            Ok(noted.unwrap_or(true) && !self.is_given_up())
        })?;
        Ok(newest)
    }

    /// Shows all messages in order, `None` for one that is damaged, until `f` says that it is enough or the pass is
    /// given up.
    fn each(
        &self,
        full: &[Arc<Pair>],
        mut f: impl FnMut(&Pair, Option<Record<'_>>) -> io::Result<bool>,
    ) -> io::Result<()> {
        scan(full, i64::MIN, |pair, entry| Ok(f(pair, self.readable(pair, entry)?)? && !self.is_given_up()))
    }

    /// A record, `None` if it is damaged. An error when the disk could not read some page since the start: then it is zeros
    /// until the next start, and nobody knows what it held.
    fn readable<'a>(&self, pair: &'a Pair, entry: &CqEntry) -> io::Result<Option<Record<'a>>> {
        let record = pair.record(entry)?;
        let has_key = record.as_ref().is_some_and(has_key);
        if record.is_none() {
            self.tell_damage(pair, entry);
        }
        if !has_key {
            // A message without a key never came here: its properties may be on such a page.
            if mapped::lost_pages() != self.places.lost_pages {
                return Err(io::Error::other(
                    "the disk cannot read pages of it: what they hold would be lost; look at the kernel's log, and replace the disk",
                ));
            }
        }
        Ok(record)
    }

    /// Writes what stays and puts it in the place of the `full` pairs, which end before `boundary`.
    fn rewrite(&self, full: &[Arc<Pair>], boundary: u64, newest: &Newest) -> io::Result<()> {
        let faults = self.places.faults.as_ref();
        commit::settle(&self.log, &self.queue, faults)?;
        let folders = [&self.log, &self.queue].map(|folder| folder.join(COMPACTING));
        let written = self.write_anew(full, [&folders[0], &folders[1]], newest);
        let new = match written {
            Ok(new) if !self.is_given_up() => new,
            other => {
                // Room is given back at once.
                commit::settle(&self.log, &self.queue, faults)?;
                return other.map(drop);
            }
        };
        if new.iter().any(|(base, _)| *base >= boundary) {
            commit::settle(&self.log, &self.queue, faults)?;
            return Err(io::Error::other(
                "what stays takes more files than there were: was compactionMappedFileSize made smaller?",
            ));
        }
        let commit = Commit { boundary, bases: new.iter().map(|(base, _)| *base).collect() };
        folders.iter().try_for_each(|folder| file::create_dir_durable(folder, faults))?;
        commit.note(&self.log, faults)?;
        commit::settle(&self.log, &self.queue, faults)?;
        let count: usize = new.iter().map(|(_, count)| count).sum();
        let new =
            new.into_iter().map(|(base, count)| Arc::new(Pair::new(&self.log, &self.queue, base, count))).collect();
        self.replace(full.len(), new);
        let before: usize = full.iter().map(|pair| pair.count()).sum();
        tracing::info!(topic = %self.topic, queue = self.queue_id, before, after = count, "a queue is compacted");
        Ok(())
    }

    /// Writes what stays into new pairs in these folders, on the disk when it returns: where each begins, and its entries.
    fn write_anew(&self, full: &[Arc<Pair>], folders: [&Path; 2], newest: &Newest) -> io::Result<Vec<(u64, usize)>> {
        let (sizes, faults) = (self.sizes(), self.places.faults.as_ref());
        let (mut done, mut slot): (Vec<(u64, usize)>, Option<Writer>) = Default::default();
        let seal = |mut full: Writer| full.seal().map(|()| (full.base, full.count()));
        self.each(full, |_, record| {
            let Some(record) = record.filter(|record| newest.keeps(record)) else { return Ok(true) };
            let next = match slot.take() {
                Some(writer) if writer.has_room(record.bytes().len()) => writer,
                Some(full) => {
                    let base = full.end_of_files();
                    done.push(seal(full)?);
                    Writer::create(folders, base, sizes, faults)?
                }
                None => Writer::create(folders, 0, sizes, faults)?,
            };
            slot.insert(next).add(&record)?;
            Ok(true)
        })?;
        done.extend(slot.map(seal).transpose()?);
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use ferromq_protocol::record::{self, Entry, MessageParts};

    use super::super::Compaction;
    use super::*;
    use crate::config::StoreConfig;

    #[test]
    fn keys_are_noted_as_long_as_there_is_room_and_at_least_one() {
        let mut newest = Newest::new(2 * (KEY_COST + 1));
        assert!(newest.note(b"a", 1) && newest.note(b"b", 2) && newest.note(b"a", 3));
        assert!(!newest.note(b"c", 4));
        assert_eq!((newest.last, newest.offsets.len()), (3, 2));
        let mut newest = Newest::new(0);
        assert!(newest.note(b"a", 1) && newest.note(b"a", 2) && !newest.note(b"b", 3));
    }

    fn stored(n: usize) -> Vec<u8> {
        let (text, host) = (format!("KEYS\u{1}k{}\u{2}", n % 5), "127.0.0.1:1".parse().unwrap());
        let parts = MessageParts {
            topic: "T",
            queue_id: 0,
            body: &[7; 200],
            properties: text.as_bytes(),
            tags: None,
            keys: None,
            uniq_key: None,
            flag: 0,
            sys_flag: 0,
            born_timestamp: 1,
            born_host: host,
            store_host: host,
            reconsume_times: 0,
            prepared_transaction_offset: 0,
        };
        let mut bytes = Vec::new();
        record::encode(&parts, &mut bytes).unwrap();
        record::patch(&mut bytes, n as i64, 0, 1);
        bytes
    }

    #[test]
    fn a_page_that_cannot_be_read_ends_the_pass_and_all_stays() {
        const MESSAGES: usize = 100;
        let dir = tempfile::tempdir().unwrap();
        let config = StoreConfig {
            root: dir.path().to_owned(),
            compaction_mapped_file_size: 8000,
            compaction_cq_mapped_file_size: 1000,
            ..StoreConfig::default()
        };
        let copy = Compaction::new(&config).copy_of("T", 0);
        let stored: Vec<Vec<u8>> = (0..MESSAGES).map(stored).collect();
        let records = stored.iter().filter_map(|bytes| match record::read(bytes) {
            Entry::Record(record) => Some(record),
            _ => None,
        });
        copy.append(records, MESSAGES as i64).unwrap();
        copy.sync().unwrap();
        let there = |copy: &Compacted| {
            (0..MESSAGES as i64).filter(|n| copy.look(*n, |_| ()).is_ok_and(|found| found.is_some())).count()
        };
        assert_eq!(there(&copy), MESSAGES);
        let files = || file::list(&copy.log).unwrap();
        let before = files();
        let (_, path) = &before[1];
        let whole = std::fs::read(path).unwrap();
        // Reading behind the end of a mapped file raises the signal that a bad sector raises.
        std::fs::File::options().write(true).open(path).unwrap().set_len(4096).unwrap();
        let error = copy.pass(-1, 1 << 20).unwrap_err().to_string();
        assert!(error.contains("cannot read pages"), "{error}");
        assert_eq!(files(), before);
        assert!(!copy.log.join(COMPACTING).exists());
        assert!((MESSAGES - 20..MESSAGES).contains(&there(&copy)), "{}", there(&copy));
        // With the disk replaced by one that has all.
        std::fs::write(path, whole).unwrap();
        let copy = Compaction::new(&config).copy_of("T", 0);
        copy.open(true, 0, &|_| true).unwrap();
        assert_eq!(there(&copy), MESSAGES);
        copy.pass(-1, 1 << 20).unwrap().unwrap();
        assert!(there(&copy) < 40, "{}", there(&copy));
    }
}
