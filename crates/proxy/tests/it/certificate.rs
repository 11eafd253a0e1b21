//! A certificate that changes while the proxy runs, over its own timer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferromq_proxy::{CertificateFiles, RemotingDoor};
use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

use crate::bench;

/// Writes both files.
pub fn put(files: &CertificateFiles, made: &CertifiedKey<KeyPair>) {
    std::fs::write(&files.certificate, made.cert.pem()).unwrap();
    std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
}

/// A connection with TLS, and the certificate that was shown.
pub async fn connect_to(
    addr: SocketAddr,
    trusted: &[&CertifiedKey<KeyPair>],
    protocols: &[&[u8]],
) -> (TlsStream<TcpStream>, CertificateDer<'static>) {
    let stream = try_connect_to(addr, trusted, protocols).await.unwrap();
    let shown = stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned();
    (stream, shown)
}

/// As [`connect_to`], where it may be refused.
pub async fn try_connect_to(
    addr: SocketAddr,
    trusted: &[&CertifiedKey<KeyPair>],
    protocols: &[&[u8]],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    for made in trusted {
        roots.add(made.cert.der().clone()).unwrap();
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    let socket = TcpStream::connect(addr).await?;
    TlsConnector::from(Arc::new(config)).connect("localhost".try_into().unwrap(), socket).await
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_see_a_new_certificate_and_old_connections_go_on() {
    let [one, two] = [(); 2].map(|()| generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap());
    let mut files = None;
    let bench = bench::start_with(|config, folder| {
        let of = CertificateFiles { certificate: folder.join("a.crt"), key: folder.join("a.key") };
        put(&of, &one);
        config.certificate = Some(of.clone());
        config.remoting = Some(RemotingDoor::new("127.0.0.1:0".parse().unwrap()));
        files = Some(of);
    });
    let trusted = [&one, &two];
    let connect = || connect_to(bench.addr(), &trusted, &[b"h2"]);
    let (old, shown) = connect().await;
    assert_eq!(&shown, one.cert.der());
    let (mut calls, connection) = h2::client::handshake(old).await.unwrap();
    tokio::spawn(connection);

    put(&files.unwrap(), &two);
    let deadline = Instant::now() + Duration::from_secs(30);
    while &connect().await.1 != two.cert.der() {
        assert!(Instant::now() < deadline, "the new certificate is not taken");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let remoting = connect_to(bench.remoting_addr(), &trusted, &[]).await.1;
    assert_eq!(&remoting, two.cert.der(), "the port of remoting clients has it, too");
    let request = tonic::codegen::http::Request::post("https://localhost/nothing").body(()).unwrap();
    let (answer, _) = calls.send_request(request, true).unwrap();
    assert!(answer.await.is_ok(), "the connection of before is served");
    // A connection that leaves in the middle of its preface.
    let (mut half, _) = connect().await;
    half.write_all(b"PRI * HTTP").await.unwrap();
    half.shutdown().await.unwrap();
    assert_eq!(half.read_to_end(&mut Vec::new()).await.unwrap_or(0), 0);
}
