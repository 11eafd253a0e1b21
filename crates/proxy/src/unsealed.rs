//! Remoting clients that speak TLS. Their server reads a socket without it: a task for each client does the handshake and
//! copies what is said both ways. So plaintext clients pay nothing for those that want more.

use std::io;
use std::net::TcpStream as StdTcpStream;
use std::os::unix::net::UnixStream as StdUnixStream;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::Handle;

use crate::patient::Patient;
use crate::tls::{HANDSHAKE_LIMIT, Tls, TlsMode};

/// What a remoting server needs to serve TLS, with the certificate that there is at any time; nothing if it is disabled.
pub(crate) fn remoting(runtime: Handle, tls: Tls) -> Option<ferromq_remoting::Tls> {
    let mode = tls.mode;
    let take = move |sealed, plain| {
        let tls = tls.clone();
        runtime.spawn(async move {
            if let Err(error) = unseal(sealed, plain, &tls).await {
                tracing::debug!(%error, "a remoting connection with TLS has broken");
            }
        });
    };
    match mode {
        TlsMode::Disabled => None,
        TlsMode::Permissive => Some(ferromq_remoting::Tls::new(take)),
        TlsMode::Enforcing => Some(ferromq_remoting::Tls::enforced(take)),
    }
}

/// One connection from its handshake to its end. The server closes it: it sees the end of what the client says, and knows
/// how long it may be silent.
async fn unseal(sealed: StdTcpStream, plain: StdUnixStream, tls: &Tls) -> io::Result<()> {
    let (sealed, plain) = (TcpStream::from_std(sealed)?, UnixStream::from_std(plain)?);
    // RocketMQ's clients name no protocol.
    let acceptor = tls.speaking(None);
    let sealed = tokio::time::timeout(HANDSHAKE_LIMIT, tls.accept(acceptor, sealed)).await??;
    let (mut from_client, mut to_client) = tokio::io::split(Patient::new(sealed));
    let (mut from_server, mut to_server) = plain.into_split();
    let said = async {
        tokio::io::copy(&mut from_client, &mut to_server).await?;
        to_server.shutdown().await?;
        std::future::pending().await
    };
    tokio::select! {
        answered = tokio::io::copy(&mut from_server, &mut to_client) => answered?,
        broken = said => return broken,
    };
    tokio::time::timeout(HANDSHAKE_LIMIT, to_client.shutdown()).await?
}
