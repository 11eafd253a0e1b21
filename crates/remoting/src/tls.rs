//! TLS on a listener: the first byte of a connection, looked at once, tells it from plaintext. This crate speaks no TLS.
//! Who does gets the socket, and gives its plaintext over a pair of sockets, so that a connection is served by the same
//! code whatever it came in by, and plaintext pays nothing.

use std::io;
use std::net::TcpStream as StdTcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;

/// First byte of a TLS handshake.
const HANDSHAKE: u8 = 22;

/// Takes connections that begin with a TLS handshake: their socket, and the end of the pair over which the server hears
/// and says their plaintext. Neither blocks. Runs on a reactor: it must not block either.
#[derive(Clone)]
pub struct Tls {
    take: Arc<dyn Fn(StdTcpStream, UnixStream) + Send + Sync>,
    is_enforced: bool,
}

impl Tls {
    /// Plaintext is served, too.
    pub fn new(take: impl Fn(StdTcpStream, UnixStream) + Send + Sync + 'static) -> Self {
        Tls { take: Arc::new(take), is_enforced: false }
    }

    /// Plaintext is refused.
    pub fn enforced(take: impl Fn(StdTcpStream, UnixStream) + Send + Sync + 'static) -> Self {
        Tls { is_enforced: true, ..Tls::new(take) }
    }

    /// What the server is to read and write instead of `socket`: itself, if it is plaintext. A peer has this long for
    /// its first byte.
    pub(crate) async fn plaintext(&self, socket: TcpStream, limit: Duration) -> io::Result<TcpStream> {
        let mut first = [0];
        let seen = tokio::time::timeout(limit, socket.peek(&mut first)).await;
        match seen.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the peer says nothing"))?? {
            1 if first[0] == HANDSHAKE => self.hand_over(socket),
            _ if self.is_enforced => Err(io::Error::other("the peer does not speak TLS, as it has to here")),
            _ => Ok(socket),
        }
    }

    fn hand_over(&self, socket: TcpStream) -> io::Result<TcpStream> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        theirs.set_nonblocking(true)?;
        (self.take)(socket.into_std()?, theirs);
        // Bytes come and go through any stream socket in the same way; its addresses are never asked for.
        TcpStream::from_std(OwnedFd::from(ours).into())
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}
