//! Calls to servers: one pipelined connection per address, shared by all callers, opened when first needed and again
//! after it ended. Connections live as tasks on the runtime of the caller that opened them.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use ferromq_protocol::OwnedCommand;
use parking_lot::Mutex;
use tokio::net::TcpStream;

use crate::connection::{Connection, InvokeError};
use crate::drive::drive;
use crate::limits::{Common, Limits};
use crate::server::close_stale;
use crate::{Requests, Service};

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

/// The connection to one address; the lock is held while connecting, so that callers share one attempt.
type Slot = Arc<tokio::sync::Mutex<Option<Arc<Connection>>>>;

struct Inner {
    config: ClientConfig,
    common: Arc<Common>,
    service: Arc<dyn Service>,
    slots: Mutex<HashMap<String, Slot>>,
    open: Mutex<Vec<Arc<Connection>>>,
}

/// A client. Clones share their connections.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("open", &self.inner.open.lock().len()).finish_non_exhaustive()
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
        Client { inner: Arc::new(Inner { config, common, service, slots: Mutex::default(), open: Mutex::default() }) }
    }

    /// Sends a request to `addr` (`host:port`) and waits for its answer. `write` gets the opaque to put into it.
    pub async fn invoke(
        &self,
        addr: &str,
        timeout: Duration,
        write: impl FnOnce(&mut Vec<u8>, i32),
    ) -> Result<OwnedCommand, InvokeError> {
        self.connection(addr).await?.invoke(timeout, write).await
    }

    /// Sends a request that wants no answer.
    pub async fn oneway(&self, addr: &str, write: impl FnOnce(&mut Vec<u8>, i32)) -> Result<(), InvokeError> {
        Ok(self.connection(addr).await?.oneway(write)?)
    }

    /// The open connection to `addr`, made if there is none. The name is resolved at each connect.
    pub async fn connection(&self, addr: &str) -> Result<Arc<Connection>, InvokeError> {
        let slot = self.inner.slots.lock().entry(addr.to_owned()).or_default().clone();
        let mut slot = slot.lock().await;
        if let Some(connection) = slot.as_ref().filter(|connection| connection.is_open()) {
            return Ok(connection.clone());
        }
        let connection = self.connect(addr).await?;
        *slot = Some(connection.clone());
        Ok(connection)
    }

    async fn connect(&self, addr: &str) -> Result<Arc<Connection>, InvokeError> {
        let failed = |reason: String| InvokeError::Connect { addr: addr.to_owned(), reason };
        let limit = self.inner.config.connect_timeout;
        let socket = match tokio::time::timeout(limit, TcpStream::connect(addr)).await {
            Ok(Ok(socket)) => socket,
            Ok(Err(error)) => return Err(failed(error.to_string())),
            Err(_) => return Err(failed(format!("no answer within {limit:?}"))),
        };
        let ready = socket.set_nodelay(true).and_then(|()| Ok((socket.peer_addr()?, socket.local_addr()?)));
        let (peer, local) = ready.map_err(|error| failed(error.to_string()))?;
        let connection = Connection::new(peer, local, self.inner.common.clone());
        let first = {
            let mut open = self.inner.open.lock();
            open.push(connection.clone());
            open.len() == 1
        };
        if first {
            tokio::spawn(sweep(Arc::downgrade(&self.inner), self.inner.common.sweep_period()));
        }
        tokio::spawn(drive(socket, connection.clone(), self.inner.common.clone(), self.inner.service.clone()));
        Ok(connection)
    }

    /// Closes all connections; calls that wait fail. The next call connects again.
    pub fn close(&self) {
        for connection in self.inner.open.lock().iter() {
            connection.close();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        for connection in self.open.get_mut().iter() {
            connection.close();
        }
    }
}

/// Forgets ended connections and closes idle ones; ends when none is left or the client is gone.
async fn sweep(client: Weak<Inner>, period: Duration) {
    loop {
        tokio::time::sleep(period).await;
        let Some(inner) = client.upgrade() else { return };
        let connections = {
            let mut open = inner.open.lock();
            open.retain(|connection| connection.is_open());
            if open.is_empty() {
                return;
            }
            open.clone()
        };
        close_stale(&inner.common, &connections);
    }
}
