//! What the handlers share, and the start and stop of one broker.
//!
//! Threads: the reactors of `remoting` serve requests and dispatch what they append; the store flushes; `persist.rs`
//! writes the `config` files; `timer.rs` delivers what is delayed; one timer on a reactor sweeps long polls. [`Broker`] owns them all and stops them in
//! order: registration, sockets, parked pulls, delayed delivery, files, store.

mod front_door;
mod saved;
mod sweep;

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ferromq_common::clock;
use ferromq_common::json_file::LoadError;
use ferromq_protocol::id::UniqueIds;
use ferromq_protocol::pop::revive_topic;
use ferromq_protocol::sys_flag::perm;
use ferromq_remoting::{LocalPeers, Server, ServerConfig};
use ferromq_store::{Arrival, Durability, OpenError, Store, StoreConfig, copied_topics};

use crate::blocking::Blocking;
use crate::broadcast::BroadcastOffsets;
use crate::clients::{self, Clients};
use crate::cold::ColdReads;
use crate::config::BrokerConfig;
use crate::consumer_filters::ConsumerFilters;
use crate::groups::Groups;
use crate::handler::pull;
use crate::handler::send::SendConstants;
use crate::limits::Limits;
use crate::lite::Lites;
use crate::live::Live;
use crate::locks::OrderLocks;
use crate::longpoll::LongPolls;
use crate::offsets::Offsets;
use crate::persist::{Persister, SaveSignal};
use crate::pop::polls::{self, PopPolls};
use crate::pop::take;
use crate::pop::{OrderPops, Pops, Reviver, end_of, replay};
use crate::rates::Rates;
use crate::registration::{Identity, Registration};
use crate::request_modes::RequestModes;
use crate::service::BrokerService;
use crate::stats::Stats;
use crate::timer::Timer;
use crate::topic_routes::TopicRoutes;
use crate::topics::Topics;
use crate::transaction::{Checker, Transactions};
use front_door::FrontDoor;

/// The fast port is the main port less this.
const FAST_PORT_DISTANCE: u16 = 2;
/// See [`Shared::warm_log_bytes`]; `accessMessageInMemoryMaxRatio=0` trusts no memory at all.
const WARM_LOG_BYTES: u64 = 1 << 30;
/// How long the stop serves clients that do not know GO_AWAY and go on sending; they try again elsewhere afterwards.
const DRAIN: Duration = Duration::from_millis(500);

/// Why a broker did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store could not be opened.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// A file of `config` could not be used.
    #[error(transparent)]
    Config(#[from] LoadError),
    /// A topic's attributes and its queues contradict each other.
    #[error("{0}")]
    Topics(String),
    /// `brokerIP1` is no address.
    #[error("brokerIP1={0} is not an IP address: set it to the address that clients reach this broker at")]
    Address(String),
    /// `bindAddress` is no address.
    #[error("bindAddress={0} is not an IP address: set it to an address of this machine, or 0.0.0.0 for all")]
    Bind(String),
    /// A port is taken.
    #[error("the broker cannot listen on port {port}: {source}; stop what uses the port or set another listenPort")]
    Listen { port: u16, source: io::Error },
    /// A socket or reactor thread could not be had.
    #[error(transparent)]
    Server(#[from] ferromq_remoting::StartError),
    /// A thread could not be had.
    #[error("the broker cannot start a thread: {0}")]
    Thread(#[from] io::Error),
}

/// The tables and services every handler may ask. One per broker, behind an `Arc`.
pub struct Shared {
    pub config: BrokerConfig,
    pub store: Arc<Store>,
    /// Largest body, bytes (`maxMessageSize` of the store).
    pub max_message_size: usize,
    /// A log of up to this many bytes is taken to be in memory as a whole; in a larger one each pull is looked at.
    pub warm_log_bytes: u64,
    pub topics: Topics,
    pub groups: Groups,
    pub clients: Clients,
    pub locks: OrderLocks,
    pub offsets: Offsets,
    pub polls: Arc<LongPolls>,
    pub pops: Pops,
    pub order_pops: OrderPops,
    pub(crate) lites: Arc<Lites>,
    pub request_modes: RequestModes,
    pub consumer_filters: ConsumerFilters,
    pub broadcast: BroadcastOffsets,
    pub(crate) topic_routes: TopicRoutes,
    pub(crate) front_door: OnceLock<FrontDoor>,
    /// Where check points and acknowledgements of pops are kept.
    pub revive_topic: String,
    pub timer: Arc<Timer>,
    pub blocking: Blocking,
    pub transactions: Transactions,
    pub limits: Limits,
    pub cold: ColdReads,
    /// Settings that may change while the broker runs.
    pub live: Live,
    pub stats: Stats,
    pub rates: Rates,
    /// The address clients know, in offset message ids and stored records: `brokerIP1` and the listen port.
    pub store_host: SocketAddr,
    /// Makes a message id when a producer sent none.
    pub unique_ids: UniqueIds,
    pub(crate) send: Arc<SendConstants>,
}

impl Shared {
    /// The address clients know, `host:port`.
    pub fn address(&self) -> String {
        self.store_host.to_string()
    }

    /// Why sends are refused whatever they are, if that is so.
    pub fn unready(&self) -> Option<String> {
        if let Some(error) = self.store.write_error() {
            return Some(error.to_string());
        }
        if !perm::is_writeable(self.live.broker_permission()) {
            return Some("brokerPermission sends producers elsewhere".to_owned());
        }
        let start = self.live.start_accept_send_request_time_stamp();
        let early = start > 0 && clock::now_millis() < start;
        early.then(|| format!("the broker takes messages from {start} on (startAcceptSendRequestTimeStamp)"))
    }

    /// Answers the parked pulls that arrivals have made ready.
    pub(crate) fn answer_ready_polls(self: &Arc<Self>) {
        for parked in self.polls.take_ready() {
            pull::resume(self, parked);
        }
        self.lites.answer_ready(self);
        // Each pop may leave something to the next that waits.
        loop {
            let ready = self.pops.polls.take_ready();
            if ready.is_empty() {
                return;
            }
            for waiter in ready {
                self.serve_waiter(waiter);
            }
            self.store.dispatch();
        }
    }

    fn serve_waiter(self: &Arc<Self>, waiter: polls::Waiter) {
        if !(waiter.is_open)() {
            // What made it ready is for the next.
            self.pops.polls.wake_one(&waiter.request.topic, &waiter.request.group);
            return;
        }
        let cold = take::is_cold(self, &waiter.request);
        if cold {
            let shared = Arc::clone(self);
            // When too many wait already, the client asks again after its own time-out.
            let _ = self.blocking.run(move || polls::serve(&shared, waiter));
        } else {
            polls::serve(self, waiter);
        }
    }

    /// The content of `consumerOffset.json`. Offsets that a pop moved are in it only when the check point is on the disk:
    /// a power cut may take neither, or the offset alone. A start reads from the log what is newer than this file: that of
    /// the ordered pops has to have all before, so it is filled later and is on the disk earlier.
    fn encode_offsets(&self) -> io::Result<Vec<u8>> {
        let (now, position) = self.pops.settle(&self.offsets, &self.revive_topic, |id| end_of(self, id));
        let content = self.offsets.encode(now)?;
        self.order_pops.save(|topic, group| self.topics.get(topic).is_some() && self.groups.get(group).is_some())?;
        let (told, durable) = std::sync::mpsc::sync_channel(1);
        self.store.when_durable(
            position,
            Box::new(move |durability| {
                // Nobody listens any more only after a panic.
                let _ = told.send(durability);
            }),
        );
        match durable.recv() {
            Ok(Durability::Durable) => Ok(content),
            _ => Err(io::Error::other("the commit log could not be forced to the disk before")),
        }
    }
}

/// A running broker.
pub struct Broker {
    shared: Arc<Shared>,
    server: Server,
    registration: Arc<Registration>,
    persister: Persister,
    checker: Checker,
    reviver: Reviver,
}

impl Broker {
    /// Opens the store, reads the tables, listens, and begins to register with the name servers.
    pub fn start(mut config: BrokerConfig, store: StoreConfig) -> Result<Broker, StartError> {
        let listen = Listen::new(&mut config)?;
        let ip: IpAddr = config.broker_ip1.parse().map_err(|_| StartError::Address(config.broker_ip1.clone()))?;
        let store_host = SocketAddr::new(ip, config.listen_port);
        let root = store.root.clone();
        let polls = Arc::new(LongPolls::default());
        let pop_polls = Arc::new(PopPolls::default());
        let lites = Arc::new(Lites::default());
        let (pulls, popping, subscribed) = (Arc::clone(&polls), Arc::clone(&pop_polls), Arc::clone(&lites));
        let delayed: Arc<OnceLock<Arc<Timer>>> = Arc::default();
        let timer = Arc::clone(&delayed);
        let listener = move |arrival: &Arrival<'_>| {
            if let Some(timer) = timer.get() {
                timer.arrived(arrival.queue, arrival.tags_code);
            }
            pulls.arrived(arrival);
            popping.arrived(arrival.queue, arrival.tags_code);
            subscribed.arrived(arrival.queue.topic());
        };
        let max_message_size = store.max_message_size;
        let warm_log_bytes = if store.access_message_in_memory_max_ratio == 0 { 0 } else { WARM_LOG_BYTES };
        let delays = store.delays();
        let saving = Arc::new(SaveSignal::default());
        let topics = Topics::open(&root, &config, Arc::clone(&saving))?;
        let copied = copied_topics(&root)?;
        let (batch_topics, compacted_topics) = (topics.batch_names(), topics.compacted_names(copied));
        let store = StoreConfig { batch_topics, compacted_topics, ..store };
        let store = Arc::new(Store::open(store, Arc::new(listener))?);
        polls.set_store(&store);
        let revive_topic = revive_topic(&config.broker_cluster_name);
        // With fewer queues than before, the others are still read back.
        let used = store.queues(&revive_topic).iter().map(|queue| queue.id() + 1).max().unwrap_or(0);
        let revive_queues = config.pop.revive_queue_num.max(used);
        let timer = Arc::new(Timer::open(&root, &config, &store, delays)?);
        let timer = Arc::clone(delayed.get_or_init(|| timer));
        let offsets = Offsets::open(&root, config.enable_lmq)?;
        let shared = Arc::new(Shared {
            transactions: Transactions::open(&root, &store, &offsets, &config, max_message_size),
            topics,
            groups: Groups::open(&root, &config, Arc::clone(&saving))?,
            offsets,
            broadcast: BroadcastOffsets::default(),
            clients: Clients::default(),
            locks: OrderLocks::default(),
            blocking: Blocking::start()?,
            limits: Limits::default(),
            cold: ColdReads::default(),
            live: Live::new(&config),
            stats: Stats::default(),
            rates: Rates::default(),
            unique_ids: UniqueIds::new(ip, std::process::id(), config.listen_port.into()),
            send: Arc::new(SendConstants::new(&config, store_host)),
            store_host,
            store,
            max_message_size,
            warm_log_bytes,
            polls,
            pops: Pops::new(revive_queues, pop_polls),
            order_pops: OrderPops::open(&root)?,
            lites,
            request_modes: RequestModes::open(&root, Arc::clone(&saving))?,
            consumer_filters: ConsumerFilters::open(&root, clock::now_millis()),
            topic_routes: TopicRoutes::new(config.namesrv_addr.as_deref()),
            front_door: OnceLock::new(),
            revive_topic,
            timer,
            config,
        });
        // Weak, because the store lives in what the closure would keep alive.
        let after = Arc::downgrade(&shared);
        shared.store.set_after_dispatch(move || {
            if let Some(shared) = after.upgrade() {
                shared.answer_ready_polls();
            }
        });
        let period = Duration::from_millis(shared.config.flush_consumer_offset_interval);
        let persister = Persister::start(saving, saved::tables(&shared), period)?;
        shared.topics.restore_missing(&shared.store).map_err(StartError::Topics)?;
        shared.groups.restore_missing(&shared.offsets);
        replay(&shared);
        let reviver = Reviver::start(&shared)?;
        shared.timer.start(&shared)?;
        let service = BrokerService { shared: Arc::clone(&shared), fast_port: listen.fast_port() };
        let server = serve(&shared.config, listen, service)?;
        server.spawn(sweep::sweep(Arc::clone(&shared)));
        server.spawn(clients::tell_changes(Arc::clone(&shared)));
        server.spawn(clients::drop_silent(Arc::clone(&shared)));
        let registration = Registration::new(Arc::clone(&shared), identity(&shared));
        server.spawn(Arc::clone(&registration).run());
        let checker = Checker::start(Arc::clone(&shared))?;
        Ok(Broker { shared, server, registration, persister, checker, reviver })
    }

    /// The address clients know.
    pub fn addr(&self) -> SocketAddr {
        self.shared.store_host
    }

    /// The tables and the store.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The way in for callers of this process.
    pub fn local_peers(&self) -> LocalPeers {
        self.server.local_peers()
    }

    /// Waits until every name server has been asked to register this broker, at most `limit`; whether all were.
    pub fn wait_registered(&self, limit: Duration) -> bool {
        self.registration.wait_first_round(limit)
    }

    /// Leaves the name servers, finishes what is in hand, and closes the files. Blocks for some seconds at most.
    pub fn shutdown(self) {
        self.registration.stop();
        self.shared.polls.drain();
        self.server.shutdown(DRAIN);
        self.checker.stop();
        self.reviver.stop();
        self.shared.timer.stop();
        // What was delivered is on the disk before the files say that it was.
        self.shared.store.checkpoint_now();
        self.persister.stop();
        self.shared.store.shutdown();
    }
}

/// Where to listen. A free port is taken at once and kept, and filled in; others are only looked at before the store is
/// opened, so that clients do not wait at a closed door while it recovers.
struct Listen {
    bound: Option<TcpListener>,
    /// The main address and the fast one.
    addresses: Vec<SocketAddr>,
}

impl Listen {
    fn new(config: &mut BrokerConfig) -> Result<Self, StartError> {
        let ip: IpAddr = config.bind_address.parse().map_err(|_| StartError::Bind(config.bind_address.clone()))?;
        if config.listen_port == 0 {
            let failed = |source| StartError::Listen { port: 0, source };
            let listener = ferromq_remoting::listen(SocketAddr::new(ip, 0))?;
            config.listen_port = listener.local_addr().map_err(failed)?.port();
            return Ok(Self { bound: Some(listener), addresses: Vec::new() });
        }
        let fast = config.listen_port.checked_sub(FAST_PORT_DISTANCE).filter(|port| *port > 0);
        let mut addresses = Vec::new();
        for port in std::iter::once(config.listen_port).chain(fast) {
            TcpListener::bind((ip, port)).map_err(|source| StartError::Listen { port, source })?;
            addresses.push(SocketAddr::new(ip, port));
        }
        Ok(Self { bound: None, addresses })
    }

    /// 0: none.
    fn fast_port(&self) -> u16 {
        self.addresses.get(1).map_or(0, SocketAddr::port)
    }
}

fn serve(config: &BrokerConfig, listen: Listen, service: BrokerService) -> Result<Server, StartError> {
    let mut server = ServerConfig::new(listen.addresses);
    server.bound.extend(listen.bound);
    if config.reactors > 0 {
        server.reactors = config.reactors;
    }
    server.max_connections = config.max_connections;
    server.limits.idle = Duration::from_secs(config.server_channel_max_idle_time_seconds);
    Ok(Server::start(server, Arc::new(service))?)
}

fn identity(shared: &Shared) -> Identity {
    let mut ha_address = shared.store_host;
    ha_address.set_port(shared.store_host.port().saturating_add(1));
    Identity {
        cluster: shared.config.broker_cluster_name.clone(),
        broker_name: shared.config.broker_name.clone(),
        broker_id: shared.config.broker_id,
        address: shared.address(),
        ha_address: ha_address.to_string(),
    }
}
