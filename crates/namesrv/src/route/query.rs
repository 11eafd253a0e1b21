//! Questions to the route table: routes of a topic, lists of topics, the cluster.
//!
//! Read only; RocketMQ 5.5 `RouteInfoManager` and, for zones, `ZoneRouteRPCHook`.

use std::collections::{BTreeMap, BTreeSet};

use ferromq_protocol::body::{BrokerMemberGroup, ClusterInfo, QueueData, TopicList, TopicRouteData};

use ferromq_protocol::sys_flag::{perm, topic as topic_flag};
use ferromq_protocol::topic::SYNC_BROKER_MEMBER_GROUP_PREFIX;

use super::{AddrKey, MASTER_ID, RouteTable};

impl RouteTable {
    /// Brokers and queues of a topic; `None` when no living broker has it. With `acting_master`
    /// (`supportActingMaster`), the lowest slave of a group without master appears under the master's id.
    pub fn route(&self, topic: &str, acting_master: bool) -> Option<TopicRouteData> {
        let queues = self.topics.get(topic)?;
        let mut route = TopicRouteData { queue_datas: queues.values().cloned().collect(), ..TopicRouteData::default() };
        for broker in queues.keys().filter_map(|name| self.brokers.get(name)) {
            for addr in broker.broker_addrs.values() {
                if let Some(servers) = self.filter_servers.get(&AddrKey::new(&broker.cluster, addr)) {
                    route.filter_server_table.insert(addr.clone(), servers.clone());
                }
            }
            route.broker_datas.push(broker.clone());
        }
        if route.broker_datas.is_empty() {
            return None;
        }
        route.topic_queue_mapping_by_broker = self.mappings.get(topic).cloned();
        // Members of a group read it from such a topic: their ids stay.
        if acting_master && !topic.starts_with(SYNC_BROKER_MEMBER_GROUP_PREFIX) {
            for broker in &mut route.broker_datas {
                let writeable = queues.get(&broker.broker_name).is_none_or(|q| perm::is_writeable(q.perm));
                if writeable || !broker.enable_acting_master || broker.broker_addrs.contains_key(&MASTER_ID) {
                    continue;
                }
                if let Some((_, addr)) = broker.broker_addrs.pop_first() {
                    broker.broker_addrs.insert(MASTER_ID, addr);
                }
            }
        }
        Some(route)
    }

    /// All brokers and clusters.
    pub fn cluster_info(&self) -> ClusterInfo {
        ClusterInfo { broker_addr_table: self.brokers.clone(), cluster_addr_table: self.clusters.clone() }
    }

    /// Addresses of one broker group; empty when it is unknown.
    pub fn member_group(&self, cluster: &str, broker_name: &str) -> BrokerMemberGroup {
        BrokerMemberGroup {
            cluster: cluster.into(),
            broker_name: broker_name.into(),
            broker_addrs: self.brokers.get(broker_name).map(|b| b.broker_addrs.clone()).unwrap_or_default(),
        }
    }

    /// Names of all topics.
    pub fn all_topics(&self) -> TopicList {
        self.topics_where(|_| true)
    }

    /// Names of the topics that have queues in a cluster.
    pub fn topics_of_cluster(&self, cluster: &str) -> TopicList {
        let none = BTreeSet::new();
        let names = self.clusters.get(cluster).unwrap_or(&none);
        self.topics_where(|queues| queues.keys().any(|broker_name| names.contains(broker_name)))
    }

    /// Names of topics in unit mode.
    pub fn unit_topics(&self) -> TopicList {
        self.topics_where(|queues| sys_flag(queues) & topic_flag::UNIT != 0)
    }

    /// Names of topics subscribed by units.
    pub fn unit_sub_topics(&self) -> TopicList {
        self.topics_where(|queues| sys_flag(queues) & topic_flag::UNIT_SUB != 0)
    }

    /// Names of topics subscribed by units that are not in unit mode themselves.
    pub fn unit_sub_un_unit_topics(&self) -> TopicList {
        self.topics_where(|queues| sys_flag(queues) & (topic_flag::UNIT | topic_flag::UNIT_SUB) == topic_flag::UNIT_SUB)
    }

    fn topics_where(&self, wanted: impl Fn(&BTreeMap<String, QueueData>) -> bool) -> TopicList {
        let topic_list =
            self.topics.iter().filter(|(_, queues)| wanted(queues)).map(|(topic, _)| topic.clone()).collect();
        TopicList { topic_list, broker_addr: None }
    }

    /// Names of clusters and brokers, which are also names of topics, and the address of one broker.
    pub fn system_topics(&self) -> TopicList {
        let mut topic_list: BTreeSet<String> = self.clusters.keys().cloned().collect();
        topic_list.extend(self.clusters.values().flatten().cloned());
        let broker_addr = self.brokers.values().find_map(|b| b.broker_addrs.values().next().cloned());
        TopicList { topic_list, broker_addr }
    }
}

fn sys_flag(queues: &BTreeMap<String, QueueData>) -> i32 {
    queues.values().next().map_or(0, |q| q.topic_sys_flag)
}

/// Leaves the brokers of a zone, and those without a master, so that reading goes on beyond the zone.
pub fn filter_by_zone(route: &mut TopicRouteData, zone: &str) {
    let near = |b: &ferromq_protocol::body::BrokerData| {
        !b.broker_addrs.contains_key(&MASTER_ID)
            || b.zone_name.as_deref().is_some_and(|z| z.to_lowercase() == zone.to_lowercase())
    };
    let (kept, removed): (Vec<_>, Vec<_>) = std::mem::take(&mut route.broker_datas).into_iter().partition(near);
    route.queue_datas.retain(|q| removed.iter().all(|b| b.broker_name != q.broker_name));
    for addr in removed.iter().flat_map(|b| b.broker_addrs.values()) {
        route.filter_server_table.remove(addr);
    }
    route.broker_datas = kept;
}
