//! Peers in the same process: they call a service as over a socket, but on their own thread and without a second copy
//! of a request's body.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ferromq_protocol::OwnedCommand;

use crate::Service;
use crate::common::Common;
use crate::connection::{Connection, InvokeError};
use crate::reactor;
use crate::requests::Requests;

/// Takes the requests that the service sends to a peer. Runs on the service's threads: it must not block.
pub struct OnRequest(Box<dyn Fn(OwnedCommand) + Send + Sync>);

impl OnRequest {
    pub fn new(take: impl Fn(OwnedCommand) + Send + Sync + 'static) -> Self {
        OnRequest(Box::new(take))
    }

    pub(crate) fn take(&self, command: OwnedCommand) {
        (self.0)(command);
    }
}

impl std::fmt::Debug for OnRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OnRequest")
    }
}

/// Makes [`LocalPeer`]s of one server.
#[derive(Clone)]
pub struct LocalPeers {
    pub(crate) common: Arc<Common>,
    pub(crate) service: Arc<dyn Service>,
}

impl LocalPeers {
    /// A peer that the service sees at `peer`, as if it had connected to `local`.
    pub fn connect(&self, peer: SocketAddr, local: SocketAddr, on_request: OnRequest) -> LocalPeer {
        let conn = Connection::without_socket(self.common.clone(), (peer, local), on_request);
        LocalPeer { conn, peers: self.clone() }
    }
}

/// A connection without a socket. The service learns its end when it is dropped; what it still waited for is given up.
pub struct LocalPeer {
    conn: Arc<Connection>,
    peers: LocalPeers,
}

impl LocalPeer {
    /// Calls the service and waits for its answer. `write` puts one frame without a body, with the opaque it is given;
    /// `body` stands in for the frame's. Needs a tokio timer. The service runs on this thread before the first wait.
    pub async fn invoke(
        &self,
        timeout: Duration,
        write: impl FnOnce(&mut Vec<u8>, i32),
        body: &[u8],
    ) -> Result<OwnedCommand, InvokeError> {
        self.conn
            .invoke_by(timeout, |opaque| {
                self.serve(|out| write(out, opaque), body);
                Ok(())
            })
            .await
    }

    /// Answers a request of the service; `frame` is the whole answer.
    pub fn answer(&self, opaque: i32, frame: &[u8]) {
        self.conn.complete(opaque, frame);
    }

    fn serve(&self, write: impl FnOnce(&mut Vec<u8>), body: &[u8]) {
        let LocalPeers { common, service } = &self.peers;
        let mut frame = Vec::with_capacity(512);
        write(&mut frame);
        let mut out = Vec::new();
        let mut requests = Requests::local(&frame, body, &self.conn, common.limits.max_frame);
        service.serve(&self.conn, &mut requests, &mut out);
        // Given over by the connection, like every later answer.
        self.conn.push_local(&out);
        reactor::end_turn(&**service);
    }
}

impl Drop for LocalPeer {
    fn drop(&mut self) {
        self.conn.ended();
        self.peers.service.on_close(&self.conn);
    }
}
