//! A consumer's subscription to one topic, compiled for the filter at the broker.
//!
//! RocketMQ's broker compares the 32-bit hash of a message's tag (kept in the consume queue) with the hashes of the
//! subscribed tags; the consumer compares the text again, so a collision costs a transfer and no wrong delivery
//! (`FilterAPI`, `ExpressionMessageFilter`). Plain data: no state, no I/O.

use ferromq_protocol::body::SubscriptionData;
use ferromq_protocol::java;
use smallvec::SmallVec;

/// Most tags an expression in a pull request may name: each waiting pull keeps its own. Subscriptions of heartbeats are
/// limited by their table.
pub const MAX_TAGS: usize = 512;
/// Expression type of a plain tag list.
pub const TAG: &str = "TAG";
/// The expression that takes everything.
pub const SUB_ALL: &str = "*";

/// Why an expression was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ExpressionError {
    /// The text holds separators only.
    #[error("the expression names no tag")]
    Empty,
    /// More than [`MAX_TAGS`] tags.
    #[error("the expression names more than {MAX_TAGS} tags")]
    TooMany,
}

/// What a pull takes from a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// `None` takes every message.
    codes: Option<SmallVec<[i32; 6]>>,
}

impl Filter {
    /// Takes every message.
    pub const ALL: Filter = Filter { codes: None };

    /// Compiles the text of a subscription: tags joined by `||`, `*` or empty for all.
    pub fn parse_tags(text: &str) -> Result<Filter, ExpressionError> {
        if text.is_empty() || text == SUB_ALL {
            return Ok(Filter::ALL);
        }
        // Java's split drops empty strings at the end: a text of separators only gives no part at all and is refused,
        // while one with a blank part gives an empty set, which matches nothing.
        if text.split("||").all(str::is_empty) {
            return Err(ExpressionError::Empty);
        }
        let mut codes = SmallVec::new();
        for tag in text.split("||").map(str::trim).filter(|tag| !tag.is_empty()) {
            if codes.len() == MAX_TAGS {
                return Err(ExpressionError::TooMany);
            }
            codes.push(java::string_hash(tag));
        }
        Ok(Filter { codes: Some(codes) })
    }

    /// Compiles a subscription from a heartbeat; the client has hashed the tags.
    pub fn of(data: &SubscriptionData) -> Filter {
        if data.class_filter_mode || data.sub_string == SUB_ALL || !is_tag_type(&data.expression_type) {
            return Filter::ALL;
        }
        Filter { codes: Some(data.code_set.iter().copied().collect()) }
    }

    /// Whether a message with this tags code (the consume queue's 8 bytes) is wanted.
    #[inline]
    pub fn matches(&self, tags_code: i64) -> bool {
        match &self.codes {
            None => true,
            // The upper half is only the sign (RocketMQ compares `tagsCode.intValue()`).
            Some(codes) => codes.contains(&(tags_code as i32)),
        }
    }

    /// Whether every message is wanted.
    pub fn takes_all(&self) -> bool {
        self.codes.is_none()
    }
}

/// Whether an expression type means plain tags: absent, empty or `TAG`.
pub fn is_tag_type(expression_type: &str) -> bool {
    expression_type.is_empty() || expression_type == TAG
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn star_and_empty_take_everything() {
        for text in ["", "*"] {
            assert!(Filter::parse_tags(text).unwrap().matches(12345));
        }
    }

    #[test]
    fn tags_are_trimmed_and_matched_by_java_hash() {
        let filter = Filter::parse_tags(" TagA || TagB||").unwrap();
        assert!(filter.matches(i64::from(java::string_hash("TagA"))));
        assert!(filter.matches(i64::from(java::string_hash("TagB"))));
        assert!(!filter.matches(i64::from(java::string_hash("TagC"))));
        assert!(!filter.matches(0));
    }

    #[test]
    fn negative_hashes_match_their_sign_extended_form() {
        let tag = "a-tag-with-a-negative-hash";
        let code = (0..).map(|n| format!("{tag}{n}")).find(|t| java::string_hash(t) < 0).unwrap();
        assert!(Filter::parse_tags(&code).unwrap().matches(i64::from(java::string_hash(&code))));
    }

    #[test]
    fn separators_only_are_refused_and_blank_parts_match_nothing() {
        assert_eq!(Filter::parse_tags("||"), Err(ExpressionError::Empty));
        assert!(!Filter::parse_tags(" || ").unwrap().matches(0));
    }

    #[test]
    fn the_number_of_tags_is_limited() {
        let text = vec!["t"; MAX_TAGS + 1].join("||");
        assert_eq!(Filter::parse_tags(&text), Err(ExpressionError::TooMany));
    }
}
