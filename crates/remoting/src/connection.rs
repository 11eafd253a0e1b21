//! What any thread may do with a connection: push frames, call the peer, close. Reading belongs to the connection's
//! task (`drive.rs`); writing is guarded by the lock of `outbound.rs`.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use ferromq_protocol::frame::{MAX_FRAME_BYTES, split};
use ferromq_protocol::{Command, OwnedCommand};
use parking_lot::Mutex;
use thiserror::Error;
use tokio::net::tcp::OwnedWriteHalf;

use crate::common::{Common, Held};
use crate::in_flight::InFlight;
use crate::local::OnRequest;
use crate::outbound::{Outbound, Wrote};
use crate::reactor::{Collecting, Reactor};

/// A thread's buffer for pushed frames above this size is given back after use.
const KEPT_FRAMES_BYTES: usize = 64 << 10;

thread_local! {
    /// What a push writes, until the connection is locked.
    static FRAMES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

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

/// One connection, shared between its task and everybody who has something to say to the peer.
#[derive(Debug)]
pub struct Connection {
    /// Itself, for those who write to it later.
    me: Weak<Connection>,
    id: u64,
    peer: SocketAddr,
    local: SocketAddr,
    common: Arc<Common>,
    /// Where its task lives; none on a runtime of the caller.
    pub(crate) home: Option<Arc<Reactor>>,
    outbound: Mutex<Outbound>,
    /// Who takes requests, when the peer is in this process: there is no socket then.
    local_peer: Option<OnRequest>,
    in_flight: Mutex<InFlight>,
    closing: AtomicBool,
    /// Tick of the last read or write.
    pub(crate) active_at: AtomicU32,
    /// Tick at which the unfinished frame began; 0 when there is none.
    pub(crate) half_read_at: AtomicU32,
    /// What this connection has of the budgets, in bytes.
    half_read: AtomicUsize,
    unwritten: AtomicUsize,
}

impl Connection {
    /// A connection between `addrs`, the peer's first.
    pub(crate) fn new(
        socket: OwnedWriteHalf,
        addrs: (SocketAddr, SocketAddr),
        common: Arc<Common>,
        home: Option<Arc<Reactor>>,
    ) -> Arc<Self> {
        Self::build(Outbound::new(Some(socket)), addrs, None, common, home)
    }

    /// A connection to a peer in this process, see [`crate::LocalPeer`].
    pub(crate) fn without_socket(
        common: Arc<Common>,
        addrs: (SocketAddr, SocketAddr),
        on_request: OnRequest,
    ) -> Arc<Self> {
        Self::build(Outbound::new(None), addrs, Some(on_request), common, None)
    }

    fn build(
        outbound: Outbound,
        (peer, local): (SocketAddr, SocketAddr),
        local_peer: Option<OnRequest>,
        common: Arc<Common>,
        home: Option<Arc<Reactor>>,
    ) -> Arc<Self> {
        Arc::new_cyclic(|me| Connection {
            me: me.clone(),
            id: common.next_id.fetch_add(1, Ordering::Relaxed),
            peer,
            local,
            home,
            outbound: Mutex::new(outbound),
            local_peer,
            in_flight: Mutex::default(),
            closing: AtomicBool::new(false),
            active_at: AtomicU32::new(common.now()),
            half_read_at: AtomicU32::new(0),
            half_read: AtomicUsize::new(0),
            unwritten: AtomicUsize::new(0),
            common,
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
        self.wake(waker);
    }

    fn wake(&self, waker: Option<Waker>) {
        match (waker, &self.home) {
            (Some(waker), Some(home)) => home.wake(waker),
            (Some(waker), None) => waker.wake(),
            (None, _) => {}
        }
    }

    /// Appends whole frames to what is to be written and sees to it that they are. Never blocks by itself; `write` runs
    /// before the connection is locked, so it may take its time and any lock.
    pub fn push(&self, write: impl FnOnce(&mut Vec<u8>)) -> Result<(), PushError> {
        if !self.is_open() {
            return Err(PushError::Closed);
        }
        let mut frames = FRAMES.take();
        write(&mut frames);
        let pushed = match &self.local_peer {
            _ if frames.is_empty() => Ok(()),
            Some(_) => {
                self.push_local(&frames);
                Ok(())
            }
            None => self.push_frames(&mut frames),
        };
        frames.clear();
        if frames.capacity() <= KEPT_FRAMES_BYTES {
            FRAMES.set(frames);
        }
        pushed
    }

    /// Gives frames to the peer in this process.
    pub(crate) fn push_local(&self, mut frames: &[u8]) {
        let Some(local_peer) = &self.local_peer else { return };
        while let Ok(Some((frame, len))) = split(frames, MAX_FRAME_BYTES) {
            match Command::parse(frame) {
                Ok(command) if command.head.is_response() => self.complete(command.head.opaque, &frames[..len]),
                Ok(_) => match OwnedCommand::from_frame_bytes(frames[..len].to_vec()) {
                    Ok(command) => local_peer.take(command),
                    Err(error) => tracing::error!(%error, "a request to a peer in this process cannot be read"),
                },
                Err(error) => tracing::error!(%error, "a frame to a peer in this process cannot be read"),
            }
            frames = &frames[len..];
        }
    }

    fn push_frames(&self, frames: &mut Vec<u8>) -> Result<(), PushError> {
        let limit = self.common.limits.max_outbound;
        let collect = Collecting::is_on();
        let mut outbound = self.outbound.lock();
        if outbound.is_closed() || !self.is_open() {
            return Err(PushError::Closed);
        }
        outbound.append(frames);
        if outbound.left() > limit {
            // Before the lock is given back: a task that looks now must not go to sleep again.
            self.closing.store(true, Ordering::Release);
            let waker = outbound.waker.take();
            drop(outbound);
            tracing::warn!(peer = %self.peer, limit, "closing a connection whose peer does not read its answers");
            self.wake(waker);
            return Err(PushError::Full { limit });
        }
        if outbound.collected {
            return Ok(());
        }
        match self.me.upgrade().filter(|_| collect) {
            Some(me) => {
                outbound.collected = true;
                drop(outbound);
                Collecting::add(me);
            }
            None => {
                let waker = outbound.waker.take();
                drop(outbound);
                self.wake(waker);
            }
        }
        Ok(())
    }

    /// Writes what a drain of this thread has pushed; the connection's task goes on with what the socket leaves.
    pub(crate) fn write_collected(&self) {
        let mut outbound = self.outbound.lock();
        outbound.collected = false;
        let tried = outbound.try_write();
        if tried.is_err() {
            self.closing.store(true, Ordering::Release);
        }
        let waker = if matches!(tried, Ok(wrote) if wrote.left == 0) { None } else { outbound.waker.take() };
        drop(outbound);
        match tried {
            Ok(wrote) => self.account(wrote),
            Err(error) => tracing::debug!(peer = %self.peer, %error, "a pushed answer could not be written"),
        }
        self.wake(waker);
    }

    /// For the task: writes what was pushed, then `out`; what the socket does not take is kept. Gives the bytes kept.
    pub(crate) fn poll_write(&self, cx: &mut Context<'_>, out: &mut Vec<u8>) -> io::Result<usize> {
        let wrote = {
            let mut outbound = self.outbound.lock();
            outbound.remember(cx.waker());
            outbound.poll_write(cx, out)?
        };
        self.account(wrote);
        Ok(wrote.left)
    }

    fn account(&self, wrote: Wrote) {
        if wrote.taken > 0 {
            self.active_at.store(self.common.now(), Ordering::Relaxed);
        }
        if wrote.left > 0 || self.unwritten.load(Ordering::Relaxed) > 0 {
            self.common.charge(Held::Unwritten, self, wrote.left);
        }
    }

    /// Bytes that wait to be written.
    pub(crate) fn unwritten(&self) -> usize {
        self.outbound.lock().left()
    }

    pub(crate) fn share(&self, held: Held) -> &AtomicUsize {
        match held {
            Held::HalfRead => &self.half_read,
            Held::Unwritten => &self.unwritten,
        }
    }

    /// Sends a request that wants no answer. `write` gets the opaque to put into it.
    pub fn oneway(&self, write: impl FnOnce(&mut Vec<u8>, i32)) -> Result<(), PushError> {
        let opaque = self.in_flight.lock().next_opaque();
        self.push(|out| write(out, opaque))
    }

    /// Sends a request and waits for its answer. `write` gets the opaque to put into it. Needs a tokio timer.
    pub async fn invoke(
        &self,
        timeout: Duration,
        write: impl FnOnce(&mut Vec<u8>, i32),
    ) -> Result<OwnedCommand, InvokeError> {
        self.invoke_by(timeout, |opaque| self.push(|out| write(out, opaque))).await
    }

    /// As [`Connection::invoke`]; `send` sees to it that the request gets there.
    pub(crate) async fn invoke_by(
        &self,
        timeout: Duration,
        send: impl FnOnce(i32) -> Result<(), PushError>,
    ) -> Result<OwnedCommand, InvokeError> {
        let (opaque, mut answer) = self.in_flight.lock().register(self.common.limits.max_in_flight)?;
        // Forgets the call when this future is dropped, times out or fails.
        let _registered = Registered { conn: self, opaque };
        send(opaque)?;
        let in_turn = if self.local_peer.is_some() { once_more(&mut answer).await } else { None };
        let answer = match in_turn {
            Some(answer) => answer,
            None => tokio::time::timeout(timeout, answer).await.map_err(|_| InvokeError::Timeout(timeout))?,
        };
        answer.map_err(|_| InvokeError::Closed)
    }

    /// An answer has come; one that nobody waits for any more is dropped.
    pub(crate) fn complete(&self, opaque: i32, frame: &[u8]) {
        let Some(waiting) = self.in_flight.lock().take(opaque) else {
            return tracing::debug!(peer = %self.peer, opaque, "an answer came that nobody waits for");
        };
        match OwnedCommand::from_frame_bytes(frame.to_vec()) {
            // The caller may have given up in this moment.
            Ok(command) => drop(waiting.send(command)),
            Err(error) => tracing::warn!(peer = %self.peer, %error, "an answer cannot be read"),
        }
    }

    /// For the task: it has ended. Fails all calls that wait.
    pub(crate) fn ended(&self) {
        self.closing.store(true, Ordering::Release);
        self.outbound.lock().close();
        self.in_flight.lock().close();
        self.common.charge(Held::Unwritten, self, 0);
        self.common.charge(Held::HalfRead, self, 0);
    }
}

/// Looks twice, the second time behind the tasks that are ready now. By then the turn has ended on a reactor, and most calls are
/// answered: without a timer, each of which would wake the reactor by a system call.
async fn once_more<T>(answer: &mut (impl Future<Output = T> + Unpin)) -> Option<T> {
    let mut is_first = true;
    poll_fn(|cx| match Pin::new(&mut *answer).poll(cx) {
        Poll::Pending if std::mem::take(&mut is_first) => {
            cx.waker().wake_by_ref();
            Poll::Pending
        }
        Poll::Pending => Poll::Ready(None),
        Poll::Ready(answer) => Poll::Ready(Some(answer)),
    })
    .await
}

/// A call in the in-flight table; leaves it when dropped.
struct Registered<'a> {
    conn: &'a Connection,
    opaque: i32,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.conn.in_flight.lock().take(self.opaque);
    }
}
