//! Registration with name servers that come, go and hang.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferromq_protocol::{FrameWriter, java};
use ferromq_remoting::{Connection, Requests, Server, ServerConfig, Service, StartError};
use parking_lot::Mutex;
use serde_json::Value;

use crate::support::{Peer, WAIT, run, start};

const REGISTER_BROKER: i32 = 103;
const UNREGISTER_BROKER: i32 = 104;
const UPDATE_AND_CREATE_TOPIC: i32 = 17;
const GET_TOPIC_CONFIG: i32 = 351;

/// Without a reason a broker registers every 30 seconds.
const BEFORE_THE_PERIOD: Duration = Duration::from_secs(10);

/// What a name server was told: code, fields, body.
type Told = (i32, Vec<(String, String)>, Value);

#[derive(Default)]
struct NameServer {
    told: Mutex<Vec<Told>>,
    connections: Mutex<Vec<Arc<Connection>>>,
    order: Option<&'static str>,
}

impl Service for NameServer {
    fn serve(&self, conn: &Arc<Connection>, requests: &mut Requests<'_>, out: &mut Vec<u8>) {
        for request in requests {
            let fields: Vec<_> =
                request.fields.iter().map(|(k, v)| (k.to_lossy().into_owned(), v.to_lossy().into_owned())).collect();
            if request.head.code == REGISTER_BROKER {
                let crc = fields.iter().find(|(key, _)| key == "bodyCrc32").unwrap().1.parse::<u32>().unwrap();
                assert_eq!(crc, java::crc32(request.body));
            }
            let body = serde_json::from_slice(request.body).unwrap_or(Value::Null);
            self.told.lock().push((request.head.code, fields, body));
            self.connections.lock().push(Arc::clone(conn));
            let answer = FrameWriter::response(out, &request.head, 0);
            answer.finish_with_body(self.order.unwrap_or_default().as_bytes());
        }
    }
}

impl NameServer {
    fn told(&self, code: i32) -> Vec<Told> {
        self.told.lock().iter().filter(|told| told.0 == code).cloned().collect()
    }

    fn wait(&self, what: &str, reached: impl Fn(&[Told]) -> bool) -> Duration {
        let start = Instant::now();
        while !reached(&self.told(REGISTER_BROKER)) {
            assert!(start.elapsed() < WAIT, "it does not happen: {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
        start.elapsed()
    }
}

fn listen(at: SocketAddr, name_server: NameServer) -> (Server, Arc<NameServer>) {
    try_listen(at, name_server).unwrap()
}

fn try_listen(at: SocketAddr, name_server: NameServer) -> Result<(Server, Arc<NameServer>), StartError> {
    let service = Arc::new(name_server);
    let config = ServerConfig { reactors: 1, ..ServerConfig::new(vec![at]) };
    Ok((Server::start(config, service.clone())?, service))
}

fn any_port() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

#[test]
fn every_reachable_name_server_learns_topics_at_once_whatever_the_others_do() {
    let (first, heard) = listen(any_port(), NameServer::default());
    // Nobody listens on the first port; one that was free a moment ago may be another test's.
    let refuses = "127.0.0.1:1";
    let hangs = TcpListener::bind(any_port()).unwrap();
    let servers = format!("{refuses};{};{}", first.local_addrs()[0], hangs.local_addr().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), |config| config.namesrv_addr = Some(servers));
    heard.wait("the first registration", |told| !told.is_empty());
    let (_, fields, body) = heard.told(REGISTER_BROKER).remove(0);
    let field = |key: &str| fields.iter().find(|(k, _)| k == key).map(|(_, v)| v.clone()).unwrap();
    assert_eq!(field("brokerAddr"), broker.addr().to_string());
    assert_eq!(
        (field("brokerName"), field("brokerId"), field("clusterName")),
        ("broker-a".into(), "0".into(), "DefaultCluster".into())
    );
    assert_eq!(field("compressed"), "false");
    let topics = &body["topicConfigSerializeWrapper"]["topicConfigTable"];
    assert_eq!(topics["TBW102"]["perm"], 7);
    assert!(topics.as_object().unwrap().len() > 1);
    assert!(body["topicConfigSerializeWrapper"]["dataVersion"]["timestamp"].is_i64());

    run(async {
        let peer = Peer::new(broker.addr());
        let fields =
            [("topic", "T"), ("readQueueNums", "4"), ("writeQueueNums", "4"), ("perm", "6"), ("order", "false")];
        peer.ok(UPDATE_AND_CREATE_TOPIC, &fields, b"").await;
    });
    let took = heard.wait("the new topic is registered", |told| {
        told.iter().any(|(_, _, body)| body["topicConfigSerializeWrapper"]["topicConfigTable"].get("T").is_some())
    });
    assert!(took < BEFORE_THE_PERIOD, "{took:?}");
    let stopping = Instant::now();
    broker.shutdown();
    assert!(stopping.elapsed() < Duration::from_secs(20), "{:?}", stopping.elapsed());
    let unregistered = heard.told(UNREGISTER_BROKER);
    assert_eq!(unregistered.len(), 1);
    first.shutdown(Duration::ZERO);
}

#[test]
fn a_name_server_that_lost_its_memory_learns_again_long_before_the_period_is_over() {
    let (server, heard) = listen(any_port(), NameServer::default());
    let address = server.local_addrs()[0];
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), |config| config.namesrv_addr = Some(address.to_string()));
    assert!(broker.wait_registered(WAIT));
    heard.wait("the first registration", |told| !told.is_empty());
    for connection in heard.connections.lock().iter() {
        connection.close();
    }
    let took = heard.wait("the registration after the connection ended", |told| told.len() > 1);
    assert!(took < BEFORE_THE_PERIOD, "{took:?}");

    server.shutdown(Duration::ZERO);
    std::thread::sleep(Duration::from_millis(300));
    // A connection of somebody else may have got the port for a moment.
    let from = Instant::now();
    let (server, heard) = loop {
        match try_listen(address, NameServer::default()) {
            Ok(listening) => break listening,
            Err(error) => assert!(from.elapsed() < WAIT, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let took = heard.wait("the registration at the new server", |told| !told.is_empty());
    assert!(took < BEFORE_THE_PERIOD, "{took:?}");
    broker.shutdown();
    server.shutdown(Duration::ZERO);
}

#[test]
fn the_name_servers_order_configuration_marks_topics() {
    let order = Some("{\"table\":{\"T\":\"broker-a:4\"}}");
    let (server, heard) = listen(any_port(), NameServer { order, ..NameServer::default() });
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), |config| config.namesrv_addr = Some(server.local_addrs()[0].to_string()));
    run(async {
        let peer = Peer::new(broker.addr());
        let fields =
            [("topic", "T"), ("readQueueNums", "4"), ("writeQueueNums", "4"), ("perm", "6"), ("order", "false")];
        peer.ok(UPDATE_AND_CREATE_TOPIC, &fields, b"").await;
        heard.wait("the topic is registered", |told| {
            told.iter().any(|(_, _, body)| body["topicConfigSerializeWrapper"]["topicConfigTable"].get("T").is_some())
        });
        crate::support::eventually("the topic is ordered", async || {
            peer.ok(GET_TOPIC_CONFIG, &[("topic", "T")], b"").await.json()["order"] == true
        })
        .await;
    });
    broker.shutdown();
    server.shutdown(Duration::ZERO);
}

#[test]
fn a_broker_without_a_permission_registers_its_topics_without_it() {
    let (server, heard) = listen(any_port(), NameServer::default());
    let dir = tempfile::tempdir().unwrap();
    let broker = start(dir.path(), |config| {
        config.namesrv_addr = Some(server.local_addrs()[0].to_string());
        config.broker_permission = 4;
    });
    heard.wait("the first registration", |told| !told.is_empty());
    let (_, _, body) = heard.told(REGISTER_BROKER).remove(0);
    assert_eq!(body["topicConfigSerializeWrapper"]["topicConfigTable"]["SELF_TEST_TOPIC"]["perm"], 4);
    broker.shutdown();
    server.shutdown(Duration::ZERO);
}
