//! A port for each broker. Java clients from 5.0 on say in each request which broker they mean; to older ones, and to those in
//! other languages, a broker is its address, so each needs one of its own.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use ferromq_protocol::{Head, version};
use ferromq_remoting::{Listeners, Tls};
use parking_lot::Mutex;

use super::RemotingDoor;

/// Most brokers with a port of their own.
const MAX_PORTS: usize = 256;

pub(super) struct Ports {
    door: RemotingDoor,
    tls: Option<Tls>,
    listeners: OnceLock<Arc<Listeners>>,
    brokers: Mutex<HashMap<u16, Arc<str>>>,
}

impl Ports {
    pub fn new(door: RemotingDoor, tls: Option<Tls>) -> Self {
        Ports { door, tls, listeners: OnceLock::new(), brokers: Mutex::default() }
    }

    pub fn use_listeners(&self, listeners: Arc<Listeners>) {
        self.listeners.get_or_init(|| listeners);
    }

    /// The broker whose port this is.
    pub fn broker(&self, port: u16) -> Option<Arc<str>> {
        self.brokers.lock().get(&port).cloned()
    }

    /// Where a client finds a broker; it reached the proxy at `local`.
    pub fn told(&self, broker: &str, client: &Head, local: SocketAddr) -> Result<String, String> {
        if client.language == version::language::JAVA && client.version >= version::V5_0_0 {
            return Ok(self.door.told(local));
        }
        let at = SocketAddr::new(local.ip(), self.port_of(broker)?);
        let host = self.door.access.as_deref().map(|access| access.rsplit_once(':').map_or(access, |(host, _)| host));
        Ok(match host {
            Some(host) => format!("{host}:{}", at.port()),
            None => self.door.told(at),
        })
    }

    fn port_of(&self, broker: &str) -> Result<u16, String> {
        let mut brokers = self.brokers.lock();
        if let Some((port, _)) = brokers.iter().find(|(_, name)| ***name == *broker) {
            return Ok(*port);
        }
        if brokers.len() >= MAX_PORTS {
            return Err(format!("{MAX_PORTS} brokers have ports already; use a Java client from 5.0 on"));
        }
        let listeners = self.listeners.get().ok_or("the proxy is starting; ask again")?;
        let wanted = self.door.broker_ports.get(broker).copied().unwrap_or(0);
        let added = listeners.add(SocketAddr::new(self.door.listen.ip(), wanted), self.tls.clone());
        let port = added.map_err(|error| format!("broker {broker} gets no port: {error}"))?.port();
        tracing::info!("clients that name no broker reach {broker} on port {port}");
        brokers.insert(port, broker.into());
        Ok(port)
    }
}
