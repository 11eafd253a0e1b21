//! A small client of the gRPC protocol that costs little: what is measured is the server.

use crate::pb::{
    AckMessageEntry, AckMessageRequest, AckMessageResponse, ClientType, HeartbeatRequest, HeartbeatResponse, Message,
    MessageQueue, MessageType, QueryRouteRequest, QueryRouteResponse, ReceiveMessageRequest, ReceiveMessageResponse,
    Resource, SendMessageRequest, SendMessageResponse, Settings, Subscription, SubscriptionEntry, SystemProperties,
    TelemetryCommand, receive_message_response::Content, settings::PubSub, telemetry_command::Command,
};
use crate::pb::{Encoding, FilterExpression, FilterType, Language, Publishing, Ua};
use ferromq_contract::Outcome;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc::Sender;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Streaming};
use tonic_prost::ProstCodec;

/// The code of success.
const OK: i32 = 20_000;
/// How long a call may take.
const TIMEOUT: Duration = Duration::from_secs(40);
/// How long a received message stays invisible.
const INVISIBLE: Duration = Duration::from_secs(120);

/// One connection of one client.
#[derive(Clone)]
pub struct Client {
    grpc: Grpc<Channel>,
    id: String,
}

/// A telemetry stream; the other side takes its end as the client's.
pub struct Session {
    _say: Sender<TelemetryCommand>,
    _heard: Streaming<TelemetryCommand>,
}

/// A received message: what its acknowledgement needs, and its body.
pub struct Received {
    pub entry: AckMessageEntry,
    pub body: Vec<u8>,
}

impl Client {
    pub async fn connect(addr: &str, id: String) -> Outcome<Client> {
        let endpoint = Endpoint::from_shared(format!("http://{addr}")).map_err(|e| e.to_string())?;
        let channel = endpoint.tcp_nodelay(true).connect().await.map_err(|e| format!("connecting to {addr}: {e}"))?;
        Ok(Client { grpc: Grpc::new(channel), id })
    }

    fn request<T>(&self, message: T) -> Outcome<Request<T>> {
        let mut request = Request::new(message);
        let id = MetadataValue::try_from(&self.id).map_err(|e| e.to_string())?;
        let metadata = request.metadata_mut();
        metadata.insert("x-mq-client-id", id);
        for (key, value) in [("x-mq-language", "RUST"), ("x-mq-client-version", "5.0.0"), ("x-mq-protocol", "v2")] {
            metadata.insert(key, MetadataValue::from_static(value));
        }
        request.set_timeout(TIMEOUT);
        Ok(request)
    }

    async fn call<Q, A>(&self, name: &'static str, message: Q) -> Outcome<A>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let mut grpc = self.grpc.clone();
        grpc.ready().await.map_err(|e| format!("{name}: {e}"))?;
        let answer = grpc.unary(self.request(message)?, path(name)?, ProstCodec::<Q, A>::default()).await;
        Ok(answer.map_err(|e| format!("{name}: {e}"))?.into_inner())
    }

    /// Tells what this client is, as the official ones do before anything else.
    pub async fn begin(&self, settings: Settings) -> Outcome<Session> {
        let (say, said) = tokio::sync::mpsc::channel(8);
        let first = TelemetryCommand { status: None, command: Some(Command::Settings(settings)) };
        say.send(first).await.map_err(|e| e.to_string())?;
        let mut grpc = self.grpc.clone();
        grpc.ready().await.map_err(|e| e.to_string())?;
        let mut request = self.request(tokio_stream::wrappers::ReceiverStream::new(said))?;
        // It stays as long as the client.
        request.metadata_mut().remove("grpc-timeout");
        let codec = ProstCodec::<TelemetryCommand, TelemetryCommand>::default();
        let answer = grpc.streaming(request, path("Telemetry")?, codec).await.map_err(|e| format!("Telemetry: {e}"))?;
        let mut heard = answer.into_inner();
        heard.message().await.map_err(|e| format!("Telemetry: {e}"))?;
        Ok(Session { _say: say, _heard: heard })
    }

    /// Joins its group.
    pub async fn heartbeat(&self, group: &str) -> Outcome {
        let request = HeartbeatRequest { group: resource(group), client_type: ClientType::SimpleConsumer.into() };
        let answer: HeartbeatResponse = self.call("Heartbeat", request).await?;
        succeeded("Heartbeat", answer.status)
    }

    /// The queues of a topic.
    pub async fn route(&self, topic: &str) -> Outcome<Vec<MessageQueue>> {
        let request = QueryRouteRequest { topic: resource(topic), endpoints: None };
        let answer: QueryRouteResponse = self.call("QueryRoute", request).await?;
        succeeded("QueryRoute", answer.status)?;
        Ok(answer.message_queues)
    }

    /// Sends one message and waits until it is stored.
    pub async fn send(&self, topic: &str, body: Vec<u8>) -> Outcome {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let system_properties = SystemProperties {
            message_id: format!("01{:032X}", NEXT.fetch_add(1, Ordering::Relaxed)),
            message_type: MessageType::Normal.into(),
            body_encoding: Encoding::Identity.into(),
            born_host: "figures".into(),
            ..SystemProperties::default()
        };
        let message = Message {
            topic: resource(topic),
            system_properties: Some(system_properties),
            body: body.into(),
            ..Message::default()
        };
        let answer: SendMessageResponse =
            self.call("SendMessage", SendMessageRequest { messages: vec![message] }).await?;
        succeeded("SendMessage", answer.status)
    }

    /// What a queue has, at most 32 messages; waits up to `wait` for the first.
    pub async fn receive(&self, group: &str, queue: &MessageQueue, wait: Duration) -> Outcome<Vec<Received>> {
        let request = ReceiveMessageRequest {
            group: resource(group),
            message_queue: Some(queue.clone()),
            filter_expression: Some(FilterExpression { r#type: FilterType::Tag.into(), expression: "*".into() }),
            batch_size: 32,
            invisible_duration: prost_types::Duration::try_from(INVISIBLE).ok(),
            long_polling_timeout: prost_types::Duration::try_from(wait).ok(),
            ..ReceiveMessageRequest::default()
        };
        let mut grpc = self.grpc.clone();
        grpc.ready().await.map_err(|e| e.to_string())?;
        let codec = ProstCodec::<ReceiveMessageRequest, ReceiveMessageResponse>::default();
        let answer = grpc.server_streaming(self.request(request)?, path("ReceiveMessage")?, codec).await;
        let mut stream = answer.map_err(|e| format!("ReceiveMessage: {e}"))?.into_inner();
        let mut received = Vec::new();
        while let Some(piece) = stream.message().await.map_err(|e| format!("ReceiveMessage: {e}"))? {
            if let Some(Content::Message(message)) = piece.content {
                let system = message.system_properties.unwrap_or_default();
                let (message_id, receipt_handle) = (system.message_id, system.receipt_handle.unwrap_or_default());
                let entry = AckMessageEntry { message_id, receipt_handle, lite_topic: None };
                received.push(Received { entry, body: message.body.to_vec() });
            }
        }
        Ok(received)
    }

    /// Acknowledges one message.
    pub async fn ack(&self, group: &str, topic: &str, entry: AckMessageEntry) -> Outcome {
        let request = AckMessageRequest { group: resource(group), topic: resource(topic), entries: vec![entry] };
        let answer: AckMessageResponse = self.call("AckMessage", request).await?;
        succeeded("AckMessage", answer.status)
    }
}

fn succeeded(call: &str, status: Option<crate::pb::Status>) -> Outcome {
    match status {
        Some(status) if status.code == OK => Ok(()),
        other => Err(format!("{call}: {other:?}").into()),
    }
}

fn path(name: &str) -> Outcome<PathAndQuery> {
    let path: Result<PathAndQuery, _> = format!("/apache.rocketmq.v2.MessagingService/{name}").parse();
    Ok(path.map_err(|e| e.to_string())?)
}

fn resource(name: &str) -> Option<Resource> {
    Some(Resource { resource_namespace: String::new(), name: name.to_owned() })
}

fn settings(kind: ClientType, pub_sub: PubSub) -> Settings {
    Settings {
        client_type: Some(kind.into()),
        request_timeout: Some(prost_types::Duration { seconds: 10, nanos: 0 }),
        pub_sub: Some(pub_sub),
        user_agent: Some(Ua { language: Language::Rust.into(), version: "5.0.0".into(), ..Ua::default() }),
        ..Settings::default()
    }
}

/// What a producer of a topic says of itself.
pub fn producer(topic: &str) -> Settings {
    let publishing = Publishing { topics: resource(topic).into_iter().collect(), ..Publishing::default() };
    settings(ClientType::Producer, PubSub::Publishing(publishing))
}

/// What a consumer of a topic says of itself.
pub fn consumer(group: &str, topic: &str) -> Settings {
    let expression = FilterExpression { r#type: FilterType::Tag.into(), expression: "*".into() };
    let entry = SubscriptionEntry { topic: resource(topic), expression: Some(expression) };
    let subscription = Subscription {
        group: resource(group),
        subscriptions: vec![entry],
        long_polling_timeout: Some(prost_types::Duration { seconds: 30, nanos: 0 }),
        ..Subscription::default()
    };
    settings(ClientType::SimpleConsumer, PubSub::Subscription(subscription))
}
