//! Peers in the same process: they call a service as over a socket, but on their own thread and without a second copy
//! of a request's body. Those that live on the server's reactors share turns with its sockets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ferromq_protocol::OwnedCommand;
use tokio::runtime::Handle;

use crate::Service;
use crate::common::Common;
use crate::connection::{Connection, InvokeError};
use crate::reactor::{self, Reactor};
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
    pub(crate) reactors: Arc<[Arc<Reactor>]>,
}

impl LocalPeers {
    /// The server's reactors, for whoever has sockets of another protocol: what peers call there in one turn is stored
    /// together. Tasks must not block.
    pub fn reactors(&self) -> impl Iterator<Item = &Handle> {
        self.reactors.iter().map(|reactor| &reactor.handle)
    }

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
    /// `body` stands in for the frame's. Needs a tokio timer. The service runs on this thread before the first wait; on a
    /// reactor the turn ends behind the tasks that are ready now, elsewhere at once.
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
        let LocalPeers { common, service, reactors } = &self.peers;
        let mut frame = Vec::with_capacity(512);
        write(&mut frame);
        let mut out = Vec::new();
        let mut requests = Requests::local(&frame, body, &self.conn, common.limits.max_frame);
        let in_turns = reactors.iter().any(|reactor| reactor.is_here());
        if in_turns {
            reactor::end_turn_soon();
        }
        service.serve(&self.conn, &mut requests, &mut out);
        // Given over by the connection, like every later answer.
        self.conn.push_local(&out);
        if !in_turns {
            reactor::end_turn(&**service);
        }
    }
}

impl Drop for LocalPeer {
    fn drop(&mut self) {
        self.conn.ended();
        self.peers.service.on_close(&self.conn);
    }
}
