//! The proxy's listener, its threads, and its end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferromq_broker::Broker;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;

use crate::door::Door;
use crate::pb::messaging_service_server::MessagingServiceServer;
use crate::service::Service;
use crate::tls::{self, Stream, TlsError};

/// Largest message of a client, bytes (`grpcMaxInboundMessageSize`).
const MAX_INBOUND_BYTES: usize = 130 * 1024 * 1024;
/// Most connections at the same time.
const MAX_CONNECTIONS: usize = 65_536;
/// Calls of one connection at the same time.
const MAX_STREAMS: u32 = 4096;
/// Time for the first byte and the TLS handshake of a connection.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
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
    /// Threads that serve them, at least 1.
    pub threads: usize,
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
}

/// A running proxy.
pub struct Proxy {
    addr: SocketAddr,
    runtime: Runtime,
    stop: watch::Sender<bool>,
    served: tokio::task::JoinHandle<()>,
}

impl Proxy {
    /// Serves the broker of this process.
    pub fn start(config: &ProxyConfig, broker: &Broker) -> Result<Proxy, StartError> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(config.threads.max(1))
            .thread_name("proxy")
            .enable_all()
            .build()
            .map_err(StartError::Threads)?;
        let refused = |source| StartError::Listen { addr: config.listen, source };
        let listener = runtime.block_on(TcpListener::bind(config.listen)).map_err(refused)?;
        let addr = listener.local_addr().map_err(refused)?;
        let tls = tls::self_signed()?;
        tracing::info!(
            "gRPC clients are served on {addr}, in plaintext and with TLS; the certificate was made by this process and is trusted by no one but RocketMQ's clients"
        );
        let door = Door::new(Arc::clone(broker.shared()), broker.local_peers());
        let (stop, stopped) = watch::channel(false);
        let service = Arc::new(Service::new(door, stopped.clone()));
        let (opened, connections) = mpsc::channel(BACKLOG);
        runtime.spawn(accept(listener, tls, opened));
        runtime.spawn(sweep(Arc::clone(&service)));
        let served = runtime.spawn(serve(service, connections, stopped));
        Ok(Proxy { addr, runtime, stop, served })
    }

    /// Where clients connect.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Takes no further connections, ends the streams, and gives calls under way a moment. Blocks; to be called before
    /// the broker stops.
    pub fn shutdown(self) {
        self.stop.send_replace(true);
        let served = self.served;
        self.runtime.block_on(async {
            if tokio::time::timeout(DRAIN, served).await.is_err() {
                tracing::debug!("gRPC calls that still waited are given up");
            }
        });
        self.runtime.shutdown_timeout(DRAIN);
    }
}

async fn serve(
    service: Arc<Service>,
    connections: mpsc::Receiver<io::Result<Stream>>,
    mut stopped: watch::Receiver<bool>,
) {
    let served = Server::builder()
        .max_concurrent_streams(MAX_STREAMS)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .add_service(
            MessagingServiceServer::from_arc(service)
                .max_decoding_message_size(MAX_INBOUND_BYTES)
                .max_encoding_message_size(usize::MAX),
        )
        .serve_with_incoming_shutdown(ReceiverStream::new(connections), async move {
            // An error means that the proxy is gone: stop as well.
            let _ = stopped.wait_for(|stop| *stop).await;
        })
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "the gRPC server has ended");
    }
}

/// Takes connections. Each does its handshake for itself, so that a slow one holds up nobody.
async fn accept(listener: TcpListener, tls: TlsAcceptor, opened: mpsc::Sender<io::Result<Stream>>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let socket = tokio::select! {
            socket = listener.accept() => socket,
            () = opened.closed() => return,
        };
        match socket {
            Ok((socket, _)) => {
                let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                    tracing::warn!("{MAX_CONNECTIONS} gRPC connections wait for their handshake; one more is closed");
                    continue;
                };
                let (tls, opened) = (tls.clone(), opened.clone());
                tokio::spawn(async move {
                    hand_over(socket, &tls, &opened).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a gRPC connection could not be taken");
                // Out of file descriptors, most likely: it takes a moment until there are some.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn hand_over(socket: TcpStream, tls: &TlsAcceptor, opened: &mpsc::Sender<io::Result<Stream>>) {
    match tokio::time::timeout(HANDSHAKE_LIMIT, tls::open(socket, tls)).await {
        // The server is stopping when nobody takes it.
        Ok(Ok(stream)) => drop(opened.send(Ok(stream)).await),
        Ok(Err(error)) => tracing::debug!(%error, "a gRPC connection was not opened"),
        Err(_) => tracing::debug!("a gRPC connection said nothing for {HANDSHAKE_LIMIT:?} and is closed"),
    }
}

async fn sweep(service: Arc<Service>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        service.clients.forget_silent(Instant::now());
        service.renewals.renew_due(&service).await;
    }
}
