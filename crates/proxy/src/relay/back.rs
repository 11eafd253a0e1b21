//! What brokers ask a client of the proxy: a transaction's outcome, its state, that its group has changed.

use std::sync::{Arc, Weak};
use std::time::Duration;

use ferromq_protocol::code::{request, response};
use ferromq_protocol::{FrameWriter, OwnedCommand};
use ferromq_remoting::{Connection, Requests, Service};

use super::Shared;

/// A broker waits for no client longer (`Broker2Client.callClient`).
const ANSWERED_WITHIN: Duration = Duration::from_secs(10);

/// The service of one client's connections to brokers.
pub(super) struct BackChannel {
    pub client: Weak<Connection>,
    pub shared: Arc<Shared>,
}

impl Service for BackChannel {
    fn serve(&self, broker: &Arc<Connection>, requests: &mut Requests<'_>, _out: &mut Vec<u8>) {
        for request in requests {
            let Some(client) = self.client.upgrade() else { return };
            self.pass(client, broker, OwnedCommand::copied(&request));
        }
    }
}

impl BackChannel {
    fn pass(&self, client: Arc<Connection>, broker: &Arc<Connection>, asked: OwnedCommand) {
        let head = asked.head();
        let name = self.name_to_add(broker, &asked);
        let write = move |out: &mut Vec<u8>, opaque: i32| {
            let mut frame = FrameWriter::passed_on(out, &asked.command(), opaque);
            if let Some(name) = &name {
                frame.str("bname", name);
            }
            frame.finish_with_body(asked.body());
        };
        if head.is_oneway() {
            if let Err(error) = client.oneway(write) {
                tracing::debug!(client = %client.peer(), %error, "a broker's word does not reach a client");
            }
            return;
        }
        let broker = Arc::clone(broker);
        tokio::spawn(async move {
            let answer = client.invoke(ANSWERED_WITHIN, write).await;
            // A push fails when the broker has gone.
            let _ = broker.push(|out| match answer {
                Ok(answer) => pass(out, &answer, head.opaque),
                Err(error) => {
                    let mut frame = FrameWriter::response(out, &head, response::SYSTEM_ERROR);
                    frame.remark(&format!("the client behind the proxy does not answer: {error}"));
                    frame.finish();
                }
            });
        });
    }

    /// Who asks about a transaction, for a broker that does not say so: the client's answer has to find it again.
    fn name_to_add(&self, broker: &Connection, asked: &OwnedCommand) -> Option<String> {
        let is_unnamed = asked.command().fields.get("bname").is_none();
        let is_check = asked.head().code == request::CHECK_TRANSACTION_STATE;
        (is_check && is_unnamed).then(|| self.shared.cluster.name_of(broker.peer())).flatten()
    }
}

/// A command as it came, under another opaque.
pub(super) fn pass(out: &mut Vec<u8>, command: &OwnedCommand, opaque: i32) {
    FrameWriter::passed_on(out, &command.command(), opaque).finish_with_body(command.body());
}
