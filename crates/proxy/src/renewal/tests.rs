//! Handles against a broker of their own.

use ferromq_broker::{Broker, BrokerConfig};
use ferromq_store::StoreConfig;
use prost_types::Duration as Length;
use std::net::{Ipv4Addr, SocketAddr};
use tokio::sync::watch;
use tokio_stream::StreamExt;

use super::*;
use crate::commands::{All, Commands};
use crate::credential::Credential;
use crate::door::Local;
use crate::message::resource;
use crate::observe::Node;
use crate::pb::receive_message_response::Content;
use crate::pb::*;
use crate::rpc::{ack, heartbeat, receive, send};
use crate::service::Service;
use crate::settings;
use crate::tls::Ends;

struct Bench {
    broker: Option<Broker>,
    service: Service,
    _folder: tempfile::TempDir,
}

impl Drop for Bench {
    fn drop(&mut self) {
        let broker = self.broker.take();
        std::thread::spawn(move || broker.unwrap().shutdown()).join().unwrap();
    }
}

const TOPIC: &str = "Renewed";
const GROUP: &str = "workers";

fn bench() -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let config =
        BrokerConfig { bind_address: "127.0.0.1".into(), listen_port: 0, reactors: 1, ..BrokerConfig::default() };
    let root = folder.path().to_owned();
    let store = StoreConfig {
        root,
        mapped_file_size_commit_log: 16 << 20,
        max_hash_slot_num: 1000,
        max_index_num: 10_000,
        ..StoreConfig::default()
    };
    let broker = std::thread::spawn(move || Broker::start(config, store).unwrap()).join().unwrap();
    let door = Door::Local(Local::new(Arc::clone(broker.shared()), broker.local_peers()));
    let service = Service::new(door, Node::default(), None, watch::channel(false).1);
    Bench { broker: Some(broker), service, _folder: folder }
}

fn caller(id: &str) -> Caller {
    let nobody = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    Caller {
        credential: Credential::Nobody,
        client_id: id.to_owned(),
        language: 0,
        ends: Ends { peer: nobody, local: nobody },
        peer: None,
        timeout: None,
        least_wait_ms: 0,
    }
}

impl Bench {
    async fn join(&self, caller: &Caller) {
        let told = settings::of_receive(&asked(true), false);
        let (commands, _) = Commands::stream(All::default());
        self.service.clients.settle(caller, told, &commands).await.unwrap();
    }

    async fn send(&self) {
        let system_properties = SystemProperties {
            message_id: "01AB".into(),
            message_type: MessageType::Normal.into(),
            ..SystemProperties::default()
        };
        let message = Message {
            topic: Some(resource(TOPIC)),
            system_properties: Some(system_properties),
            body: b"x".as_slice().into(),
            ..Message::default()
        };
        let request = SendMessageRequest { messages: vec![message] };
        let sent = send::send(&self.service, &caller("sender"), request).await;
        assert_eq!(sent.unwrap().status.unwrap().code(), Code::Ok);
    }

    /// The handle of the next message, or the status when there is none.
    async fn receive(&self, caller: &Caller, auto_renew: bool) -> Result<String, Code> {
        let answer = receive::receive(&self.service, caller, asked(auto_renew)).await;
        let pieces: Vec<_> = answer.unwrap_or_else(receive::nothing).collect().await;
        let mut status = None;
        for piece in pieces {
            match piece.unwrap().content {
                Some(Content::Message(message)) => {
                    return Ok(message.system_properties.unwrap().receipt_handle.unwrap());
                }
                Some(Content::Status(told)) => status = Some(told.code()),
                _ => {}
            }
        }
        Err(status.unwrap())
    }

    /// A message that is visible again so soon that its handle is due, as if it were kept alive.
    async fn hold_due(&self, caller: &Caller) -> String {
        let text = self.receive(caller, false).await.unwrap();
        self.service.renewals.hold(Held::new(caller, TOPIC, GROUP, Handle::read(&text).unwrap(), 0));
        text
    }

    async fn renew(&self) {
        self.service.renewals.renew_due(&self.service.clients).await;
    }

    async fn ack(&self, caller: &Caller, handle: &str) -> Code {
        let entry = AckMessageEntry { receipt_handle: handle.to_owned(), ..AckMessageEntry::default() };
        let asked =
            AckMessageRequest { group: Some(resource(GROUP)), topic: Some(resource(TOPIC)), entries: vec![entry] };
        ack::ack(&self.service, caller, asked).await.unwrap().status.unwrap().code()
    }

    fn held(&self) -> usize {
        self.service.renewals.table.lock().count
    }
}

fn asked(auto_renew: bool) -> ReceiveMessageRequest {
    ReceiveMessageRequest {
        group: Some(resource(GROUP)),
        message_queue: Some(MessageQueue { topic: Some(resource(TOPIC)), ..MessageQueue::default() }),
        batch_size: 1,
        invisible_duration: Some(Length { seconds: 10, nanos: 0 }),
        long_polling_timeout: Some(Length { seconds: 5, nanos: 0 }),
        auto_renew,
        ..ReceiveMessageRequest::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_message_is_acknowledged_by_the_handle_the_consumer_has() {
    let (bench, worker) = (bench(), caller("worker"));
    bench.send().await;
    bench.join(&worker).await;
    let given = bench.hold_due(&worker).await;
    bench.renew().await;
    let latest = bench.service.renewals.latest(&worker, GROUP, &given).await.unwrap();
    assert!(latest.handle.visible_at() > clock::now_millis() + 50_000, "{}", latest.handle.text());
    assert_ne!(latest.handle.text(), given);
    let handle = latest.handle.clone();
    drop(latest);

    let other = caller("other");
    let of_other = bench.service.renewals.latest(&other, GROUP, &given).await.unwrap();
    assert_eq!(of_other.handle.text(), given, "handles belong to the client");
    assert_eq!(bench.ack(&worker, &given).await, Code::Ok);
    assert_eq!(bench.held(), 0);
    // Had the acknowledgement named the first handle, this would bring the message back.
    let line = bench.service.door.line(&worker);
    let _ = invisible::one(&line, TOPIC, GROUP, &handle, invisible::Wait::of(1000)).await;
    assert_eq!(bench.receive(&worker, false).await, Err(Code::MessageNotFound));
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_a_client_that_leaves_or_vanishes_are_for_others() {
    let bench = bench();
    let [leaver, lost, heir] = ["leaver", "lost", "heir"].map(caller);
    bench.send().await;
    bench.join(&leaver).await;
    bench.receive(&leaver, true).await.unwrap();
    assert_eq!(bench.held(), 1);
    heartbeat::leave(&bench.service, &leaver, NotifyClientTerminationRequest::default()).await.unwrap();
    assert_eq!(bench.held(), 0);

    bench.join(&lost).await;
    bench.receive(&lost, true).await.unwrap();
    bench.renew().await;
    assert_eq!(bench.held(), 1, "it is here");
    // It connects again under its id, and keeps what it has.
    bench.join(&lost).await;
    bench.renew().await;
    assert_eq!(bench.held(), 1);
    bench.service.clients.forget_silent(Instant::now() + Duration::from_secs(1000)).await;
    bench.renew().await;
    assert_eq!(bench.held(), 0);

    bench.join(&heir).await;
    let handle = bench.receive(&heir, true).await.unwrap();
    assert_eq!(bench.ack(&heir, &handle).await, Code::Ok);
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_given_back_at_the_end() {
    let (bench, worker) = (bench(), caller("worker"));
    bench.send().await;
    bench.join(&worker).await;
    bench.receive(&worker, true).await.unwrap();
    bench.service.renewals.give_all_back().await;
    assert_eq!(bench.held(), 0);
    assert!(bench.receive(&worker, false).await.is_ok());
}
