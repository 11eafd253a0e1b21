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

#[test]
fn thousands_of_queues_open_after_a_kill_as_they_were() {
    const QUEUES: u32 = 3000;
    let (dir, killed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = open(config(dir.path()));
    let topic = |n: u32| format!("T{}", n / 3);
    for n in 0..QUEUES {
        let bodies: Vec<Vec<u8>> = (0..=n % 3).map(|m| format!("{n}-{m}").into_bytes()).collect();
        send(&store, &topic(n), n % 3, &common::as_slices(&bodies)).unwrap();
    }
    store.checkpoint_now();
    // Some get more, which no checkpoint knows of.
    for n in (0..QUEUES).step_by(7) {
        send(&store, &topic(n), n % 3, &[b"late"]).unwrap();
    }
    common::copy_as_killed(dir.path(), killed.path());
    drop(store);
    for root in [killed.path(), dir.path()] {
        let store = open(config(root));
        for n in 0..QUEUES {
            let mut expected: Vec<Vec<u8>> = (0..=n % 3).map(|m| format!("{n}-{m}").into_bytes()).collect();
            expected.extend((n % 7 == 0).then(|| b"late".to_vec()));
            assert!(read_all(&store, &topic(n), n % 3) == common::expect(&expected), "{n}");
        }
    }
}
