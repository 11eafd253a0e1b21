//! A remoting client of the proxy, by hand: frames over whatever carries bytes.

use std::collections::VecDeque;

use ferromq_protocol::code::response;
use ferromq_protocol::{Encoding, FrameWriter, OwnedCommand, version};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// A connection of a client that calls itself Java 5.5, unless its language is changed.
pub struct Wire<S> {
    pub socket: S,
    pub language: u8,
    next: i32,
    /// Requests that came while an answer was waited for.
    heard: VecDeque<OwnedCommand>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub fn over(socket: S) -> Self {
        Wire { socket, language: version::language::JAVA, next: 1, heard: VecDeque::new() }
    }

    /// One request, and the answer to it.
    pub async fn ask(&mut self, code: i32, fields: &[(&str, &str)], body: &[u8]) -> OwnedCommand {
        let opaque = self.next;
        self.next += 1;
        let mut out = Vec::new();
        let mut frame = FrameWriter::request_of(&mut out, Encoding::Json, code, opaque, self.language);
        for (key, value) in fields {
            frame.str(key, value);
        }
        frame.finish_with_body(body);
        self.socket.write_all(&out).await.unwrap();
        let answer = loop {
            let frame = self.read().await;
            if frame.head().is_response() {
                break frame;
            }
            self.heard.push_back(frame);
        };
        assert_eq!(answer.head().opaque, opaque, "the answer is to another request");
        answer
    }

    /// Answers a request of the other side.
    pub async fn answer(&mut self, request: &OwnedCommand, body: &[u8]) {
        let mut out = Vec::new();
        FrameWriter::response(&mut out, &request.head(), response::SUCCESS).finish_with_body(body);
        self.socket.write_all(&out).await.unwrap();
    }

    /// The next request of the other side that wants an answer.
    pub async fn hear(&mut self) -> OwnedCommand {
        loop {
            let frame = match self.heard.pop_front() {
                Some(frame) => frame,
                None => self.read().await,
            };
            if !frame.head().is_oneway() {
                return frame;
            }
        }
    }

    async fn read(&mut self) -> OwnedCommand {
        let mut frame = vec![0; 4];
        self.socket.read_exact(&mut frame).await.unwrap();
        let len = u32::from_be_bytes(frame[..4].try_into().unwrap()) as usize;
        frame.resize(4 + len, 0);
        self.socket.read_exact(&mut frame[4..]).await.unwrap();
        OwnedCommand::from_frame_bytes(frame).unwrap()
    }
}
