//! The way into the broker: remoting requests that its handlers serve on the caller's thread, without a socket and
//! without a second copy of a body.

use std::sync::Arc;
use std::time::Duration;

use ferromq_broker::Shared;
use ferromq_protocol::code::response;
use ferromq_protocol::{Encoding, FrameWriter, OwnedCommand};
use ferromq_remoting::{LocalPeer, LocalPeers, OnRequest};

use crate::call::Caller;
use crate::status::Refused;

/// How long a request to the broker may take that does not wait for messages.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(3);

/// The broker of this process.
#[derive(Clone)]
pub(crate) struct Door {
    pub broker: Arc<Shared>,
    peers: LocalPeers,
}

/// One connection to the broker. Its end takes back what the broker still keeps for it.
pub(crate) struct Line {
    peer: LocalPeer,
    language: u8,
}

impl Door {
    pub fn new(broker: Arc<Shared>, peers: LocalPeers) -> Self {
        Door { broker, peers }
    }

    pub fn broker_name(&self) -> &str {
        &self.broker.config.broker_name
    }

    /// A connection for one caller.
    pub fn connect(&self, caller: &Caller, on_request: OnRequest) -> Line {
        let peer = self.peers.connect(caller.ends.peer, caller.ends.local, on_request);
        Line { peer, language: caller.language }
    }

    /// A connection for one call, which the broker asks nothing.
    pub fn line(&self, caller: &Caller) -> Line {
        self.connect(
            caller,
            OnRequest::new(|request| {
                tracing::debug!(code = request.head().code, "the broker asks a call, which answers nothing");
            }),
        )
    }
}

impl Line {
    /// One request; any answer.
    pub async fn ask(
        &self,
        code: i32,
        timeout: Duration,
        header: impl FnOnce(&mut FrameWriter<'_>),
        body: &[u8],
    ) -> Result<OwnedCommand, Refused> {
        let write = |out: &mut Vec<u8>, opaque| {
            let mut frame = FrameWriter::request_of(out, Encoding::Json, code, opaque, self.language);
            header(&mut frame);
            frame.finish();
        };
        Ok(self.peer.invoke(timeout, write, body).await?)
    }

    /// One request that is to succeed.
    pub async fn call(
        &self,
        code: i32,
        header: impl FnOnce(&mut FrameWriter<'_>),
        body: &[u8],
    ) -> Result<OwnedCommand, Refused> {
        let answer = self.ask(code, TIMEOUT, header, body).await?;
        match answer.head().code {
            response::SUCCESS => Ok(answer),
            _ => Err(Refused::by_broker(&answer)),
        }
    }

    /// Answers a request of the broker; `frame` is the whole answer.
    pub fn answer(&self, opaque: i32, frame: &[u8]) {
        self.peer.answer(opaque, frame);
    }
}
