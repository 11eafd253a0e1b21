//! Questions of a tool, asked of the broker, answered by a gRPC client over its telemetry stream.

use std::time::Duration;

use ferromq_protocol::code::{request, response};
use ferromq_protocol::{Encoding, FrameWriter, OwnedCommand, json};
use ferromq_remoting::ClientConfig;

use crate::bench::{self, Bench, Client, resource};
use crate::pb::telemetry_command::Command;
use crate::pb::*;

const GROUP: &str = "asked";

fn settings() -> Settings {
    let entry = SubscriptionEntry { topic: resource("Asked"), expression: None };
    let subscription = Subscription { group: resource(GROUP), subscriptions: vec![entry], ..Subscription::default() };
    Settings {
        client_type: Some(ClientType::PushConsumer.into()),
        pub_sub: Some(settings::PubSub::Subscription(subscription)),
        ..Settings::default()
    }
}

/// One request of a tool, with these fields.
async fn tool(bench: &Bench, code: i32, fields: &[(&str, &str)]) -> OwnedCommand {
    let client = ferromq_remoting::Client::new(ClientConfig::default(), None);
    client
        .invoke(&bench.broker_addr(), Duration::from_secs(20), |out, opaque| {
            let mut frame = FrameWriter::request(out, Encoding::Json, code, opaque, false);
            for (key, value) in fields {
                frame.str(key, value);
            }
            frame.finish();
        })
        .await
        .unwrap()
}

async fn stored(client: &Client) -> String {
    client.send("Asked", b"handle me").await;
    let asked = ReceiveMessageRequest {
        group: resource("finder"),
        message_queue: Some(MessageQueue { topic: resource("Asked"), ..MessageQueue::default() }),
        batch_size: 1,
        invisible_duration: Some(prost_types::Duration { seconds: 10, nanos: 0 }),
        ..ReceiveMessageRequest::default()
    };
    let mut pieces = client.stream::<_, ReceiveMessageResponse>("ReceiveMessage", asked).await.unwrap();
    while let Some(piece) = pieces.message().await.unwrap() {
        if let Some(receive_message_response::Content::Message(message)) = piece.content {
            let properties = message.system_properties.unwrap();
            let position = properties.receipt_handle.unwrap().split(' ').nth(8).unwrap().parse().unwrap();
            return ferromq_protocol::id::offset_message_id(properties.store_host.parse().unwrap(), position);
        }
    }
    panic!("the message is not there");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_handles_a_message_that_a_tool_sends_it() {
    let bench = bench::start();
    let client = bench.client("asked-client").await;
    let id = stored(&client).await;
    let (say, mut heard) = client.talk(settings()).await.unwrap();
    let fields = [("consumerGroup", GROUP), ("clientId", "asked-client"), ("msgId", &*id), ("topic", "Asked")];
    let answering = async {
        let Some(Command::VerifyMessageCommand(asked)) = heard.message().await.unwrap().unwrap().command else {
            panic!("another command");
        };
        assert_eq!(asked.message.unwrap().body.as_ref(), b"handle me");
        let status = Status { code: Code::FailedToConsumeMessage.into(), message: "not now".into() };
        let result = VerifyMessageResult { nonce: asked.nonce };
        let told = TelemetryCommand { status: Some(status), command: Some(Command::VerifyMessageResult(result)) };
        say.send(told).await.unwrap();
    };
    let (answer, ()) = tokio::join!(tool(&bench, request::CONSUME_MESSAGE_DIRECTLY, &fields), answering);
    assert_eq!(answer.head().code, response::SUCCESS, "{}", answer.remark_lossy());
    let result: ferromq_protocol::body::ConsumeMessageDirectlyResult = json::from_slice(answer.command().body).unwrap();
    assert_eq!(result.consume_result, Some(ferromq_protocol::body::CmResult::CrLater));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_tells_a_tool_its_stacks() {
    let bench = bench::start();
    let client = bench.client("asked-client").await;
    let (say, mut heard) = client.talk(settings()).await.unwrap();
    let fields = [("consumerGroup", GROUP), ("clientId", "asked-client"), ("jstackEnable", "true")];
    let answering = async {
        let Some(Command::PrintThreadStackTraceCommand(asked)) = heard.message().await.unwrap().unwrap().command else {
            panic!("another command");
        };
        let trace = ThreadStackTrace { nonce: asked.nonce, thread_stack_trace: Some("at the coffee machine".into()) };
        let status = Some(Status { code: Code::Ok.into(), message: String::new() });
        say.send(TelemetryCommand { status, command: Some(Command::ThreadStackTrace(trace)) }).await.unwrap();
    };
    let (answer, ()) = tokio::join!(tool(&bench, request::GET_CONSUMER_RUNNING_INFO, &fields), answering);
    assert_eq!(answer.head().code, response::SUCCESS, "{}", answer.remark_lossy());
    let info: ferromq_protocol::body::ConsumerRunningInfo = json::from_slice(answer.command().body).unwrap();
    assert_eq!(info.jstack.as_deref(), Some("at the coffee machine"));
    assert!(info.subscription_set.iter().any(|subscription| subscription.topic == "Asked"));

    // What is known without asking is told at once.
    let answer = tool(&bench, request::GET_CONSUMER_RUNNING_INFO, &fields[..2]).await;
    assert_eq!(answer.head().code, response::SUCCESS, "{}", answer.remark_lossy());
    // A client that has hung up cannot be asked, and the tool need not wait.
    drop((say, heard));
    let answer = loop {
        let answer =
            tokio::time::timeout(Duration::from_secs(5), tool(&bench, request::GET_CONSUMER_RUNNING_INFO, &fields))
                .await;
        if let Ok(answer) = answer {
            break answer;
        }
    };
    assert_eq!(answer.head().code, response::SYSTEM_ERROR);
}
