//! The proxy in front of two brokers, which a NameServer knows that says nothing else.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use ferromq_broker::{Broker, BrokerConfig};
use ferromq_protocol::body::{BrokerData, ClusterInfo, QueueData, TopicRouteData};
use ferromq_protocol::code::{request, response};
use ferromq_protocol::{FrameWriter, json};
use ferromq_proxy::{ClusterConfig, Proxy, ProxyConfig, RemotingDoor};
use ferromq_remoting::{Connection, Requests, Server, ServerConfig, Service};

use crate::bench::{self, Client, broker_in, resource};
use crate::pb::receive_message_response::Content;
use crate::pb::{
    AckMessageEntry, AckMessageRequest, AckMessageResponse, Message, QueryRouteRequest, QueryRouteResponse,
    ReceiveMessageRequest, ReceiveMessageResponse,
};

/// Longest wait for what must come.
const SOON: Duration = Duration::from_secs(30);

/// Each broker has one queue of every topic.
struct Routes(Vec<BrokerData>);

impl Service for Routes {
    fn serve(&self, _: &Arc<Connection>, requests: &mut Requests<'_>, out: &mut Vec<u8>) {
        for command in requests {
            let body = match command.head.code {
                request::GET_BROKER_CLUSTER_INFO => {
                    let brokers = self.0.iter().map(|broker| (broker.broker_name.clone(), broker.clone()));
                    let info = ClusterInfo { broker_addr_table: brokers.collect(), ..ClusterInfo::default() };
                    json::to_vec_standard(&info)
                }
                _ => {
                    let queues = self.0.iter().map(|broker| QueueData {
                        broker_name: broker.broker_name.clone(),
                        perm: 6,
                        read_queue_nums: 1,
                        topic_sys_flag: 0,
                        write_queue_nums: 1,
                    });
                    json::to_vec_standard(&TopicRouteData {
                        broker_datas: self.0.clone(),
                        queue_datas: queues.collect(),
                        ..TopicRouteData::default()
                    })
                }
            };
            FrameWriter::response(out, &command.head, response::SUCCESS).finish_with_body(&body.unwrap());
        }
    }
}

/// Brokers, and the proxy before them.
pub struct Cluster {
    running: Option<(Proxy, Vec<Broker>, Server)>,
    pub proxy: SocketAddr,
    /// Where remoting clients connect.
    pub remoting: SocketAddr,
    /// Where HTTP clients connect.
    pub http: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Cluster {
    pub fn start(names: &'static [&'static str]) -> Cluster {
        Self::start_with(names, |_| {})
    }

    /// `adjust` may change the proxy's settings.
    pub fn start_with(
        names: &'static [&'static str],
        adjust: impl FnOnce(&mut ProxyConfig) + Send + 'static,
    ) -> Cluster {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().to_owned();
        // They block, which a test's runtime does not like: so at the end, too.
        let start = thread::spawn(move || {
            let brokers = names.iter().map(|name| {
                let (config, store) = broker_in(&root.join(name));
                Broker::start(BrokerConfig { broker_name: (*name).into(), ..config }, store).unwrap()
            });
            let brokers: Vec<Broker> = brokers.collect();
            let known = brokers.iter().zip(names).map(|(broker, name)| BrokerData {
                broker_addrs: [(0, broker.addr().to_string())].into(),
                broker_name: (*name).into(),
                cluster: "DefaultCluster".into(),
                ..BrokerData::default()
            });
            let listen = ServerConfig { reactors: 1, ..ServerConfig::new(vec!["127.0.0.1:0".parse().unwrap()]) };
            let namesrv = Server::start(listen, Arc::new(Routes(known.collect()))).unwrap();
            let listen = "127.0.0.1:0".parse().unwrap();
            let mut config = ProxyConfig {
                http: Some(listen),
                remoting: Some(RemotingDoor::new(listen)),
                ..ProxyConfig::new(listen)
            };
            adjust(&mut config);
            let cluster = ClusterConfig::new(namesrv.local_addrs()[0].to_string());
            (Proxy::start_for_cluster(&config, cluster).unwrap(), brokers, namesrv)
        });
        let running = start.join().unwrap();
        let (proxy, remoting) = (running.0.addr(), running.0.remoting_addr().unwrap());
        let http = running.0.http_addr().unwrap();
        Cluster { proxy, remoting, http, running: Some(running), _folder: folder }
    }

    /// In the order of their names.
    pub fn brokers(&self) -> &[Broker] {
        &self.running.as_ref().unwrap().1
    }

    pub async fn client(&self, id: &'static str) -> Client {
        bench::client_of(self.proxy, id).await
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let running = self.running.take();
        let stop = thread::spawn(move || {
            let (proxy, brokers, namesrv) = running.unwrap();
            proxy.shutdown();
            brokers.into_iter().for_each(Broker::shutdown);
            namesrv.shutdown(Duration::ZERO);
        });
        stop.join().unwrap();
    }
}

fn asked(topic: &str, group: &str) -> ReceiveMessageRequest {
    ReceiveMessageRequest {
        group: resource(group),
        message_queue: Some(crate::pb::MessageQueue { topic: resource(topic), id: -1, ..Default::default() }),
        batch_size: 32,
        invisible_duration: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
        long_polling_timeout: Some(prost_types::Duration { seconds: 5, nanos: 0 }),
        ..ReceiveMessageRequest::default()
    }
}

/// The messages of one call.
async fn receive(client: &Client, topic: &str, group: &str) -> Vec<Message> {
    let mut pieces = client.stream::<_, ReceiveMessageResponse>("ReceiveMessage", asked(topic, group)).await.unwrap();
    let mut messages = Vec::new();
    while let Some(piece) = pieces.message().await.unwrap() {
        if let Some(Content::Message(message)) = piece.content {
            messages.push(message);
        }
    }
    messages
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_go_to_all_brokers_and_come_from_all() {
    let cluster = Cluster::start(&["east", "west"]);
    let client = cluster.client("traveller").await;
    let route = QueryRouteRequest { topic: resource("Travels"), endpoints: None };
    let route: QueryRouteResponse = client.call("QueryRoute", route).await.unwrap();
    let brokers = route.message_queues.iter().filter_map(|queue| queue.broker.as_ref());
    for (broker, name) in brokers.clone().zip(["east", "west"]) {
        let told = &broker.endpoints.as_ref().unwrap().addresses[0];
        assert_eq!(
            (broker.name.as_str(), told.port),
            (name, i32::from(cluster.proxy.port())),
            "the proxy's own address"
        );
    }
    assert_eq!(brokers.count(), 2);

    // The first call of a group begins at the end of the queues, which the topic has only from its first message on.
    for _ in 0..2 {
        client.send("Travels", b"first").await;
        receive(&client, "Travels", "travellers").await;
    }
    for number in 0..6 {
        client.send("Travels", format!("{number}").as_bytes()).await;
    }
    let deadline = Instant::now() + SOON;
    let mut stores = std::collections::BTreeMap::<String, usize>::new();
    let mut left = 6;
    while left > 0 {
        assert!(Instant::now() < deadline, "{left} of 6 messages did not come");
        for message in receive(&client, "Travels", "travellers").await {
            let system = message.system_properties.unwrap();
            let receipt_handle = system.receipt_handle.unwrap();
            if message.body.len() == 1 {
                *stores.entry(system.store_host).or_default() += 1;
                left -= 1;
            }
            let entry = AckMessageEntry { message_id: system.message_id, receipt_handle, lite_topic: None };
            let (topic, group) = (resource("Travels"), resource("travellers"));
            let acked: AckMessageResponse =
                client.call("AckMessage", AckMessageRequest { topic, group, entries: vec![entry] }).await.unwrap();
            assert_eq!(acked.status.unwrap().code, 20_000);
        }
    }
    assert_eq!(stores.into_values().collect::<Vec<_>>(), [3, 3], "messages of each broker");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_for_a_client_that_is_gone_is_for_others() {
    let cluster = Cluster::start(&["alone"]);
    let [leaver, stayer] = [cluster.client("leaver").await, cluster.client("stayer").await];
    stayer.send("Left", b"makes the topic").await;
    receive(&stayer, "Left", "leavers").await;
    let waiting = leaver.stream::<_, ReceiveMessageResponse>("ReceiveMessage", asked("Left", "leavers"));
    assert!(tokio::time::timeout(Duration::from_secs(1), waiting).await.is_err(), "it waits, and gives up");
    stayer.send("Left", b"for anybody").await;
    let deadline = Instant::now() + SOON;
    while !receive(&stayer, "Left", "leavers").await.iter().any(|message| &message.body[..] == b"for anybody") {
        assert!(Instant::now() < deadline, "the message is kept for a client that is gone");
    }
}
