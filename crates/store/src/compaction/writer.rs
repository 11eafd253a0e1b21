//! Writing a pair of files: records and their entries gather in memory and go to both files in pieces. The last bytes of a
//! full pair say that it goes on in the next (RocketMQ 5.5 `CompactionLog.CompactionAppendMessageCallback`).

use std::io;
use std::path::Path;

use ferromq_protocol::record::{self, BLANK_BYTES, Record};

use super::UNIT;
use crate::append;
use crate::file::{self, DataFile, MaybeFaults};
use crate::labels::Labels;
use crate::queue::{CqEntry, Kind};

/// Bytes of records that gather before they are written.
const GATHERED: usize = 1 << 20;

/// The entry behind the last one of a full pair.
const END: CqEntry =
    CqEntry { queue_offset: 0, messages: 0, physical_offset: -1, size: 0, tags_code: 0, store_timestamp: 0 };

/// A pair that is written.
pub(super) struct Writer {
    pub base: u64,
    log: DataFile,
    queue: DataFile,
    log_size: u64,
    queue_size: u64,
    /// Bytes that are written.
    log_end: u64,
    queue_end: u64,
    records: Vec<u8>,
    entries: Vec<u8>,
}

impl Writer {
    /// A new pair in these folders, which are made durable with its names.
    pub fn create(
        folders: [&Path; 2],
        base: u64,
        [log_size, queue_size]: [u64; 2],
        faults: MaybeFaults<'_>,
    ) -> io::Result<Writer> {
        let [log, queue] = folders;
        folders.iter().try_for_each(|folder| file::create_dir_durable(folder, faults))?;
        // An attempt before may have left one of them.
        folders.iter().try_for_each(|folder| file::remove(&folder.join(file::name(base)), faults))?;
        let log = DataFile::create_sparse(&log.join(file::name(base)), log_size, faults)?;
        let queue = DataFile::create_sparse(&queue.join(file::name(base)), queue_size, faults)?;
        folders.iter().try_for_each(|folder| file::sync_dir(folder, faults))?;
        Ok(Writer::new(base, log, queue, [log_size, queue_size], [0; 2]))
    }

    /// Goes on with a pair that has so many entries, the last of which ends there in the file.
    pub fn open(
        paths: [&Path; 2],
        base: u64,
        count: usize,
        log_end: u64,
        faults: MaybeFaults<'_>,
    ) -> io::Result<Writer> {
        let (log, queue) = (DataFile::open(paths[0], faults)?, DataFile::open(paths[1], faults)?);
        let sizes = [log.len()?, queue.len()?];
        Ok(Writer::new(base, log, queue, sizes, [log_end, (count * UNIT) as u64]))
    }

    fn new(base: u64, log: DataFile, queue: DataFile, sizes: [u64; 2], ends: [u64; 2]) -> Writer {
        let ([log_size, queue_size], [log_end, queue_end]) = (sizes, ends);
        let (records, entries) = Default::default();
        Writer { base, log, queue, log_size, queue_size, log_end, queue_end, records, entries }
    }

    /// Position behind the pair's last byte.
    pub fn end_of_files(&self) -> u64 {
        self.base + self.log_size
    }

    /// Whether a record of `len` bytes fits, as RocketMQ decides it.
    pub fn has_room(&self, len: usize) -> bool {
        let (log_end, queue_end) =
            (self.log_end + self.records.len() as u64, self.queue_end + self.entries.len() as u64);
        queue_end + (UNIT as u64) < self.queue_size && log_end + (len + BLANK_BYTES) as u64 <= self.log_size
    }

    /// Adds a record for which there is room.
    pub fn add(&mut self, record: &Record<'_>) -> io::Result<()> {
        let largest = self.log_size.saturating_sub(BLANK_BYTES as u64);
        if record.bytes().len() as u64 > largest {
            let why = format!(
                "a record of {} bytes has no room in a file of records: compactionMappedFileSize is too small for maxMessageSize",
                record.bytes().len()
            );
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, why));
        }
        let position = self.base + self.log_end + self.records.len() as u64;
        let at = self.records.len();
        self.records.extend_from_slice(record.bytes());
        // It is as it was, in another place.
        record::patch(&mut self.records[at..], record.queue_offset(), position, record.store_timestamp());
        entry_of(record, position).encode(Kind::Batch, &mut self.entries);
        if self.records.len() >= GATHERED { self.write() } else { Ok(()) }
    }

    /// Writes what has gathered. After an error nobody knows what is written: the writer is of no use any more.
    pub fn write(&mut self) -> io::Result<()> {
        if self.records.is_empty() {
            return Ok(());
        }
        self.log.write_sparse_at(&self.records, self.log_end)?;
        self.queue.write_sparse_at(&self.entries, self.queue_end)?;
        self.log_end += self.records.len() as u64;
        self.queue_end += self.entries.len() as u64;
        self.records.clear();
        self.entries.clear();
        Ok(())
    }

    /// Entries that are written.
    pub fn count(&self) -> usize {
        (self.queue_end / UNIT as u64) as usize
    }

    /// Forces what was written to the disk, records first: an entry never leads to what a power cut took.
    /// What a failed sync has lost nobody knows: its error is none that passes.
    pub fn sync(&self) -> io::Result<()> {
        self.log.sync().and_then(|()| self.queue.sync()).map_err(unsynced)
    }

    /// Says in both files that they are full, and forces them to the disk.
    pub fn seal(&mut self) -> io::Result<()> {
        self.write()?;
        let left = self.log_size - self.log_end;
        if left >= BLANK_BYTES as u64 {
            let left = u32::try_from(left).unwrap_or(u32::MAX);
            self.log.write_sparse_at(&record::blank(left), self.log_end)?;
        }
        if self.queue_end + UNIT as u64 <= self.queue_size {
            let mut end = Vec::with_capacity(UNIT);
            END.encode(Kind::Batch, &mut end);
            self.queue.write_sparse_at(&end, self.queue_end)?;
        }
        self.sync()
    }
}

/// The error of a sync, which is final whatever it was: the kernel reports it once and takes the pages for written.
pub(super) fn unsynced(error: io::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the disk refused a sync: {error}"))
}

/// The entry of a record that stands at `position`.
pub(crate) fn entry_of(record: &Record<'_>, position: u64) -> CqEntry {
    CqEntry {
        queue_offset: record.queue_offset(),
        messages: 1,
        physical_offset: position as i64,
        size: record.bytes().len() as i32,
        tags_code: append::tags_code(Labels::of(record.properties()).tags),
        store_timestamp: record.store_timestamp(),
    }
}
