//! Reads a log from its first byte to its last record, in pieces, and tells what stands where.
//!
//! Plain reads and no mappings: a disk that fails gives an error with a place instead of killing the process, and memory
//! stays at a few megabytes whatever the log's size. Where recovery would end the log, the check looks on: sound records
//! behind a damaged place must be known before a start cuts them off. Knows nothing of queues or index.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use ferromq_protocol::record::{self, Damage, Entry, Record};

use super::layout::LogFiles;
use crate::ahead::{Ahead, ask, ask_no_more};
use crate::damage::fault;

/// Bytes read at once.
const PIECE: usize = 4 << 20;
/// What a disk that fails is asked for at once, to lose as little as possible.
const SECTOR: u64 = 4096;
/// Smallest piece that shows whether a record begins there.
const HEAD: usize = 100;
/// Largest record that is believed, bytes: the largest `maxMessageSize` there can be, and room for the rest.
const MAX_RECORD: usize = (64 << 20) + (128 << 10);

/// What stands in the log.
pub(super) enum Event<'a> {
    Record(Record<'a>),
    /// Bytes that are no record, with sound records or files behind them.
    Damage {
        path: &'a Path,
        position: u64,
        bytes: u64,
        why: String,
    },
    /// As damage, but in the last file, where a broker takes the log to end.
    EndForBrokers {
        position: u64,
    },
    /// The disk refused.
    Unreadable {
        path: &'a Path,
        position: u64,
        error: io::Error,
    },
    /// The end; `bytes` of something follow that is no record.
    End {
        position: u64,
        bytes: u64,
    },
    /// So many bytes are done.
    Progress {
        position: u64,
    },
}

/// Reads the log. `certain` is a position before which it cannot end.
pub(super) fn scan(log: &LogFiles, certain: u64, on: &mut dyn FnMut(Event<'_>)) -> io::Result<()> {
    let last_begun = log.files.iter().rev().find(|(start, path)| begins(path, *start)).map_or(0, |(start, _)| *start);
    let certain = certain.max(last_begun);
    let mut end = log.start();
    let mut timestamp = 0;
    for (start, path) in &log.files {
        let mut reader = Reader::open(path, *start, log.file_size)?;
        let ended = reader.scan_file(certain, &mut timestamp, on)?;
        end = ended.unwrap_or(*start + log.file_size);
        if ended.is_some() {
            on(Event::End { position: end, bytes: reader.written_behind(end)? });
            return Ok(());
        }
    }
    on(Event::End { position: end, bytes: 0 });
    Ok(())
}

static ZEROS: [u8; 4096] = [0; 4096];

/// Whether nothing was written. A file is allocated in full, so most of the last one is like this.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(ZEROS.len()).all(|chunk| chunk == &ZEROS[..chunk.len()])
}

/// Whether a file's first record says that it stands there.
fn begins(path: &Path, start: u64) -> bool {
    let mut head = [0; HEAD];
    let read = File::open(path).and_then(|file| file.read_exact_at(&mut head, 0));
    read.is_ok() && record::glance(&head).is_some_and(|glance| glance.physical_offset == start as i64)
}

/// One file, read in pieces.
struct Reader {
    file: File,
    path: PathBuf,
    start: u64,
    size: u64,
    /// Bytes of the file from `piece_at` on.
    piece: Vec<u8>,
    piece_at: u64,
    /// `None` when the log may have ended: what was never written need not be read.
    ahead: Option<Ahead>,
}

impl Reader {
    fn open(path: &Path, start: u64, size: u64) -> io::Result<Reader> {
        let (file, path) = (File::open(path)?, path.to_owned());
        Ok(Reader { file, path, start, size, piece: Vec::new(), piece_at: 0, ahead: Some(Ahead::new(0)) })
    }

    fn end(&self) -> u64 {
        self.start + self.size
    }

    /// At least `wanted` bytes at `position`, fewer only at the file's end.
    fn at(&mut self, position: u64, wanted: usize) -> io::Result<&[u8]> {
        let at = position - self.start;
        let left = (self.size - at) as usize;
        let skip = at.checked_sub(self.piece_at).map_or(usize::MAX, |skip| skip as usize);
        if self.piece.len().saturating_sub(skip) < wanted.min(left) {
            self.piece.resize(wanted.max(PIECE).min(left), 0);
            self.piece_at = at;
            let (file, size) = (&self.file, self.size);
            if let Some(ahead) = &mut self.ahead {
                ahead.reached(at, |from, len| {
                    ask(file, from, len);
                    Some(from + len).filter(|_| from < size)
                });
            }
            if let Err(error) = self.file.read_exact_at(&mut self.piece, at) {
                self.piece.clear();
                return Err(error);
            }
            return Ok(&self.piece);
        }
        Ok(self.piece.get(skip..).unwrap_or_default())
    }

    /// Reads the file; where the log ends, if it does here.
    fn scan_file(
        &mut self,
        certain: u64,
        timestamp: &mut i64,
        on: &mut dyn FnMut(Event<'_>),
    ) -> io::Result<Option<u64>> {
        let (mut position, end) = (self.start, self.end());
        let mut told = position;
        while position < end {
            if position - told >= PIECE as u64 {
                told = position;
                on(Event::Progress { position });
            }
            match self.step(position, timestamp, on) {
                Ok(Step::Next(next)) => position = next,
                Ok(Step::Broken(why)) => {
                    self.ahead = None;
                    ask_no_more(&self.file);
                    let found = self.next_sound(position + 1)?;
                    let Some((next, _)) = found.filter(|(_, time)| position < certain || *time >= *timestamp) else {
                        if position >= certain {
                            return Ok(Some(position));
                        }
                        on(Event::Damage { path: &self.path, position, bytes: end - position, why });
                        break;
                    };
                    if position >= certain {
                        on(Event::EndForBrokers { position });
                    }
                    on(Event::Damage { path: &self.path, position, bytes: next - position, why });
                    position = next;
                }
                Err(error) => {
                    on(Event::Unreadable { path: &self.path, position, error });
                    let behind = (position / SECTOR + 1) * SECTOR;
                    position = self.next_sound(behind.min(end))?.map_or(end, |(next, _)| next);
                }
            }
        }
        on(Event::Progress { position: end });
        Ok(None)
    }

    /// Looks at what stands at `position`.
    fn step(&mut self, position: u64, timestamp: &mut i64, on: &mut dyn FnMut(Event<'_>)) -> io::Result<Step> {
        let end = self.end();
        let mut bytes = self.at(position, HEAD)?;
        if matches!(record::read(bytes), Entry::Invalid(Damage::Truncated)) {
            // The record may go on behind this piece, up to the end of the file.
            let total = record::glance(bytes).map_or(0, |glance| glance.total_size as usize);
            if total > MAX_RECORD {
                return Ok(Step::Broken(format!("the record claims to have {total} bytes")));
            }
            bytes = self.at(position, total + 8)?;
        }
        Ok(match record::read(bytes) {
            Entry::Record(record) => {
                let len = record.bytes().len();
                match fault(&record, position, bytes.get(len..).unwrap_or_default(), true) {
                    None => {
                        *timestamp = record.store_timestamp();
                        on(Event::Record(record));
                        Step::Next(position + len as u64)
                    }
                    Some(why) => Step::Broken(why),
                }
            }
            Entry::Blank => Step::Next(end),
            Entry::Invalid(damage) => Step::Broken(damage.to_string()),
        })
    }

    /// Position and store timestamp of the first sound record at or behind `from`. What the disk does not give is passed
    /// over.
    fn next_sound(&mut self, from: u64) -> io::Result<Option<(u64, i64)>> {
        let (mut position, end) = (from, self.end());
        while position < end {
            position = self.next_data(position)?.min(end);
            if position == end {
                break;
            }
            let Ok(bytes) = self.at(position, PIECE) else {
                position = (position / SECTOR + 1) * SECTOR;
                continue;
            };
            let len = bytes.len();
            let is_magic = |at: &usize| bytes.get(at + 4..at + 6) == Some(&[0xDA, 0xA3]);
            let candidates: Vec<usize> = match is_zero(bytes) {
                true => Vec::new(),
                false => (0..len).filter(is_magic).collect(),
            };
            for at in candidates {
                if let Some(time) = self.sound_at(position + at as u64) {
                    return Ok(Some((position + at as u64, time)));
                }
            }
            // A record's head may stand across two pieces.
            position += if len > HEAD { (len - HEAD) as u64 } else { len as u64 };
        }
        Ok(None)
    }

    fn sound_at(&mut self, position: u64) -> Option<i64> {
        let glance = record::glance(self.at(position, HEAD).ok()?)?;
        let total = glance.total_size as usize;
        if glance.physical_offset as u64 != position || total as u64 > self.end() - position || total > MAX_RECORD {
            return None;
        }
        let bytes = self.at(position, total + 8).ok()?;
        let Entry::Record(record) = record::read(bytes) else { return None };
        let next = bytes.get(record.bytes().len()..).unwrap_or_default();
        fault(&record, position, next, true).is_none().then_some(record.store_timestamp())
    }

    /// The first position at or behind `position` whose block is allocated, as far as the file system tells.
    fn next_data(&self, position: u64) -> io::Result<u64> {
        use rustix::io::Errno;
        match rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Data(position - self.start)) {
            Ok(data) => Ok(self.start + data),
            Err(Errno::NXIO) => Ok(self.end()),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(position),
            Err(error) => Err(error.into()),
        }
    }

    /// Bytes from `position` to the last one that is not zero.
    fn written_behind(&mut self, position: u64) -> io::Result<u64> {
        let (mut at, mut last) = (position, position);
        while at < self.end() {
            at = self.next_data(at)?;
            if at >= self.end() {
                break;
            }
            let Ok(bytes) = self.at(at, PIECE) else {
                at = (at / SECTOR + 1) * SECTOR;
                continue;
            };
            let mut chunks = bytes.chunks(ZEROS.len()).enumerate();
            if let Some((n, chunk)) = chunks.rfind(|(_, chunk)| !is_zero(chunk)) {
                let found = chunk.iter().rposition(|byte| *byte != 0).map_or(0, |found| found + 1);
                last = at + (n * ZEROS.len() + found) as u64;
            }
            at += bytes.len() as u64;
        }
        Ok(last - position)
    }
}

/// What to do after a look at a position.
enum Step {
    Next(u64),
    Broken(String),
}
