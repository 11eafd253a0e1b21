//! HTTP bodies that are not what their heads say.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::bench::{self, Bench};

/// Longest wait for what must come; a body that does not come is given up after thirty seconds.
const SOON: Duration = Duration::from_secs(90);

/// A connection that has begun to send a message of a topic: further lines of the head, and what there is of the body.
async fn begun(bench: &Bench, head: &str, body: &[u8]) -> TcpStream {
    let mut socket = TcpStream::connect(bench.http_addr()).await.unwrap();
    let head = format!("POST /v1/topics/Cut/messages HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{head}\r\n\r\n");
    socket.write_all(&[head.as_bytes(), body].concat()).await.unwrap();
    socket
}

/// What is answered until the connection ends.
async fn answer(mut socket: TcpStream) -> String {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(SOON, socket.read_to_end(&mut bytes)).await;
    // A reset that follows the answer is an end, too.
    drop(read.expect("the connection goes on"));
    String::from_utf8(bytes).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_do_not_come_are_given_up_refuse_nobody_else_and_store_nothing() {
    // Together they announce more than all bodies may take.
    const SILENT: usize = 80;
    let bench = bench::start_with(|config, _| config.http = Some("127.0.0.1:0".parse().unwrap()));
    bench.client("maker").await.send("Cut", b"makes the topic").await;
    let mut silent = Vec::new();
    for _ in 0..SILENT {
        silent.push(begun(&bench, "Content-Length: 4000000", b"begins").await);
    }
    silent.push(begun(&bench, "Transfer-Encoding: chunked", b"6\r\nbegins\r\n").await);
    let mut cut = begun(&bench, "Content-Length: 10", b"begins").await;
    cut.shutdown().await.unwrap();
    let cut = answer(cut).await;
    assert!(cut.is_empty() || cut.starts_with("HTTP/1.1 400 "), "{cut}");
    let whole = answer(begun(&bench, "Content-Length: 5", b"whole").await).await;
    assert!(whole.starts_with("HTTP/1.1 201 ") && whole.contains(r#""queueOffset":1"#), "{whole}");
    for socket in silent {
        let given_up = answer(socket).await;
        assert!(given_up.starts_with("HTTP/1.1 408 "), "{given_up}");
    }
    let chunks = b"1\r\nc\r\n1\r\nh\r\n6\r\nunked!\r\n0\r\n\r\n";
    let whole = answer(begun(&bench, "Transfer-Encoding: chunked", chunks).await).await;
    assert!(whole.starts_with("HTTP/1.1 201 ") && whole.contains(r#""queueOffset":2"#), "{whole}");
}
