//! The complete frames of one socket drain. Requests are parsed as they are taken; answers to our own calls are given
//! to whoever waits for them and never appear here.

use ferromq_protocol::frame::split;
use ferromq_protocol::{Command, Head, version};

use crate::connection::Connection;

/// Requests handed to a service at once. Enough that what a batch costs is shared by many, few enough that the answers
/// of one batch stay small: a peer may ask for far more in one burst than it is going to read.
pub(crate) const REQUESTS_AT_ONCE: usize = 64;

/// The requests of one drain, in the order they came; at most [`REQUESTS_AT_ONCE`], the others follow.
#[derive(Debug)]
pub struct Requests<'a> {
    bytes: &'a [u8],
    at: usize,
    conn: &'a Connection,
    max_frame: usize,
    draining: bool,
    taken: usize,
    broken: Option<String>,
    sent_away: Vec<Head>,
    /// The body of the one request, when it does not stand in its frame.
    body: Option<&'a [u8]>,
}

impl<'a> Requests<'a> {
    pub(crate) fn new(bytes: &'a [u8], conn: &'a Connection, max_frame: usize, draining: bool) -> Self {
        Requests { bytes, at: 0, conn, max_frame, draining, taken: 0, broken: None, sent_away: Vec::new(), body: None }
    }

    /// One request of a peer in this process, whose body need not be copied into the frame.
    pub(crate) fn local(frame: &'a [u8], body: &'a [u8], conn: &'a Connection, max_frame: usize) -> Self {
        Requests { body: Some(body), ..Requests::new(frame, conn, max_frame, false) }
    }

    /// Bytes of complete frames consumed so far.
    pub(crate) fn consumed(&self) -> usize {
        self.at
    }

    /// Requests handed to the service so far.
    pub(crate) fn taken(&self) -> usize {
        self.taken
    }

    /// Whether frames are left behind.
    pub(crate) fn has_more(&self) -> bool {
        self.broken.is_none() && !matches!(split(&self.bytes[self.at..], self.max_frame), Ok(None))
    }

    /// Why the stream cannot go on, if it cannot.
    pub(crate) fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }

    /// Requests that are answered with GO_AWAY instead of being served.
    pub(crate) fn sent_away(&self) -> &[Head] {
        &self.sent_away
    }
}

impl<'a> Iterator for Requests<'a> {
    type Item = Command<'a>;

    fn next(&mut self) -> Option<Command<'a>> {
        while self.broken.is_none() && self.taken < REQUESTS_AT_ONCE {
            let rest = &self.bytes[self.at..];
            let (frame, len) = match split(rest, self.max_frame) {
                Ok(Some(found)) => found,
                Ok(None) => return None,
                Err(error) => {
                    self.broken = Some(error.to_string());
                    return None;
                }
            };
            self.at += len;
            match Command::parse(frame) {
                Err(error) => self.broken = Some(error.to_string()),
                Ok(command) if command.head.is_response() => self.conn.complete(command.head.opaque, &rest[..len]),
                Ok(command) if self.draining && command.head.version > version::V5_3_1 => {
                    if !command.head.is_oneway() {
                        self.sent_away.push(command.head);
                    }
                }
                Ok(mut command) => {
                    self.taken += 1;
                    command.body = self.body.unwrap_or(command.body);
                    return Some(command);
                }
            }
        }
        None
    }
}
