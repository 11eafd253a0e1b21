//! Sockets: a server and a client for remoting frames. Knows how to move commands, never what a code means
//! (GO_AWAY during shutdown excepted).
//!
//! # Layout
//! - `server.rs`: start, limits and end of a server; `accept.rs`: its listeners, `tls.rs`: TLS on them; `reactor.rs`: its
//!   threads.
//! - `client.rs`: one pipelined connection per address.
//! - `connection.rs`: what any thread may do with a connection: push frames, call the peer, close; `outbound.rs`: the
//!   bytes its socket has not taken; `in_flight.rs`: calls that wait for answers.
//! - `drive.rs`: the one task of a connection: drain the socket, serve, write all answers at once.
//! - `local.rs`: a peer in the same process, without a socket.
//! - `requests.rs`: the complete frames of one drain, parsed as they are taken.
//! - `limits.rs`, `common.rs`: limits, and the budgets and coarse time that connections share.
//!
//! # Threads
//! Each reactor thread runs its own current-thread runtime, so a request is read, served and answered without any
//! hand-off. Answers that come later are pushed from whatever thread has them.

mod accept;
mod client;
mod common;
mod connection;
mod drive;
mod in_flight;
mod limits;
mod local;
mod outbound;
mod reactor;
mod requests;
mod server;
mod tls;

use std::sync::Arc;

pub use client::{Client, ClientConfig};
pub use connection::{Connection, InvokeError, PushError};
pub use limits::Limits;
pub use local::{LocalPeer, LocalPeers, OnRequest};
pub use requests::Requests;
pub use server::{HeldBytes, Listeners, Server, ServerConfig, StartError, listen};
pub use tls::Tls;

/// What stands behind a connection: the broker, the NameServer, or the client's side for requests of a server.
pub trait Service: Send + Sync + 'static {
    /// Requests of one socket drain, in order: all complete ones, in batches when there are many. Writes every immediate
    /// answer to `out`, as whole frames, or keeps requests for [`Service::end_turn`]. Runs on the reactor thread: it must
    /// not block. It may stop early, once `out` has grown large; the rest comes again after the answers were written. It
    /// must take one request at least.
    fn serve(&self, conn: &Arc<Connection>, requests: &mut Requests<'_>, out: &mut Vec<u8>);

    /// Called on the same thread when the sockets that were ready together have been served: one piece of work for what
    /// all of them asked. Answers are pushed to their connections and written when this returns.
    fn end_turn(&self) {}

    /// Called when the answers of a turn were handed to their sockets: work that need not delay them.
    fn after_answers(&self) {}

    /// The connection has ended; nothing pushed from now on arrives.
    fn on_close(&self, _conn: &Arc<Connection>) {}
}
