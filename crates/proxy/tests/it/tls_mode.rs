//! Who has to speak TLS: `tls.server.mode` at all doors of a proxy.

use std::net::SocketAddr;
use std::time::Duration;

use ferromq_proxy::{CertificateFiles, RemotingDoor, TlsMode};
use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::bench;
use crate::certificate::{put, try_connect_to};
use crate::cluster::Cluster;

/// Longest wait for what must come.
const SOON: Duration = Duration::from_secs(30);

/// What a client of HTTP/2 says first, and its empty settings.
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const HTTP1: &[u8] = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n";

/// A request that no server knows.
fn remoting() -> Vec<u8> {
    let head = br#"{"code":9999,"flag":0,"language":"JAVA","opaque":1,"serializeTypeCurrentRPC":"JSON","version":0}"#;
    let len = head.len() as u32;
    [&(4 + len).to_be_bytes()[..], &len.to_be_bytes(), head].concat()
}

/// Whether anything is said to a client that says this.
async fn is_answered(mut socket: impl AsyncRead + AsyncWrite + Unpin, said: &[u8]) -> bool {
    if socket.write_all(said).await.is_err() {
        return false;
    }
    let heard = tokio::time::timeout(SOON, socket.read(&mut [0])).await.expect("it is answered or closed");
    heard.unwrap_or(0) == 1
}

/// Whether a client in plaintext is served at a door, and one with TLS.
async fn served(door: SocketAddr, said: &[u8], certificate: &CertifiedKey<KeyPair>) -> [bool; 2] {
    let plain = is_answered(TcpStream::connect(door).await.unwrap(), said).await;
    let sealed = match try_connect_to(door, &[certificate], &[]).await {
        Ok(sealed) => is_answered(sealed, said).await,
        Err(_) => false,
    };
    [plain, sealed]
}

fn files(folder: &std::path::Path, certificate: &CertifiedKey<KeyPair>) -> CertificateFiles {
    let files = CertificateFiles { certificate: folder.join("a.crt"), key: folder.join("a.key") };
    put(&files, certificate);
    files
}

const MODES: [(TlsMode, [bool; 2]); 3] =
    [(TlsMode::Disabled, [true, false]), (TlsMode::Permissive, [true, true]), (TlsMode::Enforcing, [false, true])];

#[tokio::test(flavor = "multi_thread")]
async fn each_mode_serves_whom_it_says_at_all_doors() {
    let certificate = generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    for (mode, expected) in MODES {
        let bench = bench::start_with(|config, folder| {
            config.certificate = Some(files(folder, &certificate));
            config.tls_mode = mode;
            config.http = Some(any);
            config.remoting = Some(RemotingDoor::new(any));
        });
        let remoting = remoting();
        for (door, said) in [(bench.addr(), HTTP2), (bench.http_addr(), HTTP1), (bench.remoting_addr(), &remoting)] {
            let name = String::from_utf8_lossy(&said[..4]);
            assert_eq!(served(door, said, &certificate).await, expected, "{mode:?} {name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_mode_counts_for_remoting_clients_of_a_cluster() {
    let certificate = generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    for (mode, expected) in MODES {
        let folder = tempfile::tempdir().unwrap();
        let files = files(folder.path(), &certificate);
        let cluster = Cluster::start_with(&["alone"], move |config| {
            config.certificate = Some(files);
            config.tls_mode = mode;
        });
        assert_eq!(served(cluster.remoting, &remoting(), &certificate).await, expected, "{mode:?}");
    }
}
