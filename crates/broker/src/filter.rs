//! A consumer's subscription to one topic, compiled for the filter at the broker.
//!
//! RocketMQ's broker compares the 32-bit hash of a message's tag (kept in the consume queue) with the hashes of the
//! subscribed tags; the consumer compares the text again, so a collision costs a transfer and no wrong delivery
//! (`FilterAPI`, `ExpressionMessageFilter`). SQL92 expressions (`sql.rs`) look at the properties of the stored record. No state.

use std::sync::Arc;

use ferromq_protocol::body::SubscriptionData;
use ferromq_protocol::java;
use ferromq_store::{CqEntry, Queue, Store};
use smallvec::SmallVec;

use crate::sql::{CompileError, Expression};

/// Most tags an expression in a pull request may name: each waiting pull keeps its own. Subscriptions of heartbeats are
/// limited by their table.
pub const MAX_TAGS: usize = 512;
/// Expression type of a plain tag list.
pub const TAG: &str = "TAG";
/// The expression that takes everything.
pub const SUB_ALL: &str = "*";

/// Expression type of `sql.rs`.
pub const SQL92: &str = "SQL92";

/// Why an expression was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExpressionError {
    /// The text holds separators only.
    #[error("the expression names no tag")]
    Empty,
    /// More than [`MAX_TAGS`] tags.
    #[error("the expression names more than {MAX_TAGS} tags")]
    TooMany,
    /// SQL92 that cannot be compiled.
    #[error(transparent)]
    Sql(#[from] CompileError),
    /// Neither TAG nor SQL92.
    #[error("the expression type {0} is none of TAG and SQL92")]
    Type(String),
}

/// What a pull takes from a queue.
#[derive(Debug, Clone)]
pub enum Filter {
    /// Every message.
    All,
    /// Messages whose tag has one of these hashes.
    Tags(SmallVec<[i32; 6]>),
    /// Messages for which the expression is true.
    Sql(Arc<Expression>),
}

impl Filter {
    /// Takes no message.
    pub fn none() -> Filter {
        Filter::Tags(SmallVec::new())
    }

    /// Compiles an expression of any type.
    pub fn parse(expression_type: &str, text: &str) -> Result<Filter, ExpressionError> {
        match expression_type {
            _ if is_tag_type(expression_type) => Filter::parse_tags(text),
            SQL92 => Ok(Filter::Sql(Arc::new(Expression::compile(text)?))),
            other => Err(ExpressionError::Type(other.to_owned())),
        }
    }

    /// Compiles the text of a subscription: tags joined by `||`, `*` or empty for all.
    pub fn parse_tags(text: &str) -> Result<Filter, ExpressionError> {
        if text.is_empty() || text == SUB_ALL {
            return Ok(Filter::All);
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
        Ok(Filter::Tags(codes))
    }

    /// Compiles a subscription from a heartbeat; the client has hashed the tags.
    pub fn of(data: &SubscriptionData) -> Result<Filter, ExpressionError> {
        if data.class_filter_mode {
            return Ok(Filter::All);
        }
        if !is_tag_type(&data.expression_type) {
            return Filter::parse(&data.expression_type, &data.sub_string);
        }
        match data.sub_string.as_str() {
            SUB_ALL => Ok(Filter::All),
            _ => Ok(Filter::Tags(data.code_set.iter().copied().collect())),
        }
    }

    /// Whether a message with this tags code (the consume queue's 8 bytes) may be wanted; of [`Filter::Sql`] the properties
    /// decide: [`Filter::wants`].
    #[inline]
    pub fn matches(&self, tags_code: i64) -> bool {
        match self {
            // The upper half is only the sign (RocketMQ compares `tagsCode.intValue()`).
            Filter::Tags(codes) => codes.contains(&(tags_code as i32)),
            Filter::All | Filter::Sql(_) => true,
        }
    }

    /// Whether the message of this tags code and place in the log is wanted.
    #[inline]
    pub fn wants(&self, store: &Store, tags_code: i64, physical_offset: u64) -> bool {
        match self {
            Filter::Sql(expression) => {
                store.look(physical_offset, |record| expression.matches(record.properties())).unwrap_or(false)
            }
            Filter::All | Filter::Tags(_) => self.matches(tags_code),
        }
    }

    /// The same of an entry that a read of the queue shows.
    #[inline]
    pub fn wants_entry(&self, store: &Store, queue: &Queue, entry: &CqEntry) -> bool {
        match self {
            Filter::Sql(expression) => {
                store.look_entry(queue, entry, |record| expression.matches(record.properties())).unwrap_or(false)
            }
            Filter::All | Filter::Tags(_) => self.matches(entry.tags_code),
        }
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
        assert_eq!(Filter::parse_tags("||").unwrap_err(), ExpressionError::Empty);
        assert!(!Filter::parse_tags(" || ").unwrap().matches(0));
    }

    #[test]
    fn types_are_told_apart() {
        assert!(matches!(Filter::parse("", "*"), Ok(Filter::All)));
        assert!(!Filter::none().matches(0));
        let sql = Filter::parse(SQL92, "a = 1").unwrap();
        assert!(sql.matches(7));
        assert!(matches!(Filter::parse(SQL92, "a >"), Err(ExpressionError::Sql(_))));
        assert!(matches!(Filter::parse("XPATH", "a"), Err(ExpressionError::Type(_))));
    }

    #[test]
    fn the_number_of_tags_is_limited() {
        let text = vec!["t"; MAX_TAGS + 1].join("||");
        assert_eq!(Filter::parse_tags(&text).unwrap_err(), ExpressionError::TooMany);
    }
}
