//! A server: its start, its reactor threads, its end.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::Ordering;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::task::JoinHandle as Task;

use crate::Service;
use crate::accept::{Acceptor, advice, bind, raise_open_files};
use crate::common::{Common, Held};
use crate::limits::Limits;
use crate::local::LocalPeers;
use crate::reactor::{Reactor, Stop};
use crate::tls::Tls;

/// How often a shutdown looks whether everything has been answered, and how many quiet looks end it.
const QUIET_LOOK: Duration = Duration::from_millis(10);
const QUIET_LOOKS: u32 = 5;

/// Open files of a connection with TLS: its socket, and both ends of the pair over which it is served.
const FILES_OF_TLS: usize = 3;

/// What a server needs to know.
#[derive(Debug)]
pub struct ServerConfig {
    /// Addresses to listen on; port 0 takes any free one.
    pub listen: Vec<SocketAddr>,
    /// Sockets of [`listen`] that are served before those.
    pub bound: Vec<TcpListener>,
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
        let bound = Vec::new();
        ServerConfig { listen, bound, reactors: cores.min(8), max_connections: 65_536, limits: Limits::default() }
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

/// Memory held for slow peers, in bytes over all connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeldBytes {
    /// Unfinished frames.
    pub half_read: usize,
    /// Answers not taken by the peers' sockets.
    pub unwritten: usize,
}

/// A running server.
pub struct Server {
    common: Arc<Common>,
    service: Arc<dyn Service>,
    reactors: Vec<Arc<Reactor>>,
    local_addrs: Vec<SocketAddr>,
    listeners: Arc<Listeners>,
    /// Lives as long as the server, whatever listens.
    _acceptor: Arc<Acceptor>,
    stops: Vec<Stop>,
    threads: Vec<JoinHandle<()>>,
}

/// Takes further addresses of a server that runs.
pub struct Listeners {
    acceptor: Weak<Acceptor>,
    runtime: Handle,
    accepting: Mutex<Vec<Task<()>>>,
}

impl Listeners {
    /// Listens there, too, until the server ends, for plaintext and, if there is `tls`, for that; the address with the
    /// port really taken.
    pub fn add(&self, addr: SocketAddr, tls: Option<Tls>) -> Result<SocketAddr, StartError> {
        let listener = listen(addr)?;
        let failed = |source| StartError::Listen { addr, source, advice: "choose another port" };
        let addr = listener.local_addr().map_err(failed)?;
        if let Some(acceptor) = self.acceptor.upgrade().filter(|_| tls.is_some()) {
            raise_open_files(acceptor.max_connections.saturating_mul(FILES_OF_TLS));
        }
        self.run(listener, tls);
        Ok(addr)
    }

    fn run(&self, listener: TcpListener, tls: Option<Tls>) {
        if let Some(acceptor) = self.acceptor.upgrade() {
            self.accepting.lock().push(self.runtime.spawn(acceptor.run(listener, tls)));
        }
    }

    fn stop(&self) {
        for listener in self.accepting.lock().drain(..) {
            listener.abort();
        }
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("local_addrs", &self.local_addrs).finish_non_exhaustive()
    }
}

/// Takes an address before the server starts: for who has to know which free port it is. Until the start, clients wait.
pub fn listen(addr: SocketAddr) -> Result<TcpListener, StartError> {
    bind(addr).map_err(|source| StartError::Listen { addr, advice: advice(&source), source })
}

impl Server {
    /// Binds all addresses, then starts the reactors. Raises the process's soft limit of open files if
    /// `max_connections` needs it.
    pub fn start(config: ServerConfig, service: Arc<dyn Service>) -> Result<Server, StartError> {
        raise_open_files(config.max_connections);
        let mut listeners = config.bound;
        for &addr in &config.listen {
            listeners.push(listen(addr)?);
        }
        let local_addrs = listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect();

        let (mut reactors, mut stops, mut threads) = (Vec::new(), Vec::new(), Vec::new());
        for index in 0..config.reactors.max(1) {
            let (reactor, stop, thread) =
                Reactor::start(index, service.clone()).map_err(|source| StartError::Reactor { index, source })?;
            reactors.push(reactor);
            stops.push(stop);
            threads.push(thread);
        }
        let common = Arc::new(Common::new(config.limits));
        let max_connections = config.max_connections;
        let acceptor = Arc::new(Acceptor {
            common: common.clone(),
            service: service.clone(),
            reactors: reactors.clone(),
            max_connections,
        });
        let first = reactors[0].handle.clone();
        first.spawn(sweep(common.clone()));
        let further =
            Arc::new(Listeners { acceptor: Arc::downgrade(&acceptor), runtime: first, accepting: Mutex::default() });
        listeners.into_iter().for_each(|listener| further.run(listener, None));
        Ok(Server { common, service, reactors, local_addrs, listeners: further, _acceptor: acceptor, stops, threads })
    }

    /// The addresses listened on, in the order of the configuration, with the ports really taken.
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.local_addrs
    }

    /// For who needs another address later.
    pub fn listeners(&self) -> Arc<Listeners> {
        Arc::clone(&self.listeners)
    }

    /// The way in for callers of this process: a connection each, with ids of this server.
    pub fn local_peers(&self) -> LocalPeers {
        let reactors = self.reactors.as_slice().into();
        LocalPeers { common: self.common.clone(), service: self.service.clone(), reactors }
    }

    /// Connections open now.
    pub fn connections(&self) -> usize {
        self.common.connections.lock().len()
    }

    /// Memory held for slow peers now.
    pub fn held_bytes(&self) -> HeldBytes {
        HeldBytes { half_read: self.common.held(Held::HalfRead), unwritten: self.common.held(Held::Unwritten) }
    }

    /// Runs `task` beside the connections, on the first reactor: for timers. It ends with the server.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.reactors[0].handle.spawn(task);
    }

    /// Stops taking connections and answers GO_AWAY to clients that understand it; others are served until nothing
    /// moves any more or `drain` is over. Then closes everything. Blocks; never call it on a reactor.
    pub fn shutdown(mut self, drain: Duration) {
        self.listeners.stop();
        self.common.draining.store(true, Ordering::Relaxed);
        self.wait_until_quiet(drain);
        self.stop_threads();
    }

    fn wait_until_quiet(&self, drain: Duration) {
        let end = Instant::now() + drain;
        let (mut drains, mut quiet) = (u64::MAX, 0);
        while quiet < QUIET_LOOKS && Instant::now() < end {
            self.wait_for_reactors(end);
            let seen = self.common.drains.load(Ordering::Relaxed);
            let connections: Vec<_> = self.common.connections.lock().values().cloned().collect();
            if connections.is_empty() {
                return;
            }
            let unwritten = connections.iter().any(|connection| connection.unwritten() > 0);
            quiet = if seen == drains && !unwritten { quiet + 1 } else { 0 };
            drains = seen;
            std::thread::park_timeout(QUIET_LOOK);
        }
    }

    /// Until every reactor has finished what it is doing now: a drain that is being served is not quiet.
    fn wait_for_reactors(&self, end: Instant) {
        let (done, is_done) = sync_channel(self.reactors.len());
        for reactor in &self.reactors {
            let done = done.clone();
            // There is room for the answer of every reactor.
            reactor.handle.spawn(async move { done.try_send(()).unwrap_or_default() });
        }
        for _ in &self.reactors {
            if is_done.recv_timeout(end.saturating_duration_since(Instant::now())).is_err() {
                return;
            }
        }
    }

    /// Their connections end with them.
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

async fn sweep(common: Arc<Common>) {
    loop {
        tokio::time::sleep(common.sweep_period()).await;
        common.sweep();
    }
}
