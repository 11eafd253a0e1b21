//! Message properties as text: `name 0x01 value 0x02` repeated (RocketMQ 5.5 `MessageDecoder`). A segment without a
//! name or without a value does not exist for a reader; the last of two equal names wins.

/// Between a name and its value.
pub const NAME_VALUE_SEPARATOR: u8 = 1;
/// After each value; the last one may be missing.
pub const PROPERTY_SEPARATOR: u8 = 2;
/// Most bytes of properties a record can hold: its length field is a signed 16-bit number.
pub const MAX_PROPERTIES_BYTES: usize = 32_767;

/// Names RocketMQ gives a meaning (`MessageConst`).
pub mod names {
    macro_rules! names { ($($name:ident = $text:literal,)*) => { $(#[doc = concat!("`", $text, "`")] pub const $name: &str = $text;)* }; }
    names! {
        KEYS = "KEYS",
        TAGS = "TAGS",
        WAIT_STORE_MSG_OK = "WAIT",
        DELAY_TIME_LEVEL = "DELAY",
        RETRY_TOPIC = "RETRY_TOPIC",
        REAL_TOPIC = "REAL_TOPIC",
        REAL_QUEUE_ID = "REAL_QID",
        TRANSACTION_PREPARED = "TRAN_MSG",
        PRODUCER_GROUP = "PGROUP",
        MIN_OFFSET = "MIN_OFFSET",
        MAX_OFFSET = "MAX_OFFSET",
        BUYER_ID = "BUYER_ID",
        ORIGIN_MESSAGE_ID = "ORIGIN_MESSAGE_ID",
        TRANSFER_FLAG = "TRANSFER_FLAG",
        CORRECTION_FLAG = "CORRECTION_FLAG",
        MQ2_FLAG = "MQ2_FLAG",
        RECONSUME_TIME = "RECONSUME_TIME",
        MSG_REGION = "MSG_REGION",
        TRACE_SWITCH = "TRACE_ON",
        UNIQ_CLIENT_MESSAGE_ID_KEYIDX = "UNIQ_KEY",
        EXTEND_UNIQ_INFO = "EXTEND_UNIQ_INFO",
        MAX_RECONSUME_TIMES = "MAX_RECONSUME_TIMES",
        CONSUME_START_TIMESTAMP = "CONSUME_START_TIME",
        INNER_NUM = "INNER_NUM",
        INNER_BASE = "INNER_BASE",
        DUP_INFO = "DUP_INFO",
        CHECK_IMMUNITY_TIME_IN_SECONDS = "CHECK_IMMUNITY_TIME_IN_SECONDS",
        TRANSACTION_PREPARED_QUEUE_OFFSET = "TRAN_PREPARED_QUEUE_OFFSET",
        TRANSACTION_ID = "__transactionId__",
        TRANSACTION_CHECK_TIMES = "TRANSACTION_CHECK_TIMES",
        INSTANCE_ID = "INSTANCE_ID",
        CORRELATION_ID = "CORRELATION_ID",
        MESSAGE_REPLY_TO_CLIENT = "REPLY_TO_CLIENT",
        MESSAGE_TTL = "TTL",
        REPLY_MESSAGE_ARRIVE_TIME = "ARRIVE_TIME",
        PUSH_REPLY_TIME = "PUSH_REPLY_TIME",
        CLUSTER = "CLUSTER",
        MESSAGE_TYPE = "MSG_TYPE",
        POP_CK = "POP_CK",
        POP_CK_OFFSET = "POP_CK_OFFSET",
        FIRST_POP_TIME = "1ST_POP_TIME",
        SHARDING_KEY = "__SHARDINGKEY",
        FORWARD_QUEUE_ID = "PROPERTY_FORWARD_QUEUE_ID",
        REDIRECT = "REDIRECT",
        INNER_MULTI_DISPATCH = "INNER_MULTI_DISPATCH",
        INNER_MULTI_QUEUE_OFFSET = "INNER_MULTI_QUEUE_OFFSET",
        TRACE_CONTEXT = "TRACE_CONTEXT",
        TIMER_DELAY_SEC = "TIMER_DELAY_SEC",
        TIMER_DELIVER_MS = "TIMER_DELIVER_MS",
        BORN_HOST = "__BORNHOST",
        BORN_TIMESTAMP = "BORN_TIMESTAMP",
        TRANSIENT_PREFIX = "__RMQ.TRANSIENT.",
        TIMER_ENQUEUE_MS = "TIMER_ENQUEUE_MS",
        TIMER_DEQUEUE_MS = "TIMER_DEQUEUE_MS",
        TIMER_ROLL_TIMES = "TIMER_ROLL_TIMES",
        TIMER_OUT_MS = "TIMER_OUT_MS",
        TIMER_DEL_UNIQKEY = "TIMER_DEL_UNIQKEY",
        TIMER_DELAY_LEVEL = "TIMER_DELAY_LEVEL",
        TIMER_DELAY_MS = "TIMER_DELAY_MS",
        CRC32 = "__CRC32#",
        DLQ_ORIGIN_TOPIC = "DLQ_ORIGIN_TOPIC",
        DLQ_ORIGIN_MESSAGE_ID = "DLQ_ORIGIN_MESSAGE_ID",
        TRANSIENT_TOPIC_CONFIG = "__RMQ.TRANSIENT.TOPIC_SYS_FLAG",
        TRANSIENT_GROUP_CONFIG = "__RMQ.TRANSIENT.GROUP_SYS_FLAG",
        ORIGIN_GROUP = "ORIGIN_GROUP",
        TRANS_OFFSET = "TRANS_OFFSET",
        PRIORITY = "_SYS_MSG_PRIORITY_",
        LITE_TOPIC = "__LITE_TOPIC",
        TIMER_ENGINE_TYPE = "E_T",
        TIMER_ROLL_LABEL = "TIMER_ROLL_LABEL",
    }
}

/// The properties of `text` that a reader sees, in order.
pub fn iter(text: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    text.split(|byte| *byte == PROPERTY_SEPARATOR).filter_map(|segment| {
        let at = memchr::memchr(NAME_VALUE_SEPARATOR, segment)?;
        let (name, value) = (&segment[..at], &segment[at + 1..]);
        (!name.is_empty() && !value.is_empty()).then_some((name, value))
    })
}

/// The value of `name`.
pub fn get<'a>(text: &'a [u8], name: &str) -> Option<&'a [u8]> {
    iter(text).filter(|(found, _)| *found == name.as_bytes()).last().map(|(_, value)| value)
}

/// Whether the value of `KEYS` names a key: white space is none.
pub fn names_a_key(keys: &[u8]) -> bool {
    !String::from_utf8_lossy(keys).trim().is_empty()
}

/// The value of `name` if it is UTF-8.
pub fn get_str<'a>(text: &'a [u8], name: &str) -> Option<&'a str> {
    get(text, name).and_then(|value| std::str::from_utf8(value).ok())
}

/// Appends one property. The caller keeps separators out of `name` and `value`: see [`is_clean`].
pub fn push(out: &mut Vec<u8>, name: &str, value: &str) {
    if out.last().is_some_and(|last| *last != PROPERTY_SEPARATOR) {
        out.push(PROPERTY_SEPARATOR);
    }
    out.extend_from_slice(name.as_bytes());
    out.push(NAME_VALUE_SEPARATOR);
    out.extend_from_slice(value.as_bytes());
    out.push(PROPERTY_SEPARATOR);
}

/// Whether `text` can be a property's name or value: no separators.
pub fn is_clean(text: &str) -> bool {
    !text.bytes().any(|byte| byte == NAME_VALUE_SEPARATOR || byte == PROPERTY_SEPARATOR)
}

/// Appends the properties of `text` without those called `name`. Segments no reader sees are dropped too.
pub fn copy_without(text: &[u8], name: &str, out: &mut Vec<u8>) {
    for (found, value) in iter(text).filter(|(found, _)| *found != name.as_bytes()) {
        out.extend_from_slice(found);
        out.push(NAME_VALUE_SEPARATOR);
        out.extend_from_slice(value);
        out.push(PROPERTY_SEPARATOR);
    }
}

/// Removes `name` in place; true if it was there.
pub fn remove(text: &mut Vec<u8>, name: &str) -> bool {
    if get(text, name).is_none() {
        return false;
    }
    let mut rest = Vec::with_capacity(text.len());
    copy_without(text, name, &mut rest);
    *text = rest;
    true
}

/// Sets `name` to `value`, replacing what was there.
pub fn set(text: &mut Vec<u8>, name: &str, value: &str) {
    remove(text, name);
    push(text, name, value);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> Vec<(String, String)> {
        let own = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        iter(text.as_bytes()).map(|(name, value)| (own(name), own(value))).collect()
    }

    #[test]
    fn reads_what_java_reads() {
        assert_eq!(list("a\u{1}1\u{2}b\u{1}2"), [("a".into(), "1".into()), ("b".into(), "2".into())]);
        // no name, no value, no separator, empty segments
        assert_eq!(list("\u{1}v\u{2}n\u{1}\u{2}x\u{2}\u{2}k\u{1}v\u{2}"), [("k".into(), "v".into())]);
        // a second name separator belongs to the value
        assert_eq!(list("k\u{1}v\u{1}w\u{2}"), [("k".into(), "v\u{1}w".into())]);
        assert_eq!(get_str("k\u{1}1\u{2}k\u{1}2\u{2}".as_bytes(), "k"), Some("2"));
    }

    #[test]
    fn edits_leave_the_others() {
        let mut text = b"a\x011\x02WAIT\x01true\x02b\x012".to_vec();
        assert!(remove(&mut text, names::WAIT_STORE_MSG_OK));
        assert!(!remove(&mut text, names::WAIT_STORE_MSG_OK));
        assert_eq!(text, b"a\x011\x02b\x012\x02");
        set(&mut text, "a", "9");
        assert_eq!(text, b"b\x012\x02a\x019\x02");
        let mut open = b"a\x011".to_vec();
        push(&mut open, "b", "2");
        assert_eq!(open, b"a\x011\x02b\x012\x02");
        assert!(is_clean("plain") && !is_clean("a\u{1}b") && !is_clean("a\u{2}b"));
    }
}
