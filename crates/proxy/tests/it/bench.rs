//! A broker and its proxy in a temporary folder, and a client that makes calls.

use std::net::SocketAddr;
use std::time::Duration;

use ferromq_broker::{Broker, BrokerConfig};
use ferromq_proxy::{Proxy, ProxyConfig};
use ferromq_store::StoreConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::pb::{
    Message, MessageType, Resource, SendMessageRequest, SendMessageResponse, Settings, SystemProperties,
    TelemetryCommand,
};

/// Both servers.
pub struct Bench {
    proxy: Option<Proxy>,
    broker: Option<Broker>,
    _folder: tempfile::TempDir,
}

pub fn start() -> Bench {
    start_with(|_, _| {})
}

/// `adjust` may change the proxy's settings and sees the folder.
pub fn start_with(adjust: impl FnOnce(&mut ProxyConfig, &std::path::Path)) -> Bench {
    start_beside(|_| {}, adjust)
}

/// The same with a broker of other settings.
pub fn start_beside(
    of_broker: impl FnOnce(&mut BrokerConfig),
    adjust: impl FnOnce(&mut ProxyConfig, &std::path::Path),
) -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let (mut broker, store) = broker_in(folder.path());
    of_broker(&mut broker);
    let mut config = ProxyConfig::new(SocketAddr::from(([127, 0, 0, 1], 0)));
    adjust(&mut config, folder.path());
    // They block, which a test's runtime does not like: so at the end, too.
    let started = std::thread::spawn(move || {
        let broker = Broker::start(broker, store).unwrap();
        (Proxy::start(&config, &broker).unwrap(), broker)
    });
    let (proxy, broker) = started.join().unwrap();
    Bench { proxy: Some(proxy), broker: Some(broker), _folder: folder }
}

/// Settings of a broker with a store in a folder.
pub fn broker_in(folder: &std::path::Path) -> (BrokerConfig, StoreConfig) {
    let broker = BrokerConfig {
        bind_address: "127.0.0.1".into(),
        listen_port: 0,
        reactors: 1,
        // So that it is known where messages are.
        default_topic_queue_nums: 1,
        enable_lmq: true,
        ..BrokerConfig::default()
    };
    let root = folder.join("store");
    let store = StoreConfig {
        root,
        // Every file, and the next one, takes its room on the disk at once.
        mapped_file_size_commit_log: 16 << 20,
        max_hash_slot_num: 1000,
        max_index_num: 10_000,
        multi_dispatch: true,
        ..StoreConfig::default()
    };
    (broker, store)
}

impl Drop for Bench {
    fn drop(&mut self) {
        let (proxy, broker) = (self.proxy.take(), self.broker.take());
        let stop = std::thread::spawn(move || {
            proxy.into_iter().for_each(Proxy::shutdown);
            broker.unwrap().shutdown();
        });
        stop.join().unwrap();
    }
}

impl Bench {
    pub fn addr(&self) -> SocketAddr {
        self.proxy.as_ref().unwrap().addr()
    }

    pub fn remoting_addr(&self) -> SocketAddr {
        self.proxy.as_ref().unwrap().remoting_addr().unwrap()
    }

    pub fn http_addr(&self) -> SocketAddr {
        self.proxy.as_ref().unwrap().http_addr().unwrap()
    }

    /// The broker goes on.
    pub fn stop_proxy(&mut self) -> tokio::task::JoinHandle<()> {
        let proxy = self.proxy.take().unwrap();
        tokio::task::spawn_blocking(|| proxy.shutdown())
    }

    pub fn broker(&self) -> &Broker {
        self.broker.as_ref().unwrap()
    }

    pub fn broker_addr(&self) -> String {
        self.broker.as_ref().unwrap().addr().to_string()
    }

    pub async fn client(&self, id: &'static str) -> Client {
        client_of(self.addr(), id).await
    }
}

/// A client of the proxy at an address.
pub async fn client_of(proxy: SocketAddr, id: &'static str) -> Client {
    let endpoint = Endpoint::from_shared(format!("http://{proxy}")).unwrap();
    Client { grpc: Grpc::new(endpoint.connect().await.unwrap()), id }
}

/// What `GET /metrics` says at an HTTP port.
pub async fn figures(http: SocketAddr) -> String {
    let mut http = TcpStream::connect(http).await.unwrap();
    http.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut text = String::new();
    http.read_to_string(&mut text).await.unwrap();
    text
}

/// A client with one connection.
#[derive(Clone)]
pub struct Client {
    grpc: Grpc<Channel>,
    pub id: &'static str,
}

impl Client {
    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if !self.id.is_empty() {
            request.metadata_mut().insert("x-mq-client-id", MetadataValue::from_static(self.id));
        }
        request
    }

    /// One request, one answer.
    pub async fn call<Q, A>(&self, name: &str, message: Q) -> Result<A, Status>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let mut grpc = self.grpc.clone();
        grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let answer = grpc.unary(self.request(message), path(name), ProstCodec::<Q, A>::default()).await?;
        Ok(answer.into_inner())
    }

    /// One request, many pieces.
    pub async fn stream<Q, A>(&self, name: &str, message: Q) -> Result<Streaming<A>, Status>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        self.stream_within(Duration::from_secs(60), name, message).await
    }

    /// As [`Client::stream`], with a deadline.
    pub async fn stream_within<Q, A>(&self, time: Duration, name: &str, message: Q) -> Result<Streaming<A>, Status>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let mut grpc = self.grpc.clone();
        grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let mut request = self.request(message);
        request.set_timeout(time);
        let answer = grpc.server_streaming(request, path(name), ProstCodec::<Q, A>::default()).await?;
        Ok(answer.into_inner())
    }

    /// Opens a telemetry stream and tells its settings; the other side's commands after the first, which returns them.
    pub async fn talk(
        &self,
        settings: Settings,
    ) -> Result<(tokio::sync::mpsc::Sender<TelemetryCommand>, Streaming<TelemetryCommand>), Status> {
        use crate::pb::telemetry_command::Command;
        let (say, said) = tokio::sync::mpsc::channel(8);
        say.send(TelemetryCommand { status: None, command: Some(Command::Settings(settings)) }).await.unwrap();
        let mut grpc = self.grpc.clone();
        grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let said = tokio_stream::wrappers::ReceiverStream::new(said);
        let codec = ProstCodec::<TelemetryCommand, TelemetryCommand>::default();
        let mut heard = grpc.streaming(self.request(said), path("Telemetry"), codec).await?.into_inner();
        heard.message().await?;
        Ok((say, heard))
    }

    /// A message, stored.
    pub async fn send(&self, topic: &str, body: &[u8]) {
        let message = message(topic, body);
        let answer: SendMessageResponse =
            self.call("SendMessage", SendMessageRequest { messages: vec![message] }).await.unwrap();
        assert_eq!(answer.status.unwrap().code, 20_000, "{:?}", answer.entries);
    }
}

/// A call of a client that does nothing by itself. Its request begins with these bytes, and whoever has the rest ends it.
pub async fn call_by_hand(
    addr: SocketAddr,
    name: &str,
    timeout: &'static str,
    said: Vec<u8>,
) -> (h2::client::ResponseFuture, h2::SendStream<bytes::Bytes>) {
    let (calls, connection) = h2::client::handshake(TcpStream::connect(addr).await.unwrap()).await.unwrap();
    tokio::spawn(connection);
    call_over(&calls, name, timeout, said).await
}

/// The same over a connection of the caller.
pub async fn call_over(
    calls: &h2::client::SendRequest<bytes::Bytes>,
    name: &str,
    timeout: &'static str,
    said: Vec<u8>,
) -> (h2::client::ResponseFuture, h2::SendStream<bytes::Bytes>) {
    let path = format!("http://localhost/apache.rocketmq.v2.MessagingService/{name}");
    let request = tonic::codegen::http::Request::post(path)
        .header("content-type", "application/grpc")
        .header("x-mq-client-id", "by-hand")
        .header("grpc-timeout", timeout)
        .body(())
        .unwrap();
    let (answer, mut body) = calls.clone().ready().await.unwrap().send_request(request, false).unwrap();
    body.send_data(said.into(), false).unwrap();
    (answer, body)
}

/// The status that a call ends with, wherever it stands.
pub async fn status_of(answer: h2::client::ResponseFuture) -> String {
    let (head, mut body) = answer.await.unwrap().into_parts();
    while let Some(part) = body.data().await {
        body.flow_control().release_capacity(part.unwrap().len()).unwrap();
    }
    let trailers = body.trailers().await.unwrap().unwrap_or_default();
    let text = |name| head.headers.get(name).or(trailers.get(name)).map(|value| value.to_str().unwrap().to_owned());
    format!("{} {}", text("grpc-status").unwrap(), text("grpc-message").unwrap_or_default())
}

fn path(name: &str) -> PathAndQuery {
    format!("/apache.rocketmq.v2.MessagingService/{name}").parse().unwrap()
}

pub fn resource(name: &str) -> Option<Resource> {
    Some(Resource { resource_namespace: String::new(), name: name.to_owned() })
}

pub fn message(topic: &str, body: &[u8]) -> Message {
    let system_properties = SystemProperties {
        message_id: "01ABCDEF".into(),
        message_type: MessageType::Normal.into(),
        ..SystemProperties::default()
    };
    Message {
        topic: resource(topic),
        system_properties: Some(system_properties),
        body: body.to_vec().into(),
        ..Message::default()
    }
}

/// A request as bytes, with its length before it.
pub fn framed(message: &impl prost::Message) -> Vec<u8> {
    let body = message.encode_to_vec();
    let mut framed = vec![0];
    framed.extend_from_slice(&(body.len() as u32).to_be_bytes());
    framed.extend_from_slice(&body);
    framed
}
