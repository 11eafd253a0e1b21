//! TLS and plaintext on one port: the first byte of a connection tells (22 begins a TLS record), and [`TlsMode`] which of them
//! is served. `certificate.rs` has the certificate.
//!
//! A handshake takes about a millisecond of CPU with a key of RSA. Clients that all come back at once would hold up whoever
//! is served on the same thread for as long as their handshakes take together, so these have threads of their own.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;
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
    /// Where handshakes are done.
    pub handshakes: Handle,
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

    /// Does a handshake, on a thread for that. The connection lives on the caller's runtime, before and after.
    pub async fn accept(&self, acceptor: TlsAcceptor, tcp: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let tcp = tcp.into_std()?;
        // Given up together with the caller.
        let mut handshake = JoinSet::new();
        handshake.spawn_on(async move { acceptor.accept(TcpStream::from_std(tcp)?).await }, &self.handshakes);
        let done = handshake.join_next().await.ok_or_else(|| io::Error::other("no handshake was begun"))?;
        let mut stream = done.map_err(io::Error::other)??;
        let tcp = stream.get_mut().0;
        // A socket stays with the runtime that it was made in; a second handle to it is made in this one.
        *tcp = TcpStream::from_std(tcp.as_fd().try_clone_to_owned()?.into())?;
        Ok(stream)
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
pub(crate) async fn detect(tcp: TcpStream, tls: &Tls, acceptor: TlsAcceptor) -> io::Result<Socket> {
    let mut first = [0];
    let is_sealed = tcp.peek(&mut first).await? == 1 && first[0] == HANDSHAKE;
    tls.mode.check(is_sealed)?;
    Ok(match is_sealed {
        true => Socket::Tls(Box::new(tls.accept(acceptor, tcp).await?)),
        false => Socket::Plain(tcp),
    })
}

/// Opens a connection and waits for the preface: from then on the server notices by itself when the other end is gone.
pub(crate) async fn open(tcp: TcpStream, tls: &Tls) -> io::Result<Stream> {
    tcp.set_nodelay(true)?;
    let mut socket = detect(tcp, tls, tls.acceptor()).await?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;
    use rcgen::generate_simple_self_signed;
    use std::thread::ThreadId;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;
    use tokio::runtime::Builder;
    use tokio_rustls::TlsConnector;
    use tokio_rustls::rustls::crypto::ring;
    use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
    use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
    use tokio_rustls::rustls::{ClientConfig, RootCertStore};

    /// A certificate that notes which thread asks for it.
    #[derive(Debug)]
    struct Watched(SingleCertAndKey, Mutex<Option<ThreadId>>);

    impl ResolvesServerCert for Watched {
        fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
            *self.1.lock() = Some(std::thread::current().id());
            self.0.resolve(hello)
        }
    }

    fn server_and_client() -> (Arc<Watched>, TlsAcceptor, TlsConnector) {
        let made = generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let provider = Arc::new(ring::default_provider());
        let key = provider.key_provider.load_private_key(made.signing_key.into()).unwrap();
        let chain = vec![made.cert.der().clone()];
        let mut roots = RootCertStore::empty();
        roots.add(chain[0].clone()).unwrap();
        let watched = Arc::new(Watched(CertifiedKey::new(chain, key).into(), Mutex::default()));
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
        let server = server.unwrap().with_no_client_auth().with_cert_resolver(Arc::clone(&watched) as _);
        let client = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let client = client.unwrap().with_root_certificates(roots).with_no_client_auth();
        (watched, Arc::new(server).into(), Arc::new(client).into())
    }

    #[test]
    fn a_handshake_has_a_thread_of_its_own_and_its_connection_lives_on_the_one_it_came_to() {
        let handshakes = Builder::new_multi_thread().worker_threads(1).enable_io().build().unwrap();
        let (watched, acceptor, connector) = server_and_client();
        let acceptors = watch::channel(acceptor).1;
        let tls = Tls { mode: TlsMode::Enforcing, acceptors, handshakes: handshakes.handle().clone() };
        let home = Builder::new_current_thread().enable_io().build().unwrap();
        home.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let addr = listener.local_addr().unwrap();
            let client = async {
                let tcp = TcpStream::connect(addr).await.unwrap();
                let mut sealed = connector.connect("localhost".try_into().unwrap(), tcp).await.unwrap();
                sealed.write_all(b"said").await.unwrap();
                let mut heard = Vec::new();
                sealed.read_to_end(&mut heard).await.unwrap();
                heard
            };
            let server = async {
                let tcp = listener.accept().await.unwrap().0;
                let mut socket = detect(tcp, &tls, tls.acceptor()).await.unwrap();
                assert_ne!(watched.1.lock().unwrap(), std::thread::current().id());
                // Nothing of the connection hangs on the threads of handshakes any more.
                handshakes.shutdown_background();
                let mut heard = [0; 4];
                socket.read_exact(&mut heard).await.unwrap();
                socket.write_all(&heard).await.unwrap();
                socket.shutdown().await.unwrap();
            };
            assert_eq!(tokio::join!(client, server).0, b"said");
        });
    }
}
