//! What producers, consumers and admin calls of one process share: connections, routes, the client id, heartbeats.
//!
//! Owns the route cache and the list of groups that are alive. Two background tasks on the caller's tokio runtime: route
//! refresh and heartbeats; they end when the last handle is dropped or [`Client::shutdown`] is called.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ferromq_common::clock;
use ferromq_protocol::body::BrokerData;
use ferromq_protocol::code::response;
use ferromq_protocol::id::UniqueIds;
use ferromq_protocol::{FrameWriter, OwnedCommand, json};
use ferromq_remoting::{self as remoting, InvokeError};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};

use crate::config::ClientConfig;
use crate::error::{Error, Result};
use crate::heartbeat::Groups;
use crate::route::{self, Route};
use crate::server_calls::{OnCall, ServerCalls};

/// Most topics whose routes are kept; others are fetched each time.
pub const MAX_CACHED_TOPICS: usize = 65_536;
/// Id of a master.
pub(crate) const MASTER_ID: i64 = 0;

/// A handle on a RocketMQ cluster. Cheap to clone; producers and consumers made from it share connections.
#[derive(Clone)]
pub struct Client {
    pub(crate) shared: Arc<Shared>,
}

/// What all handles share.
pub(crate) struct Shared {
    pub config: ClientConfig,
    pub client_id: String,
    pub ids: UniqueIds,
    remoting: remoting::Client,
    namesrvs: Vec<String>,
    /// The name server that answered last.
    current_namesrv: AtomicUsize,
    routes: RwLock<HashMap<String, Arc<Route>>>,
    /// broker name -> id -> address, from all routes seen
    pub brokers: RwLock<HashMap<String, BTreeMap<i64, String>>>,
    pub groups: Arc<Mutex<Groups>>,
    /// Rung when the brokers should hear of the groups before the next heartbeat is due.
    pub beat_now: Arc<Notify>,
    stop: watch::Sender<bool>,
}

impl Client {
    /// Makes a client; nothing is sent yet. Must be called inside a tokio runtime.
    pub fn new(config: ClientConfig) -> Result<Client> {
        Self::build(config, None)
    }

    pub(crate) fn build(config: ClientConfig, on_call: Option<OnCall>) -> Result<Client> {
        let namesrvs = config.namesrvs();
        if namesrvs.is_empty() {
            return Err(Error::NoNameServer);
        }
        let groups = Arc::new(Mutex::new(Groups::default()));
        let calls = Arc::new(ServerCalls { groups: groups.clone(), on_call });
        let now = clock::now_millis();
        // Several clients of one process, made in one millisecond, differ by this address of fresh memory.
        let salt = Arc::as_ptr(&groups) as usize;
        let shared = Arc::new(Shared {
            client_id: config.client_id(now as u128 * 1_000_000 + (salt >> 4) as u128 % 1_000_000),
            ids: UniqueIds::new(config.client_ip, std::process::id(), (salt >> 4) as u32),
            remoting: remoting::Client::new(remoting::ClientConfig::default(), Some(calls)),
            current_namesrv: AtomicUsize::new(now as usize % namesrvs.len()),
            namesrvs,
            routes: RwLock::default(),
            brokers: RwLock::default(),
            groups,
            beat_now: Arc::default(),
            stop: watch::Sender::new(false),
            config,
        });
        spawn_refresh(&shared);
        spawn_heartbeats(&shared);
        Ok(Client { shared })
    }

    /// The id brokers know this client by.
    pub fn client_id(&self) -> &str {
        &self.shared.client_id
    }

    /// Ends background tasks and closes all connections. Shut consumers down first, so that they commit their offsets.
    pub async fn shutdown(&self) {
        let _ = self.shared.stop.send_replace(true);
        self.shared.remoting.close();
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let _ = self.stop.send_replace(true);
        self.remoting.close();
    }
}

/// Runs `work` every `period`, and when `now` is rung, until the client stops. The task holds no handle between its runs.
fn spawn_periodic<F>(
    shared: &Arc<Shared>,
    now: Option<Arc<Notify>>,
    period: Duration,
    work: impl Fn(Arc<Shared>) -> F + Send + 'static,
) where
    F: Future<Output = ()> + Send,
{
    let now = now.unwrap_or_default();
    let weak = Arc::downgrade(shared);
    let mut stop = shared.stop.subscribe();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = tokio::time::sleep(period) => {}
                () = now.notified() => {}
                () = signalled(&mut stop) => return,
            }
            let Some(shared) = weak.upgrade() else { return };
            work(shared).await;
        }
    });
}

/// Waits until the flag is set or its owner is gone.
pub(crate) async fn signalled(flag: &mut watch::Receiver<bool>) {
    let _ = flag.wait_for(|set| *set).await;
}

fn spawn_refresh(shared: &Arc<Shared>) {
    spawn_periodic(shared, None, shared.config.poll_name_server_interval, |shared| async move {
        let topics: Vec<(String, bool)> =
            shared.routes.read().iter().map(|(topic, route)| (topic.clone(), route.from_default)).collect();
        for (topic, from_default) in topics {
            let fetched = match shared.fetch_route(&topic).await {
                Err(Error::NoRoute { .. }) if from_default => continue,
                other => other,
            };
            if let Err(e) = fetched {
                tracing::debug!(%topic, "route not refreshed: {e}");
            }
        }
    });
}

fn spawn_heartbeats(shared: &Arc<Shared>) {
    let beat_now = Arc::clone(&shared.beat_now);
    let beat = |shared: Arc<Shared>| async move { shared.heartbeat().await };
    spawn_periodic(shared, Some(beat_now), shared.config.heartbeat_broker_interval, beat);
}

impl Shared {
    /// Sends one request and gives back the answer, whatever its code.
    pub async fn call(
        &self,
        addr: &str,
        code: i32,
        timeout: Duration,
        fields: impl FnOnce(&mut FrameWriter<'_>),
        body: &[u8],
    ) -> Result<OwnedCommand> {
        let encoding = self.config.encoding;
        let answer = self.remoting.invoke(addr, timeout, |out, opaque| {
            let mut writer = FrameWriter::request(out, encoding, code, opaque, false);
            fields(&mut writer);
            writer.finish_with_body(body);
        });
        // The time to connect counts too.
        let answer = tokio::time::timeout(timeout, answer).await.unwrap_or(Err(InvokeError::Timeout(timeout)));
        answer.map_err(|source| Error::Unreachable { addr: addr.to_owned(), source })
    }

    /// As [`Self::call`]; any code but success is an error.
    pub async fn ask(
        &self,
        addr: &str,
        code: i32,
        fields: impl FnOnce(&mut FrameWriter<'_>),
        body: &[u8],
    ) -> Result<OwnedCommand> {
        let answer = self.call(addr, code, self.config.api_timeout, fields, body).await?;
        if answer.head().code == response::SUCCESS { Ok(answer) } else { Err(refused(addr, &answer)) }
    }

    /// Sends a request that has no answer.
    pub async fn tell(
        &self,
        addr: &str,
        code: i32,
        fields: impl FnOnce(&mut FrameWriter<'_>),
        body: &[u8],
    ) -> Result<()> {
        let encoding = self.config.encoding;
        let sent = self.remoting.oneway(addr, |out, opaque| {
            let mut writer = FrameWriter::request(out, encoding, code, opaque, true);
            fields(&mut writer);
            writer.finish_with_body(body);
        });
        sent.await.map_err(|source| Error::Unreachable { addr: addr.to_owned(), source })
    }

    /// Asks the name server that answered last; when it cannot be reached, the next ones.
    pub async fn ask_namesrv(
        &self,
        code: i32,
        fields: impl Fn(&mut FrameWriter<'_>),
        body: &[u8],
    ) -> Result<OwnedCommand> {
        let first = self.current_namesrv.load(Ordering::Relaxed);
        let mut last = Error::NoNameServer;
        for i in 0..self.namesrvs.len() {
            let index = (first + i) % self.namesrvs.len();
            match self.ask(&self.namesrvs[index], code, &fields, body).await {
                Err(e @ Error::Unreachable { .. }) => last = e,
                answered => {
                    self.current_namesrv.store(index, Ordering::Relaxed);
                    return answered;
                }
            }
        }
        Err(last)
    }

    /// All name servers, for what has to be told to each of them.
    pub fn namesrvs(&self) -> &[String] {
        &self.namesrvs
    }

    /// The route of a topic, from the cache if it is there.
    pub async fn route(&self, topic: &str) -> Result<Arc<Route>> {
        let cached = self.routes.read().get(topic).filter(|r| !r.from_default).cloned();
        match cached {
            Some(route) => Ok(route),
            None => self.fetch_route(topic).await,
        }
    }

    /// The route to send to: of an unknown topic that of `default_topic`, with at most `queues` queues a broker.
    pub async fn publish_route(&self, topic: &str, default_topic: &str, queues: i32) -> Result<Arc<Route>> {
        let cached = self.routes.read().get(topic).filter(|r| !r.publish.is_empty()).cloned();
        if let Some(route) = cached {
            return Ok(route);
        }
        match self.fetch_route(topic).await {
            Err(Error::NoRoute { .. }) => {}
            fetched => return fetched,
        }
        let data = route::fetch(self, default_topic).await.map_err(|e| match e {
            Error::NoRoute { .. } => Error::NoRoute { topic: topic.to_owned() },
            other => other,
        })?;
        Ok(self.keep_route(topic, Route::of_default(topic, data, queues)))
    }

    /// Asks the name server for a route and keeps it.
    pub async fn fetch_route(&self, topic: &str) -> Result<Arc<Route>> {
        let data = route::fetch(self, topic).await?;
        Ok(self.keep_route(topic, Route::new(topic, data)))
    }

    fn keep_route(&self, topic: &str, route: Route) -> Arc<Route> {
        self.keep_brokers(&route.data.broker_datas);
        let route = Arc::new(route);
        let mut routes = self.routes.write();
        if routes.len() < MAX_CACHED_TOPICS || routes.contains_key(topic) {
            routes.insert(topic.to_owned(), route.clone());
        }
        route
    }

    /// Remembers where brokers are.
    pub fn keep_brokers<'b>(&self, found: impl IntoIterator<Item = &'b BrokerData>) {
        let mut brokers = self.brokers.write();
        for broker in found {
            brokers.insert(broker.broker_name.clone(), broker.broker_addrs.clone());
        }
    }

    /// Address of the master of a broker group.
    pub fn master_addr(&self, broker_name: &str) -> Result<String> {
        let brokers = self.brokers.read();
        let addr = brokers.get(broker_name).and_then(|ids| ids.get(&MASTER_ID)).cloned();
        addr.ok_or_else(|| Error::UnknownBroker(broker_name.to_owned()))
    }

    /// Address to read from: that of `broker_id`, else the master's, else any.
    pub fn read_addr(&self, broker_name: &str, broker_id: i64) -> Result<String> {
        let brokers = self.brokers.read();
        let addr = brokers
            .get(broker_name)
            .and_then(|ids| ids.get(&broker_id).or_else(|| ids.get(&MASTER_ID)).or_else(|| ids.values().next()));
        addr.cloned().ok_or_else(|| Error::UnknownBroker(broker_name.to_owned()))
    }
}

/// The error that an answer other than success stands for.
pub(crate) fn refused(addr: &str, answer: &OwnedCommand) -> Error {
    Error::Refused { addr: addr.to_owned(), code: answer.head().code, remark: answer.remark_lossy().into_owned() }
}

/// Reads the JSON body of an answer.
pub(crate) fn body_of<T: serde::de::DeserializeOwned>(addr: &str, answer: &OwnedCommand) -> Result<T> {
    json::from_slice(answer.body()).map_err(|e| Error::BadAnswer { addr: addr.to_owned(), reason: e.to_string() })
}
