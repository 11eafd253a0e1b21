//! Server, client and connection over real sockets on the loopback interface.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod echo;

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use ferromq_protocol::code::response;
use ferromq_protocol::{Encoding, FrameWriter};
use ferromq_remoting::{Client, ClientConfig, InvokeError, Limits, PushError, Server, ServerConfig};

use crate::echo::*;

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
    let mut stuck = connect_narrow(addr);
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
        assert_eq!(first.invoke(WAIT, echo).await.unwrap_err(), InvokeError::Push(PushError::Closed));
        client.invoke(&name, WAIT, echo).await.unwrap();
        assert_ne!(client.connection(&name).await.unwrap().id(), first.id());
        tokio::task::spawn_blocking(move || server.shutdown(Duration::ZERO)).await.unwrap();
        let error = client.invoke(&name, WAIT, echo).await.unwrap_err();
        assert!(matches!(error, InvokeError::Closed | InvokeError::Push(_) | InvokeError::Connect { .. }), "{error}");
    });
}

#[test]
fn a_service_may_stop_early_and_gets_the_rest_later() {
    let (_server, service, addr) = start(Limits::default());
    let mut socket = connect(addr);
    // Larger answers than the service wants in one go.
    let bodies: Vec<Vec<u8>> = (0..10u8).map(|n| vec![n; 1 << 20]).collect();
    let all: Vec<u8> = bodies.iter().enumerate().flat_map(|(n, body)| request(ECHO, n as i32, body)).collect();
    let mut writer = socket.try_clone().unwrap();
    let writing = std::thread::spawn(move || writer.write_all(&all));
    for (n, body) in bodies.iter().enumerate() {
        let answer = read_frame(&mut socket);
        assert_eq!((answer.head().opaque, answer.body() == body), (n as i32, true));
    }
    writing.join().unwrap().unwrap();
    // More small requests than one batch takes: nothing is lost, nothing comes twice.
    let all: Vec<u8> = (0..5_000).flat_map(|n| request(ECHO, n, &[1; 200])).collect();
    socket.write_all(&all).unwrap();
    for n in 0..5_000 {
        assert_eq!(read_frame(&mut socket).head().opaque, n);
    }
    assert!(service.after_answers.load(Ordering::SeqCst) > 1);
}

#[test]
fn what_was_served_before_a_broken_frame_is_answered() {
    let (_server, _, addr) = start(Limits::default());
    let mut socket = connect(addr);
    let mut bytes = request(ECHO, 1, b"good");
    bytes.extend([0xFF; 16]);
    socket.write_all(&bytes).unwrap();
    assert_eq!(read_frame(&mut socket).body(), b"good");
    assert!(closed_by_server(&mut socket));
}

#[test]
fn a_panic_of_the_service_ends_only_its_connection() {
    let (server, service, addr) = start(Limits::default());
    let mut good = connect(addr);
    let mut bad = connect(addr);
    bad.write_all(&request(PANIC, 1, b"")).unwrap();
    assert!(closed_by_server(&mut bad));
    eventually("the connection is forgotten", || {
        server.connections() == 1 && service.closed.load(Ordering::SeqCst) == 1
    });
    good.write_all(&request(ECHO, 2, b"still here")).unwrap();
    assert_eq!(read_frame(&mut good).body(), b"still here");
}

/// More connections than one drain writes to itself, on two reactors: some are written to by the serving thread, some
/// through the mailbox of their own.
#[test]
fn pushes_made_while_serving_reach_every_connection_in_order() {
    let (_server, service, addr) = start(Limits::default());
    let mut listeners: Vec<TcpStream> = (0..50).map(|_| connect(addr)).collect();
    for socket in &mut listeners {
        socket.write_all(&request(JOIN, 1, b"")).unwrap();
        assert_eq!(read_frame(socket).head().code, 0);
    }
    let mut teller = connect(addr);
    for n in 0..100u32 {
        teller.write_all(&request(TELL_ALL, n as i32, &n.to_be_bytes())).unwrap();
    }
    for _ in 0..100 {
        assert_eq!(read_frame(&mut teller).head().code, 0);
    }
    for socket in &mut listeners {
        for n in 0..100u32 {
            assert_eq!(read_frame(socket).body(), n.to_be_bytes());
        }
    }
    assert_eq!(service.joined.lock().len(), 50);
}

#[test]
fn pushes_of_many_threads_arrive_whole() {
    let (_server, service, addr) = start(Limits::default());
    let mut socket = connect(addr);
    socket.write_all(&request(JOIN, 1, b"")).unwrap();
    read_frame(&mut socket);
    let conn = service.joined.lock()[0].clone();
    let threads: Vec<_> = (0..8u8)
        .map(|thread| {
            let conn = conn.clone();
            std::thread::spawn(move || {
                for n in 0..500usize {
                    conn.push(|out| {
                        FrameWriter::request(out, Encoding::Json, ECHO, n as i32, true)
                            .finish_with_body(&vec![thread; n * 7]);
                    })
                    .unwrap();
                }
            })
        })
        .collect();
    let mut next = [0; 8];
    for _ in 0..8 * 500 {
        let frame = read_frame(&mut socket);
        let n = frame.head().opaque as usize;
        assert_eq!(frame.body().len(), n * 7);
        if let Some(&thread) = frame.body().first() {
            assert!(frame.body().iter().all(|byte| *byte == thread));
            assert!(n > next[usize::from(thread)], "each thread's frames keep their order");
            next[usize::from(thread)] = n;
        }
    }
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn callers_share_one_failed_attempt_to_connect() {
    // Listens, but nobody accepts and its queue is full: connecting takes until the time limit.
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    listener.listen(0).unwrap();
    let addr = listener.local_addr().unwrap().as_socket().unwrap();
    let _fills_the_queue = TcpStream::connect(addr).unwrap();
    runtime().block_on(async {
        let attempt = Duration::from_millis(400);
        let client = Client::new(ClientConfig { connect_timeout: attempt, ..ClientConfig::default() }, None);
        let from = Instant::now();
        let calls: Vec<_> = (0..10)
            .map(|_| {
                let client = client.clone();
                tokio::spawn(async move { client.invoke(&addr.to_string(), WAIT, |_, _| {}).await.unwrap_err() })
            })
            .collect();
        for call in calls {
            let error = call.await.unwrap();
            assert!(matches!(error, InvokeError::Connect { .. }), "{error}");
        }
        assert!(from.elapsed() < 10 * attempt, "{:?}", from.elapsed());
        // Who has less time does not wait for the end of the attempt.
        let client = Client::new(ClientConfig { connect_timeout: WAIT, ..ClientConfig::default() }, None);
        let error = client.invoke(&addr.to_string(), Duration::from_millis(50), |_, _| {}).await.unwrap_err();
        assert_eq!(error, InvokeError::Timeout(Duration::from_millis(50)));
    });
}

#[test]
fn a_call_times_out_and_its_late_answer_is_dropped() {
    let (_server, service, addr) = start(Limits { max_in_flight: 1, ..Limits::default() });
    runtime().block_on(async {
        let mut config = ClientConfig::default();
        config.limits.max_in_flight = 1;
        let client = Client::new(config, None);
        let name = addr.to_string();
        let ask = |code: i32| {
            move |out: &mut Vec<u8>, opaque: i32| {
                FrameWriter::request(out, Encoding::Json, code, opaque, false).finish();
            }
        };
        let conn = client.connection(&name).await.unwrap();
        // JOIN is answered at once; nothing answers a frame that was not sent.
        let silent = conn.invoke(Duration::from_millis(30), |_, _| {});
        let refused = conn.invoke(WAIT, ask(ECHO));
        let (silent, refused) = tokio::join!(silent, refused);
        assert_eq!(silent.unwrap_err(), InvokeError::Timeout(Duration::from_millis(30)));
        assert_eq!(refused.unwrap_err(), InvokeError::TooManyInFlight { limit: 1 });
        assert_eq!(conn.invoke(WAIT, ask(JOIN)).await.unwrap().head().code, 0);
        assert_eq!(service.joined.lock().len(), 1);
    });
}

#[test]
fn a_client_leaves_a_server_that_sends_it_away() {
    let (server, service, addr) = start(Limits::default());
    let runtime = runtime();
    let client = Client::new(ClientConfig::default(), None);
    let name = addr.to_string();
    let echo = |out: &mut Vec<u8>, opaque: i32| FrameWriter::request(out, Encoding::Json, ECHO, opaque, false).finish();
    runtime.block_on(client.invoke(&name, WAIT, echo)).unwrap();
    // An answer that cannot be written keeps the server from ending.
    let mut stuck = connect_narrow(addr);
    stuck.write_all(&request(ECHO, 2, &vec![1; 12 << 20])).unwrap();
    eventually("served", || service.served.load(Ordering::SeqCst) == 2);
    let stopping = std::thread::spawn(move || server.shutdown(WAIT));
    let first = runtime.block_on(client.connection(&name)).unwrap().id();
    eventually("sent away", || {
        runtime.block_on(client.invoke(&name, WAIT, echo)).unwrap().head().code == response::GO_AWAY
    });
    if let Ok(second) = runtime.block_on(client.connection(&name)) {
        assert_ne!(second.id(), first);
    }
    read_frame(&mut stuck);
    stopping.join().unwrap();
}

#[test]
fn a_push_may_push_itself_and_large_frames_keep_their_order() {
    let (_server, service, addr) = start(Limits::default());
    let mut socket = connect(addr);
    socket.write_all(&request(JOIN, 1, b"")).unwrap();
    read_frame(&mut socket);
    let conn = service.joined.lock()[0].clone();
    let frame = |out: &mut Vec<u8>, opaque: i32, len: usize| {
        FrameWriter::request(out, Encoding::Binary, ECHO, opaque, true).finish_with_body(&vec![opaque as u8; len]);
    };
    for n in 0..20 {
        conn.push(|out| {
            frame(out, 2 * n + 1, 100_000);
            conn.push(|out| frame(out, 2 * n, 10)).unwrap();
        })
        .unwrap();
    }
    for n in 0..40 {
        let got = read_frame(&mut socket);
        assert_eq!((got.head().opaque, got.body().len()), (n, if n % 2 == 0 { 10 } else { 100_000 }));
        assert!(got.body().iter().all(|byte| *byte == n as u8));
    }
}
