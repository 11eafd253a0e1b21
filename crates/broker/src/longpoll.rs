//! Pull requests that wait for messages: plain structs by queue, woken by dispatch or by their deadline.

/// Parked pull requests.
#[derive(Default)]
pub struct LongPolls {}
