//! TLS and plaintext on one port: the first byte of a connection tells (22 begins a TLS record), and [`TlsMode`] which of them
//! is served. `certificate.rs` has the certificate.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::server::TlsStream;

/// First byte of a TLS handshake.
const HANDSHAKE: u8 = 22;
/// Time for the TLS handshake and the first bytes of a connection.
pub(crate) const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// Length of what every client of HTTP/2 says first.
const PREFACE: usize = 24;

/// Who has to speak TLS, at all doors of a proxy (RocketMQ's system property `tls.server.mode`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsMode {
    /// Nobody can.
    Disabled,
    /// Whoever wants to.
    #[default]
    Permissive,
    /// Everybody.
    Enforcing,
}

impl TlsMode {
    /// By RocketMQ's name of it.
    pub fn named(name: &str) -> Option<TlsMode> {
        match name {
            "disabled" => Some(TlsMode::Disabled),
            "permissive" => Some(TlsMode::Permissive),
            "enforcing" => Some(TlsMode::Enforcing),
            _ => None,
        }
    }

    /// What clients have to speak, for the log.
    pub fn wanted(self) -> &'static str {
        match self {
            TlsMode::Disabled => "in plaintext only",
            TlsMode::Permissive => "in plaintext and with TLS",
            TlsMode::Enforcing => "with TLS only",
        }
    }

    fn check(self, is_sealed: bool) -> io::Result<()> {
        match (self, is_sealed) {
            (TlsMode::Disabled, true) => Err(io::Error::other("the client speaks TLS, tls.server.mode is disabled")),
            (TlsMode::Enforcing, false) => {
                Err(io::Error::other("the client does not speak TLS, tls.server.mode is enforcing"))
            }
            _ => Ok(()),
        }
    }
}

/// TLS of all doors, as it is at any time.
#[derive(Clone)]
pub(crate) struct Tls {
    pub mode: TlsMode,
    pub acceptors: watch::Receiver<TlsAcceptor>,
}

impl Tls {
    /// What gRPC clients get now.
    pub fn acceptor(&self) -> TlsAcceptor {
        self.acceptors.borrow().clone()
    }

    /// The same for clients of another protocol than gRPC's; some have no name to agree on.
    pub fn speaking(&self, protocol: Option<&[u8]>) -> TlsAcceptor {
        let mut config = ServerConfig::clone(self.acceptors.borrow().config());
        config.alpn_protocols = protocol.map(<[u8]>::to_vec).into_iter().collect();
        Arc::new(config).into()
    }
}

/// Both ends of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    pub peer: SocketAddr,
    pub local: SocketAddr,
}

/// A connection of either kind whose client has begun to speak HTTP/2.
pub(crate) struct Stream {
    socket: Socket,
    /// The preface, and how much of it has been read.
    preface: ([u8; PREFACE], usize),
}

/// A socket of either kind.
pub(crate) enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Looks at the first byte, and does the handshake if it asks for one.
pub(crate) async fn detect(tcp: TcpStream, mode: TlsMode, acceptor: &TlsAcceptor) -> io::Result<Socket> {
    let mut first = [0];
    let is_sealed = tcp.peek(&mut first).await? == 1 && first[0] == HANDSHAKE;
    mode.check(is_sealed)?;
    Ok(match is_sealed {
        true => Socket::Tls(Box::new(acceptor.accept(tcp).await?)),
        false => Socket::Plain(tcp),
    })
}

/// Opens a connection and waits for the preface: from then on the server notices by itself when the other end is gone.
pub(crate) async fn open(tcp: TcpStream, tls: &Tls) -> io::Result<Stream> {
    tcp.set_nodelay(true)?;
    let mut socket = detect(tcp, tls.mode, &tls.acceptor()).await?;
    let mut preface = [0; PREFACE];
    socket.read_exact(&mut preface).await?;
    Ok(Stream { socket, preface: (preface, 0) })
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
