//! What any thread may do with a connection: push frames, call the peer, close. The socket itself belongs to the
//! connection's task (`drive.rs`), which is woken when there is something to write.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::Waker;
use std::time::Duration;

use ferromq_protocol::OwnedCommand;
use parking_lot::Mutex;
use thiserror::Error;
use tokio::sync::oneshot;

use crate::limits::Common;

/// Why a frame was not taken for sending.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum PushError {
    #[error("the connection is closed")]
    Closed,
    #[error("the peer does not read: more than {limit} bytes wait for it, the connection is being closed")]
    Full { limit: usize },
}

/// Why a call to the peer brought no answer.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum InvokeError {
    #[error("cannot connect to {addr}: {reason}; check the address and that the server runs")]
    Connect { addr: String, reason: String },
    #[error("the request could not be sent: {0}")]
    Push(#[from] PushError),
    #[error("{limit} calls already wait for answers on this connection; send slower")]
    TooManyInFlight { limit: usize },
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("the connection was closed before the answer came")]
    Closed,
}

/// Frames waiting for the connection's task.
#[derive(Debug, Default)]
struct Outbound {
    bytes: Vec<u8>,
    /// Bytes the task has taken but not yet written.
    unwritten: usize,
    /// Present while the task sleeps.
    waker: Option<Waker>,
    closed: bool,
}

/// Calls that wait for their answers, by opaque.
#[derive(Debug, Default)]
struct InFlight {
    next_opaque: i32,
    calls: HashMap<i32, oneshot::Sender<OwnedCommand>>,
    closed: bool,
}

/// One connection, shared between its task and everybody who has something to say to the peer.
#[derive(Debug)]
pub struct Connection {
    id: u64,
    peer: SocketAddr,
    local: SocketAddr,
    common: Arc<Common>,
    outbound: Mutex<Outbound>,
    in_flight: Mutex<InFlight>,
    closing: AtomicBool,
    /// Tick of the last read or write.
    pub(crate) active_at: AtomicU32,
    /// Tick at which the unfinished frame began; 0 when there is none.
    pub(crate) half_read_at: AtomicU32,
}

/// Buffers larger than this are given back instead of being kept for the next push.
const KEPT_BUFFER_BYTES: usize = 64 << 10;

impl Connection {
    pub(crate) fn new(peer: SocketAddr, local: SocketAddr, common: Arc<Common>) -> Arc<Self> {
        let now = common.now();
        Arc::new(Connection {
            id: common.next_id.fetch_add(1, Ordering::Relaxed),
            peer,
            local,
            common,
            outbound: Mutex::default(),
            in_flight: Mutex::default(),
            closing: AtomicBool::new(false),
            active_at: AtomicU32::new(now),
            half_read_at: AtomicU32::new(0),
        })
    }

    /// Unique within its server or client, never used twice.
    pub fn id(&self) -> u64 {
        self.id
    }

    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The address of our end; tells which listener took the connection.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    pub fn is_open(&self) -> bool {
        !self.closing.load(Ordering::Acquire)
    }

    /// Ends the connection soon; what is still unwritten is dropped.
    pub fn close(&self) {
        self.closing.store(true, Ordering::Release);
        let waker = self.outbound.lock().waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Appends whole frames to what is to be written and wakes the connection's task if it sleeps. Never blocks.
    pub fn push(&self, write: impl FnOnce(&mut Vec<u8>)) -> Result<(), PushError> {
        if !self.is_open() {
            return Err(PushError::Closed);
        }
        let limit = self.common.limits.max_outbound;
        let (waker, full) = {
            let mut outbound = self.outbound.lock();
            if outbound.closed {
                return Err(PushError::Closed);
            }
            write(&mut outbound.bytes);
            (outbound.waker.take(), outbound.bytes.len() + outbound.unwritten > limit)
        };
        if full {
            tracing::warn!(peer = %self.peer, limit, "closing a connection whose peer does not read its answers");
            self.closing.store(true, Ordering::Release);
        }
        if let Some(waker) = waker {
            waker.wake();
        }
        if full { Err(PushError::Full { limit }) } else { Ok(()) }
    }

    /// Sends a request that wants no answer. `write` gets the opaque to put into it.
    pub fn oneway(&self, write: impl FnOnce(&mut Vec<u8>, i32)) -> Result<(), PushError> {
        let opaque = {
            let mut in_flight = self.in_flight.lock();
            in_flight.next_opaque = in_flight.next_opaque.wrapping_add(1) & i32::MAX;
            in_flight.next_opaque
        };
        self.push(|out| write(out, opaque))
    }

    /// Sends a request and waits for its answer. `write` gets the opaque to put into it. Needs a tokio timer.
    pub async fn invoke(
        &self,
        timeout: Duration,
        write: impl FnOnce(&mut Vec<u8>, i32),
    ) -> Result<OwnedCommand, InvokeError> {
        let (opaque, answer) = self.register()?;
        // Forgets the call when this future is dropped, times out or fails.
        let _registered = Registered { conn: self, opaque };
        self.push(|out| write(out, opaque))?;
        match tokio::time::timeout(timeout, answer).await {
            Ok(Ok(command)) => Ok(command),
            Ok(Err(_)) => Err(InvokeError::Closed),
            Err(_) => Err(InvokeError::Timeout(timeout)),
        }
    }

    fn register(&self) -> Result<(i32, oneshot::Receiver<OwnedCommand>), InvokeError> {
        let limit = self.common.limits.max_in_flight;
        let mut in_flight = self.in_flight.lock();
        if in_flight.closed {
            return Err(InvokeError::Closed);
        }
        if in_flight.calls.len() >= limit {
            return Err(InvokeError::TooManyInFlight { limit });
        }
        loop {
            in_flight.next_opaque = in_flight.next_opaque.wrapping_add(1) & i32::MAX;
            let opaque = in_flight.next_opaque;
            if let Entry::Vacant(free) = in_flight.calls.entry(opaque) {
                let (sender, receiver) = oneshot::channel();
                free.insert(sender);
                return Ok((opaque, receiver));
            }
        }
    }

    /// An answer has come; one that nobody waits for any more is dropped.
    pub(crate) fn complete(&self, opaque: i32, frame: &[u8]) {
        let waiting = self.in_flight.lock().calls.remove(&opaque);
        match (waiting, OwnedCommand::from_frame_bytes(frame.to_vec())) {
            (Some(waiting), Ok(command)) => drop(waiting.send(command)),
            (Some(_), Err(error)) => tracing::warn!(peer = %self.peer, %error, "an answer cannot be read"),
            (None, _) => tracing::debug!(peer = %self.peer, opaque, "an answer came that nobody waits for"),
        }
    }

    /// For the task: moves what was pushed into `out`, and remembers whom the next push wakes.
    pub(crate) fn take_outbound(&self, out: &mut Vec<u8>, waker: &Waker) {
        let mut outbound = self.outbound.lock();
        if !outbound.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            outbound.waker = Some(waker.clone());
        }
        if outbound.bytes.is_empty() {
            return;
        }
        if out.is_empty() && outbound.bytes.capacity() > KEPT_BUFFER_BYTES {
            *out = std::mem::take(&mut outbound.bytes);
        } else {
            out.extend_from_slice(&outbound.bytes);
            outbound.bytes.clear();
            outbound.bytes.shrink_to(KEPT_BUFFER_BYTES);
        }
    }

    /// For the task: how many bytes it holds that the socket has not taken.
    pub(crate) fn set_unwritten(&self, bytes: usize) {
        self.outbound.lock().unwritten = bytes;
    }

    pub(crate) fn unwritten(&self) -> usize {
        let outbound = self.outbound.lock();
        outbound.unwritten + outbound.bytes.len()
    }

    /// For the task: it has ended. Fails all calls that wait.
    pub(crate) fn ended(&self) {
        self.closing.store(true, Ordering::Release);
        {
            let mut outbound = self.outbound.lock();
            outbound.closed = true;
            outbound.bytes = Vec::new();
            outbound.waker = None;
        }
        let mut in_flight = self.in_flight.lock();
        in_flight.closed = true;
        in_flight.calls.clear();
    }
}

/// A call in the in-flight table; leaves it when dropped.
struct Registered<'a> {
    conn: &'a Connection,
    opaque: i32,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.conn.in_flight.lock().calls.remove(&self.opaque);
    }
}
