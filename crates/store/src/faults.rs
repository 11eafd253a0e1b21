//! What tests do to the disk, at the one door all of the store's changes go through (`file.rs`): the k-th write, sync
//! or allocation fails or hangs; and a recording of every change, from which each state that a power cut could have
//! left is made again. A store without [`Faults`] pays one look at an empty option.
//!
//! # Replaying a recording
//!
//! [`Faults::events`] lists the changes in the order in which they were done. A power cut after the `n`-th event leaves
//! - what syncs among the first `n` made durable: an [`Event::Sync`] the changes to its file among the first `covers`
//!   events, an [`Event::SyncFolder`] names made and removed in that folder and renamed into it, an [`Event::SyncVolume`]
//!   everything; and
//! - any part of the other changes among the first `n`, in any order, writes torn at sector borders.
//!
//! An acknowledgement counts if it was given before the `n`-th event: note [`Faults::event_count`] with each. Index
//! files are written through a mapping: their changed pages appear as writes just before the sync that covers them, and
//! may have reached the disk at any time since the sync before.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use parking_lot::{Condvar, Mutex};
use rustix::io::Errno;

/// Most bytes a recording keeps; a write beyond it fails.
const MAX_RECORDED: usize = 4 << 30;
/// Mapped files are compared in pieces of this size.
const PAGE: usize = 4096;

/// What a fault hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Write,
    /// The same where the file may have no blocks yet; comes before [`Operation::Write`].
    WriteSparse,
    /// Of a file, a folder, or the volume.
    Sync,
    /// Of the blocks of a new file.
    Allocate,
}

/// What happens to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails with EIO.
    Io,
    /// It fails with ENOSPC.
    NoSpace,
    /// It hangs until [`Faults::heal`], and then succeeds.
    Stall,
}

/// One change, after it succeeded. Paths are as the store was given its folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A new, empty file.
    Create {
        path: PathBuf,
    },
    MakeFolder {
        path: PathBuf,
    },
    /// The file has this length from now on; what is new reads as zeros.
    Resize {
        path: PathBuf,
        len: u64,
    },
    Write {
        path: PathBuf,
        at: u64,
        bytes: Vec<u8>,
    },
    /// These bytes read as zeros from now on.
    Zero {
        path: PathBuf,
        at: u64,
        len: u64,
    },
    Remove {
        path: PathBuf,
    },
    RemoveFolder {
        path: PathBuf,
    },
    /// A file has another name, in place of one that had it before; all of it or nothing.
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    /// What the first `covers` events did to this file is on the disk.
    Sync {
        path: PathBuf,
        covers: usize,
    },
    /// So are names made and removed in this folder.
    SyncFolder {
        path: PathBuf,
        covers: usize,
    },
    /// So is everything.
    SyncVolume {
        covers: usize,
    },
}

/// Faults and a recording; see the head of the file.
#[derive(Debug, Default)]
pub struct Faults {
    state: Mutex<State>,
    healed: Condvar,
    /// Percent in use and free bytes of the volume, in place of the real ones.
    volume: Mutex<Option<(u32, u64)>>,
    recording: Option<Mutex<Recording>>,
}

#[derive(Debug, Default)]
struct State {
    plans: [Option<Plan>; 4],
    counts: [u64; 4],
    /// How often each operation was healed.
    heals: [u64; 4],
}

#[derive(Clone, Copy, Debug)]
struct Plan {
    /// Operations that still succeed.
    good: u64,
    fault: Fault,
    once: bool,
    /// Only under a folder or file of this name.
    only: Option<&'static str>,
}

#[derive(Debug, Default)]
struct Recording {
    events: Vec<Event>,
    bytes: usize,
    /// Content of mapped files at their last sync.
    mapped: HashMap<PathBuf, Vec<u8>>,
}

impl Faults {
    /// No faults yet, and a recording that begins now.
    pub fn recording() -> Faults {
        Faults { recording: Some(Mutex::default()), ..Faults::default() }
    }

    /// `good` operations succeed, all after them meet the fault until it is healed.
    pub fn inject(&self, operation: Operation, good: u64, fault: Fault) {
        self.state.lock().plans[operation as usize] = Some(Plan { good, fault, once: false, only: None });
    }

    /// The same, counting and hitting only operations on a file that is or lies in something of this name.
    pub fn inject_in(&self, name: &'static str, operation: Operation, good: u64, fault: Fault) {
        self.state.lock().plans[operation as usize] = Some(Plan { good, fault, once: false, only: Some(name) });
    }

    /// `good` operations succeed, the next meets the fault, and those after it succeed again.
    pub fn inject_once(&self, operation: Operation, good: u64, fault: Fault) {
        self.state.lock().plans[operation as usize] = Some(Plan { good, fault, once: true, only: None });
    }

    /// Ends the fault of an operation; what hangs goes on.
    pub fn heal(&self, operation: Operation) {
        let mut state = self.state.lock();
        state.plans[operation as usize] = None;
        state.heals[operation as usize] += 1;
        self.healed.notify_all();
    }

    /// Lets the volume seem to be full by so many percent, with so many bytes free.
    pub fn set_volume(&self, used_percent: u32, free: u64) {
        *self.volume.lock() = Some((used_percent, free));
    }

    pub(crate) fn volume(&self) -> Option<(u32, u64)> {
        *self.volume.lock()
    }

    /// How many operations of this kind there were, failed ones among them.
    pub fn count(&self, operation: Operation) -> u64 {
        self.state.lock().counts[operation as usize]
    }

    /// What was recorded so far.
    pub fn events(&self) -> Vec<Event> {
        self.recording.as_ref().map_or_else(Vec::new, |recording| recording.lock().events.clone())
    }

    /// How many events were recorded so far.
    pub fn event_count(&self) -> usize {
        self.recording.as_ref().map_or(0, |recording| recording.lock().events.len())
    }

    /// Lets an operation pass, or not.
    pub(crate) fn pass(&self, operation: Operation, path: &Path) -> io::Result<()> {
        let n = operation as usize;
        let mut state = self.state.lock();
        state.counts[n] += 1;
        let Some(plan) = &mut state.plans[n] else { return Ok(()) };
        if plan.only.is_some_and(|name| path.iter().all(|part| part != name)) {
            return Ok(());
        }
        if plan.good > 0 {
            plan.good -= 1;
            return Ok(());
        }
        let Plan { fault, once, .. } = *plan;
        if once {
            state.plans[n] = None;
        }
        match fault {
            Fault::Io => Err(Errno::IO.into()),
            Fault::NoSpace => Err(Errno::NOSPC.into()),
            Fault::Stall => {
                let heals = state.heals[n];
                while state.heals[n] == heals {
                    self.healed.wait(&mut state);
                }
                Ok(())
            }
        }
    }

    /// Notes a change.
    pub(crate) fn record(&self, event: impl FnOnce() -> Event) -> io::Result<()> {
        match &self.recording {
            Some(recording) => recording.lock().add(event()),
            None => Ok(()),
        }
    }

    /// Notes what was stored into a mapping since the last time. `read` gives the file's content.
    pub(crate) fn record_mapped(&self, path: &Path, read: impl FnOnce() -> io::Result<Vec<u8>>) -> io::Result<()> {
        let Some(recording) = &self.recording else { return Ok(()) };
        let mut recording = recording.lock();
        let now = read()?;
        let before = recording.mapped.remove(path).unwrap_or_default();
        for (n, page) in now.chunks(PAGE).enumerate() {
            let old = before.get(n * PAGE..).map_or(&[][..], |rest| &rest[..rest.len().min(PAGE)]);
            let is_same = if old.is_empty() { page.iter().all(|b| *b == 0) } else { old == page };
            if !is_same {
                let (at, bytes) = ((n * PAGE) as u64, page.to_vec());
                recording.add(Event::Write { path: path.to_owned(), at, bytes })?;
            }
        }
        recording.mapped.insert(path.to_owned(), now);
        Ok(())
    }
}

impl Recording {
    fn add(&mut self, event: Event) -> io::Result<()> {
        if let Event::Write { bytes, .. } = &event {
            self.bytes += bytes.len();
        }
        if self.bytes > MAX_RECORDED {
            return Err(io::Error::other(format!("the recording has more than {MAX_RECORDED} bytes: record less")));
        }
        self.events.push(event);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_fault_hits_the_operation_it_is_meant_for_until_it_is_healed() {
        let (faults, path) = (Faults::default(), Path::new("a/b"));
        faults.inject(Operation::Write, 1, Fault::NoSpace);
        faults.inject_once(Operation::Sync, 0, Fault::Io);
        assert!(faults.pass(Operation::Write, path).is_ok());
        for _ in 0..2 {
            let error = faults.pass(Operation::Write, path).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        }
        assert!(faults.pass(Operation::Sync, path).is_err() && faults.pass(Operation::Sync, path).is_ok());
        faults.heal(Operation::Write);
        assert!(faults.pass(Operation::Write, path).is_ok());
        assert_eq!((faults.count(Operation::Write), faults.count(Operation::Sync)), (4, 2));
        faults.inject_in("a", Operation::Write, 0, Fault::Io);
        assert!(faults.pass(Operation::Write, path).is_err() && faults.pass(Operation::Write, Path::new("b")).is_ok());
    }

    #[test]
    fn what_stalls_goes_on_when_healed() {
        let faults = Arc::new(Faults::default());
        faults.inject_once(Operation::Sync, 0, Fault::Stall);
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        let stalled = Arc::clone(&faults);
        let thread = std::thread::spawn(move || {
            stalled.pass(Operation::Sync, Path::new("a")).unwrap();
            tell.send(()).unwrap();
        });
        while faults.count(Operation::Sync) == 0 {
            std::thread::yield_now();
        }
        faults.pass(Operation::Sync, Path::new("a")).unwrap();
        assert!(told.try_recv().is_err());
        faults.heal(Operation::Sync);
        told.recv().unwrap();
        thread.join().unwrap();
    }

    #[test]
    fn stores_into_a_mapping_are_recorded_page_by_page() {
        let faults = Faults::recording();
        let path = Path::new("index");
        let mut content = vec![0; 3 * PAGE];
        content[PAGE] = 1;
        faults.record_mapped(path, || Ok(content.clone())).unwrap();
        content[PAGE] = 0;
        content[2 * PAGE + 5] = 2;
        faults.record_mapped(path, || Ok(content.clone())).unwrap();
        let places: Vec<u64> = faults
            .events()
            .iter()
            .map(|event| match event {
                Event::Write { at, bytes, .. } if bytes.len() == PAGE => *at,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(places, [4096, 4096, 8192]);
    }
}
