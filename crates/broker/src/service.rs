//! What happens to the requests of one socket drain: sends are collected into one append for all sockets that were ready
//! together, and so are acknowledgements of pops; everything else goes to its handler, in order. Runs on the reactor threads of `remoting`; owns nothing but the buffers of each thread.

use std::cell::RefCell;
use std::sync::Arc;

use ferromq_protocol::code::{request, response};
use ferromq_remoting::{Connection, Requests, Service};

use crate::broker::Shared;
use crate::handler::ack::AckRequests;
use crate::handler::send::Sends;
use crate::handler::{Call, Refusal};
use crate::routes;

thread_local! {
    /// The sends and acknowledgements of the turn in hand. A reactor thread serves one broker for all its life.
    static TURN: RefCell<(Sends, AckRequests)> = RefCell::default();
}

/// The broker as `remoting` sees it.
pub(crate) struct BrokerService {
    pub shared: Arc<Shared>,
    /// Port of the listener without pulls, 0 when there is none.
    pub fast_port: u16,
}

impl Service for BrokerService {
    fn serve(&self, conn: &Arc<Connection>, requests: &mut Requests<'_>, out: &mut Vec<u8>) {
        let broker = &self.shared;
        TURN.with_borrow_mut(|(sends, acks)| {
            for command in requests {
                let call = Call { conn, request: &command };
                match command.head.code {
                    request::SEND_MESSAGE
                    | request::SEND_MESSAGE_V2
                    | request::SEND_BATCH_MESSAGE
                    | request::END_TRANSACTION => {
                        if let Err(refusal) = sends.add(broker, &call) {
                            self.refuse_send(&call, refusal, out);
                        }
                    }
                    request::ACK_MESSAGE | request::BATCH_ACK_MESSAGE => {
                        if let Err(refusal) = acks.add(broker, &call, out)
                            && !command.head.is_oneway()
                        {
                            refusal.write(&command.head, out);
                        }
                    }
                    code => self.dispatch(code, &call, out),
                }
            }
        });
    }

    fn end_turn(&self) {
        TURN.with_borrow_mut(|(sends, acks)| {
            sends.finish(&self.shared);
            acks.finish(&self.shared);
        });
    }

    fn after_answers(&self) {
        self.shared.store.dispatch();
        self.shared.answer_ready_polls();
    }

    fn on_close(&self, conn: &Arc<Connection>) {
        self.shared.polls.connection_closed();
        for (group, client_id) in self.shared.clients.connection_closed(conn.id()) {
            self.shared.locks.owner_left(&group, &client_id);
        }
        self.shared.limits.forget_connection(conn.id());
    }
}

impl BrokerService {
    /// Says why a send was not taken: at once what is wrong with it, a moment later that it came too fast.
    fn refuse_send(&self, call: &Call<'_>, refusal: Refusal, out: &mut Vec<u8>) {
        let head = call.request.head;
        if refusal.code != response::SYSTEM_BUSY || head.is_oneway() {
            return self.shared.send.refuse(&head, refusal.code, &refusal.remark, out);
        }
        let (conn, constants) = (Arc::clone(call.conn), Arc::clone(&self.shared.send));
        self.shared.limits.hold_refusal(move || {
            // A push fails when the client has gone.
            let _ = conn.push(|out| constants.refuse(&head, refusal.code, &refusal.remark, out));
        });
    }

    fn dispatch(&self, code: i32, call: &Call<'_>, out: &mut Vec<u8>) {
        let before = out.len();
        let closed = routes::is_closed_on_fast_port(code) && call.conn.local().port() == self.fast_port;
        let result = match routes::handler(code).filter(|_| !closed) {
            Some(handler) => handler(&self.shared, call, out),
            None => {
                let remark = format!(" request type {code} not supported");
                Err(Refusal::new(response::REQUEST_CODE_NOT_SUPPORTED, remark))
            }
        };
        if let Err(refusal) = result {
            out.truncate(before);
            refusal.write(&call.request.head, out);
        }
        if call.request.head.is_oneway() {
            out.truncate(before);
        }
    }
}
