//! TLS and plaintext on one port: the first byte of a connection tells (22 begins a TLS record). `certificate.rs` has
//! the certificate.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

/// First byte of a TLS handshake.
const HANDSHAKE: u8 = 22;
/// Time for the TLS handshake and the first bytes of a connection.
pub(crate) const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// Length of what every client of HTTP/2 says first.
const PREFACE: usize = 24;

/// Both ends of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    pub peer: SocketAddr,
    pub local: SocketAddr,
}

/// A connection of either kind, and its place among all.
pub(crate) struct Stream {
    socket: Socket,
    ends: Ends,
    /// The preface, and how much of it has been read.
    preface: ([u8; PREFACE], usize),
    _place: OwnedSemaphorePermit,
}

/// A socket of either kind.
pub(crate) enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// The same TLS for clients of another protocol than gRPC's; some have no name to agree on.
pub(crate) fn speaking(tls: &TlsAcceptor, protocol: Option<&[u8]>) -> TlsAcceptor {
    let mut config = ServerConfig::clone(tls.config());
    config.alpn_protocols = protocol.map(<[u8]>::to_vec).into_iter().collect();
    Arc::new(config).into()
}

/// Looks at the first byte, and does the handshake if it asks for one.
pub(crate) async fn detect(tcp: TcpStream, tls: &TlsAcceptor) -> io::Result<Socket> {
    let mut first = [0];
    Ok(match tcp.peek(&mut first).await? {
        1 if first[0] == HANDSHAKE => Socket::Tls(Box::new(tls.accept(tcp).await?)),
        _ => Socket::Plain(tcp),
    })
}

/// Opens a connection and waits for the preface: from then on the server notices by itself when the other end is gone.
pub(crate) async fn open(tcp: TcpStream, place: OwnedSemaphorePermit, tls: &TlsAcceptor) -> io::Result<Stream> {
    let ends = Ends { peer: tcp.peer_addr()?, local: tcp.local_addr()? };
    tcp.set_nodelay(true)?;
    let mut socket = detect(tcp, tls).await?;
    let mut preface = [0; PREFACE];
    socket.read_exact(&mut preface).await?;
    Ok(Stream { socket, ends, preface: (preface, 0), _place: place })
}

impl Connected for Stream {
    type ConnectInfo = Ends;

    fn connect_info(&self) -> Ends {
        self.ends
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        let (preface, read) = &mut me.preface;
        if *read < PREFACE {
            let part = into.remaining().min(PREFACE - *read);
            into.put_slice(&preface[*read..*read + part]);
            *read += part;
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut me.socket).poll_read(cx, into)
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Plain(tcp) => Pin::new(tcp).poll_read(cx, into),
            Socket::Tls(tls) => Pin::new(tls).poll_read(cx, into),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Socket::Plain(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Socket::Tls(tls) => Pin::new(tls).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Socket::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, parts),
            Socket::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Socket::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Socket::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}
