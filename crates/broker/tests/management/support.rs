//! A broker in a temporary folder and clients that speak plain remoting to it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferromq_broker::{Broker, BrokerConfig};
use ferromq_protocol::{Encoding, FrameWriter, OwnedCommand};
use ferromq_remoting::{Client, ClientConfig, Connection, Requests, Service};
use ferromq_store::StoreConfig;
use parking_lot::Mutex;
use serde_json::Value;

/// Longest wait for what must come; shorter than the period of registrations.
pub const WAIT: Duration = Duration::from_secs(25);

pub fn start(dir: &Path, change: impl FnOnce(&mut BrokerConfig)) -> Broker {
    start_with(dir, change, |_| {})
}

pub fn start_with(dir: &Path, change: impl FnOnce(&mut BrokerConfig), adjust: impl FnOnce(&mut StoreConfig)) -> Broker {
    let mut config = BrokerConfig {
        bind_address: "127.0.0.1".into(),
        broker_ip1: "127.0.0.1".into(),
        listen_port: 0,
        reactors: 2,
        ..BrokerConfig::default()
    };
    change(&mut config);
    let mut store =
        StoreConfig { root: dir.to_owned(), mapped_file_size_commit_log: 1024 * 1024, ..StoreConfig::default() };
    adjust(&mut store);
    Broker::start(config, store).unwrap()
}

/// What a broker asked of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    pub code: i32,
    pub fields: Vec<(String, String)>,
}

/// Collects requests of the broker; answers those that want an answer with its own body.
#[derive(Default)]
pub struct Inbox {
    asked: Mutex<Vec<Asked>>,
}

impl Service for Inbox {
    fn serve(&self, _conn: &Arc<Connection>, requests: &mut Requests<'_>, out: &mut Vec<u8>) {
        for request in requests {
            let fields = request.fields.iter().map(|(k, v)| (k.to_lossy().into_owned(), v.to_lossy().into_owned()));
            self.asked.lock().push(Asked { code: request.head.code, fields: fields.collect() });
            if !request.head.is_oneway() {
                FrameWriter::response(out, &request.head, 0).finish_with_body(b"{\"answer\":true}");
            }
        }
    }
}

/// One client with a connection of its own.
pub struct Peer {
    client: Client,
    inbox: Arc<Inbox>,
    address: String,
}

pub struct Answer {
    pub code: i32,
    pub remark: String,
    command: OwnedCommand,
}

impl Answer {
    pub fn json(&self) -> Value {
        ferromq_protocol::json::from_slice(self.command.body()).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(self.command.body()).into_owned()
    }

    pub fn field(&self, key: &str) -> Option<String> {
        self.command.command().fields.get(key).map(|text| text.to_lossy().into_owned())
    }
}

impl Peer {
    pub fn new(address: SocketAddr) -> Self {
        let inbox = Arc::new(Inbox::default());
        let client = Client::new(ClientConfig::default(), Some(inbox.clone()));
        Self { client, inbox, address: address.to_string() }
    }

    pub async fn call(&self, code: i32, fields: &[(&str, &str)], body: &[u8]) -> Answer {
        let answer = self
            .client
            .invoke(&self.address, WAIT, |out, opaque| {
                let mut frame = FrameWriter::request(out, Encoding::Json, code, opaque, false);
                for (key, value) in fields {
                    frame.str(key, value);
                }
                frame.finish_with_body(body);
            })
            .await
            .unwrap();
        Answer { code: answer.head().code, remark: answer.remark_lossy().into_owned(), command: answer }
    }

    /// A call that succeeds.
    pub async fn ok(&self, code: i32, fields: &[(&str, &str)], body: &[u8]) -> Answer {
        let answer = self.call(code, fields, body).await;
        assert_eq!(answer.code, 0, "code {code} {fields:?}: {}", answer.remark);
        answer
    }

    pub async fn post(&self, code: i32, body: Value) -> Answer {
        self.call(code, &[], body.to_string().as_bytes()).await
    }

    /// Requests of this code the broker has sent here.
    pub fn asked(&self, code: i32) -> Vec<Asked> {
        self.inbox.asked.lock().iter().filter(|asked| asked.code == code).cloned().collect()
    }

    /// Waits for the next request of this code beyond the first `known`.
    pub async fn next_asked(&self, code: i32, known: usize) -> Asked {
        let deadline = Instant::now() + WAIT;
        loop {
            if let Some(asked) = self.asked(code).into_iter().nth(known) {
                return asked;
            }
            assert!(Instant::now() < deadline, "the broker sends no request of code {code}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Ends the connection.
    pub fn leave(self) {
        self.client.close();
    }
}

/// Waits until `condition` holds.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + WAIT;
    while !condition().await {
        assert!(Instant::now() < deadline, "it does not happen: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A test's own runtime.
pub fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}
