//! Queue locks of orderly consumers.

/// Which client of a group owns which queue.
#[derive(Default)]
pub struct OrderLocks {}
