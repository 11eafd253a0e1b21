//! One more address to listen on, for clients that know this process only: `handler/route.rs` answers them.

use std::net::SocketAddr;

use ferromq_remoting::Tls;

use super::{Broker, StartError};

/// The door of clients that know this process only.
pub(crate) struct FrontDoor {
    pub port: u16,
    /// What they are told who reached an address of this machine, `host:port`.
    pub told: Box<dyn Fn(SocketAddr) -> String + Send + Sync>,
}

impl Broker {
    /// Serves clients at one more address, in plaintext or as `tls` says, and tells them routes to what `told` makes of the
    /// address they reached (`host:port`). It is made once; the address with the port really taken.
    pub fn open_front_door(
        &self,
        listen: SocketAddr,
        tls: Option<Tls>,
        told: impl Fn(SocketAddr) -> String + Send + Sync + 'static,
    ) -> Result<SocketAddr, StartError> {
        let addr = self.server.listeners().add(listen, tls)?;
        self.shared.front_door.get_or_init(|| FrontDoor { port: addr.port(), told: Box::new(told) });
        Ok(addr)
    }
}
