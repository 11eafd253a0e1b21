//! What brokers ask of a client.
//!
//! A consumer's group has changed (code 40): its rebalance is woken. Everything else is answered with
//! REQUEST_CODE_NOT_SUPPORTED, unless it wants no answer.

use std::sync::Arc;

use ferromq_protocol::FrameWriter;
use ferromq_protocol::code::{request, response};
use ferromq_protocol::header::client::NotifyConsumerIdsChangedHeader;
use ferromq_remoting::{Connection, Requests, Service};
use parking_lot::Mutex;

use crate::heartbeat::Groups;

pub(crate) struct ServerCalls {
    pub groups: Arc<Mutex<Groups>>,
}

impl Service for ServerCalls {
    fn serve(&self, _conn: &Arc<Connection>, requests: &mut Requests<'_>, out: &mut Vec<u8>) {
        for command in requests {
            if command.head.code == request::NOTIFY_CONSUMER_IDS_CHANGED {
                if let Ok(header) = NotifyConsumerIdsChangedHeader::read(&command.fields) {
                    self.groups.lock().wake(&header.consumer_group.to_lossy());
                }
            } else if !command.head.is_oneway() {
                let mut writer = FrameWriter::response(out, &command.head, response::REQUEST_CODE_NOT_SUPPORTED);
                writer.remark("this client does not serve the request");
                writer.finish();
            }
        }
    }
}
