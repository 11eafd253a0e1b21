//! How much each topic takes in and each group takes out (RocketMQ's `BrokerStatsManager`, `StatsItem`), for
//! VIEW_BROKER_STATS_DATA and everything that shows a rate.
//!
//! A [`Flow`] is two counters: those of a topic live with the topic, those of a group's reading in [`Rates`], by
//! `topic@group`. Counting is two relaxed additions per run of messages. [`Rates::tick`] keeps samples for the last minute,
//! hour and day; the newest sample of every answer is the moment of asking, so that figures are true at once and not after
//! the next period. All of it starts at zero with the broker.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use ferromq_common::clock;
use ferromq_protocol::body::{BrokerStatsData, BrokerStatsItem};
use parking_lot::{Mutex, RwLock};

use crate::offsets::{SEPARATOR, with_pair};

/// Samples of the last minute, each 10 seconds after the one before.
const MINUTE: Window = Window { period: 10_000, samples: 7 };
/// Of the last hour.
const HOUR: Window = Window { period: 600_000, samples: 7 };
/// Of the last day.
const DAY: Window = Window { period: 3_600_000, samples: 25 };
/// Most (topic, group) pairs that are counted; further ones show no rate.
pub const MAX_PAIRS: usize = 100_000;

struct Window {
    /// Milliseconds.
    period: i64,
    samples: usize,
}

/// Messages and bytes that went one way.
#[derive(Debug, Default)]
pub struct Flow {
    messages: AtomicU64,
    bytes: AtomicU64,
    history: Mutex<History>,
    /// Of a group's reading: by queue, up to where members that pull have got.
    pulled: Mutex<BTreeMap<u32, i64>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    at: i64,
    messages: u64,
    bytes: u64,
}

#[derive(Debug, Default)]
struct History {
    minute: VecDeque<Sample>,
    hour: VecDeque<Sample>,
    day: VecDeque<Sample>,
}

/// What a [`Flow`] is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    Messages,
    Bytes,
}

impl Flow {
    /// Begins to count now.
    pub fn new() -> Self {
        let first = || VecDeque::from([Sample { at: clock::now_millis(), ..Sample::default() }]);
        let history = Mutex::new(History { minute: first(), hour: first(), day: first() });
        Self { history, ..Self::default() }
    }

    /// Counts messages and their bytes.
    pub fn count(&self, messages: u64, bytes: u64) {
        self.messages.fetch_add(messages, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
    }

    /// Notes up to where a member of the group has pulled a queue.
    pub fn note_pulled(&self, queue_id: u32, next_offset: i64) {
        self.pulled.lock().insert(queue_id, next_offset);
    }

    /// What was noted last.
    pub fn pulled(&self, queue_id: u32) -> Option<i64> {
        self.pulled.lock().get(&queue_id).copied()
    }

    /// Messages counted so far.
    pub fn total(&self) -> u64 {
        self.messages.load(Relaxed)
    }

    /// Messages a second during the last minute.
    pub fn rate(&self) -> f64 {
        self.data(Measure::Messages, clock::now_millis()).stats_minute.tps
    }

    /// The answer to VIEW_BROKER_STATS_DATA.
    pub fn data(&self, measure: Measure, now: i64) -> BrokerStatsData {
        let now = self.sample(now);
        let history = self.history.lock();
        let item = |window: &VecDeque<Sample>| item(window.front().copied().unwrap_or_default(), now, measure);
        BrokerStatsData {
            stats_day: item(&history.day),
            stats_hour: item(&history.hour),
            stats_minute: item(&history.minute),
        }
    }

    /// Keeps a sample where one is due; whether anything was counted within the day.
    pub fn tick(&self, now: i64) -> bool {
        if self.total() == 0 {
            return false;
        }
        let sample = self.sample(now);
        let mut history = self.history.lock();
        let History { minute, hour, day } = &mut *history;
        for (kept, window) in [(minute, MINUTE), (hour, HOUR), (day, DAY)] {
            if kept.back().is_none_or(|last| now - last.at >= window.period) {
                if kept.len() >= window.samples {
                    kept.pop_front();
                }
                kept.push_back(sample);
            }
        }
        history.day.len() < DAY.samples || history.day.front().is_some_and(|first| first.messages != sample.messages)
    }

    fn sample(&self, at: i64) -> Sample {
        Sample { at, messages: self.messages.load(Relaxed), bytes: self.bytes.load(Relaxed) }
    }
}

fn item(first: Sample, last: Sample, measure: Measure) -> BrokerStatsItem {
    let messages = last.messages.saturating_sub(first.messages);
    let sum = match measure {
        Measure::Messages => messages,
        Measure::Bytes => last.bytes.saturating_sub(first.bytes),
    };
    let millis = last.at.saturating_sub(first.at);
    BrokerStatsItem {
        sum: i64::try_from(sum).unwrap_or(i64::MAX),
        tps: if millis > 0 { sum as f64 * 1000.0 / millis as f64 } else { 0.0 },
        avgpt: if messages > 0 { sum as f64 / messages as f64 } else { 0.0 },
    }
}

/// What groups have read, by `topic@group`.
#[derive(Default)]
pub struct Rates {
    read: RwLock<HashMap<Box<str>, Arc<Flow>>>,
}

impl Rates {
    /// The flow of a group's reading, begun at its first message; `None` beyond [`MAX_PAIRS`].
    pub fn read_by(&self, topic: &str, group: &str) -> Option<Arc<Flow>> {
        with_pair(topic, group, |key| {
            {
                let read = self.read.read();
                if let Some(flow) = read.get(key) {
                    return Some(Arc::clone(flow));
                }
                // Each pull of a pair that is one too many comes here: none of them may keep the others out.
                if read.len() >= MAX_PAIRS {
                    return None;
                }
            }
            let mut read = self.read.write();
            if read.len() >= MAX_PAIRS && !read.contains_key(key) {
                return None;
            }
            Some(Arc::clone(read.entry(key.into()).or_insert_with(|| Arc::new(Flow::new()))))
        })
    }

    /// The same by its key in RocketMQ's tools, `topic@group`, if anything has been read.
    pub fn find(&self, key: &str) -> Option<Arc<Flow>> {
        self.read.read().get(key).cloned()
    }

    /// Up to where the members of a group that pull have got in a queue of a topic.
    pub fn pulled(&self, topic: &str, group: &str, queue_id: u32) -> Option<i64> {
        with_pair(topic, group, |key| self.find(key))?.pulled(queue_id)
    }

    /// Messages a second that a group reads of a topic.
    pub fn rate(&self, topic: &str, group: &str) -> f64 {
        with_pair(topic, group, |key| self.find(key)).map_or(0.0, |flow| flow.rate())
    }

    /// A topic is deleted: one of the same name begins anew.
    pub(crate) fn forget_topic(&self, topic: &str) {
        self.read.write().retain(|pair, _| pair.split_once(SEPARATOR).is_none_or(|(of, _)| of != topic));
    }

    /// Keeps samples; forgets who has read nothing for a day. A parked pull holds its flow and will count in it.
    pub fn tick(&self, now: i64) {
        let idle: Vec<Box<str>> =
            self.read.read().iter().filter(|(_, flow)| !flow.tick(now)).map(|(key, _)| key.clone()).collect();
        if !idle.is_empty() {
            let mut read = self.read.write();
            for key in idle {
                if read.get(&key).is_some_and(|flow| Arc::strong_count(flow) == 1) {
                    read.remove(&key);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_reach_from_the_window_s_start_to_now() {
        let flow = Flow::new();
        let start = flow.history.lock().minute[0].at;
        flow.count(100, 5_000);
        let data = flow.data(Measure::Messages, start + 10_000);
        assert_eq!((data.stats_minute.sum, data.stats_minute.tps), (100, 10.0));
        assert_eq!(
            flow.data(Measure::Bytes, start + 10_000).stats_day,
            BrokerStatsItem { avgpt: 50.0, sum: 5_000, tps: 500.0 }
        );
        // A minute without messages: the minute forgets, hour and day do not.
        for tick in 1..=7 {
            assert!(flow.tick(start + tick * 10_000));
        }
        let data = flow.data(Measure::Messages, start + 70_000);
        assert_eq!((data.stats_minute.sum, data.stats_hour.sum, data.stats_day.sum), (0, 100, 100));
    }

    #[test]
    fn samples_and_pairs_are_bounded_and_the_idle_go() {
        let rates = Rates::default();
        let flow = rates.read_by("T", "G").unwrap();
        let start = flow.history.lock().minute[0].at;
        flow.count(1, 1);
        for hour in 1..=30 {
            rates.tick(start + hour * 3_600_000);
        }
        assert_eq!(flow.history.lock().day.len(), DAY.samples);
        assert!(rates.find("T@G").is_some(), "a parked pull counts in it");
        drop(flow);
        rates.tick(start + 31 * 3_600_000);
        assert!(rates.find("T@G").is_none());
        for n in 0..MAX_PAIRS {
            assert!(rates.read_by("T", &n.to_string()).is_some());
        }
        assert!(rates.read_by("T", "one more").is_none() && rates.read_by("T", "7").is_some());
    }
}
