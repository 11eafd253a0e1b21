//! Clients that take what they can get.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Code;

use crate::bench::{self, framed, message, resource};
use crate::pb::{
    ClientType, Publishing, QueryRouteRequest, QueryRouteResponse, ReceiveMessageRequest, ReceiveMessageResponse,
    SendMessageRequest, Settings, TelemetryCommand, receive_message_response, settings, telemetry_command,
};

/// Longest wait for what must come; a request that is not whole is given up a little later by itself.
const SOON: Duration = Duration::from_secs(25);

/// Whether the other end closes a connection, without ever having said anything.
async fn is_closed(socket: &mut TcpStream, within: Duration) -> bool {
    let mut byte = [0];
    matches!(tokio::time::timeout(within, socket.read(&mut byte)).await, Ok(Ok(0) | Err(_)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_has_its_place_until_it_ends() {
    let bench = bench::start_with(|config, _| config.max_connections = 2);
    let asked = || QueryRouteRequest { topic: resource("Places"), endpoints: None };
    let [first, second] = [bench.client("first").await, bench.client("second").await];
    for client in [&first, &second] {
        client.call::<_, QueryRouteResponse>("QueryRoute", asked()).await.unwrap();
    }
    let mut third = TcpStream::connect(bench.addr()).await.unwrap();
    assert!(
        is_closed(&mut third, Duration::from_secs(20)).await,
        "both places are taken by connections that are served"
    );

    drop(second);
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let mut next = TcpStream::connect(bench.addr()).await.unwrap();
        if !is_closed(&mut next, Duration::from_millis(200)).await {
            break;
        }
        assert!(Instant::now() < deadline, "the place of a connection that has ended is not free");
    }
    first.call::<_, QueryRouteResponse>("QueryRoute", asked()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn half_open_connections_hold_up_nobody_and_are_closed() {
    const HALF_OPEN: usize = 1000;
    let bench = bench::start();
    let mut silent = Vec::new();
    for number in 0..HALF_OPEN {
        let mut socket = TcpStream::connect(bench.addr()).await.unwrap();
        // Nothing, the beginning of TLS, the beginning of HTTP/2.
        let said: &[u8] = [&b""[..], &[22, 3], b"PRI * "][number % 3];
        socket.write_all(said).await.unwrap();
        silent.push(socket);
    }
    let client = bench.client("patient").await;
    client.send("HalfOpen", b"served meanwhile").await;
    for socket in &mut silent {
        assert!(is_closed(socket, Duration::from_secs(60)).await);
    }
    client.send("HalfOpen", b"and afterwards").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_beyond_the_limit_is_refused_by_its_length_alone() {
    let bench = bench::start_with(|config, _| config.max_inbound_bytes = 8 * 1024 * 1024);
    let (mut calls, connection) = h2::client::handshake(TcpStream::connect(bench.addr()).await.unwrap()).await.unwrap();
    tokio::spawn(connection);
    let request =
        tonic::codegen::http::Request::post("http://localhost/apache.rocketmq.v2.MessagingService/SendMessage")
            .header("content-type", "application/grpc")
            .header("x-mq-client-id", "large")
            .body(())
            .unwrap();
    let (answer, mut body) = calls.send_request(request, false).unwrap();
    let length = (8 * 1024 * 1024 + 1u32).to_be_bytes();
    body.send_data([&[0][..], &length].concat().into(), false).unwrap();
    let answer = answer.await.unwrap();
    let status = answer.headers().get("grpc-status").unwrap();
    assert_eq!(status, (Code::ResourceExhausted as i32).to_string().as_str(), "{answer:?}");

    // What the proxy lets in, the broker may still find too large.
    let client = bench.client("large").await;
    let large = vec![b'x'; 5 * 1024 * 1024];
    let answer: crate::pb::SendMessageResponse =
        client.call("SendMessage", SendMessageRequest { messages: vec![message("Large", &large)] }).await.unwrap();
    assert_eq!(answer.status.unwrap().code(), crate::pb::Code::MessageBodyTooLarge);
}

async fn receive_over(
    calls: &h2::client::SendRequest<bytes::Bytes>,
    asked: &ReceiveMessageRequest,
) -> h2::client::ResponseFuture {
    let (answer, mut request) = bench::call_over(calls, "ReceiveMessage", "60S", framed(asked)).await;
    request.send_data(bytes::Bytes::new(), true).unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_are_never_read_cost_others_nothing() {
    const STREAMS: usize = 200;
    let bench = bench::start();
    let client = bench.client("reader").await;
    for _ in 0..STREAMS {
        client.send("Unread", &[b'x'; 10_000]).await;
    }
    let socket = TcpStream::connect(bench.addr()).await.unwrap();
    let (calls, connection) =
        h2::client::Builder::new().initial_window_size(0).handshake::<_, bytes::Bytes>(socket).await.unwrap();
    tokio::spawn(connection);
    let asked = ReceiveMessageRequest {
        group: resource("unread"),
        message_queue: Some(crate::pb::MessageQueue { topic: resource("Unread"), ..Default::default() }),
        batch_size: 32,
        invisible_duration: Some(prost_types::Duration { seconds: 10, nanos: 0 }),
        ..ReceiveMessageRequest::default()
    };
    let mut answers = Vec::new();
    for _ in 0..STREAMS {
        answers.push(receive_over(&calls, &asked).await);
    }
    client.send("Unread", b"served meanwhile").await;
    client
        .call::<_, QueryRouteResponse>("QueryRoute", QueryRouteRequest { topic: resource("Unread"), endpoints: None })
        .await
        .unwrap();
    drop(answers);
    client.send("Unread", b"and afterwards").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_answers_takes_no_further_messages() {
    // A connection may leave 64 MiB unread.
    const BODY: usize = 4_000_000;
    const UNREAD: usize = 17;
    let bench = bench::start_with(|config, _| config.http = Some("127.0.0.1:0".parse().unwrap()));
    bench.client("sender").await.send("Full", &vec![b'x'; BODY]).await;
    let socket = TcpStream::connect(bench.addr()).await.unwrap();
    let (calls, connection) = h2::client::handshake(socket).await.unwrap();
    tokio::spawn(connection);
    // Each group is new, and gets the topic's last message.
    let asked = |group: &str| ReceiveMessageRequest {
        group: resource(group),
        message_queue: Some(crate::pb::MessageQueue { topic: resource("Full"), ..Default::default() }),
        batch_size: 1,
        invisible_duration: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
        ..ReceiveMessageRequest::default()
    };
    let mut unread = Vec::new();
    for number in 0..UNREAD {
        unread.push(receive_over(&calls, &asked(&format!("unread-{number}"))).await.await.unwrap());
    }
    // It does not read this answer either; the code of it is counted.
    unread.push(receive_over(&calls, &asked("next")).await.await.unwrap());
    let figures = bench::figures(bench.http_addr()).await;
    let is_refused = |line: &str| line.contains(r#"response_code="too_many_requests""#) && line.ends_with("} 1");
    assert!(figures.lines().any(is_refused), "{figures}");

    let reader = bench.client("reader").await;
    let mut pieces = reader.stream::<_, ReceiveMessageResponse>("ReceiveMessage", asked("next")).await.unwrap();
    let mut attempts = Vec::new();
    while let Some(piece) = pieces.message().await.unwrap() {
        if let Some(receive_message_response::Content::Message(message)) = piece.content {
            attempts.push(message.system_properties.unwrap().delivery_attempt);
        }
    }
    assert_eq!(attempts, [Some(1)], "the message was taken from the queue before");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_end_at_their_deadline_though_the_client_does_not_end_them() {
    let bench = bench::start();
    let settings = settings::PubSub::Publishing(Publishing::default());
    let settings =
        Settings { client_type: Some(ClientType::Producer.into()), pub_sub: Some(settings), ..Settings::default() };
    let talk = TelemetryCommand { status: None, command: Some(telemetry_command::Command::Settings(settings)) };
    // A request that never becomes whole, and a conversation that goes on.
    for (name, said) in [("SendMessage", vec![0, 0, 0, 0, 9, 1]), ("Telemetry", framed(&talk))] {
        let (answer, _body) = bench::call_by_hand(bench.addr(), name, "700m", said).await;
        let status = tokio::time::timeout(SOON, bench::status_of(answer)).await.expect("the call goes on");
        assert!(status.starts_with("4 ") && status.contains("700ms"), "{name}: {status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_waits_is_answered_before_its_deadline() {
    // On a machine that stands still at the wrong moment one answer may be late, not all of them.
    const TRIES: usize = 5;
    let bench = bench::start();
    let client = bench.client("waiter").await;
    client.send("Deadline", b"x").await;
    // Both say five seconds, as the official Rust client does.
    let time = Duration::from_secs(5);
    let asked = ReceiveMessageRequest {
        group: resource("deadlines"),
        message_queue: Some(crate::pb::MessageQueue { topic: resource("Deadline"), ..Default::default() }),
        batch_size: 1,
        invisible_duration: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
        long_polling_timeout: Some(prost_types::Duration { seconds: 5, nanos: 0 }),
        ..ReceiveMessageRequest::default()
    };
    let mut first = client.stream::<_, ReceiveMessageResponse>("ReceiveMessage", asked.clone()).await.unwrap();
    let status = first.message().await.unwrap().unwrap().content;
    let is_ok = |status: &crate::pb::Status| status.code() == crate::pb::Code::Ok;
    assert!(matches!(&status, Some(receive_message_response::Content::Status(status)) if is_ok(status)), "{status:?}");
    // An answer that is not read is given back.
    while first.message().await.unwrap().is_some() {}
    let mut codes = Vec::new();
    while !codes.contains(&Ok(crate::pb::Code::MessageNotFound)) {
        assert!(codes.len() < TRIES, "none of the answers to calls that waited was in time: {codes:?}");
        codes.push(match client.stream_within(time, "ReceiveMessage", asked.clone()).await {
            Err(late) => Err(late.code()),
            Ok(mut pieces) => {
                match pieces.message().await.map(|piece: Option<ReceiveMessageResponse>| piece.unwrap().content) {
                    Ok(Some(receive_message_response::Content::Status(status))) => Ok(status.code()),
                    Ok(other) => panic!("{other:?}"),
                    Err(late) => Err(late.code()),
                }
            }
        });
    }
}
