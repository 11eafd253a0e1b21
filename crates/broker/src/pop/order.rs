//! Ordered pops: the last pop of each queue by each group, and what of it is acknowledged (RocketMQ's
//! `ConsumerOrderInfoManager`, `consumerOrderInfo.json`).
//!
//! A queue is blocked while a message of its last pop is neither acknowledged nor visible again; only the same attempt may
//! pop it meanwhile. The group's offset is moved by the caller, behind what is acknowledged without a gap. The file is
//! written from time to time; what is newer stands in the revive topic (`log.rs`) and is read back at the start.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use ferromq_common::clock;
use ferromq_common::json_file::{self, LoadError};
use ferromq_protocol::body::{ConsumerOrderInfoWrapper, OrderInfo};
use ferromq_protocol::pop::{self, Origin};
use parking_lot::Mutex;

use super::take::PopRequest;
use crate::offsets::{SEPARATOR, with_pair};
use crate::persist;

/// File name in the store's `config` folder.
const FILE: &str = "consumerOrderInfo.json";
/// A queue that nobody popped for this long is forgotten once it is free, milliseconds (`CLEAN_SPAN_FROM_LAST`).
const FORGET_AFTER_MS: i64 = 24 * 3_600_000;
/// Bits there are for the acknowledgements of one pop.
const MAX_MESSAGES: usize = 64;

/// How often messages were popped before, by offset; `None` at the first pop of a queue.
pub(crate) type Counts = Option<BTreeMap<i64, i32>>;

/// By `topic@group`, then queue.
type Table = HashMap<Box<str>, BTreeMap<u32, OrderInfo>>;

/// The table. Methods may be called from any thread; pops and acknowledgements of one queue are the caller's to order.
#[derive(Default)]
pub struct OrderPops {
    table: Mutex<Table>,
    changes: AtomicU64,
    /// Changes that are in the file.
    saved: AtomicU64,
    path: PathBuf,
}

/// What an acknowledgement did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Acked {
    /// The group's offset moves here.
    Commit(i64),
    /// The handle is of an older pop, or of none.
    Stale,
    /// The last pop did not hand the message out.
    NotPopped,
}

impl OrderPops {
    /// Reads `consumerOrderInfo.json` below `store_root`, if there is one.
    pub fn open(store_root: &Path) -> Result<Self, LoadError> {
        let path = persist::config_path(store_root, FILE);
        let effect =
            "messages that ordered pops have handed out and nobody has acknowledged are handed out again at once";
        let loaded = persist::load_or_begin_anew::<ConsumerOrderInfoWrapper>(&path, effect)?.unwrap_or_default();
        let table = loaded.table.into_iter().map(|(pair, queues)| {
            let queues = queues.into_iter().filter(|(_, info)| info.offsets.len() <= MAX_MESSAGES);
            (pair.into(), queues.filter_map(|(id, info)| Some((u32::try_from(id).ok()?, info))).collect())
        });
        Ok(Self { table: Mutex::new(table.collect()), path, ..Self::default() })
    }

    /// Until when the queue may not be popped by this attempt, milliseconds since 1970.
    pub(crate) fn blocked_until(&self, request: &PopRequest, queue_id: u32, now: i64) -> Option<i64> {
        self.look(&request.topic, &request.group, queue_id, |info| {
            if info.attempt_id.is_some() && info.attempt_id.as_deref() == request.attempt_id.as_deref() {
                return None;
            }
            blocked_until(info, request.invisible_ms, now)
        })
    }

    /// Until when the queue may be popped by no new attempt, milliseconds since 1970.
    pub(crate) fn free_at(&self, topic: &str, group: &str, queue_id: u32, now: i64) -> Option<i64> {
        self.look(topic, group, queue_id, |info| blocked_until(info, 0, now))
    }

    /// Of a queue that no new attempt may pop: the offset behind its last pop, and how many of its messages nobody
    /// acknowledged.
    pub(crate) fn in_hand(&self, topic: &str, group: &str, queue_id: u32, now: i64) -> Option<(i64, i64)> {
        self.look(topic, group, queue_id, |info| {
            blocked_until(info, 0, now)?;
            let waiting = (0..info.offsets.len()).filter(|at| info.acked & (1 << at) == 0).count();
            Some((offset_at(info, info.offsets.len().checked_sub(1)?).saturating_add(1), waiting as i64))
        })
    }

    fn look<R>(&self, topic: &str, group: &str, queue_id: u32, f: impl FnOnce(&OrderInfo) -> Option<R>) -> Option<R> {
        with_pair(topic, group, |pair| self.table.lock().get(pair)?.get(&queue_id).and_then(f))
    }

    /// A group is deleted.
    pub(crate) fn forget_group(&self, group: &str) {
        self.forget(|_, of| of == group);
    }

    /// A topic is deleted: one of the same name begins anew.
    pub(crate) fn forget_topic(&self, topic: &str) {
        self.forget(|of, _| of == topic);
    }

    fn forget(&self, is_gone: impl Fn(&str, &str) -> bool) {
        let mut table = self.table.lock();
        let before = table.len();
        table.retain(|pair, _| pair.split_once(SEPARATOR).is_none_or(|(topic, group)| !is_gone(topic, group)));
        if table.len() != before {
            self.changes.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Groups with pops.
    pub(crate) fn groups(&self) -> BTreeSet<String> {
        let table = self.table.lock();
        table.keys().filter_map(|pair| pair.split_once(SEPARATOR)).map(|(_, group)| group.to_owned()).collect()
    }

    /// Notes a pop; how often each message was popped before, as `orderCountInfo` says it.
    pub(crate) fn popped(&self, request: &PopRequest, queue_id: u32, pop_time: i64, offsets: &[i64]) -> String {
        let counts = self.enter_pop(request, queue_id, pop_time, offsets);
        let mut text = String::new();
        for (offset, count) in counts.iter().flatten() {
            pop::begin_part(&mut text, Origin::Topic, format_args!("qo{queue_id}%{offset}"));
            text.push_str(&count.to_string());
        }
        // Old clients know one count per queue: the smallest.
        let all = counts.as_ref().filter(|counts| counts.len() == offsets.len());
        let least = all.and_then(|counts| counts.values().min()).copied().unwrap_or(0);
        pop::begin_part(&mut text, Origin::Topic, format_args!("{queue_id}"));
        text.push_str(&least.to_string());
        text
    }

    /// Notes a pop; how often each of its messages was popped before.
    pub(crate) fn enter_pop(&self, request: &PopRequest, queue_id: u32, pop_time: i64, offsets: &[i64]) -> Counts {
        let mut info = info(pop_time, request.invisible_ms, offsets);
        info.attempt_id = request.attempt_id.as_deref().map(str::to_owned);
        self.enter((&request.topic, &request.group, queue_id), info, offsets)
    }

    /// Notes a pop that was read back from the log, unless the file knew it or a later one.
    pub(super) fn restore(&self, place: (&str, &str, u32), pop_time: i64, invisible_ms: i64, offsets: &[i64]) {
        // Two pops may have one millisecond.
        let this = (pop_time, offsets.first().copied());
        let known = self.with(place.0, place.1, place.2, |info| {
            info.is_some_and(|info| (info.pop_time, info.offsets.first().copied()) >= this)
        });
        if !known {
            self.enter(place, info(pop_time, invisible_ms, offsets), offsets);
        }
    }

    fn enter(&self, (topic, group, queue_id): (&str, &str, u32), mut info: OrderInfo, offsets: &[i64]) -> Counts {
        let counts = with_pair(topic, group, |pair| {
            let mut table = self.table.lock();
            let queues = table.entry(pair.into()).or_default();
            if let Some(before) = queues.get(&queue_id) {
                info.consumed_count = Some(counts(before, &info, offsets));
            }
            let counts = info.consumed_count.clone();
            queues.insert(queue_id, info);
            counts
        });
        self.changes.fetch_add(1, Ordering::Relaxed);
        counts
    }

    /// Notes an acknowledgement by a group that stands at `committed`. Of a pop that nobody knows, because it is forgotten or
    /// never was, the next message alone moves the group: RocketMQ passes over what lies before any other.
    pub(crate) fn acknowledge(
        &self,
        (topic, group, queue_id): (&str, &str, u32),
        committed: i64,
        offset: i64,
        pop_time: i64,
    ) -> Acked {
        self.with(topic, group, queue_id, |info| {
            let Some(info) = info else {
                return if offset == committed { Acked::Commit(offset.saturating_add(1)) } else { Acked::Stale };
            };
            if info.pop_time != pop_time {
                return Acked::Stale;
            }
            let Some(at) = position(info, offset) else { return Acked::NotPopped };
            info.acked |= 1 << at;
            let waiting = (0..info.offsets.len()).find(|at| info.acked & (1 << at) == 0);
            Acked::Commit(match waiting {
                Some(at) => offset_at(info, at),
                None => offset_at(info, info.offsets.len() - 1) + 1,
            })
        })
    }

    /// Makes a message of the last pop visible again at another time.
    pub(crate) fn set_visible_at(
        &self,
        (topic, group, queue_id): (&str, &str, u32),
        offset: i64,
        pop_time: i64,
        at_ms: i64,
    ) {
        self.with(topic, group, queue_id, |info| {
            if let Some(info) = info.filter(|info| info.pop_time == pop_time && position(info, offset).is_some()) {
                info.next_visible.get_or_insert_default().insert(offset, at_ms);
            }
        });
    }

    /// Makes all messages of the last pop visible again at another time, as if they had not been popped
    /// (`MemoryConsumerOrderInfoManager.suspendQueue`).
    pub(crate) fn suspend(&self, (topic, group, queue_id): (&str, &str, u32), pop_time: i64, at_ms: i64) {
        self.with(topic, group, queue_id, |info| {
            if let Some(info) = info.filter(|info| info.pop_time == pop_time) {
                info.consumed_count.iter_mut().flatten().for_each(|(_, count)| *count = (*count - 1).max(0));
                info.next_visible = None;
                info.invisible_time = Some(at_ms.saturating_sub(pop_time).max(1));
            }
        });
    }

    /// Number of pairs of topic and group that popped.
    pub(crate) fn len(&self) -> usize {
        self.table.lock().len()
    }

    /// Forgets what nobody popped for long and is visible again, and pairs of topic and group that `is_known` says are gone.
    pub(crate) fn forget_old(&self, is_known: impl Fn(&str, &str) -> bool) {
        let now = clock::now_millis();
        self.table.lock().retain(|pair, queues| {
            let is_recent = |info: &OrderInfo| now - info.last_consume_timestamp < FORGET_AFTER_MS;
            queues.retain(|_, info| is_recent(info) || blocked_until(info, 0, now).is_some());
            !queues.is_empty() && pair.split_once('@').is_some_and(|(topic, group)| is_known(topic, group))
        });
    }

    /// Forgets the last pop of a queue, as a reset of its offset does.
    pub(crate) fn clear(&self, topic: &str, group: &str, queue_id: u32) {
        with_pair(topic, group, |pair| {
            if let Some(queues) = self.table.lock().get_mut(pair) {
                queues.remove(&queue_id);
            }
        });
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    fn with<R>(&self, topic: &str, group: &str, queue_id: u32, f: impl FnOnce(Option<&mut OrderInfo>) -> R) -> R {
        self.changes.fetch_add(1, Ordering::Relaxed);
        with_pair(topic, group, |pair| f(self.table.lock().get_mut(pair).and_then(|queues| queues.get_mut(&queue_id))))
    }

    /// Grows with each change.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// Writes `consumerOrderInfo.json` if it lacks a change, without what nobody popped for long or `is_known` says is gone.
    pub fn save(&self, is_known: impl Fn(&str, &str) -> bool) -> io::Result<()> {
        let changes = self.changes();
        if changes != self.saved.load(Ordering::Relaxed) {
            json_file::store(&self.path, &self.encode(is_known)?)?;
            self.saved.store(changes, Ordering::Relaxed);
        }
        Ok(())
    }

    fn encode(&self, is_known: impl Fn(&str, &str) -> bool) -> io::Result<Vec<u8>> {
        self.forget_old(is_known);
        let mut file = ConsumerOrderInfoWrapper::default();
        for (pair, queues) in self.table.lock().iter() {
            let queues = queues.iter().map(|(id, info)| (*id as i32, info.clone())).collect();
            file.table.insert(pair.to_string(), queues);
        }
        Ok(serde_json::to_vec_pretty(&file)?)
    }
}

fn info(pop_time: i64, invisible_ms: i64, offsets: &[i64]) -> OrderInfo {
    let first = offsets.first().copied().unwrap_or_default();
    OrderInfo {
        attempt_id: None,
        acked: 0,
        invisible_time: Some(invisible_ms),
        last_consume_timestamp: clock::now_millis(),
        offsets: offsets.iter().enumerate().map(|(at, o)| if at == 0 { *o } else { o - first }).collect(),
        consumed_count: None,
        next_visible: None,
        pop_time,
    }
}

fn offset_at(info: &OrderInfo, at: usize) -> i64 {
    let first = info.offsets.first().copied().unwrap_or_default();
    if at == 0 { first } else { first.saturating_add(info.offsets.get(at).copied().unwrap_or_default()) }
}

fn position(info: &OrderInfo, offset: i64) -> Option<usize> {
    (0..info.offsets.len()).find(|at| offset_at(info, *at) == offset)
}

/// When the last of the messages that are not acknowledged is visible again, if that is later than `now`.
fn blocked_until(info: &OrderInfo, usual_ms: i64, now: i64) -> Option<i64> {
    let waiting = (0..info.offsets.len()).filter(|at| info.acked & (1 << at) == 0);
    waiting.map(|at| visible_at(info, at, usual_ms)).filter(|time| *time > now).max()
}

fn visible_at(info: &OrderInfo, at: usize, usual_ms: i64) -> i64 {
    let moved = info.next_visible.as_ref().and_then(|times| times.get(&offset_at(info, at)));
    let usual = info.invisible_time.filter(|time| *time > 0).unwrap_or(usual_ms);
    moved.copied().unwrap_or_else(|| info.pop_time.saturating_add(usual))
}

/// How often messages of a pop were popped before; the same attempt does not count twice.
fn counts(before: &OrderInfo, info: &OrderInfo, offsets: &[i64]) -> BTreeMap<i64, i32> {
    let known = before.consumed_count.clone().unwrap_or_default();
    if before.attempt_id.is_some() && before.attempt_id == info.attempt_id {
        return known;
    }
    let again = offsets.iter().filter(|offset| position(before, **offset).is_some());
    again.map(|offset| (*offset, known.get(offset).map_or(1, |count| count.saturating_add(1)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::Filter;

    fn request(attempt: Option<&str>) -> PopRequest {
        PopRequest {
            topic: "T".into(),
            group: "G".into(),
            queue_id: None,
            max_messages: 32,
            invisible_ms: 1000,
            init_mode: 0,
            filter: Filter::All,
            order: true,
            attempt_id: attempt.map(Into::into),
        }
    }

    #[test]
    fn a_queue_is_blocked_until_its_pop_is_acknowledged_or_visible_again() {
        let pops = OrderPops::default();
        assert_eq!(pops.blocked_until(&request(None), 0, 0), None);
        assert_eq!(pops.popped(&request(Some("a")), 0, 100, &[5, 6, 8]), "0 0 0");
        assert_eq!(pops.blocked_until(&request(None), 0, 200), Some(1100));
        assert_eq!(pops.blocked_until(&request(Some("a")), 0, 200), None);
        assert_eq!(pops.blocked_until(&request(None), 1, 200), None);
        assert_eq!(pops.blocked_until(&request(None), 0, 1100), None);
        pops.set_visible_at(("T", "G", 0), 6, 100, 5000);
        assert_eq!(pops.blocked_until(&request(None), 0, 1100), Some(5000));
        let acknowledge = |offset, pop_time| pops.acknowledge(("T", "G", 0), 5, offset, pop_time);
        assert_eq!(acknowledge(6, 100), Acked::Commit(5));
        assert_eq!(acknowledge(5, 100), Acked::Commit(8));
        assert_eq!(acknowledge(7, 100), Acked::NotPopped);
        assert_eq!(acknowledge(8, 99), Acked::Stale);
        assert_eq!(acknowledge(8, 100), Acked::Commit(9));
        assert_eq!(pops.blocked_until(&request(None), 0, 200), None);
    }

    #[test]
    fn an_acknowledgement_of_no_known_pop_passes_over_nothing() {
        let pops = OrderPops::default();
        assert_eq!(pops.acknowledge(("T", "G", 0), 5, 7, 100), Acked::Stale);
        assert_eq!(pops.acknowledge(("T", "G", 0), 5, 5, 100), Acked::Commit(6));
    }

    #[test]
    fn repeated_pops_are_counted_per_message_and_not_per_retry_of_one_attempt() {
        let pops = OrderPops::default();
        pops.popped(&request(Some("a")), 0, 100, &[5, 6]);
        assert_eq!(pops.popped(&request(Some("b")), 0, 2000, &[6, 7]), "0 qo0%6 1;0 0 0");
        assert_eq!(pops.popped(&request(Some("b")), 0, 3000, &[6, 7]), "0 qo0%6 1;0 0 0");
        assert_eq!(pops.popped(&request(Some("c")), 0, 4000, &[6, 7]), "0 qo0%6 2;0 qo0%7 1;0 0 1");
    }

    #[test]
    fn the_file_comes_back_and_leaves_out_what_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let pops = OrderPops::open(dir.path()).unwrap();
        let now = clock::now_millis();
        pops.popped(&request(None), 3, now, &[5, 6]);
        std::fs::create_dir_all(pops.path.parent().unwrap()).unwrap();
        pops.save(|_, _| true).unwrap();
        let again = OrderPops::open(dir.path()).unwrap();
        assert_eq!(again.blocked_until(&request(None), 3, now), Some(now + 1000));
        assert!(!String::from_utf8(again.encode(|_, _| false).unwrap()).unwrap().contains("T@G"));
    }
}
