//! The proxy's listener, its threads, and its end.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferromq_broker::Broker;
use ferromq_client::BrokerCall;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::access::AccessAddresses;
use crate::certificate::{self, CertificateFiles, Followed, TlsError};
use crate::cluster::{Cluster, ClusterConfig};
use crate::door::{Door, Local};
use crate::http::Http;
use crate::inbound::Bounded;
use crate::observe::Node;
use crate::relay::{Relay, RemotingDoor};
use crate::service::Service;
use crate::tls::{self, Ends, HANDSHAKE_LIMIT, Stream, Tls, TlsMode};
use crate::unsealed;

/// Largest message of a client, bytes, unless it is said otherwise: a few of the largest the broker takes.
const MAX_INBOUND_BYTES: usize = 32 * 1024 * 1024;
/// Threads, unless it is said otherwise.
const THREADS: usize = 2;
/// Most connections at the same time, unless it is said otherwise.
const MAX_CONNECTIONS: usize = 65_536;
/// Calls of one connection at the same time.
const MAX_STREAMS: u32 = 4096;
/// How often silent clients are looked for, and handles to renew.
const SWEEP: Duration = Duration::from_secs(5);
/// How long the end waits for calls that are under way.
const DRAIN: Duration = Duration::from_secs(3);
/// A connection that is silent is asked whether it lives after this time.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// How long it may take to answer that.
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(20);
/// Pause after a connection could not be taken.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a proxy needs to know.
#[derive(Clone, Debug)]
pub struct ProxyConfig {
    /// Where gRPC clients connect; port 0 takes any free one.
    pub listen: SocketAddr,
    /// Where HTTP clients connect, if they are served; port 0 takes any free one.
    pub http: Option<SocketAddr>,
    /// Where remoting clients connect that know the proxy only, if they are served.
    pub remoting: Option<RemotingDoor>,
    /// Threads that serve them, at least 1, beside those for TLS handshakes; gRPC clients of the broker of this process are
    /// served on its reactors.
    pub threads: usize,
    /// Who has to speak TLS.
    pub tls_mode: TlsMode,
    /// The certificate of TLS; without files the proxy makes one.
    pub certificate: Option<CertificateFiles>,
    /// What clients are told instead of the address they used.
    pub access: Option<AccessAddresses>,
    /// What its figures call it.
    pub node: Node,
    /// Most connections at the same time.
    pub max_connections: usize,
    /// Largest message of a client, bytes (`grpcMaxInboundMessageSize`).
    pub max_inbound_bytes: usize,
}

impl ProxyConfig {
    /// The defaults, for clients that connect to `listen`.
    pub fn new(listen: SocketAddr) -> Self {
        ProxyConfig {
            listen,
            http: None,
            remoting: None,
            threads: THREADS,
            tls_mode: TlsMode::default(),
            certificate: None,
            access: None,
            node: Node::default(),
            max_connections: MAX_CONNECTIONS,
            max_inbound_bytes: MAX_INBOUND_BYTES,
        }
    }
}

/// Why a proxy did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the proxy cannot listen on {addr}: {source}; stop what uses the port or choose another")]
    Listen { addr: SocketAddr, source: io::Error },
    #[error("the proxy cannot start its threads: {0}")]
    Threads(io::Error),
    #[error("the proxy cannot use TLS: {0}")]
    Tls(#[from] TlsError),
    #[error("the proxy serves no remoting clients: {0}")]
    Remoting(#[from] ferromq_remoting::StartError),
    #[error("the proxy serves no remoting clients: {0}")]
    FrontDoor(#[from] ferromq_broker::StartError),
    #[error("the proxy cannot serve a cluster: {0}")]
    Cluster(#[from] ferromq_client::Error),
}

/// A running proxy.
pub struct Proxy {
    addr: SocketAddr,
    runtime: Runtime,
    /// For TLS handshakes alone, where there are any.
    handshakes: Option<Runtime>,
    stop: watch::Sender<bool>,
    served: JoinHandle<()>,
    service: Arc<Service>,
    http: Option<Http>,
    remoting_addr: Option<SocketAddr>,
    /// The remoting server of a cluster; before one broker it is the broker's.
    relay: Option<Relay>,
}

impl Proxy {
    /// Serves the broker of this process.
    pub fn start(config: &ProxyConfig, broker: &Broker) -> Result<Proxy, StartError> {
        let (runtime, handshakes) = runtimes(config)?;
        let tls = start_tls(config, &runtime, handshakes.as_ref())?;
        let remoting_tls = unsealed::remoting(runtime.handle().clone(), tls.clone());
        let peers = broker.local_peers();
        let homes = peers.reactors().cloned().collect();
        let door = Door::Local(Local::new(Arc::clone(broker.shared()), peers));
        let mut proxy = Self::serve(config, (runtime, handshakes), homes, tls, door)?;
        if let Some(door) = config.remoting.clone() {
            let opened = broker.open_front_door(door.listen, remoting_tls, move |local| door.told(local))?;
            proxy.remoting_addr = Some(opened);
        }
        Ok(proxy)
    }

    /// Serves the brokers that NameServers know.
    pub fn start_for_cluster(config: &ProxyConfig, cluster: ClusterConfig) -> Result<Proxy, StartError> {
        let (runtime, handshakes) = runtimes(config)?;
        let (cluster, mut calls) = {
            let _inside = runtime.enter();
            Cluster::start(cluster)?
        };
        let tls = start_tls(config, &runtime, handshakes.as_ref())?;
        let remoting_tls = unsealed::remoting(runtime.handle().clone(), tls.clone());
        let homes = vec![runtime.handle().clone()];
        let door = Door::Cluster(Arc::clone(&cluster));
        let mut proxy = Self::serve(config, (runtime, handshakes), homes, tls, door)?;
        let start = |door| Relay::start(door, remoting_tls, Arc::clone(&cluster), Arc::clone(&proxy.service.calls));
        proxy.relay = config.remoting.as_ref().map(start).transpose()?;
        proxy.remoting_addr = proxy.relay.as_ref().map(Relay::addr);
        let clients = Arc::clone(&proxy.service.clients);
        proxy.runtime.spawn(async move {
            if let Err(refused) = cluster.masters().await {
                tracing::warn!("no NameServer answers yet: {}", refused.message);
            }
            while let Some(call) = calls.recv().await {
                match call {
                    BrokerCall::Check(check) => clients.recover(&cluster, &check),
                    BrokerCall::LiteTopicTaken(taken) => clients.lite_topic_taken(&taken),
                }
            }
        });
        Ok(proxy)
    }

    /// Connections of gRPC clients live on one of `homes` each.
    fn serve(
        config: &ProxyConfig,
        (runtime, handshakes): (Runtime, Option<Runtime>),
        homes: Vec<Handle>,
        tls: Tls,
        door: Door,
    ) -> Result<Proxy, StartError> {
        let refused = |source| StartError::Listen { addr: config.listen, source };
        let listener = runtime.block_on(TcpListener::bind(config.listen)).map_err(refused)?;
        let addr = listener.local_addr().map_err(refused)?;
        tracing::info!("gRPC clients are served on {addr}, {}", tls.mode.wanted());
        let (stop, stopped) = watch::channel(false);
        let service = Arc::new(Service::new(door, config.node.clone(), config.access.clone(), stopped.clone()));
        runtime.spawn(sweep(Arc::clone(&service)));
        let http = config.http.map(|listen| {
            let started = runtime.block_on(Http::start(listen, tls.clone(), Arc::clone(&service)));
            started.map_err(|source| StartError::Listen { addr: listen, source })
        });
        let http = http.transpose()?;
        let bounded = Bounded::new(Arc::clone(&service), config.max_inbound_bytes);
        let homes = homes.into_iter().map(|runtime| Home { runtime, connections: Arc::default() }).collect();
        let served = runtime.spawn(accept(listener, tls, homes, bounded, config.max_connections));
        Ok(Proxy { addr, runtime, handshakes, stop, served, http, remoting_addr: None, relay: None, service })
    }

    /// Where clients connect.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Where HTTP clients connect.
    pub fn http_addr(&self) -> Option<SocketAddr> {
        self.http.as_ref().map(Http::addr)
    }

    /// Where remoting clients connect that know the proxy only.
    pub fn remoting_addr(&self) -> Option<SocketAddr> {
        self.remoting_addr
    }

    /// Takes no further connections, ends the streams, and gives calls under way a moment. Blocks; to be called before
    /// the broker of this process stops.
    pub fn shutdown(self) {
        self.stop.send_replace(true);
        if let Some(relay) = self.relay {
            relay.shutdown();
        }
        let (served, http, renewals) = (self.served, self.http, &self.service.renewals);
        let ended = async {
            if let Some(http) = http {
                http.ended().await;
            }
            served.await
        };
        self.runtime.block_on(async {
            if tokio::time::timeout(DRAIN, ended).await.is_err() {
                tracing::debug!("calls that still waited are given up");
            }
            if tokio::time::timeout(DRAIN, renewals.give_all_back()).await.is_err() {
                tracing::warn!("not all messages were given back; the rest is visible when its time is over");
            }
            if let Door::Cluster(cluster) = &self.service.door {
                cluster.shutdown().await;
            }
        });
        if let Some(handshakes) = self.handshakes {
            handshakes.shutdown_background();
        }
        self.runtime.shutdown_timeout(DRAIN);
    }
}

/// TLS as it is at any time.
fn start_tls(config: &ProxyConfig, runtime: &Runtime, handshakes: Option<&Runtime>) -> Result<Tls, TlsError> {
    let (mode, handshakes) = (config.tls_mode, handshakes.unwrap_or(runtime).handle().clone());
    let Some(files) = config.certificate.clone() else {
        if mode != TlsMode::Disabled {
            tracing::info!(
                "the certificate of TLS was made by this process: no one can trust it; set tlsCertPath and tlsKeyPath for one of your own"
            );
        }
        return Ok(Tls { mode, acceptors: watch::channel(certificate::made()?).1, handshakes });
    };
    tracing::info!("the certificate of TLS is from {}", files.certificate.display());
    let (followed, acceptors) = Followed::start(files)?;
    runtime.spawn(followed.follow());
    Ok(Tls { mode, acceptors, handshakes })
}

/// The proxy's threads, and those of handshakes.
fn runtimes(config: &ProxyConfig) -> Result<(Runtime, Option<Runtime>), StartError> {
    let of = |name, threads: usize| {
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(threads.max(1)).thread_name(name).enable_all().build().map_err(StartError::Threads)
    };
    let handshakes = match config.tls_mode {
        TlsMode::Disabled => None,
        TlsMode::Permissive | TlsMode::Enforcing => Some(of("handshakes", handshake_threads())?),
    };
    Ok((of("proxy", config.threads)?, handshakes))
}

/// Half of the cores: however many clients come at once, the others are free for those that are there.
fn handshake_threads() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get() / 2)
}

/// Threads on which connections live, from their first byte to their last.
struct Home {
    runtime: Handle,
    /// One more than there are connections.
    connections: Arc<()>,
}

/// Takes connections, each to the home that has the fewest, and waits for their end. A place is a connection's own until it
/// is closed.
async fn accept(listener: TcpListener, tls: Tls, homes: Vec<Home>, service: Bounded, most: usize) {
    let mut open = JoinSet::new();
    let mut full = false;
    let mut stopping = pin!(service.stopping());
    loop {
        let socket = tokio::select! {
            socket = listener.accept() => socket,
            Some(_) = open.join_next() => continue,
            () = &mut stopping => break,
        };
        let is_place = open.len() < most;
        let fewest = homes.iter().min_by_key(|home| Arc::strong_count(&home.connections)).filter(|_| is_place);
        let taken = socket.and_then(|(socket, _)| {
            if let Some(home) = fewest {
                let (socket, tls, counted) = (socket.into_std()?, tls.clone(), Arc::clone(&home.connections));
                let served = serve(socket, tls, service.clone());
                open.spawn_on(async move { (served.await, counted).0 }, &home.runtime);
            } else if !full {
                tracing::warn!("{most} gRPC connections are open; further ones are closed until some of them end");
            }
            Ok(())
        });
        full = !is_place;
        if let Err(error) = taken {
            tracing::warn!(%error, "a gRPC connection could not be taken");
            // Out of file descriptors, most likely: it takes a moment until there are some.
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }
    drop(listener);
    while open.join_next().await.is_some() {}
}

/// Serves one connection to its end. Each is opened for itself, so that a slow one holds up nobody.
async fn serve(socket: std::net::TcpStream, tls: Tls, service: Bounded) {
    let (stream, ends) = match tokio::time::timeout(HANDSHAKE_LIMIT, open(socket, &tls)).await {
        Ok(Ok(opened)) => opened,
        Ok(Err(error)) => return tracing::debug!(%error, "a gRPC connection was not opened"),
        Err(_) => {
            return tracing::debug!("a gRPC connection was not open within {HANDSHAKE_LIMIT:?} and is closed");
        }
    };
    let mut connection = pin!(
        http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE_ANSWER)
            // Nobody reads it.
            .auto_date_header(false)
            .serve_connection(TokioIo::new(stream), service.clone().connected(ends))
    );
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = service.stopping() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(peer = %ends.peer, %error, "a gRPC connection has broken");
    }
}

async fn open(socket: std::net::TcpStream, tls: &Tls) -> io::Result<(Stream, Ends)> {
    let socket = TcpStream::from_std(socket)?;
    let ends = Ends { peer: socket.peer_addr()?, local: socket.local_addr()? };
    Ok((tls::open(socket, tls).await?, ends))
}

async fn sweep(service: Arc<Service>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        service.clients.forget_silent(Instant::now()).await;
        service.renewals.renew_due(&service.clients).await;
    }
}
