//! What storing a message costs: encode, CRC, append, dispatch to queue and index; and what reading it back costs.
//!
//! `cargo bench -p ferromq-store --bench append -- DIR` prints CPU and wall time per 1 KiB message, and allocations.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a measuring program, not part of the store")]
#![allow(unsafe_code, reason = "counting allocations takes a global allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use ferromq_protocol::record::MessageParts;
use ferromq_store::{AppendBatch, FlushMode, Store, StoreConfig};
use rustix::time::{ClockId, clock_gettime};

struct Counting;
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: hands everything to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const MESSAGES: usize = 400_000;
const BODY: [u8; 1024] = [b'x'; 1024];

fn cpu_ns() -> u64 {
    let t = clock_gettime(ClockId::ProcessCPUTime);
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

fn parts<'a>(queue_id: u32, properties: &'a [u8], key: &'a [u8]) -> MessageParts<'a> {
    MessageParts {
        topic: "BenchmarkTopic",
        queue_id,
        body: &BODY,
        properties,
        tags: None,
        keys: None,
        uniq_key: Some(key),
        flag: 0,
        sys_flag: 0,
        born_timestamp: 1,
        born_host: "127.0.0.1:1234".parse().unwrap(),
        store_host: "127.0.0.1:10911".parse().unwrap(),
        reconsume_times: 0,
        prepared_transaction_offset: 0,
    }
}

fn append(dir: &PathBuf, batch_len: usize, queues: u32, index: bool) {
    let _ = std::fs::remove_dir_all(dir);
    let config = StoreConfig { root: dir.clone(), message_index_enable: index, ..StoreConfig::default() };
    let store = Store::open(config, Arc::new(|_| ())).unwrap();
    let handles: Vec<_> = (0..queues).map(|id| store.queue("BenchmarkTopic", id)).collect();
    let mut batch = AppendBatch::default();
    let mut properties = b"UNIQ_KEY\x017F0000010000000000000000000000\x02WAIT\x01true\x02TAGS\x01TagA\x02".to_vec();
    let (mut cpu, mut wall, mut allocations) = (cpu_ns(), Instant::now(), 0);
    let warm = MESSAGES / 8;
    for n in 0..MESSAGES + warm {
        if n == warm {
            (cpu, wall, allocations) = (cpu_ns(), Instant::now(), ALLOCATIONS.load(Ordering::Relaxed));
        }
        for (at, digit) in properties[25..41].iter_mut().enumerate() {
            *digit = b"0123456789ABCDEF"[n >> (60 - 4 * at) & 15];
        }
        let queue = &handles[n % handles.len()];
        batch.push(queue, &parts(queue.id(), &properties, &properties[9..41])).unwrap();
        if batch.len() == batch_len {
            store.append(&mut batch).unwrap();
            store.dispatch();
            batch.clear();
        }
    }
    let allocations = (ALLOCATIONS.load(Ordering::Relaxed) - allocations) as f64 / MESSAGES as f64;
    let (cpu, wall) = (cpu_ns() - cpu, wall.elapsed().as_nanos() as u64);
    println!(
        "append batch {batch_len:>2} queues {queues:>4} index {index:<5}  cpu {:>5} ns  wall {:>5} ns  allocations {allocations:.2}",
        cpu / MESSAGES as u64,
        wall / MESSAGES as u64,
    );
    if batch_len == 32 {
        read(&store, &handles);
    }
}

fn read(store: &Store, queues: &[Arc<ferromq_store::Queue>]) {
    for round in 0..5 {
        let (mut out, mut count) = (Vec::new(), 0_u64);
        let (cpu, wall) = (cpu_ns(), Instant::now());
        for queue in queues {
            let mut offset = 0;
            while offset < queue.max_offset() {
                out.clear();
                let outcome = store.read(queue, offset, 32, 256 * 1024, &mut |_| true, &mut out);
                offset = outcome.next_offset;
                count += u64::from(outcome.count);
            }
        }
        let (cpu, wall) = (cpu_ns() - cpu, wall.elapsed().as_nanos() as u64);
        println!("  read by 32, pass {round}: cpu {} ns  wall {} ns a message", cpu / count, wall / count);
    }
}

fn sync(dir: &PathBuf, batch_len: usize) {
    let _ = std::fs::remove_dir_all(dir);
    let config = StoreConfig { root: dir.clone(), flush_disk_type: FlushMode::Sync, ..StoreConfig::default() };
    let store = Store::open(config, Arc::new(|_| ())).unwrap();
    let queue = store.queue("BenchmarkTopic", 0);
    let mut batch = AppendBatch::default();
    let mut times: Vec<u64> = (0..400)
        .map(|_| {
            for _ in 0..batch_len {
                batch.push(&queue, &parts(0, b"UNIQ_KEY\x01k\x02", b"k")).unwrap();
            }
            let start = Instant::now();
            store.append(&mut batch).unwrap();
            let (tell, told) = std::sync::mpsc::sync_channel(1);
            store.when_durable(batch.end_position(), Box::new(move |_| tell.send(()).unwrap()));
            told.recv().unwrap();
            batch.clear();
            start.elapsed().as_micros() as u64
        })
        .collect();
    times.sort_unstable();
    println!(
        "sync flush, {batch_len:>2} messages: p50 {} us, p90 {} us, p99 {} us",
        times[200], times[360], times[396]
    );
}

fn restart(dir: &Path) {
    let config = StoreConfig { root: dir.to_owned(), ..StoreConfig::default() };
    let (cpu, start) = (cpu_ns(), Instant::now());
    let store = Store::open(config, Arc::new(|_| ())).unwrap();
    let (cpu, wall) = ((cpu_ns() - cpu) / 1_000_000, start.elapsed().as_millis());
    println!("open with {} MiB of log: {wall} ms, {cpu} ms CPU", store.max_physical_offset() >> 20);
}

/// Everything but the log is built again.
fn rebuild(dir: &Path) {
    for folder in ["consumequeue", "index"] {
        std::fs::remove_dir_all(dir.join(folder)).unwrap();
    }
    std::fs::remove_file(dir.join("checkpoint")).unwrap();
    std::fs::write(dir.join("abort"), "1").unwrap();
    restart(dir);
}

fn main() {
    let dir = std::env::args().skip(1).find(|a| !a.starts_with('-')).map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = dir.join("append-bench.tmp");
    if std::env::args().any(|a| a == "sync") {
        return [1, 1, 32].into_iter().for_each(|n| sync(&dir, n));
    }
    if std::env::args().any(|a| a == "read") {
        append(&dir, 32, 8, true);
        return append(&dir, 32, 1000, true);
    }
    if std::env::args().any(|a| a == "rebuild") {
        append(&dir, 64, 8, true);
        (0..5).for_each(|_| rebuild(&dir));
        return;
    }
    if std::env::args().any(|a| a == "short") {
        return append(&dir, 32, 8, true);
    }
    for batch in [1, 4, 32, 64] {
        append(&dir, batch, 8, true);
    }
    append(&dir, 32, 8, false);
    append(&dir, 32, 1000, true);
    restart(&dir);
    std::fs::write(dir.join("abort"), "1").unwrap();
    restart(&dir);
    for batch in [1, 32] {
        sync(&dir, batch);
    }
    let _ = std::fs::remove_dir_all(&dir);
}
