//! The one task of a connection: drain the socket, hand all complete requests to the service at once, write all
//! answers at once. Owns the reading half and the bytes of an unfinished frame; idle connections own no buffer.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use ferromq_protocol::FrameWriter;
use ferromq_protocol::code::response;
use ferromq_protocol::frame::announced_len;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::net::tcp::OwnedReadHalf;

use crate::Service;
use crate::common::{Common, Held};
use crate::connection::Connection;
use crate::reactor::{self, Collecting};
use crate::requests::Requests;

/// Bytes read from a socket at once; the buffer belongs to the thread, not to the connection.
const READ_BYTES: usize = 256 << 10;

/// An unfinished frame above this size is read in place instead of being moved through the thread's buffer.
const IN_PLACE_BYTES: usize = 64 << 10;

/// Answer buffers above this size are given back after use.
const KEPT_OUT_BYTES: usize = 1 << 20;

/// Drains of one connection before the others of its thread have their turn.
const DRAINS_IN_A_ROW: usize = 8;

thread_local! {
    static READ_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    static OUT_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The task of one connection, known to `common` from its making to its end.
pub(crate) struct Drive {
    socket: OwnedReadHalf,
    conn: Arc<Connection>,
    common: Arc<Common>,
    service: Arc<dyn Service>,
    /// Read but not served: an unfinished frame, or frames that wait until the peer has read answers.
    partial: Vec<u8>,
    /// The last batch left complete frames behind.
    left_behind: bool,
}

/// What one read brought.
enum Drained {
    Some,
    End,
}

impl Drive {
    pub fn new(socket: OwnedReadHalf, conn: Arc<Connection>, common: Arc<Common>, service: Arc<dyn Service>) -> Self {
        common.connections.lock().insert(conn.id(), conn.clone());
        Drive { socket, conn, common, service, partial: Vec::new(), left_behind: false }
    }

    /// Runs the connection to its end.
    pub async fn run(mut self) {
        match poll_fn(|cx| self.poll(cx)).await {
            Ok(()) => tracing::debug!(peer = %self.conn.peer(), "connection ended"),
            Err(error) => tracing::info!(peer = %self.conn.peer(), %error, "connection closed"),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut read = READ_BUFFER.take();
        let mut out = OUT_BUFFER.take();
        if read.len() < READ_BYTES {
            read = vec![0; READ_BYTES];
        }
        out.clear();
        let end = self.poll_drains(cx, &mut read, &mut out);
        if out.capacity() > KEPT_OUT_BYTES {
            out = Vec::new();
        }
        READ_BUFFER.set(read);
        OUT_BUFFER.set(out);
        end
    }

    fn poll_drains(&mut self, cx: &mut Context<'_>, read: &mut [u8], out: &mut Vec<u8>) -> Poll<io::Result<()>> {
        for _ in 0..DRAINS_IN_A_ROW {
            let unwritten = self.conn.poll_write(cx, out)?;
            // Only now that a close would wake us: one that came before is seen here.
            if !self.conn.is_open() {
                return Poll::Ready(Ok(()));
            }
            if unwritten > self.common.limits.write_high_water {
                // Woken when the peer has read.
                return Poll::Pending;
            }
            match self.poll_drain(cx, read, out) {
                Poll::Ready(Ok(Drained::Some)) => {}
                Poll::Ready(Ok(Drained::End)) => return Poll::Ready(Ok(())),
                Poll::Ready(Err(error)) => {
                    // What was served before the stream broke is still answered.
                    self.conn.poll_write(cx, out)?;
                    return Poll::Ready(Err(error));
                }
                // Whatever can go on wakes us: the socket in both directions, and pushes.
                Poll::Pending => return Poll::Pending,
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// One read, and whatever can be served after it.
    fn poll_drain(&mut self, cx: &mut Context<'_>, read: &mut [u8], out: &mut Vec<u8>) -> Poll<io::Result<Drained>> {
        if self.left_behind {
            return Poll::Ready(self.serve_partial(cx, out));
        }
        let kept = self.partial.len();
        if kept >= IN_PLACE_BYTES {
            return self.poll_drain_in_place(cx, out);
        }
        read[..kept].copy_from_slice(&self.partial);
        let mut buffer = ReadBuf::new(&mut read[kept..]);
        match Pin::new(&mut self.socket).poll_read(cx, &mut buffer)? {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(()) if buffer.filled().is_empty() => return Poll::Ready(Ok(Drained::End)),
            Poll::Ready(()) => {}
        }
        let filled = kept + buffer.filled().len();
        let consumed = self.serve(cx, &read[..filled], out)?;
        if consumed == 0 {
            self.partial.extend_from_slice(&read[kept..filled]);
        } else if consumed == filled {
            self.partial = Vec::new();
        } else {
            self.partial.clear();
            self.partial.extend_from_slice(&read[consumed..filled]);
        }
        self.account(consumed > 0);
        Poll::Ready(Ok(Drained::Some))
    }

    /// The unfinished frame is large: its bytes are read to where they stand. The buffer grows with what arrives, never
    /// with what was announced.
    fn poll_drain_in_place(&mut self, cx: &mut Context<'_>, out: &mut Vec<u8>) -> Poll<io::Result<Drained>> {
        let kept = self.partial.len();
        let missing = announced_len(&self.partial).unwrap_or(0).saturating_sub(kept);
        if self.partial.capacity() == kept {
            self.partial.reserve_exact(missing.clamp(1, kept));
        }
        match pin!(self.socket.read_buf(&mut self.partial)).poll(cx)? {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(0) => return Poll::Ready(Ok(Drained::End)),
            Poll::Ready(_) => {}
        }
        Poll::Ready(self.serve_partial(cx, out))
    }

    fn serve_partial(&mut self, cx: &mut Context<'_>, out: &mut Vec<u8>) -> io::Result<Drained> {
        let mut bytes = std::mem::take(&mut self.partial);
        let consumed = self.serve(cx, &bytes, out)?;
        if consumed > 0 {
            bytes = bytes[consumed..].to_vec();
        }
        self.partial = bytes;
        self.account(consumed > 0);
        Ok(Drained::Some)
    }

    /// Serves the complete frames of `bytes` in batches, until the peer has to read first; tells how many bytes they were.
    fn serve(&mut self, cx: &mut Context<'_>, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<usize> {
        self.conn.active_at.store(self.common.now(), Ordering::Relaxed);
        let mut consumed = 0;
        loop {
            let (of_this_batch, unwritten) = self.serve_batch(cx, &bytes[consumed..], out)?;
            consumed += of_this_batch;
            if !self.left_behind || unwritten > self.common.limits.write_high_water || !self.conn.is_open() {
                return Ok(consumed);
            }
        }
    }

    /// One `serve` and one write. Gives the bytes of the frames taken, and those that wait to be written.
    fn serve_batch(&mut self, cx: &mut Context<'_>, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<(usize, usize)> {
        let draining = self.common.draining.load(Ordering::Relaxed);
        let mut requests = Requests::new(bytes, &self.conn, self.common.limits.max_frame, draining);
        // Before anything is served: the turn ends also when serving panics or this connection turns out to be broken.
        if self.conn.home.is_some() {
            reactor::end_turn_soon();
        }
        let _writes_pushes_at_its_end = Collecting::start();
        self.service.serve(&self.conn, &mut requests, out);
        if self.conn.home.is_none() {
            reactor::end_turn(&*self.service);
        }
        for head in requests.sent_away() {
            let mut answer = FrameWriter::response(out, head, response::GO_AWAY);
            answer.remark("the server is shutting down, reconnect and send again");
            answer.finish();
        }
        if let Some(reason) = requests.broken() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason.to_owned()));
        }
        self.left_behind = requests.has_more();
        if self.left_behind && requests.consumed() == 0 {
            return Err(io::Error::other("the service takes no request; it must take one at least"));
        }
        let (consumed, served) = (requests.consumed(), requests.taken() > 0);
        let unwritten = if out.is_empty() { 0 } else { self.conn.poll_write(cx, out)? };
        if served {
            self.common.drains.fetch_add(1, Ordering::Relaxed);
        }
        Ok((consumed, unwritten))
    }

    /// Charges what is kept to the common budget and notes since when the frame is unfinished.
    fn account(&mut self, progressed: bool) {
        let since = &self.conn.half_read_at;
        if self.partial.is_empty() || self.left_behind {
            since.store(0, Ordering::Relaxed);
        } else if progressed || since.load(Ordering::Relaxed) == 0 {
            since.store(self.common.now(), Ordering::Relaxed);
        }
        self.common.charge(Held::HalfRead, &self.conn, self.partial.capacity());
    }
}

impl Drop for Drive {
    /// Also when the service panics, or the runtime goes away with the task.
    fn drop(&mut self) {
        self.common.connections.lock().remove(&self.conn.id());
        if let Some(home) = &self.conn.home {
            home.connections.fetch_sub(1, Ordering::Relaxed);
        }
        self.conn.ended();
        self.service.on_close(&self.conn);
    }
}
