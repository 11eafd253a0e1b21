//! When a lite topic that a group has popped may be popped again without an acknowledgement
//! (RocketMQ's `QueueLevelConsumerOrderInfoLockManager`).

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// At most one time for each pair of queue and group, milliseconds since 1970.
#[derive(Debug, Default)]
pub(super) struct Unlocks {
    times: HashMap<Arc<str>, i64>,
    order: BTreeSet<(i64, Arc<str>)>,
}

impl Unlocks {
    /// Looks at the pair (`queue@group`) at `at` or earlier.
    pub fn schedule(&mut self, pair: &str, at: i64) {
        let known = self.times.get_key_value(pair).map(|(pair, at)| (Arc::clone(pair), *at));
        let pair = match known {
            Some((_, before)) if before <= at => return,
            Some((pair, before)) => {
                self.order.remove(&(before, Arc::clone(&pair)));
                pair
            }
            None => Arc::from(pair),
        };
        self.times.insert(Arc::clone(&pair), at);
        self.order.insert((at, pair));
    }

    /// Takes the next pair whose time has come.
    pub fn due(&mut self, now: i64) -> Option<Arc<str>> {
        let (at, _) = self.order.first()?;
        if *at > now {
            return None;
        }
        let (_, pair) = self.order.pop_first()?;
        self.times.remove(&pair);
        Some(pair)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_looked_at_once_and_at_its_earliest_time() {
        let mut unlocks = Unlocks::default();
        for (pair, at) in [("a", 50), ("b", 40), ("a", 30), ("a", 60)] {
            unlocks.schedule(pair, at);
        }
        assert_eq!(unlocks.due(29), None);
        assert_eq!(unlocks.due(45).as_deref(), Some("a"));
        assert_eq!(unlocks.due(45).as_deref(), Some("b"));
        assert_eq!(unlocks.due(100), None);
    }
}
