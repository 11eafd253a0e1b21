//! Entries of queue files that are read in pieces, as many at once as memory is set aside for.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::report::MAX_EXAMPLES;
use crate::file;
use crate::queue::{CqEntry, Kind};

/// Entries in one piece of a queue file.
const PIECE: usize = 204;
/// Most pieces kept.
const MAX_PIECES: usize = 2048;

/// Pieces of queue files, one for each of the queues used last.
#[derive(Default)]
pub(super) struct Pieces {
    /// By queue: the byte of the queue a piece begins at, and its bytes.
    pieces: HashMap<usize, (u64, Vec<u8>)>,
    /// Files the disk did not give, the first few.
    pub unreadable: Vec<String>,
}

impl Pieces {
    /// The entry at `index` of queue `n`, whose kind and file size, and folder, are told.
    pub fn entry(
        &mut self,
        n: usize,
        index: i64,
        (kind, file_size): (Kind, u64),
        folder: impl Fn() -> PathBuf,
    ) -> Option<CqEntry> {
        let (unit, piece) = (kind.unit(), PIECE * kind.unit());
        let at = u64::try_from(index).ok()?.checked_mul(unit as u64)?;
        let in_file = at % file_size;
        let file_start = at - in_file;
        let from = file_start + in_file - in_file % piece as u64;
        if self.pieces.get(&n).is_none_or(|(piece_at, _)| *piece_at != from) {
            if self.pieces.len() >= MAX_PIECES && !self.pieces.contains_key(&n) {
                self.pieces.clear();
            }
            let (piece_at, bytes) = self.pieces.entry(n).or_default();
            *piece_at = from;
            bytes.resize(piece.min((file_start + file_size - from) as usize), 0);
            let path = folder().join(file::name(file_start));
            if let Err(error) = File::open(&path).and_then(|file| file.read_exact_at(bytes, from - file_start)) {
                bytes.fill(0);
                if self.unreadable.len() < MAX_EXAMPLES {
                    self.unreadable.push(format!("{} at {}: {error}", path.display(), from - file_start));
                }
            }
        }
        let (_, bytes) = self.pieces.get(&n)?;
        let entry = bytes.get((at - from) as usize..)?.get(..unit)?;
        Some(kind.decode(entry, index))
    }
}
