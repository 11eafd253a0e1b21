//! A topic that is deleted and made again.
#![allow(clippy::unwrap_used, reason = "a test says by panicking what is wrong")]

mod common;

use std::fs;

use common::{as_slices, config, copy_as_killed, expect, numbered, open, parts, read_all, send, sync_config};
use ferromq_store::AppendBatch;

#[test]
fn the_lives_of_a_topic_do_not_mix_whatever_was_in_flight() {
    for sync in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let killed = tempfile::tempdir().unwrap();
        let store = open(if sync { sync_config(dir.path()) } else { config(dir.path()) });
        send(&store, "T", 0, &as_slices(&numbered(50))).unwrap();
        // A handle from before, as a send has it that is being checked when the topic goes.
        let queue = store.queue("T", 0);
        let append = |body: &[u8]| {
            let mut batch = AppendBatch::default();
            batch.push(&queue, &parts("T", 0, body, b"")).unwrap();
            store.append(&mut batch).unwrap();
        };
        append(b"old, in flight");
        store.delete_topic("T").unwrap();
        for n in 0..60 {
            append(format!("new {n}").as_bytes());
        }
        while store.queue("T", 0).max_offset() < 60 {
            store.dispatch();
            std::thread::yield_now();
        }
        let new: Vec<Vec<u8>> = (0..60).map(|n| format!("new {n}").into_bytes()).collect();
        assert_eq!(read_all(&store, "T", 0), expect(&new));
        copy_as_killed(dir.path(), killed.path());
        assert_eq!(read_all(&open(config(killed.path())), "T", 0), expect(&new));
        fs::remove_dir_all(killed.path().join("consumequeue")).unwrap();
        fs::write(killed.path().join("abort"), "1").unwrap();
        assert_eq!(read_all(&open(config(killed.path())), "T", 0), expect(&new));
    }
}
