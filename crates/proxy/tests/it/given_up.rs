//! Calls that their client gives up.

use std::time::{Duration, Instant};

use ferromq_protocol::code::request;
use tokio::net::TcpStream;

use crate::bench::{self, Bench, Client, resource};
use crate::pb::{
    ClientType, MessageQueue, Publishing, ReceiveMessageRequest, ReceiveMessageResponse, Settings,
    receive_message_response, settings,
};
use crate::wire::Wire;

/// Longest wait for what must come.
const SOON: Duration = Duration::from_secs(30);
const TOPIC: &str = "GivenUp";
const GROUP: &str = "leavers";

fn asked() -> ReceiveMessageRequest {
    ReceiveMessageRequest {
        group: resource(GROUP),
        message_queue: Some(MessageQueue { topic: resource(TOPIC), ..MessageQueue::default() }),
        batch_size: 1,
        invisible_duration: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
        long_polling_timeout: Some(prost_types::Duration { seconds: 20, nanos: 0 }),
        ..ReceiveMessageRequest::default()
    }
}

async fn receive(client: Client) -> Vec<receive_message_response::Content> {
    let mut pieces = client.stream::<_, ReceiveMessageResponse>("ReceiveMessage", asked()).await.unwrap();
    let mut all = Vec::new();
    while let Some(piece) = pieces.message().await.unwrap() {
        all.extend(piece.content);
    }
    all
}

/// Waits until so many pops wait at the broker.
async fn waiting_at_the_broker(bench: &Bench, count: &str) {
    let mut wire = Wire::over(TcpStream::connect(bench.broker_addr()).await.unwrap());
    let fields = [("consumerGroup", GROUP), ("topic", TOPIC), ("queueId", "-1")];
    let deadline = Instant::now() + SOON;
    loop {
        let answer = wire.ask(request::POLLING_INFO, &fields, b"").await;
        let waiting = answer.command().fields.opt_str("pollingNum").map(|number| number.into_owned());
        if waiting.as_deref() == Some(count) {
            return;
        }
        assert!(Instant::now() < deadline, "{waiting:?} pops wait, not {count}: {}", answer.remark_lossy());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Nobody takes a message from this client.
async fn send_and_receive(client: Client) {
    client.send(TOPIC, b"for anybody").await;
    let pieces = receive(client).await;
    let is_it = |piece: &receive_message_response::Content| matches!(piece, receive_message_response::Content::Message(message) if &message.body[..] == b"for anybody");
    assert!(pieces.iter().any(is_it), "{pieces:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_streams_takes_calls_back_and_lets_nobody_in() {
    let mut bench = bench::start();
    let client = bench.client("talker").await;
    client.send(TOPIC, b"makes the topic").await;
    receive(client.clone()).await;
    let settings = Settings {
        client_type: Some(ClientType::Producer.into()),
        pub_sub: Some(settings::PubSub::Publishing(Publishing::default())),
        ..Settings::default()
    };
    let (_say, mut heard) = client.talk(settings).await.unwrap();
    let addr = bench.addr();
    let (_answer, mut request) = bench::call_by_hand(addr, "ReceiveMessage", "60S", bench::framed(&asked())).await;
    request.send_data(bytes::Bytes::new(), true).unwrap();
    waiting_at_the_broker(&bench, "1").await;

    let stopping = bench.stop_proxy();
    let end = tokio::time::timeout(SOON, heard.message()).await.expect("the stream goes on");
    assert!(end.unwrap().is_none(), "it ends as one that is over");
    waiting_at_the_broker(&bench, "0").await;
    stopping.await.unwrap();
    assert!(TcpStream::connect(addr).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_given_up_waits_no_longer_at_the_broker_and_is_counted() {
    let bench = bench::start_with(|config, _| config.http = Some("127.0.0.1:0".parse().unwrap()));
    let [leaver, stayer] = [bench.client("leaver").await, bench.client("stayer").await];
    stayer.send(TOPIC, b"makes the topic").await;
    receive(stayer.clone()).await;

    // One is cancelled, the other's connection goes.
    let cancelled = tokio::spawn(receive(leaver.clone()));
    let cut = tokio::spawn(receive(bench.client("lost").await));
    waiting_at_the_broker(&bench, "2").await;
    cancelled.abort();
    waiting_at_the_broker(&bench, "1").await;
    cut.abort();
    waiting_at_the_broker(&bench, "0").await;

    send_and_receive(stayer).await;

    let deadline = Instant::now() + SOON;
    loop {
        let figures = bench::figures(bench.http_addr()).await;
        let is_count = |line: &str| {
            line.starts_with("rocketmq_rpc_latency_milliseconds_count{")
                && line.contains(r#"request_code="receive_message""#)
                && line.contains(r#"result="cancelled""#)
                && line.ends_with("} 2")
        };
        if figures.lines().any(is_count) {
            return;
        }
        assert!(Instant::now() < deadline, "two cancelled calls are not in\n{figures}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
