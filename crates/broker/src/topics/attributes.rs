//! Attributes of topics and groups: the text that changes them (`+key=value,-key`) and the tables of what is allowed.
//!
//! Rules and remarks of RocketMQ's `AttributeParser`, `AttributeUtil`, `TopicAttributes` and `SubscriptionGroupAttributes`
//! (5.5). Pure functions, no state.

use std::collections::BTreeMap;

use crate::{broadcast_groups, limits};

/// Most attribute changes one request may carry.
const MAX_CHANGES: usize = 256;

/// Values an attribute takes.
#[derive(Debug)]
enum Values {
    OneOf(&'static [&'static str]),
    Range(i64, i64),
    Text,
}

/// One row of the tables below.
#[derive(Debug)]
pub struct Attribute {
    name: &'static str,
    /// Whether it may change after creation.
    changeable: bool,
    values: Values,
}

const fn row(name: &'static str, changeable: bool, values: Values) -> Attribute {
    Attribute { name, changeable, values }
}

/// Key of the attribute that names the kind of messages a topic takes.
pub const MESSAGE_TYPE: &str = "message.type";

/// Key of the attribute that names the kind of a topic's queues, and the kind that takes a batch as one record.
pub const QUEUE_TYPE: &str = "queue.type";
pub const BATCH_CQ: &str = "BatchCQ";

/// Key of the attribute that tells how old messages go, and the value that keeps the newest of each key.
pub const CLEANUP_POLICY: &str = "cleanup.policy";
pub const COMPACTION: &str = "COMPACTION";

/// Attributes of a topic.
pub const TOPIC: &[Attribute] = &[
    row(QUEUE_TYPE, false, Values::OneOf(&[BATCH_CQ, "SimpleCQ"])),
    row(CLEANUP_POLICY, false, Values::OneOf(&["DELETE", COMPACTION])),
    row(
        MESSAGE_TYPE,
        true,
        Values::OneOf(&["UNSPECIFIED", "NORMAL", "FIFO", "DELAY", "TRANSACTION", "MIXED", "PRIORITY", "LITE"]),
    ),
    row("reserve.time", true, Values::Range(-1, i64::MAX)),
    row("lite.topic.expiration", true, Values::Range(-1, i64::MAX)),
    // Our own; a Java broker keeps it and does nothing.
    row(limits::SEND_RATE, true, Values::Range(0, limits::MAX_RATE)),
    row(limits::SEND_UNFLUSHED, true, Values::Range(0, i64::MAX)),
    row(limits::DEGRADABLE, true, Values::OneOf(&["true", "false"])),
];

/// Attributes of a subscription group.
pub const GROUP: &[Attribute] = &[
    row("priority.factor", true, Values::Range(0, 100)),
    row("lite.bind.topic", true, Values::Text),
    row("lite.sub.model", true, Values::OneOf(&["Shared", "Exclusive"])),
    row("lite.sub.reset.offset.exclusive", true, Values::OneOf(&["true", "false"])),
    row("lite.sub.reset.offset.unsubscribe", true, Values::OneOf(&["true", "false"])),
    row("lite.sub.client.quota", true, Values::Range(-1, i64::MAX)),
    row("lite.sub.client.max.event.cnt", true, Values::Range(10, i64::MAX)),
    row("lite.sub.wildcard", true, Values::OneOf(&["true", "false"])),
    // Our own from here on.
    row(limits::READ_RATE, true, Values::Range(0, limits::MAX_RATE)),
    row(broadcast_groups::ATTRIBUTE, true, Values::OneOf(&["true", "false"])),
    row(broadcast_groups::SEEN, true, Values::Range(0, i64::MAX)),
];

/// Why a change of attributes was refused; the text is the remark of RocketMQ's answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttributeError {
    #[error("add/alter attribute format is wrong: {0}")]
    AddFormat(String),
    #[error("delete attribute format is wrong: {0}")]
    DeleteFormat(String),
    #[error("key duplication: {0}")]
    Duplicate(String),
    #[error("kv string format wrong.")]
    KeyFormat,
    #[error("only add attribute is supported while creating topic. key: {0}")]
    OnlyAddAtCreation(String),
    #[error("attempt to delete a nonexistent key: {0}")]
    DeleteMissing(String),
    #[error("unsupported key: {0}")]
    Unsupported(String),
    #[error("attempt to update an unchangeable attribute. key: {0}")]
    Unchangeable(String),
    #[error("value is not in set: [{0}]")]
    NotInSet(String),
    #[error("value is not in range({0}, {1})")]
    NotInRange(i64, i64),
    #[error("more than {MAX_CHANGES} attributes in one request")]
    TooMany,
}

/// The text of a create request as a map from signed key (`+message.type`, `-reserve.time`) to value.
pub fn parse(text: &str) -> Result<BTreeMap<String, String>, AttributeError> {
    let mut changes = BTreeMap::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (key, value) = match part.split_once('=') {
            Some((key, value)) if key.contains('+') && !value.is_empty() => (key, value),
            Some((key, _)) => return Err(AttributeError::AddFormat(key.to_owned())),
            None if part.contains('-') => (part, ""),
            None => return Err(AttributeError::DeleteFormat(part.to_owned())),
        };
        if changes.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(AttributeError::Duplicate(key.to_owned()));
        }
        if changes.len() > MAX_CHANGES {
            return Err(AttributeError::TooMany);
        }
    }
    Ok(changes)
}

/// What `current` (`None` at creation) becomes by `changes`, whose keys carry a sign.
pub fn alter(
    table: &[Attribute],
    current: Option<&BTreeMap<String, String>>,
    changes: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, AttributeError> {
    if changes.len() > MAX_CHANGES {
        return Err(AttributeError::TooMany);
    }
    let mut result = current.cloned().unwrap_or_default();
    let mut seen = Vec::new();
    for (signed, value) in changes {
        let mut characters = signed.chars();
        let sign = characters.next();
        let key = characters.as_str();
        if key.is_empty() || key.contains(['+', '-']) {
            return Err(AttributeError::KeyFormat);
        }
        if seen.contains(&key) {
            return Err(AttributeError::Duplicate(key.to_owned()));
        }
        seen.push(key);
        let adding = match (current, sign) {
            (_, Some('+')) => true,
            (None, _) => return Err(AttributeError::OnlyAddAtCreation(key.to_owned())),
            (Some(now), Some('-')) if now.contains_key(key) => false,
            (Some(_), Some('-')) => return Err(AttributeError::DeleteMissing(key.to_owned())),
            (Some(_), _) => return Err(AttributeError::AddFormat(key.to_owned())),
        };
        let attribute = table
            .iter()
            .find(|attribute| attribute.name == key)
            .ok_or_else(|| AttributeError::Unsupported(key.to_owned()))?;
        if current.is_some() && !attribute.changeable {
            return Err(AttributeError::Unchangeable(key.to_owned()));
        }
        if adding {
            verify(&attribute.values, value)?;
            result.insert(key.to_owned(), value.clone());
        } else {
            result.remove(key);
        }
    }
    Ok(result)
}

fn verify(values: &Values, value: &str) -> Result<(), AttributeError> {
    match values {
        Values::OneOf(set) if !set.contains(&value) => Err(AttributeError::NotInSet(set.join(", "))),
        Values::Range(min, max) if !value.parse().is_ok_and(|n: i64| (*min..=*max).contains(&n)) => {
            Err(AttributeError::NotInRange(*min, *max))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn the_text_gives_signed_keys() {
        assert_eq!(
            parse("+message.type=FIFO,-reserve.time").unwrap(),
            map(&[("+message.type", "FIFO"), ("-reserve.time", "")])
        );
        assert_eq!(parse("").unwrap(), map(&[]));
    }

    #[test]
    fn malformed_text_is_refused_with_javas_remarks() {
        let remark = |text| parse(text).unwrap_err().to_string();
        assert_eq!(remark("a=b"), "add/alter attribute format is wrong: a");
        assert_eq!(remark("+a="), "add/alter attribute format is wrong: +a");
        assert_eq!(remark("a"), "delete attribute format is wrong: a");
        assert_eq!(remark("+a=1,+a=2"), "key duplication: +a");
    }

    #[test]
    fn creation_takes_additions_only() {
        let made = alter(TOPIC, None, &map(&[("+message.type", "FIFO"), ("+queue.type", "BatchCQ")])).unwrap();
        assert_eq!(made, map(&[("message.type", "FIFO"), ("queue.type", "BatchCQ")]));
        let error = alter(TOPIC, None, &map(&[("-message.type", "")])).unwrap_err();
        assert_eq!(error.to_string(), "only add attribute is supported while creating topic. key: message.type");
    }

    #[test]
    fn an_update_changes_removes_and_keeps() {
        let now = map(&[("message.type", "FIFO"), ("reserve.time", "5"), ("cleanup.policy", "DELETE")]);
        let then = alter(TOPIC, Some(&now), &map(&[("+message.type", "DELAY"), ("-reserve.time", "")])).unwrap();
        assert_eq!(then, map(&[("message.type", "DELAY"), ("cleanup.policy", "DELETE")]));
    }

    #[test]
    fn what_the_table_does_not_allow_is_refused() {
        let now = map(&[("cleanup.policy", "DELETE")]);
        let remark = |changes| alter(TOPIC, Some(&now), &map(changes)).unwrap_err().to_string();
        assert_eq!(
            remark(&[("+cleanup.policy", "COMPACTION")]),
            "attempt to update an unchangeable attribute. key: cleanup.policy"
        );
        assert_eq!(remark(&[("+colour", "red")]), "unsupported key: colour");
        assert_eq!(remark(&[("-reserve.time", "")]), "attempt to delete a nonexistent key: reserve.time");
        assert!(remark(&[("+message.type", "fifo")]).starts_with("value is not in set: ["));
        assert!(remark(&[("+reserve.time", "soon")]).starts_with("value is not in range("));
        assert_eq!(remark(&[("++x", "1")]), "kv string format wrong.");
        assert_eq!(remark(&[("", "1")]), "kv string format wrong.");
    }
}
