//! What is checked of a message, and the properties it is stored with (`SendMessageActivity.buildMessageProperty`).

use std::net::SocketAddr;

use ferromq_protocol::properties::{names, push};

use crate::message::{self, is_system, millis};
use crate::names::check_lite;
use crate::pb::{Code, Message, MessageType, SystemProperties};
use crate::status::Refused;

/// Most user properties of a message (`userPropertyMaxNum`).
const MAX_USER_PROPERTIES: usize = 128;
/// Most bytes of user properties, tag and keys together (`maxUserPropertySize`).
const MAX_USER_BYTES: usize = 16 * 1024;
/// Bytes that properties of a message seldom need more of.
const PROPERTIES: usize = 256;
/// Longest message group, bytes (`maxMessageGroupSize`).
const MAX_GROUP_BYTES: usize = 64;
/// Longest time a half message is not asked about, milliseconds (`maxTransactionRecoverySecond`).
const MAX_RECOVERY_MS: i64 = 3_600_000;

/// A message that can be stored.
pub(super) struct Checked {
    pub message_id: String,
    pub kind: MessageType,
    /// Messages with the same go to one queue: the message group, or the lite topic.
    pub group: Option<String>,
    pub born_ms: i64,
    /// As remoting carries them.
    pub properties: String,
}

pub(super) fn check(
    topic: &str,
    message: &Message,
    peer: SocketAddr,
    now: i64,
    max_delay: i64,
) -> Result<Checked, Refused> {
    let absent = SystemProperties::default();
    let system = message.system_properties.as_ref().unwrap_or(&absent);
    let mut text = Vec::with_capacity(PROPERTIES);
    push_user(message, system, &mut text)?;
    if is_blank(&system.message_id) || has_control(&system.message_id) {
        return Err(Refused::new(Code::IllegalMessageId, "the message id is empty or has control characters"));
    }
    push(&mut text, names::UNIQ_CLIENT_MESSAGE_ID_KEYIDX, &system.message_id);
    if let Some(tag) = &system.tag {
        if is_blank(tag) || has_control(tag) || tag.contains('|') {
            return Err(Refused::new(
                Code::IllegalMessageTag,
                "a tag is not empty and has no '|' or control character",
            ));
        }
        push(&mut text, names::TAGS, tag);
    }
    if !system.keys.is_empty() {
        if system.keys.iter().any(|key| is_blank(key) || has_control(key)) {
            return Err(Refused::new(Code::IllegalMessageKey, "a key is not empty and has no control character"));
        }
        push(&mut text, names::KEYS, &system.keys.join(" "));
    }
    let kind = push_kind(topic, system, now, max_delay, &mut text)?;
    if let Some(trace) = system.trace_context.as_ref().filter(|trace| !trace.is_empty() && !has_control(trace)) {
        push(&mut text, names::TRACE_CONTEXT, trace);
    }
    let born_host = match &system.born_host {
        host if is_blank(host) || has_control(host) => peer.ip().to_string(),
        host => host.clone(),
    };
    push(&mut text, names::BORN_HOST, &born_host);
    let born_ms = system.born_timestamp.as_ref().map_or(now, message::millis_of);
    push(&mut text, names::BORN_TIMESTAMP, &born_ms.to_string());
    Ok(Checked {
        message_id: system.message_id.clone(),
        kind,
        group: system.message_group.clone().or_else(|| system.lite_topic.clone().filter(|lite| !lite.is_empty())),
        born_ms,
        // Only text was appended.
        properties: String::from_utf8(text).unwrap_or_default(),
    })
}

fn push_user(message: &Message, system: &SystemProperties, text: &mut Vec<u8>) -> Result<(), Refused> {
    let user = &message.user_properties;
    let bytes: usize = user.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>()
        + system.tag.as_ref().map_or(0, String::len)
        + system.keys.iter().map(String::len).sum::<usize>();
    if user.len() > MAX_USER_PROPERTIES || bytes > MAX_USER_BYTES {
        let why = format!(
            "{} user properties of {bytes} bytes with tag and keys; at most {MAX_USER_PROPERTIES} and {MAX_USER_BYTES}",
            user.len()
        );
        return Err(Refused::new(Code::MessagePropertiesTooLarge, why));
    }
    for (name, value) in user {
        if is_blank(name) || is_system(name) || has_control(name) || has_control(value) {
            let why = format!("property {name:?} is RocketMQ's own, or it has control characters");
            return Err(Refused::new(Code::IllegalMessagePropertyKey, why));
        }
        push(text, name, value);
    }
    Ok(())
}

/// What makes the message more than a normal one.
fn push_kind(
    topic: &str,
    system: &SystemProperties,
    now: i64,
    max_delay: i64,
    text: &mut Vec<u8>,
) -> Result<MessageType, Refused> {
    let mut kind = MessageType::Normal;
    if let Some(priority) = system.priority {
        if priority < 0 {
            return Err(Refused::new(Code::BadRequest, "a priority is not negative"));
        }
        push(text, names::PRIORITY, &priority.to_string());
        kind = MessageType::Priority;
    }
    if let Some(group) = &system.message_group {
        if is_blank(group) || has_control(group) || group.len() >= MAX_GROUP_BYTES {
            let why = format!("a message group has 1 to {} bytes and no control character", MAX_GROUP_BYTES - 1);
            return Err(Refused::new(Code::IllegalMessageGroup, why));
        }
        push(text, names::SHARDING_KEY, group);
        kind = MessageType::Fifo;
    }
    if let Some(lite) = system.lite_topic.as_ref().filter(|lite| !lite.is_empty()) {
        check_lite(lite)?;
        push(text, names::LITE_TOPIC, lite);
        kind = MessageType::Lite;
    }
    if let Some(time) = &system.delivery_timestamp {
        let at = message::millis_of(time);
        if at.saturating_sub(now) > max_delay {
            let why = format!("the delivery time is more than {max_delay} ms ahead");
            return Err(Refused::new(Code::IllegalDeliveryTime, why));
        }
        push(text, names::TIMER_DELIVER_MS, &at.to_string());
        kind = MessageType::Delay;
    }
    if system.message_type() == MessageType::Transaction {
        push(text, names::TRANSACTION_PREPARED, "true");
        push(text, names::PRODUCER_GROUP, topic);
        if let Some(recovery) = &system.orphaned_transaction_recovery_duration {
            let recovery = millis(recovery);
            if !(0..=MAX_RECOVERY_MS).contains(&recovery) {
                let why = format!("the recovery of a transaction begins within {MAX_RECOVERY_MS} ms, not {recovery}");
                return Err(Refused::new(Code::BadRequest, why));
            }
            if recovery > 0 {
                push(text, names::CHECK_IMMUNITY_TIME_IN_SECONDS, &(recovery / 1000).to_string());
            }
        }
        kind = MessageType::Transaction;
    }
    Ok(kind)
}

fn is_blank(text: &str) -> bool {
    text.trim().is_empty()
}

fn has_control(text: &str) -> bool {
    text.chars().any(char::is_control)
}
