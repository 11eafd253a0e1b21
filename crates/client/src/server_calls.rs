//! What brokers ask of a client.
//!
//! A consumer's group has changed (code 40): its rebalance is woken. A question about a transaction (code 39)
//! and a lite topic that is taken off a client (code 200073) go to whoever the client was made for. Everything else is answered with REQUEST_CODE_NOT_SUPPORTED, unless it wants no
//! answer.

use std::net::SocketAddr;
use std::sync::Arc;

use ferromq_protocol::code::{request, response};
use ferromq_protocol::header::RpcHeader;
use ferromq_protocol::header::client::NotifyConsumerIdsChangedHeader;
use ferromq_protocol::header::lite::NotifyUnsubscribeLiteHeader;
use ferromq_protocol::header::send::CheckTransactionStateHeader;
use ferromq_protocol::{Command, FrameWriter};
use ferromq_remoting::{Connection, Requests, Service};
use parking_lot::Mutex;

use crate::heartbeat::Groups;

/// A broker asks what became of a half message.
#[derive(Clone, Debug)]
pub struct TransactionCheck {
    /// The broker, where it names itself.
    pub broker_name: Option<String>,
    /// Where it is connected.
    pub broker_addr: SocketAddr,
    /// The half message's place in the queue of half messages.
    pub queue_offset: i64,
    /// Its place in the commit log, bytes.
    pub log_position: i64,
    /// The message as it is stored.
    pub record: Vec<u8>,
}

impl TransactionCheck {
    fn read(broker_addr: SocketAddr, command: &Command<'_>) -> Option<Self> {
        let header = CheckTransactionStateHeader::read(&command.fields).ok()?;
        let named = RpcHeader::read(&command.fields).ok()?.broker_name;
        Some(Self {
            broker_name: named.map(|name| name.to_lossy().into_owned()),
            broker_addr,
            queue_offset: header.tran_state_table_offset,
            log_position: header.commit_log_offset,
            record: command.body.to_vec(),
        })
    }
}

/// A broker has taken a lite topic off a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiteTopicTaken {
    /// The client.
    pub client_id: String,
    /// The lite topic, without its parent.
    pub lite_topic: String,
}

/// What a broker wants of a client that somebody stands for.
#[derive(Clone, Debug)]
pub enum BrokerCall {
    /// What became of a half message?
    Check(TransactionCheck),
    /// A client has lost a lite topic.
    LiteTopicTaken(LiteTopicTaken),
}

/// Takes what brokers want. Runs on the task of a connection: it must not block.
pub(crate) type OnCall = Box<dyn Fn(BrokerCall) + Send + Sync>;

pub(crate) struct ServerCalls {
    pub groups: Arc<Mutex<Groups>>,
    pub on_call: Option<OnCall>,
}

impl ServerCalls {
    fn check(&self, conn: &Connection, command: &Command<'_>) {
        let Some(on_call) = &self.on_call else { return };
        match TransactionCheck::read(conn.peer(), command) {
            Some(check) => on_call(BrokerCall::Check(check)),
            None => tracing::warn!(broker = %conn.peer(), "a question about a transaction cannot be read"),
        }
    }

    fn lite_topic_taken(&self, conn: &Connection, command: &Command<'_>) {
        let Some(on_call) = &self.on_call else { return };
        match NotifyUnsubscribeLiteHeader::read(&command.fields) {
            Ok(header) => on_call(BrokerCall::LiteTopicTaken(LiteTopicTaken {
                client_id: header.client_id.to_lossy().into_owned(),
                lite_topic: header.lite_topic.to_lossy().into_owned(),
            })),
            Err(error) => tracing::warn!(broker = %conn.peer(), %error, "a notice of a lite topic cannot be read"),
        }
    }
}

impl Service for ServerCalls {
    fn serve(&self, conn: &Arc<Connection>, requests: &mut Requests<'_>, out: &mut Vec<u8>) {
        for command in requests {
            if command.head.code == request::NOTIFY_CONSUMER_IDS_CHANGED {
                if let Ok(header) = NotifyConsumerIdsChangedHeader::read(&command.fields) {
                    self.groups.lock().wake(&header.consumer_group.to_lossy());
                }
            } else if command.head.code == request::CHECK_TRANSACTION_STATE && self.on_call.is_some() {
                self.check(conn, &command);
            } else if command.head.code == request::NOTIFY_UNSUBSCRIBE_LITE {
                self.lite_topic_taken(conn, &command);
            } else if !command.head.is_oneway() {
                let mut writer = FrameWriter::response(out, &command.head, response::REQUEST_CODE_NOT_SUPPORTED);
                writer.remark("this client does not serve the request");
                writer.finish();
            }
        }
    }
}
