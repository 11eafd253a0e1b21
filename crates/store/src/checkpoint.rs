//! The checkpoint file: where recovery begins (RocketMQ 5.5 `StoreCheckpoint`, 4096 bytes).
//!
//! The first 40 bytes are RocketMQ's: timestamps of what is on the disk. At 512 stands a block of our own: the position
//! in the log up to which consume queues and index are built, once as written to the kernel and once as forced to the
//! disk, and the sum of all queue ends at that position, by which a missing queue is noticed. RocketMQ leaves those
//! bytes alone; the block holds a copy of the first 40, so that a Java broker that worked on the store in between
//! makes it void.
//!
//! What the kernel had is believed only after the death of the process alone: same boot, same mount, and no failure of
//! the disk before. At 1024 stands the position up to which the log is on the disk, noted after its syncs without one
//! of its own; the note is wiped when the disk fails.

use std::fs;
use std::io;
use std::path::Path;

use parking_lot::Mutex;
use rustix::fs::{AtFlags, StatxFlags, statx};

use crate::file::{DataFile, MaybeFaults};
use crate::index::IndexMark;
use crate::snapshot::Changed;

const FILE_BYTES: u64 = 4096;
const JAVA_BYTES: usize = 40;
const BLOCK_AT: usize = 512;
const BLOCK_BYTES: usize = 184;
const MAGIC: u32 = 0x464D_5143;
const NOTE_AT: usize = 1024;
const NOTE_BYTES: usize = 20;
const NOTE_MAGIC: u32 = 0x464D_514E;
const VERSION: u32 = 2;

/// RocketMQ's part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Times {
    /// Store timestamp of the last record on the disk, milliseconds since 1970.
    pub physic: i64,
    /// The same of the last consume queue entry on the disk.
    pub logics: i64,
    /// The same of the index.
    pub index: i64,
    pub master_flushed_offset: i64,
    pub confirm_physical_offset: i64,
}

impl Times {
    /// From where RocketMQ recovers, milliseconds since 1970.
    pub fn recover_from(&self) -> i64 {
        (self.physic.min(self.logics) - 3000).max(0)
    }

    fn encode(&self) -> [u8; JAVA_BYTES] {
        let mut bytes = [0; JAVA_BYTES];
        let fields = [self.physic, self.logics, self.index, self.master_flushed_offset, self.confirm_physical_offset];
        for (to, field) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(fields) {
            *to = field.to_be_bytes();
        }
        bytes
    }
}

/// How far the derived files are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Built {
    /// Position in the log.
    pub position: u64,
    /// Sum of the ends of all queues at that position.
    pub entries: i64,
    pub index: IndexMark,
    /// Store timestamp of the last record before it, milliseconds since 1970.
    pub timestamp: i64,
}

impl Built {
    /// Adds the 36 bytes that stand for it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.position.to_be_bytes());
        out.extend_from_slice(&self.entries.to_be_bytes());
        out.extend_from_slice(&self.index.file.to_be_bytes());
        out.extend_from_slice(&self.index.count.to_be_bytes());
        out.extend_from_slice(&self.timestamp.to_be_bytes());
    }
}

/// A boot of the machine and a mount of the volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Uptime {
    boot: [u8; 36],
    mount: u64,
}

impl Uptime {
    fn now(root: &Path) -> Uptime {
        let mut boot = [0; 36];
        if let Ok(id) = fs::read("/proc/sys/kernel/random/boot_id")
            && let Some(id) = id.first_chunk()
        {
            boot = *id;
        }
        let mount = statx(rustix::fs::CWD, root, AtFlags::empty(), StatxFlags::MNT_ID).map_or(0, |s| s.stx_mnt_id);
        Uptime { boot, mount }
    }

    /// Whether the kernel still has what was written then.
    fn is_same(&self, other: &Uptime) -> bool {
        self == other && self.boot != [0; 36] && self.mount != 0
    }

    /// Reads the file's content; what the kernel had counts only if this is still the same kernel.
    fn decode(&self, bytes: &[u8; FILE_BYTES as usize]) -> Loaded {
        let (java, block) = (&bytes[..JAVA_BYTES], &bytes[BLOCK_AT..BLOCK_AT + BLOCK_BYTES]);
        let mut reader = Reader(java);
        let times = Times {
            physic: reader.long(),
            logics: reader.long(),
            index: reader.long(),
            master_flushed_offset: reader.long(),
            confirm_physical_offset: reader.long(),
        };
        let (content, crc) = block.split_at(BLOCK_BYTES - 4);
        let mut reader = Reader(content);
        let head = (reader.int(), reader.int());
        if head != (MAGIC, VERSION) || crc32fast::hash(content).to_be_bytes() != crc || reader.bytes::<40>() != java {
            return Loaded { times, same_boot: true, ..Loaded::default() };
        }
        let durable = reader.built();
        let written = reader.built();
        let uptime = Uptime { boot: reader.bytes(), mount: reader.long() as u64 };
        let snapshot = reader.long();
        let note = bytes.get(NOTE_AT..).and_then(|rest| rest.first_chunk()).and_then(decode_note);
        let same_boot = uptime.is_same(self);
        let trusted = same_boot && note.is_some();
        let built = Some(if trusted { written } else { durable });
        Loaded { times, built, durable: Some(durable), snapshot, flushed: note, trusted, same_boot }
    }
}

/// What was read at the start.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Loaded {
    pub times: Times,
    /// How far the derived files are known to be complete, if anything is known.
    pub built: Option<Built>,
    /// How far they, and the log, are known to be on the disk.
    pub durable: Option<Built>,
    /// When the snapshot of the queues was taken that still holds, 0 for none.
    pub snapshot: Changed,
    /// Position up to which the log was on the disk, and perhaps further.
    pub flushed: Option<u64>,
    /// Whether all is as the last process left it: it died, but neither machine nor disk did.
    pub trusted: bool,
    /// Whether the machine did not restart since: the kernel may hold what the disk does not.
    pub same_boot: bool,
}

/// The open file.
pub(crate) struct Checkpoint {
    file: DataFile,
    uptime: Uptime,
    /// The disk has failed: nothing is noted any more.
    is_wiped: Mutex<bool>,
}

impl Checkpoint {
    /// Opens or makes the file. A file that cannot be read is as good as none. A new one has its block from the start, so
    /// that a checkpoint can be written on a full volume: without one no log file may go to make room.
    pub fn open(root: &Path, faults: MaybeFaults<'_>) -> io::Result<(Checkpoint, Loaded)> {
        let path = root.join("checkpoint");
        let uptime = Uptime::now(root);
        let file = match DataFile::open(&path, faults) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let file = DataFile::create_sparse(&path, FILE_BYTES, faults)?;
                file.write_at(&[0; FILE_BYTES as usize], 0)?;
                let loaded = Loaded { same_boot: true, ..Loaded::default() };
                return Ok((Checkpoint { file, uptime, is_wiped: Mutex::new(false) }, loaded));
            }
            other => other?,
        };
        if file.len()? != FILE_BYTES {
            tracing::warn!(path = %path.display(), "the checkpoint file has a wrong size; recovery goes without it");
            file.resize(FILE_BYTES)?;
        }
        let mut bytes = [0; FILE_BYTES as usize];
        file.read_at(&mut bytes, 0)?;
        let loaded = uptime.decode(&bytes);
        Ok((Checkpoint { file, uptime, is_wiped: Mutex::new(false) }, loaded))
    }

    /// What the file says, for those who only look; `None` if there is none of the right size.
    pub fn peek(root: &Path) -> io::Result<Option<Loaded>> {
        match fs::read(root.join("checkpoint")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            other => Ok(other?.as_array().map(|bytes| Uptime::now(root).decode(bytes))),
        }
    }

    /// Notes that the log is on the disk up to `position`. Lost with the power, at worst.
    pub fn note_flushed(&self, position: u64) -> io::Result<()> {
        let is_wiped = self.is_wiped.lock();
        if *is_wiped {
            return Ok(());
        }
        let mut note = [0; NOTE_BYTES];
        note[..4].copy_from_slice(&NOTE_MAGIC.to_be_bytes());
        note[8..16].copy_from_slice(&position.to_be_bytes());
        let crc = crc32fast::hash(&note[..NOTE_BYTES - 4]);
        note[NOTE_BYTES - 4..].copy_from_slice(&crc.to_be_bytes());
        self.file.write_at(&note, NOTE_AT as u64)
    }

    /// The disk has failed: the next start must not trust what the kernel shows.
    pub fn wipe_note(&self) -> io::Result<()> {
        let mut is_wiped = self.is_wiped.lock();
        *is_wiped = true;
        self.file.write_at(&[0; NOTE_BYTES], NOTE_AT as u64)
    }

    /// Writes both parts. `snapshot`: when the one was taken that holds, or 0.
    pub fn write(&self, times: &Times, durable: &Built, written: &Built, snapshot: Changed) -> io::Result<()> {
        let mut bytes = [0; BLOCK_AT + BLOCK_BYTES];
        let java = times.encode();
        bytes[..JAVA_BYTES].copy_from_slice(&java);
        let mut block = Vec::with_capacity(BLOCK_BYTES);
        block.extend_from_slice(&MAGIC.to_be_bytes());
        block.extend_from_slice(&VERSION.to_be_bytes());
        block.extend_from_slice(&java);
        for built in [durable, written] {
            built.encode(&mut block);
        }
        block.extend_from_slice(&self.uptime.boot);
        block.extend_from_slice(&self.uptime.mount.to_be_bytes());
        block.extend_from_slice(&snapshot.to_be_bytes());
        block.resize(BLOCK_BYTES - 4, 0);
        block.extend_from_slice(&crc32fast::hash(&block).to_be_bytes());
        bytes[BLOCK_AT..].copy_from_slice(&block);
        self.file.write_at(&bytes, 0)
    }

    /// Forces what was written to the disk.
    pub fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }
}

/// The position of a note.
fn decode_note(note: &[u8; NOTE_BYTES]) -> Option<u64> {
    let (content, crc) = note.split_at(NOTE_BYTES - 4);
    let mut reader = Reader(content);
    let (magic, _) = (reader.int(), reader.int());
    (magic == NOTE_MAGIC && crc32fast::hash(content).to_be_bytes() == crc).then(|| reader.long() as u64)
}

/// Takes fields off the front; beyond the end everything is zero.
pub(crate) struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let (head, rest) = self.0.split_at_checked(N).unwrap_or((&[], &[]));
        self.0 = rest;
        head.try_into().unwrap_or([0; N])
    }

    /// The next `len` bytes, if there are so many.
    pub fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    pub fn int(&mut self) -> u32 {
        u32::from_be_bytes(self.bytes())
    }

    pub fn long(&mut self) -> i64 {
        i64::from_be_bytes(self.bytes())
    }

    pub fn built(&mut self) -> Built {
        let (position, entries) = (self.long() as u64, self.long());
        let index = IndexMark { file: self.long() as u64, count: self.int() };
        Built { position, entries, index, timestamp: self.long() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built(position: u64) -> Built {
        Built { position, entries: 5, index: IndexMark { file: 20_240_101_000_000_000, count: 9 }, timestamp: 7 }
    }

    #[test]
    fn what_was_written_is_read_and_a_java_broker_in_between_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let (checkpoint, loaded) = Checkpoint::open(dir.path(), None).unwrap();
        assert!(loaded.built.is_none());
        let times = Times { physic: 10_000, logics: 9000, ..Times::default() };
        checkpoint.write(&times, &built(100), &built(200), 0).unwrap();
        checkpoint.note_flushed(150).unwrap();
        let (_, loaded) = Checkpoint::open(dir.path(), None).unwrap();
        assert_eq!((loaded.times, loaded.times.recover_from()), (times, 6000));
        assert_eq!((loaded.built, loaded.trusted, loaded.flushed), (Some(built(200)), true, Some(150)));

        let path = dir.path().join("checkpoint");
        let mut bytes = fs::read(&path).unwrap();
        assert_eq!(bytes.len(), 4096);
        bytes[7] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let (_, loaded) = Checkpoint::open(dir.path(), None).unwrap();
        assert!(loaded.built.is_none() && loaded.times.physic == 10_001);
    }

    #[test]
    fn another_boot_counts_only_what_was_forced_to_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let (mut checkpoint, _) = Checkpoint::open(dir.path(), None).unwrap();
        checkpoint.uptime.boot = [b'x'; 36];
        checkpoint.write(&Times::default(), &built(100), &built(200), 0).unwrap();
        let (_, loaded) = Checkpoint::open(dir.path(), None).unwrap();
        assert_eq!((loaded.built, loaded.trusted), (Some(built(100)), false));
    }

    #[test]
    fn after_the_disk_failed_the_kernel_is_not_trusted() {
        let dir = tempfile::tempdir().unwrap();
        let (checkpoint, _) = Checkpoint::open(dir.path(), None).unwrap();
        checkpoint.write(&Times::default(), &built(100), &built(200), 0).unwrap();
        checkpoint.note_flushed(150).unwrap();
        checkpoint.wipe_note().unwrap();
        checkpoint.note_flushed(170).unwrap();
        let (_, loaded) = Checkpoint::open(dir.path(), None).unwrap();
        assert_eq!((loaded.built, loaded.trusted, loaded.flushed), (Some(built(100)), false, None));
        assert!(loaded.same_boot);
    }
}
