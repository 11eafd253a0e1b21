//! Which messages of a topic a consumer wants: tags joined by `||`, `*` for all, or an SQL92 expression for the broker.

use std::collections::BTreeSet;

use ferromq_common::clock;
use ferromq_protocol::body::SubscriptionData;

/// A subscription expression (RocketMQ's `FilterAPI`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    expression: String,
    sql: bool,
    tags: BTreeSet<String>,
    version: i64,
}

impl Subscription {
    /// All messages.
    pub fn all() -> Self {
        Self::tags("*")
    }

    /// Messages with one of the tags in `a || b`; `*` and the empty text mean all.
    pub fn tags(expression: &str) -> Self {
        let tags = expression.split("||").map(str::trim).filter(|t| !t.is_empty() && expression != "*");
        let tags: BTreeSet<String> = tags.map(str::to_owned).collect();
        let expression = if tags.is_empty() { "*" } else { expression };
        Self { expression: expression.to_owned(), sql: false, tags, version: clock::now_millis() }
    }

    /// Messages whose properties fit an SQL92 expression; the broker needs `enablePropertyFilter`.
    pub fn sql92(expression: &str) -> Self {
        Self { expression: expression.to_owned(), sql: true, tags: BTreeSet::new(), version: clock::now_millis() }
    }

    /// Whether a message with this tag is wanted. Brokers compare hashes of tags; this compares their text.
    pub fn matches(&self, tag: Option<&str>) -> bool {
        self.tags.is_empty() || tag.is_some_and(|t| self.tags.contains(t))
    }

    pub(crate) fn expression(&self) -> &str {
        &self.expression
    }

    pub(crate) fn expression_type(&self) -> &'static str {
        if self.sql { "SQL92" } else { "TAG" }
    }

    /// Milliseconds since 1970 UTC at which it was made: brokers keep the newest.
    pub(crate) fn version(&self) -> i64 {
        self.version
    }

    /// As heartbeats carry it.
    pub(crate) fn data(&self, topic: &str) -> SubscriptionData {
        SubscriptionData::of(topic, self.expression_type(), &self.expression, self.version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags() {
        let two = Subscription::tags(" a ||b||  ");
        assert!(two.matches(Some("a")) && two.matches(Some("b")));
        assert!(!two.matches(Some("c")) && !two.matches(None));
        for all in [Subscription::tags("*"), Subscription::tags(""), Subscription::tags(" || "), Subscription::all()] {
            assert!(all.matches(None) && all.matches(Some("x")));
            assert_eq!(all.expression(), "*");
        }
        // These two have one hash, so the broker lets both through.
        assert!(!Subscription::tags("Aa").matches(Some("BB")));
        assert!(Subscription::sql92("a > 1").matches(None));
    }

    #[test]
    fn heartbeat_form() {
        let data = Subscription::tags("TagA").data("t");
        assert_eq!(data.code_set.iter().copied().collect::<Vec<_>>(), [2_598_919]);
        assert_eq!((data.topic.as_str(), data.sub_string.as_str()), ("t", "TagA"));
    }
}
