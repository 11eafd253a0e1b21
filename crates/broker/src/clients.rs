//! Connected producers and consumers, as their heartbeats tell.

/// Connected clients by group.
#[derive(Default)]
pub struct Clients {}
