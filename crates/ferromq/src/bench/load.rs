//! The load: threads with a tokio runtime each, clients with a connection each, and so many calls under way on each connection.
//!
//! Every thread keeps its own histogram; what they share are three counters.

use super::{GROUP, Span};
use crate::cli::BenchArgs;
use crate::{Failure, connect};
use ferromq_client::{Message, Producer, PullConsumer, SendStatus, Subscription};
use hdrhistogram::Histogram;
use parking_lot::Mutex;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Messages asked for in one pull.
const PULL_BATCH: u32 = 32;
/// A load that has failed this often ends early.
const MOST_FAILURES: u64 = 1000;
/// Longest latency that is told apart, microseconds.
const LONGEST_MICROS: u64 = 60_000_000;

/// What the threads of a load share.
#[derive(Default)]
pub struct Counters {
    taken: AtomicU64,
    done: AtomicU64,
    failures: AtomicU64,
    first_failure: Mutex<Option<String>>,
}

impl Counters {
    /// Messages acknowledged or received so far.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Whether there is another message to send.
    fn take(&self, total: u64) -> bool {
        self.failures.load(Ordering::Relaxed) < MOST_FAILURES && self.taken.fetch_add(1, Ordering::Relaxed) < total
    }

    /// Counts messages that are done.
    pub fn count(&self, messages: u64) {
        self.done.fetch_add(messages, Ordering::Relaxed);
    }

    /// Whether so many calls failed that the load ends.
    pub fn has_failed(&self) -> bool {
        self.failures.load(Ordering::Relaxed) >= MOST_FAILURES
    }

    /// Counts a call that failed.
    pub fn fail(&self, why: String) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        self.first_failure.lock().get_or_insert(why);
    }
}

/// What a load came to.
pub struct Outcome {
    /// Messages acknowledged or received.
    pub messages: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
    /// Calls that failed.
    pub failures: u64,
    /// Why the first of them did.
    pub first_failure: Option<String>,
    /// Microseconds from call to answer.
    pub latency: Histogram<u64>,
}

/// A load under way.
pub struct Load {
    counters: Arc<Counters>,
    threads: Vec<JoinHandle<Result<ThreadResult, String>>>,
}

/// Latencies and body bytes of one thread.
pub struct ThreadResult {
    latency: Histogram<u64>,
    bytes: u64,
}

impl ThreadResult {
    /// Nothing yet.
    pub fn new() -> Result<Self, String> {
        let latency = Histogram::new_with_max(LONGEST_MICROS, 3).map_err(|error| error.to_string())?;
        Ok(Self { latency, bytes: 0 })
    }

    /// Notes an answer.
    pub fn record(&mut self, began: Instant, bytes: u64) {
        self.latency.saturating_record(began.elapsed().as_micros() as u64);
        self.bytes += bytes;
    }
}

impl Load {
    /// The counters, to watch them.
    pub fn counters(&self) -> Arc<Counters> {
        self.counters.clone()
    }

    /// Waits for the end, calling `watch` every `period`.
    pub fn join(self, period: Duration, mut watch: impl FnMut()) -> Result<Outcome, Failure> {
        let mut last = Instant::now();
        while self.threads.iter().any(|thread| !thread.is_finished()) {
            std::thread::sleep(Duration::from_millis(1));
            if last.elapsed() >= period {
                watch();
                last = Instant::now();
            }
        }
        let mut sum = ThreadResult::new()?;
        for thread in self.threads {
            let part = thread.join().map_err(|_| "a thread of the load generator panicked")??;
            sum.latency.add(part.latency)?;
            sum.bytes += part.bytes;
        }
        let counters = &self.counters;
        Ok(Outcome {
            messages: counters.done(),
            bytes: sum.bytes,
            failures: counters.failures.load(Ordering::Relaxed),
            first_failure: counters.first_failure.lock().take(),
            latency: sum.latency,
        })
    }
}

/// Starts `work` on as many threads as leave the server a core, each with its share of the connections.
pub fn start<F>(arguments: &BenchArgs, work: impl Fn(usize, usize, Arc<Counters>) -> F) -> Result<Load, Failure>
where
    F: FnOnce() -> Result<ThreadResult, String> + Send + 'static,
{
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let count = (cores / 2).max(1).min(arguments.connections as usize);
    let counters = Arc::new(Counters::default());
    let spawn = |index: usize| {
        let run = work(index, count, counters.clone());
        std::thread::Builder::new().name(format!("load-{index}")).spawn(run)
    };
    let threads = (0..count).map(spawn).collect::<Result<_, _>>()?;
    Ok(Load { counters, threads })
}

/// Starts sending.
pub fn send(arguments: &BenchArgs) -> Result<Load, Failure> {
    let message = Message::new(&arguments.topic, vec![b'm'; arguments.size as usize]);
    start(arguments, |index, threads, counters| {
        let connections = (index..arguments.connections as usize).step_by(threads).count();
        let (in_flight, total) = (arguments.in_flight, arguments.messages);
        let namesrv = arguments.cluster.namesrv.clone();
        let message = message.clone();
        move || {
            on_this_thread(async move {
                let result = Rc::new(RefCell::new(ThreadResult::new()?));
                let mut senders = Vec::new();
                for _ in 0..connections {
                    let client = connect::client_at(&namesrv).map_err(|failure| failure.0)?;
                    let producer = Rc::new(client.producer("ferromq_bench").map_err(|error| error.to_string())?);
                    for _ in 0..in_flight {
                        let (producer, message) = (producer.clone(), message.clone());
                        let (counters, result) = (counters.clone(), result.clone());
                        senders.push(tokio::task::spawn_local(async move {
                            send_until_done(&producer, &message, &counters, total, &result).await;
                        }));
                    }
                }
                for sender in senders {
                    sender.await.map_err(|error| error.to_string())?;
                }
                Ok(result.replace(ThreadResult::new()?))
            })
        }
    })
}

async fn send_until_done(
    producer: &Producer,
    message: &Message,
    counters: &Counters,
    total: u64,
    result: &RefCell<ThreadResult>,
) {
    while counters.take(total) {
        let began = Instant::now();
        match producer.send(message).await {
            Ok(sent) if sent.status == SendStatus::Ok => {
                result.borrow_mut().record(began, message.body().len() as u64);
                counters.done.fetch_add(1, Ordering::Relaxed);
            }
            Ok(sent) => counters.fail(format!("stored, but not as safely as asked: {:?}", sent.status)),
            Err(error) => counters.fail(error.to_string()),
        }
    }
}

/// Starts pulling the messages of `spans`, one pull under way per queue, until `wanted` have come.
pub fn pull(arguments: &BenchArgs, spans: &[Span], wanted: u64) -> Result<Load, Failure> {
    start(arguments, |index, threads, counters| {
        let mine: Vec<Span> = spans.iter().skip(index).step_by(threads).cloned().collect();
        let namesrv = arguments.cluster.namesrv.clone();
        let connections = (arguments.connections as usize).div_ceil(threads);
        move || {
            on_this_thread(async move {
                let result = Rc::new(RefCell::new(ThreadResult::new()?));
                let mut consumers = Vec::new();
                for _ in 0..connections.min(mine.len()) {
                    let client = connect::client_at(&namesrv).map_err(|failure| failure.0)?;
                    consumers.push(Rc::new(client.pull_consumer(GROUP).map_err(|error| error.to_string())?));
                }
                let mut readers = Vec::new();
                for (number, span) in mine.into_iter().enumerate() {
                    let consumer = consumers[number % consumers.len()].clone();
                    let (counters, result) = (counters.clone(), result.clone());
                    readers.push(tokio::task::spawn_local(async move {
                        pull_until_done(&consumer, span, &counters, wanted, &result).await;
                    }));
                }
                for reader in readers {
                    reader.await.map_err(|error| error.to_string())?;
                }
                Ok(result.replace(ThreadResult::new()?))
            })
        }
    })
}

async fn pull_until_done(
    consumer: &PullConsumer,
    span: Span,
    counters: &Counters,
    wanted: u64,
    result: &RefCell<ThreadResult>,
) {
    let everything = Subscription::all();
    let mut offset = span.from;
    while offset < span.to && counters.done() < wanted && counters.failures.load(Ordering::Relaxed) < MOST_FAILURES {
        let began = Instant::now();
        match consumer.pull(&span.queue, offset, PULL_BATCH, &everything, None).await {
            Ok(pulled) => {
                let bytes: usize = pulled.messages.iter().map(|message| message.body.len()).sum();
                result.borrow_mut().record(began, bytes as u64);
                counters.done.fetch_add(pulled.messages.len() as u64, Ordering::Relaxed);
                if pulled.next_begin_offset <= offset {
                    counters.fail(format!("queue {} does not go on from offset {offset}", span.queue));
                    return;
                }
                offset = pulled.next_begin_offset;
            }
            Err(error) => counters.fail(error.to_string()),
        }
    }
}

/// Runs tasks on this thread until `work` is done.
pub fn on_this_thread(work: impl Future<Output = Result<ThreadResult, String>>) -> Result<ThreadResult, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    tokio::task::LocalSet::new().block_on(&runtime, work)
}
