//! Who is connected: each client's settings, its membership with the brokers, and the way to ask it something.
//!
//! A client is known from its first settings until it says that it leaves, or has been silent for [`SILENCE`].

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use ferromq_client::{LiteTopicTaken, TransactionCheck};
use ferromq_protocol::body::LiteSubscription;
use ferromq_protocol::code::{request, response};
use ferromq_protocol::header::client::GetConsumerRunningInfoHeader;
use ferromq_protocol::header::lite::NotifyUnsubscribeLiteHeader;
use ferromq_protocol::header::send::CheckTransactionStateHeader;
use ferromq_protocol::properties::{self, names};
use ferromq_protocol::record::{self, Entry, Record};
use ferromq_protocol::version::language;
use ferromq_protocol::{Head, OwnedCommand};
use ferromq_remoting::OnRequest;
use parking_lot::Mutex;

use crate::broadcast::Broadcasts;
use crate::call::Caller;
use crate::cluster::Cluster;
use crate::commands::{All, Commands};
use crate::door::Door;
use crate::member::Member;
use crate::message;
use crate::pb::telemetry_command::Command;
use crate::pb::{
    Code, NotifyUnsubscribeLiteCommand, PrintThreadStackTraceCommand, ReceiveMessageRequest,
    RecoverOrphanedTransactionCommand, Settings, Status, TelemetryCommand, VerifyMessageCommand,
};
use crate::questions::{self, Questions, Waiting};
use crate::rpc::end_transaction::HalfId;
use crate::rpc::lite;
use crate::settings;
use crate::status::Refused;

/// Most clients at the same time.
const MAX_CLIENTS: usize = 100_000;
/// A client that has not been heard of for this long is forgotten (`channelExpiredTimeout`).
const SILENCE: Duration = Duration::from_secs(120);
/// Clients of a producer group that are tried for one that can be asked.
const PRODUCERS_TRIED: usize = 3;

/// A client that has told its settings.
pub(crate) struct Client {
    id: String,
    member: Member,
    settings: Mutex<Arc<Settings>>,
    commands: Mutex<Option<Commands>>,
    questions: Mutex<Questions>,
    heard: Mutex<Instant>,
}

/// All clients.
pub(crate) struct Clients {
    door: Door,
    table: Mutex<HashMap<String, Arc<Client>>>,
    pub broadcasts: Broadcasts,
    /// What waits for all of them to be read.
    pub waiting: All,
}

impl Clients {
    pub fn new(door: Door) -> Self {
        Clients { broadcasts: Broadcasts::new(door.clone()), door, table: Mutex::default(), waiting: All::default() }
    }

    /// A client that has told its settings.
    pub fn get(&self, id: &str) -> Option<Arc<Client>> {
        self.table.lock().get(id).cloned()
    }

    /// How many have told their settings.
    pub fn count(&self) -> usize {
        self.table.lock().len()
    }

    /// As [`Clients::get`], for calls that need them.
    pub fn known(&self, caller: &Caller) -> Result<Arc<Client>, Refused> {
        self.get(&caller.client_id).ok_or_else(|| {
            Refused::new(Code::UnrecognizedClientType, format!("no settings are known of client {}", caller.client_id))
        })
    }

    /// A client that receives. One that has not told its settings since the start of this process is known by what it asks
    /// for: official clients tell them again after minutes only, and must not stand still until then.
    pub async fn receiving(&self, caller: &Caller, asked: &ReceiveMessageRequest) -> Result<Arc<Client>, Refused> {
        if let Some(client) = self.get(&caller.client_id) {
            return Ok(client);
        }
        let group = self.door.group(&crate::names::group(asked.group.as_ref())?).await?;
        // Plain HTTP has no way to subscribe to lite topics.
        let is_lite = caller.language != language::HTTP && group.is_some_and(|group| lite::bound(&group).is_some());
        let settings = settings::completed(settings::of_receive(asked, is_lite), &self.door).await?;
        let client = self.get_or_add(caller, &settings)?;
        client.beat().await?;
        Ok(client)
    }

    /// Takes what a client says of itself and tells the broker; the settings as they count.
    pub async fn settle(&self, caller: &Caller, told: Settings, commands: &Commands) -> Result<Settings, Refused> {
        let settings = settings::completed(told, &self.door).await?;
        let client = self.get_or_add(caller, &settings)?;
        *client.settings.lock() = Arc::new(settings.clone());
        *client.commands.lock() = Some(commands.clone());
        client.beat().await?;
        if let Some(group) = settings::group(&settings) {
            self.broadcasts.join(caller, group, &settings::subscribed(&settings)).await?;
        }
        Ok(settings)
    }

    fn get_or_add(&self, caller: &Caller, settings: &Settings) -> Result<Arc<Client>, Refused> {
        let mut table = self.table.lock();
        if let Some(client) = table.get(&caller.client_id) {
            return Ok(Arc::clone(client));
        }
        if table.len() >= MAX_CLIENTS {
            return Err(Refused::new(Code::TooManyRequests, format!("{MAX_CLIENTS} clients are connected already")));
        }
        let client = Arc::new_cyclic(|me: &Weak<Client>| {
            let (me, door) = (me.clone(), self.door.clone());
            let on_request = OnRequest::new(move |request| {
                if let (Some(client), Door::Local(local)) = (me.upgrade(), &door) {
                    client.asked(local.name(), &request);
                }
            });
            Client {
                id: caller.client_id.clone(),
                member: Member::new(&self.door, caller, on_request),
                settings: Mutex::new(Arc::new(settings.clone())),
                commands: Mutex::default(),
                questions: Mutex::default(),
                heard: Mutex::new(Instant::now()),
            }
        });
        table.insert(caller.client_id.clone(), Arc::clone(&client));
        Ok(client)
    }

    /// A telemetry stream has ended. The client may come back with another.
    pub fn hung_up(&self, caller: &Caller, stream: &Commands) {
        if let Some(client) = self.get(&caller.client_id) {
            client.commands.lock().take_if(|commands| commands.is_of(stream));
        }
    }

    /// A client leaves; the brokers have forgotten it when this returns.
    pub async fn leave(&self, caller: &Caller) -> Result<(), Refused> {
        let client = self.known(caller)?;
        self.table.lock().remove(&caller.client_id);
        client.leave().await
    }

    /// Forgets clients that are silent.
    pub async fn forget_silent(&self, now: Instant) {
        let is_silent = |client: &Client| now.duration_since(*client.heard.lock()) >= SILENCE;
        let silent: Vec<_> = self.table.lock().extract_if(|_, client| is_silent(client)).collect();
        for (id, client) in silent {
            tracing::info!(client = id, "a gRPC client has been silent for {SILENCE:?} and is forgotten");
            if let Err(refused) = client.leave().await {
                tracing::debug!(client = id, ?refused, "the broker learns by the end of the connection");
            }
        }
    }

    /// A broker of a cluster has taken a lite topic off a client.
    pub fn lite_topic_taken(&self, taken: &LiteTopicTaken) {
        if let Some(client) = self.get(&taken.client_id) {
            client.unsubscribed(&taken.lite_topic);
        }
    }

    /// A broker of a cluster asks what became of a half message: any client of its group may know.
    pub fn recover(&self, cluster: &Cluster, check: &TransactionCheck) {
        let (Some(broker), Entry::Record(record)) = (cluster.asking(check), record::read(&check.record)) else {
            return tracing::warn!(broker = %check.broker_addr, "a question about a transaction cannot be read");
        };
        let group = properties::get_str(record.properties(), names::PRODUCER_GROUP).unwrap_or_default();
        let half =
            HalfId { queue_offset: check.queue_offset, log_position: check.log_position, broker: broker.as_str() };
        let producers = cluster.producers(group, PRODUCERS_TRIED);
        if !producers.iter().filter_map(|id| self.get(id)).any(|client| client.recover(half, &record)) {
            tracing::debug!(group, "no client can be asked about a transaction; the broker asks again");
        }
    }
}

impl Client {
    pub fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.lock())
    }

    /// The client lives.
    pub async fn beat(&self) -> Result<(), Refused> {
        *self.heard.lock() = Instant::now();
        self.member.beat(&self.id, &self.settings()).await
    }

    /// Changes what it takes of lite topics.
    pub async fn subscribe_lite(&self, change: LiteSubscription) -> Result<(), Refused> {
        self.member.subscribe_lite(change).await
    }

    /// A lite topic is not its own any more.
    fn unsubscribed(&self, lite_topic: &str) {
        let command = NotifyUnsubscribeLiteCommand { lite_topic: lite_topic.to_owned() };
        self.tell(Command::NotifyUnsubscribeLiteCommand(command));
    }

    async fn leave(&self) -> Result<(), Refused> {
        self.member.leave(&self.id, &self.settings()).await
    }

    /// A request of the broker of this process. On its threads: never waits.
    fn asked(&self, broker: &str, asked: &OwnedCommand) {
        let head = asked.head();
        match head.code {
            request::CHECK_TRANSACTION_STATE => self.check(broker, asked),
            // Clients ask for their assignment by themselves.
            request::NOTIFY_CONSUMER_IDS_CHANGED => {}
            request::NOTIFY_UNSUBSCRIBE_LITE => match NotifyUnsubscribeLiteHeader::read(&asked.command().fields) {
                Ok(header) => self.unsubscribed(&header.lite_topic.to_lossy()),
                Err(error) => tracing::warn!(client = self.id, %error, "a notice of a lite topic cannot be read"),
            },
            _ if head.is_oneway() => {}
            request::CONSUME_MESSAGE_DIRECTLY => self.verify(asked),
            request::GET_CONSUMER_RUNNING_INFO => self.trace(asked),
            code => {
                let why = format!("request code {code} is not served by gRPC clients");
                self.refuse(&head, response::REQUEST_CODE_NOT_SUPPORTED, &why);
            }
        }
    }

    fn refuse(&self, head: &Head, code: i32, why: &str) {
        self.member.answer(head.opaque, &questions::refusal(head, code, why));
    }

    /// A tool wants the client to handle a message.
    fn verify(&self, asked: &OwnedCommand) {
        let Entry::Record(record) = record::read(asked.command().body) else {
            return self.refuse(&asked.head(), response::SYSTEM_ERROR, "the message cannot be read");
        };
        let topic = String::from_utf8_lossy(record.topic());
        let message = Some(message::of_record(&record, &topic, None));
        self.question(asked, |nonce| Command::VerifyMessageCommand(VerifyMessageCommand { nonce, message }));
    }

    /// A tool wants to know what the client is doing.
    fn trace(&self, asked: &OwnedCommand) {
        let head = asked.head();
        match GetConsumerRunningInfoHeader::read(&asked.command().fields) {
            Ok(header) if header.jstack_enable => self
                .question(asked, |nonce| Command::PrintThreadStackTraceCommand(PrintThreadStackTraceCommand { nonce })),
            Ok(_) => self.member.answer(head.opaque, &questions::running(&head, None, &self.settings())),
            Err(error) => self.refuse(&head, response::SYSTEM_ERROR, &error.to_string()),
        }
    }

    fn question(&self, asked: &OwnedCommand, command: impl FnOnce(String) -> Command) {
        let head = asked.head();
        let Some(nonce) = self.questions.lock().add(head) else {
            return self.refuse(&head, response::SYSTEM_BUSY, "too many questions wait for the client's answers");
        };
        if !self.tell(command(nonce.clone())) {
            self.questions.lock().take(&nonce);
            self.refuse(&head, response::SYSTEM_ERROR, "the client has no telemetry stream, or does not read it");
        }
    }

    /// What the client made of a message.
    pub fn verified(&self, nonce: &str, status: &Status) {
        if let Some(waiting) = self.questions.lock().take(nonce) {
            self.member.answer(waiting.head.opaque, &questions::verified(&waiting, status));
        }
    }

    /// The stacks of the client's threads.
    pub fn traced(&self, nonce: &str, status: &Status, trace: Option<String>) {
        if let Some(Waiting { head, .. }) = self.questions.lock().take(nonce) {
            self.member.answer(head.opaque, &questions::traced(&head, status, trace, &self.settings()));
        }
    }

    /// The broker asks what became of a half message.
    fn check(&self, broker: &str, asked: &OwnedCommand) {
        let command = asked.command();
        let (Ok(header), Entry::Record(record)) =
            (CheckTransactionStateHeader::read(&command.fields), record::read(command.body))
        else {
            return tracing::warn!(client = self.id, "a question about a transaction cannot be read");
        };
        let (queue_offset, log_position) = (header.tran_state_table_offset, header.commit_log_offset);
        self.recover(HalfId { queue_offset, log_position, broker }, &record);
    }

    /// Asks the client what became of its half message; whether it can be asked.
    fn recover(&self, half: HalfId<'_>, record: &Record<'_>) -> bool {
        let topic = String::from_utf8_lossy(record.topic()).into_owned();
        let mut message = message::of_record(record, &topic, None);
        if let Some(properties) = &mut message.system_properties {
            properties.delivery_attempt = None;
        }
        let recover = RecoverOrphanedTransactionCommand { message: Some(message), transaction_id: half.to_string() };
        self.tell(Command::RecoverOrphanedTransactionCommand(recover))
    }

    /// Whether it was told.
    fn tell(&self, command: Command) -> bool {
        let Some(commands) = self.commands.lock().clone() else { return false };
        let command = TelemetryCommand { status: Some(crate::status::ok()), command: Some(command) };
        let told = commands.ask(command);
        if let Err(error) = &told {
            tracing::warn!(client = self.id, %error, "a client is not asked");
        }
        told.is_ok()
    }
}
