//! The copies of compacted queues, by themselves and against the log: each record has its entry, and the newest message of
//! each key that the log has is there, up to where the copy goes (`docs/adr/0011-compaction.md`).
//!
//! Records are found without the entries, which may be wrong. The log comes in the order of each queue, and so does its
//! copy: both are read side by side. A message that a copy lacks is outdated if one of the same key follows in the log;
//! until then it is kept in mind, so that memory grows with the number of keys and no further than `maxOffsetMapSize`.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use ferromq_common::json_file::{self, Loaded};
use ferromq_protocol::json;
use ferromq_protocol::record::Record;
use serde::de::IgnoredAny;

use super::layout::{names, size_of_most};
use super::queues::Queues;
use super::report::{Findings, Kind};
use super::tables::Tables;
use crate::compaction::{
    COMPACTING, Compacted, Compaction, Pair, Repair, entry_of, folders, has_key, is_pass_to_complete, is_same, keys_of,
    next_sound, positions_path,
};
use crate::config::StoreConfig;
use crate::file;
use crate::mapped;
use crate::queue::{CqEntry, queues_of, topics_in};

/// Most damaged records of one copy that are remembered one by one.
const MAX_DAMAGED: usize = 4096;
/// What a message that is kept in mind takes beyond its keys, bytes.
const KEY_COST: usize = 64;

/// All copies of a store.
pub(super) struct Copies {
    by_topic: HashMap<String, HashMap<u32, Copy>>,
    /// Bytes that messages that are kept in mind may still take.
    memory: usize,
}

/// One copy.
struct Copy {
    compacted: Compacted,
    pairs: Vec<Pair>,
    messages: u64,
    /// Queue offset behind its last message.
    end: i64,
    /// Queue offset behind all pairs but the last, which a start after a kill compares with the log.
    last_pair: i64,
    /// Queue offset and place of records that are not sound.
    damaged: Vec<(i64, u64)>,
    /// Files that lack their end, and their usual size.
    short: Vec<(PathBuf, u64)>,
    /// Pairs with wrong entries, how many, and the first.
    wrong: Vec<(u64, u64, i64)>,
    /// Its message that was compared last: pair, position behind it, and queue offset.
    cursor: (usize, u64, i64),
    /// First queue offset in the log.
    in_log: Option<i64>,
    /// Messages of the log that are not in the copy, by keys: queue offset and position.
    missing: HashMap<Box<[u8]>, (i64, u64)>,
    /// There was no memory for all of them.
    is_cut_short: bool,
    /// Messages that are others in the log.
    differing: Vec<(i64, u64)>,
}

impl Copies {
    /// Reads the copies there are.
    pub fn find(config: &StoreConfig, tables: &Tables, findings: &mut Findings) -> io::Result<Copies> {
        let root = &config.root;
        let compaction = Compaction::new(config);
        let mut copies = Copies { by_topic: HashMap::new(), memory: config.max_offset_map_size };
        let roots = folders(root);
        let mut topics = BTreeSet::new();
        for folder in &roots {
            topics.extend(topics_in(folder)?);
        }
        for topic in topics {
            if !tables.is_compacted(root, &topic) {
                findings.add(Kind::CopyUnused, || roots[0].join(&topic).display().to_string());
                continue;
            }
            let mut ids = BTreeSet::new();
            for folder in &roots {
                ids.extend(queues_of(&folder.join(&topic))?);
            }
            for id in ids {
                let copy = Copy::read(compaction.copy_of(&topic, id), findings)?;
                if compaction.position(&topic, id) >= copy.end {
                    findings.add(Kind::CopyPosition, || format!("{topic}/{id} ends before {}", copy.end));
                }
                copies.by_topic.entry(topic.clone()).or_default().insert(id, copy);
            }
        }
        if !copies.by_topic.is_empty() {
            tell_positions(root, findings);
        }
        Ok(copies)
    }

    /// A record of the log that consumers should see, in order.
    pub fn record(&mut self, topic: &str, id: u32, record: &Record<'_>) {
        if let Some(copy) = self.by_topic.get_mut(topic).and_then(|copies| copies.get_mut(&id)) {
            copy.record(record, &mut self.memory);
        }
    }

    /// Queue offset behind the last message of a copy, 0 without one.
    pub fn end(&self, topic: &str, id: u32) -> i64 {
        self.by_topic.get(topic).and_then(|copies| copies.get(&id)).map_or(0, |copy| copy.end)
    }

    /// Topics with copies.
    pub fn topics(&self) -> impl Iterator<Item = &String> {
        self.by_topic.keys()
    }

    /// Number of copies, and of their messages.
    pub fn count(&self) -> (u64, u64) {
        let all = || self.by_topic.values().flat_map(HashMap::values);
        (all().count() as u64, all().map(|copy| copy.messages).sum())
    }

    /// After the last record: tells what was found; what a rebuild has to do.
    pub fn finish(&mut self, queues: &Queues, was_killed: bool, findings: &mut Findings) -> Vec<Repair> {
        let mut repairs = Vec::new();
        for (topic, copies) in &mut self.by_topic {
            for (id, copy) in copies {
                copy.forget_outdated();
                let end = queues.end(topic, *id);
                if (1..copy.end).contains(&end) {
                    let kind = if was_killed { Kind::EntriesAhead } else { Kind::EntryBeyondEnd };
                    findings
                        .add(kind, || format!("the copy of {topic}/{id} goes on to {}, the queue to {end}", copy.end));
                }
                repairs.extend(copy.tell(was_killed, findings));
            }
        }
        repairs
    }
}

fn tell_positions(root: &Path, findings: &mut Findings) {
    let path = positions_path(root);
    let why = match json_file::load(&path, json::from_slice::<IgnoredAny>) {
        Ok(Loaded::Current(_) | Loaded::Absent) => return,
        Ok(Loaded::Backup(_, why)) => format!("{}: {why}", path.display()),
        Err(error) => error.to_string(),
    };
    findings.add(Kind::CopyPosition, || why);
}

impl Copy {
    fn read(compacted: Compacted, findings: &mut Findings) -> io::Result<Copy> {
        let mut copy = Copy {
            compacted,
            pairs: Vec::new(),
            messages: 0,
            end: 0,
            last_pair: 0,
            damaged: Vec::new(),
            short: Vec::new(),
            wrong: Vec::new(),
            cursor: (0, 0, -1),
            in_log: None,
            missing: HashMap::new(),
            is_cut_short: false,
            differing: Vec::new(),
        };
        let log = copy.compacted.folders()[0].to_owned();
        let is_to_complete = is_pass_to_complete(&log)?;
        if is_to_complete || !names(&log.join(COMPACTING))?.is_empty() {
            findings.add(Kind::CopyPass, || log.display().to_string());
        }
        if is_to_complete {
            // Its files are on their way into their places.
            findings.add(Kind::NotChecked, || format!("{}, until a start has completed the pass", log.display()));
            return Ok(copy);
        }
        let lost_pages = mapped::lost_pages();
        for (base, has_entries) in copy.bases(findings)? {
            copy.read_pair(base, has_entries)?;
        }
        if mapped::lost_pages() != lost_pages {
            findings.add(Kind::CopyUnreadable, || log.display().to_string());
        }
        Ok(copy)
    }

    /// Where files of records begin, and whether there is one of entries. What is not like the others is told.
    fn bases(&mut self, findings: &mut Findings) -> io::Result<Vec<(u64, bool)>> {
        let mut found = [BTreeSet::new(), BTreeSet::new()];
        for (found, folder) in found.iter_mut().zip(self.compacted.folders()) {
            let mut files = Vec::new();
            for (base, path) in file::list(folder)? {
                files.push((base, fs::metadata(&path)?.len(), path));
            }
            // Made when the process died.
            files.pop_if(|(_, len, _)| *len == 0);
            let usual = size_of_most(files.iter().map(|(_, len, _)| *len).filter(|len| *len > 0));
            for (_, len, path) in files.iter().filter(|(_, len, _)| *len != usual) {
                findings.add(Kind::CopyFile, || format!("{} has {len} bytes, others {usual}", path.display()));
                self.short.extend((1..usual).contains(len).then(|| (path.clone(), usual)));
            }
            found.extend(files.iter().filter(|(_, len, _)| *len > 0).map(|(base, ..)| *base));
        }
        let [records, entries] = found;
        for base in records.symmetric_difference(&entries) {
            let name = file::name(*base);
            findings.add(Kind::CopyFile, || format!("{:?} has one of both files {name}", self.compacted));
        }
        Ok(records.into_iter().map(|base| (base, entries.contains(&base))).collect())
    }

    /// Reads records and entries side by side.
    fn read_pair(&mut self, base: u64, has_entries: bool) -> io::Result<()> {
        let [log, queue] = self.compacted.folders();
        let pair = Pair::new(log, queue, base, 0);
        let bytes = pair.log_bytes()?;
        // A start makes a file of entries that is missing.
        let written = if has_entries { Some(pair.raw_entries()?) } else { None };
        let mut entries = written.into_iter().flatten().take_while(CqEntry::is_written).peekable();
        let (mut position, mut wrong) = (base, None);
        self.last_pair = self.end;
        while let Some((at, record)) = next_sound(bytes, base, position, |record| self.is_message(record)) {
            while let Some(lost) = entries.next_if(|e| (position..at).contains(&(e.physical_offset as u64))) {
                self.damaged.push((lost.queue_offset, at));
            }
            let offset = record.queue_offset();
            let mut is_described = || entries.next() == Some(entry_of(&record, at));
            if offset < self.end || (has_entries && !is_described()) {
                let (count, first): (u64, i64) = wrong.unwrap_or((0, offset));
                wrong = Some((count + 1, first));
            }
            self.messages += 1;
            self.end = self.end.max(offset + 1);
            position = at + record.bytes().len() as u64;
        }
        self.damaged.extend(entries.map(|lost| (lost.queue_offset, position)));
        self.damaged.truncate(MAX_DAMAGED);
        self.wrong.extend(wrong.map(|(count, first)| (base, count, first)));
        self.pairs.push(pair);
        Ok(())
    }

    fn is_message(&self, record: &Record<'_>) -> bool {
        self.compacted.is_own(record) && has_key(record)
    }

    /// The message behind that at the cursor, which moves there.
    fn next(&mut self) -> io::Result<Option<Record<'_>>> {
        let (mut pair, mut position, _) = self.cursor;
        while let Some(there) = self.pairs.get(pair) {
            let from = position.max(there.base);
            if let Some((at, record)) = next_sound(there.log_bytes()?, there.base, from, |r| self.is_message(r)) {
                self.cursor = (pair, at + record.bytes().len() as u64, record.queue_offset());
                return Ok(Some(record));
            }
            (pair, position) = (pair + 1, 0);
        }
        self.cursor = (pair, position, i64::MAX);
        Ok(None)
    }

    fn record(&mut self, record: &Record<'_>, memory: &mut usize) {
        let offset = record.queue_offset();
        if offset == 0 && self.in_log.is_some() {
            // The topic was deleted and made again: the copy is that of its second life.
            self.missing.clear();
            self.differing.clear();
            (self.cursor, self.in_log) = ((0, 0, -1), None);
        }
        self.in_log.get_or_insert(offset);
        let Some(keys) = keys_of(record) else { return };
        if self.missing.remove(keys).is_some() {
            *memory += keys.len() + KEY_COST;
        }
        if offset >= self.end {
            return;
        }
        while self.cursor.2 < offset {
            let Ok(Some(copied)) = self.next() else { break };
            if copied.queue_offset() == offset && !is_same(&copied, record) {
                self.differing.push((offset, record.physical_offset() as u64));
            }
        }
        self.differing.truncate(MAX_DAMAGED);
        if self.cursor.2 == offset || record.body().is_empty() {
            return;
        }
        match memory.checked_sub(keys.len() + KEY_COST) {
            Some(left) => {
                *memory = left;
                self.missing.insert(keys.into(), (offset, record.physical_offset() as u64));
            }
            None => self.is_cut_short = true,
        }
    }

    /// Messages are outdated too when the copy alone has a newer one of their keys.
    fn forget_outdated(&mut self) {
        self.cursor = (0, 0, -1);
        let mut missing = std::mem::take(&mut self.missing);
        while !missing.is_empty()
            && let Ok(Some(copied)) = self.next()
        {
            let newer = |keys: &&[u8]| missing.get(*keys).is_some_and(|(offset, _)| *offset < copied.queue_offset());
            if let Some(keys) = keys_of(&copied).filter(newer) {
                missing.remove(keys);
            }
        }
        self.missing = missing;
    }

    /// Tells what was found, and what a rebuild has to do about it.
    fn tell(&self, was_killed: bool, findings: &mut Findings) -> Option<Repair> {
        let in_log = self.in_log.unwrap_or(i64::MAX);
        // A start after a kill compares the last pair with the log, and copies again what it lacks.
        let is_torn = |offset: i64| was_killed && offset >= self.last_pair && offset >= in_log;
        let mut from = None;
        let mut add = |kind, offset: i64, position: u64| {
            let kind = if is_torn(offset) { Kind::CopyTorn } else { kind };
            findings.add(kind, || format!("{:?} at offset {offset}, position {position}", self.compacted));
            if kind != Kind::CopyTorn && offset >= in_log {
                from = Some(from.map_or(offset, |from: i64| from.min(offset)));
            }
        };
        self.damaged.iter().for_each(|(offset, position)| add(Kind::CopyRecord, *offset, *position));
        self.differing.iter().for_each(|(offset, position)| add(Kind::CopyDiffers, *offset, *position));
        let missing: BTreeSet<&(i64, u64)> = self.missing.values().collect();
        missing.into_iter().for_each(|(offset, position)| add(Kind::CopyMissing, *offset, *position));
        let mut entries = Vec::new();
        for (base, count, first) in &self.wrong {
            if was_killed && *first >= self.last_pair {
                findings.add_many(Kind::CopyTorn, *count, || format!("{:?} from offset {first}", self.compacted));
            } else {
                findings.add_many(Kind::CopyEntry, *count, || format!("{:?} from offset {first}", self.compacted));
                entries.push(*base);
            }
        }
        if self.is_cut_short {
            findings.add(Kind::NotChecked, || format!("{:?}: more keys than maxOffsetMapSize allows", self.compacted));
        }
        let (topic, id) = self.compacted.name();
        let (short, topic) = (self.short.clone(), topic.to_owned());
        (from.is_some() || !entries.is_empty() || !short.is_empty()).then_some(Repair {
            topic,
            id,
            short,
            entries,
            from,
        })
    }
}
