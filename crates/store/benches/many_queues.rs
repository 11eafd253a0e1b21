//! What many queues cost: CPU per stored message against 8 queues, anonymous memory, and the restart after a kill.
//!
//! `cargo bench -p ferromq-store --bench many_queues -- QUEUES [DIR] [MESSAGES]`. Each queue is a topic's only one, so
//! that each has a folder of its own, as with many topics.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a measuring program, not part of the store")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferromq_protocol::record::MessageParts;
use ferromq_store::{AppendBatch, Queue, Store, StoreConfig};
use rustix::time::{ClockId, clock_gettime};

const BATCH: usize = 32;
const BODY: [u8; 1024] = [b'x'; 1024];
/// How topics are called.
const PREFIX: &str = "topic-with-a-name-of-usual-length";

fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Anonymous resident memory, MiB.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
}

fn open(dir: &Path) -> Store {
    Store::open(StoreConfig { root: dir.to_owned(), ..StoreConfig::default() }, Arc::new(|_| ())).unwrap()
}

fn send(store: &Store, batch: &mut AppendBatch, queues: &[Arc<Queue>], from: usize) {
    for n in from..from + BATCH {
        let queue = &queues[n % queues.len()];
        let properties = format!("UNIQ_KEY\x017F00000100000000{n:016X}\x02");
        let parts = MessageParts {
            topic: queue.topic(),
            queue_id: queue.id(),
            body: &BODY,
            properties: properties.as_bytes(),
            tags: None,
            keys: None,
            uniq_key: Some(&properties.as_bytes()[9..41]),
            flag: 0,
            sys_flag: 0,
            born_timestamp: 1,
            born_host: "127.0.0.1:1234".parse().unwrap(),
            store_host: "127.0.0.1:10911".parse().unwrap(),
            reconsume_times: 0,
            prepared_transaction_offset: 0,
        };
        batch.push(queue, &parts).unwrap();
    }
    store.append(batch).unwrap();
    store.dispatch();
    batch.clear();
}

/// Every queue gets a message, then all get some in turn, at full speed, with the checkpoints that takes; ends as a kill does.
fn fill(dir: &Path, count: usize, messages: usize) {
    let store = open(dir);
    let began = Instant::now();
    let queues: Vec<_> = (0..count).map(|n| store.queue(&format!("{PREFIX}-{n}"), 0)).collect();
    let mut batch = AppendBatch::default();
    let mut sent = 0;
    while sent < count {
        send(&store, &mut batch, &queues, sent);
        sent += BATCH;
    }
    println!("{count} queues: first messages {:.1} s, {} MiB anonymous", began.elapsed().as_secs_f64(), memory());
    store.checkpoint_now();
    let (before, first) = (cpu(), sent);
    while sent < first + messages {
        send(&store, &mut batch, &queues, sent);
        sent += BATCH;
    }
    let (used, messages) = (cpu() - before, sent - first);
    println!(
        "{count} queues: {messages} messages, {} ns CPU each, {} MiB anonymous",
        used.as_nanos() / messages as u128,
        memory()
    );
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let argument = |n: usize| arguments.get(n).cloned();
    let count: usize = argument(0).map_or(100_000, |text| text.parse().unwrap());
    let dir = argument(1).map_or_else(std::env::temp_dir, PathBuf::from).join("many-queues");
    let messages = argument(2).map_or(3_000_000, |text| text.parse().unwrap());
    if std::env::var_os("MANY_QUEUES_FILL").is_some() {
        return fill(&dir, count, messages);
    }
    for count in [8, count] {
        let _ = std::fs::remove_dir_all(&dir);
        let texts = [count.to_string(), dir.parent().unwrap().display().to_string(), messages.to_string()];
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(texts).env("MANY_QUEUES_FILL", "1").status().unwrap();
        let (before, began) = (cpu(), Instant::now());
        let store = open(&dir);
        println!(
            "{count} queues: open after a kill {:.2} s, {:.2} s CPU, {} MiB anonymous, {} topics",
            began.elapsed().as_secs_f64(),
            (cpu() - before).as_secs_f64(),
            memory(),
            store.topics().len()
        );
        let began = Instant::now();
        drop(store);
        println!("{count} queues: orderly stop {:.2} s", began.elapsed().as_secs_f64());
    }
    let _ = std::fs::remove_dir_all(&dir);
}
