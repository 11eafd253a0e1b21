//! What peers that misbehave may cost: memory, connections, and nothing for everybody else.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod echo;

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ferromq_protocol::{Encoding, FrameWriter};
use ferromq_remoting::{Limits, PushError, Server, ServerConfig};
use proptest::prelude::*;

use crate::echo::*;

/// Anonymous memory of this process, in bytes.
fn anonymous_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
}

#[test]
fn unfinished_frames_cost_what_was_received_and_end_at_their_time_limit() {
    let limits = Limits { half_read_timeout: Duration::from_millis(400), ..Limits::default() };
    let (server, _, addr) = start(limits);
    let mut announced = (16_000_000u32).to_be_bytes().to_vec();
    announced.extend([0, 0, 0, 100]);
    let mut slow: Vec<TcpStream> = (0..300).map(|_| connect(addr)).collect();
    for socket in &mut slow {
        socket.write_all(&announced).unwrap();
    }
    let mut good = connect(addr);
    good.write_all(&request(ECHO, 1, b"not disturbed")).unwrap();
    assert_eq!(read_frame(&mut good).body(), b"not disturbed");
    for socket in &mut slow {
        assert!(closed_by_server(socket));
    }
    eventually("only the good connection is left", || server.connections() == 1);
}

#[test]
fn the_budget_of_unfinished_frames_is_kept() {
    let limits = Limits { half_read_budget: 1 << 20, ..Limits::default() };
    let (_server, _, addr) = start(limits);
    let mut socket = connect(addr);
    let frame = request(ECHO, 1, &vec![7; 4 << 20]);
    // The write fails when the server closes in the middle of it.
    let _ = socket.write_all(&frame[..frame.len() - 1]);
    assert!(closed_by_server(&mut socket));
}

#[test]
fn a_peer_that_does_not_read_is_not_read_from_and_costs_bounded_memory() {
    let limits = Limits { write_high_water: 64 << 10, ..Limits::default() };
    let (_server, service, addr) = start(limits);
    let mut socket = connect(addr);
    socket.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let frame = request(ECHO, 1, &vec![7; 64 << 10]);
    let mut sent = 0;
    while sent < 2_000 && socket.write_all(&frame).is_ok() {
        sent += 1;
    }
    assert!(sent < 2_000, "the server stopped reading");
    let served = service.served.load(Ordering::SeqCst);
    for _ in 0..served {
        assert_eq!(read_frame(&mut socket).body().len(), 64 << 10);
    }
}

#[test]
fn idle_connections_are_closed() {
    let (_server, _, addr) = start(Limits { idle: Duration::from_millis(200), ..Limits::default() });
    assert!(closed_by_server(&mut connect(addr)));
}

/// 2,000 connections announce 16 MB each and send a byte now and then: 32 GB announced.
#[test]
fn many_slow_announcements_cost_only_what_was_received() {
    let (server, _, addr) = start(Limits::default());
    let mut announced = 16_000_000u32.to_be_bytes().to_vec();
    announced.extend([0, 0, 0, 100]);
    let before = anonymous_bytes();
    let mut slow: Vec<TcpStream> = (0..2_000).map(|_| connect(addr)).collect();
    for socket in &mut slow {
        socket.write_all(&announced).unwrap();
    }
    for _ in 0..5 {
        for socket in &mut slow {
            socket.write_all(b"x").unwrap();
        }
    }
    eventually("everything was read", || server.held_bytes().half_read >= 2_000 * 13);
    assert!(server.held_bytes().half_read < 2_000 * 64, "{:?}", server.held_bytes());
    let grown = anonymous_bytes().saturating_sub(before);
    assert!(grown < 2_000 * 16_384, "{} bytes for each connection", grown / 2_000);
    let mut good = connect(addr);
    good.write_all(&request(ECHO, 1, b"not disturbed")).unwrap();
    assert_eq!(read_frame(&mut good).body(), b"not disturbed");
    drop(slow);
    eventually("everything is given back", || server.held_bytes().half_read == 0 && server.connections() == 1);
}

/// Whoever holds unfinished frames longest pays for a full budget, not an honest peer that comes along.
#[test]
fn a_full_budget_closes_the_oldest_unfinished_frames() {
    let limits = Limits { half_read_budget: 4 << 20, half_read_timeout: Duration::from_secs(8), ..Limits::default() };
    let (server, _, addr) = start(limits);
    let mut announced = 16_000_000u32.to_be_bytes().to_vec();
    announced.extend([0, 0, 0, 100]);
    announced.resize(60 << 10, b'x');
    let mut slow: Vec<TcpStream> = (0..60).map(|_| connect(addr)).collect();
    for socket in &mut slow {
        socket.write_all(&announced).unwrap();
    }
    eventually("the budget is nearly full", || server.held_bytes().half_read > 3 << 20);
    // Two ticks of the sweep, so that what comes now is younger.
    std::thread::sleep(Duration::from_millis(2_000));
    let mut good = connect(addr);
    let frame = request(ECHO, 1, &vec![7; 2 << 20]);
    for part in frame.chunks(100 << 10) {
        good.write_all(part).unwrap();
    }
    assert_eq!(read_frame(&mut good).body().len(), 2 << 20);
    assert!(server.held_bytes().half_read <= 4 << 20, "{:?}", server.held_bytes());
}

#[test]
fn a_push_to_a_peer_that_does_not_read_fails_at_its_limit() {
    let (server, service, addr) = start(Limits { max_outbound: 1 << 20, ..Limits::default() });
    let mut socket = connect(addr);
    socket.write_all(&request(JOIN, 1, b"")).unwrap();
    read_frame(&mut socket);
    let conn = service.joined.lock().pop().unwrap();
    let push =
        || conn.push(|out| FrameWriter::request(out, Encoding::Binary, ECHO, 1, true).finish_with_body(&[0; 64 << 10]));
    let error = (0..10_000).find_map(|_| push().err()).unwrap();
    assert_eq!(error, PushError::Full { limit: 1 << 20 });
    assert_eq!(push(), Err(PushError::Closed));
    eventually("closed, and nothing held", || server.connections() == 0 && server.held_bytes().unwritten == 0);
}

/// Many peers that ask and never read, each below its own limits.
#[test]
fn unread_answers_of_all_peers_together_are_bounded() {
    let limits = Limits { outbound_budget: 2 << 20, write_high_water: 64 << 10, ..Limits::default() };
    let (server, _, addr) = start(limits);
    let frame = request(ECHO, 1, &vec![7; 1 << 20]);
    let mut peers = Vec::new();
    for _ in 0..7 {
        let mut socket = connect_narrow(addr);
        socket.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
        let _blocks_when_the_server_stops_reading = (0..30).try_for_each(|_| socket.write_all(&frame));
        peers.push(socket);
        // What one more peer adds before it is noticed is one answer of it.
        assert!(server.held_bytes().unwritten <= (2 << 20) + (2 << 20), "{:?}", server.held_bytes());
    }
    eventually("the worst are closed", || server.connections() < 7);
    let mut good = connect(addr);
    good.write_all(&request(ECHO, 1, b"not disturbed")).unwrap();
    assert_eq!(read_frame(&mut good).body(), b"not disturbed");
}

/// 2,000 requests of 100 bytes that ask for 40 MB of answers together, from a peer that does not read.
#[test]
fn a_burst_of_requests_with_large_answers_is_served_in_batches() {
    let (server, service, addr) = start(Limits { write_high_water: 64 << 10, ..Limits::default() });
    let mut socket = connect(addr);
    let burst: Vec<u8> = (0..2_000).flat_map(|n| request(LARGE, n, &[])).collect();
    socket.write_all(&burst).unwrap();
    eventually("the server waits for its peer", || server.held_bytes().unwritten > 0);
    let served = service.served.load(Ordering::SeqCst);
    assert!(served < 2_000 && service.largest_drain.load(Ordering::SeqCst) <= 64);
    assert!(server.held_bytes().unwritten <= 64 * (21 << 10) + (64 << 10), "{:?}", server.held_bytes());
    for n in 0..2_000 {
        let answer = read_frame(&mut socket);
        assert_eq!((answer.head().opaque, answer.body().len()), (n, 20 << 10));
    }
}

#[test]
fn connections_above_the_limit_are_refused_and_taken_again_later() {
    let service = Arc::new(Echo::default());
    let config = ServerConfig { max_connections: 3, ..ServerConfig::new(vec!["127.0.0.1:0".parse().unwrap()]) };
    let server = Server::start(config, service).unwrap();
    let addr = server.local_addrs()[0];
    let mut taken: Vec<TcpStream> = (0..3).map(|_| connect(addr)).collect();
    for socket in &mut taken {
        socket.write_all(&request(ECHO, 1, b"")).unwrap();
        read_frame(socket);
    }
    assert!(closed_by_server(&mut connect(addr)));
    taken.pop();
    eventually("one has left", || server.connections() == 2);
    let mut next = connect(addr);
    next.write_all(&request(ECHO, 1, b"")).unwrap();
    read_frame(&mut next);
}

/// A frame that keeps arriving, however slowly, ends at its time limit; the idle limit never sees it.
#[test]
fn a_trickle_does_not_keep_a_frame_alive() {
    let limits = Limits { half_read_timeout: Duration::from_millis(300), ..Limits::default() };
    let (_server, _, addr) = start(limits);
    let mut socket = connect(addr);
    socket.write_all(&[0, 1, 0, 0, 0, 0, 0, 90]).unwrap();
    let end = Instant::now() + WAIT;
    while socket.write_all(b"x").is_ok() {
        assert!(Instant::now() < end, "never closed");
        std::thread::sleep(Duration::from_millis(20));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// Frames damaged anywhere never take more than their own connection with them.
    #[test]
    fn damaged_frames_never_harm_the_server(
        seeds in prop::collection::vec((any::<bool>(), 0..600usize, any::<u8>(), 0..600usize), 20)
    ) {
        let (server, service, addr) = start(Limits::default());
        for (json, at, byte, cut) in &seeds {
            let mut bytes = request(ECHO, 1, b"first");
            let start_of_second = bytes.len();
            let encoding = if *json { Encoding::Json } else { Encoding::Binary };
            // No damage of one byte makes this code one that the service treats specially.
            let mut writer = FrameWriter::request(&mut bytes, encoding, 310, 2, false);
            writer.str("topic", "T\"opic\\").str("properties", &"k\u{1}v\u{2}".repeat(20)).i64("offset", -1);
            writer.finish_with_body(&[b'b'; 100]);
            let damaged = start_of_second + at % (bytes.len() - start_of_second);
            bytes[damaged] = *byte;
            bytes.truncate(start_of_second + cut);
            let mut socket = connect(addr);
            // The server may close before it has all of it.
            let _ = socket.write_all(&bytes);
            prop_assert!(read_frame(&mut socket).body() == b"first");
        }
        eventually("all ended", || service.closed.load(Ordering::SeqCst) == seeds.len());
        prop_assert_eq!((server.connections(), server.held_bytes().half_read), (0, 0));
        let mut good = connect(addr);
        good.write_all(&request(ECHO, 9, b"alive")).unwrap();
        prop_assert!(read_frame(&mut good).body() == b"alive");
    }
}
