//! Random damage to everything but the commit log, and to the log's tail: the store opens, has every message that the
//! log has, and gives no offset twice. A failure prints its seed; `SEED=n` runs that one again.
#![allow(clippy::unwrap_used, reason = "a test says by panicking what is wrong")]

mod common;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use common::{as_slices, config, copy_as_killed, numbered, open, read_all, send, sync_config};

const MESSAGES: usize = 400;
const QUEUES: u32 = 3;

/// A small generator of numbers: the same from the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n.max(1)
    }
}

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

/// Damages one file, whatever it is.
fn mutilate(path: &Path, older: &Path, random: &mut Random) -> &'static str {
    let len = fs::metadata(path).map_or(0, |m| m.len());
    let open = || OpenOptions::new().write(true).open(path).unwrap();
    match random.below(7) {
        0 => {
            let _ = fs::remove_file(path);
            "removed"
        }
        1 => {
            open().set_len(random.below(len + 1)).unwrap();
            "cut"
        }
        2 => {
            fs::write(path, vec![0; len as usize]).unwrap();
            "zeroed"
        }
        3 => {
            let from = random.below(len);
            let n = random.below(len - from + 1).min(4096);
            open().write_all_at(&vec![0; n as usize], from).unwrap();
            "zeroed in part"
        }
        4 => {
            fs::write(path, []).unwrap();
            "emptied"
        }
        5 if older.exists() => {
            fs::copy(older, path).unwrap();
            "an old copy"
        }
        _ => {
            let _ = path.parent().filter(|dir| dir.is_dir() && !dir.join("lock").exists()).map(fs::remove_dir_all);
            "its folder removed"
        }
    }
}

fn run(seed: u64, older: &Path, made: &Path, bodies: &[Vec<u8>]) {
    let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let dir = tempfile::tempdir().unwrap();
    copy_as_killed(made, dir.path());
    let mut derived = Vec::new();
    for name in ["consumequeue", "index"] {
        files(&dir.path().join(name), &mut derived);
    }
    derived.extend([dir.path().join("checkpoint"), dir.path().join("abort")]);
    let mut told = Vec::new();
    for _ in 0..=random.below(6) {
        let path = &derived[random.below(derived.len() as u64) as usize];
        if path.exists() {
            let inside = path.strip_prefix(dir.path()).unwrap();
            told.push((inside.to_owned(), mutilate(path, &older.join(inside), &mut random)));
        }
    }
    // Garbage behind the log's end, as a torn write leaves it.
    if random.below(2) == 0 {
        let mut logs = Vec::new();
        files(&dir.path().join("commitlog"), &mut logs);
        logs.sort();
        let garbage: Vec<u8> = (0..200).map(|_| random.below(256) as u8).collect();
        let last = OpenOptions::new().write(true).open(logs.last().unwrap()).unwrap();
        last.write_all_at(&garbage, 64 * 1024 - 4096 + random.below(3000)).unwrap();
        told.push(("commitlog".into(), "garbage near its end"));
    }
    for round in 0..2 {
        let store = open(if round == 0 { config(dir.path()) } else { sync_config(dir.path()) });
        for queue in 0..QUEUES {
            let all = read_all(&store, "T", queue);
            let expected = MESSAGES + round;
            let right = all
                .iter()
                .enumerate()
                .take(MESSAGES)
                .all(|(n, (offset, body))| *offset == n as i64 && *body == bodies[n]);
            assert!(
                all.len() == expected && right,
                "SEED={seed}: queue {queue} has {} in round {round}: {told:?}",
                all.len()
            );
            send(&store, "T", queue, &[b"one more"]).unwrap();
            assert_eq!(store.queue("T", queue).next_offset(), expected as i64 + 1, "SEED={seed}: {told:?}");
        }
        // Killed in the middle of it, as a power cut in a recovery would be, is another start.
        let killed = tempfile::tempdir().unwrap();
        copy_as_killed(dir.path(), killed.path());
        drop(store);
        assert_eq!(read_all(&open(config(killed.path())), "T", 0).len(), MESSAGES + round + 1, "SEED={seed}: {told:?}");
    }
}

#[test]
fn any_damage_to_what_is_derived_is_repaired() {
    let bodies = numbered(MESSAGES);
    let (older, killed, stopped) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    {
        let store = open(config(stopped.path()));
        for (n, bodies) in bodies.chunks(10).enumerate() {
            for queue in 0..QUEUES {
                send(&store, "T", queue, &as_slices(bodies)).unwrap();
            }
            if n == 20 {
                store.checkpoint_now();
                copy_as_killed(stopped.path(), older.path());
            }
        }
        copy_as_killed(stopped.path(), killed.path());
    }
    if let Some(seed) = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()) {
        run(seed, older.path(), killed.path(), &bodies);
        return run(seed, older.path(), stopped.path(), &bodies);
    }
    let first = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    for seed in first..first + 10 {
        run(seed, older.path(), killed.path(), &bodies);
        run(seed, older.path(), stopped.path(), &bodies);
    }
}
