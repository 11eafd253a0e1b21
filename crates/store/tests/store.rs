//! What a store promises, seen from its users.

mod common;

use common::{as_slices, config, expect, numbered, open, read_all, send};
use ferromq_store::AppendError;

#[test]
fn messages_read_back_across_file_borders_and_a_clean_restart() {
    let dir = tempfile::tempdir().unwrap();
    let bodies = numbered(1000);
    {
        let store = open(config(dir.path()));
        for bodies in bodies.chunks(7) {
            send(&store, "T", 1, &as_slices(bodies)).unwrap();
        }
        assert_eq!(read_all(&store, "T", 1), expect(&bodies));
        assert!(store.max_physical_offset() > 4 * 64 * 1024);
        store.shutdown();
        assert!(matches!(send(&store, "T", 1, &[b"late"]), Err(AppendError::ShuttingDown)));
    }
    assert!(!dir.path().join("abort").exists());
    let store = open(config(dir.path()));
    assert_eq!(read_all(&store, "T", 1), expect(&bodies));
    send(&store, "T", 1, &[b"next"]).unwrap();
    assert_eq!(read_all(&store, "T", 1).last().unwrap(), &(1000, b"next".to_vec()));
}
