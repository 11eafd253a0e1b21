//! A NameServer over sockets, as brokers and clients of any age talk to it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::time::{Duration, Instant};

use ferromq_namesrv::{NameServer, NamesrvConfig};
use ferromq_protocol::code::{request, response};
use ferromq_protocol::{Encoding, FrameWriter, OwnedCommand, java};
use ferromq_remoting::{Client, ClientConfig};

/// Longest wait for what must come.
const WAIT: Duration = Duration::from_secs(30);

struct Fixture {
    server: Option<NameServer>,
    addr: String,
    _dir: tempfile::TempDir,
}

impl Fixture {
    fn start(change: impl FnOnce(&mut NamesrvConfig)) -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let mut config = NamesrvConfig {
            bind_address: "127.0.0.1".into(),
            listen_port: 0,
            kv_config_path: dir.path().join("kvConfig.json"),
            config_store_path: dir.path().join("namesrv.properties"),
            scan_not_active_broker_interval: 20,
            ..NamesrvConfig::default()
        };
        change(&mut config);
        let server = NameServer::start(config).unwrap();
        let addr = server.addr().to_string();
        Fixture { server: Some(server), addr, _dir: dir }
    }

    async fn ask(
        &self,
        client: &Client,
        code: i32,
        fields: &[(&str, &str)],
        body: &[u8],
        encoding: Encoding,
    ) -> OwnedCommand {
        let write = |out: &mut Vec<u8>, opaque| {
            let mut writer = FrameWriter::request(out, encoding, code, opaque, false);
            for (key, value) in fields {
                writer.str(key, value);
            }
            writer.finish_with_body(body);
        };
        client.invoke(&self.addr, WAIT, write).await.unwrap()
    }

    async fn get(&self, client: &Client, code: i32, fields: &[(&str, &str)]) -> OwnedCommand {
        self.ask(client, code, fields, &[], Encoding::Json).await
    }

    async fn route(&self, client: &Client, topic: &str) -> OwnedCommand {
        self.get(client, request::GET_ROUTEINFO_BY_TOPIC, &[("topic", topic)]).await
    }

    async fn register(&self, client: &Client, more: &[(&str, &str)]) -> OwnedCommand {
        let crc = java::crc32(BODY).to_string();
        let mut fields = vec![
            ("brokerName", "broker-a"),
            ("brokerAddr", "10.1.1.1:10911"),
            ("clusterName", "DefaultCluster"),
            ("haServerAddr", "10.1.1.1:10912"),
            ("brokerId", "0"),
            ("bodyCrc32", &crc),
            ("compressed", "false"),
        ];
        fields.extend_from_slice(more);
        self.ask(client, request::REGISTER_BROKER, &fields, BODY, Encoding::Json).await
    }

    async fn gone(&self, client: &Client, topic: &str) {
        let deadline = Instant::now() + WAIT;
        while Instant::now() < deadline {
            if self.route(client, topic).await.head().code == response::TOPIC_NOT_EXIST {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the route of {topic} is still there");
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            std::thread::spawn(move || server.shutdown()).join().unwrap();
        }
    }
}

const BODY: &[u8] = br#"{"filterServerList":[],"topicConfigSerializeWrapper":{"dataVersion":{"counter":1,"stateVersion":0,"timestamp":5},"topicConfigTable":{"orders":{"attributes":{},"order":false,"perm":6,"readQueueNums":8,"topicFilterType":"SINGLE_TAG","topicName":"orders","topicSysFlag":0,"writeQueueNums":8},"TBW102":{"perm":7,"readQueueNums":8,"topicName":"TBW102","writeQueueNums":8}},"topicQueueMappingInfoMap":{}}}"#;

fn client() -> Client {
    Client::new(ClientConfig::default(), None)
}

fn text(answer: &OwnedCommand) -> String {
    String::from_utf8(answer.body().to_vec()).unwrap()
}

#[tokio::test]
async fn routes_in_both_dialects_and_both_encodings() {
    let namesrv = Fixture::start(|_| {});
    let (broker, client) = (client(), client());
    let answer = namesrv.register(&broker, &[]).await;
    assert_eq!(answer.head().code, response::SUCCESS, "{}", answer.remark_lossy());

    // Our own version is new: standard JSON.
    for encoding in [Encoding::Json, Encoding::Binary] {
        let fields = [("topic", "orders")];
        let answer = namesrv.ask(&client, request::GET_ROUTEINFO_BY_TOPIC, &fields, &[], encoding).await;
        assert_eq!((answer.head().code, answer.head().encoding), (response::SUCCESS, encoding));
        assert!(text(&answer).contains(r#""brokerAddrs":{"0":"10.1.1.1:10911"}"#), "{}", text(&answer));
        assert!(!text(&answer).contains("null"));
    }
    let unknown = namesrv.route(&client, "nothing").await;
    assert_eq!(unknown.head().code, response::TOPIC_NOT_EXIST);
    assert_eq!(
        unknown.remark_lossy(),
        "No topic route info in name server for the topic: nothing\n\
         See https://rocketmq.apache.org/docs/bestPractice/06FAQ for further details."
    );
}

/// A request of another version than ours has to be written by hand.
async fn raw(addr: &str, header: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(addr).await.unwrap();
    let mut frame = (header.len() as u32 + 4).to_be_bytes().to_vec();
    frame.extend((header.len() as u32).to_be_bytes());
    frame.extend(header.as_bytes());
    stream.write_all(&frame).await.unwrap();
    let len = stream.read_u32().await.unwrap();
    let mut answer = vec![0; len as usize];
    stream.read_exact(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer[4..]).into_owned()
}

#[tokio::test]
async fn old_clients_get_unquoted_keys_unless_they_ask() {
    let namesrv = Fixture::start(|_| {});
    let broker = client();
    namesrv.register(&broker, &[]).await;
    let header = |version: i32, more: &str| {
        format!(
            r#"{{"code":105,"extFields":{{"topic":"orders"{more}}},"flag":0,"language":"JAVA","opaque":7,"version":{version}}}"#
        )
    };
    let old = raw(&namesrv.addr, &header(399, "")).await;
    assert!(old.contains(r#""brokerAddrs":{0:"10.1.1.1:10911"}"#), "{old}");
    assert!(old.contains(r#""opaque":7"#));
    let asks = raw(&namesrv.addr, &header(399, r#","acceptStandardJsonOnly":"true""#)).await;
    let new = raw(&namesrv.addr, &header(401, "")).await;
    for standard in [asks, new] {
        assert!(standard.contains(r#""brokerAddrs":{"0":"10.1.1.1:10911"}"#), "{standard}");
    }
}

#[tokio::test]
async fn a_closed_connection_takes_the_broker_away_at_once() {
    let namesrv = Fixture::start(|_| {});
    let (broker, client) = (client(), client());
    namesrv.register(&broker, &[]).await;
    assert_eq!(namesrv.route(&client, "orders").await.head().code, response::SUCCESS);
    broker.close();
    namesrv.gone(&client, "orders").await;
}

#[tokio::test]
async fn silence_takes_the_broker_away_and_heartbeats_keep_it() {
    let namesrv = Fixture::start(|_| {});
    let (broker, client) = (client(), client());
    // Longer than a busy machine may keep a heartbeat back, and over before the last of them.
    namesrv.register(&broker, &[("heartbeatTimeoutMillis", "2000")]).await;
    for _ in 0..12 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let fields = [
            ("clusterName", "DefaultCluster"),
            ("brokerName", "broker-a"),
            ("brokerAddr", "10.1.1.1:10911"),
            ("brokerId", "0"),
        ];
        namesrv.get(&broker, request::BROKER_HEARTBEAT, &fields).await;
    }
    assert_eq!(namesrv.route(&client, "orders").await.head().code, response::SUCCESS);
    namesrv.gone(&client, "orders").await;
    // Its connection was closed; the next registration makes a new one.
    assert_eq!(namesrv.register(&broker, &[]).await.head().code, response::SUCCESS);
    assert_eq!(namesrv.route(&client, "orders").await.head().code, response::SUCCESS);
}

#[tokio::test]
async fn unregistering_and_versions() {
    let namesrv = Fixture::start(|_| {});
    let broker = client();
    let who = [
        ("clusterName", "DefaultCluster"),
        ("brokerName", "broker-a"),
        ("brokerAddr", "10.1.1.1:10911"),
        ("brokerId", "0"),
    ];
    let ask = async |version: &str| {
        let answer = namesrv.ask(&broker, request::QUERY_DATA_VERSION, &who, version.as_bytes(), Encoding::Json).await;
        let changed = answer.command().fields.bool("changed").unwrap();
        (changed, text(&answer))
    };
    let same = r#"{"counter":1,"stateVersion":0,"timestamp":5}"#;
    assert_eq!(ask(same).await, (true, String::new()));
    namesrv.register(&broker, &[]).await;
    assert_eq!(ask(same).await, (false, same.to_owned()));
    assert!(ask(r#"{"counter":2,"stateVersion":0,"timestamp":5}"#).await.0);
    assert_eq!(namesrv.get(&broker, request::UNREGISTER_BROKER, &who).await.head().code, response::SUCCESS);
    assert_eq!(namesrv.route(&broker, "orders").await.head().code, response::TOPIC_NOT_EXIST);
    assert!(ask(same).await.0);
}

#[tokio::test]
async fn refused_registrations_say_why() {
    let namesrv = Fixture::start(|_| {});
    let broker = client();
    let crc = namesrv.register(&broker, &[("bodyCrc32", "1")]).await;
    assert_eq!((crc.head().code, &*crc.remark_lossy()), (response::SYSTEM_ERROR, "crc32 not match"));
    let broken = namesrv.register(&broker, &[("bodyCrc32", "0"), ("compressed", "true")]).await;
    assert_eq!(broken.head().code, response::SYSTEM_ERROR);
    let missing = namesrv.get(&broker, request::REGISTER_BROKER, &[("brokerName", "a")]).await;
    assert_eq!(missing.head().code, response::SYSTEM_ERROR);
    let unknown = namesrv.get(&broker, 9999, &[]).await;
    assert_eq!(unknown.head().code, response::REQUEST_CODE_NOT_SUPPORTED);
    assert_eq!(unknown.remark_lossy(), " request type 9999 not supported");
}

#[tokio::test]
async fn order_configuration_reaches_routes_and_brokers() {
    let namesrv = Fixture::start(|c| c.order_message_enable = true);
    let broker = client();
    let order = [("namespace", "ORDER_TOPIC_CONFIG"), ("key", "orders"), ("value", "broker-a:4")];
    assert_eq!(namesrv.get(&broker, request::GET_KV_CONFIG, &order[..2]).await.head().code, response::QUERY_NOT_FOUND);
    assert_eq!(namesrv.get(&broker, request::PUT_KV_CONFIG, &order).await.head().code, response::SUCCESS);
    let got = namesrv.get(&broker, request::GET_KV_CONFIG, &order[..2]).await;
    assert_eq!(got.command().fields.str("value").unwrap(), "broker-a:4");
    let list = namesrv.get(&broker, request::GET_KVLIST_BY_NAMESPACE, &order[..1]).await;
    assert_eq!(text(&list), r#"{"table":{"orders":"broker-a:4"}}"#);
    assert_eq!(text(&namesrv.register(&broker, &[]).await), text(&list));
    assert!(text(&namesrv.route(&broker, "orders").await).contains(r#""orderTopicConf":"broker-a:4""#));
    namesrv.get(&broker, request::DELETE_KV_CONFIG, &order[..2]).await;
    assert!(!text(&namesrv.route(&broker, "orders").await).contains("orderTopicConf"));
}

#[tokio::test]
async fn lists_clusters_and_permissions() {
    let namesrv = Fixture::start(|_| {});
    let broker = client();
    namesrv.register(&broker, &[]).await;
    let all = namesrv.get(&broker, request::GET_ALL_TOPIC_LIST_FROM_NAMESERVER, &[]).await;
    assert_eq!(text(&all), r#"{"topicList":["TBW102","orders"]}"#);
    let of_cluster = [("cluster", "DefaultCluster")];
    assert_eq!(text(&namesrv.get(&broker, request::GET_TOPICS_BY_CLUSTER, &of_cluster).await), text(&all));
    let info = text(&namesrv.get(&broker, request::GET_BROKER_CLUSTER_INFO, &[]).await);
    assert!(info.contains(r#""clusterAddrTable":{"DefaultCluster":["broker-a"]}"#), "{info}");
    let group = [("clusterName", "DefaultCluster"), ("brokerName", "broker-a")];
    let group = text(&namesrv.get(&broker, request::GET_BROKER_MEMBER_GROUP, &group).await);
    assert!(group.contains(r#""brokerAddrs":{"0":"10.1.1.1:10911"}"#), "{group}");
    let name = [("brokerName", "broker-a")];
    let wiped = namesrv.get(&broker, request::WIPE_WRITE_PERM_OF_BROKER, &name).await;
    assert_eq!(wiped.command().fields.i32("wipeTopicCount"), Ok(2));
    assert!(text(&namesrv.route(&broker, "orders").await).contains(r#""perm":4"#));
    let added = namesrv.get(&broker, request::ADD_WRITE_PERM_OF_BROKER, &name).await;
    assert_eq!(added.command().fields.i32("addTopicCount"), Ok(2));
    namesrv.get(&broker, request::DELETE_TOPIC_IN_NAMESRV, &[("topic", "orders")]).await;
    namesrv.gone(&broker, "orders").await;
}

#[tokio::test]
async fn settings_over_the_wire() {
    let namesrv = Fixture::start(|_| {});
    let client = client();
    let update = async |text: &str| {
        namesrv.ask(&client, request::UPDATE_NAMESRV_CONFIG, &[], text.as_bytes(), Encoding::Json).await
    };
    assert_eq!(update("enableAllTopicList=false\nunknownKey=1\n").await.head().code, response::SUCCESS);
    let list = namesrv.get(&client, request::GET_ALL_TOPIC_LIST_FROM_NAMESERVER, &[]).await;
    assert_eq!((list.head().code, &*list.remark_lossy()), (response::SYSTEM_ERROR, "disable"));
    assert!(text(&namesrv.get(&client, request::GET_NAMESRV_CONFIG, &[]).await).contains("enableAllTopicList=false\n"));
    assert_eq!(update("kvConfigPath=/tmp/elsewhere\n").await.head().code, response::NO_PERMISSION);
    assert_eq!(update("waitSecondsForService=soon\n").await.head().code, response::SYSTEM_ERROR);
}

#[tokio::test]
async fn routes_wait_for_service() {
    let namesrv = Fixture::start(|c| {
        c.need_wait_for_service = true;
        c.wait_seconds_for_service = 3600;
    });
    let client = client();
    let answer = namesrv.route(&client, "orders").await;
    assert_eq!((answer.head().code, &*answer.remark_lossy()), (response::SYSTEM_ERROR, "name server not ready"));
}
