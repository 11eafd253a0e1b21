//! Calls to servers: one pipelined connection per address, shared by all callers, opened when first needed and again
//! after it ended. Connections live as tasks on the runtime of the caller that opened them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use ferromq_protocol::OwnedCommand;
use ferromq_protocol::code::response;
use parking_lot::{Mutex, RwLock};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::common::Common;
use crate::connection::{Connection, InvokeError};
use crate::drive::Drive;
use crate::limits::Limits;
use crate::{Requests, Service};

/// Addresses remembered before those without an open connection are forgotten.
const ADDRESSES: usize = 1024;

/// What a client needs to know.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Longest wait for a connection (`connectTimeoutMillis`).
    pub connect_timeout: Duration,
    pub limits: Limits,
}

impl Default for ClientConfig {
    fn default() -> Self {
        ClientConfig { connect_timeout: Duration::from_secs(3), limits: Limits::default() }
    }
}

/// The connection to one address.
#[derive(Default)]
struct Slot {
    current: Mutex<Option<Arc<Connection>>>,
    /// Attempts to connect that have ended.
    attempts: AtomicU64,
    /// Held while connecting, so that callers share one attempt; why the last one failed.
    connecting: tokio::sync::Mutex<Option<InvokeError>>,
}

struct Inner {
    config: ClientConfig,
    common: Arc<Common>,
    service: Arc<dyn Service>,
    slots: RwLock<HashMap<String, Arc<Slot>>>,
    /// A sweep is running.
    sweeping: AtomicBool,
}

/// A client. Clones share their connections.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("open", &self.inner.common.connections.lock().len()).finish_non_exhaustive()
    }
}

/// For clients that serve nothing: requests of a server stay unanswered.
struct NoService;

impl Service for NoService {
    fn serve(&self, conn: &Arc<Connection>, requests: &mut Requests<'_>, _out: &mut Vec<u8>) {
        for request in requests {
            tracing::debug!(peer = %conn.peer(), code = request.head.code, "a request came, but this client serves none");
        }
    }
}

impl Client {
    /// `service` answers requests that servers send to this client.
    pub fn new(config: ClientConfig, service: Option<Arc<dyn Service>>) -> Client {
        let common = Arc::new(Common::new(config.limits.clone()));
        let service = service.unwrap_or_else(|| Arc::new(NoService));
        let (slots, sweeping) = (RwLock::default(), AtomicBool::new(false));
        Client { inner: Arc::new(Inner { config, common, service, slots, sweeping }) }
    }

    /// Sends a request to `addr` (`host:port`) and waits for its answer; `timeout` covers connecting too. `write` gets
    /// the opaque to put into it. An answer GO_AWAY comes back like any other, and the next call connects anew.
    pub async fn invoke(
        &self,
        addr: &str,
        timeout: Duration,
        write: impl FnOnce(&mut Vec<u8>, i32),
    ) -> Result<OwnedCommand, InvokeError> {
        let slot = self.slot(addr);
        let (connection, left) = match slot.open() {
            Some(connection) => (connection, timeout),
            None => {
                let end = Instant::now() + timeout;
                let connected = timeout_at(end, self.connect_once(addr, &slot)).await;
                (
                    connected.unwrap_or(Err(InvokeError::Timeout(timeout)))?,
                    end.saturating_duration_since(Instant::now()),
                )
            }
        };
        let answer = connection.invoke(left, write).await;
        if answer.as_ref().is_ok_and(|answer| answer.head().code == response::GO_AWAY) {
            slot.current.lock().take_if(|current| current.id() == connection.id());
        }
        answer.map_err(|error| if let InvokeError::Timeout(_) = error { InvokeError::Timeout(timeout) } else { error })
    }

    /// Sends a request that wants no answer.
    pub async fn oneway(&self, addr: &str, write: impl FnOnce(&mut Vec<u8>, i32)) -> Result<(), InvokeError> {
        Ok(self.connection(addr).await?.oneway(write)?)
    }

    /// The open connection to `addr`, made if there is none. The name is resolved at each connect.
    pub async fn connection(&self, addr: &str) -> Result<Arc<Connection>, InvokeError> {
        let slot = self.slot(addr);
        match slot.open() {
            Some(connection) => Ok(connection),
            None => self.connect_once(addr, &slot).await,
        }
    }

    fn slot(&self, addr: &str) -> Arc<Slot> {
        if let Some(slot) = self.inner.slots.read().get(addr) {
            return slot.clone();
        }
        let mut slots = self.inner.slots.write();
        if slots.len() >= ADDRESSES {
            slots.retain(|_, slot| slot.open().is_some() || Arc::strong_count(slot) > 1);
        }
        slots.entry(addr.to_owned()).or_default().clone()
    }

    /// Connects, or waits for another caller who does and shares what comes of it.
    async fn connect_once(&self, addr: &str, slot: &Slot) -> Result<Arc<Connection>, InvokeError> {
        let seen = slot.attempts.load(Ordering::Acquire);
        let mut last_error = slot.connecting.lock().await;
        if let Some(connection) = slot.open() {
            return Ok(connection);
        }
        if let Some(error) = last_error.as_ref().filter(|_| slot.attempts.load(Ordering::Acquire) != seen) {
            return Err(error.clone());
        }
        let connected = self.connect(addr).await;
        slot.attempts.fetch_add(1, Ordering::Release);
        *last_error = connected.as_ref().err().cloned();
        *slot.current.lock() = connected.as_ref().ok().cloned();
        connected
    }

    async fn connect(&self, addr: &str) -> Result<Arc<Connection>, InvokeError> {
        let failed = |reason: String| InvokeError::Connect { addr: addr.to_owned(), reason };
        let limit = self.inner.config.connect_timeout;
        let socket = match tokio::time::timeout(limit, TcpStream::connect(addr)).await {
            Ok(Ok(socket)) => socket,
            Ok(Err(error)) => return Err(failed(error.to_string())),
            Err(_) => return Err(failed(format!("no answer within {limit:?}"))),
        };
        let addrs = socket.set_nodelay(true).and_then(|()| Ok((socket.peer_addr()?, socket.local_addr()?)));
        let addrs = addrs.map_err(|error| failed(error.to_string()))?;
        let (read, write) = socket.into_split();
        let common = &self.inner.common;
        let connection = Connection::new(write, addrs, common.clone(), None);
        tokio::spawn(Drive::new(read, connection.clone(), common.clone(), self.inner.service.clone()).run());
        if !self.inner.sweeping.swap(true, Ordering::AcqRel) {
            tokio::spawn(sweep(Sweeping(Arc::downgrade(&self.inner)), common.sweep_period()));
        }
        Ok(connection)
    }

    /// Closes all connections; calls that wait fail. The next call connects again.
    pub fn close(&self) {
        self.inner.close();
    }
}

impl Slot {
    fn open(&self) -> Option<Arc<Connection>> {
        self.current.lock().as_ref().filter(|connection| connection.is_open()).cloned()
    }
}

impl Inner {
    fn close(&self) {
        let connections: Vec<_> = self.common.connections.lock().values().cloned().collect();
        for connection in connections {
            connection.close();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}

/// The sweep of a client. When it ends, with its runtime for instance, the next connection starts another.
struct Sweeping(Weak<Inner>);

impl Drop for Sweeping {
    fn drop(&mut self) {
        if let Some(inner) = self.0.upgrade() {
            inner.sweeping.store(false, Ordering::Release);
        }
    }
}

/// Closes idle connections until the client is gone.
async fn sweep(client: Sweeping, period: Duration) {
    loop {
        tokio::time::sleep(period).await;
        let Some(inner) = client.0.upgrade() else { return };
        inner.common.sweep();
    }
}
