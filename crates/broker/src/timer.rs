//! Messages that are delivered later: delay levels (RocketMQ's `ScheduleMessageService`) and timer messages
//! (`TimerMessageStore`). What waits lies in the log, in SCHEDULE_TOPIC_XXXX or rmq_sys_wheel_timer; what is due is
//! appended again to the topic it was sent to.
//!
//! | file | what |
//! |---|---|
//! | `divert.rs` | a message in hand becomes one that waits: the way in for sends, retries, and whoever schedules |
//! | `levels.rs` | one cursor for each delay level |
//! | `pending.rs`, `wheel.rs` | the timer messages that are not due yet |
//! | `delivery.rs` | from the waiting record to the delivered message |
//! | `marks.rs` | how far all of it is, in `delayOffset.json` and `timercheck` |
//!
//! One thread delivers. It sleeps until the next message is due, or until one arrives that is due earlier: an idle
//! broker has nothing to poll. After a crash it goes on from the files; what they do not know it looks up in the index,
//! so that a message is delivered at least once and seldom twice. It never drops a message because an append failed.

mod delivery;
mod divert;
mod levels;
mod marks;
mod pending;
mod wheel;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use ferromq_common::clock;
use ferromq_common::json_file::LoadError;
use ferromq_protocol::topic as names;
use ferromq_store::{Queue, Store};
use parking_lot::{Condvar, Mutex};

pub(crate) use self::divert::When;
use self::levels::Levels;
pub(crate) use self::marks::Marks;
use self::pending::Pendings;
use crate::broker::Shared;
use crate::config::BrokerConfig;

/// Longest sleep while something is pending: the wall clock may be set.
const MAX_SLEEP: Duration = Duration::from_secs(1);
/// How long delivery rests when the store took nothing.
const RETRY_AFTER_MS: i64 = 500;
/// Most timer messages that may be pending, 16 to 32 bytes of memory each; beyond it sends are refused.
pub(crate) const MAX_PENDING: u64 = 50_000_000;

/// Times and limits of timer messages, milliseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TimerSettings {
    pub enabled: bool,
    /// Width of a step: messages are due at its end (`timerPrecisionMs`).
    pub precision: i64,
    /// `timerMaxDelaySec`.
    pub max_delay: i64,
    /// A message that waits longer is stored anew after this time, before its record expires (`timerRollWindowSlot`).
    pub roll_window: i64,
}

impl TimerSettings {
    fn new(config: &BrokerConfig) -> Self {
        let precision = i64::from(config.timer_precision_ms.max(1));
        Self {
            enabled: config.timer_wheel_enable,
            precision,
            max_delay: i64::from(config.timer_max_delay_sec) * 1000,
            roll_window: i64::from(config.timer_roll_window_slot).max(2) * precision,
        }
    }

    /// Begin of the step a time lies in.
    fn slot(&self, time: i64) -> i64 {
        time - time.rem_euclid(self.precision)
    }
}

/// What all threads know of delayed delivery: queues, limits, and how to wake the thread that delivers.
pub struct Timer {
    pub(crate) settings: TimerSettings,
    /// Delays of the configured levels, milliseconds.
    delays: Vec<i64>,
    /// The queues of SCHEDULE_TOPIC_XXXX, by level less one.
    levels: Vec<Arc<Queue>>,
    /// When the first message of each level is due; `i64::MAX` when there is none.
    level_due: Vec<AtomicI64>,
    /// The queue of rmq_sys_wheel_timer.
    queue: Arc<Queue>,
    /// Pending timer messages.
    pending: AtomicU64,
    signal: Signal,
    pub(crate) marks: Marks,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Timer {
    /// How far ahead a message may be delayed, milliseconds.
    pub fn max_delay(&self) -> i64 {
        self.settings.max_delay
    }

    /// Reads how far delivery was. Nothing is delivered before [`Timer::start`].
    pub fn open(root: &Path, config: &BrokerConfig, store: &Store, delays: Vec<i64>) -> Result<Self, LoadError> {
        // Levels that a former configuration had may hold messages still.
        let used = store.queues(names::SCHEDULE).iter().map(|queue| queue.id() as usize + 1).max().unwrap_or(0);
        let levels: Vec<_> = (0..delays.len().max(used).min(levels::MAX_LEVELS))
            .map(|id| store.queue(names::SCHEDULE, id as u32))
            .collect();
        let timer = Self {
            settings: TimerSettings::new(config),
            level_due: levels.iter().map(|_| AtomicI64::new(i64::MAX)).collect(),
            marks: Marks::open(root, &levels)?,
            levels,
            delays,
            queue: store.queue(names::TIMER, 0),
            pending: AtomicU64::new(0),
            signal: Signal::default(),
            thread: Mutex::default(),
        };
        for queue in timer.levels.iter().chain([&timer.queue]) {
            queue.watchers.fetch_add(1, Ordering::SeqCst);
        }
        Ok(timer)
    }

    /// Begins to deliver.
    pub fn start(&self, broker: &Arc<Shared>) -> io::Result<()> {
        let broker = Arc::clone(broker);
        let thread = std::thread::Builder::new().name("timer".into()).spawn(move || deliver(&broker))?;
        *self.thread.lock() = Some(thread);
        Ok(())
    }

    /// Ends the thread; nothing is delivered afterwards.
    pub fn stop(&self) {
        self.signal.stop();
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that delivers delayed messages has died; a restart delivers what waits");
        }
    }

    /// Told by dispatch of each message that arrives in a queue with watchers.
    pub fn arrived(&self, queue: &Arc<Queue>, tags_code: i64) {
        match queue.topic() {
            names::TIMER => self.signal.ring(i64::MIN),
            names::SCHEDULE => {
                let first = self.level_due.get(queue.id() as usize);
                if first.is_some_and(|first| tags_code < first.load(Ordering::SeqCst)) {
                    self.signal.ring(tags_code);
                }
            }
            _ => {}
        }
    }

    /// For each delay level the first message that is not delivered, and the end of its queue.
    pub(crate) fn level_progress(&self) -> Vec<(i64, i64)> {
        self.marks.latest_offsets().into_iter().zip(self.levels.iter().map(|queue| queue.max_offset())).collect()
    }

    /// Number of timer messages that are known to wait.
    pub fn pending(&self) -> u64 {
        self.pending.load(Ordering::Relaxed)
    }
}

/// How the thread is woken.
struct Signal {
    rings: AtomicU64,
    /// Until when the thread sleeps, milliseconds since 1970; `i64::MIN` while it is awake.
    sleeps_until: AtomicI64,
    stopping: AtomicBool,
    lock: Mutex<()>,
    wake: Condvar,
}

impl Default for Signal {
    fn default() -> Self {
        Self {
            rings: AtomicU64::new(0),
            sleeps_until: AtomicI64::new(i64::MIN),
            stopping: AtomicBool::new(false),
            lock: Mutex::default(),
            wake: Condvar::default(),
        }
    }
}

impl Signal {
    /// Something is due at `due`: wakes the thread if it sleeps longer.
    fn ring(&self, due: i64) {
        self.rings.fetch_add(1, Ordering::SeqCst);
        if due < self.sleeps_until.load(Ordering::SeqCst) {
            drop(self.lock.lock());
            self.wake.notify_one();
        }
    }

    fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.ring(i64::MIN);
    }

    /// Sleeps until `until`, at once awake if it rang since `seen`.
    fn sleep(&self, seen: u64, until: Option<i64>) {
        let mut guard = self.lock.lock();
        self.sleeps_until.store(until.unwrap_or(i64::MAX), Ordering::SeqCst);
        if self.rings.load(Ordering::SeqCst) == seen {
            match until.map(|until| u64::try_from(until - clock::now_millis())) {
                None => self.wake.wait(&mut guard),
                Some(Ok(millis)) => {
                    self.wake.wait_for(&mut guard, Duration::from_millis(millis).min(MAX_SLEEP));
                }
                Some(Err(_)) => {}
            }
        }
        self.sleeps_until.store(i64::MIN, Ordering::SeqCst);
    }
}

/// The thread: delivers what is due, sleeps until something is.
fn deliver(broker: &Arc<Shared>) {
    let timer = &broker.timer;
    let mut levels = Levels::new(broker);
    let mut pendings = timer.settings.enabled.then(|| Pendings::new(broker));
    while !timer.signal.stopping.load(Ordering::SeqCst) {
        let seen = timer.signal.rings.load(Ordering::SeqCst);
        let levels_next = levels.turn();
        let pendings_next = pendings.as_mut().map_or(Ok(None), Pendings::turn);
        let next = match (levels_next, pendings_next) {
            (Ok(a), Ok(b)) => [a, b].into_iter().flatten().min(),
            (Err(error), _) | (_, Err(error)) => {
                tracing::warn!("delayed messages that are due wait on, the store does not take them: {error}");
                Some(clock::now_millis() + RETRY_AFTER_MS)
            }
        };
        timer.marks.advance(&broker.store, &levels, pendings.as_mut());
        if pendings.as_ref().is_some_and(Pendings::has_caught_up) {
            timer.marks.forget_java_files(broker.topics.saving());
        }
        timer.signal.sleep(seen, next);
    }
}
