//! Remoting clients with TLS on the port that has plaintext, too.

use std::net::SocketAddr;
use std::time::Duration;

use ferromq_broker::BrokerConfig;
use ferromq_protocol::body::{HeartbeatData, ProducerData, TopicRouteData};
use ferromq_protocol::code::{request, response};
use ferromq_protocol::{json, version};
use ferromq_proxy::{CertificateFiles, RemotingDoor};
use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::bench::{self, Bench};
use crate::certificate::{connect_to, put, try_connect_to};
use crate::cluster::Cluster;
use crate::wire::Wire;

/// Longest wait for what must come.
const SOON: Duration = Duration::from_secs(30);
const TOPIC: &str = "Sealed";
const BROKER: &str = "broker-a";

fn made() -> CertifiedKey<KeyPair> {
    generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap()
}

/// A broker that has a door for remoting clients, and this certificate.
fn start(certificate: &CertifiedKey<KeyPair>) -> Bench {
    start_beside(certificate, |_| {})
}

/// The same with a broker of other settings.
fn start_beside(certificate: &CertifiedKey<KeyPair>, of_broker: impl FnOnce(&mut BrokerConfig)) -> Bench {
    bench::start_beside(of_broker, |config, folder| {
        let files = CertificateFiles { certificate: folder.join("a.crt"), key: folder.join("a.key") };
        put(&files, certificate);
        config.certificate = Some(files);
        config.remoting = Some(RemotingDoor::new("127.0.0.1:0".parse().unwrap()));
    })
}

async fn sealed(addr: SocketAddr, certificate: &CertifiedKey<KeyPair>) -> Wire<TlsStream<TcpStream>> {
    Wire::over(connect_to(addr, &[certificate], &[]).await.0)
}

/// Stores a message, and reads what there is behind those of before.
async fn store_and_read<S: AsyncRead + AsyncWrite + Unpin>(wire: &mut Wire<S>, queue_offset: u64, body: &[u8]) {
    let queue_offset = queue_offset.to_string();
    let fields = [
        ("a", "sealers"),
        ("b", TOPIC),
        ("c", "TBW102"),
        ("d", "1"),
        ("e", "0"),
        ("f", "0"),
        ("g", "1700000000000"),
        ("h", "0"),
        ("n", BROKER),
    ];
    let answer = wire.ask(request::SEND_MESSAGE_V2, &fields, body).await;
    assert_eq!(answer.head().code, response::SUCCESS, "{}", answer.remark_lossy());
    let fields = [
        ("consumerGroup", "readers"),
        ("topic", TOPIC),
        ("queueId", "0"),
        ("queueOffset", &queue_offset),
        ("maxMsgNums", "32"),
        // The subscription stands in the request.
        ("sysFlag", "4"),
        ("commitOffset", "0"),
        ("suspendTimeoutMillis", "0"),
        ("subscription", "*"),
        ("subVersion", "0"),
        ("bname", BROKER),
    ];
    let answer = wire.ask(request::PULL_MESSAGE, &fields, b"").await;
    assert_eq!(answer.head().code, response::SUCCESS, "{}", answer.remark_lossy());
    assert!(answer.body().windows(body.len()).any(|part| part == body), "the message is not among those read");
}

#[tokio::test(flavor = "multi_thread")]
async fn both_kinds_of_clients_are_served_on_one_port() {
    let certificate = made();
    let bench = start(&certificate);
    let mut tls = sealed(bench.remoting_addr(), &certificate).await;
    let mut plain = Wire::over(TcpStream::connect(bench.remoting_addr()).await.unwrap());
    store_and_read(&mut tls, 0, b"a small message").await;
    // Many records of TLS, both ways.
    let large: Vec<u8> = (0..3_000_000_u32).map(|at| (at % 251) as u8).collect();
    store_and_read(&mut tls, 1, &large).await;
    store_and_read(&mut plain, 2, b"in plaintext").await;

    // The broker knows each client by its own address.
    let (sealed_at, plain_at) = (tls.socket.get_ref().0.local_addr().unwrap(), plain.socket.local_addr().unwrap());
    for (client_id, group) in [("sealed", "sealed-group"), ("plain", "plain-group")] {
        let producer_data_set = vec![ProducerData { group_name: group.to_owned() }];
        let beat = HeartbeatData { client_id: client_id.to_owned(), producer_data_set, ..HeartbeatData::default() };
        let beat = json::to_vec_standard(&beat).unwrap();
        let answer = match client_id {
            "sealed" => tls.ask(request::HEART_BEAT, &[], &beat).await,
            _ => plain.ask(request::HEART_BEAT, &[], &beat).await,
        };
        assert_eq!(answer.head().code, response::SUCCESS, "{}", answer.remark_lossy());
    }
    for (group, addr) in [("sealed-group", sealed_at), ("plain-group", plain_at)] {
        let known = plain.ask(request::GET_PRODUCER_CONNECTION_LIST, &[("producerGroup", group)], b"").await;
        let known = String::from_utf8_lossy(known.body()).into_owned();
        assert!(known.contains(&addr.to_string()), "{addr} is not in {known}");
    }

    // A route leads to the port that the client has used.
    let route = tls.ask(request::GET_ROUTEINFO_BY_TOPIC, &[("topic", TOPIC)], b"").await;
    let route = String::from_utf8_lossy(route.body()).into_owned();
    assert!(route.contains(&format!("127.0.0.1:{}", bench.remoting_addr().port())), "{route}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_handshake_ends_nothing_but_itself() {
    let certificate = made();
    let bench = start(&certificate);
    let mut tls = sealed(bench.remoting_addr(), &certificate).await;
    // Junk behind the byte that announces TLS; half a handshake whose client leaves.
    let mut junk = TcpStream::connect(bench.remoting_addr()).await.unwrap();
    junk.write_all(&[22; 64]).await.unwrap();
    // Its answer is an alert, if anything.
    tokio::time::timeout(SOON, junk.read_to_end(&mut Vec::new())).await.expect("it is closed").unwrap_or(0);
    let mut half = TcpStream::connect(bench.remoting_addr()).await.unwrap();
    half.write_all(&[22, 3, 1]).await.unwrap();
    drop(half);
    drop(TcpStream::connect(bench.remoting_addr()).await.unwrap());
    store_and_read(&mut tls, 0, b"served meanwhile").await;

    // The broker closes who breaks the protocol, with or without TLS.
    let mut breaker = sealed(bench.remoting_addr(), &certificate).await.socket;
    breaker.write_all(&[0xff; 64]).await.unwrap();
    let left = tokio::time::timeout(SOON, breaker.read_to_end(&mut Vec::new())).await.expect("it is closed");
    assert_eq!(left.unwrap_or(0), 0, "nothing is said to who breaks the protocol");
    // A client that says it is done gets what it is still owed, and then the end.
    let mut leaver = sealed(bench.remoting_addr(), &certificate).await;
    store_and_read(&mut leaver, 1, b"the last one").await;
    leaver.socket.shutdown().await.unwrap();
    let left = tokio::time::timeout(SOON, leaver.socket.read_to_end(&mut Vec::new())).await.expect("it is closed");
    assert_eq!(left.unwrap(), 0);
}

/// Each takes three descriptors: that is what the limit of connections bounds.
#[tokio::test(flavor = "multi_thread")]
async fn handshakes_that_nobody_ends_are_bounded_and_give_their_places_back() {
    const PLACES: usize = 12;
    let certificate = made();
    let bench = start_beside(&certificate, |broker| broker.max_connections = PLACES);
    let mut half = Vec::new();
    for _ in 0..PLACES {
        let mut socket = TcpStream::connect(bench.remoting_addr()).await.unwrap();
        socket.write_all(&[22, 3, 1]).await.unwrap();
        half.push(socket);
    }
    assert!(try_connect_to(bench.remoting_addr(), &[&certificate], &[]).await.is_err(), "all places are taken");
    for socket in &mut half {
        let end = tokio::time::timeout(SOON, socket.read_to_end(&mut Vec::new())).await;
        end.expect("it is closed").unwrap_or(0);
    }
    let served = async {
        loop {
            match try_connect_to(bench.remoting_addr(), &[&certificate], &[]).await {
                Ok(socket) => break socket,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    let socket = tokio::time::timeout(SOON, served).await.expect("the places are free");
    store_and_read(&mut Wire::over(socket), 0, b"served afterwards").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_of_a_cluster_serves_both_kinds_on_all_its_ports() {
    let (certificate, folder) = (made(), tempfile::tempdir().unwrap());
    let files = CertificateFiles { certificate: folder.path().join("a.crt"), key: folder.path().join("a.key") };
    put(&files, &certificate);
    let cluster = Cluster::start_with(&[BROKER], |config| config.certificate = Some(files));
    let mut tls = sealed(cluster.remoting, &certificate).await;
    store_and_read(&mut tls, 0, b"with TLS").await;
    let mut plain = Wire::over(TcpStream::connect(cluster.remoting).await.unwrap());
    store_and_read(&mut plain, 1, b"in plaintext").await;

    // A client that names no broker is told another port.
    tls.language = version::language::GO;
    let route = tls.ask(request::GET_ROUTEINFO_BY_TOPIC, &[("topic", TOPIC)], b"").await;
    let route: TopicRouteData = json::from_slice(route.body()).unwrap();
    let told: SocketAddr = route.broker_datas[0].broker_addrs[&0].parse().unwrap();
    assert_ne!(told, cluster.remoting);
    store_and_read(&mut sealed(told, &certificate).await, 2, b"with TLS on its own port").await;
    store_and_read(&mut Wire::over(TcpStream::connect(told).await.unwrap()), 3, b"in plaintext there").await;
}
