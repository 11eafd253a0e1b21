//! How fast a group may pop: the limit of its pulls (`limits.rs`) holds for its pops too. Who is too fast gets nothing, or
//! waits among those that wait for messages.

use std::sync::Arc;
use std::time::Instant;

use ferromq_protocol::body::SubscriptionGroupConfig;

use crate::broker::Shared;
use crate::limits::Bucket;

/// How fast the group may read, if that is limited.
pub(crate) fn limit_of(broker: &Shared, group: Option<&SubscriptionGroupConfig>) -> Option<Arc<Bucket>> {
    let group = group?;
    broker.limits.of_group(&group.group_name, &group.attributes)
}

/// When the group may read again, milliseconds since 1970; `None` when it may now.
pub(crate) fn held_until(limit: Option<&Bucket>, now: i64) -> Option<i64> {
    let wait = limit?.wait(Instant::now())?;
    Some(now.saturating_add(wait.as_millis() as i64 + 1))
}
