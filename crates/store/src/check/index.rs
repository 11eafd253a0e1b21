//! The key index against the log: every key of a record has its entry, every entry its key, and the chains that queries
//! follow are whole.
//!
//! Entries stand in the order of the log, so both are read side by side, once. Chains are followed by building the slots of
//! one file again in memory (4 bytes each) and comparing them with those in the file.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::report::{Findings, Kind};
use crate::index::{ENTRY_BYTES, HEADER_BYTES, SLOT_BYTES, Shape, list};

/// Bytes read at once, a multiple of an entry and of a slot.
const PIECE: usize = 64 * 1024 / 20 * 20;

/// One entry.
#[derive(Clone, Copy, Debug)]
struct Entry {
    hash: u32,
    position: u64,
    seconds: u32,
    previous: u32,
}

fn int(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u32::from_be_bytes(*b))
}

fn long(bytes: &[u8], at: usize) -> i64 {
    bytes.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| i64::from_be_bytes(*b))
}

/// How often, and where in the log first.
#[derive(Clone, Copy, Default)]
struct Tally {
    count: u64,
    first: (u64, i64),
}

impl Tally {
    fn add(&mut self, position: u64, timestamp: i64) {
        if self.count == 0 {
            self.first = (position, timestamp);
        }
        self.count += 1;
    }
}

/// The file whose entries are being read.
struct Open {
    path: PathBuf,
    file: File,
    header: [u8; HEADER_BYTES as usize],
    /// Number of the next entry.
    next: u32,
    piece: Vec<u8>,
    /// Number of the first entry in `piece`.
    piece_first: u32,
    /// Newest entry of each slot, as the entries so far say.
    heads: Vec<u32>,
    slots_used: u32,
    first: Option<Entry>,
    last: Option<Entry>,
    /// Store timestamps of the records of both, as far as the log has them.
    begin: Option<i64>,
    end: Option<i64>,
}

impl Open {
    fn count(&self) -> u32 {
        int(&self.header, 36).max(1)
    }

    fn begin_timestamp(&self) -> i64 {
        long(&self.header, 0)
    }

    fn peek(&mut self, shape: Shape) -> io::Result<Option<Entry>> {
        if self.next >= self.count().min(shape.entries) {
            return Ok(None);
        }
        let mut at = (self.next - self.piece_first) as usize * ENTRY_BYTES as usize;
        if at >= self.piece.len() {
            let left = u64::from(shape.entries - self.next) * ENTRY_BYTES;
            self.piece.resize(PIECE.min(left as usize), 0);
            let from = HEADER_BYTES + u64::from(shape.slots) * SLOT_BYTES + u64::from(self.next) * ENTRY_BYTES;
            self.file.read_exact_at(&mut self.piece, from)?;
            self.piece_first = self.next;
            at = 0;
        }
        let unit = &self.piece[at..];
        let (hash, position) = (int(unit, 0), long(unit, 4) as u64);
        Ok(Some(Entry { hash, position, seconds: int(unit, 12), previous: int(unit, 16) }))
    }

    /// Takes the entry that was looked at into the chains; what is wrong with its own link.
    fn advance(&mut self, entry: Entry) -> Option<String> {
        let number = self.next;
        self.next += 1;
        self.first.get_or_insert(entry);
        self.last = Some(entry);
        self.end = None;
        let slot = entry.hash as usize % self.heads.len();
        let before = std::mem::replace(&mut self.heads[slot], number);
        self.slots_used += u32::from(before == 0);
        (entry.previous != before).then(|| {
            format!("{}: entry {number} links to entry {}, {before} is right", self.path.display(), entry.previous)
        })
    }

    /// Compares slots and header with the entries; `slack`: a kill may have come between entry, slot and count.
    fn compare(&self, slack: bool, findings: &mut Findings) -> io::Result<()> {
        let mut wrong = |what: String| findings.add(Kind::IndexFile, || format!("{}: {what}", self.path.display()));
        let mut piece = vec![0; PIECE];
        let mut slot = 0;
        while slot < self.heads.len() {
            let n = (self.heads.len() - slot).min(PIECE / SLOT_BYTES as usize);
            let bytes = &mut piece[..n * SLOT_BYTES as usize];
            self.file.read_exact_at(bytes, HEADER_BYTES + slot as u64 * SLOT_BYTES)?;
            let (units, _) = bytes.as_chunks::<4>();
            for (n, unit) in units.iter().enumerate() {
                let (there, right) = (u32::from_be_bytes(*unit), self.heads[slot + n]);
                if there != right && !(slack && there == self.next) {
                    wrong(format!("slot {} leads to entry {there}, {right} is right", slot + n));
                }
            }
            slot += n;
        }
        let used = int(&self.header, 32);
        if used.abs_diff(self.slots_used) > u32::from(slack) {
            wrong(format!("the header counts {used} slots in use, there are {}", self.slots_used));
        }
        if self.count() > self.next {
            wrong(format!("the header counts {} entries, there are {}", self.count() - 1, self.next - 1));
        }
        let mut unused = [0; ENTRY_BYTES as usize];
        self.file.read_exact_at(&mut unused, HEADER_BYTES + slot as u64 * SLOT_BYTES)?;
        if unused != [0; ENTRY_BYTES as usize] {
            wrong("entry 0, which means none, is not empty".to_owned());
        }
        if !slack && let Some((first, last)) = self.first.zip(self.last) {
            let header = |at| long(&self.header, at);
            for (name, there, right) in [("begins", header(16), first), ("ends", header(24), last)] {
                if there as u64 != right.position {
                    wrong(format!("the header {name} at {there} of the log, its entries at {}", right.position));
                }
            }
            if let Some(begin) = self.begin.filter(|begin| *begin != header(0)) {
                wrong(format!("the header begins at time {}, the first record is of {begin}", header(0)));
            }
            // After a power cut it is known from the last entry, to the second.
            if let Some(end) = self.end.filter(|end| end.abs_diff(header(8)) >= 1000) {
                wrong(format!("the header ends at time {}, the last record is of {end}", header(8)));
            }
        }
        Ok(())
    }
}

/// All index files of a store.
pub(super) struct IndexCheck {
    shape: Shape,
    log_start: u64,
    was_killed: bool,
    waiting: VecDeque<PathBuf>,
    open: Option<Open>,
    pub files: u64,
    pub entries: u64,
    /// Hashes of the entries of one record.
    found: Vec<u32>,
    missing: Tally,
    behind: Tally,
    wrong: Tally,
    ahead: Tally,
}

impl IndexCheck {
    /// Lists the files and looks at their sizes.
    pub fn find(
        dir: &Path,
        shape: Shape,
        log_start: u64,
        was_killed: bool,
        findings: &mut Findings,
    ) -> io::Result<IndexCheck> {
        let mut waiting = VecDeque::new();
        for (_, path) in list(dir)? {
            let len = std::fs::metadata(&path)?.len();
            if len == shape.bytes() {
                waiting.push_back(path);
                continue;
            }
            findings.add(Kind::IndexFile, || {
                let (slots, entries) = (shape.slots, shape.entries);
                format!("{}: {len} bytes are no file of maxHashSlotNum={slots} and maxIndexNum={entries}; -c names the file that has the right values", path.display())
            });
        }
        let (files, entries) = (waiting.len() as u64, 0);
        let (found, open) = (Vec::new(), None);
        let tally = Tally::default;
        let (missing, behind, wrong, ahead) = (tally(), tally(), tally(), tally());
        Ok(IndexCheck {
            shape,
            log_start,
            was_killed,
            waiting,
            open,
            files,
            entries,
            found,
            missing,
            behind,
            wrong,
            ahead,
        })
    }

    /// The next entry of the files, in order. A file the disk does not give ends there, and is told.
    fn peek(&mut self, findings: &mut Findings) -> Option<Entry> {
        loop {
            if self.open.is_none() {
                let path = self.waiting.pop_front()?;
                match self.begin(&path) {
                    Ok(open) => self.open = Some(open),
                    Err(error) => findings.add(Kind::IndexFile, || format!("{}: {error}", path.display())),
                }
                continue;
            }
            let shape = self.shape;
            let open = self.open.as_mut()?;
            let slack = self.was_killed && self.waiting.is_empty();
            let done = match open.peek(shape) {
                Ok(Some(entry)) => return Some(entry),
                Ok(None) => open.compare(slack, findings),
                Err(error) => Err(error),
            };
            if let Err(error) = done {
                findings.add(Kind::IndexFile, || format!("{}: {error}", open.path.display()));
            }
            self.open = None;
        }
    }

    fn begin(&self, path: &Path) -> io::Result<Open> {
        let file = File::open(path)?;
        let mut header = [0; HEADER_BYTES as usize];
        file.read_exact_at(&mut header, 0)?;
        let heads = vec![0; self.shape.slots as usize];
        let (piece, path) = (Vec::new(), path.to_owned());
        Ok(Open {
            path,
            file,
            header,
            next: 1,
            piece,
            piece_first: 1,
            heads,
            slots_used: 0,
            first: None,
            last: None,
            begin: None,
            end: None,
        })
    }

    fn advance(&mut self, entry: Entry, findings: &mut Findings) {
        self.entries += 1;
        if let Some(wrong) = self.open.as_mut().and_then(|open| open.advance(entry)) {
            findings.add(Kind::IndexFile, || wrong);
        }
    }

    /// A record of the log, in order, with the hashes of its keys, and `other`, one that the index may have too.
    pub fn record(
        &mut self,
        position: u64,
        timestamp: i64,
        hashes: &[u32],
        other: Option<u32>,
        findings: &mut Findings,
    ) {
        self.found.clear();
        while let Some(entry) = self.peek(findings).filter(|entry| entry.position <= position) {
            let number = self.open.as_ref().map_or(0, |open| open.next);
            let begin = self.open.as_ref().map_or(0, Open::begin_timestamp);
            self.advance(entry, findings);
            if entry.position < position {
                if entry.position >= self.log_start {
                    self.wrong.add(entry.position, timestamp);
                }
                continue;
            }
            if let Some(open) = &mut self.open {
                if number == 1 {
                    open.begin = Some(timestamp);
                }
                open.end = Some(timestamp);
            }
            // The first entry of a file counts from the end of the file before it, or from itself.
            let seconds = (timestamp.saturating_sub(begin) / 1000).clamp(0, i64::from(i32::MAX)) as u32;
            let is_known = hashes.contains(&entry.hash) || other == Some(entry.hash);
            if !is_known || (number > 1 && entry.seconds != seconds) {
                self.wrong.add(position, timestamp);
            }
            self.found.push(entry.hash);
        }
        let missing = hashes.iter().filter(|hash| !self.found.contains(hash)).count();
        for _ in 0..missing {
            let is_over = self.found.is_empty() && self.open.is_none() && self.waiting.is_empty();
            if is_over { self.behind.add(position, timestamp) } else { self.missing.add(position, timestamp) }
        }
    }

    /// After the last record. `is_read_again`: whether a start reads the log from before a position and time.
    pub fn finish(&mut self, log_end: u64, is_read_again: &dyn Fn(u64, i64) -> bool, findings: &mut Findings) {
        while let Some(entry) = self.peek(findings) {
            self.advance(entry, findings);
            if entry.position >= log_end {
                self.ahead.add(entry.position, 0);
            } else if entry.position >= self.log_start {
                self.wrong.add(entry.position, 0);
            }
        }
        let (position, timestamp) = self.behind.first;
        let behind = match self.was_killed && is_read_again(position, timestamp) {
            true => Kind::IndexBehind,
            false if self.files == 0 => Kind::NoIndex,
            false => Kind::IndexMissing,
        };
        let ahead = if self.was_killed { Kind::EntriesAhead } else { Kind::IndexWrong };
        let all = [
            (behind, self.behind),
            (Kind::IndexMissing, self.missing),
            (Kind::IndexWrong, self.wrong),
            (ahead, self.ahead),
        ];
        for (kind, tally) in all.into_iter().filter(|(_, tally)| tally.count > 0) {
            findings
                .add_many(kind, tally.count, || format!("keys of the record at {} of the log, first", tally.first.0));
        }
    }
}
