//! Who is connected: each client's settings, its membership with the broker, and the way to ask it something.
//!
//! A client is known from its first settings until it says that it leaves, or has been silent for [`SILENCE`]. The broker
//! sees it as a connection of its own, over which it asks about transactions.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use ferromq_protocol::code::{request, response};
use ferromq_protocol::header::client::UnregisterClientHeader;
use ferromq_protocol::header::send::CheckTransactionStateHeader;
use ferromq_protocol::record::{self, Entry};
use ferromq_protocol::{FrameWriter, OwnedCommand, Text, json};
use ferromq_remoting::OnRequest;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::call::Caller;
use crate::door::{Door, Line};
use crate::message;
use crate::pb::telemetry_command::Command;
use crate::pb::{Code, ReceiveMessageRequest, RecoverOrphanedTransactionCommand, Settings, TelemetryCommand};
use crate::rpc::end_transaction::HalfId;
use crate::settings;
use crate::status::Refused;

/// Most clients at the same time.
const MAX_CLIENTS: usize = 100_000;
/// A client that has not been heard of for this long is forgotten (`channelExpiredTimeout`).
const SILENCE: Duration = Duration::from_secs(120);
/// Commands that wait until a client reads them; later ones are dropped, the broker asks again.
pub(crate) const COMMANDS: usize = 64;

/// What goes down a telemetry stream.
pub(crate) type Commands = mpsc::Sender<Result<TelemetryCommand, tonic::Status>>;

/// A client that has told its settings.
pub(crate) struct Client {
    id: String,
    line: Line,
    settings: Mutex<Arc<Settings>>,
    commands: Mutex<Option<Commands>>,
    heard: Mutex<Instant>,
}

/// All clients.
pub(crate) struct Clients {
    door: Door,
    table: Mutex<HashMap<String, Arc<Client>>>,
}

impl Clients {
    pub fn new(door: Door) -> Self {
        Clients { door, table: Mutex::default() }
    }

    /// A client that has told its settings.
    pub fn get(&self, id: &str) -> Option<Arc<Client>> {
        self.table.lock().get(id).cloned()
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
        let settings = settings::completed(settings::of_receive(asked), &self.door.broker)?;
        let client = self.get_or_add(caller, &settings)?;
        client.beat().await?;
        Ok(client)
    }

    /// Takes what a client says of itself and tells the broker; the settings as they count.
    pub async fn settle(&self, caller: &Caller, told: Settings, commands: &Commands) -> Result<Settings, Refused> {
        let settings = settings::completed(told, &self.door.broker)?;
        let client = self.get_or_add(caller, &settings)?;
        *client.settings.lock() = Arc::new(settings.clone());
        *client.commands.lock() = Some(commands.clone());
        client.beat().await?;
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
            let me = me.clone();
            let on_request = OnRequest::new(move |request| {
                if let Some(client) = me.upgrade() {
                    client.asked(&request);
                }
            });
            Client {
                id: caller.client_id.clone(),
                line: self.door.connect(caller, on_request),
                settings: Mutex::new(Arc::new(settings.clone())),
                commands: Mutex::default(),
                heard: Mutex::new(Instant::now()),
            }
        });
        table.insert(caller.client_id.clone(), Arc::clone(&client));
        Ok(client)
    }

    /// A telemetry stream has ended. The client may come back with another.
    pub fn hung_up(&self, caller: &Caller, stream: &Commands) {
        if let Some(client) = self.get(&caller.client_id) {
            client.commands.lock().take_if(|commands| commands.same_channel(stream));
        }
    }

    /// A client leaves; the broker has forgotten it when this returns.
    pub async fn leave(&self, caller: &Caller) -> Result<(), Refused> {
        let client = self.known(caller)?;
        self.table.lock().remove(&caller.client_id);
        client.unregister().await
    }

    /// Forgets clients that are silent. The end of their connections tells the broker.
    pub fn forget_silent(&self, now: Instant) {
        self.table.lock().retain(|id, client| {
            let heard = now.duration_since(*client.heard.lock()) < SILENCE;
            if !heard {
                tracing::info!(client = id, "a gRPC client has been silent for {SILENCE:?} and is forgotten");
            }
            heard
        });
    }
}

impl Client {
    pub fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.lock())
    }

    /// The client lives.
    pub async fn beat(&self) -> Result<(), Refused> {
        *self.heard.lock() = Instant::now();
        let data = settings::heartbeat(&self.id, &self.settings());
        let body = json::to_vec_standard(&data).map_err(|error| {
            Refused::new(Code::InternalServerError, format!("the heartbeat cannot be written: {error}"))
        })?;
        self.line.call(request::HEART_BEAT, |_| (), &body).await.map(drop)
    }

    async fn unregister(&self) -> Result<(), Refused> {
        let settings = self.settings();
        let group = settings::group(&settings);
        let topics = settings::topics(&settings).into_iter().map(|topic| (Some(topic), None));
        for (producer, consumer) in topics.chain(group.map(|group| (None, Some(group)))) {
            let header = UnregisterClientHeader {
                client_id: Text::plain(&self.id),
                producer_group: producer.as_deref().map(Text::plain),
                consumer_group: consumer.as_deref().map(Text::plain),
            };
            self.line.call(request::UNREGISTER_CLIENT, |frame| header.write(frame), &[]).await?;
        }
        Ok(())
    }

    /// A request of the broker. On its threads: never waits.
    fn asked(&self, asked: &OwnedCommand) {
        let head = asked.head();
        match head.code {
            request::CHECK_TRANSACTION_STATE => self.recover(asked),
            // Clients ask for their assignment by themselves.
            request::NOTIFY_CONSUMER_IDS_CHANGED => {}
            _ if head.is_oneway() => {}
            code => {
                let mut answer = Vec::new();
                let mut frame = FrameWriter::response(&mut answer, &head, response::REQUEST_CODE_NOT_SUPPORTED);
                frame.remark(&format!("request code {code} is not served by gRPC clients"));
                frame.finish();
                self.line.answer(head.opaque, &answer);
            }
        }
    }

    /// The broker asks what became of a half message.
    fn recover(&self, asked: &OwnedCommand) {
        let command = asked.command();
        let (Ok(header), Entry::Record(record)) =
            (CheckTransactionStateHeader::read(&command.fields), record::read(command.body))
        else {
            return tracing::warn!(client = self.id, "a question about a transaction cannot be read");
        };
        let topic = String::from_utf8_lossy(record.topic()).into_owned();
        let half = HalfId { queue_offset: header.tran_state_table_offset, log_position: header.commit_log_offset };
        let mut message = message::of_record(&record, &topic, None);
        if let Some(properties) = &mut message.system_properties {
            properties.delivery_attempt = None;
        }
        let recover = RecoverOrphanedTransactionCommand { message: Some(message), transaction_id: half.to_string() };
        self.tell(Command::RecoverOrphanedTransactionCommand(recover));
    }

    fn tell(&self, command: Command) {
        let Some(commands) = self.commands.lock().clone() else { return };
        let command = TelemetryCommand { status: Some(crate::status::ok()), command: Some(command) };
        if let Err(error) = commands.try_send(Ok(command)) {
            tracing::warn!(client = self.id, %error, "a client does not read what it is asked");
        }
    }
}
