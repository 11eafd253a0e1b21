//! Mappings of files: the only place of the store that is `unsafe`.
//!
//! The commit log is mapped for reading only: it is written by `pwrite` (a store into a mapping dirties whole 2 MiB
//! units of the page cache). The index is written through its mapping, word by word and atomically, because its
//! writes are small and scattered.
//!
//! A mapped file must never shrink: a read behind its end would kill the process. The store deletes files, which
//! leaves mappings valid, but never truncates one that is mapped; its folder is locked against a second store.
//!
//! A page that the disk cannot read, or that is gone after all, raises SIGBUS. The handler puts a page of zeros in its
//! place, which no check takes for data: records have a CRC, index entries are compared with their record. `pread`
//! instead of mappings would cost 500 ns a message more where queues lie interleaved in the log.
#![allow(unsafe_code, reason = "memory mappings cannot be made without")]

use std::fs::File;
use std::io;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use memmap2::{Advice, Mmap, MmapOptions, MmapRaw};

/// Most files mapped at once.
const MAX_MAPS: usize = 65_536;
/// Smallest unit of a mapping, bytes.
const PAGE: usize = 4096;

/// A file mapped for reading.
pub(crate) struct ReadMap {
    // Before the mapping: what is unmapped must not be listed.
    _guard: Guard,
    map: Mmap,
}

impl ReadMap {
    /// Maps `len` bytes of `file`, which must be at least that long and stay so.
    pub fn new(file: &File, len: u64) -> io::Result<ReadMap> {
        let len = checked_len(file, len)?;
        // SAFETY: the file is at least `len` bytes long and is never truncated while mapped (see the head of this
        // file), and bytes that are handed out as slices are never written again: `CommitLog` publishes a position,
        // and a pair of a compacted queue a count, only when the bytes before it are final.
        let map = unsafe { MmapOptions::new().len(len).map(file)? };
        let guard = Guard::new(map.as_ptr() as usize, len)?;
        Ok(ReadMap { _guard: guard, map })
    }

    /// Whether the kernel reads ahead of who reads (`MADV_NORMAL`), or only what is asked for (`MADV_RANDOM`). Only advice.
    pub fn set_read_ahead(&self, on: bool) {
        let _ = self.map.advise(if on { Advice::Normal } else { Advice::Random });
    }

    /// The mapped bytes. Callers look only at those that are published, or at all of them while nothing is written.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }
}

/// Most bytes that are asked for ahead at once: more would push out what was asked for before.
const MAX_AHEAD: usize = 1024;

/// Asks the processor for bytes that are read soon, so that their way from memory is not waited for. Only a hint: bytes
/// that are not in memory stay where they are.
pub(crate) fn prefetch(bytes: &[u8]) {
    bytes[..bytes.len().min(MAX_AHEAD)].chunks(64).for_each(|line| prefetch_line(line.as_ptr()));
}

fn prefetch_line(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads nothing that the program sees, and cannot fault, whatever the address.
        unsafe { _mm_prefetch(at.cast(), _MM_HINT_T0) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// A file mapped for reading and writing as 32-bit words.
pub(crate) struct WordMap {
    _guard: Guard,
    map: MmapRaw,
}

impl WordMap {
    /// Maps `len` bytes, a multiple of 4, of `file`, whose blocks must be allocated.
    pub fn new(file: &File, len: u64) -> io::Result<WordMap> {
        let len = checked_len(file, len)?;
        let map = MmapOptions::new().len(len).map_raw(file)?;
        // Scattered access: reading ahead would fill the page cache with what nobody asked for. Only advice.
        let _ = map.advise(Advice::Random);
        let guard = Guard::new(map.as_mut_ptr() as usize, len)?;
        Ok(WordMap { _guard: guard, map })
    }

    /// The words of the file, in the byte order of the file.
    pub fn words(&self) -> &[AtomicU32] {
        // SAFETY: the mapping is page aligned, `len / 4` words long, readable and writable for as long as `self`
        // lives, and only ever accessed through these atomics.
        unsafe { std::slice::from_raw_parts(self.map.as_mut_ptr().cast::<AtomicU32>(), self.map.len() / 4) }
    }

    /// Asks the processor for the word at `at`, as [`prefetch`].
    pub fn prefetch(&self, at: usize) {
        if let Some(word) = self.words().get(at) {
            prefetch_line(std::ptr::from_ref(word).cast());
        }
    }
}

fn checked_len(file: &File, len: u64) -> io::Result<usize> {
    if file.metadata()?.len() < len {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file is shorter than what is to be mapped"));
    }
    usize::try_from(len).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "the file is too large to be mapped"))
}

/// Where mappings lie, for the signal handler.
struct Slot {
    start: AtomicUsize,
    len: AtomicUsize,
}

static SLOTS: [Slot; MAX_MAPS] = [const { Slot { start: AtomicUsize::new(0), len: AtomicUsize::new(0) } }; MAX_MAPS];
/// Slots from here on were never used.
static SLOTS_USED: AtomicUsize = AtomicUsize::new(0);
static LOST_PAGES: AtomicU64 = AtomicU64::new(0);

/// Pages that could not be read since the process began.
pub(crate) fn lost_pages() -> u64 {
    LOST_PAGES.load(Ordering::Relaxed)
}

/// Lists a mapping for as long as it lives.
struct Guard(usize);

impl Guard {
    fn new(start: usize, len: usize) -> io::Result<Guard> {
        static INSTALLED: Once = Once::new();
        INSTALLED.call_once(install);
        let is_free = |slot: &Slot| slot.start.compare_exchange(0, start, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        let Some(n) = SLOTS.iter().position(is_free) else {
            return Err(io::Error::other(format!("more than {MAX_MAPS} files are mapped: use larger files")));
        };
        SLOTS_USED.fetch_max(n + 1, Ordering::AcqRel);
        SLOTS[n].len.store(len, Ordering::Release);
        Ok(Guard(n))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        SLOTS[self.0].len.store(0, Ordering::Release);
        SLOTS[self.0].start.store(0, Ordering::Release);
    }
}

fn install() {
    // SAFETY: the handler only reads atomics and makes system calls, all of which a signal handler may do.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_sigbus as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
        libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut());
    }
}

extern "C" fn on_sigbus(signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel gives a valid description of the signal.
    let (address, code) = unsafe { ((*info).si_addr() as usize, (*info).si_code) };
    let holds = |slot: &Slot| {
        let (start, len) = (slot.start.load(Ordering::Acquire), slot.len.load(Ordering::Acquire));
        address >= start && address - start < len
    };
    if code == libc::BUS_ADRERR && SLOTS.iter().take(SLOTS_USED.load(Ordering::Acquire)).any(holds) {
        let page = (address & !(PAGE - 1)) as *mut libc::c_void;
        let (access, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_FIXED | libc::MAP_ANONYMOUS | libc::MAP_PRIVATE);
        // SAFETY: the page belongs to one of this file's mappings, and whoever reads it is interrupted by this signal
        // because it has no content: nobody sees it change.
        if unsafe { libc::mmap(page, PAGE, access, flags, -1, 0) } == page {
            LOST_PAGES.fetch_add(1, Ordering::Relaxed);
            return;
        }
    }
    // Not ours: the same access again, and the process ends as it would have.
    // SAFETY: a system call that a signal handler may do.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_cannot_be_read_is_zeros_and_the_process_lives() {
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, &[7; 3 * PAGE]).unwrap();
        let read = ReadMap::new(&file, 3 * PAGE as u64).unwrap();
        let words = WordMap::new(&file, 3 * PAGE as u64).unwrap();
        file.set_len(PAGE as u64).unwrap();
        let before = lost_pages();
        assert_eq!((read.bytes()[0], read.bytes()[PAGE], read.bytes()[3 * PAGE - 1]), (7, 0, 0));
        words.words()[2 * PAGE / 4].store(5, Ordering::Relaxed);
        assert_eq!(words.words()[PAGE / 2].load(Ordering::Relaxed), 5);
        assert!(lost_pages() >= before + 3);
    }
}
