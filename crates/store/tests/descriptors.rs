//! A process with few descriptors serves many queues. Alone in its process, because the limit is the process's.
#![allow(clippy::unwrap_used, reason = "a test says by panicking what is wrong")]

mod common;

use common::{config, open, read_all, send};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

#[test]
fn many_queues_need_few_descriptors() {
    const QUEUES: u32 = 400;
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(200), maximum: limit.maximum }).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for round in 0..2 {
        let store = open(config(dir.path()));
        for queue in 0..QUEUES {
            send(&store, "T", queue, &[format!("{round}-{queue}").as_bytes()]).unwrap();
        }
        store.checkpoint_now();
        assert!(store.write_error().is_none());
        for queue in 0..QUEUES {
            let all = read_all(&store, "T", queue);
            assert_eq!(all.last().unwrap(), &(round, format!("{round}-{queue}").into_bytes()));
        }
    }
}
