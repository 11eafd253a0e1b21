//! A disk without room, and one that fails.

use std::sync::Arc;
use std::time::Duration;

use ferromq_store::{Fault, Faults, Operation, StoreConfig};

use crate::common::open;
use crate::support::{all, append, newest, put, rounds, short_lived, wait};

fn faulty() -> Arc<Faults> {
    let faults = Faults::default();
    faults.set_volume(10, 1 << 40);
    Arc::new(faults)
}

#[test]
fn without_room_for_the_copy_the_log_stays_and_it_goes_on_when_there_is_some() {
    let (dir, faults) = (tempfile::tempdir().unwrap(), faulty());
    let store = open(StoreConfig { faults: Some(Arc::clone(&faults)), ..short_lived(dir.path(), 50) });
    faults.inject_in("compaction", Operation::WriteSparse, 3, Fault::NoSpace);
    put(&store, &rounds(0, 300, 1000));
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(store.min_physical_offset(), 0, "the log has what the copy has not");
    assert_eq!(all(&store).len(), 300);
    assert!(store.write_error().is_none());
    faults.heal(Operation::WriteSparse);
    wait("old log files go", || store.min_physical_offset() > 0);
    assert_eq!(all(&store).len(), 300);
}

#[test]
fn a_pass_without_room_leaves_all_as_it_was() {
    let (dir, faults) = (tempfile::tempdir().unwrap(), faulty());
    let store = open(StoreConfig { faults: Some(Arc::clone(&faults)), ..short_lived(dir.path(), 50) });
    faults.inject_in("compacting", Operation::WriteSparse, 1, Fault::NoSpace);
    put(&store, &rounds(0, 300, 5));
    wait("old log files go", || store.min_physical_offset() > 0);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(all(&store).len(), 300);
    faults.heal(Operation::WriteSparse);
    wait("a pass", || all(&store).len() < 60);
    assert_eq!(newest(&all(&store)).len(), 5);
}

#[test]
fn a_disk_that_fails_under_the_copy_ends_all_writing_and_no_log_file_goes() {
    for operation in [Operation::Write, Operation::Sync] {
        let (dir, faults) = (tempfile::tempdir().unwrap(), faulty());
        let store = open(StoreConfig { faults: Some(Arc::clone(&faults)), ..short_lived(dir.path(), 50) });
        faults.inject_in("compaction", operation, 2, Fault::Io);
        append(&store, &rounds(0, 300, 1000));
        wait("the failure", || store.write_error().is_some());
        assert_eq!((store.min_physical_offset(), all(&store).len()), (0, 300));
        drop(store);
        assert!(dir.path().join("abort").exists());
        let store = open(short_lived(dir.path(), 50));
        wait("old log files go", || store.min_physical_offset() > 0);
        assert_eq!(all(&store).len(), 300);
    }
}
