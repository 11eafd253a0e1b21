//! The kinds of messages that a topic takes.

use clap::ValueEnum;

/// Attribute `message.type` of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MessageType {
    Normal,
    Fifo,
    Delay,
    Transaction,
    /// All of them
    Mixed,
}
