//! Turns: what a reactor does once for all sockets that were ready together.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod echo;

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::Ordering;

use ferromq_remoting::{Limits, OnRequest};

use crate::echo::*;

#[test]
fn sockets_that_are_ready_together_share_the_end_of_a_turn() {
    let (_server, service, addr) = start_with(1, Limits::default());
    let mut sockets: Vec<TcpStream> = (0..10).map(|_| connect(addr)).collect();
    for socket in &mut sockets {
        socket.write_all(&request(ECHO, 1, b"is watched from now on")).unwrap();
        read_frame(socket);
    }
    let (first, others) = sockets.split_first_mut().unwrap();
    let hold = service.hold.lock();
    first.write_all(&request(HOLD, 2, b"")).unwrap();
    eventually("the reactor is held", || service.served.load(Ordering::SeqCst) == 11);
    for socket in others.iter_mut() {
        socket.write_all(&request(AT_TURNS_END, 3, b"")).unwrap();
    }
    drop(hold);
    assert_eq!(read_frame(first).head().opaque, 2);
    for socket in others.iter_mut() {
        assert_eq!(read_frame(socket).head().opaque, 3);
    }
    // On a busy machine the kernel may bring some of the bytes a moment later.
    let turns = service.turns.lock();
    assert!(turns[0] == 1 && turns.iter().sum::<usize>() == 10 && turns.len() < 10, "{turns:?}");
}

#[test]
fn peers_on_a_reactor_share_the_end_of_a_turn_and_others_end_their_own() {
    let (server, service, addr) = start_with(1, Limits::default());
    let peers = server.local_peers();
    let reactor = peers.reactors().next().unwrap().clone();
    let call = move || {
        let peer = peers.connect(addr, addr, OnRequest::new(|_| {}));
        async move {
            let write = |out: &mut Vec<u8>, opaque| out.extend(request(AT_TURNS_END, opaque, b""));
            peer.invoke(WAIT, write, b"").await.unwrap()
        }
    };
    let elsewhere = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let call_there = call.clone();
    let together = reactor.spawn(async move {
        let calls: Vec<_> = (0..10).map(|_| tokio::spawn(call_there())).collect();
        for call in calls {
            call.await.unwrap();
        }
    });
    elsewhere.block_on(together).unwrap();
    elsewhere.block_on(call());
    assert_eq!(*service.turns.lock(), [10, 1]);
}

#[test]
fn a_turn_ends_also_when_a_connection_breaks_or_the_service_panics() {
    let (_server, service, addr) = start_with(1, Limits::default());
    for (n, end) in [vec![0xFF; 64], request(PANIC, 5, b"")].into_iter().enumerate() {
        let mut socket = connect(addr);
        socket.write_all(&[request(AT_TURNS_END, 4, b""), end].concat()).unwrap();
        eventually("the request before the end is taken to the end of a turn", || service.turns.lock().len() == n + 1);
    }
    assert_eq!(*service.turns.lock(), [1, 1]);
}
