//! One file per request family, and the shape all handlers share.
//!
//! A handler reads its header, asks the tables and the store, and writes its answer into `out`; a refusal is returned
//! and written by the caller. It runs on the thread that read the request, so it must not block: long work goes to
//! a helper thread (or a task of the reactor's runtime) that answers later by `Connection::push`; the handler then writes nothing.
//! One-way requests are handled like others; what they wrote is dropped by the caller.
//!

use std::borrow::Cow;
use std::sync::Arc;

use ferromq_protocol::code::response;
use ferromq_protocol::{Command, FieldError, FrameWriter, Head, HeaderError};
use ferromq_remoting::Connection;

use crate::broker::Shared;

pub(crate) mod ack;
pub(crate) mod admin;
pub(crate) mod assignment;
pub(crate) mod clean;
pub(crate) mod client;
pub(crate) mod cold;
pub(crate) mod group;
pub(crate) mod lite;
pub(crate) mod lock;
pub(crate) mod offset;
pub(crate) mod pop;
pub(crate) mod progress;
pub(crate) mod pull;
pub(crate) mod query;
pub(crate) mod recall;
pub(crate) mod relay;
pub(crate) mod reply;
pub(crate) mod reset;
pub(crate) mod resume;
pub(crate) mod route;
pub(crate) mod runtime;
pub(crate) mod send;
pub(crate) mod send_back;
pub(crate) mod topic;
pub(crate) mod upkeep;

/// What answers one request code.
pub(crate) type Handler = fn(&Arc<Shared>, &Call<'_>, &mut Vec<u8>) -> Result<(), Refusal>;

/// One request and the connection it came from.
pub(crate) struct Call<'a> {
    pub conn: &'a Arc<Connection>,
    pub request: &'a Command<'a>,
}

impl Call<'_> {
    /// Begins the answer.
    pub fn respond<'o>(&self, out: &'o mut Vec<u8>, code: i32) -> FrameWriter<'o> {
        FrameWriter::response(out, &self.request.head, code)
    }

    /// Answers from the thread that may wait for a disk. The handler writes nothing itself.
    pub fn answer_later(
        &self,
        broker: &Arc<Shared>,
        answer: impl FnOnce(&Arc<Shared>, &Head, &mut Vec<u8>) -> Result<(), Refusal> + Send + 'static,
    ) -> Result<(), Refusal> {
        let (shared, conn, head) = (Arc::clone(broker), Arc::clone(self.conn), self.request.head);
        broker.blocking.run(move || {
            let mut frame = Vec::new();
            if let Err(refusal) = answer(&shared, &head, &mut frame) {
                frame.clear();
                refusal.write(&head, &mut frame);
            }
            if !head.is_oneway() {
                // A push fails when the client has gone.
                let _ = conn.push(|out| out.extend_from_slice(&frame));
            }
        })
    }
}

/// An answer without a header of its own: a response code and the remark its user reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub code: i32,
    pub remark: Cow<'static, str>,
}

impl Refusal {
    /// Refuses with this code and remark.
    pub fn new(code: i32, remark: impl Into<Cow<'static, str>>) -> Self {
        Self { code, remark: remark.into() }
    }

    /// Writes the answer to a request.
    pub fn write(&self, request: &Head, out: &mut Vec<u8>) {
        let mut frame = FrameWriter::response(out, request, self.code);
        frame.remark(&self.remark);
        frame.finish();
    }
}

impl From<FieldError> for Refusal {
    fn from(error: FieldError) -> Self {
        Self::new(response::SYSTEM_ERROR, error.to_string())
    }
}

impl From<HeaderError> for Refusal {
    fn from(error: HeaderError) -> Self {
        Self::new(response::SYSTEM_ERROR, error.to_string())
    }
}
