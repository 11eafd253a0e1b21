//! The writing side of one connection: the socket half and the bytes it has not taken yet. Guarded by one lock of the
//! connection, so that its task and pushing threads never mix their frames.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::io::AsyncWrite;
use tokio::net::tcp::OwnedWriteHalf;

/// A buffer above this size is given back once written, so that connections at rest cost no memory.
const KEPT_BYTES: usize = 4 << 10;

/// Written bytes in front of the buffer are cut off when there are this many.
const COMPACT_BYTES: usize = 64 << 10;

/// Frames of this size are moved into an empty buffer rather than copied.
const TAKEN_OVER_BYTES: usize = 32 << 10;

#[derive(Debug)]
pub(crate) struct Outbound {
    /// None once the connection's task has ended, and when the peer is in this process.
    socket: Option<OwnedWriteHalf>,
    /// Frames to be written, from `written` on.
    pending: Vec<u8>,
    written: usize,
    /// Wakes the connection's task; taken by whoever wakes it.
    pub waker: Option<Waker>,
    /// A reactor thread will write what is pending when its drain is over.
    pub collected: bool,
}

/// What a try to write came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wrote {
    /// Bytes the socket took.
    pub taken: usize,
    /// Bytes still waiting.
    pub left: usize,
}

impl Outbound {
    pub fn new(socket: Option<OwnedWriteHalf>) -> Self {
        Outbound { socket, pending: Vec::new(), written: 0, waker: None, collected: false }
    }

    pub fn is_closed(&self) -> bool {
        self.socket.is_none()
    }

    /// Bytes waiting to be written.
    pub fn left(&self) -> usize {
        self.pending.len() - self.written
    }

    /// Takes frames over; large ones without a copy when nothing else waits.
    pub fn append(&mut self, frames: &mut Vec<u8>) {
        if self.pending.is_empty() && frames.len() >= TAKEN_OVER_BYTES {
            self.pending = std::mem::take(frames);
        } else {
            self.pending.extend_from_slice(frames);
        }
    }

    /// The task calls this whenever it runs: the next push wakes it again.
    pub fn remember(&mut self, waker: &Waker) {
        if !self.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            self.waker = Some(waker.clone());
        }
    }

    /// For the task: writes what is pending, then `out`, and empties `out`. What the socket does not take stays
    /// pending; the task is woken when it is writable.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, out: &mut Vec<u8>) -> io::Result<Wrote> {
        if self.pending.is_empty() {
            let Some(socket) = &mut self.socket else { return Err(io::ErrorKind::NotConnected.into()) };
            let taken = poll_write_all(socket, cx, out)?;
            self.pending.extend_from_slice(&out[taken..]);
            out.clear();
            return Ok(Wrote { taken, left: self.pending.len() });
        }
        self.pending.append(out);
        let Some(socket) = &mut self.socket else { return Err(io::ErrorKind::NotConnected.into()) };
        let taken = poll_write_all(socket, cx, &self.pending[self.written..])?;
        Ok(self.took(taken))
    }

    /// For other threads: writes what is pending as far as the socket takes it now.
    pub fn try_write(&mut self) -> io::Result<Wrote> {
        let Some(socket) = &self.socket else { return Ok(Wrote { taken: 0, left: 0 }) };
        let mut taken = 0;
        while self.written + taken < self.pending.len() {
            match socket.try_write(&self.pending[self.written + taken..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => taken += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(self.took(taken))
    }

    fn took(&mut self, taken: usize) -> Wrote {
        self.written += taken;
        let left = self.left();
        if left == 0 {
            self.written = 0;
            self.pending.clear();
            if self.pending.capacity() > KEPT_BYTES {
                self.pending = Vec::new();
            }
        } else if self.written >= COMPACT_BYTES && self.written >= left {
            self.pending.drain(..self.written);
            self.written = 0;
        }
        Wrote { taken, left }
    }

    /// The task has ended.
    pub fn close(&mut self) {
        self.socket = None;
        self.pending = Vec::new();
        self.written = 0;
        self.waker = None;
    }
}

/// How many of `bytes` the socket took; fewer than all means the task is woken when it takes more.
fn poll_write_all(socket: &mut OwnedWriteHalf, cx: &mut Context<'_>, bytes: &[u8]) -> io::Result<usize> {
    let mut at = 0;
    while at < bytes.len() {
        match Pin::new(&mut *socket).poll_write(cx, &bytes[at..])? {
            Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(n) => at += n,
            Poll::Pending => break,
        }
    }
    Ok(at)
}
