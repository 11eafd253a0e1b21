//! Rate limits that are set while the broker runs: what a topic takes in (topic attribute `send.rate.limit`), what a group
//! reads (group attribute `read.rate.limit`), what one connection sends (`clientSendRateLimit`), all in messages a second.
//! And how much may be on its way to the disk (`maxUnflushedBytes`; of a topic, attribute `send.unflushed.limit`; of a
//! connection, `clientUnflushedLimit`; of a producer group, `producerGroupUnflushedLimit`: `limits/unflushed.rs`) and for
//! how long (`waitTimeMillsInSendQueue`), where topics marked `degradable` give way first (`limits/giving_way.rs`), and by time
//! they alone: no request waits in a queue here, so a disk that is slow is no reason to refuse what can be stored.
//!
//! A [`Bucket`] is one atomic number: the moment until which its rate is used up. Up to [`BURST`] may be used ahead. A send
//! beyond it is refused (SYSTEM_BUSY, which clients answer by another broker or a later try, with the time to wait in the
//! remark), a moment later: a client that tries again at once would cost the others more than its messages. A pull or pop is
//! answered later instead, because a refusal would make consumers ask all the more. Where no limit is set a request looks at
//! one `Option`.

mod giving_way;
mod unflushed;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use ferromq_protocol::Text;
use ferromq_protocol::code::response;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::broker::Shared;
use crate::handler::Refusal;
use crate::topics::Topic;

use self::giving_way::GivingWay;
pub(crate) use self::unflushed::InHand;
pub use self::unflushed::Unflushed;

/// Attribute of a topic: messages a second.
pub const SEND_RATE: &str = "send.rate.limit";
/// Attribute of a topic: bytes.
pub const SEND_UNFLUSHED: &str = "send.unflushed.limit";
/// Attribute of a group: messages a second.
pub const READ_RATE: &str = "read.rate.limit";
/// Attribute of a topic whose sends are refused first.
pub const DEGRADABLE: &str = "degradable";
/// Largest rate, messages a second.
pub const MAX_RATE: i64 = 10_000_000;
/// How much of a rate may be used ahead.
const BURST: Duration = Duration::from_secs(1);
/// Longest time a limit holds back a pull.
const MAX_HOLD: Duration = Duration::from_secs(10);
/// Most pulls that limits hold back at a time.
const MAX_HELD: usize = 10_000;
/// How long a refusal of a send is held back; RocketMQ refuses after 200 ms in its queue.
const REFUSAL_HOLD: Duration = Duration::from_millis(100);
/// Most refusals that are held back at a time; one more is answered at once.
const MAX_REFUSALS_HELD: usize = 10_000;
/// Most producer groups with bytes on their way to the disk that are told apart; those beyond share one limit.
const MAX_PRODUCER_GROUPS: usize = 10_000;
/// What those share; no group has this name.
const OTHERS: &str = "";

/// One limit and how far it is used.
#[derive(Debug)]
pub struct Bucket {
    rate: u64,
    begun: Instant,
    /// Nanoseconds after `begun`.
    used_until: AtomicU64,
}

impl Bucket {
    /// A limit of `rate` messages a second, which is not 0.
    pub fn new(rate: u64, now: Instant) -> Self {
        Self { rate: rate.max(1), begun: now, used_until: AtomicU64::new(0) }
    }

    /// The limit that the attributes set, `None` without one. A bucket of the same rate goes on.
    pub fn of(attributes: &BTreeMap<String, String>, name: &str, before: Option<&Arc<Self>>) -> Option<Arc<Self>> {
        let rate = attributes.get(name)?.parse().ok().filter(|rate: &u64| *rate > 0)?;
        match before {
            Some(bucket) if bucket.rate == rate => Some(Arc::clone(bucket)),
            _ => Some(Arc::new(Self::new(rate, Instant::now()))),
        }
    }

    /// Messages a second.
    pub fn rate(&self) -> u64 {
        self.rate
    }

    /// How long to wait before more may pass; `None` when it may now.
    pub fn wait(&self, now: Instant) -> Option<Duration> {
        let ahead = self.used_until.load(Relaxed).saturating_sub(self.at(now));
        ahead.checked_sub(BURST.as_nanos() as u64).filter(|wait| *wait > 0).map(Duration::from_nanos)
    }

    /// Uses the rate for messages that pass.
    pub fn charge(&self, messages: u64, now: Instant) {
        let (now, cost) = (self.at(now), messages.saturating_mul(1_000_000_000 / self.rate));
        let _ = self.used_until.fetch_update(Relaxed, Relaxed, |used| Some(used.max(now).saturating_add(cost)));
    }

    fn at(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.begun).as_nanos() as u64
    }
}

/// Limits that are set for whoever sends: messages a second and bytes of one connection, bytes of one producer group; each 0
/// for any number.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SenderLimits {
    pub rate: u64,
    pub unflushed: u64,
    pub group_unflushed: u64,
}

/// What holds for one send by who sends it.
#[derive(Default)]
pub(crate) struct OfSender {
    pub connection: OfConnection,
    /// Of its producer group.
    pub group: Option<Arc<Unflushed>>,
}

/// The limits of one connection.
#[derive(Clone, Default)]
pub(crate) struct OfConnection {
    pub rate: Option<Arc<Bucket>>,
    pub unflushed: Option<Arc<Unflushed>>,
}

/// Limits that are not kept with what they limit.
pub struct Limits {
    groups: Mutex<HashMap<Box<str>, Arc<Bucket>>>,
    connections: Mutex<HashMap<u64, OfConnection>>,
    producers: Mutex<HashMap<Box<str>, Arc<Unflushed>>>,
    pub(crate) giving_way: GivingWay,
    held: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            groups: Mutex::default(),
            connections: Mutex::default(),
            producers: Mutex::default(),
            giving_way: GivingWay::default(),
            held: Arc::new(Semaphore::new(MAX_HELD)),
            refusals: Arc::new(Semaphore::new(MAX_REFUSALS_HELD)),
        }
    }
}

impl Limits {
    /// The limit of a group's reading. The number of buckets is bounded by that of groups.
    pub fn of_group(&self, group: &str, attributes: &BTreeMap<String, String>) -> Option<Arc<Bucket>> {
        if !attributes.contains_key(READ_RATE) {
            return None;
        }
        let mut groups = self.groups.lock();
        let bucket = Bucket::of(attributes, READ_RATE, groups.get(group))?;
        groups.insert(group.into(), Arc::clone(&bucket));
        Some(bucket)
    }

    /// What holds for a send of a producer group on a connection.
    pub(crate) fn of_sender(&self, connection: u64, group: Text<'_>, limits: SenderLimits) -> OfSender {
        let is_limited = limits.group_unflushed > 0;
        OfSender {
            connection: self.of_connection(connection, limits.rate, limits.unflushed),
            group: is_limited.then(|| self.of_producers(&group.to_lossy(), limits.group_unflushed)).flatten(),
        }
    }

    /// The limits of a connection's sends: messages a second, and bytes that are not on the disk; 0 for any number.
    fn of_connection(&self, id: u64, rate: u64, unflushed: u64) -> OfConnection {
        if rate == 0 && unflushed == 0 {
            return OfConnection::default();
        }
        let mut connections = self.connections.lock();
        let limits = connections.entry(id).or_default();
        limits.rate = match limits.rate.take() {
            _ if rate == 0 => None,
            Some(bucket) if bucket.rate == rate => Some(bucket),
            _ => Some(Arc::new(Bucket::new(rate, Instant::now()))),
        };
        limits.unflushed = Unflushed::of(unflushed, limits.unflushed.as_ref());
        limits.clone()
    }

    /// The limit of a producer group's bytes that are not on the disk; 0 for any number.
    fn of_producers(&self, group: &str, most: u64) -> Option<Arc<Unflushed>> {
        let mut producers = self.producers.lock();
        let is_told_apart = producers.contains_key(group) || producers.len() < MAX_PRODUCER_GROUPS;
        let name = if is_told_apart { group } else { OTHERS };
        let limit = Unflushed::of(most, producers.get(name))?;
        match producers.get_mut(name) {
            Some(kept) => *kept = Arc::clone(&limit),
            None => drop(producers.insert(name.into(), Arc::clone(&limit))),
        }
        Some(limit)
    }

    /// Forgets producer groups of which everything is on the disk, which has the log up to `flushed`.
    pub fn forget_idle_producers(&self, flushed: u64) {
        // Whoever holds the limit is about to append.
        self.producers.lock().retain(|_, limit| Arc::strong_count(limit) > 1 || limit.waiting(flushed) > 0);
    }

    /// A connection has ended.
    pub fn forget_connection(&self, id: u64) {
        let mut connections = self.connections.lock();
        if !connections.is_empty() {
            connections.remove(&id);
        }
    }

    /// Runs `answer` after `wait`, which is cut to [`MAX_HOLD`]; refuses when too many wait already.
    pub(crate) fn hold(&self, wait: Duration, answer: impl FnOnce() + Send + 'static) -> Result<(), Refusal> {
        let remark = "[FLOW_CONTROL]too many pulls wait for rate limits, pull later";
        hold_in(&self.held, remark, wait.min(MAX_HOLD), answer)
    }

    /// Runs `answer`, which refuses a send, after [`REFUSAL_HOLD`].
    pub(crate) fn hold_refusal(&self, answer: impl FnOnce() + Send + 'static) {
        match Arc::clone(&self.refusals).try_acquire_owned() {
            Ok(permit) => after(REFUSAL_HOLD, permit, answer),
            Err(_) => answer(),
        }
    }
}

/// Runs `answer` after `wait`, in one of these places; refuses with `remark` when none is free.
pub(crate) fn hold_in(
    places: &Arc<Semaphore>,
    remark: &'static str,
    wait: Duration,
    answer: impl FnOnce() + Send + 'static,
) -> Result<(), Refusal> {
    let place = Arc::clone(places).try_acquire_owned();
    after(wait, place.map_err(|_| Refusal::new(response::FLOW_CONTROL, remark))?, answer);
    Ok(())
}

/// Runs `answer` after `wait`, and gives its place back before.
fn after(wait: Duration, permit: OwnedSemaphorePermit, answer: impl FnOnce() + Send + 'static) {
    tokio::spawn(async move {
        tokio::time::sleep(wait).await;
        drop(permit);
        answer();
    });
}

/// Refuses a send beyond a limit.
pub(crate) fn refuse_beyond(bucket: &Bucket, who: impl Fn() -> String, setting: &str) -> Result<(), Refusal> {
    let Some(wait) = bucket.wait(Instant::now()) else { return Ok(()) };
    let remark = format!(
        "[FLOW_CONTROL]{} may send {} messages a second ({setting}): retry after {} ms",
        who(),
        bucket.rate,
        wait.as_millis() + 1
    );
    Err(Refusal::new(response::SYSTEM_BUSY, remark))
}

/// Refuses a send while too much of the log is not on the disk; of a topic that is degradable at half of that, and while
/// senders wait for the disk for too long.
///
/// `in_hand`: bytes of sends that are about to be appended together.
pub(crate) fn refuse_under_pressure(broker: &Shared, topic: &Topic, in_hand: usize) -> Result<(), Refusal> {
    if topic.is_degradable() && broker.store.is_sync_flush() {
        let (wait, most) = (broker.store.sync_wait(), broker.live.wait_in_send_queue());
        if wait > most {
            let remark = format!(
                "[TIMEOUT_CLEAN_QUEUE]broker busy, start flow control for a while, period in queue: {}ms, topic {} is \
                 served up to {}ms (setting waitTimeMillsInSendQueue and topic attribute degradable): retry later",
                wait.as_millis(),
                topic.name(),
                most.as_millis()
            );
            return Err(Refusal::new(response::SYSTEM_BUSY, remark));
        }
    }
    let Some(most) = broker.live.max_unflushed_bytes() else { return Ok(()) };
    let (most, why) = match topic.is_degradable() {
        true => (most / 2, "half of setting maxUnflushedBytes, because of topic attribute degradable"),
        false => (most, "setting maxUnflushedBytes"),
    };
    let waiting = broker.store.unflushed_bytes() + in_hand as u64;
    if waiting <= most {
        return Ok(());
    }
    let remark = format!(
        "[FLOW_CONTROL]{waiting} bytes are not on the disk yet, topic {} is served up to {most} ({why}): retry later",
        topic.name()
    );
    Err(Refusal::new(response::SYSTEM_BUSY, remark))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_kept_after_a_burst_of_a_second() {
        let start = Instant::now();
        let bucket = Bucket::new(100, start);
        let after = |millis| start + Duration::from_millis(millis);
        let mut passed = 0;
        for millis in 0..5_000 {
            if bucket.wait(after(millis)).is_none() {
                bucket.charge(1, after(millis));
                passed += 1;
            }
        }
        assert!((599..=602).contains(&passed), "{passed} in five seconds with a burst of one");
        // What was not used is not saved up beyond the burst.
        bucket.charge(1, after(60_000));
        assert!(bucket.wait(after(60_000)).is_none());
        bucket.charge(500, after(60_000));
        assert_eq!(bucket.wait(after(60_000)).unwrap().as_millis(), 4_010);
    }

    #[test]
    fn a_change_of_other_attributes_keeps_what_is_used() {
        let attributes = |rate: &str| BTreeMap::from([(SEND_RATE.to_owned(), rate.to_owned())]);
        let first = Bucket::of(&attributes("5"), SEND_RATE, None).unwrap();
        assert!(Arc::ptr_eq(&first, &Bucket::of(&attributes("5"), SEND_RATE, Some(&first)).unwrap()));
        assert_eq!(Bucket::of(&attributes("6"), SEND_RATE, Some(&first)).unwrap().rate(), 6);
        assert!(Bucket::of(&attributes("0"), SEND_RATE, None).is_none());
    }

    #[test]
    fn producer_groups_are_limited_each_bounded_and_forgotten_when_their_bytes_are_on_the_disk() {
        let limits = Limits::default();
        let of = |group: &str| limits.of_producers(group, 10).unwrap();
        assert!(limits.of_producers("G", 0).is_none());
        let (one, two) = (of("G"), of("H"));
        assert!(Arc::ptr_eq(&one, &of("G")) && !Arc::ptr_eq(&one, &two));
        one.appended(5, 100);
        drop((one, two));
        limits.forget_idle_producers(99);
        assert_eq!(limits.producers.lock().len(), 1, "G has bytes that are not on the disk");
        limits.forget_idle_producers(100);
        assert!(limits.producers.lock().is_empty());
        (0..MAX_PRODUCER_GROUPS).for_each(|n| drop(of(&n.to_string())));
        assert!(Arc::ptr_eq(&of("one more"), &of("another")) && !Arc::ptr_eq(&of("another"), &of("7")));
        assert_eq!(limits.producers.lock().len(), MAX_PRODUCER_GROUPS + 1);
    }

    #[test]
    fn connections_are_limited_each_and_forgotten() {
        let limits = Limits::default();
        let rate = |id| limits.of_connection(id, 10, 0).rate.unwrap();
        assert!(limits.of_connection(1, 0, 0).rate.is_none());
        let one = rate(1);
        assert!(Arc::ptr_eq(&one, &rate(1)) && !Arc::ptr_eq(&one, &rate(2)));
        let both = limits.of_connection(1, 10, 1);
        assert!(both.unflushed.is_some() && Arc::ptr_eq(&one, &both.rate.unwrap()));
        limits.forget_connection(1);
        assert!(!Arc::ptr_eq(&one, &rate(1)));
    }
}
