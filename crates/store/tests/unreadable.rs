//! Pages of the log that the disk cannot read while it is copied. A test of its own process: what one store could not read
//! makes all others of the process careful.
#![allow(clippy::unwrap_used, reason = "a test says by panicking what is wrong")]

mod common;
#[path = "compaction/support.rs"]
#[allow(dead_code, reason = "not all of it is needed here")]
mod support;

use ferromq_store::{Fault, Operation};

use common::open;
use support::{all, body, put, rounds, short_lived, wait};

#[test]
fn what_the_disk_cannot_read_in_the_log_is_not_passed_over_and_the_log_stays() {
    const MESSAGES: usize = 200;
    let dir = tempfile::tempdir().unwrap();
    let config = short_lived(dir.path(), 3_600_000);
    let faults = config.faults.clone().unwrap();
    // Nothing is copied before the page is gone.
    faults.inject_in("compaction", Operation::WriteSparse, 0, Fault::NoSpace);
    let store = open(config);
    put(&store, &rounds(0, MESSAGES, 1000));
    assert_eq!(all(&store).len(), MESSAGES);
    let first = dir.path().join("commitlog/00000000000000000000");
    let whole = std::fs::read(&first).unwrap();
    // Reading behind the end of a mapped file raises the signal that a bad sector raises.
    std::fs::File::options().write(true).open(&first).unwrap().set_len(8192).unwrap();
    faults.heal(Operation::WriteSparse);
    assert_eq!(store.min_physical_offset(), 0);
    // Its end copies what there is.
    drop(store);
    assert!(first.exists() && dir.path().join("abort").exists(), "not all is copied, and the next start knows");
    std::fs::write(&first, whole).unwrap();
    let store = open(short_lived(dir.path(), 3_600_000));
    wait("old log files go", || store.min_physical_offset() > 0);
    let left = all(&store);
    assert!(left.len() == MESSAGES && left.iter().enumerate().all(|(n, seen)| seen.body == body(n)));
}
