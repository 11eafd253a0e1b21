//! A listener for plaintext and for what begins like TLS.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod echo;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use ferromq_remoting::{Limits, Server, ServerConfig, Tls};

use crate::echo::*;

/// First byte of a TLS handshake.
const HANDSHAKE: u8 = 22;

/// A cipher of our own: each byte is turned over.
fn turned(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().map(|byte| !byte).collect()
}

fn copy(mut from: impl Read, mut to: impl Write) {
    let mut bytes = [0; 4096];
    while let Ok(got @ 1..) = from.read(&mut bytes) {
        to.write_all(&turned(&bytes[..got])).unwrap();
    }
}

/// Takes the byte that announces it, then deciphers until one side ends.
fn decipher(sealed: TcpStream, plain: UnixStream) {
    sealed.set_nonblocking(false).unwrap();
    plain.set_nonblocking(false).unwrap();
    let (answers, peer) = (plain.try_clone().unwrap(), sealed.try_clone().unwrap());
    std::thread::spawn(move || {
        copy(answers, &peer);
        // The server has closed it.
        peer.shutdown(Shutdown::Both).unwrap_or_default();
    });
    std::thread::spawn(move || {
        (&sealed).read_exact(&mut [0]).unwrap();
        copy(&sealed, &plain);
        plain.shutdown(Shutdown::Write).unwrap_or_default();
    });
}

fn start_both(max_connections: usize) -> (Server, Arc<Echo>, SocketAddr) {
    let service = Arc::new(Echo::default());
    let limits = Limits::default();
    let config = ServerConfig { reactors: 2, max_connections, limits, ..ServerConfig::new(Vec::new()) };
    let server = Server::start(config, service.clone()).unwrap();
    let addr = server.listeners().add("127.0.0.1:0".parse().unwrap(), Some(Tls::new(decipher))).unwrap();
    (server, service, addr)
}

#[test]
fn what_begins_like_tls_is_served_in_its_plaintext() {
    let (server, service, addr) = start_both(100);
    let mut plain = connect(addr);
    plain.write_all(&request(ECHO, 1, b"plain")).unwrap();
    assert_eq!(read_frame(&mut plain).body(), b"plain");

    let mut sealed = connect(addr);
    sealed.write_all(&[HANDSHAKE]).unwrap();
    sealed.write_all(&turned(&request(ECHO, 2, &[7; 100_000]))).unwrap();
    let expected = 4 + 100_000;
    let mut answer = Vec::new();
    let mut part = [0; 65_536];
    while answer.len() < expected {
        let got = sealed.read(&mut part).unwrap();
        assert!(got > 0, "closed after {} bytes", answer.len());
        answer.extend_from_slice(&turned(&part[..got]));
    }
    assert_eq!(answer.iter().filter(|byte| **byte == 7).count() / 1000, 100, "the body comes back");
    assert_eq!(server.connections(), 2);

    // The end of either connection is noticed.
    drop((sealed, plain));
    eventually("both are closed", || server.connections() == 0);
    // Its place is free before the service hears of it.
    eventually("the service has heard", || service.closed.load(std::sync::atomic::Ordering::SeqCst) == 2);
    // So is that of the server, for the peer.
    let mut breaker = connect(addr);
    breaker.write_all(&[HANDSHAKE]).unwrap();
    breaker.write_all(&turned(&[0xff; 64])).unwrap();
    assert!(closed_by_server(&mut breaker));
}

#[test]
fn a_connection_has_its_place_before_it_says_what_it_is() {
    let (_server, _, addr) = start_both(1);
    let silent = connect(addr);
    let mut refused = connect(addr);
    assert!(closed_by_server(&mut refused), "the only place is taken");
    drop(silent);
    eventually("the place is free", || {
        let mut next = connect(addr);
        // One that is refused may be closed before it has said all.
        next.write_all(&request(ECHO, 1, b"here")).is_ok() && next.read(&mut [0]).is_ok_and(|got| got == 1)
    });
}
