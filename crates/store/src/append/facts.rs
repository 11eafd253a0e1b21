//! What queues need to know of a message, whether it is being appended or read back from the log.

use ferromq_protocol::sys_flag::message as flags;
use ferromq_protocol::{java, properties};

/// Hash of the tag as the consume queue holds it.
pub(crate) fn tags_code(tags: Option<&[u8]>) -> i64 {
    tags.map_or(0, |tags| i64::from(java::string_hash(&String::from_utf8_lossy(tags))))
}

/// Whether a record of this system flag has an entry in its consume queue.
pub(crate) fn is_in_queue(sys_flag: i32) -> bool {
    matches!(flags::transaction_value(sys_flag), flags::TRANSACTION_NOT | flags::TRANSACTION_COMMIT)
}

/// The delay that the properties of a message in the schedule topic ask for, milliseconds.
pub(crate) fn delay(text: &[u8], delays: &[i64]) -> Option<i64> {
    let level: usize = properties::get_str(text, properties::names::DELAY_TIME_LEVEL)?.parse().ok()?;
    delays.get(level.checked_sub(1)?.min(delays.len().checked_sub(1)?)).copied()
}

/// Whether a folder can have the topic's name: nothing that leads elsewhere.
pub(crate) fn is_folder_name(topic: &str) -> bool {
    !topic.is_empty() && topic != "." && topic != ".." && !topic.bytes().any(|b| b == b'/' || b == 0)
}
