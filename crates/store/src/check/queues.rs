//! Consume queues against the log: every record that consumers should see has its entry, every entry its record.
//!
//! One pass, in log order. Each queue keeps a cursor, the offset its next record must have; the entries a record skips,
//! and those behind the last record, are looked at one by one, so each entry is read once. Memory is a small struct for
//! each queue and a bounded number of pieces of their files, whatever the number of messages.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::layout;
use super::pieces::Pieces;
use super::rebuild::Plan;
use super::report::{Findings, Kind};
use crate::file;
use crate::queue::{CqEntry, Kind as QueueKind, queues_of, topics_in};

/// Most queues, whether they have files or only records.
const MAX_QUEUES: usize = 4_000_000;

/// Something found at a queue, to be told when its end is known.
#[derive(Clone, Copy, Default)]
struct Tally {
    count: u64,
    /// The first: queue offset, position in the log, store timestamp.
    first: (i64, u64, i64),
}

impl Tally {
    fn add(&mut self, offset: i64, position: u64, timestamp: i64) {
        if self.count == 0 {
            self.first = (offset, position, timestamp);
        }
        self.count += 1;
    }
}

/// What a record says of its place in a queue.
pub(super) struct Expected {
    pub offset: i64,
    /// Offsets it takes, if its queue is a batch queue.
    pub messages: i16,
    pub position: u64,
    pub size: i32,
    /// `None` where the field holds something that other settings decide.
    pub tags_code: Option<i64>,
    pub timestamp: i64,
}

/// One queue.
struct State {
    topic: Arc<str>,
    id: u32,
    kind: QueueKind,
    /// Bytes of the queue that its files hold: first and behind the last.
    files: (u64, u64),
    /// Offset the next record should have; `None` before the first.
    next: Option<i64>,
    /// Index of the entry the next record should have; in a simple queue it is the offset.
    cursor: i64,
    /// Behind the last entry or record, once all is read.
    end: i64,
    wrong: Tally,
    missing: Tally,
    /// Missing ones with none behind them that is there.
    behind: Tally,
    stray: Tally,
    beyond: Tally,
    twice: Tally,
    gaps: Tally,
}

/// All queues of a store.
pub(super) struct Queues {
    root: PathBuf,
    /// Bytes of one file of each kind of queues.
    pub file_sizes: [u64; QueueKind::ALL.len()],
    /// Topics whose queues are batch queues.
    batch_topics: HashSet<String>,
    log_start: u64,
    states: Vec<State>,
    by_name: HashMap<Arc<str>, HashMap<u32, usize>>,
    pieces: Pieces,
    /// Whether entries may lead to `consumequeue_ext` instead of holding a hash.
    has_extension: bool,
    /// Records of queues beyond [`MAX_QUEUES`].
    left_out: u64,
}

impl Queues {
    /// Lists the files below `root`; `file_size` is that of the configuration, if one is known. `batch_topics` are those
    /// that `topics.json` names; others are known by their files.
    pub fn find(
        root: &Path,
        file_size: impl Fn(QueueKind) -> Option<u64>,
        mut batch_topics: HashSet<String>,
        log_start: u64,
        findings: &mut Findings,
    ) -> io::Result<Queues> {
        batch_topics.extend(topics_in(&root.join(QueueKind::Batch.folder()))?);
        let mut queues = Queues {
            root: root.to_owned(),
            file_sizes: [0; QueueKind::ALL.len()],
            batch_topics,
            log_start,
            states: Vec::new(),
            by_name: HashMap::new(),
            pieces: Pieces::default(),
            has_extension: root.join("consumequeue_ext").is_dir(),
            left_out: 0,
        };
        for kind in QueueKind::ALL {
            queues.find_files(kind, file_size(kind), findings)?;
        }
        Ok(queues)
    }

    /// Lists the files of one kind of queues.
    fn find_files(&mut self, kind: QueueKind, file_size: Option<u64>, findings: &mut Findings) -> io::Result<()> {
        let (mut all, dir) = (Vec::new(), self.root.join(kind.folder()));
        for topic in topics_in(&dir)?.into_iter().filter(|topic| self.kind_of(topic) == kind) {
            for id in queues_of(&dir.join(&topic))? {
                let mut files = Vec::new();
                for (start, path) in file::list(&dir.join(&topic).join(id.to_string()))? {
                    files.push((start, fs::metadata(&path)?.len()));
                }
                all.push((topic.clone(), id, files));
            }
        }
        let sizes = all.iter().flat_map(|(_, _, files)| files.iter().map(|(_, len)| *len).filter(|len| *len > 0));
        let file_size = file_size.unwrap_or_else(|| layout::size_of_most(sizes));
        self.file_sizes[kind as usize] = file_size;
        for (topic, id, mut files) in all {
            // Made before a kill, and never used.
            files.pop_if(|(_, len)| *len == 0);
            let first = files.first().map_or(0, |(start, _)| *start);
            let in_order = |(n, (start, len)): (usize, &(u64, u64))| {
                *len == file_size && *start == first + n as u64 * file_size && start.is_multiple_of(file_size)
            };
            let good = files.iter().enumerate().take_while(|file| in_order(*file)).count();
            if let Some((start, len)) = files.get(good) {
                let path = dir.join(&topic).join(id.to_string()).join(file::name(*start));
                findings.add(Kind::QueueFile, || {
                    format!("{}: {len} bytes, {file_size} expected, or a file before it is missing", path.display())
                });
            }
            let end = first + good as u64 * file_size;
            self.state_of(&topic, id, (first, end));
        }
        Ok(())
    }

    fn kind_of(&self, topic: &str) -> QueueKind {
        if self.batch_topics.contains(topic) { QueueKind::Batch } else { QueueKind::Simple }
    }

    fn state_of(&mut self, topic: &str, id: u32, files: (u64, u64)) -> Option<usize> {
        if let Some(n) = self.by_name.get(topic).and_then(|queues| queues.get(&id)) {
            return Some(*n);
        }
        if self.states.len() >= MAX_QUEUES {
            self.left_out += 1;
            return None;
        }
        let name =
            self.by_name.get_key_value(topic).map_or_else(|| Arc::<str>::from(topic), |(name, _)| Arc::clone(name));
        let n = self.states.len();
        self.by_name.entry(Arc::clone(&name)).or_default().insert(id, n);
        self.states.push(State::new(name, id, self.kind_of(topic), files));
        Some(n)
    }

    /// Whether a topic's queues have files.
    pub fn has_files(&self, topic: &str) -> bool {
        self.by_name.get(topic).is_some_and(|queues| queues.values().any(|n| self.states[*n].files.1 > 0))
    }

    /// A record of the log, in order.
    pub fn record(&mut self, topic: &str, id: u32, record: &Expected) {
        let Some(n) = self.state_of(topic, id, (0, 0)) else { return };
        let expected = self.states[n].next;
        if record.offset == 0 && expected.is_some_and(|next| next > 0) {
            // The topic was deleted and made again: what its first life left says nothing about the files of the second.
            self.states[n].restart();
        }
        if self.states[n].next.is_none() {
            self.skip_expired(n);
        }
        let state = &mut self.states[n];
        match state.next {
            Some(next) if record.offset < next => {
                state.twice.add(record.offset, record.position, record.timestamp);
                return;
            }
            Some(next) if record.offset > next => state.gaps.add(next, record.position, record.timestamp),
            _ => {}
        }
        if state.kind == QueueKind::Simple {
            let from = std::mem::replace(&mut state.cursor, record.offset);
            self.look_at_loose(n, from, record.offset);
        }
        self.match_entry(n, record);
        let state = &mut self.states[n];
        let messages = if state.kind == QueueKind::Batch { record.messages } else { 1 };
        state.next = Some(record.offset.saturating_add(i64::from(messages)));
        state.cursor = state.cursor.saturating_add(1);
    }

    /// The first record of a batch queue has the first entry that leads into the log.
    fn skip_expired(&mut self, n: usize) {
        let log_start = self.log_start;
        let is_expired = |entry: CqEntry| entry.size != 0 && (entry.physical_offset as u64) < log_start;
        while self.states[n].kind == QueueKind::Batch && self.entry(n, self.states[n].cursor).is_some_and(is_expired) {
            self.states[n].cursor += 1;
        }
    }

    fn match_entry(&mut self, n: usize, record: &Expected) {
        let entry = self.entry(n, self.states[n].cursor);
        let state = &mut self.states[n];
        let Some(entry) = entry.filter(|entry| entry.size != 0 && !entry.is_blank()) else {
            state.behind.add(record.offset, record.position, record.timestamp);
            return;
        };
        if state.behind.count > 0 {
            // There are entries behind those that are missing, so they were not just late.
            let behind = std::mem::take(&mut state.behind);
            let count = state.missing.count + behind.count;
            state.missing = Tally { count, ..if state.missing.count > 0 { state.missing } else { behind } };
        }
        let is_same = entry.physical_offset == record.position as i64
            && entry.size == record.size
            && entry.queue_offset == record.offset
            && (state.kind == QueueKind::Simple || entry.messages == record.messages)
            && record
                .tags_code
                .is_none_or(|code| code == entry.tags_code || (self.has_extension && is_ext_address(entry.tags_code)));
        if !is_same {
            state.wrong.add(record.offset, record.position, record.timestamp);
        }
    }

    /// Entries from `from` to `to` that no record claims.
    fn look_at_loose(&mut self, n: usize, from: i64, to: i64) {
        for offset in from..to.min(self.states[n].indices().end) {
            let Some(entry) = self.entry(n, offset) else { return };
            let position = entry.physical_offset as u64;
            if entry.size != 0 && !entry.is_blank() && (entry.physical_offset < 0 || position >= self.log_start) {
                self.states[n].stray.add(offset, position, 0);
            }
        }
    }

    /// The entry at `index`, if there is a file for it. What cannot be read counts as not there.
    fn entry(&mut self, n: usize, index: i64) -> Option<CqEntry> {
        let state = &self.states[n];
        if !state.indices().contains(&index) {
            return None;
        }
        let folder = || self.root.join(state.kind.folder()).join(&*state.topic).join(state.id.to_string());
        self.pieces.entry(n, index, (state.kind, self.file_sizes[state.kind as usize]), folder)
    }

    /// After the last record: entries behind the last ones, then all that was found.
    pub fn finish(&mut self, context: &Context<'_>, findings: &mut Findings) {
        for n in 0..self.states.len() {
            self.look_behind(n, context.log_end);
            self.states[n].tell(context, findings);
        }
        for path in self.pieces.unreadable.drain(..) {
            findings.add(Kind::QueueUnreadable, || path);
        }
        if self.left_out > 0 {
            findings.add_many(Kind::NotChecked, self.left_out, || {
                format!("records of queues beyond the first {MAX_QUEUES}")
            });
        }
    }

    fn look_behind(&mut self, n: usize, log_end: u64) {
        let state = &mut self.states[n];
        let (from, end) = (state.cursor, state.indices().end);
        state.end = state.next.unwrap_or(if state.kind == QueueKind::Simple { from } else { 0 });
        for index in from..end {
            let Some(entry) = self.entry(n, index).filter(|entry| entry.size != 0) else { return };
            let position = entry.physical_offset as u64;
            let state = &mut self.states[n];
            if entry.physical_offset >= 0 && position >= log_end {
                state.beyond.add(entry.queue_offset, position, 0);
                continue;
            }
            state.end = entry.end();
            if !entry.is_blank() && (entry.physical_offset < 0 || position >= self.log_start) {
                state.stray.add(entry.queue_offset, position, 0);
            }
        }
    }

    /// The offset behind a queue's last message; 0 if it has none.
    pub fn end(&self, topic: &str, id: u32) -> i64 {
        let n = self.by_name.get(topic).and_then(|queues| queues.get(&id));
        n.map_or(0, |n| self.states[*n].end)
    }

    /// What a rebuild has to do.
    pub fn plan(&self, is_topic: &dyn Fn(&str) -> bool) -> Plan {
        let with_records = self.states.iter().filter(|state| state.next.is_some());
        let folder = |state: &State| self.root.join(state.kind.folder()).join(&*state.topic).join(state.id.to_string());
        let queues = with_records.map(folder).collect();
        let deleted = self.topics().filter(|name| !is_topic(name) && !self.has_files(name)).cloned().collect();
        Plan { queues, deleted, batch_topics: self.batch_topics.clone(), ..Plan::default() }
    }

    /// Names of the topics.
    pub fn topics(&self) -> impl Iterator<Item = &Arc<str>> {
        self.by_name.keys()
    }

    /// Number of queues with files or records.
    pub fn count(&self) -> usize {
        self.states.len()
    }
}

/// What the whole store says about what was found at one queue.
pub(super) struct Context<'a> {
    pub log_end: u64,
    /// Whether the last broker did not stop in order.
    pub was_killed: bool,
    /// Whether a start reads the log from before a record, given its position and store timestamp.
    pub is_read_again: &'a dyn Fn(u64, i64) -> bool,
    /// Whether the broker knows a topic.
    pub is_topic: &'a dyn Fn(&str) -> bool,
}

impl State {
    fn new(topic: Arc<str>, id: u32, kind: QueueKind, files: (u64, u64)) -> State {
        let none = Tally::default;
        let cursor = (files.0 / kind.unit() as u64) as i64;
        let (wrong, missing, behind, stray) = (none(), none(), none(), none());
        let (beyond, twice, gaps) = (none(), none(), none());
        State { topic, id, kind, files, next: None, cursor, end: 0, wrong, missing, behind, stray, beyond, twice, gaps }
    }

    /// Forgets what was found so far.
    fn restart(&mut self) {
        *self = State::new(Arc::clone(&self.topic), self.id, self.kind, self.files);
    }

    /// Indices of the entries that files have.
    fn indices(&self) -> std::ops::Range<i64> {
        let index = |at: u64| (at / self.kind.unit() as u64) as i64;
        index(self.files.0)..index(self.files.1)
    }

    fn tell(&self, context: &Context<'_>, findings: &mut Findings) {
        let place = |(offset, position, _): (i64, u64, i64)| {
            format!("{}/{} from offset {offset}, commit log {position}", self.topic, self.id)
        };
        let mut add = |kind, tally: &Tally| {
            if tally.count > 0 {
                findings.add_many(kind, tally.count, || place(tally.first));
            }
        };
        let behind = match self.behind.first {
            _ if self.files.1 == 0 && !(context.is_topic)(&self.topic) => Kind::TopicUnknown,
            (_, position, timestamp) if context.was_killed && (context.is_read_again)(position, timestamp) => {
                Kind::QueuesBehind
            }
            _ => Kind::EntryMissing,
        };
        add(behind, &self.behind);
        add(Kind::EntryMissing, &self.missing);
        add(Kind::EntryWrong, &self.wrong);
        add(Kind::EntryStray, &self.stray);
        add(if context.was_killed { Kind::EntriesAhead } else { Kind::EntryBeyondEnd }, &self.beyond);
        add(Kind::OffsetTwice, &self.twice);
        add(Kind::OffsetGap, &self.gaps);
    }
}

/// Whether the field is an address in `consumequeue_ext` instead of a hash.
fn is_ext_address(tags_code: i64) -> bool {
    tags_code < i64::from(i32::MIN)
}
