//! Lite topics (RocketMQ 5.5): very many topics under one parent, each a light queue `%LMQ%$parent$lite` in which messages of
//! the parent stand that name it (`handler/send.rs`). Clients subscribe to sets of them and pop from all with one request.
//!
//! `registry.rs` knows who subscribes to what, `events.rs` for each client the lite topics in which messages wait. An arrival is
//! noted by the thread that dispatches and told to one client of each group (`dispatch.rs`); pops that wait stand in
//! `polls.rs`. A pop (`take.rs`) looks at the noted topics only. Consumption is in order: a lite topic gives a group
//! nothing while a message of its last pop is neither acknowledged nor visible again; that lives in memory, and the
//! group's offset moves with the acknowledgement (`ack.rs`). `subscribe.rs` changes subscriptions, `upkeep.rs` forgets idle
//! clients and topics, `info.rs` answers tools. Requests and answers here are plain values: `handler/lite.rs` knows remoting headers.

pub(crate) mod ack;
mod dispatch;
mod events;
pub(crate) mod info;
pub(crate) mod polls;
mod registry;
pub(crate) mod subscribe;
pub(crate) mod take;
mod unlocks;
mod upkeep;

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use ferromq_protocol::body::SubscriptionGroupConfig;
use ferromq_remoting::Connection;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Semaphore;

use crate::broker::Shared;
use crate::config::LiteConfig;
use crate::handler::Refusal;
use crate::limits;
use crate::offsets::with_pair;
use crate::pop::OrderPops;
use polls::Polls;
use registry::Registry;
use unlocks::Unlocks;

/// The only queue of a light topic.
const QUEUE_ID: u32 = 0;
/// Pops and acknowledgements of one lite topic by one group follow each other; others share a lock by chance.
const STRIPES: usize = 64;

/// Most pulls that wait for lite topics without a message.
const MAX_WAITING_PULLS: usize = 10_000;

/// Attribute of a group: the parent topic whose lite topics it consumes.
pub(crate) const BIND_TOPIC: &str = "lite.bind.topic";
/// `Exclusive`: a lite topic belongs to the member that subscribed last.
const MODEL: &str = "lite.sub.model";
/// Whether the next owner of an exclusive lite topic begins with its oldest message.
const RESET_EXCLUSIVE: &str = "lite.sub.reset.offset.exclusive";
/// Whether the group begins anew with a lite topic that a member unsubscribed from.
const RESET_UNSUBSCRIBE: &str = "lite.sub.reset.offset.unsubscribe";
/// Most lite topics with messages that are noted for one client.
const MAX_EVENTS: &str = "lite.sub.client.max.event.cnt";
/// Members take all lite topics of the parent.
const WILDCARD: &str = "lite.sub.wildcard";
/// Attribute of a parent topic: minutes after its last message that a lite topic goes; not above 0: never.
const EXPIRATION: &str = "lite.topic.expiration";

/// All lite topics' consumers. Methods may be called from any thread.
pub(crate) struct Lites {
    state: Mutex<State>,
    /// Queues with messages that nobody has been told of, by name.
    arrived: Mutex<HashSet<String>>,
    any_arrived: AtomicBool,
    any_ready: AtomicBool,
    /// The last pop of each queue by each group.
    orders: OrderPops,
    hasher: RandomState,
    takings: Box<[Mutex<()>]>,
    /// One permit per pull that waits.
    pulls: Arc<Semaphore>,
}

/// What is locked together; the tables of groups, offsets and orders may be asked meanwhile.
struct State {
    registry: Registry<Arc<Connection>>,
    polls: Polls,
    unlocks: Unlocks,
    /// Counts messages told: each begins with another client.
    turn: usize,
    upkeep: upkeep::Clocks,
}

impl Default for Lites {
    fn default() -> Self {
        let state = State {
            registry: Registry::default(),
            polls: Polls::default(),
            unlocks: Unlocks::default(),
            turn: 0,
            upkeep: upkeep::Clocks::new(Instant::now()),
        };
        Self {
            state: Mutex::new(state),
            arrived: Mutex::default(),
            any_arrived: AtomicBool::new(false),
            any_ready: AtomicBool::new(false),
            orders: OrderPops::default(),
            hasher: RandomState::new(),
            takings: (0..STRIPES).map(|_| Mutex::default()).collect(),
            pulls: Arc::new(Semaphore::new(MAX_WAITING_PULLS)),
        }
    }
}

impl Lites {
    /// Held from the look at a group's offset in a queue until the messages are handed out or acknowledged.
    fn taking(&self, queue: &str, group: &str) -> MutexGuard<'_, ()> {
        with_pair(queue, group, |pair| self.takings[self.hasher.hash_one(pair) as usize % STRIPES].lock())
    }

    /// Runs `answer`, that of a pull of a lite topic without a message, after `wait`; refuses when too many wait already.
    pub(crate) fn answer_later(&self, wait: Duration, answer: impl FnOnce() + Send + 'static) -> Result<(), Refusal> {
        let remark = "[FLOW_CONTROL]too many pulls wait for lite topics that have no message, pull later";
        limits::hold_in(&self.pulls, remark, wait, answer)
    }
}

/// The attributes of a group that say how its members consume lite topics.
struct Traits(Option<Arc<SubscriptionGroupConfig>>);

impl Traits {
    fn of(broker: &Shared, group: &str) -> Self {
        Traits(broker.groups.get(group))
    }

    fn value(&self, key: &str) -> Option<&str> {
        self.0.as_ref()?.attributes.get(key).map(String::as_str)
    }

    fn is(&self, key: &str, value: &str) -> bool {
        self.value(key).is_some_and(|given| given.eq_ignore_ascii_case(value))
    }

    fn is_wildcard(&self) -> bool {
        self.value(WILDCARD).is_some()
    }

    fn is_exclusive(&self) -> bool {
        self.is(MODEL, "Exclusive")
    }

    fn max_events(&self, config: &LiteConfig) -> usize {
        let own = self.value(MAX_EVENTS).and_then(|text| text.parse().ok()).filter(|count| *count > 0);
        own.unwrap_or(config.max_client_event_count)
    }
}
