//! Listeners, reactor threads and the end of a server. Connections are taken on the first reactor and given to the one
//! with the fewest.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::Service;
use crate::connection::Connection;
use crate::drive::drive;
use crate::limits::{Common, Limits};

/// Connections the kernel keeps ready for us, as Java's `serverSocketBacklog`.
const BACKLOG: i32 = 1024;

/// Pause after the system refused a connection (no descriptors left), so that the listener does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How often a shutdown looks whether everything has been answered, and how many quiet looks end it.
const QUIET_LOOK: Duration = Duration::from_millis(10);
const QUIET_LOOKS: u32 = 5;

/// What a server needs to know.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Addresses to listen on; port 0 takes any free one.
    pub listen: Vec<SocketAddr>,
    /// Reactor threads, at least 1.
    pub reactors: usize,
    /// Connections at the same time; a further one is closed at once.
    pub max_connections: usize,
    pub limits: Limits,
}

impl ServerConfig {
    /// Defaults, for these addresses.
    pub fn new(listen: Vec<SocketAddr>) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        ServerConfig { listen, reactors: cores.min(8), max_connections: 65_536, limits: Limits::default() }
    }
}

/// Why a server did not start.
#[derive(Debug, Error)]
pub enum StartError {
    #[error("cannot listen on {addr}: {source}; {advice}")]
    Listen { addr: SocketAddr, source: io::Error, advice: &'static str },
    #[error("cannot start reactor thread {index}: {source}")]
    Reactor { index: usize, source: io::Error },
}

#[derive(Debug)]
struct Reactor {
    handle: Handle,
    /// Connections that live here.
    connections: AtomicUsize,
}

struct Inner {
    common: Arc<Common>,
    service: Arc<dyn Service>,
    reactors: Vec<Reactor>,
    connections: Mutex<HashMap<u64, Arc<Connection>>>,
    max_connections: usize,
}

/// A running server.
pub struct Server {
    inner: Arc<Inner>,
    local_addrs: Vec<SocketAddr>,
    accepting: Vec<tokio::task::JoinHandle<()>>,
    stops: Vec<oneshot::Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("local_addrs", &self.local_addrs).finish_non_exhaustive()
    }
}

impl Server {
    /// Binds all addresses, then starts the reactors.
    pub fn start(config: ServerConfig, service: Arc<dyn Service>) -> Result<Server, StartError> {
        let mut listeners = Vec::new();
        for &addr in &config.listen {
            let advice = "is another server running there, and may this user listen on that address?";
            listeners.push(bind(addr).map_err(|source| StartError::Listen { addr, source, advice })?);
        }
        let local_addrs = listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect();

        let (mut reactors, mut stops, mut threads) = (Vec::new(), Vec::new(), Vec::new());
        for index in 0..config.reactors.max(1) {
            let (handle, stop, thread) =
                start_reactor(index).map_err(|source| StartError::Reactor { index, source })?;
            reactors.push(Reactor { handle, connections: AtomicUsize::new(0) });
            stops.push(stop);
            threads.push(thread);
        }
        let inner = Arc::new(Inner {
            common: Arc::new(Common::new(config.limits)),
            service,
            reactors,
            connections: Mutex::default(),
            max_connections: config.max_connections,
        });
        let first = inner.reactors[0].handle.clone();
        let accepting = listeners.into_iter().map(|listener| first.spawn(accept(inner.clone(), listener))).collect();
        first.spawn(sweep(inner.clone()));
        Ok(Server { inner, local_addrs, accepting, stops, threads })
    }

    /// The addresses listened on, in the order of the configuration, with the ports really taken.
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.local_addrs
    }

    /// Connections open now.
    pub fn connections(&self) -> usize {
        self.inner.connections.lock().len()
    }

    /// Runs `task` beside the connections, on the first reactor: for timers. It ends with the server.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.inner.reactors[0].handle.spawn(task);
    }

    /// Stops taking connections and answers GO_AWAY to clients that understand it; others are served until nothing
    /// moves any more or `drain` is over. Then closes everything. Blocks; never call it on a reactor.
    pub fn shutdown(mut self, drain: Duration) {
        for listener in &self.accepting {
            listener.abort();
        }
        self.inner.common.draining.store(true, Ordering::Relaxed);
        self.wait_until_quiet(drain);
        for connection in self.inner.connections.lock().values() {
            connection.close();
        }
        self.stop_threads();
    }

    fn wait_until_quiet(&self, drain: Duration) {
        let end = Instant::now() + drain;
        let (mut drains, mut quiet) = (u64::MAX, 0);
        while quiet < QUIET_LOOKS && Instant::now() < end {
            let seen = self.inner.common.drains.load(Ordering::Relaxed);
            let connections: Vec<_> = self.inner.connections.lock().values().cloned().collect();
            if connections.is_empty() {
                return;
            }
            let unwritten = connections.iter().any(|connection| connection.unwritten() > 0);
            quiet = if seen == drains && !unwritten { quiet + 1 } else { 0 };
            drains = seen;
            std::thread::park_timeout(QUIET_LOOK);
        }
    }

    fn stop_threads(&mut self) {
        for stop in self.stops.drain(..) {
            // A reactor that is gone already needs no stop.
            let _ = stop.send(());
        }
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a reactor thread has panicked");
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop_threads();
    }
}

fn bind(addr: SocketAddr) -> io::Result<StdListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn start_reactor(index: usize) -> io::Result<(Handle, oneshot::Sender<()>, JoinHandle<()>)> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    let (stop, stopped) = oneshot::channel();
    let thread = std::thread::Builder::new().name(format!("reactor-{index}")).spawn(move || {
        // Ends when told to, or when the server was dropped.
        let _ = runtime.block_on(stopped);
    })?;
    Ok((handle, stop, thread))
}

async fn accept(inner: Arc<Inner>, listener: StdListener) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "a listener cannot be watched; no connections will be taken"),
    };
    loop {
        match listener.accept().await.and_then(|(socket, peer)| Ok((socket.into_std()?, peer))) {
            Ok((socket, peer)) => inner.clone().place(socket, peer),
            Err(error) => {
                tracing::warn!(%error, "a connection could not be taken; check the limit of open files (ulimit -n)");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

impl Inner {
    /// Gives a new connection to the reactor with the fewest.
    fn place(self: Arc<Self>, socket: std::net::TcpStream, peer: SocketAddr) {
        if self.connections.lock().len() >= self.max_connections {
            tracing::warn!(%peer, limit = self.max_connections, "connection refused: as many as allowed are open");
            return;
        }
        let Some(index) =
            (0..self.reactors.len()).min_by_key(|&at| self.reactors[at].connections.load(Ordering::Relaxed))
        else {
            return;
        };
        self.reactors[index].connections.fetch_add(1, Ordering::Relaxed);
        let handle = self.reactors[index].handle.clone();
        handle.spawn(async move {
            if let Err(error) = self.run(socket, peer).await {
                tracing::debug!(%peer, %error, "a new connection ended before its first request");
            }
            self.reactors[index].connections.fetch_sub(1, Ordering::Relaxed);
        });
    }

    async fn run(&self, socket: std::net::TcpStream, peer: SocketAddr) -> io::Result<()> {
        socket.set_nodelay(true)?;
        let local = socket.local_addr()?;
        let socket = TcpStream::from_std(socket)?;
        let connection = Connection::new(peer, local, self.common.clone());
        self.connections.lock().insert(connection.id(), connection.clone());
        let id = connection.id();
        drive(socket, connection, self.common.clone(), self.service.clone()).await;
        self.connections.lock().remove(&id);
        Ok(())
    }
}

/// Advances the coarse time and closes what has been idle, or unfinished, for too long.
async fn sweep(inner: Arc<Inner>) {
    let common = &inner.common;
    loop {
        tokio::time::sleep(common.sweep_period()).await;
        let connections: Vec<_> = inner.connections.lock().values().cloned().collect();
        close_stale(common, &connections);
    }
}

/// One step of coarse time for `connections`.
pub(crate) fn close_stale(common: &Common, connections: &[Arc<Connection>]) {
    let now = common.tick.fetch_add(1, Ordering::Relaxed) + 1;
    let (idle, half_read) = (common.ticks(common.limits.idle), common.ticks(common.limits.half_read_timeout));
    for connection in connections {
        let since = connection.half_read_at.load(Ordering::Relaxed);
        if since != 0 && now.saturating_sub(since) > half_read {
            tracing::info!(peer = %connection.peer(), "closing a connection: its frame stays unfinished");
            connection.close();
        } else if now.saturating_sub(connection.active_at.load(Ordering::Relaxed)) > idle {
            tracing::info!(peer = %connection.peer(), "closing an idle connection");
            connection.close();
        }
    }
}
