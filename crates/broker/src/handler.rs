//! One file per request family, and the shape all handlers share.
//!
//! A handler reads its header, asks the tables and the store, and writes its answer into `out`; a refusal is returned
//! and written by the caller. It runs on the thread that read the request, so it must not block: long work goes to
//! a helper thread (or a task of the reactor's runtime) that answers later by `Connection::push`; the handler then writes nothing.
//! One-way requests are handled like others; what they wrote is dropped by the caller.
//!
//! ```text
//! pub(crate) fn name(broker: &Arc<Shared>, call: &Call<'_>, out: &mut Vec<u8>) -> Result<(), Refusal>
//! call.conn: &Arc<Connection>   call.request: &Command<'_>   call.respond(out, code) -> FrameWriter
//! ```

use std::borrow::Cow;

pub(crate) mod admin;
pub(crate) mod client;
pub(crate) mod group;
pub(crate) mod lock;
pub(crate) mod offset;
pub(crate) mod pull;
pub(crate) mod query;
pub(crate) mod send;
pub(crate) mod topic;

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
}
