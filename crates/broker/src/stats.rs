//! Counters of one broker and their rates, as GET_BROKER_RUNTIME_INFO shows them (RocketMQ's `StoreStatsService`, `BrokerStats`).
//!
//! Counting is one relaxed addition per request drain, from any thread. Every [`TICK`] one sample is kept for the rates over
//! 10, 60 and 600 seconds. All of it starts at zero with the broker; totals of a day turn over at midnight UTC.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use ferromq_common::clock;
use parking_lot::Mutex;

/// How often [`Stats::tick`] is to be called.
pub const TICK: Duration = Duration::from_secs(10);
/// Windows of the rates.
const WINDOWS: [Duration; 3] = [Duration::from_secs(10), Duration::from_secs(60), Duration::from_secs(600)];
/// Samples kept: the longest window and one more.
const MAX_SAMPLES: usize = 61;
const DAY_MILLIS: i64 = 86_400_000;

/// One reading of all counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages stored.
    pub put: u64,
    /// Bytes of their records.
    pub put_bytes: u64,
    /// Messages that could not be stored.
    pub put_failed: u64,
    /// Messages handed to consumers.
    pub got: u64,
    /// Pulls that found messages.
    pub found: u64,
    /// Pulls that found none.
    pub missed: u64,
}

/// The counters. Shared by all threads.
pub struct Stats {
    put: AtomicU64,
    put_bytes: AtomicU64,
    put_failed: AtomicU64,
    got: AtomicU64,
    found: AtomicU64,
    missed: AtomicU64,
    started: Instant,
    started_millis: i64,
    history: Mutex<History>,
}

struct History {
    samples: VecDeque<(Instant, Counts)>,
    day: i64,
    /// Totals when this day and the one before began.
    morning: Counts,
    morning_before: Counts,
}

impl Default for Stats {
    fn default() -> Self {
        let (started, started_millis) = (Instant::now(), clock::now_millis());
        let history = History {
            samples: VecDeque::from([(started, Counts::default())]),
            day: started_millis / DAY_MILLIS,
            morning: Counts::default(),
            morning_before: Counts::default(),
        };
        Self {
            put: AtomicU64::new(0),
            put_bytes: AtomicU64::new(0),
            put_failed: AtomicU64::new(0),
            got: AtomicU64::new(0),
            found: AtomicU64::new(0),
            missed: AtomicU64::new(0),
            started,
            started_millis,
            history: Mutex::new(history),
        }
    }
}

impl Stats {
    /// Counts stored messages and the bytes of their records.
    pub fn count_put(&self, messages: u64, bytes: u64) {
        self.put.fetch_add(messages, Relaxed);
        self.put_bytes.fetch_add(bytes, Relaxed);
    }

    /// Counts messages that could not be stored.
    pub fn count_put_failed(&self, messages: u64) {
        self.put_failed.fetch_add(messages, Relaxed);
    }

    /// Counts one pull and the messages it gave.
    pub fn count_pull(&self, messages: u64) {
        if messages == 0 {
            self.missed.fetch_add(1, Relaxed);
        } else {
            self.found.fetch_add(1, Relaxed);
            self.got.fetch_add(messages, Relaxed);
        }
    }

    /// All counters now.
    pub fn counts(&self) -> Counts {
        Counts {
            put: self.put.load(Relaxed),
            put_bytes: self.put_bytes.load(Relaxed),
            put_failed: self.put_failed.load(Relaxed),
            got: self.got.load(Relaxed),
            found: self.found.load(Relaxed),
            missed: self.missed.load(Relaxed),
        }
    }

    /// When the broker started, milliseconds since 1970.
    pub fn started_millis(&self) -> i64 {
        self.started_millis
    }

    /// Time since the broker started.
    pub fn running(&self) -> Duration {
        self.started.elapsed()
    }

    /// Keeps a sample for the rates and turns the day over.
    pub fn tick(&self, now: Instant, now_millis: i64) {
        let counts = self.counts();
        let mut history = self.history.lock();
        if history.samples.len() >= MAX_SAMPLES {
            history.samples.pop_front();
        }
        history.samples.push_back((now, counts));
        let day = now_millis / DAY_MILLIS;
        if day != history.day {
            history.day = day;
            history.morning_before = history.morning;
            history.morning = counts;
        }
    }

    /// Totals at the beginning of yesterday and of today.
    pub fn mornings(&self) -> (Counts, Counts) {
        let history = self.history.lock();
        (history.morning_before, history.morning)
    }

    /// Events per second over the last 10, 60 and 600 seconds, as far back as samples reach: three numbers and blanks between.
    pub fn rates(&self, now: Instant, of: impl Fn(&Counts) -> u64) -> String {
        let value = of(&self.counts());
        let history = self.history.lock();
        let rate = |window: Duration| {
            let old_enough = |at: &Instant| now.saturating_duration_since(*at) >= window;
            let sample = history.samples.iter().rev().find(|(at, _)| old_enough(at)).or(history.samples.front());
            let Some((at, then)) = sample else { return 0.0 };
            let seconds = now.saturating_duration_since(*at).as_secs_f64();
            if seconds <= 0.0 { 0.0 } else { value.saturating_sub(of(then)) as f64 / seconds }
        };
        WINDOWS.map(|window| format!("{:.2}", rate(window))).join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_reach_back_as_far_as_asked() {
        let stats = Stats::default();
        let start = stats.started;
        let after = |seconds| start + Duration::from_secs(seconds);
        stats.count_put(600, 600_000);
        stats.tick(after(50), 0);
        stats.count_put(100, 100_000);
        assert_eq!(stats.rates(after(60), |c| c.put), "10.00 11.67 11.67");
        assert_eq!(stats.rates(after(60), |c| c.got), "0.00 0.00 0.00");
        assert_eq!(stats.rates(start, |c| c.put), "0.00 0.00 0.00");
    }

    #[test]
    fn pulls_count_as_found_or_missed() {
        let stats = Stats::default();
        stats.count_pull(32);
        stats.count_pull(0);
        assert_eq!(stats.counts(), Counts { got: 32, found: 1, missed: 1, ..Counts::default() });
    }

    #[test]
    fn a_new_day_keeps_the_totals_of_its_morning() {
        let stats = Stats::default();
        let today = stats.started_millis;
        stats.count_put(5, 0);
        stats.tick(stats.started, today);
        assert_eq!(stats.mornings(), (Counts::default(), Counts::default()));
        stats.tick(stats.started, today + DAY_MILLIS);
        stats.count_put(2, 0);
        stats.tick(stats.started, today + 2 * DAY_MILLIS);
        let (yesterday, morning) = stats.mornings();
        assert_eq!((yesterday.put, morning.put), (5, 7));
    }

    #[test]
    fn samples_are_bounded() {
        let stats = Stats::default();
        for n in 0..1000 {
            stats.tick(stats.started + TICK * n, 0);
        }
        assert_eq!(stats.history.lock().samples.len(), MAX_SAMPLES);
    }
}
