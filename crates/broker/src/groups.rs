//! Subscription groups (RocketMQ's `subscriptionGroup.json`).

/// All consumer groups of this broker, by name.
#[derive(Default)]
pub struct Groups {}
