//! Consumer offsets by (topic, group, queue) (RocketMQ's `consumerOffset.json`).

/// The table of consumer offsets.
#[derive(Default)]
pub struct Offsets {}
