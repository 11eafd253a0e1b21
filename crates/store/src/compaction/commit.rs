//! Putting new pairs in the place of old ones, all or none, whatever moment the power goes.
//!
//! A pass writes its pairs into folders of their own (`compacting`, as RocketMQ does) and forces them to the disk. Then a
//! note there says which they are and which old ones they replace: from that moment on they count, and whoever finds the
//! note moves them up, removes the old ones, and takes the note away last. Without a whole note the folders hold the
//! half of a pass, which never was. RocketMQ has no such note; it finds the folders gone.

use std::io;
use std::path::{Path, PathBuf};

use super::COMPACTING;
use super::writer::unsynced;
use crate::file::{self, DataFile, MaybeFaults};

/// Name of the note, in the folder of new files of records.
const NOTE: &str = "commit";
/// `FMQP` and the version.
const MAGIC: [u8; 8] = *b"FMQP\0\0\0\x01";
/// Most pairs a note names.
const MAX_PAIRS: usize = 1 << 20;

/// What a pass puts in place.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Commit {
    /// Pairs that begin before it are replaced.
    pub boundary: u64,
    /// Where the new pairs begin.
    pub bases: Vec<u64>,
}

impl Commit {
    /// Notes durably that the new pairs count from now on. They must be on the disk.
    pub fn note(&self, log: &Path, faults: MaybeFaults<'_>) -> io::Result<()> {
        let folder = log.join(COMPACTING);
        let note = DataFile::create_sparse(&folder.join(NOTE), 0, faults)?;
        note.write_at(&self.encode(), 0)?;
        note.sync().map_err(unsynced)?;
        file::sync_dir(&folder, faults)
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&self.boundary.to_be_bytes());
        self.bases.iter().for_each(|base| bytes.extend_from_slice(&base.to_be_bytes()));
        bytes.extend_from_slice(&crc32fast::hash(&bytes).to_be_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Commit> {
        let (content, crc) = bytes.split_last_chunk::<4>()?;
        if crc32fast::hash(content).to_be_bytes() != *crc || content.len() > MAX_PAIRS * 8 {
            return None;
        }
        let (numbers, rest) = content.strip_prefix(&MAGIC)?.as_chunks::<8>();
        let (boundary, bases) = numbers.split_first().filter(|_| rest.is_empty())?;
        let bases = bases.iter().map(|base| u64::from_be_bytes(*base)).collect();
        Some(Commit { boundary: u64::from_be_bytes(*boundary), bases })
    }

    fn find(log: &Path) -> io::Result<Option<Commit>> {
        match std::fs::read(log.join(COMPACTING).join(NOTE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            other => Ok(Commit::decode(&other?)),
        }
    }
}

/// Whether a pass counts whose files are not all in their places. `log`: folder of a queue's files of records.
pub(crate) fn is_pass_to_complete(log: &Path) -> io::Result<bool> {
    Ok(Commit::find(log)?.is_some())
}

/// Does what is left to do of the last pass, `log` and `queue` being the folders of a queue's pairs: completes it if it
/// counts, else removes what there is of it.
pub(super) fn settle(log: &Path, queue: &Path, faults: MaybeFaults<'_>) -> io::Result<()> {
    let folders = [log, queue];
    let new: [PathBuf; 2] = folders.map(|folder| folder.join(COMPACTING));
    if let Some(commit) = Commit::find(log)? {
        for folder in folders {
            move_up(folder, &commit, faults)?;
        }
        // The note goes when all that it asks for is on the disk.
        for folder in folders {
            file::sync_dir(folder, faults)?;
        }
        file::remove(&new[0].join(NOTE), faults)?;
        file::sync_dir(&new[0], faults)?;
    }
    for folder in new.iter().filter(|folder| folder.exists()) {
        file::remove_dir_durable(folder, faults)?;
    }
    Ok(())
}

/// Moves one folder's new files into the place of its old ones. Again: does what is left.
fn move_up(folder: &Path, commit: &Commit, faults: MaybeFaults<'_>) -> io::Result<()> {
    for base in &commit.bases {
        let (from, to) = (folder.join(COMPACTING).join(file::name(*base)), folder.join(file::name(*base)));
        match file::rename(&from, &to, faults) {
            // It was moved before.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    for (base, path) in file::list(folder)? {
        if base < commit.boundary && !commit.bases.contains(&base) {
            file::remove(&path, faults)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_believed_only_when_it_is_whole() {
        let commit = Commit { boundary: 300, bases: vec![0, 100] };
        let bytes = commit.encode();
        assert_eq!(Commit::decode(&bytes), Some(commit));
        for len in 0..bytes.len() {
            assert_eq!(Commit::decode(&bytes[..len]), None);
        }
        for at in 0..bytes.len() {
            let mut torn = bytes.clone();
            torn[at] ^= 1;
            assert_eq!(Commit::decode(&torn), None);
        }
    }

    #[test]
    fn a_pass_that_counts_is_completed_and_another_never_was() {
        let dir = tempfile::tempdir().unwrap();
        let folders = ["log", "queue"].map(|name| dir.path().join(name));
        let [log, queue] = &folders;
        let write = |base: u64, text: &str, sub: &str| {
            for folder in &folders {
                std::fs::create_dir_all(folder.join(sub)).unwrap();
                std::fs::write(folder.join(sub).join(file::name(base)), text).unwrap();
            }
        };
        let state = || -> Vec<(u64, String)> {
            let read =
                |folder| file::list(folder).unwrap().into_iter().map(|(b, p)| (b, std::fs::read_to_string(p).unwrap()));
            assert!(read(log).eq(read(queue)));
            read(log).collect()
        };
        let own =
            |list: &[(u64, &str)]| -> Vec<(u64, String)> { list.iter().map(|(b, t)| (*b, (*t).to_owned())).collect() };
        [0, 10, 20, 30].iter().for_each(|base| write(*base, "old", ""));
        write(0, "new", COMPACTING);
        settle(log, queue, None).unwrap();
        assert_eq!(state(), own(&[(0, "old"), (10, "old"), (20, "old"), (30, "old")]));
        write(0, "new", COMPACTING);
        Commit { boundary: 30, bases: vec![0] }.note(log, None).unwrap();
        // As if it had been interrupted after the first file.
        std::fs::rename(log.join(COMPACTING).join(file::name(0)), log.join(file::name(0))).unwrap();
        settle(log, queue, None).unwrap();
        assert_eq!(state(), own(&[(0, "new"), (30, "old")]));
        assert!(!log.join(COMPACTING).exists() && !queue.join(COMPACTING).exists());
        settle(log, queue, None).unwrap();
    }
}
