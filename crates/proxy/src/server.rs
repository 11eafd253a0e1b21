//! The proxy's listener, its threads, and its end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferromq_broker::Broker;
use ferromq_client::BrokerCall;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;

use crate::access::AccessAddresses;
use crate::certificate::{self, CertificateFiles, Followed, TlsError};
use crate::cluster::{Cluster, ClusterConfig};
use crate::door::{Door, Local};
use crate::http::Http;
use crate::inbound::Bounded;
use crate::observe::Node;
use crate::relay::{Relay, RemotingDoor};
use crate::service::Service;
use crate::tls::{self, HANDSHAKE_LIMIT, Stream, Tls, TlsMode};
use crate::unsealed;

/// Largest message of a client, bytes, unless it is said otherwise: a few of the largest the broker takes.
const MAX_INBOUND_BYTES: usize = 32 * 1024 * 1024;
/// Threads, unless it is said otherwise: the broker's work is done on them, too.
const THREADS: usize = 2;
/// Most connections at the same time, unless it is said otherwise.
const MAX_CONNECTIONS: usize = 65_536;
/// Calls of one connection at the same time.
const MAX_STREAMS: u32 = 4096;
/// Connections that are open but not yet served.
const BACKLOG: usize = 256;
/// How often silent clients are looked for, and handles to renew.
const SWEEP: Duration = Duration::from_secs(5);
/// How long the end waits for calls that are under way.
const DRAIN: Duration = Duration::from_secs(3);
/// A connection that is silent is asked whether it lives after this time.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// What a proxy needs to know.
#[derive(Clone, Debug)]
pub struct ProxyConfig {
    /// Where gRPC clients connect; port 0 takes any free one.
    pub listen: SocketAddr,
    /// Where HTTP clients connect, if they are served; port 0 takes any free one.
    pub http: Option<SocketAddr>,
    /// Where remoting clients connect that know the proxy only, if they are served.
    pub remoting: Option<RemotingDoor>,
    /// Threads that serve them, at least 1.
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
    stop: watch::Sender<bool>,
    served: tokio::task::JoinHandle<()>,
    service: Arc<Service>,
    http: Option<Http>,
    remoting_addr: Option<SocketAddr>,
    /// The remoting server of a cluster; before one broker it is the broker's.
    relay: Option<Relay>,
}

impl Proxy {
    /// Serves the broker of this process.
    pub fn start(config: &ProxyConfig, broker: &Broker) -> Result<Proxy, StartError> {
        let runtime = runtime(config)?;
        let tls = start_tls(config, &runtime)?;
        let remoting_tls = unsealed::remoting(runtime.handle().clone(), tls.clone());
        let door = Door::Local(Local::new(Arc::clone(broker.shared()), broker.local_peers()));
        let mut proxy = Self::serve(config, runtime, tls, door)?;
        if let Some(door) = config.remoting.clone() {
            let opened = broker.open_front_door(door.listen, remoting_tls, move |local| door.told(local))?;
            proxy.remoting_addr = Some(opened);
        }
        Ok(proxy)
    }

    /// Serves the brokers that NameServers know.
    pub fn start_for_cluster(config: &ProxyConfig, cluster: ClusterConfig) -> Result<Proxy, StartError> {
        let runtime = runtime(config)?;
        let (cluster, mut calls) = {
            let _inside = runtime.enter();
            Cluster::start(cluster)?
        };
        let tls = start_tls(config, &runtime)?;
        let remoting_tls = unsealed::remoting(runtime.handle().clone(), tls.clone());
        let mut proxy = Self::serve(config, runtime, tls, Door::Cluster(Arc::clone(&cluster)))?;
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

    fn serve(config: &ProxyConfig, runtime: Runtime, tls: Tls, door: Door) -> Result<Proxy, StartError> {
        let refused = |source| StartError::Listen { addr: config.listen, source };
        let listener = runtime.block_on(TcpListener::bind(config.listen)).map_err(refused)?;
        let addr = listener.local_addr().map_err(refused)?;
        tracing::info!("gRPC clients are served on {addr}, {}", tls.mode.wanted());
        let (stop, stopped) = watch::channel(false);
        let service = Arc::new(Service::new(door, config.node.clone(), config.access.clone(), stopped.clone()));
        let (opened, connections) = mpsc::channel(BACKLOG);
        runtime.spawn(accept(listener, tls.clone(), opened, config.max_connections));
        runtime.spawn(sweep(Arc::clone(&service)));
        let http = config.http.map(|listen| {
            let started = runtime.block_on(Http::start(listen, tls.clone(), Arc::clone(&service)));
            started.map_err(|source| StartError::Listen { addr: listen, source })
        });
        let http = http.transpose()?;
        let bounded = Bounded::new(Arc::clone(&service), config.max_inbound_bytes);
        let served = runtime.spawn(serve(bounded, connections, stopped));
        Ok(Proxy { addr, runtime, stop, served, http, remoting_addr: None, relay: None, service })
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
        self.runtime.shutdown_timeout(DRAIN);
    }
}

/// TLS as it is at any time.
fn start_tls(config: &ProxyConfig, runtime: &Runtime) -> Result<Tls, TlsError> {
    let mode = config.tls_mode;
    let Some(files) = config.certificate.clone() else {
        if mode != TlsMode::Disabled {
            tracing::info!(
                "the certificate of TLS was made by this process: no one can trust it; set tlsCertPath and tlsKeyPath for one of your own"
            );
        }
        return Ok(Tls { mode, acceptors: watch::channel(certificate::made()?).1 });
    };
    tracing::info!("the certificate of TLS is from {}", files.certificate.display());
    let (followed, acceptors) = Followed::start(files)?;
    runtime.spawn(followed.follow());
    Ok(Tls { mode, acceptors })
}

fn runtime(config: &ProxyConfig) -> Result<Runtime, StartError> {
    let mut builder = Builder::new_multi_thread();
    let builder = builder.worker_threads(config.threads.max(1)).thread_name("proxy").enable_all();
    builder.build().map_err(StartError::Threads)
}

async fn serve(service: Bounded, connections: mpsc::Receiver<io::Result<Stream>>, mut stopped: watch::Receiver<bool>) {
    let served = Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .add_service(service)
        .serve_with_incoming_shutdown(ReceiverStream::new(connections), async move {
            // An error means that the proxy is gone: stop as well.
            let _ = stopped.wait_for(|stop| *stop).await;
        })
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "the gRPC server has ended");
    }
}

/// Takes connections. Each does its handshake for itself, so that a slow one holds up nobody; its place is its own until it
/// is closed.
async fn accept(listener: TcpListener, tls: Tls, opened: mpsc::Sender<io::Result<Stream>>, most: usize) {
    let places = Arc::new(Semaphore::new(most));
    let mut full = false;
    loop {
        let socket = tokio::select! {
            socket = listener.accept() => socket,
            () = opened.closed() => return,
        };
        match socket {
            Ok((socket, _)) => {
                let place = Arc::clone(&places).try_acquire_owned().ok();
                if place.is_none() && !full {
                    tracing::warn!("{most} gRPC connections are open; further ones are closed until some of them end");
                }
                full = place.is_none();
                if let Some(place) = place {
                    tokio::spawn(hand_over(socket, place, tls.clone(), opened.clone()));
                }
            }
            Err(error) => {
                tracing::warn!(%error, "a gRPC connection could not be taken");
                // Out of file descriptors, most likely: it takes a moment until there are some.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn hand_over(socket: TcpStream, place: OwnedSemaphorePermit, tls: Tls, opened: mpsc::Sender<io::Result<Stream>>) {
    match tokio::time::timeout(HANDSHAKE_LIMIT, tls::open(socket, place, &tls)).await {
        // The server is stopping when nobody takes it.
        Ok(Ok(stream)) => drop(opened.send(Ok(stream)).await),
        Ok(Err(error)) => tracing::debug!(%error, "a gRPC connection was not opened"),
        Err(_) => tracing::debug!("a gRPC connection was not open within {HANDSHAKE_LIMIT:?} and is closed"),
    }
}

async fn sweep(service: Arc<Service>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        service.clients.forget_silent(Instant::now()).await;
        service.renewals.renew_due(&service.clients).await;
    }
}
