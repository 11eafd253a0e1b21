//! A server that echoes, and what the tests of this folder need to talk to it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(dead_code, reason = "each test file uses its part")]

use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ferromq_protocol::code::response;
use ferromq_protocol::{Encoding, FrameWriter, Head, OwnedCommand};
use ferromq_remoting::{Connection, Limits, Requests, Server, ServerConfig, Service};
use parking_lot::Mutex;

pub const ECHO: i32 = 9001;
pub const LATER: i32 = 9002;
pub const CALL_BACK: i32 = 9003;
/// Joins the connections that TELL_ALL pushes its body to, while it is being served.
pub const JOIN: i32 = 9004;
pub const TELL_ALL: i32 = 9005;
/// The service panics.
pub const PANIC: i32 = 9006;
/// Answered with 20 KiB.
pub const LARGE: i32 = 9007;
/// The service holds its thread until the test lets go of [`Echo::hold`]; answered at the end of the turn.
pub const HOLD: i32 = 9008;
/// Answered at the end of the turn.
pub const AT_TURNS_END: i32 = 9009;
/// The service stops taking requests when its answers are this large.
pub const LARGE_OUT: usize = 4 << 20;
/// Longest wait for what must come.
pub const WAIT: Duration = Duration::from_secs(30);

/// Echoes bodies; LATER is answered by a push from another thread; CALL_BACK calls the client first.
#[derive(Default)]
pub struct Echo {
    pub served: AtomicUsize,
    pub closed: AtomicUsize,
    pub largest_drain: AtomicUsize,
    pub after_answers: AtomicUsize,
    pub hold: Mutex<()>,
    /// Requests answered by each turn that answered any.
    pub turns: Mutex<Vec<usize>>,
    kept: Mutex<Vec<(Arc<Connection>, Head)>>,
    pub joined: Mutex<Vec<Arc<Connection>>>,
    pub runtime: Mutex<Option<tokio::runtime::Handle>>,
}

impl Service for Echo {
    fn serve(&self, conn: &Arc<Connection>, requests: &mut Requests<'_>, out: &mut Vec<u8>) {
        let mut drain = 0;
        while out.len() < LARGE_OUT {
            let Some(request) = requests.next() else { break };
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
                LARGE => FrameWriter::response(out, &head, response::SUCCESS).finish_with_body(&[7; 20 << 10]),
                PANIC => panic!("asked for by a test"),
                TELL_ALL => {
                    for other in self.joined.lock().iter() {
                        // One that has left is not told.
                        let _ = other.push(|out| {
                            FrameWriter::request(out, Encoding::Binary, TELL_ALL, 0, true).finish_with_body(&body);
                        });
                    }
                    FrameWriter::response(out, &head, response::SUCCESS).finish();
                }
                HOLD | AT_TURNS_END => {
                    if head.code == HOLD {
                        drop(self.hold.lock());
                    }
                    self.kept.lock().push((conn, head));
                }
                JOIN => {
                    self.joined.lock().push(conn.clone());
                    FrameWriter::response(out, &head, response::SUCCESS).finish();
                }
                _ => FrameWriter::response(out, &head, response::SUCCESS).finish_with_body(&body),
            }
        }
        self.largest_drain.fetch_max(drain, Ordering::SeqCst);
    }

    fn end_turn(&self) {
        let kept = std::mem::take(&mut *self.kept.lock());
        if !kept.is_empty() {
            self.turns.lock().push(kept.len());
        }
        for (conn, head) in kept {
            // One that was broken is closed by now.
            let _ = conn.push(|out| FrameWriter::response(out, &head, response::SUCCESS).finish());
        }
    }

    fn after_answers(&self) {
        self.after_answers.fetch_add(1, Ordering::SeqCst);
    }

    fn on_close(&self, _conn: &Arc<Connection>) {
        self.closed.fetch_add(1, Ordering::SeqCst);
    }
}

pub fn start(limits: Limits) -> (Server, Arc<Echo>, SocketAddr) {
    start_with(2, limits)
}

pub fn start_with(reactors: usize, limits: Limits) -> (Server, Arc<Echo>, SocketAddr) {
    let service = Arc::new(Echo::default());
    let mut config = ServerConfig::new(vec!["127.0.0.1:0".parse().unwrap()]);
    config.reactors = reactors;
    config.limits = limits;
    let server = Server::start(config, service.clone()).unwrap();
    let addr = server.local_addrs()[0];
    (server, service, addr)
}

pub fn request(code: i32, opaque: i32, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    FrameWriter::request(&mut out, Encoding::Binary, code, opaque, false).finish_with_body(body);
    out
}

pub fn connect(addr: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(addr).unwrap();
    socket.set_read_timeout(Some(WAIT)).unwrap();
    socket
}

/// Connects with a small window, so that the kernel does not take in all that the peer does not read.
pub fn connect_narrow(addr: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(16 << 10).unwrap();
    socket.connect(&addr.into()).unwrap();
    let socket = TcpStream::from(socket);
    socket.set_read_timeout(Some(WAIT)).unwrap();
    socket
}

pub fn read_frame(socket: &mut TcpStream) -> OwnedCommand {
    let mut frame = vec![0; 4];
    socket.read_exact(&mut frame).unwrap();
    let len = u32::from_be_bytes(frame[..4].try_into().unwrap()) as usize;
    frame.resize(4 + len, 0);
    socket.read_exact(&mut frame[4..]).unwrap();
    OwnedCommand::from_frame_bytes(frame).unwrap()
}

/// Waits for the end of the stream, as the server's close.
pub fn closed_by_server(socket: &mut TcpStream) -> bool {
    match socket.read(&mut [0; 1]) {
        Ok(got) => got == 0,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + WAIT;
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        std::thread::yield_now();
    }
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}
