//! Topic and group names: what is allowed, which ones the system keeps, how retry and dead-letter names are made
//! (RocketMQ 5.5 `TopicValidator`, `MixAll`, `KeyBuilder`).

use thiserror::Error;

/// Longest topic name, in characters.
pub const MAX_TOPIC_LEN: usize = 127;
/// Longest group name, in characters: retry and dead-letter names are made of it.
pub const MAX_GROUP_LEN: usize = 120;
/// Longest retry or dead-letter topic name, in characters.
pub const MAX_RETRY_OR_DLQ_TOPIC_LEN: usize = 255;

pub const RETRY_PREFIX: &str = "%RETRY%";
pub const DLQ_PREFIX: &str = "%DLQ%";
pub const LMQ_PREFIX: &str = "%LMQ%";
/// Light queues of lite topics begin so (`LiteUtil.LITE_TOPIC_PREFIX`).
pub const LITE_PREFIX: &str = "%LMQ%$";
pub const SYSTEM_TOPIC_PREFIX: &str = "rmq_sys_";
pub const SYNC_BROKER_MEMBER_GROUP_PREFIX: &str = "rmq_sys_SYNC_BROKER_MEMBER_";
pub const REPLY_TOPIC_POSTFIX: &str = "REPLY_TOPIC";
pub const CID_RMQ_SYS_PREFIX: &str = "CID_RMQ_SYS_";

/// The template of automatically created topics.
pub const AUTO_CREATE_TOPIC_KEY: &str = "TBW102";
pub const SCHEDULE: &str = "SCHEDULE_TOPIC_XXXX";
pub const BENCHMARK: &str = "BenchmarkTest";
pub const TRANS_HALF: &str = "RMQ_SYS_TRANS_HALF_TOPIC";
pub const TRANS_OP_HALF: &str = "RMQ_SYS_TRANS_OP_HALF_TOPIC";
pub const TRANS_CHECK_MAX_TIME: &str = "TRANS_CHECK_MAX_TIME_TOPIC";
pub const TRACE: &str = "RMQ_SYS_TRACE_TOPIC";
pub const SELF_TEST: &str = "SELF_TEST_TOPIC";
pub const OFFSET_MOVED_EVENT: &str = "OFFSET_MOVED_EVENT";
pub const ROCKSDB_OFFSET: &str = "CHECKPOINT_TOPIC";
pub const TIMER: &str = "rmq_sys_wheel_timer";

/// Topics that belong to the broker.
pub const SYSTEM_TOPICS: [&str; 10] = [
    AUTO_CREATE_TOPIC_KEY,
    SCHEDULE,
    BENCHMARK,
    TRANS_HALF,
    TRACE,
    TRANS_OP_HALF,
    TRANS_CHECK_MAX_TIME,
    SELF_TEST,
    OFFSET_MOVED_EVENT,
    ROCKSDB_OFFSET,
];

/// Topics that a client may not send to.
pub const NOT_ALLOWED_SEND_TOPICS: [&str; 7] =
    [SCHEDULE, TRANS_HALF, TRANS_OP_HALF, TRANS_CHECK_MAX_TIME, SELF_TEST, OFFSET_MOVED_EVENT, TIMER];

/// Groups that exist without anybody creating them.
pub const PREDEFINED_GROUPS: [&str; 14] = [
    "DEFAULT_CONSUMER",
    "DEFAULT_PRODUCER",
    "TOOLS_CONSUMER",
    "SCHEDULE_CONSUMER",
    "FILTERSRV_CONSUMER",
    "__MONITOR_CONSUMER",
    "CLIENT_INNER_PRODUCER",
    "SELF_TEST_P_GROUP",
    "SELF_TEST_C_GROUP",
    "CID_ONS-HTTP-PROXY",
    "CID_ONSAPI_PERMISSION",
    "CID_ONSAPI_OWNER",
    "CID_ONSAPI_PULL",
    "CID_RMQ_SYS_TRANS",
];

/// Why a name is refused; the text is the remark a client gets.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum NameError {
    #[error("The specified {kind} is blank.")]
    Blank { kind: &'static str },
    #[error("The specified {kind}: {name}, contains illegal characters, allowing only ^[%|a-zA-Z0-9_-]+$")]
    IllegalCharacters { kind: &'static str, name: String },
    #[error("The specified {kind}: {name}, is longer than {kind} max length: {max}")]
    TooLong { kind: &'static str, name: String, max: usize },
    #[error("The specified topic is DLQ or Retry topic: {name}, and it's longer than topic max length: {max}")]
    RetryOrDlqTooLong { name: String, max: usize },
}

/// Characters of a refused name that an error shows.
const SHOWN: usize = 300;

fn check_characters(kind: &'static str, name: &str) -> Result<(), NameError> {
    if name.trim().is_empty() {
        return Err(NameError::Blank { kind });
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'%' | b'|' | b'-' | b'_');
    if name.bytes().all(allowed) {
        Ok(())
    } else {
        Err(NameError::IllegalCharacters { kind, name: name.chars().take(SHOWN).collect() })
    }
}

/// Checks a topic name: characters and length. A name that passes is safe as one path component. The retry topic of a pop
/// may join group and topic by a plus sign, which no other name has.
pub fn validate_topic(topic: &str) -> Result<(), NameError> {
    let plus = if topic.starts_with(RETRY_PREFIX) { topic.find('+') } else { None };
    match plus {
        Some(at) => {
            check_characters("topic", &topic[..at])?;
            check_characters("topic", &topic[at + 1..])?;
        }
        None => check_characters("topic", topic)?,
    }
    let shown = || topic.chars().take(SHOWN).collect();
    if topic.starts_with(RETRY_PREFIX) || topic.starts_with(DLQ_PREFIX) {
        let max = MAX_RETRY_OR_DLQ_TOPIC_LEN;
        if topic.len() > max { Err(NameError::RetryOrDlqTooLong { name: shown(), max }) } else { Ok(()) }
    } else if topic.len() > MAX_TOPIC_LEN {
        Err(NameError::TooLong { kind: "topic", name: shown(), max: MAX_TOPIC_LEN })
    } else {
        Ok(())
    }
}

/// Checks a group name: characters and length.
pub fn validate_group(group: &str) -> Result<(), NameError> {
    check_characters("group", group)?;
    if group.len() > MAX_GROUP_LEN {
        let name = group.chars().take(SHOWN).collect();
        return Err(NameError::TooLong { kind: "group", name, max: MAX_GROUP_LEN });
    }
    Ok(())
}

/// Whether a topic is the system's by its name. A broker adds its own ones (its name, its cluster).
pub fn is_system_topic(topic: &str) -> bool {
    topic.starts_with(SYSTEM_TOPIC_PREFIX) || SYSTEM_TOPICS.contains(&topic)
}

/// Whether clients are refused to send to `topic`.
pub fn is_not_allowed_send_topic(topic: &str) -> bool {
    NOT_ALLOWED_SEND_TOPICS.contains(&topic)
}

/// Whether a group is the system's.
pub fn is_system_group(group: &str) -> bool {
    group.starts_with(CID_RMQ_SYS_PREFIX) || PREDEFINED_GROUPS.contains(&group)
}

/// The topic that a group's failed messages wait in.
pub fn retry_topic(group: &str) -> String {
    format!("{RETRY_PREFIX}{group}")
}

/// The topic that a group's dead messages end in.
pub fn dlq_topic(group: &str) -> String {
    format!("{DLQ_PREFIX}{group}")
}

/// The reply topic of a cluster, e.g. `DefaultCluster_REPLY_TOPIC`.
pub fn reply_topic(cluster: &str) -> String {
    format!("{cluster}_{REPLY_TOPIC_POSTFIX}")
}

pub fn is_retry_topic(topic: &str) -> bool {
    topic.starts_with(RETRY_PREFIX)
}

pub fn is_dlq_topic(topic: &str) -> bool {
    topic.starts_with(DLQ_PREFIX)
}

/// The group a retry topic belongs to.
pub fn group_of_retry_topic(topic: &str) -> Option<&str> {
    topic.strip_prefix(RETRY_PREFIX)
}

/// The light queue of a lite topic (`LiteUtil.toLmqName`).
pub fn lite_queue(parent: &str, lite: &str) -> String {
    format!("{LITE_PREFIX}{parent}${lite}")
}

/// Parent topic and lite topic of a light queue; `None` if it is none of a lite topic.
pub fn lite_parts(queue: &str) -> Option<(&str, &str)> {
    let (parent, lite) = queue.strip_prefix(LITE_PREFIX)?.split_once('$')?;
    (!parent.is_empty() && !lite.is_empty() && !lite.contains('$')).then_some((parent, lite))
}

/// Whether a lite topic may be called so (`GrpcValidator.validateLiteTopic`).
pub fn is_lite_topic(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_as_rocketmq_does() {
        assert!(validate_topic("Orders_2-a|b%").is_ok());
        assert_eq!(validate_topic(" ").unwrap_err().to_string(), "The specified topic is blank.");
        assert!(validate_topic("a/b").unwrap_err().to_string().contains("contains illegal characters"));
        assert!(validate_topic("..").is_err());
        assert!(validate_topic("%RETRY%g+t").is_ok() && validate_topic("%RETRY%g+t+t").is_err());
        assert!(validate_topic("%RETRY%g+").is_err() && validate_topic("g+t").is_err());
        assert!(validate_topic("ä").is_err());
        assert!(validate_topic(&"a".repeat(127)).is_ok());
        assert!(validate_topic(&"a".repeat(128)).unwrap_err().to_string().ends_with("topic max length: 127"));
        assert!(validate_topic(&retry_topic(&"a".repeat(248))).is_ok());
        assert!(validate_topic(&retry_topic(&"a".repeat(249))).is_err());
        assert!(validate_group(&"g".repeat(120)).is_ok());
        assert!(validate_group(&"g".repeat(121)).is_err());
    }

    #[test]
    fn derived_names() {
        assert_eq!(retry_topic("g"), "%RETRY%g");
        assert_eq!(group_of_retry_topic("%RETRY%g"), Some("g"));
        assert_eq!(reply_topic("DefaultCluster"), "DefaultCluster_REPLY_TOPIC");
        assert!(is_system_topic("rmq_sys_wheel_timer") && is_system_topic("TBW102") && !is_system_topic("mine"));
        assert!(is_not_allowed_send_topic("SCHEDULE_TOPIC_XXXX") && !is_not_allowed_send_topic("TBW102"));
        assert!(is_system_group("CID_RMQ_SYS_REVIVE_GROUP") && !is_system_group("mine"));
    }
}
