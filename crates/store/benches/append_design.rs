//! The measurement behind `docs/adr/0001`: how appends are serialised and how the next log file is prepared.
//!
//! `cargo bench -p ferromq-store --bench append_design -- DIR` writes files of 256 MiB into DIR and prints CPU and wall
//! time per 1 KiB record. Run it on an idle machine, on the file system that will hold the store.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a measuring program, not part of the store")]

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Barrier};
use std::time::Instant;

use parking_lot::Mutex;
use rustix::fs::FallocateFlags;
use rustix::time::{ClockId, clock_gettime};

const RECORD: usize = 1024;
const FILE: u64 = 256 << 20;
const BATCHES: [usize; 4] = [1, 4, 32, 64];

#[derive(Clone, Copy, Debug)]
enum Prepare {
    Sparse,
    Fallocate,
    ZeroFill,
}

fn cpu_ns() -> u64 {
    let t = clock_gettime(ClockId::ProcessCPUTime);
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

fn prepare(path: &Path, how: Prepare) -> (File, u64) {
    let _ = std::fs::remove_file(path);
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(path).unwrap();
    let start = cpu_ns();
    match how {
        Prepare::Sparse => file.set_len(FILE).unwrap(),
        Prepare::Fallocate => rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, FILE).unwrap(),
        Prepare::ZeroFill => {
            rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, FILE).unwrap();
            let zeros = vec![0; 1 << 20];
            for n in 0..FILE >> 20 {
                file.write_all_at(&zeros, n << 20).unwrap();
            }
            file.sync_data().unwrap();
        }
    }
    (file, cpu_ns() - start)
}

/// The log as both variants see it: a position and a file behind one lock.
struct Log {
    file: File,
    end: u64,
}

impl Log {
    fn append(&mut self, bytes: &[u8]) -> u64 {
        let at = if self.end + bytes.len() as u64 > FILE { 0 } else { self.end };
        self.file.write_all_at(bytes, at).unwrap();
        self.end = at + bytes.len() as u64;
        at
    }
}

fn report(what: &str, threads: usize, batch: usize, records: u64, cpu: u64, wall: u64) {
    println!(
        "{what:<28} threads {threads} batch {batch:>2}  cpu {:>5} ns/record  wall {:>5} ns/record",
        cpu / records,
        wall / records
    );
}

/// The calling thread appends under the lock.
fn by_caller(file: File, threads: usize, batch: usize) -> (u64, u64) {
    let log = Arc::new(Mutex::new(Log { file, end: 0 }));
    run(threads, batch, move |bytes| {
        log.lock().append(bytes);
    })
}

type Order = (Vec<u8>, SyncSender<Vec<u8>>);

/// An owner thread appends what it is handed; a caller that finds the log free appends itself.
fn by_owner(file: File, threads: usize, batch: usize) -> (u64, u64) {
    let log = Arc::new(Mutex::new(Log { file, end: 0 }));
    let (orders, inbox) = sync_channel::<Order>(1024);
    let owner = {
        let log = Arc::clone(&log);
        std::thread::spawn(move || {
            while let Ok((bytes, back)) = inbox.recv() {
                let mut log = log.lock();
                log.append(&bytes);
                let _ = back.send(bytes);
                while let Ok((bytes, back)) = inbox.try_recv() {
                    log.append(&bytes);
                    let _ = back.send(bytes);
                }
            }
        })
    };
    let result = run(threads, batch, move |bytes| match log.try_lock() {
        Some(mut log) => {
            log.append(bytes);
        }
        None => {
            let (back, answer) = sync_channel(1);
            orders.send((bytes.to_vec(), back)).unwrap();
            answer.recv().unwrap();
        }
    });
    owner.join().unwrap();
    result
}

/// CPU and wall nanoseconds for one file's worth of records by `threads`. A little private work stands for the
/// encoding and the CRC that callers do outside of the lock.
fn run(threads: usize, batch: usize, append: impl Fn(&[u8]) + Send + Sync + 'static) -> (u64, u64) {
    let append = Arc::new(append);
    let rounds = FILE / (RECORD * batch * threads) as u64;
    let barrier = Arc::new(Barrier::new(threads + 1));
    let workers: Vec<_> = (0..threads)
        .map(|_| {
            let (append, barrier) = (Arc::clone(&append), Arc::clone(&barrier));
            std::thread::spawn(move || {
                let mut bytes = vec![7; RECORD * batch];
                barrier.wait();
                for n in 0..rounds {
                    for record in bytes.chunks_exact_mut(RECORD) {
                        record[..8].copy_from_slice(&n.to_be_bytes());
                        let crc = crc32fast::hash(&record[8..]);
                        record[8..12].copy_from_slice(&crc.to_be_bytes());
                    }
                    append(&bytes);
                }
            })
        })
        .collect();
    drop(append);
    let (cpu, wall) = (cpu_ns(), Instant::now());
    barrier.wait();
    for worker in workers {
        worker.join().unwrap();
    }
    (cpu_ns() - cpu, wall.elapsed().as_nanos() as u64)
}

fn syncs(path: &Path, how: Prepare, batch: usize) {
    let (file, _) = prepare(path, how);
    file.sync_all().unwrap();
    let bytes = vec![7; RECORD * batch];
    let mut times: Vec<u64> = (0..200)
        .map(|n| {
            let start = Instant::now();
            file.write_all_at(&bytes, n * bytes.len() as u64).unwrap();
            file.sync_data().unwrap();
            start.elapsed().as_micros() as u64
        })
        .collect();
    times.sort_unstable();
    println!(
        "{how:<10?} write + fdatasync, {batch:>2} records: p50 {} us, p90 {} us, p99 {} us",
        times[100], times[180], times[198]
    );
}

fn main() {
    let dir = std::env::args().skip(1).find(|a| !a.starts_with('-')).map_or_else(std::env::temp_dir, PathBuf::from);
    let path = dir.join("append_design.tmp");
    for how in [Prepare::Sparse, Prepare::Fallocate, Prepare::ZeroFill] {
        for batch in BATCHES {
            let (file, prepared) = prepare(&path, how);
            let (cpu, wall) = by_caller(file, 1, batch);
            report(
                &format!("{how:?} (+{} ns to prepare)", prepared * RECORD as u64 / FILE),
                1,
                batch,
                FILE / RECORD as u64,
                cpu,
                wall,
            );
        }
    }
    for batch in BATCHES {
        for round in 0..2 {
            let (cpu, wall) = by_caller(prepare(&path, Prepare::Fallocate).0, 2, batch);
            report(&format!("lock by caller #{round}"), 2, batch, FILE / RECORD as u64, cpu, wall);
            let (cpu, wall) = by_owner(prepare(&path, Prepare::Fallocate).0, 2, batch);
            report(&format!("owner + bypass #{round}"), 2, batch, FILE / RECORD as u64, cpu, wall);
        }
    }
    for how in [Prepare::Sparse, Prepare::Fallocate, Prepare::ZeroFill] {
        for batch in [1, 32] {
            syncs(&path, how, batch);
        }
    }
    let _ = std::fs::remove_file(&path);
}
