//! How far broadcasting consumers have read (RocketMQ's `BroadcastOffsetManager`).
//!
//! They keep their offsets themselves. A proxy has no file for the consumers behind it and asks from -1 (`requestSource` 1,
//! the consumer's id in `proxyFrowardClientId`): then, and when a consumer moves between proxy and broker, a pull is answered
//! PULL_OFFSET_MOVED with where the consumer stands, or else where the slowest of its group stood. That one is kept in
//! `consumerOffset.json` as the offset of `group@broadcast`; what stands here begins empty with the broker.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use ferromq_protocol::header::pull::PullHeader;
use ferromq_remoting::Connection;
use ferromq_store::Queue;
use parking_lot::Mutex;

use crate::broker::Shared;
use crate::offsets::{BROADCAST_SUFFIX, SEPARATOR, with_pair};

/// `requestSource` of a proxy's pull for a broadcasting consumer (RocketMQ's `RequestSource`).
const PROXY_FOR_BROADCAST: i32 = 1;
/// Most consumers that are remembered, each counted once for every topic; further ones begin where their group stands.
const MAX_CONSUMERS: usize = 100_000;
/// Longest id of a consumer behind a proxy, bytes.
const MAX_ID_BYTES: usize = 1024;

/// Who pulls.
struct Broadcaster {
    client_id: Box<str>,
    from_proxy: bool,
}

/// Notes where a broadcasting consumer reads; where it is to go on instead, which is `reset` for all others.
pub(crate) fn follow(
    broker: &Shared,
    conn: &Connection,
    header: &PullHeader<'_>,
    queue: &Queue,
    group: &str,
    reset: Option<i64>,
) -> Option<i64> {
    let Some(who) = broadcaster(broker, conn, header, group) else { return reset };
    let moved = reset.or_else(|| broker.broadcast.moved_to(broker, queue, group, &who, header.queue_offset));
    let at = moved.unwrap_or(header.queue_offset);
    // An offset behind the end is put right by the answer, and then asked for.
    if (0..=queue.max_offset()).contains(&at) {
        broker.broadcast.update(queue, group, &who, at);
    }
    moved
}

/// The broadcasting consumer that sent a pull; `None` for any other.
fn broadcaster(broker: &Shared, conn: &Connection, header: &PullHeader<'_>, group: &str) -> Option<Broadcaster> {
    if !broker.config.enable_broadcast_offset_store {
        return None;
    }
    if header.request_source == Some(PROXY_FOR_BROADCAST) {
        let id = header.proxy_forward_client_id?.to_str().ok().filter(|id| id.len() <= MAX_ID_BYTES)?;
        return Some(Broadcaster { client_id: id.into(), from_proxy: true });
    }
    let client_id = broker.clients.broadcaster(group, conn.id())?;
    Some(Broadcaster { client_id: (*client_id).into(), from_proxy: false })
}

/// One consumer's place in one topic.
#[derive(Debug)]
struct Progress {
    seen: Instant,
    from_proxy: bool,
    queues: BTreeMap<u32, i64>,
}

/// Consumers of one topic and group, by id.
type Consumers = HashMap<Box<str>, Progress>;

#[derive(Default)]
struct Table {
    /// By `topic@group`.
    pairs: HashMap<Box<str>, Consumers>,
    consumers: usize,
}

/// See the head of the file. Methods may be called from any thread.
#[derive(Default)]
pub struct BroadcastOffsets(Mutex<Table>);

impl BroadcastOffsets {
    /// Where the consumer is to go on, if that is not where it asks from.
    fn moved_to(&self, broker: &Shared, queue: &Queue, group: &str, who: &Broadcaster, asked: i64) -> Option<i64> {
        let known = with_pair(queue.topic(), group, |key| {
            let table = self.0.lock();
            let consumer = table.pairs.get(key)?.get(&who.client_id)?;
            Some((consumer.from_proxy, consumer.queues.get(&queue.id()).copied()))
        });
        let (was_from_proxy, offset) = known.unwrap_or((who.from_proxy, None));
        let begins = was_from_proxy && asked < 0;
        (begins || was_from_proxy != who.from_proxy)
            .then(|| offset.unwrap_or_else(|| first_offset(broker, queue, group)))
    }

    /// The consumer reads from `offset` on; a place behind that is forgotten.
    fn update(&self, queue: &Queue, group: &str, who: &Broadcaster, offset: i64) {
        with_pair(queue.topic(), group, |key| {
            let mut table = self.0.lock();
            let Table { pairs, consumers } = &mut *table;
            if let Some(progress) = pairs.get_mut(key).and_then(|all| all.get_mut(&who.client_id)) {
                progress.seen = Instant::now();
                progress.from_proxy = who.from_proxy;
                let at = progress.queues.entry(queue.id()).or_insert(offset);
                *at = offset.max(*at);
            } else if *consumers < MAX_CONSUMERS {
                let queues = BTreeMap::from([(queue.id(), offset)]);
                let progress = Progress { seen: Instant::now(), from_proxy: who.from_proxy, queues };
                pairs.entry(key.into()).or_default().insert(who.client_id.clone(), progress);
                *consumers += 1;
            }
        });
    }

    /// Forgets a group, as its deletion with `cleanOffset` does.
    pub fn remove_group(&self, group: &str) {
        let Table { pairs, consumers } = &mut *self.0.lock();
        pairs.retain(|key, all| {
            let stays = key.split_once(SEPARATOR).is_none_or(|(_, of)| of != group);
            *consumers -= if stays { 0 } else { all.len() };
            stays
        });
    }

    /// Commits where the slowest consumer of each group stands, and forgets those that are gone
    /// (`broadcastOffsetExpireSecond`) or have not pulled for long (`broadcastOffsetExpireMaxSecond`).
    pub fn sweep(&self, broker: &Shared, now: Instant) {
        let expire = Duration::from_secs(broker.config.broadcast_offset_expire_second);
        let expire_online = Duration::from_secs(broker.config.broadcast_offset_expire_max_second);
        let mut slowest: BTreeMap<(Box<str>, u32), i64> = BTreeMap::new();
        {
            let mut table = self.0.lock();
            let Table { pairs, consumers } = &mut *table;
            pairs.retain(|key, all| {
                let online =
                    key.split_once(SEPARATOR).map(|(_, group)| broker.clients.consumer_ids(group)).unwrap_or_default();
                all.retain(|id, progress| {
                    let silent = now.saturating_duration_since(progress.seen);
                    let is_online = online.iter().any(|other| **other == **id);
                    if is_online || silent < expire {
                        for (queue, offset) in &progress.queues {
                            let least = slowest.entry((key.clone(), *queue)).or_insert(*offset);
                            *least = (*least).min(*offset);
                        }
                    }
                    let stays = silent < if is_online { expire_online } else { expire };
                    *consumers -= usize::from(!stays);
                    stays
                });
                !all.is_empty()
            });
        }
        for ((key, queue), offset) in slowest {
            let Some((topic, group)) = key.split_once(SEPARATOR) else { continue };
            let group = kept_as(group);
            if broker.offsets.query(topic, &group, queue) != Some(offset) {
                broker.offsets.commit(topic, &group, queue, offset);
            }
        }
    }
}

/// The group under which the offsets of the slowest consumers are kept.
fn kept_as(group: &str) -> String {
    format!("{group}{BROADCAST_SUFFIX}")
}

/// Where a consumer begins that nothing is known of: where its group stands, or with the first message if it is in memory,
/// or with the next one.
fn first_offset(broker: &Shared, queue: &Queue, group: &str) -> i64 {
    broker.offsets.query(queue.topic(), &kept_as(group), queue.id()).unwrap_or_else(|| {
        let from_the_first = queue.min_offset() <= 0 && broker.store.is_in_memory(queue, 0);
        if from_the_first { 0 } else { queue.max_offset() }
    })
}
