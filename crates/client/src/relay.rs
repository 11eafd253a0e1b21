//! What somebody needs who stands for many clients, as a proxy does: routes as they are now, requests to brokers by
//! address, and the producer groups that brokers may ask.

use std::net::SocketAddr;
use std::time::Duration;

use ferromq_protocol::body::TopicRouteData;
use ferromq_protocol::sys_flag::perm;
use ferromq_protocol::{FrameWriter, OwnedCommand};

use crate::client::{Client, MASTER_ID};
use crate::config::ClientConfig;
use crate::error::Result;
use crate::message::MessageQueue;
use crate::route::{self, Route};
use crate::server_calls::BrokerCall;

/// The queues of a topic on one broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerQueues {
    /// The broker.
    pub broker_name: String,
    /// 4 read, 2 write, added up; without a master nothing is written.
    pub perm: i32,
    /// Queues that are read.
    pub read: i32,
    /// Queues that are written.
    pub write: i32,
}

impl Client {
    /// As [`Client::new`], for somebody who answers what brokers want of many clients. `on_call` must not block.
    pub fn with_calls(config: ClientConfig, on_call: impl Fn(BrokerCall) + Send + Sync + 'static) -> Result<Client> {
        Self::build(config, Some(Box::new(on_call)))
    }

    /// The queues of a topic by broker, sorted, as a name server tells them now.
    pub async fn broker_queues(&self, topic: &str) -> Result<Vec<BrokerQueues>> {
        let route = Route::new(topic, self.route_data(topic).await?);
        Ok(by_broker(&route))
    }

    /// The route of a topic, as a name server tells it now.
    pub async fn route_data(&self, topic: &str) -> Result<TopicRouteData> {
        let data = route::fetch(&self.shared, topic).await?;
        self.shared.keep_brokers(&data.broker_datas);
        Ok(data)
    }

    /// Learns where the brokers of a cluster are; the names of those that have a master.
    pub async fn learn_brokers(&self, cluster: &str) -> Result<Vec<String>> {
        let info = self.admin().cluster_info().await?;
        let of_cluster = || info.broker_addr_table.values().filter(|broker| broker.cluster == cluster);
        self.shared.keep_brokers(of_cluster());
        let masters = of_cluster().filter(|broker| broker.broker_addrs.contains_key(&MASTER_ID));
        Ok(masters.map(|broker| broker.broker_name.clone()).collect())
    }

    /// Where a broker's master is, or another of its members while it has none.
    pub fn broker_addr(&self, broker_name: &str) -> Result<String> {
        self.shared.read_addr(broker_name, MASTER_ID)
    }

    /// The broker at an address.
    pub fn broker_at(&self, addr: SocketAddr) -> Option<String> {
        let text = addr.to_string();
        let brokers = self.shared.brokers.read();
        let found = brokers.iter().find(|(_, members)| members.values().any(|member| *member == text));
        found.map(|(name, _)| name.clone())
    }

    /// One request to a server; any answer.
    pub async fn request(
        &self,
        addr: &str,
        code: i32,
        timeout: Duration,
        fields: impl FnOnce(&mut FrameWriter<'_>),
        body: &[u8],
    ) -> Result<OwnedCommand> {
        self.shared.call(addr, code, timeout, fields, body).await
    }

    /// Tells all known brokers from now on that this client answers for a producer group. Each call wants a
    /// [`Client::leave_producer_group`].
    pub fn join_producer_group(&self, group: &str) {
        self.shared.join_producers(group);
        self.shared.beat_now.notify_one();
    }

    /// Takes one [`Client::join_producer_group`] back; the brokers are told after the last.
    pub async fn leave_producer_group(&self, group: &str) {
        if self.shared.leave_producers(group) {
            self.shared.unregister(Some(group), None).await;
        }
    }
}

fn by_broker(route: &Route) -> Vec<BrokerQueues> {
    let count = |queues: &[MessageQueue], broker: &str| {
        let count = queues.iter().filter(|queue| queue.broker_name == broker).count();
        i32::try_from(count).unwrap_or(i32::MAX)
    };
    let mut all: Vec<BrokerQueues> = route
        .data
        .queue_datas
        .iter()
        .map(|queue| {
            let write = count(&route.publish, &queue.broker_name);
            let perm = if write == 0 { queue.perm & !perm::WRITE } else { queue.perm };
            BrokerQueues {
                broker_name: queue.broker_name.clone(),
                perm,
                read: count(&route.subscribe, &queue.broker_name),
                write,
            }
        })
        .collect();
    all.sort_by(|a, b| a.broker_name.cmp(&b.broker_name));
    all
}
