//! Topic table (RocketMQ's `topics.json`).

/// All topics of this broker, by name.
#[derive(Default)]
pub struct Topics {}
