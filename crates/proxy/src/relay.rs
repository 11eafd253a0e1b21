//! Remoting clients that know the proxy only, in front of a cluster (RocketMQ's `proxy.remoting`): a wire from each of
//! their connections to each broker they speak to, over which requests and answers pass as they are, both ways. So
//! brokers know every client by itself, and nothing is kept here but the last heartbeat (`docs/adr/0009`).
//!
//! # Layout
//! - this file: the server, and its connections; `code.rs`: which broker a request is for.
//! - `session.rs`: one client; `back.rs`: what brokers ask it.
//! - `ports.rs`: one more port for each broker, for clients that do not say which one they mean.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ferromq_protocol::OwnedCommand;
use ferromq_remoting::{Connection, Requests, Server, ServerConfig, Service, StartError, Tls};
use parking_lot::Mutex;

use crate::cluster::Cluster;
use crate::observe::Calls;

mod back;
mod code;
mod ports;
mod session;

use ports::Ports;
use session::Session;

/// How long the end waits for requests that are under way.
const DRAIN: Duration = Duration::from_millis(500);

/// Where remoting clients connect that know the proxy only.
#[derive(Clone, Debug)]
pub struct RemotingDoor {
    /// Port 0 takes any free one (`remotingListenPort`).
    pub listen: SocketAddr,
    /// What they are told instead of the address they used, as `host` or `host:port` (`remotingAccessAddr`).
    pub access: Option<String>,
    /// Ports of brokers by name, for clients that do not say which one they mean; others get any free port.
    pub broker_ports: BTreeMap<String, u16>,
}

impl RemotingDoor {
    pub fn new(listen: SocketAddr) -> Self {
        RemotingDoor { listen, access: None, broker_ports: BTreeMap::new() }
    }

    /// What clients are told who reached `local`.
    pub(crate) fn told(&self, local: SocketAddr) -> String {
        let port = local.port();
        match &self.access {
            Some(access) if access.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) => {
                access.clone()
            }
            Some(host) => format!("{host}:{port}"),
            None => SocketAddr::new(local.ip().to_canonical(), port).to_string(),
        }
    }
}

/// The remoting server of a cluster's proxy.
pub(crate) struct Relay {
    server: Server,
    addr: SocketAddr,
}

impl Relay {
    pub fn start(
        door: &RemotingDoor,
        tls: Option<Tls>,
        cluster: Arc<Cluster>,
        calls: Arc<Calls>,
    ) -> Result<Relay, StartError> {
        let shared = Arc::new(Shared { cluster, calls, ports: Ports::new(door.clone(), tls.clone()) });
        let service = Arc::new(Wires { shared: Arc::clone(&shared), sessions: Mutex::default() });
        let server = Server::start(ServerConfig::new(Vec::new()), service)?;
        shared.ports.use_listeners(server.listeners());
        let addr = server.listeners().add(door.listen, tls)?;
        tracing::info!("remoting clients are served on {addr}");
        Ok(Relay { server, addr })
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Sends clients elsewhere and ends. Blocks.
    pub fn shutdown(self) {
        self.server.shutdown(DRAIN);
    }
}

/// What all sessions need.
struct Shared {
    cluster: Arc<Cluster>,
    calls: Arc<Calls>,
    ports: Ports,
}

/// The service of the server: a session for each connection.
struct Wires {
    shared: Arc<Shared>,
    sessions: Mutex<HashMap<u64, Arc<Session>>>,
}

impl Service for Wires {
    fn serve(&self, conn: &Arc<Connection>, requests: &mut Requests<'_>, out: &mut Vec<u8>) {
        let session = Arc::clone(
            self.sessions.lock().entry(conn.id()).or_insert_with(|| Session::open(Arc::clone(&self.shared), conn)),
        );
        for request in requests {
            session.take(OwnedCommand::copied(&request), out);
        }
    }

    fn on_close(&self, conn: &Arc<Connection>) {
        let ended = self.sessions.lock().remove(&conn.id());
        if let Some(session) = ended {
            session.close();
        }
    }
}
