//! The one task of a connection: drain the socket, hand all complete requests to the service at once, write all
//! answers at once. Owns the socket and the bytes of an unfinished frame; idle connections own no buffer.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use ferromq_protocol::FrameWriter;
use ferromq_protocol::code::response;
use ferromq_protocol::frame::announced_len;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::Service;
use crate::connection::Connection;
use crate::limits::Common;
use crate::requests::Requests;

/// Bytes read from a socket at once; the buffer belongs to the thread, not to the connection.
const READ_BYTES: usize = 256 << 10;

/// An unfinished frame above this size is read in place instead of being moved through the thread's buffer.
const IN_PLACE_BYTES: usize = 64 << 10;

/// Answer buffers above this size are given back after use.
const KEPT_OUT_BYTES: usize = 1 << 20;

thread_local! {
    static READ_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    static OUT_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

struct Drive {
    socket: TcpStream,
    conn: Arc<Connection>,
    common: Arc<Common>,
    service: Arc<dyn Service>,
    /// The unfinished frame.
    partial: Vec<u8>,
    /// How much of `half_read` is ours.
    charged: usize,
    /// Answers the socket did not take yet.
    unwritten: Vec<u8>,
    written: usize,
}

/// Runs a connection to its end.
pub(crate) async fn drive(socket: TcpStream, conn: Arc<Connection>, common: Arc<Common>, service: Arc<dyn Service>) {
    let mut task =
        Drive { socket, conn, common, service, partial: Vec::new(), charged: 0, unwritten: Vec::new(), written: 0 };
    match poll_fn(|cx| task.poll(cx)).await {
        Ok(()) => tracing::debug!(peer = %task.conn.peer(), "connection ended"),
        Err(error) => tracing::info!(peer = %task.conn.peer(), %error, "connection closed"),
    }
}

impl Drop for Drive {
    /// Also when the runtime goes away with the task.
    fn drop(&mut self) {
        self.common.half_read.fetch_sub(self.charged, Ordering::Relaxed);
        self.conn.ended();
        self.service.on_close(&self.conn);
    }
}

impl Drive {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut read = READ_BUFFER.take();
        let mut out = OUT_BUFFER.take();
        if read.len() < READ_BYTES {
            read.resize(READ_BYTES, 0);
        }
        out.clear();
        let end = self.poll_with(cx, &mut read, &mut out);
        if out.capacity() > KEPT_OUT_BYTES {
            out = Vec::new();
        }
        READ_BUFFER.set(read);
        OUT_BUFFER.set(out);
        end
    }

    fn poll_with(&mut self, cx: &mut Context<'_>, read: &mut [u8], out: &mut Vec<u8>) -> Poll<io::Result<()>> {
        loop {
            if !self.conn.is_open() {
                return Poll::Ready(Ok(()));
            }
            self.conn.take_outbound(out, cx.waker());
            let _wakes_us_when_writable = self.poll_write(cx, out)?;
            let full = self.unwritten.len() - self.written > self.common.limits.write_high_water;
            let drained = if full { Poll::Pending } else { self.poll_drain(cx, read, out)? };
            match drained {
                Poll::Ready(Drained::End) => return Poll::Ready(Ok(())),
                Poll::Ready(Drained::Requests) => {
                    let _wakes_us_when_writable = self.poll_write(cx, out)?;
                    self.service.after_answer();
                }
                Poll::Ready(Drained::Nothing) => {}
                // Whatever can go on wakes us: the socket in both directions, and pushes.
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Writes what is left from before, then `out`. Ready when nothing is left.
    fn poll_write(&mut self, cx: &mut Context<'_>, out: &mut Vec<u8>) -> io::Result<Poll<()>> {
        if !self.unwritten.is_empty() {
            self.unwritten.append(out);
            while self.written < self.unwritten.len() {
                match Pin::new(&mut self.socket).poll_write(cx, &self.unwritten[self.written..])? {
                    Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Poll::Ready(n) => self.written += n,
                    Poll::Pending => {
                        self.conn.set_unwritten(self.unwritten.len() - self.written);
                        return Ok(Poll::Pending);
                    }
                }
            }
            self.unwritten = Vec::new();
            self.written = 0;
            self.conn.set_unwritten(0);
            self.conn.active_at.store(self.common.now(), Ordering::Relaxed);
            return Ok(Poll::Ready(()));
        }
        let mut at = 0;
        while at < out.len() {
            match Pin::new(&mut self.socket).poll_write(cx, &out[at..])? {
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(n) => at += n,
                Poll::Pending => {
                    self.unwritten = out.split_off(at);
                    out.clear();
                    self.conn.set_unwritten(self.unwritten.len());
                    return Ok(Poll::Pending);
                }
            }
        }
        if at > 0 {
            self.conn.active_at.store(self.common.now(), Ordering::Relaxed);
            out.clear();
        }
        Ok(Poll::Ready(()))
    }

    /// One read, and one `serve` for all frames it completed.
    fn poll_drain(&mut self, cx: &mut Context<'_>, read: &mut [u8], out: &mut Vec<u8>) -> io::Result<Poll<Drained>> {
        if self.partial.len() >= IN_PLACE_BYTES {
            return self.poll_drain_in_place(cx, out);
        }
        let kept = self.partial.len();
        read[..kept].copy_from_slice(&self.partial);
        let mut buffer = ReadBuf::new(&mut read[kept..]);
        match Pin::new(&mut self.socket).poll_read(cx, &mut buffer)? {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(()) if buffer.filled().is_empty() => return Ok(Poll::Ready(Drained::End)),
            Poll::Ready(()) => {}
        }
        let filled = kept + buffer.filled().len();
        let (consumed, drained) = self.serve(&read[..filled], out)?;
        self.partial.clear();
        if consumed < filled {
            self.partial.extend_from_slice(&read[consumed..filled]);
        } else {
            self.partial = Vec::new();
        }
        self.account(consumed > 0)?;
        Ok(Poll::Ready(drained))
    }

    /// The unfinished frame is large: its bytes are read to where they stand. The buffer grows with what arrives, never
    /// with what was announced.
    fn poll_drain_in_place(&mut self, cx: &mut Context<'_>, out: &mut Vec<u8>) -> io::Result<Poll<Drained>> {
        let missing = announced_len(&self.partial).unwrap_or(0).saturating_sub(self.partial.len());
        let kept = self.partial.len();
        self.partial.resize(kept + missing.clamp(1, kept.max(READ_BYTES)), 0);
        let mut buffer = ReadBuf::new(&mut self.partial[kept..]);
        let polled = Pin::new(&mut self.socket).poll_read(cx, &mut buffer);
        let got = buffer.filled().len();
        self.partial.truncate(kept + got);
        match polled? {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(()) if got == 0 => return Ok(Poll::Ready(Drained::End)),
            Poll::Ready(()) => {}
        }
        let bytes = std::mem::take(&mut self.partial);
        let (consumed, drained) = self.serve(&bytes, out)?;
        self.partial = if consumed == 0 { bytes } else { bytes[consumed..].to_vec() };
        self.account(consumed > 0)?;
        Ok(Poll::Ready(drained))
    }

    /// Hands the complete frames of `bytes` to the service; tells how many bytes they were.
    fn serve(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> io::Result<(usize, Drained)> {
        self.conn.active_at.store(self.common.now(), Ordering::Relaxed);
        let draining = self.common.draining.load(Ordering::Relaxed);
        let mut requests = Requests::new(bytes, &self.conn, self.common.limits.max_frame, draining);
        self.service.serve(&self.conn, &mut requests, out);
        // A service takes all requests; one it left would never be answered.
        let left = requests.by_ref().count();
        debug_assert_eq!(left, 0, "a service must take every request of a drain");
        for head in requests.sent_away() {
            let mut answer = FrameWriter::response(out, head, response::GO_AWAY);
            answer.remark("the server is shutting down, reconnect and send again");
            answer.finish();
        }
        if let Some(reason) = requests.broken() {
            let reason = reason.to_owned();
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        let drained = if requests.taken() > 0 { Drained::Requests } else { Drained::Nothing };
        if requests.taken() > 0 {
            self.common.drains.fetch_add(1, Ordering::Relaxed);
        }
        Ok((requests.consumed(), drained))
    }

    /// Charges the unfinished frame to the common budget and notes since when it is unfinished.
    fn account(&mut self, progressed: bool) -> io::Result<()> {
        let held = self.partial.capacity();
        if held != self.charged {
            let all = self.common.half_read.fetch_add(held.wrapping_sub(self.charged), Ordering::Relaxed);
            let all = all.wrapping_add(held.wrapping_sub(self.charged));
            let grew = held > self.charged;
            self.charged = held;
            let limit = self.common.limits.half_read_budget;
            if grew && all > limit {
                let reason = format!("unfinished frames of all connections hold {all} bytes, the limit is {limit}");
                return Err(io::Error::new(io::ErrorKind::OutOfMemory, reason));
            }
        }
        let since = &self.conn.half_read_at;
        if self.partial.is_empty() {
            since.store(0, Ordering::Relaxed);
        } else if progressed || since.load(Ordering::Relaxed) == 0 {
            since.store(self.common.now(), Ordering::Relaxed);
        }
        Ok(())
    }
}

/// What one read brought.
enum Drained {
    Requests,
    /// Answers to our own calls, or part of a frame.
    Nothing,
    End,
}
