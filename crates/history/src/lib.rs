//! The judge of histories: what clients asked of a server and were told, checked against what RocketMQ promises. Tests of
//! kills, power cuts, failing disks and failovers all write the same events and ask the same [`Checker`].
//!
//! Times are nanoseconds since a moment the test chooses, on one monotonic clock. Messages are numbers that the test puts
//! into bodies; queues are numbers that the test gives to its topics' queues. The crate knows no server, no socket and no
//! file, and has no dependency: a judge that shares code with the accused is none.
//!
//! ```text
//! send     invoke ──────► ok (queue, offset) │ refused (not stored) │ unknown (stored once, or not)
//! delivery a consumer was given a message of a queue at an offset
//! scan     the whole of a queue from an offset on, as it reads now
//! fault    a kill, a power cut, a failing disk; and how much it may take back
//! ```
//!
//! What consumers are promised beyond that has judges of its own, which are told things as they happen: [`Popped`],
//! [`Ordered`] and [`Once`], each with a [`Tally`] at the end.

mod checker;
mod once;
mod ordered;
mod popped;
mod report;
mod tally;

pub use checker::Checker;
pub use once::{Must, Once};
pub use ordered::Ordered;
pub use popped::Popped;
pub use report::{Report, Violation};
pub use tally::Tally;

/// Something a client did or saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// One attempt to send ended.
    Send(Send),
    /// A consumer was given a message; `None` where the body is not one that a test writes.
    Delivery { consumer: u32, at: u64, queue: u32, offset: i64, message: Option<u64> },
    /// A queue was read.
    Scan(Scan),
    /// Something broke. What was told or shown from `before` before it to `after` after it may be taken back; with zero
    /// and zero, nothing.
    Fault { at: u64, before: u64, after: u64 },
}

/// One attempt to send a message. Each attempt has a message number of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Send {
    pub message: u64,
    pub producer: u32,
    pub begun: u64,
    pub ended: u64,
    pub outcome: Outcome,
}

/// What a producer was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// SEND_OK, and where it stands.
    Ok { queue: u32, offset: i64 },
    /// Refused before anything was stored.
    Refused,
    /// A time-out, a cut connection, an error after storing began: it may stand in the log once.
    Unknown,
}

/// All of a queue from an offset to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    pub at: u64,
    pub queue: u32,
    pub from: i64,
    /// The queue's end (its maximum offset) as the server tells it.
    pub end: i64,
    /// Offset and message; `None` where the body is not one that a test writes.
    pub found: Vec<(i64, Option<u64>)>,
}
