//! How fast a group may pop: the limit of its pulls (`limits.rs`) holds for its pops too. Who is too fast gets nothing, or
//! waits among those that wait for messages.

use std::sync::Arc;
use std::time::Instant;

use super::take::PopRequest;
use crate::broker::Shared;
use crate::limits::Bucket;

/// How fast the group may read, if that is limited.
pub(crate) fn limit_of(broker: &Shared, request: &PopRequest) -> Option<Arc<Bucket>> {
    let group = broker.groups.get(&request.group)?;
    broker.limits.of_group(&request.group, &group.attributes)
}

/// When the group may read again, milliseconds since 1970; `None` when it may now.
pub(crate) fn held_until(limit: Option<&Bucket>, now: i64) -> Option<i64> {
    let wait = limit?.wait(Instant::now())?;
    Some(now.saturating_add(wait.as_millis() as i64 + 1))
}
