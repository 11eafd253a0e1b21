//! Groups of which each client gets every message: a proxy gives each client a group of its own, made after theirs.
//!
//! Such a group carries when its client was last seen. It is forgotten with all it has when the client leaves, and when it
//! has not been seen for [`KEPT_SECONDS`]: that is looked for whenever another one comes. `docs/broadcast.md`.

use std::sync::Arc;

use ferromq_common::clock;
use ferromq_protocol::topic as names;

use crate::broker::Shared;
use crate::handler::{Refusal, topic};

/// Attribute of a group: `true` when each client of the second protocol gets every message.
pub const ATTRIBUTE: &str = "consume.broadcast";
/// Attribute of a client's own group: when it was last seen, seconds since 1970.
pub const SEEN: &str = "consume.broadcast.seen";
/// How long what a silent client has consumed is known, seconds.
pub const KEPT_SECONDS: i64 = 24 * 3600;

/// Forgets a client's own group: its offsets, and what was to be delivered again.
pub(crate) fn forget(broker: &Arc<Shared>, group: &str) -> Result<(), Refusal> {
    broker.groups.delete(group);
    let topics = broker.offsets.topics_of(group);
    topics.iter().filter(|name| names::is_retry_topic(name)).try_for_each(|retry| topic::forget(broker, retry))?;
    broker.offsets.remove_group(group);
    Ok(())
}

/// Forgets the groups of clients that have been silent for too long.
pub(crate) fn forget_silent(broker: &Arc<Shared>) -> Result<(), Refusal> {
    let before = clock::now_millis() / 1000 - KEPT_SECONDS;
    broker.groups.not_seen_since(before).iter().try_for_each(|group| forget(broker, group))
}
