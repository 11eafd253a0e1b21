//! A recovery that is cut short at any point, by a kill or by another power cut: the next start finds everything.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ferromq_store::{Event, Faults, Store, StoreConfig};

use super::common::{as_slices, config, copy_as_killed, expect, numbered, read_all, send};
use super::disk::{Dice, Disk, Fate};

const QUEUES: u32 = 3;
const MESSAGES: usize = 150;
/// Cuts of each recovery, each with three fates of what was not forced to the disk.
const CUTS: usize = 20;

fn open(config: StoreConfig, what: &str) -> Store {
    Store::open(config, Arc::new(|_| ())).unwrap_or_else(|error| panic!("{what}: {error}"))
}

fn check(store: &Store, what: &str) {
    for queue in 0..QUEUES {
        assert!(read_all(store, "T", queue) == expect(&numbered(MESSAGES)), "{what}: queue {queue}");
        let key = String::from_utf8_lossy(&numbered(MESSAGES)[7]).into_owned();
        assert_eq!(
            store.query_index("T", &key, 10, 0, i64::MAX).physical_offsets.len(),
            QUEUES as usize,
            "{what}: key"
        );
    }
}

/// What made a folder as it is, all of it on the disk.
fn events_of(dir: &Path, events: &mut Vec<Event>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path: PathBuf = entry.unwrap().path();
        if path.is_dir() {
            events.push(Event::MakeFolder { path: path.clone() });
            events_of(&path, events);
        } else {
            events.push(Event::Create { path: path.clone() });
            events.push(Event::Write { bytes: fs::read(&path).unwrap(), path, at: 0 });
        }
    }
    events.push(Event::SyncVolume { covers: events.len() });
}

/// Cuts a recovery of the store in `dir`, which was killed, at `CUTS` points.
fn cut_recovery(dir: &Path, what: &str) {
    let mut events = Vec::new();
    events_of(dir, &mut events);
    let begun = events.len();
    let faults = Arc::new(Faults::recording());
    let store = open(StoreConfig { faults: Some(Arc::clone(&faults)), ..config(dir) }, what);
    events.extend(faults.events().into_iter().map(|event| shifted(event, begun)));
    check(&store, what);
    drop(store);
    assert!(events.len() > begun, "{what}: recovery changes something");
    let mut dice = Dice(0x5EED);
    for n in 0..CUTS {
        let cut = begun + (events.len() - begun) * n / CUTS + 1;
        for fate in [Fate::All, Fate::None, Fate::Random(&mut dice)] {
            let is_kill = matches!(fate, Fate::All);
            let mut disk = Disk::after(&events[..cut], fate);
            if !is_kill {
                disk.boot_again(dir);
            }
            let left = tempfile::tempdir().unwrap();
            disk.write_to(dir, left.path());
            let what = format!("{what}, cut {} of {} changes, killed: {is_kill}", cut - begun, events.len() - begun);
            let store = open(config(left.path()), &what);
            check(&store, &what);
            send(&store, "T", 0, &[b"goes on"]).unwrap();
            assert_eq!(read_all(&store, "T", 0).last().unwrap(), &(MESSAGES as i64, b"goes on".to_vec()), "{what}");
        }
    }
}

/// A sync covers what stands before it, which is as much more as was there at the beginning.
fn shifted(mut event: Event, by: usize) -> Event {
    if let Event::Sync { covers, .. } | Event::SyncFolder { covers, .. } | Event::SyncVolume { covers } = &mut event {
        *covers += by;
    }
    event
}

#[test]
fn a_recovery_that_is_cut_short_is_done_by_the_next_start() {
    let made = tempfile::tempdir().unwrap();
    let killed = tempfile::tempdir().unwrap();
    let store = open(config(made.path()), "at first");
    for queue in 0..QUEUES {
        send(&store, "T", queue, &as_slices(&numbered(MESSAGES))).unwrap();
    }
    store.checkpoint_now();
    copy_as_killed(made.path(), killed.path());
    drop(store);
    for (what, gone) in [
        ("as the kill left it", &[][..]),
        ("without queues", &["consumequeue"]),
        ("without queues, index and checkpoint", &["consumequeue", "index", "checkpoint"]),
    ] {
        let dir = tempfile::tempdir().unwrap();
        copy_as_killed(killed.path(), dir.path());
        for name in gone.iter().map(|name| dir.path().join(name)) {
            let _ = if name.is_dir() { fs::remove_dir_all(name) } else { fs::remove_file(name) };
        }
        cut_recovery(dir.path(), what);
    }
}
