//! The route table: which broker serves which topic, and who is alive.
//!
//! Owns every fact a NameServer knows about brokers. A plain struct: no sockets, no clock, no locks; the caller passes
//! the time and holds the lock (`server.rs`). Rules are those of RocketMQ 5.5 `RouteInfoManager`; where this table
//! departs from it, the function says so. Must not know frames or request codes.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ferromq_protocol::body::{BrokerData, DataVersion, QueueData, TopicConfig, TopicQueueMappingInfo};
use ferromq_protocol::sys_flag::perm;

#[cfg(test)]
mod model;
mod query;
#[cfg(test)]
mod tests;

pub use query::filter_by_zone;

/// Most brokers (addresses) that may be alive in one NameServer.
pub const MAX_LIVE_BROKERS: usize = 4096;
/// Most topics in the table; topics beyond it are left out of the routes and logged.
pub const MAX_TOPICS: usize = 262_144;
/// Most queue groups (a topic on a broker name) in the table; further ones are left out and logged.
pub const MAX_TOPIC_BROKERS: usize = 4_194_304;
/// Longest cluster name, broker name, address, zone or topic, bytes.
pub const MAX_NAME_BYTES: usize = 255;
/// Most filter servers kept for one broker (a feature removed from RocketMQ 5; the list is only passed on).
pub const MAX_FILTER_SERVERS: usize = 64;
/// A broker is forgotten after this silence unless its registration says otherwise, milliseconds
/// (RocketMQ `DEFAULT_BROKER_CHANNEL_EXPIRED_TIME`).
pub const DEFAULT_HEARTBEAT_TIMEOUT_MS: i64 = 120_000;
/// Id of a master.
pub const MASTER_ID: i64 = 0;

/// The header of one REGISTER_BROKER request.
#[derive(Clone, Debug)]
pub struct Registration<'a> {
    /// Cluster the broker belongs to.
    pub cluster: &'a str,
    /// Name of its replica group.
    pub broker_name: &'a str,
    /// Address it publishes to clients, `host:port`.
    pub broker_addr: &'a str,
    /// 0 is the master.
    pub broker_id: i64,
    /// Address its replicas follow.
    pub ha_server_addr: &'a str,
    /// Zone of the broker, if any.
    pub zone_name: Option<&'a str>,
    /// Silence after which it is forgotten, milliseconds.
    pub heartbeat_timeout_ms: i64,
    /// Absent from brokers older than 5.0.
    pub enable_acting_master: Option<bool>,
    /// The connection it came by; its end unregisters the broker.
    pub connection: u64,
}

/// What a broker serves: the body of REGISTER_BROKER.
#[derive(Clone, Debug, Default)]
pub struct BrokerTopics {
    /// Version of the broker's topic table.
    pub data_version: DataVersion,
    /// Its topics.
    pub topics: Vec<TopicConfig>,
    /// Logical queue mappings of static topics.
    pub mappings: Vec<TopicQueueMappingInfo>,
    /// `None` leaves the filter servers as they are.
    pub filter_servers: Option<Vec<String>>,
}

/// What a slave is told about its master; empty for a master.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registered {
    /// Where to replicate from.
    pub ha_server_addr: Option<String>,
    /// The master's address.
    pub master_addr: Option<String>,
    /// Topics left out because their name is illegal or the table is full.
    pub skipped_topics: usize,
    /// Another broker with a newer state version holds this id; nothing was changed.
    pub outdated: bool,
}

/// Why a registration was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// RocketMQ takes a table of one topic for an update of that topic, which only a known broker may send.
    #[error("register broker failed")]
    SingleTopicOfUnknownBroker,
    /// A name in the header.
    #[error("register broker failed: {0} is empty or longer than 255 bytes, correct the broker's configuration")]
    IllegalName(&'static str),
    /// [`MAX_LIVE_BROKERS`].
    #[error("register broker failed: this name server already holds 4096 brokers")]
    TooManyBrokers,
}

/// An address inside a cluster: RocketMQ's `BrokerAddrInfo`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct AddrKey {
    cluster: String,
    addr: String,
}

impl AddrKey {
    fn new(cluster: &str, addr: &str) -> Self {
        Self { cluster: cluster.into(), addr: addr.into() }
    }
}

/// One living broker: RocketMQ's `BrokerLiveInfo`.
#[derive(Clone, Debug)]
struct Live {
    broker_name: String,
    last_update_ms: i64,
    heartbeat_timeout_ms: i64,
    data_version: DataVersion,
    connection: u64,
    ha_server_addr: String,
}

/// Topics, brokers, clusters and their liveness.
#[derive(Debug, Default)]
pub struct RouteTable {
    /// topic -> broker name -> its queues
    topics: HashMap<String, BTreeMap<String, QueueData>>,
    /// broker name -> addresses
    brokers: BTreeMap<String, BrokerData>,
    /// cluster -> broker names
    clusters: BTreeMap<String, BTreeSet<String>>,
    live: HashMap<AddrKey, Live>,
    filter_servers: HashMap<AddrKey, Vec<String>>,
    /// topic -> broker name -> logical queues
    mappings: HashMap<String, BTreeMap<String, TopicQueueMappingInfo>>,
    /// Removes the topics that a registration no longer names (`deleteTopicWithBrokerRegistration`).
    pub delete_missing_topics: bool,
}

impl RouteTable {
    /// An empty table.
    pub fn new(delete_missing_topics: bool) -> Self {
        Self { delete_missing_topics, ..Self::default() }
    }

    /// Takes one registration at `now_ms`.
    ///
    /// Unlike RocketMQ, a refused registration leaves no trace of its cluster and broker name.
    pub fn register(&mut self, r: &Registration<'_>, body: BrokerTopics, now_ms: i64) -> Result<Registered, Refused> {
        for (name, what) in [(r.cluster, "clusterName"), (r.broker_name, "brokerName"), (r.broker_addr, "brokerAddr")] {
            if !legal(name) {
                return Err(Refused::IllegalName(what));
            }
        }
        if r.ha_server_addr.len() > MAX_NAME_BYTES || r.zone_name.is_some_and(|z| z.len() > MAX_NAME_BYTES) {
            return Err(Refused::IllegalName("haServerAddr or zone name"));
        }
        let key = AddrKey::new(r.cluster, r.broker_addr);
        if self.live.len() >= MAX_LIVE_BROKERS && !self.live.contains_key(&key) {
            return Err(Refused::TooManyBrokers);
        }
        let holder = self.brokers.get(r.broker_name).and_then(|b| b.broker_addrs.get(&r.broker_id)).cloned();
        if let Some(old) = holder.as_deref().filter(|old| *old != r.broker_addr)
            && let Some(old_live) = self.live.get(&AddrKey::new(r.cluster, old))
            && old_live.data_version.state_version > body.data_version.state_version
        {
            self.drop_other_ids(r.broker_name, r.broker_addr, r.broker_id);
            if self.live.get(&key).is_some_and(|live| live.broker_name == r.broker_name) {
                self.live.remove(&key);
                self.filter_servers.remove(&key);
            }
            return Ok(Registered { outdated: true, ..Registered::default() });
        }
        if holder.is_none() && body.topics.len() == 1 {
            return Err(Refused::SingleTopicOfUnknownBroker);
        }

        // An address that comes back under another broker name has left the old one; RocketMQ keeps that for ever.
        let renamed = self.live.get(&key).filter(|live| live.broker_name != r.broker_name);
        if let Some(old_name) = renamed.map(|live| live.broker_name.clone()) {
            self.unregister(r.cluster, r.broker_addr, &old_name);
        }
        self.clusters.entry(r.cluster.into()).or_default().insert(r.broker_name.into());
        self.drop_other_ids(r.broker_name, r.broker_addr, r.broker_id);
        let first = holder.as_deref().is_none_or(str::is_empty);
        let broker = self.brokers.entry(r.broker_name.into()).or_insert_with(|| BrokerData {
            cluster: r.cluster.into(),
            broker_name: r.broker_name.into(),
            ..BrokerData::default()
        });
        broker.enable_acting_master = r.enable_acting_master.unwrap_or(false);
        broker.zone_name = r.zone_name.map(str::to_owned);
        broker.broker_addrs.insert(r.broker_id, r.broker_addr.into());
        let master = r.broker_id == MASTER_ID;
        let prime_slave =
            r.enable_acting_master.is_some() && !master && broker.broker_addrs.keys().next() == Some(&r.broker_id);
        let acting = prime_slave && broker.enable_acting_master;
        let master_addr = broker.broker_addrs.get(&MASTER_ID).cloned();

        let mut registered = Registered::default();
        if master || prime_slave {
            let changed = first || self.live.get(&key).is_none_or(|l| l.data_version != body.data_version);
            registered.skipped_topics = self.take_topics(r.broker_name, &body, changed, acting);
        }
        self.live.insert(
            key.clone(),
            Live {
                broker_name: r.broker_name.into(),
                last_update_ms: now_ms,
                heartbeat_timeout_ms: r.heartbeat_timeout_ms,
                data_version: body.data_version,
                connection: r.connection,
                ha_server_addr: r.ha_server_addr.into(),
            },
        );
        if let Some(mut servers) = body.filter_servers {
            servers.truncate(MAX_FILTER_SERVERS);
            servers.retain(|s| legal(s));
            if servers.is_empty() {
                self.filter_servers.remove(&key);
            } else {
                self.filter_servers.insert(key, servers);
            }
        }
        if !master
            && let Some(addr) = master_addr
            && let Some(live) = self.live.get(&AddrKey::new(r.cluster, &addr))
        {
            registered.ha_server_addr = Some(live.ha_server_addr.clone());
            registered.master_addr = Some(addr);
        }
        Ok(registered)
    }

    /// The same address has one id only: a slave that became master leaves its old id.
    fn drop_other_ids(&mut self, broker_name: &str, addr: &str, id: i64) {
        if let Some(broker) = self.brokers.get_mut(broker_name) {
            broker.broker_addrs.retain(|other, a| *other == id || a != addr);
        }
    }

    /// Copies topics and mappings of a master (or of the slave that acts for it); answers how many were left out.
    fn take_topics(&mut self, broker_name: &str, body: &BrokerTopics, changed: bool, acting: bool) -> usize {
        if self.delete_missing_topics && body.mappings.is_empty() {
            let named: BTreeSet<&str> = body.topics.iter().map(|t| t.topic_name.as_str()).collect();
            self.topics.retain(|topic, queues| {
                if !named.contains(topic.as_str()) {
                    queues.remove(broker_name);
                }
                !queues.is_empty()
            });
        }
        let mut skipped = 0;
        let mut room: Option<usize> = None;
        for topic in &body.topics {
            if !changed && self.topics.get(&topic.topic_name).is_some_and(|q| q.contains_key(broker_name)) {
                continue;
            }
            let full = self.topics.len() >= MAX_TOPICS && !self.topics.contains_key(&topic.topic_name);
            if full || !legal(&topic.topic_name) {
                skipped += 1;
                continue;
            }
            let queue = QueueData {
                broker_name: broker_name.into(),
                read_queue_nums: topic.read_queue_nums,
                write_queue_nums: topic.write_queue_nums,
                perm: if acting { topic.perm & !perm::WRITE } else { topic.perm },
                topic_sys_flag: topic.topic_sys_flag,
            };
            let room = room.get_or_insert_with(|| {
                MAX_TOPIC_BROKERS.saturating_sub(self.topics.values().map(BTreeMap::len).sum::<usize>())
            });
            let known = self.topics.get(&topic.topic_name).is_some_and(|queues| queues.contains_key(broker_name));
            if !known && *room == 0 {
                skipped += 1;
                continue;
            }
            *room -= usize::from(!known);
            self.topics.entry(topic.topic_name.clone()).or_default().insert(broker_name.into(), queue);
        }
        if changed {
            for mapping in &body.mappings {
                let (Some(topic), Some(name)) = (&mapping.topic, &mapping.bname) else {
                    skipped += 1;
                    continue;
                };
                let full = self.mappings.len() >= MAX_TOPICS && !self.mappings.contains_key(topic);
                if full || !legal(topic) || name != broker_name {
                    skipped += 1;
                    continue;
                }
                self.mappings.entry(topic.clone()).or_default().insert(name.clone(), mapping.clone());
            }
        }
        skipped
    }

    /// Forgets one address. Topics lose the broker name when it was its last address; otherwise they lose the write
    /// permission if no master is left and a slave may act for it. False, and nothing done, when this broker is not
    /// registered with this address.
    pub fn unregister(&mut self, cluster: &str, broker_addr: &str, broker_name: &str) -> bool {
        let key = AddrKey::new(cluster, broker_addr);
        if self.live.get(&key).is_none_or(|live| live.broker_name != broker_name) {
            return false;
        }
        self.live.remove(&key);
        self.filter_servers.remove(&key);
        let in_other_cluster =
            self.live.iter().any(|(key, live)| key.addr == broker_addr && live.broker_name == broker_name);
        let Some(broker) = self.brokers.get_mut(broker_name).filter(|_| !in_other_cluster) else {
            return true;
        };
        broker.broker_addrs.retain(|_, addr| addr != broker_addr);
        if let Some(lowest) = broker.broker_addrs.keys().next() {
            if broker.enable_acting_master && *lowest > MASTER_ID {
                for queues in self.topics.values_mut() {
                    if let Some(queue) = queues.get_mut(broker_name) {
                        queue.perm &= !perm::WRITE;
                    }
                }
            }
            return true;
        }
        self.brokers.remove(broker_name);
        self.clusters.retain(|_, names| {
            names.remove(broker_name);
            !names.is_empty()
        });
        self.topics.retain(|_, queues| {
            queues.remove(broker_name);
            !queues.is_empty()
        });
        self.mappings.retain(|_, brokers| {
            brokers.remove(broker_name);
            !brokers.is_empty()
        });
        true
    }

    /// Forgets every broker that registered by this connection; answers their addresses.
    ///
    /// RocketMQ forgets one only; a process that holds several brokers shares its connection among them.
    pub fn connection_closed(&mut self, connection: u64) -> Vec<String> {
        self.unregister_where(|live| live.connection == connection).into_iter().map(|(addr, _)| addr).collect()
    }

    /// Forgets the brokers silent for longer than their heartbeat time-out; answers address and connection of each.
    pub fn expire(&mut self, now_ms: i64) -> Vec<(String, u64)> {
        self.unregister_where(|live| live.last_update_ms.saturating_add(live.heartbeat_timeout_ms) < now_ms)
    }

    fn unregister_where(&mut self, gone: impl Fn(&Live) -> bool) -> Vec<(String, u64)> {
        let keys: Vec<(AddrKey, String, u64)> = self
            .live
            .iter()
            .filter(|(_, live)| gone(live))
            .map(|(key, live)| (key.clone(), live.broker_name.clone(), live.connection))
            .collect();
        for (key, name, _) in &keys {
            self.unregister(&key.cluster, &key.addr, name);
        }
        keys.into_iter().map(|(key, _, connection)| (key.addr, connection)).collect()
    }

    /// A sign of life without topics (BROKER_HEARTBEAT, QUERY_DATA_VERSION); unknown addresses stay unknown.
    pub fn heartbeat(&mut self, cluster: &str, broker_addr: &str, now_ms: i64) {
        if let Some(live) = self.live.get_mut(&AddrKey::new(cluster, broker_addr)) {
            live.last_update_ms = now_ms;
        }
    }

    /// Version of the topic table last registered from this address.
    pub fn data_version(&self, cluster: &str, broker_addr: &str) -> Option<&DataVersion> {
        self.live.get(&AddrKey::new(cluster, broker_addr)).map(|live| &live.data_version)
    }

    /// Adds queues of one topic (REGISTER_TOPIC_IN_NAMESRV). Nothing after the first unknown broker is taken, and a new
    /// topic with an unknown broker is not taken at all, as in RocketMQ. Answers whether all was taken.
    pub fn register_topic(&mut self, topic: &str, queues: Vec<QueueData>) -> bool {
        if queues.is_empty() || !legal(topic) {
            return false;
        }
        let all_known = queues.iter().all(|q| self.brokers.contains_key(&q.broker_name));
        if !self.topics.contains_key(topic) && (!all_known || self.topics.len() >= MAX_TOPICS) {
            return false;
        }
        let known = queues.into_iter().take_while(|q| self.brokers.contains_key(&q.broker_name));
        let entry = self.topics.entry(topic.into()).or_default();
        entry.extend(known.map(|q| (q.broker_name.clone(), q)));
        all_known
    }

    /// Removes a topic from all brokers, or from those of one cluster. The next changed registration brings it back.
    pub fn delete_topic(&mut self, topic: &str, cluster: Option<&str>) {
        let Some(cluster) = cluster.filter(|c| !c.is_empty()) else {
            self.topics.remove(topic);
            return;
        };
        let (Some(names), Some(queues)) = (self.clusters.get(cluster), self.topics.get_mut(topic)) else {
            return;
        };
        queues.retain(|broker_name, _| !names.contains(broker_name));
        if queues.is_empty() {
            self.topics.remove(topic);
        }
    }

    /// Takes the write permission from every topic of a broker, in this NameServer only, until its next changed
    /// registration. Answers how many topics it has.
    pub fn wipe_write_perm(&mut self, broker_name: &str) -> i32 {
        self.change_perm(broker_name, |perm| perm & !perm::WRITE)
    }

    /// Makes every topic of a broker readable and writeable, whatever it was. Answers how many topics it has.
    pub fn add_write_perm(&mut self, broker_name: &str) -> i32 {
        self.change_perm(broker_name, |_| perm::READ | perm::WRITE)
    }

    fn change_perm(&mut self, broker_name: &str, change: impl Fn(i32) -> i32) -> i32 {
        let mut count = 0;
        for queue in self.topics.values_mut().filter_map(|queues| queues.get_mut(broker_name)) {
            queue.perm = change(queue.perm);
            count += 1;
        }
        count
    }
}

fn legal(name: &str) -> bool {
    !name.is_empty() && name.len() <= MAX_NAME_BYTES
}
