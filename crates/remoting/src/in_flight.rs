//! Calls to the peer of one connection that wait for their answers, matched by opaque.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use ferromq_protocol::OwnedCommand;
use tokio::sync::oneshot;

use crate::connection::InvokeError;

#[derive(Debug, Default)]
pub(crate) struct InFlight {
    last_opaque: i32,
    calls: HashMap<i32, oneshot::Sender<OwnedCommand>>,
    closed: bool,
}

impl InFlight {
    /// Never negative: some clients treat negative opaques as foreign.
    pub fn next_opaque(&mut self) -> i32 {
        self.last_opaque = self.last_opaque.wrapping_add(1) & i32::MAX;
        self.last_opaque
    }

    /// A new call, at most `limit` of them.
    pub fn register(&mut self, limit: usize) -> Result<(i32, oneshot::Receiver<OwnedCommand>), InvokeError> {
        if self.closed {
            return Err(InvokeError::Closed);
        }
        if self.calls.len() >= limit {
            return Err(InvokeError::TooManyInFlight { limit });
        }
        loop {
            let opaque = self.next_opaque();
            if let Entry::Vacant(free) = self.calls.entry(opaque) {
                let (sender, receiver) = oneshot::channel();
                free.insert(sender);
                return Ok((opaque, receiver));
            }
        }
    }

    /// The call has its answer, or does not want one any more.
    pub fn take(&mut self, opaque: i32) -> Option<oneshot::Sender<OwnedCommand>> {
        self.calls.remove(&opaque)
    }

    /// Fails all calls that wait, and all later ones.
    pub fn close(&mut self) {
        self.closed = true;
        self.calls = HashMap::new();
    }
}
