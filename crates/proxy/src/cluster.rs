//! The brokers of a cluster, as NameServers tell them: where topics are, requests to brokers by name, and what brokers
//! ask about transactions (RocketMQ's proxy in cluster mode: `ClusterTopicRouteService`, `ClusterMetadataService`,
//! `ClusterTransactionService`).
//!
//! Nothing here outlives the process: everything is learnt again from NameServers, brokers and clients.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferromq_client::{BrokerCall, BrokerQueues, Client, ClientConfig, Error, TransactionCheck};
use ferromq_protocol::body::{SubscriptionGroupConfig, TopicConfigAndQueueMapping, TopicRouteData};
use ferromq_protocol::code::{request, response};
use ferromq_protocol::header::group::GroupHeader;
use ferromq_protocol::header::topic::TopicHeader;
use ferromq_protocol::{FrameWriter, OwnedCommand, Text, json};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::door::TIMEOUT;
use crate::pb::Code;
use crate::status::Refused;
use crate::topic::{Share, Topic};

mod cache;
mod producers;

use cache::Cache;
use producers::Producers;

/// How long the route and the type of a topic are used before they are read again.
const TOPIC_LIFE: Duration = Duration::from_secs(30);
/// How long a consumer group's settings are used before they are read again.
const GROUP_LIFE: Duration = Duration::from_secs(20);
/// How often producer groups are announced (`transactionHeartbeatPeriodSecond`).
const HEARTBEAT: Duration = Duration::from_secs(20);
/// A broker that failed gets no message for this long, unless all have failed.
const AVOIDED: Duration = Duration::from_secs(5);
/// The list of all brokers is not asked for more often than this.
const LEARN_PAUSE: Duration = Duration::from_secs(1);
/// What brokers want that waits to be handed on; later calls are dropped, brokers come again.
const CALLS: usize = 1024;

/// Which cluster, and what its proxy allows.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// NameServers as `host:port`, separated by semicolons.
    pub namesrv_addr: String,
    /// The cluster whose brokers know the consumer groups (`rocketMQClusterName`).
    pub cluster_name: String,
    /// Largest body, bytes (`maxMessageSize`).
    pub max_message_size: usize,
    /// How far ahead a message may be delayed, milliseconds (`maxDelayTimeMills`).
    pub max_delay_ms: i64,
}

impl ClusterConfig {
    /// RocketMQ's defaults.
    pub fn new(namesrv_addr: impl Into<String>) -> Self {
        ClusterConfig {
            namesrv_addr: namesrv_addr.into(),
            cluster_name: "DefaultCluster".into(),
            max_message_size: 4 * 1024 * 1024,
            max_delay_ms: 24 * 3600 * 1000,
        }
    }
}

/// The brokers of a cluster.
pub(crate) struct Cluster {
    pub config: ClusterConfig,
    client: Client,
    topics: Cache<Topic>,
    groups: Cache<SubscriptionGroupConfig>,
    producers: Producers,
    failed: Mutex<Failed>,
    /// When the list of all brokers was asked for, and the masters in it.
    learnt: tokio::sync::Mutex<Option<(Instant, Vec<String>)>>,
}

#[derive(Default)]
struct Failed {
    /// By broker, only known ones.
    brokers: HashMap<String, Instant>,
    last: Option<Instant>,
}

impl Cluster {
    /// Must be called inside a tokio runtime. Gives what brokers want of clients, too.
    pub fn start(config: ClusterConfig) -> Result<(Arc<Cluster>, mpsc::Receiver<BrokerCall>), Error> {
        let (asked, calls) = mpsc::channel(CALLS);
        let of_client =
            ClientConfig { heartbeat_broker_interval: HEARTBEAT, ..ClientConfig::new(config.namesrv_addr.as_str()) };
        let client = Client::with_calls(of_client, move |call| {
            if let Err(error) = asked.try_send(call) {
                tracing::warn!(%error, "what a broker wants of a client is not handed on; the broker comes again");
            }
        })?;
        let cluster = Cluster {
            config,
            client,
            topics: Cache::new(TOPIC_LIFE),
            groups: Cache::new(GROUP_LIFE),
            producers: Producers::default(),
            failed: Mutex::default(),
            learnt: tokio::sync::Mutex::default(),
        };
        Ok((Arc::new(cluster), calls))
    }

    /// One request to a broker; any answer.
    pub async fn ask(
        &self,
        broker: &str,
        code: i32,
        timeout: Duration,
        header: impl FnOnce(&mut FrameWriter<'_>),
        body: &[u8],
    ) -> Result<OwnedCommand, Refused> {
        let addr = self.addr_of(broker).await?;
        let answer = self.client.request(&addr, code, timeout, header, body).await;
        let is_down = match &answer {
            Ok(answer) => matches!(answer.head().code, response::GO_AWAY | response::SERVICE_NOT_AVAILABLE),
            Err(_) => true,
        };
        self.note(broker, is_down);
        Ok(answer?)
    }

    /// Where a broker is.
    pub async fn addr_of(&self, broker: &str) -> Result<String, Refused> {
        if let Ok(addr) = self.client.broker_addr(broker) {
            return Ok(addr);
        }
        self.masters().await?;
        Ok(self.client.broker_addr(broker)?)
    }

    /// The broker at an address.
    pub fn name_of(&self, addr: SocketAddr) -> Option<String> {
        self.client.broker_at(addr)
    }

    /// Remembers whether a broker has failed.
    pub fn note(&self, broker: &str, is_down: bool) {
        let mut failed = self.failed.lock();
        if is_down {
            let now = Instant::now();
            failed.brokers.insert(broker.to_owned(), now);
            failed.last = Some(now);
        } else if !failed.brokers.is_empty() {
            failed.brokers.remove(broker);
        }
    }

    /// The route of a topic, as a NameServer tells it now.
    pub async fn route(&self, topic: &str) -> Result<TopicRouteData, Error> {
        self.client.route_data(topic).await
    }

    /// Whether a broker has just failed.
    pub fn is_avoided(&self, broker: &str) -> bool {
        self.failed.lock().brokers.get(broker).is_some_and(|at| at.elapsed() < AVOIDED)
    }

    /// A topic; `None` if NameServers know none.
    pub async fn topic(&self, name: &str) -> Result<Option<Arc<Topic>>, Refused> {
        let failed_at = self.failed.lock().last;
        self.topics.get(name, failed_at, self.read_topic(name)).await
    }

    /// A broker has said that it has not got the topic: its route is read again.
    pub fn forget_topic(&self, name: &str) {
        self.topics.forget(name);
    }

    async fn read_topic(&self, name: &str) -> Result<Option<Topic>, Refused> {
        let queues = match self.client.broker_queues(name).await {
            Ok(queues) => queues,
            Err(Error::NoRoute { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let brokers = queues.iter().map(|queues| queues.broker_name.as_str());
        let header = TopicHeader { topic: Text::plain(name) };
        let found = self.first_of(brokers, request::GET_TOPIC_CONFIG, |frame| header.write(frame)).await?;
        let config: Option<TopicConfigAndQueueMapping> = found.map(|answer| body_of(&answer)).transpose()?;
        let message_type = config.and_then(|mut config| config.attributes.remove("message.type"));
        Ok(Some(Topic { message_type, brokers: queues.into_iter().map(share).collect() }))
    }

    /// A consumer group; `None` if it may not be made.
    pub async fn group(&self, name: &str) -> Result<Option<Arc<SubscriptionGroupConfig>>, Refused> {
        let failed_at = self.failed.lock().last;
        let load = async {
            let masters = self.masters().await?;
            let header = GroupHeader { group: Text::plain(name) };
            let masters = masters.iter().map(String::as_str);
            let code = request::GET_SUBSCRIPTIONGROUP_CONFIG;
            let found = self.first_of(masters, code, |frame| header.write(frame)).await?;
            found.map(|answer| body_of(&answer)).transpose()
        };
        self.groups.get(name, failed_at, load).await
    }

    /// What the first broker answers that can be asked; `None` if it has none of it.
    async fn first_of<'b>(
        &self,
        brokers: impl Iterator<Item = &'b str>,
        code: i32,
        header: impl Fn(&mut FrameWriter<'_>),
    ) -> Result<Option<OwnedCommand>, Refused> {
        let mut last = Refused::new(Code::InternalServerError, "there is no broker to ask");
        for broker in brokers {
            match self.ask(broker, code, TIMEOUT, &header, &[]).await {
                Ok(answer) if answer.head().code == response::SUCCESS => return Ok(Some(answer)),
                Ok(answer) if is_unknown(answer.head().code) => return Ok(None),
                Ok(answer) => last = Refused::by_broker(&answer),
                Err(refused) => last = refused,
            }
        }
        Err(last)
    }

    /// The brokers of the cluster that have a master.
    pub async fn masters(&self) -> Result<Vec<String>, Refused> {
        let mut learnt = self.learnt.lock().await;
        if let Some((at, masters)) = learnt.as_ref()
            && at.elapsed() < LEARN_PAUSE
        {
            return Ok(masters.clone());
        }
        let cluster = &self.config.cluster_name;
        let masters = self.client.learn_brokers(cluster).await?;
        if masters.is_empty() {
            tracing::warn!("no broker of cluster {cluster} is registered; start one, or set rocketMQClusterName");
        }
        *learnt = Some((Instant::now(), masters.clone()));
        Ok(masters)
    }

    /// The broker that asks about a transaction.
    pub fn asking(&self, check: &TransactionCheck) -> Option<String> {
        check.broker_name.clone().or_else(|| self.name_of(check.broker_addr))
    }

    /// Up to `count` clients of a producer group, others the next time.
    pub fn producers(&self, group: &str, count: usize) -> Vec<String> {
        self.producers.some(group, count)
    }

    /// A client produces for a group: brokers may ask it here.
    pub fn join(&self, group: &str, client: &str) {
        self.producers.join(group, client);
        self.client.join_producer_group(group);
    }

    /// It does no longer.
    pub async fn leave(&self, group: &str, client: &str) {
        self.producers.leave(group, client);
        self.client.leave_producer_group(group).await;
    }

    /// Closes all connections.
    pub async fn shutdown(&self) {
        self.client.shutdown().await;
    }
}

/// Old brokers do not know the request.
fn is_unknown(code: i32) -> bool {
    matches!(
        code,
        response::TOPIC_NOT_EXIST | response::SUBSCRIPTION_GROUP_NOT_EXIST | response::REQUEST_CODE_NOT_SUPPORTED
    )
}

fn share(queues: BrokerQueues) -> Share {
    let BrokerQueues { broker_name, perm, read, write } = queues;
    Share { broker: broker_name.into(), perm, read, write }
}

fn body_of<T: serde::de::DeserializeOwned>(answer: &OwnedCommand) -> Result<T, Refused> {
    json::from_slice(answer.body()).map_err(|error| {
        Refused::new(Code::InternalServerError, format!("the broker's answer cannot be read: {error}"))
    })
}
