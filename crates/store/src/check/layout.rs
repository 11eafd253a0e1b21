//! What a store consists of, before any of it is read: which files of which sizes, and whether a broker has them.
//!
//! Also the one place that recognises RocksDB, in which Java brokers can keep queues, tables and pop state: nothing here
//! reads it, so such a store is refused rather than served in part.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::report::{Findings, Kind};
use crate::error::OpenError;
use crate::file;

/// Folders that a Java broker keeps in RocksDB and that messages or settings depend on: queues, pop state. Those of
/// `config` come to it; users and ACLs there concern access alone, which has switches of its own.
const ROCKSDB_FOLDERS: &[&str] = &["consumequeue", "consumequeue_rocksdb", "consumequeue_r", "kvStore"];
const ACCESS_FOLDERS: &[&str] = &["users", "acls"];

/// The first RocksDB folder that a broker cannot do without.
pub(crate) fn rocksdb_folder(root: &Path) -> io::Result<Option<PathBuf>> {
    Ok(rocksdb_folders(root)?.into_iter().next())
}

fn rocksdb_folders(root: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found: Vec<PathBuf> = ROCKSDB_FOLDERS.iter().map(|name| root.join(name)).collect();
    for name in names(&root.join("config"))? {
        if !ACCESS_FOLDERS.contains(&name.as_str()) {
            found.push(root.join("config").join(name));
        }
    }
    found.retain(|folder| is_rocksdb(folder));
    Ok(found)
}

/// A RocksDB folder has a file `CURRENT` that names its manifest.
fn is_rocksdb(folder: &Path) -> bool {
    fs::read(folder.join("CURRENT")).is_ok_and(|content| content.starts_with(b"MANIFEST-"))
}

/// Names in a folder, sorted; none if there is no folder.
pub(super) fn names(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        other => other?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry?.file_name().into_string().ok());
    }
    names.sort_unstable();
    Ok(names)
}

/// The files of the log.
#[derive(Clone, Debug, Default)]
pub(super) struct LogFiles {
    /// Position of the first byte and path, ascending, without gaps.
    pub files: Vec<(u64, PathBuf)>,
    /// Bytes of each.
    pub file_size: u64,
}

impl LogFiles {
    /// Lists the files of a log. One that was made but never used, as a kill can leave it, is left out.
    pub fn find(dir: &Path, findings: &mut Findings) -> Result<LogFiles, OpenError> {
        let mut files = Vec::new();
        for (start, path) in file::list(dir).map_err(OpenError::io("list", dir))? {
            let len = fs::metadata(&path).map_err(OpenError::io("look at", &path))?.len();
            files.push((start, path, len));
        }
        let file_size = size_of_most(files.iter().map(|(_, _, len)| *len).filter(|len| *len > 0));
        if let Some((_, path, len)) = files.last()
            && *len < file_size
            && is_zero(path, *len).map_err(OpenError::io("read", path))?
        {
            files.pop();
        }
        let mut next = None;
        for (start, path, len) in &files {
            if *len != file_size {
                findings
                    .add(Kind::LogFileSize, || format!("{} has {len} bytes, the others {file_size}", path.display()));
            }
            if let Some(missing) = next.filter(|next| next != start) {
                findings.add(Kind::LogGap, || format!("{} is missing before {}", file::name(missing), path.display()));
            }
            next = Some(start + file_size);
        }
        Ok(LogFiles { files: files.into_iter().map(|(start, path, _)| (start, path)).collect(), file_size })
    }

    pub fn start(&self) -> u64 {
        self.files.first().map_or(0, |(start, _)| *start)
    }

    pub fn bytes(&self) -> u64 {
        self.files.len() as u64 * self.file_size
    }
}

fn is_zero(path: &Path, len: u64) -> io::Result<bool> {
    use std::os::unix::fs::FileExt;
    let file = File::open(path)?;
    let mut piece = vec![0; 1 << 20];
    let mut at = 0;
    while at < len {
        let n = (len - at).min(piece.len() as u64) as usize;
        file.read_exact_at(&mut piece[..n], at)?;
        if !super::log::is_zero(&piece[..n]) {
            return Ok(false);
        }
        at += n as u64;
    }
    Ok(true)
}

/// The size that most have; the larger one of two that are equally frequent.
pub(super) fn size_of_most(sizes: impl Iterator<Item = u64>) -> u64 {
    let mut counts = std::collections::BTreeMap::new();
    for size in sizes {
        *counts.entry(size).or_insert(0_u64) += 1;
    }
    counts.into_iter().max_by_key(|(size, count)| (*count, *size)).map_or(0, |(size, _)| size)
}

/// Parts of a store that the check passes over, so that it can say so.
pub(super) fn tell_unchecked(root: &Path, findings: &mut Findings) -> io::Result<()> {
    let parts = [
        ("consumequeue_ext", "the extension of consume queues (enableConsumeQueueExt)"),
        ("timerwheel", "the timer wheel; its messages are in the log"),
        ("rocksdbstore", "timer and transaction state in RocksDB (timerRocksDBEnable, transRocksDBEnable)"),
    ];
    for (name, what) in parts {
        let path = root.join(name);
        let is_there = if path.is_dir() { !names(&path)?.is_empty() } else { path.exists() };
        if is_there {
            findings.add(Kind::NotChecked, || format!("{}: {what}", path.display()));
        }
    }
    Ok(())
}

/// Everything that stands against a takeover before a byte of the log was read.
pub(super) fn tell_rocksdb(root: &Path, findings: &mut Findings) -> io::Result<()> {
    for folder in rocksdb_folders(root)? {
        findings.add(Kind::RocksDb, || folder.display().to_string());
    }
    Ok(())
}
