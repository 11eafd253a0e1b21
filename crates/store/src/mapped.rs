//! Mappings of files: the only place of the store that is `unsafe`.
//!
//! The commit log is mapped for reading only: it is written by `pwrite` (a store into a mapping dirties whole 2 MiB
//! units of the page cache). The index is written through its mapping, word by word and atomically, because its
//! writes are small and scattered.
//!
//! A mapped file must never shrink: a read behind its end would kill the process. The store deletes files, which
//! leaves mappings valid, but never truncates one that is mapped; its folder is locked against a second store.
#![allow(unsafe_code, reason = "memory mappings cannot be made without")]

use std::fs::File;
use std::io;
use std::sync::atomic::AtomicU32;

use memmap2::{Advice, Mmap, MmapOptions, MmapRaw};

/// A file mapped for reading.
pub(crate) struct ReadMap(Mmap);

impl ReadMap {
    /// Maps `len` bytes of `file`, which must be at least that long and stay so.
    pub fn new(file: &File, len: u64) -> io::Result<ReadMap> {
        let len = checked_len(file, len)?;
        // SAFETY: the file is at least `len` bytes long and is never truncated while mapped (see the head of this
        // file), and bytes that are handed out as slices are never written again: `CommitLog` publishes a position
        // only when the bytes before it are final.
        let map = unsafe { MmapOptions::new().len(len).map(file)? };
        Ok(ReadMap(map))
    }

    /// The mapped bytes. Callers look only at those that are published, or at all of them while nothing is written.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A file mapped for reading and writing as 32-bit words.
pub(crate) struct WordMap(MmapRaw);

impl WordMap {
    /// Maps `len` bytes, a multiple of 4, of `file`, whose blocks must be allocated.
    pub fn new(file: &File, len: u64) -> io::Result<WordMap> {
        let len = checked_len(file, len)?;
        let map = MmapOptions::new().len(len).map_raw(file)?;
        // Scattered access: reading ahead would fill the page cache with what nobody asked for. Only advice.
        let _ = map.advise(Advice::Random);
        Ok(WordMap(map))
    }

    /// The words of the file, in the byte order of the file.
    pub fn words(&self) -> &[AtomicU32] {
        // SAFETY: the mapping is page aligned, `len / 4` words long, readable and writable for as long as `self`
        // lives, and only ever accessed through these atomics.
        unsafe { std::slice::from_raw_parts(self.0.as_mut_ptr().cast::<AtomicU32>(), self.0.len() / 4) }
    }
}

fn checked_len(file: &File, len: u64) -> io::Result<usize> {
    if file.metadata()?.len() < len {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file is shorter than what is to be mapped"));
    }
    usize::try_from(len).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "the file is too large to be mapped"))
}
