//! Server, client and connection over real sockets on the loopback interface.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ferromq_protocol::code::response;
use ferromq_protocol::{Encoding, FrameWriter, OwnedCommand};
use ferromq_remoting::{
    Client, ClientConfig, Connection, InvokeError, Limits, Requests, Server, ServerConfig, Service,
};
use parking_lot::Mutex;

const ECHO: i32 = 9001;
const LATER: i32 = 9002;
const CALL_BACK: i32 = 9003;
const WAIT: Duration = Duration::from_secs(10);

/// Echoes bodies; LATER is answered by a push from another thread; CALL_BACK calls the client first.
#[derive(Default)]
struct Echo {
    served: AtomicUsize,
    closed: AtomicUsize,
    largest_drain: AtomicUsize,
    runtime: Mutex<Option<tokio::runtime::Handle>>,
}

impl Service for Echo {
    fn serve(&self, conn: &Arc<Connection>, requests: &mut Requests<'_>, out: &mut Vec<u8>) {
        let mut drain = 0;
        for request in requests {
            drain += 1;
            self.served.fetch_add(1, Ordering::SeqCst);
            let (head, body) = (request.head, request.body.to_vec());
            let conn = conn.clone();
            match head.code {
                _ if head.is_oneway() => {}
                LATER => drop(std::thread::spawn(move || {
                    conn.push(|out| FrameWriter::response(out, &head, response::SUCCESS).finish_with_body(&body))
                })),
                CALL_BACK => {
                    let runtime = self.runtime.lock().clone().expect("set by the test");
                    runtime.spawn(async move {
                        let answer = conn
                            .invoke(WAIT, |out, opaque| {
                                FrameWriter::request(out, Encoding::Json, ECHO, opaque, false)
                                    .finish_with_body(b"from server");
                            })
                            .await
                            .expect("the client answers");
                        conn.push(|out| FrameWriter::response(out, &head, 0).finish_with_body(answer.body()))
                            .expect("open");
                    });
                }
                _ => FrameWriter::response(out, &head, response::SUCCESS).finish_with_body(&body),
            }
        }
        self.largest_drain.fetch_max(drain, Ordering::SeqCst);
    }

    fn on_close(&self, _conn: &Arc<Connection>) {
        self.closed.fetch_add(1, Ordering::SeqCst);
    }
}

fn start(limits: Limits) -> (Server, Arc<Echo>, SocketAddr) {
    let service = Arc::new(Echo::default());
    let mut config = ServerConfig::new(vec!["127.0.0.1:0".parse().unwrap()]);
    config.reactors = 2;
    config.limits = limits;
    let server = Server::start(config, service.clone()).unwrap();
    let addr = server.local_addrs()[0];
    (server, service, addr)
}

fn request(code: i32, opaque: i32, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    FrameWriter::request(&mut out, Encoding::Binary, code, opaque, false).finish_with_body(body);
    out
}

fn connect(addr: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(addr).unwrap();
    socket.set_read_timeout(Some(WAIT)).unwrap();
    socket
}

fn read_frame(socket: &mut TcpStream) -> OwnedCommand {
    let mut frame = vec![0; 4];
    socket.read_exact(&mut frame).unwrap();
    let len = u32::from_be_bytes(frame[..4].try_into().unwrap()) as usize;
    frame.resize(4 + len, 0);
    socket.read_exact(&mut frame[4..]).unwrap();
    OwnedCommand::from_frame_bytes(frame).unwrap()
}

/// Waits for the end of the stream, as the server's close.
fn closed_by_server(socket: &mut TcpStream) -> bool {
    match socket.read(&mut [0; 1]) {
        Ok(got) => got == 0,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + WAIT;
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        std::thread::yield_now();
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn pipelined_requests_are_served_in_one_drain_and_answered_in_order() {
    let (_server, service, addr) = start(Limits::default());
    let mut socket = connect(addr);
    let all: Vec<u8> = (0..100).flat_map(|opaque| request(ECHO, opaque, format!("body {opaque}").as_bytes())).collect();
    socket.write_all(&all).unwrap();
    for opaque in 0..100 {
        let answer = read_frame(&mut socket);
        assert_eq!((answer.head().opaque, answer.head().code), (opaque, 0));
        assert_eq!(answer.body(), format!("body {opaque}").as_bytes());
    }
    assert!(service.largest_drain.load(Ordering::SeqCst) > 1);
}

#[test]
fn a_frame_may_arrive_byte_by_byte_or_be_larger_than_any_buffer() {
    let (_server, _, addr) = start(Limits::default());
    let mut socket = connect(addr);
    for byte in request(ECHO, 1, b"slow") {
        socket.write_all(&[byte]).unwrap();
    }
    assert_eq!(read_frame(&mut socket).body(), b"slow");
    let body: Vec<u8> = (0..5_000_000u32).map(|at| (at % 251) as u8).collect();
    let sending = request(ECHO, 2, &body);
    let mut writer = socket.try_clone().unwrap();
    let thread = std::thread::spawn(move || writer.write_all(&sending));
    assert_eq!(read_frame(&mut socket).body(), body);
    thread.join().unwrap().unwrap();
    socket.write_all(&request(ECHO, 3, b"after")).unwrap();
    assert_eq!(read_frame(&mut socket).body(), b"after");
}

#[test]
fn answers_pushed_later_are_matched_by_opaque() {
    let (_server, _, addr) = start(Limits::default());
    runtime().block_on(async {
        let client = Client::new(ClientConfig::default(), None);
        let addr = addr.to_string();
        let calls = (0..50).map(|n: i32| {
            let (client, addr) = (client.clone(), addr.clone());
            tokio::spawn(async move {
                let code = if n % 2 == 0 { LATER } else { ECHO };
                let body = n.to_be_bytes();
                let answer = client
                    .invoke(&addr, WAIT, |out, opaque| {
                        FrameWriter::request(out, Encoding::Json, code, opaque, false).finish_with_body(&body);
                    })
                    .await
                    .unwrap();
                assert_eq!(answer.body(), body);
            })
        });
        for call in calls.collect::<Vec<_>>() {
            call.await.unwrap();
        }
    });
}

#[test]
fn one_way_requests_get_no_answer() {
    let (_server, service, addr) = start(Limits::default());
    let mut socket = connect(addr);
    let mut bytes = Vec::new();
    FrameWriter::request(&mut bytes, Encoding::Json, ECHO, 1, true).finish();
    bytes.extend(request(ECHO, 2, b"asked"));
    socket.write_all(&bytes).unwrap();
    assert_eq!(read_frame(&mut socket).head().opaque, 2);
    assert_eq!(service.served.load(Ordering::SeqCst), 2);
}

#[test]
fn the_server_can_call_the_client() {
    let (_server, service, addr) = start(Limits::default());
    let runtime = runtime();
    *service.runtime.lock() = Some(runtime.handle().clone());
    let answer = runtime.block_on(async {
        let client = Client::new(ClientConfig::default(), Some(Arc::new(Echo::default())));
        client
            .invoke(&addr.to_string(), WAIT, |out, opaque| {
                FrameWriter::request(out, Encoding::Json, CALL_BACK, opaque, false).finish()
            })
            .await
            .unwrap()
    });
    assert_eq!(answer.body(), b"from server");
}

#[test]
fn broken_frames_close_only_their_own_connection() {
    let (_server, service, addr) = start(Limits::default());
    let mut good = connect(addr);
    let json = |header: &[u8]| {
        let mut frame = (4 + header.len() as u32).to_be_bytes().to_vec();
        frame.extend((header.len() as u32).to_be_bytes());
        frame.extend_from_slice(header);
        frame
    };
    let cases = [
        vec![0xFF; 64],
        vec![0, 0, 0, 8, 7, 0, 0, 4, 0, 0, 0, 0],
        vec![0, 0, 0, 8, 0, 0, 0, 200, 0, 0, 0, 0],
        vec![0, 0, 0, 8, 1, 0, 0, 4, 0, 0, 0, 0],
        json(b"{\"code\":"),
        json(b"not json at all"),
        json(b"{\"code\":1,\"extFields\":{\"a\":"),
    ];
    for case in &cases {
        let mut bad = connect(addr);
        bad.write_all(case).unwrap();
        assert!(closed_by_server(&mut bad), "{case:?}");
    }
    good.write_all(&request(ECHO, 5, b"still here")).unwrap();
    assert_eq!(read_frame(&mut good).body(), b"still here");
    eventually("every broken connection is reported as closed", || {
        service.closed.load(Ordering::SeqCst) == cases.len()
    });
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

#[test]
fn a_port_in_use_is_a_clear_error() {
    let (_server, _, addr) = start(Limits::default());
    let error = Server::start(ServerConfig::new(vec![addr]), Arc::new(Echo::default())).unwrap_err().to_string();
    assert!(error.contains(&addr.to_string()) && error.contains("in use"), "{error}");
}

#[test]
fn shutdown_sends_new_clients_away_and_closes_everything() {
    let (server, service, addr) = start(Limits::default());
    let mut socket = connect(addr);
    socket.write_all(&request(ECHO, 1, b"before")).unwrap();
    assert_eq!(read_frame(&mut socket).head().code, 0);
    // While this answer cannot be written, the server drains.
    let mut stuck = connect(addr);
    stuck.write_all(&request(ECHO, 2, &vec![1; 12 << 20])).unwrap();
    eventually("served", || service.served.load(Ordering::SeqCst) == 2);
    let stopping = std::thread::spawn(move || server.shutdown(WAIT));
    let end = Instant::now() + WAIT;
    loop {
        socket.write_all(&request(ECHO, 3, b"after")).unwrap();
        let answer = read_frame(&mut socket);
        if answer.head().code == response::GO_AWAY {
            break;
        }
        assert!(Instant::now() < end, "never sent away");
    }
    assert_eq!(read_frame(&mut stuck).body().len(), 12 << 20, "what was accepted is answered");
    stopping.join().unwrap();
    assert!(closed_by_server(&mut socket));
}

#[test]
fn a_client_reconnects_and_its_waiting_calls_fail_at_once() {
    let (server, _, addr) = start(Limits::default());
    runtime().block_on(async {
        let client = Client::new(ClientConfig::default(), None);
        let name = addr.to_string();
        let echo =
            |out: &mut Vec<u8>, opaque: i32| FrameWriter::request(out, Encoding::Json, ECHO, opaque, false).finish();
        client.invoke(&name, WAIT, echo).await.unwrap();
        let first = client.connection(&name).await.unwrap();
        first.close();
        assert_eq!(first.invoke(WAIT, echo).await.unwrap_err(), InvokeError::Push(ferromq_remoting::PushError::Closed));
        client.invoke(&name, WAIT, echo).await.unwrap();
        assert_ne!(client.connection(&name).await.unwrap().id(), first.id());
        tokio::task::spawn_blocking(move || server.shutdown(Duration::ZERO)).await.unwrap();
        let error = client.invoke(&name, WAIT, echo).await.unwrap_err();
        assert!(matches!(error, InvokeError::Closed | InvokeError::Push(_) | InvokeError::Connect { .. }), "{error}");
    });
}
