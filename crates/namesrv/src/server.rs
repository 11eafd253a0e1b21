//! The NameServer as a running thing: listener, housekeeping timer, shutdown.
//!
//! Threads are `remoting`'s reactors; the timer lives on one of them. State is in `handler::State`.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use ferromq_common::json_file::LoadError;
use ferromq_protocol::code::request;
use ferromq_remoting::{Connection, Limits, Requests, Server, ServerConfig, Service};
use parking_lot::{Mutex, RwLock};

use crate::config::NamesrvConfig;
use crate::handler::State;
use crate::kv::KvConfig;
use crate::route::RouteTable;

/// How long a shutdown waits for answers under way.
const DRAIN: Duration = Duration::from_secs(3);

/// Why a NameServer did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The key-value file.
    #[error("cannot read the key-value table: {0}")]
    Kv(#[from] LoadError),
    /// `bindAddress` is no address.
    #[error("bindAddress {0:?} is not an IP address, correct the configuration")]
    BindAddress(String),
    /// The listener.
    #[error(transparent)]
    Server(#[from] ferromq_remoting::StartError),
}

/// A running NameServer.
pub struct NameServer {
    server: Server,
    addr: SocketAddr,
}

impl NameServer {
    /// Listens and serves on threads of its own until [`Self::shutdown`].
    pub fn start(config: NamesrvConfig) -> Result<NameServer, StartError> {
        let ip = config.bind_address.parse().map_err(|_| StartError::BindAddress(config.bind_address.clone()))?;
        let addr = SocketAddr::new(ip, config.listen_port);
        let kv = KvConfig::open(config.kv_config_path.clone())?;
        let routes = RouteTable::new(config.delete_topic_with_broker_registration);
        let server_config = ServerConfig {
            reactors: config.reactors,
            max_connections: config.max_connections,
            limits: Limits {
                idle: Duration::from_secs(config.server_channel_max_idle_time_seconds),
                ..Limits::default()
            },
            ..ServerConfig::new(vec![addr])
        };
        let interval = Duration::from_millis(config.scan_not_active_broker_interval.max(10));
        let service = Arc::new(NamesrvService {
            state: State {
                routes: RwLock::new(routes),
                kv: RwLock::new(kv),
                config: RwLock::new(config),
                started: Instant::now(),
            },
            brokers: Mutex::new(HashMap::new()),
        });
        let server = Server::start(server_config, service.clone())?;
        let addr = server.local_addrs().first().copied().unwrap_or(addr);
        let weak = Arc::downgrade(&service);
        server.spawn(async move {
            let mut ticks = tokio::time::interval(interval);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let Some(service) = weak.upgrade() else { return };
                service.expire();
            }
        });
        Ok(NameServer { server, addr })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Stops accepting, finishes answers under way and closes all connections.
    pub fn shutdown(self) {
        self.server.shutdown(DRAIN);
    }
}

struct NamesrvService {
    state: State,
    /// Connections that brokers registered by, so that an expired broker's can be closed. At most one entry per
    /// connection, removed when it closes.
    brokers: Mutex<HashMap<u64, Weak<Connection>>>,
}

impl NamesrvService {
    /// Forgets silent brokers and closes their connections, so that a broker that still lives registers again.
    fn expire(&self) {
        let expired = self.state.routes.write().expire(self.state.now_ms());
        for (addr, connection) in expired {
            tracing::warn!(%addr, "broker expired: no heartbeat in its time-out");
            let closing = self.brokers.lock().get(&connection).and_then(Weak::upgrade);
            if let Some(connection) = closing {
                connection.close();
            }
        }
    }
}

impl Service for NamesrvService {
    fn serve(&self, conn: &Arc<Connection>, requests: &mut Requests<'_>, out: &mut Vec<u8>) {
        for command in requests {
            if command.head.code == request::REGISTER_BROKER {
                self.brokers.lock().entry(conn.id()).or_insert_with(|| Arc::downgrade(conn));
            }
            self.state.serve(conn.id(), &command, out);
        }
    }

    fn on_close(&self, conn: &Arc<Connection>) {
        if self.brokers.lock().remove(&conn.id()).is_none() {
            return;
        }
        for addr in self.state.routes.write().connection_closed(conn.id()) {
            tracing::warn!(%addr, "broker unregistered: its connection closed");
        }
    }
}
