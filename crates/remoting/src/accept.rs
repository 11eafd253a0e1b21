//! Listeners: binding them with errors that say what to do, and taking connections without ever spinning.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

use crate::Service;
use crate::common::Common;
use crate::connection::Connection;
use crate::drive::Drive;
use crate::reactor::Reactor;
use crate::tls::Tls;

/// Connections the kernel keeps ready for us, as Java's `serverSocketBacklog`.
const BACKLOG: i32 = 1024;

/// Pause after the system refused a connection (no descriptors left), so that the listener does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A listener complains at most this often.
const COMPLAINT_PERIOD: Duration = Duration::from_secs(10);

/// Descriptors the process needs besides connections: files of the store, listeners, logs.
const OTHER_DESCRIPTORS: u64 = 1024;

/// What a listener needs to turn sockets into connections.
pub(crate) struct Acceptor {
    pub common: Arc<Common>,
    pub service: Arc<dyn Service>,
    pub reactors: Vec<Arc<Reactor>>,
    pub max_connections: usize,
}

/// Listens on `addr`.
pub(crate) fn bind(addr: SocketAddr) -> io::Result<StdListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// What to do about an address that cannot be listened on.
pub(crate) fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "another process listens there: stop it or choose another port",
        io::ErrorKind::PermissionDenied => "this user may not use that port: choose one above 1023",
        io::ErrorKind::AddrNotAvailable => "no network interface of this machine has that address: choose one that has",
        _ => "check the address and the limits of this process",
    }
}

/// Raises the soft limit of open files, as the JVM does, so that `connections` fit; says so when they cannot.
pub(crate) fn raise_open_files(connections: usize) {
    let wanted = (connections as u64).saturating_add(OTHER_DESCRIPTORS);
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= wanted) {
        return;
    }
    let possible = limit.maximum.map_or(wanted, |maximum| maximum.min(wanted));
    let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(possible), maximum: limit.maximum });
    if raised.is_err() || possible < wanted {
        let allowed = getrlimit(Resource::Nofile).current;
        tracing::info!(connections, ?allowed, "fewer open files are allowed than connections; raise the hard limit");
    }
}

/// Counts what goes wrong again and again, and lets a message through once per period.
#[derive(Default)]
struct Complaint {
    last: Option<Instant>,
    since: u64,
}

impl Complaint {
    /// How often it has happened since the last message, when it is time for one.
    fn due(&mut self) -> Option<u64> {
        self.since += 1;
        if self.last.is_some_and(|last| last.elapsed() < COMPLAINT_PERIOD) {
            return None;
        }
        self.last = Some(Instant::now());
        Some(std::mem::take(&mut self.since))
    }
}

impl Acceptor {
    /// Takes connections until aborted; without `tls` all are plaintext.
    pub async fn run(self: Arc<Self>, listener: StdListener, tls: Option<Tls>) {
        let listener = match TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => return tracing::error!(%error, "a listener cannot be watched; no connections will be taken"),
        };
        let (mut failed, mut refused) = (Complaint::default(), Complaint::default());
        loop {
            match listener.accept().await {
                Ok((_, peer)) if self.open() >= self.max_connections => {
                    if let Some(times) = refused.due() {
                        let limit = self.max_connections;
                        tracing::warn!(%peer, limit, times, "connection refused: as many as allowed are open");
                    }
                }
                Ok((socket, peer)) => {
                    if let Err(error) = self.place(socket, tls.as_ref()) {
                        tracing::debug!(%peer, %error, "a new connection ended before its first request");
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    if let Some(times) = failed.due() {
                        let advice = "check the limit of open files (ulimit -n)";
                        tracing::warn!(%error, times, advice, "a connection could not be taken");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Connections that are open, or may turn out to be.
    fn open(&self) -> usize {
        self.reactors.iter().map(|reactor| reactor.connections.load(Ordering::Relaxed)).sum()
    }

    /// Gives a new connection to the reactor with the fewest.
    fn place(self: &Arc<Self>, socket: TcpStream, tls: Option<&Tls>) -> io::Result<()> {
        socket.set_nodelay(true)?;
        let addrs = (socket.peer_addr()?, socket.local_addr()?);
        let fewest = self.reactors.iter().min_by_key(|reactor| reactor.connections.load(Ordering::Relaxed));
        let Some(reactor) = fewest else { return Ok(()) };
        let socket = socket.into_std()?;
        let socket = {
            let _there = reactor.handle.enter();
            TcpStream::from_std(socket)?
        };
        match tls.cloned() {
            None => drop(reactor.handle.spawn(self.drive(socket, addrs, reactor).run())),
            Some(tls) => {
                let (acceptor, place) = (self.clone(), Undecided::at(reactor.clone()));
                reactor.handle.spawn(async move {
                    let drive = match tls.plaintext(socket, acceptor.common.limits.idle).await {
                        Ok(socket) => acceptor.drive(socket, addrs, &place.0),
                        Err(error) => return tracing::debug!(peer = %addrs.0, %error, "a new connection is closed"),
                    };
                    drop(place);
                    drive.run().await;
                });
            }
        }
        Ok(())
    }

    fn drive(&self, socket: TcpStream, addrs: (SocketAddr, SocketAddr), reactor: &Arc<Reactor>) -> Drive {
        let (read, write) = socket.into_split();
        let connection = Connection::new(write, addrs, self.common.clone(), Some(reactor.clone()));
        reactor.connections.fetch_add(1, Ordering::Relaxed);
        Drive::new(read, connection, self.common.clone(), self.service.clone())
    }
}

/// The place of a connection that has not said yet whether it speaks TLS.
struct Undecided(Arc<Reactor>);

impl Undecided {
    fn at(reactor: Arc<Reactor>) -> Self {
        reactor.connections.fetch_add(1, Ordering::Relaxed);
        Undecided(reactor)
    }
}

impl Drop for Undecided {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}
