//! Registration of this broker with its name servers (RocketMQ's `BrokerOuterAPI.registerBrokerAll`).
//!
//! One task per name server, so that one which is down or slow delays no other and never the start. Each registers the
//! whole topic table: at the start, every `registerNameServerPeriod`, at once after a topic changed (changes that follow
//! closely are taken together), and as soon as a name server's connection ended, because a name server forgets
//! a broker with its connection. At the stop the broker unregisters everywhere. Host names are resolved at each connect.
//!
//! The whole table is sent each time (a very large one in parts): a name server refuses a table of one topic from
//! a broker it does not know.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ferromq_protocol::body::{
    DataVersion, KvTable, RegisterBrokerBody, TopicConfig, TopicConfigAndMappingSerializeWrapper,
};
use ferromq_protocol::code::{request, response};
use ferromq_protocol::header::namesrv::{RegisterBrokerHeader, UnregisterBrokerHeader};
use ferromq_protocol::sys_flag::perm;
use ferromq_protocol::{Encoding, FrameWriter, OwnedCommand, Text, java, json};
use ferromq_remoting::{Client, ClientConfig, Connection, InvokeError, Requests, Service};
use parking_lot::{Condvar, Mutex};
use tokio::sync::watch;

use crate::broker::Shared;

/// `registerNameServerPeriod` is forced into these bounds, milliseconds.
const PERIOD_BOUNDS: (u64, u64) = (10_000, 60_000);
/// Pause after a registration that failed.
const RETRY: Duration = Duration::from_secs(1);
/// A name server that stays away is mentioned in the log this often.
const FAILURE_LOG_PERIOD: Duration = Duration::from_secs(60);
/// Shortest pause between two registrations because of changed topics.
const COALESCE: Duration = Duration::from_millis(20);
/// Topics that lengthen this pause by one millisecond.
const TOPICS_PER_MILLISECOND: u64 = 50;
/// Most topics in one request, about half of what a frame holds; a larger table goes in parts (`splitRegistrationSize`).
const MAX_TOPICS_PER_REQUEST: usize = 40_000;
/// Longest wait for one name server at the stop.
const UNREGISTER_TIMEOUT: Duration = Duration::from_millis(1000);

/// What went wrong with one registration.
#[derive(Debug, thiserror::Error)]
enum RegisterError {
    #[error("{0}")]
    Remoting(#[from] InvokeError),
    #[error("it answers code {0}: {1}")]
    Refused(i32, String),
    #[error("the topic table cannot be written as JSON: {0}")]
    Encode(#[from] json::Error),
}

/// How this broker is known to others.
#[derive(Clone, Debug)]
pub struct Identity {
    pub cluster: String,
    pub broker_name: String,
    pub broker_id: i64,
    /// Address for clients, `host:port`.
    pub address: String,
    /// Address for replicas, `host:port`.
    pub ha_address: String,
}

/// The registration service of one broker.
pub struct Registration {
    shared: Arc<Shared>,
    identity: Identity,
    servers: Vec<String>,
    client: Client,
    /// Grows when a connection to any name server ended.
    lost: watch::Receiver<u64>,
    stopping: watch::Sender<bool>,
    progress: Mutex<Progress>,
    progressed: Condvar,
}

struct Progress {
    /// Name servers whose first attempt is not over yet.
    first_round: usize,
    /// [`Registration::run`] has returned.
    ended: bool,
}

/// Notes connections that ended; name servers ask nothing of a broker here.
struct LossWatch {
    count: AtomicU64,
    lost: watch::Sender<u64>,
}

impl Service for LossWatch {
    fn serve(&self, _conn: &Arc<Connection>, requests: &mut Requests<'_>, _out: &mut Vec<u8>) {
        for request in requests {
            tracing::debug!("request code {} of a name server has no meaning here", request.head.code);
        }
    }

    fn on_close(&self, _conn: &Arc<Connection>) {
        self.lost.send_replace(self.count.fetch_add(1, Ordering::Relaxed) + 1);
    }
}

impl Registration {
    /// Prepares registration at the servers of `namesrvAddr`; [`Registration::run`] does it.
    pub fn new(shared: Arc<Shared>, identity: Identity) -> Arc<Self> {
        let addresses = shared.config.namesrv_addr.as_deref().unwrap_or_default();
        let mut servers: Vec<String> = Vec::new();
        for address in addresses.split(';').map(str::trim).filter(|address| !address.is_empty()) {
            if !servers.iter().any(|known| known == address) {
                servers.push(address.to_owned());
            }
        }
        let (sender, lost) = watch::channel(0);
        let service = Arc::new(LossWatch { count: AtomicU64::new(0), lost: sender });
        Arc::new(Self {
            client: Client::new(ClientConfig::default(), Some(service)),
            progress: Mutex::new(Progress { first_round: servers.len(), ended: false }),
            progressed: Condvar::new(),
            stopping: watch::Sender::new(false),
            shared,
            identity,
            servers,
            lost,
        })
    }

    /// Registers until the stop; returns after unregistering. To be spawned on a runtime of the broker.
    pub async fn run(self: Arc<Self>) {
        let tasks: Vec<_> =
            (0..self.servers.len()).map(|n| tokio::spawn(Arc::clone(&self).keep_registered(n))).collect();
        for task in tasks {
            let _ = task.await;
        }
        self.client.close();
        self.progress.lock().ended = true;
        self.progressed.notify_all();
    }

    /// Waits until every name server has been tried once, at most `limit`; whether all had their turn.
    pub fn wait_first_round(&self, limit: Duration) -> bool {
        self.wait(limit, |progress| progress.first_round == 0)
    }

    /// Makes [`Registration::run`] unregister and end, and waits for it; not to be called on its runtime.
    pub fn stop(&self) {
        self.stopping.send_replace(true);
        self.wait(UNREGISTER_TIMEOUT * 2, |progress| progress.ended);
    }

    fn wait(&self, limit: Duration, reached: impl Fn(&Progress) -> bool) -> bool {
        let deadline = Instant::now() + limit;
        let mut progress = self.progress.lock();
        while !reached(&progress) {
            if self.progressed.wait_until(&mut progress, deadline).timed_out() {
                break;
            }
        }
        reached(&progress)
    }

    async fn keep_registered(self: Arc<Self>, index: usize) {
        let server = &self.servers[index];
        let period = self.shared.config.register_name_server_period.clamp(PERIOD_BOUNDS.0, PERIOD_BOUNDS.1);
        let mut stopping = self.stopping.subscribe();
        let mut topics = self.shared.topics.watch();
        let mut lost = self.lost.clone();
        let mut registered = false;
        let mut first = true;
        let mut complained: Option<Instant> = None;
        while !*stopping.borrow() {
            topics.borrow_and_update();
            lost.borrow_and_update();
            let outcome = tokio::select! {
                outcome = self.register(server) => outcome,
                _ = stopping.changed() => break,
            };
            match &outcome {
                Ok(()) if !registered || complained.is_some() => {
                    tracing::info!("registered with name server {server} as {}", self.identity.address);
                    complained = None;
                }
                Err(e) if complained.is_none_or(|at| at.elapsed() >= FAILURE_LOG_PERIOD) => {
                    tracing::warn!("cannot register with name server {server}: {e}; it is tried again every {RETRY:?}");
                    complained = Some(Instant::now());
                }
                _ => {}
            }
            registered |= outcome.is_ok();
            if std::mem::take(&mut first) {
                self.progress.lock().first_round -= 1;
                self.progressed.notify_all();
            }
            let pause = if outcome.is_ok() { Duration::from_millis(period) } else { RETRY };
            let coalesce = COALESCE + Duration::from_millis(self.shared.topics.count() as u64 / TOPICS_PER_MILLISECOND);
            tokio::select! {
                () = tokio::time::sleep(coalesce) => {}
                _ = stopping.changed() => break,
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = topics.changed(), if outcome.is_ok() => {}
                _ = lost.changed(), if outcome.is_ok() => {}
                _ = stopping.changed() => break,
            }
        }
        if registered {
            match self.unregister(server).await {
                Ok(()) => tracing::info!("unregistered from name server {server}"),
                Err(e) => {
                    tracing::warn!("cannot unregister from name server {server}: {e}; it forgets this broker by itself")
                }
            }
        }
    }

    async fn register(&self, server: &str) -> Result<(), RegisterError> {
        let (topics, version) = self.shared.topics.snapshot();
        let mut topics = topics.into_iter().peekable();
        while topics.peek().is_some() {
            let part = topics.by_ref().take(MAX_TOPICS_PER_REQUEST).collect();
            self.register_part(server, self.body(part, version)?).await?;
        }
        Ok(())
    }

    async fn register_part(&self, server: &str, body: Vec<u8>) -> Result<(), RegisterError> {
        let header = RegisterBrokerHeader {
            broker_name: Text::plain(&self.identity.broker_name),
            broker_addr: Text::plain(&self.identity.address),
            cluster_name: Text::plain(&self.identity.cluster),
            ha_server_addr: Text::plain(&self.identity.ha_address),
            broker_id: self.identity.broker_id,
            heartbeat_timeout_millis: None,
            enable_acting_master: Some(false),
            compressed: false,
            body_crc32: java::crc32(&body) as i32,
        };
        let timeout = Duration::from_millis(self.shared.config.register_broker_timeout_mills);
        let answer = self
            .client
            .invoke(server, timeout, |out, opaque| {
                let mut frame = FrameWriter::request(out, Encoding::Json, request::REGISTER_BROKER, opaque, false);
                header.write(&mut frame);
                frame.finish_with_body(&body);
            })
            .await;
        if matches!(answer, Err(InvokeError::Timeout(_))) {
            // The next attempt connects anew: the server may have moved to another address.
            self.client.connection(server).await?.close();
        }
        let answer = answer?;
        check(&answer)?;
        if !answer.body().is_empty()
            && let Ok(order) = json::from_slice::<KvTable>(answer.body())
        {
            self.shared.topics.set_ordered(order.table.keys().map(String::as_str));
        }
        Ok(())
    }

    async fn unregister(&self, server: &str) -> Result<(), RegisterError> {
        let header = UnregisterBrokerHeader {
            broker_name: Text::plain(&self.identity.broker_name),
            broker_addr: Text::plain(&self.identity.address),
            cluster_name: Text::plain(&self.identity.cluster),
            broker_id: self.identity.broker_id,
        };
        let answer = self
            .client
            .invoke(server, UNREGISTER_TIMEOUT, |out, opaque| {
                let mut frame = FrameWriter::request(out, Encoding::Json, request::UNREGISTER_BROKER, opaque, false);
                header.write(&mut frame);
                frame.finish();
            })
            .await?;
        check(&answer)
    }

    /// The body of a registration: topics with their permissions cut to the broker's.
    fn body(
        &self,
        mut topic_config_table: BTreeMap<String, TopicConfig>,
        data_version: DataVersion,
    ) -> Result<Vec<u8>, json::Error> {
        let allowed = self.shared.live.broker_permission();
        if allowed & (perm::READ | perm::WRITE) != perm::READ | perm::WRITE {
            topic_config_table.values_mut().for_each(|topic| topic.perm &= allowed);
        }
        json::to_vec_standard(&RegisterBrokerBody {
            topic_config_serialize_wrapper: TopicConfigAndMappingSerializeWrapper {
                topic_config_table,
                data_version,
                mapping_data_version: DataVersion::default(),
                ..Default::default()
            },
            filter_server_list: Some(Vec::new()),
        })
    }
}

fn check(answer: &OwnedCommand) -> Result<(), RegisterError> {
    match answer.head().code {
        response::SUCCESS => Ok(()),
        code => Err(RegisterError::Refused(code, answer.remark_lossy().into_owned())),
    }
}
