//! Plain HTTP for every other language: the calls of `rpc/` with JSON around them. It keeps nothing that those do not.
//!
//! # Layout
//! - this file: listener, connections, and the limits of both.
//! - `route.rs`: which path is which call; `query.rs`: parameters; `body.rs`: bodies of requests.
//! - `send.rs`, `receive.rs`, `events.rs`, `handles.rs`, `recall.rs`, `health.rs`: the calls.
//! - `answer.rs`: answers and refusals; `message.rs`: received messages as JSON.
//! - `openapi.json`: the description that clients can ask for.

mod answer;
mod body;
mod events;
mod handles;
mod health;
mod message;
mod query;
mod recall;
mod receive;
mod route;
mod send;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use ferromq_common::{clock, net};
use ferromq_protocol::id::UniqueIds;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};

use crate::http::body::Room;
use crate::patient::Patient;
use crate::service::Service;
use crate::tls::{self, Ends, Tls};

/// Most connections at the same time.
const MAX_CONNECTIONS: usize = 8192;
/// Most requests that wait for messages at the same time, streams of events among them.
const MAX_WAITING: usize = 4096;
/// Largest head of a request, bytes.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// Most header fields of a request.
const MAX_HEADERS: usize = 64;
/// Time for the head of a request; a connection that asks nothing for so long is closed, too.
const HEAD_LIMIT: Duration = Duration::from_secs(30);
/// Pause after a connection could not be taken.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A running endpoint.
pub(crate) struct Http {
    addr: SocketAddr,
    served: JoinHandle<()>,
}

/// What all requests share.
pub(crate) struct Endpoint {
    service: Arc<Service>,
    tls: Tls,
    /// Makes ids of messages: HTTP clients have none of their own.
    ids: UniqueIds,
    /// Places of requests that wait for messages.
    waiting: Arc<Semaphore>,
    /// For bodies of requests.
    room: Room,
    /// For bodies of received messages that are unpacked here.
    unpacked: Room,
}

impl Http {
    /// Serves what listens to the service's end.
    pub async fn start(listen: SocketAddr, tls: Tls, service: Arc<Service>) -> io::Result<Http> {
        let listener = TcpListener::bind(listen).await?;
        let addr = listener.local_addr()?;
        tracing::info!("HTTP clients are served on {addr}, {}", tls.mode.wanted());
        let endpoint = Arc::new(Endpoint::new(service, tls, addr));
        Ok(Http { addr, served: tokio::spawn(accept(listener, endpoint)) })
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Waits until the last connection has ended.
    pub async fn ended(self) {
        // It ends by a panic at the worst.
        let _ = self.served.await;
    }
}

impl Endpoint {
    fn new(service: Arc<Service>, tls: Tls, addr: SocketAddr) -> Self {
        let ip = if addr.ip().is_unspecified() { net::outward_ip() } else { addr.ip() };
        Endpoint {
            service,
            tls,
            ids: UniqueIds::new(ip, std::process::id(), addr.port().into()),
            waiting: Arc::new(Semaphore::new(MAX_WAITING)),
            room: Room::default(),
            unpacked: Room::default(),
        }
    }

    fn new_id(&self) -> String {
        self.ids.next(clock::now_millis())
    }

    /// Requests that wait for messages, streams of events included.
    fn count_waiting(&self) -> usize {
        MAX_WAITING - self.waiting.available_permits()
    }

    fn is_stopping(&self) -> bool {
        *self.service.stopped.borrow()
    }

    /// Returns when the proxy stops.
    async fn stopping(&self) {
        // An error means that the proxy is gone.
        let _ = self.service.stopped.clone().wait_for(|stopped| *stopped).await;
    }
}

async fn accept(listener: TcpListener, endpoint: Arc<Endpoint>) {
    let mut open = JoinSet::new();
    let mut stopping = pin!(endpoint.stopping());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = open.join_next() => continue,
            () = &mut stopping => break,
        };
        match accepted {
            Ok((socket, _)) if open.len() < MAX_CONNECTIONS => {
                open.spawn(open_connection(socket, Arc::clone(&endpoint)));
            }
            Ok(_) => tracing::warn!("{MAX_CONNECTIONS} HTTP connections are open; one more is closed"),
            Err(error) => {
                tracing::warn!(%error, "an HTTP connection could not be taken");
                // Out of file descriptors, most likely: it takes a moment until there are some.
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    while open.join_next().await.is_some() {}
}

async fn open_connection(socket: TcpStream, endpoint: Arc<Endpoint>) {
    let (Ok(peer), Ok(local)) = (socket.peer_addr(), socket.local_addr()) else { return };
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!(%error, "an HTTP connection sends its answers late");
    }
    let acceptor = endpoint.tls.speaking(Some(b"http/1.1"));
    // A connection that asks nothing for so long is closed, whether it has begun or not.
    let opened = tokio::select! {
        opened = tokio::time::timeout(HEAD_LIMIT, tls::detect(socket, &endpoint.tls, acceptor)) => opened,
        () = endpoint.stopping() => return,
    };
    match opened {
        Ok(Ok(socket)) => serve(socket, Ends { peer, local }, endpoint).await,
        Ok(Err(error)) => tracing::debug!(%peer, %error, "an HTTP connection was not opened"),
        Err(_) => tracing::debug!(%peer, "an HTTP connection was not open within {HEAD_LIMIT:?} and is closed"),
    }
}

/// Serves one connection to its end.
async fn serve(socket: impl AsyncRead + AsyncWrite + Unpin, ends: Ends, endpoint: Arc<Endpoint>) {
    let answer = service_fn(|request| {
        let endpoint = Arc::clone(&endpoint);
        async move { Ok::<_, Infallible>(route::answer(&endpoint, ends, request).await) }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_LIMIT)
            .max_header_size(MAX_HEAD_BYTES)
            .max_headers(MAX_HEADERS)
            .serve_connection(TokioIo::new(Patient::new(socket)), answer)
    );
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = endpoint.stopping() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(peer = %ends.peer, %error, "an HTTP connection has broken");
    }
}
