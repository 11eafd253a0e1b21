//! Commands that own their bytes.

use std::borrow::Cow;

use smallvec::SmallVec;
use thiserror::Error;

use super::{Command, Fields, Head, HeaderError, Text};
use crate::frame::{FrameError, MAX_FRAME_BYTES, PREFIX_BYTES, prefix, split};
use crate::scan::Span;

/// Why the bytes are not exactly one command.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum CommandError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Header(#[from] HeaderError),
    #[error("expected one whole frame, but the bytes end before it does or go on after it")]
    NotOneFrame,
}

/// A command that owns the bytes of its frame, e.g. an answer that has left its receive buffer.
#[derive(Clone, Debug)]
pub struct OwnedCommand {
    bytes: Vec<u8>,
    head: Head,
    header: (usize, usize),
    remark: Option<(usize, usize, bool)>,
    spans: Box<[(Span, Span)]>,
    present: bool,
}

impl OwnedCommand {
    /// `bytes` is exactly one frame, its length word included.
    pub fn from_frame_bytes(bytes: Vec<u8>) -> Result<OwnedCommand, CommandError> {
        let (frame, len) = split(&bytes, MAX_FRAME_BYTES)?.ok_or(CommandError::NotOneFrame)?;
        if len != bytes.len() {
            return Err(CommandError::NotOneFrame);
        }
        let command = Command::parse(frame)?;
        let start = PREFIX_BYTES;
        let header = (start, start + frame.header.len());
        let remark = command.remark_at(start);
        let head = command.head;
        let present = command.fields.present;
        let spans = command.fields.spans.into_boxed_slice();
        Ok(OwnedCommand { head, header, remark, spans, present, bytes })
    }

    /// A copy of a command that must outlive its receive buffer.
    pub fn copied(command: &Command<'_>) -> OwnedCommand {
        let Fields { header, spans, present } = &command.fields;
        let start = PREFIX_BYTES;
        let mut bytes = Vec::with_capacity(start + header.len() + command.body.len());
        bytes.extend_from_slice(&prefix(command.head.encoding, header.len(), command.body.len()));
        bytes.extend_from_slice(header);
        bytes.extend_from_slice(command.body);
        let remark = command.remark_at(start);
        let (spans, header) = (spans.as_slice().into(), (start, start + header.len()));
        OwnedCommand { bytes, head: command.head, header, remark, spans, present: *present }
    }

    pub fn head(&self) -> Head {
        self.head
    }

    pub fn body(&self) -> &[u8] {
        &self.bytes[self.header.1..]
    }

    /// The whole frame as it came.
    pub fn frame_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The remark, or an empty text: for errors shown to a person.
    pub fn remark_lossy(&self) -> Cow<'_, str> {
        self.command().remark.map_or(Cow::Borrowed(""), |text| text.to_lossy())
    }

    pub fn command(&self) -> Command<'_> {
        let header = &self.bytes[self.header.0..self.header.1];
        Command {
            head: self.head,
            remark: self.remark.map(|(from, to, escaped)| Text { raw: &self.bytes[from..to], escaped }),
            fields: Fields { header, spans: SmallVec::from_slice(&self.spans), present: self.present },
            body: self.body(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Encoding, FrameWriter};

    #[test]
    fn a_copy_is_passed_on_as_it_came() {
        for encoding in [Encoding::Json, Encoding::Binary] {
            let mut frame = Vec::new();
            let mut writer = FrameWriter::request_of(&mut frame, encoding, 310, 7, crate::version::language::GO);
            writer.remark("r\"1");
            writer.str("n", "broker-ä").str("b", "t\n");
            writer.finish_with_body(b"body");
            let came = OwnedCommand::from_frame_bytes(frame.clone()).unwrap();
            let copy = OwnedCommand::copied(&came.command());
            assert_eq!(copy.frame_bytes(), frame, "{encoding:?}");
            assert_eq!(copy.remark_lossy(), "r\"1");

            let mut passed = Vec::new();
            let mut writer = FrameWriter::passed_on(&mut passed, &copy.command(), 8);
            writer.str("bname", "added");
            writer.finish_with_body(copy.body());
            let passed = OwnedCommand::from_frame_bytes(passed).unwrap();
            assert_eq!(passed.head(), Head { opaque: 8, ..came.head() });
            let fields: Vec<_> = passed
                .command()
                .fields
                .iter()
                .map(|(key, value)| (key.to_lossy().into_owned(), value.to_lossy().into_owned()))
                .collect();
            let expected = [("n", "broker-ä"), ("b", "t\n"), ("bname", "added")];
            assert_eq!(fields, expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
            assert_eq!((passed.body(), &*passed.remark_lossy()), (&b"body"[..], "r\"1"));
        }
    }
}
