//! Receipt handles that the proxy keeps alive while a push consumer works on their messages
//! (`DefaultReceiptHandleManager`): the consumer keeps the handle it was given, the proxy knows the one that counts.
//!
//! Handles belong to a client and its group. A client that connects again under its id keeps them; those of one that has
//! left or vanished are given back. While a handle is renewed, whoever wants to use it waits: an acknowledgement that
//! names the handle of before would be lost.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use ferromq_common::clock;
use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use tokio::task::JoinSet;

use crate::broadcast;
use crate::call::Caller;
use crate::clients::Clients;
use crate::door::Door;
use crate::handle::Handle;
use crate::pb::Code;
use crate::rpc::invisible::{self, Wait};
use crate::settings;
use crate::status::Refused;

/// Most handles kept alive; messages beyond that come back when their time is over.
const MAX_HELD: usize = 1_000_000;
/// Most requests to the broker at the same time.
const AT_ONCE: usize = 32;
/// A handle is renewed when its message is visible again within this time, milliseconds (`renewAheadTimeMillis`).
const AHEAD_MS: i64 = 10_000;
/// How long the first renewals last, minutes; the last step goes on (`RenewStrategyPolicy`).
const STEPS_MIN: [i64; 6] = [1, 3, 5, 10, 30, 60];
/// After this time a message is not kept from others any longer (`renewMaxTimeMillis`).
const MAX_HELD_FOR: Duration = Duration::from_secs(3 * 3600);
/// Tries in a row that may fail (`maxRenewRetryTimes`).
const MAX_FAILURES: u32 = 3;
/// Messages of a client that is gone are visible again after this time, milliseconds (`invisibleTimeMillisWhenClear`).
const GIVEN_BACK_MS: i64 = 1000;

/// A message that is kept from others.
pub(crate) struct Held {
    caller: Caller,
    topic: String,
    group: String,
    /// The handle that the consumer was given.
    given: String,
    /// Deliveries before this one.
    times: i32,
    since: Instant,
    /// When the message is visible again, milliseconds since 1970.
    visible_at: AtomicI64,
    state: Arc<AsyncMutex<State>>,
}

/// What changes with a renewal.
struct State {
    handle: Handle,
    renewals: usize,
    failures: u32,
    /// Nothing is to be done any more.
    over: bool,
}

impl Held {
    pub fn new(caller: &Caller, topic: &str, group: &str, handle: Handle, times: i32) -> Self {
        Held {
            caller: caller.clone(),
            topic: topic.to_owned(),
            group: group.to_owned(),
            given: handle.text().to_owned(),
            times,
            since: Instant::now(),
            visible_at: AtomicI64::new(handle.visible_at()),
            state: Arc::new(AsyncMutex::new(State { handle, renewals: 0, failures: 0, over: false })),
        }
    }
}

/// The handle that counts. As long as this lives it is not renewed.
pub(crate) struct Latest {
    pub handle: Handle,
    held: Option<(Arc<Held>, OwnedMutexGuard<State>)>,
}

impl Latest {
    /// That of a message of a lite topic, if its consumer names one.
    pub fn of_lite(self, lite: Option<&str>) -> Self {
        Latest { handle: self.handle.of_lite(lite), ..self }
    }
}

/// Handles of a group's member, by the text it was given.
type Handles = HashMap<String, Arc<Held>>;

/// All of them, by client and group.
#[derive(Default)]
struct Table {
    clients: HashMap<String, HashMap<String, Handles>>,
    count: usize,
}

impl Table {
    fn remove(&mut self, held: &Held) {
        let Some(groups) = self.clients.get_mut(&held.caller.client_id) else { return };
        let Some(handles) = groups.get_mut(&held.group) else { return };
        if handles.remove(&held.given).is_some() {
            self.count -= 1;
        }
        if handles.is_empty() {
            groups.remove(&held.group);
        }
        if groups.is_empty() {
            self.clients.remove(&held.caller.client_id);
        }
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Held>> {
        self.clients.values().flat_map(HashMap::values).flat_map(HashMap::values)
    }

    fn of_client(&self, client_id: &str) -> Vec<Arc<Held>> {
        self.clients.get(client_id).into_iter().flat_map(HashMap::values).flat_map(HashMap::values).cloned().collect()
    }

    /// Clients, each with a group of which it has handles.
    fn members(&self) -> Vec<(String, String)> {
        let groups = |(client, groups): (&String, &HashMap<String, Handles>)| {
            groups.keys().map(|group| (client.clone(), group.clone())).collect::<Vec<_>>()
        };
        self.clients.iter().flat_map(groups).collect()
    }

    fn of_member(&self, (client, group): (&str, &str)) -> impl Iterator<Item = &Arc<Held>> {
        self.clients.get(client).and_then(|groups| groups.get(group)).into_iter().flat_map(HashMap::values)
    }
}

/// Whether a client has left, or is of another group by now.
fn is_gone((client, group): (&str, &str), clients: &Clients) -> bool {
    let now = clients.get(client).and_then(|client| settings::group(&client.settings()));
    !now.is_some_and(|now| *group == now || broadcast::is_of(group, &now))
}

/// All handles that are kept alive.
pub(crate) struct Renewals {
    door: Door,
    table: Mutex<Table>,
}

impl Renewals {
    pub fn new(door: Door) -> Self {
        Renewals { door, table: Mutex::default() }
    }

    pub fn hold(&self, held: Held) {
        let mut table = self.table.lock();
        if table.count >= MAX_HELD {
            return;
        }
        let groups = table.clients.entry(held.caller.client_id.clone()).or_default();
        let before = groups.entry(held.group.clone()).or_default().insert(held.given.clone(), Arc::new(held));
        table.count += usize::from(before.is_none());
    }

    /// How many handles of a group's member are kept alive.
    pub fn count(&self, client_id: &str, group: &str) -> usize {
        let table = self.table.lock();
        table.clients.get(client_id).and_then(|groups| groups.get(group)).map_or(0, HashMap::len)
    }

    /// The handle that counts for one that a member of a group names.
    pub async fn latest(&self, caller: &Caller, group: &str, text: &str) -> Result<Latest, Refused> {
        let held = {
            let table = self.table.lock();
            let groups = table.clients.get(&caller.client_id);
            groups.and_then(|groups| groups.get(group)).and_then(|handles| handles.get(text)).cloned()
        };
        let Some(held) = held else { return Ok(Latest { handle: Handle::read(text)?, held: None }) };
        let state = Arc::clone(&held.state).lock_owned().await;
        Ok(Latest { handle: state.handle.clone(), held: Some((held, state)) })
    }

    /// The message is done with.
    pub fn release(&self, latest: Latest) {
        if let Some((held, mut state)) = latest.held {
            self.end(&held, &mut state);
        }
    }

    fn end(&self, held: &Held, state: &mut State) {
        state.over = true;
        self.table.lock().remove(held);
    }

    /// Gives back what belongs to clients that are gone, and renews what would be visible again soon.
    pub async fn renew_due(self: &Arc<Self>, clients: &Arc<Clients>) {
        let members = self.table.lock().members();
        for (client, group) in &members {
            let member = (client.as_str(), group.as_str());
            let is_gone = is_gone(member, clients);
            let soon = clock::now_millis() + AHEAD_MS;
            let is_wanted = |held: &&Arc<Held>| is_gone || held.visible_at.load(Ordering::Relaxed) <= soon;
            // Whoever receives or acknowledges meanwhile waits for a look at one member's handles, not at all of them.
            let wanted: Vec<_> = self.table.lock().of_member(member).filter(is_wanted).cloned().collect();
            if is_gone {
                self.give_back(wanted).await;
                continue;
            }
            each(wanted, |held| {
                let (renewals, clients) = (Arc::clone(self), Arc::clone(clients));
                async move { renewals.renew(&clients, &held).await }
            })
            .await;
        }
    }

    async fn renew(&self, clients: &Clients, held: &Held) {
        let mut state = held.state.lock().await;
        if state.over {
            return;
        }
        if held.since.elapsed() >= MAX_HELD_FOR {
            let client = clients.get(&held.caller.client_id);
            let wait = client.map_or(GIVEN_BACK_MS, |client| settings::wait_after(&client.settings(), held.times));
            return self.give_up(held, &mut state, wait).await;
        }
        let minutes = STEPS_MIN[state.renewals.min(STEPS_MIN.len() - 1)];
        match self.change(held, &state.handle, minutes * 60_000).await {
            Ok(handle) => {
                held.visible_at.store(handle.visible_at(), Ordering::Relaxed);
                state.handle = handle;
                state.renewals += 1;
                state.failures = 0;
            }
            Err(refused) => {
                state.failures += 1;
                if refused.code == Code::InvalidReceiptHandle || state.failures >= MAX_FAILURES {
                    tracing::debug!(handle = held.given, ?refused, "a receipt handle cannot be renewed");
                    self.end(held, &mut state);
                }
            }
        }
    }

    /// The messages of a client that leaves are for others.
    pub async fn client_left(self: &Arc<Self>, client_id: &str) {
        let left = self.table.lock().of_client(client_id);
        self.give_back(left).await;
    }

    /// The proxy stops: all messages are for others.
    pub async fn give_all_back(self: &Arc<Self>) {
        let all = self.table.lock().all().cloned().collect();
        self.give_back(all).await;
    }

    async fn give_back(self: &Arc<Self>, left: Vec<Arc<Held>>) {
        each(left, |held| {
            let renewals = Arc::clone(self);
            async move {
                let mut state = held.state.lock().await;
                if !state.over {
                    renewals.give_up(&held, &mut state, GIVEN_BACK_MS).await;
                }
            }
        })
        .await;
    }

    async fn give_up(&self, held: &Held, state: &mut State, invisible_ms: i64) {
        self.end(held, state);
        if let Err(refused) = self.change(held, &state.handle, invisible_ms).await {
            tracing::debug!(handle = held.given, ?refused, "a message is visible again only when its time is over");
        }
    }

    async fn change(&self, held: &Held, handle: &Handle, invisible_ms: i64) -> Result<Handle, Refused> {
        let line = self.door.line(&held.caller);
        invisible::one(&line, &held.topic, &held.group, handle, Wait::of(invisible_ms)).await
    }
}

/// Does something with all of them, a few at a time.
async fn each<F>(all: Vec<Arc<Held>>, act: impl Fn(Arc<Held>) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut under_way = JoinSet::new();
    for held in all {
        if under_way.len() >= AT_ONCE {
            under_way.join_next().await;
        }
        under_way.spawn(act(held));
    }
    while under_way.join_next().await.is_some() {}
}

#[cfg(test)]
mod tests;
