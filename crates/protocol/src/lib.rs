//! RocketMQ wire formats: pure codecs without I/O.
//!
//! Owns the remoting frame, both header encodings, request and response codes, the header families, the JSON bodies
//! with fastjson's dialect, message properties, ids and (in `record`) the stored-record layout. Everything here is a
//! function of bytes: no sockets, no files, no clock, no threads, no global state. No bytes from outside may panic.

pub mod body;
pub mod code;
pub mod command;
pub mod frame;
pub mod header;
pub mod id;
pub mod java;
pub mod json;
pub mod pop;
pub mod properties;
pub mod record;
pub mod records;
mod scan;
pub mod sys_flag;
pub mod topic;
pub mod version;
pub mod write;

pub use command::{Command, FieldError, Fields, Head, HeaderError, OwnedCommand, Text};
pub use frame::{Encoding, Frame, FrameError, MAX_FRAME_BYTES};
pub use write::FrameWriter;
