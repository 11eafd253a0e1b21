//! One client of the proxy: its connections to brokers, and its requests to them.

use std::collections::{BTreeMap, HashMap};
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferromq_client::Error;
use ferromq_protocol::code::{request, response};
use ferromq_protocol::header::namesrv::GetRouteInfoHeader;
use ferromq_protocol::{FrameWriter, Head, OwnedCommand, json};
use ferromq_remoting::{Client, ClientConfig, Connection};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::Shared;
use super::back::{BackChannel, pass};
use super::code::{Whom, broker_in_body, wait_field, whom};
use crate::observe::{Outcome, Protocol, Sent};
use crate::status::Refused;

/// Requests of one client that wait for brokers at the same time.
const MAX_WAITING: usize = 4096;
/// A broker's time for a request, besides what the request itself wants to wait.
const LIMIT: Duration = Duration::from_secs(10);
/// The longest that a request may want to wait, milliseconds.
const MAX_WAIT_MS: i64 = 600_000;
/// The same heartbeat is not passed on again within this time: a client says it once for each broker of its routes, all of
/// which are the proxy to it.
const BEAT_PAUSE: Duration = Duration::from_secs(1);
/// All brokers' time for what all are told: one that is dead must not make a client's heartbeat fail.
const TELL_LIMIT: Duration = Duration::from_secs(2);

/// A client's connection.
pub(super) struct Session {
    shared: Arc<Shared>,
    client: Arc<Connection>,
    /// The broker that all requests are for, if the client came in by its port.
    broker: Option<Arc<str>>,
    brokers: Client,
    /// The last heartbeat, said again to brokers that come later.
    beat: Mutex<Option<Arc<OwnedCommand>>>,
    /// When brokers have taken it.
    beat_taken: Mutex<Option<Instant>>,
    /// The connection, by address, over which it was said last.
    said: Mutex<HashMap<String, u64>>,
    places: Arc<Semaphore>,
}

/// A code and why.
struct Refusal(i32, String);

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        Refusal(response::SYSTEM_ERROR, refused.message)
    }
}

enum Answer {
    Passed(OwnedCommand),
    Body(Vec<u8>),
    Done,
}

impl Session {
    pub fn open(shared: Arc<Shared>, client: &Arc<Connection>) -> Arc<Session> {
        let back = Arc::new(BackChannel { client: Arc::downgrade(client), shared: Arc::clone(&shared) });
        Arc::new(Session {
            broker: shared.ports.broker(client.local().port()),
            brokers: Client::new(ClientConfig::default(), Some(back)),
            client: Arc::clone(client),
            shared,
            beat: Mutex::default(),
            beat_taken: Mutex::default(),
            said: Mutex::default(),
            places: Arc::new(Semaphore::new(MAX_WAITING)),
        })
    }

    /// The client has gone; brokers learn it by the end of its connections.
    pub fn close(&self) {
        self.brokers.close();
    }

    /// Serves one request by a task of this reactor, so that all of a client's connections live on one thread.
    pub fn take(self: &Arc<Self>, request: OwnedCommand, out: &mut Vec<u8>) {
        let head = request.head();
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            let why = format!("{MAX_WAITING} requests of this connection wait for brokers already; send slower");
            return answer(out, &head, Err(Refusal(response::SYSTEM_BUSY, why)));
        };
        let (session, began) = (Arc::clone(self), Instant::now());
        tokio::spawn(async move {
            let polls = wanted_wait(&request) > 0;
            let outcome = session.serve(request).await;
            let code = code_of(&outcome);
            // A push fails when the client has gone.
            let sent = match session.client.push(|out| answer(out, &head, outcome)) {
                _ if head.is_oneway() => Sent::Oneway,
                Ok(()) => Sent::Success,
                Err(_) => Sent::WriteChannelFailed,
            };
            let call = request::name(head.code).unwrap_or("other");
            let outcome = Outcome { protocol: Protocol::Remoting, call, code, polls: Some(polls), sent };
            session.shared.calls.served(outcome, &session.client.peer(), began);
            drop(place);
        });
    }

    async fn serve(self: &Arc<Self>, request: OwnedCommand) -> Result<Answer, Refusal> {
        let code = request.head().code;
        let Some(whom) = whom(code) else {
            let why = format!(" request type {code} not supported");
            return Err(Refusal(response::REQUEST_CODE_NOT_SUPPORTED, why));
        };
        match (whom, &self.broker) {
            (Whom::Proxy, _) => self.route(&request).await.map(Answer::Body),
            (Whom::All, broker) => all_well(self.tell(broker.clone(), &Arc::new(request)).await?),
            (Whom::Presence, broker) => self.be_present(broker.clone(), Arc::new(request)).await,
            (_, Some(broker)) => self.ask(broker, &request).await,
            (Whom::Named(field), None) => {
                let name = request.command().fields.opt_str(field).map(|name| name.into_owned());
                let Some(name) = name else {
                    let why = format!("Request doesn't have field {field}: which broker it is for");
                    return Err(Refusal(response::VERSION_NOT_SUPPORTED, why));
                };
                self.ask(&name, &request).await
            }
            (Whom::Body, None) => self.ask_named_in_body(&request).await,
            (Whom::Any, None) => self.ask_any(&request).await,
        }
    }

    /// GET_ROUTEINFO_BY_TOPIC: the brokers are where the proxy is.
    async fn route(&self, request: &OwnedCommand) -> Result<Vec<u8>, Refusal> {
        let command = request.command();
        let broken = |why: String| Refusal(response::SYSTEM_ERROR, why);
        let header = GetRouteInfoHeader::read(&command.fields).map_err(|error| broken(error.to_string()))?;
        let topic = header.topic.to_str().map_err(|error| broken(error.to_string()))?;
        let mut route = self.shared.cluster.route(&topic).await.map_err(|error| match error {
            Error::NoRoute { .. } => {
                let why = format!("No topic route info in name server for the topic: {topic}");
                Refusal(response::TOPIC_NOT_EXIST, why)
            }
            other => broken(other.to_string()),
        })?;
        for broker in &mut route.broker_datas {
            let Some(id) = broker.broker_addrs.keys().next().copied() else { continue };
            let told = self.shared.ports.told(&broker.broker_name, &command.head, self.client.local());
            broker.broker_addrs = BTreeMap::from([(id, told.map_err(broken)?)]);
        }
        route.filter_server_table.clear();
        json::to_vec_for(&command, &route).map_err(|error| broken(error.to_string()))
    }

    async fn ask_named_in_body(&self, request: &OwnedCommand) -> Result<Answer, Refusal> {
        let broker = broker_in_body(request)
            .map_err(|error| Refusal(response::SYSTEM_ERROR, format!("the body cannot be read: {error}")))?;
        match broker {
            Some(broker) => self.ask(&broker, request).await,
            None => Ok(Answer::Done),
        }
    }

    async fn ask_any(&self, request: &OwnedCommand) -> Result<Answer, Refusal> {
        let mut last = Refusal(response::SYSTEM_ERROR, "no broker is registered".to_owned());
        for broker in self.shared.cluster.masters().await? {
            match self.ask(&broker, request).await {
                Err(refusal) => last = refusal,
                answered => return answered,
            }
        }
        Err(last)
    }

    /// HEART_BEAT and UNREGISTER_CLIENT: it is enough that some brokers take it.
    async fn be_present(
        self: &Arc<Self>,
        broker: Option<Arc<str>>,
        request: Arc<OwnedCommand>,
    ) -> Result<Answer, Refusal> {
        let is_beat = request.head().code == request::HEART_BEAT;
        let before = mem::replace(&mut *self.beat.lock(), is_beat.then(|| Arc::clone(&request)));
        let is_same = is_beat && before.is_some_and(|before| before.body() == request.body());
        if is_same && self.beat_taken.lock().is_some_and(|at| at.elapsed() < BEAT_PAUSE) {
            return Ok(Answer::Done);
        }
        *self.beat_taken.lock() = None;
        let told = self.tell(broker, &request).await?;
        if told.iter().all(Result::is_err) {
            return all_well(told);
        }
        *self.beat_taken.lock() = is_beat.then(Instant::now);
        Ok(Answer::Done)
    }

    /// The same to the broker of the port, else to all of them, and what each says to it.
    async fn tell(
        self: &Arc<Self>,
        broker: Option<Arc<str>>,
        request: &Arc<OwnedCommand>,
    ) -> Result<Vec<Result<(), Refusal>>, Refusal> {
        let brokers = match broker {
            Some(broker) => vec![broker.to_string()],
            None => self.shared.cluster.masters().await?,
        };
        if brokers.is_empty() {
            return Err(Refusal(response::SYSTEM_ERROR, "no broker is registered".to_owned()));
        }
        let mut told = JoinSet::new();
        for broker in brokers {
            let (session, request) = (Arc::clone(self), Arc::clone(request));
            told.spawn(async move {
                match tokio::time::timeout(TELL_LIMIT, session.ask(&broker, &request)).await {
                    Ok(Ok(Answer::Passed(answer))) if answer.head().code != response::SUCCESS => {
                        Err(Refusal(answer.head().code, answer.remark_lossy().into_owned()))
                    }
                    Ok(outcome) => outcome.map(drop),
                    Err(_) => Err(Refusal(response::SYSTEM_ERROR, format!("broker {broker} is silent"))),
                }
            });
        }
        Ok(told.join_all().await)
    }

    /// One request to a broker; any answer.
    async fn ask(&self, broker: &str, request: &OwnedCommand) -> Result<Answer, Refusal> {
        let cluster = &self.shared.cluster;
        let addr = cluster.addr_of(broker).await?;
        let asked = self.ask_at(&addr, request).await;
        cluster.note(broker, matches!(asked, Err(ref refusal) if refusal.0 == response::SYSTEM_ERROR));
        asked
    }

    async fn ask_at(&self, addr: &str, request: &OwnedCommand) -> Result<Answer, Refusal> {
        let failed = |why: &dyn std::fmt::Display| Refusal(response::SYSTEM_ERROR, format!("{addr}: {why}"));
        let connection = self.brokers.connection(addr).await.map_err(|error| failed(&error))?;
        self.introduce(addr, &connection, request);
        if request.head().is_oneway() {
            connection.oneway(|out, opaque| pass(out, request, opaque)).map_err(|error| failed(&error))?;
            return Ok(Answer::Done);
        }
        let wait = Duration::from_millis(wanted_wait(request).clamp(0, MAX_WAIT_MS).unsigned_abs());
        let invoked = self.brokers.invoke(addr, LIMIT + wait, |out, opaque| pass(out, request, opaque)).await;
        match invoked {
            // The client would leave the proxy, not the broker.
            Ok(answer) if answer.head().code == response::GO_AWAY => Err(failed(&"the broker is shutting down")),
            Ok(answer) => Ok(Answer::Passed(answer)),
            Err(error) => Err(failed(&error)),
        }
    }

    /// Says the last heartbeat over a connection that is new, so that the broker knows who asks. Before the request: both
    /// are written in this order.
    fn introduce(&self, addr: &str, connection: &Connection, request: &OwnedCommand) {
        if self.said.lock().insert(addr.to_owned(), connection.id()) == Some(connection.id()) {
            return;
        }
        let beat = self.beat.lock().clone().filter(|_| request.head().code != request::HEART_BEAT);
        if let Some(beat) = beat
            && let Err(error) = connection.oneway(|out, opaque| pass_oneway(out, &beat, opaque))
        {
            tracing::debug!(addr, %error, "a broker does not hear who its client is");
        }
    }
}

/// The first refusal, if there is one.
fn all_well(told: Vec<Result<(), Refusal>>) -> Result<Answer, Refusal> {
    told.into_iter().collect::<Result<(), _>>().map(|()| Answer::Done)
}

/// How long a request wants to wait for messages, milliseconds, as it says.
fn wanted_wait(request: &OwnedCommand) -> i64 {
    wait_field(request.head().code).and_then(|field| request.command().fields.opt_i64(field)).unwrap_or(0)
}

/// The code that the client gets.
fn code_of(outcome: &Result<Answer, Refusal>) -> i32 {
    match outcome {
        Ok(Answer::Passed(answer)) => answer.head().code,
        Ok(Answer::Body(_) | Answer::Done) => response::SUCCESS,
        Err(Refusal(code, _)) => *code,
    }
}

/// A command that wants no answer any more.
fn pass_oneway(out: &mut Vec<u8>, command: &OwnedCommand, opaque: i32) {
    let mut command = command.command();
    command.head.flag |= 2;
    let body = command.body;
    FrameWriter::passed_on(out, &command, opaque).finish_with_body(body);
}

fn answer(out: &mut Vec<u8>, head: &Head, outcome: Result<Answer, Refusal>) {
    if head.is_oneway() {
        return;
    }
    match outcome {
        Ok(Answer::Passed(answer)) => pass(out, &answer, head.opaque),
        Ok(Answer::Body(body)) => FrameWriter::response(out, head, response::SUCCESS).finish_with_body(&body),
        Ok(Answer::Done) => FrameWriter::response(out, head, response::SUCCESS).finish(),
        Err(Refusal(code, why)) => {
            let mut frame = FrameWriter::response(out, head, code);
            frame.remark(&why);
            frame.finish();
        }
    }
}
