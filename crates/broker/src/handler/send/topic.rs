//! The topic a message is sent to: found, or made by its first send (`AbstractSendMessageProcessor.msgCheck`).

use std::sync::Arc;

use ferromq_protocol::code::response;
use ferromq_protocol::header::send::SendHeader;
use ferromq_protocol::{properties, topic as names};

use super::Target;
use crate::broker::Shared;
use crate::handler::{Call, Refusal};
use crate::properties::Seen;
use crate::topics::Topic;

/// The topic a name stands for, made when it is allowed (`AbstractSendMessageProcessor.msgCheck`).
pub(super) fn find_topic(
    broker: &Shared,
    call: &Call<'_>,
    header: &SendHeader<'_>,
    name: &str,
) -> Result<Arc<Topic>, Refusal> {
    let known = broker.topics.get(name);
    if broker.live.broker_permission() & 2 == 0 && known.as_ref().is_some_and(|topic| topic.config().order) {
        let remark = format!("the broker[{}] sending message is forbidden", broker.config.broker_ip1);
        return Err(Refusal::new(response::NO_PERMISSION, remark));
    }
    // A topic of the table has passed this check.
    if known.is_none() {
        names::validate_topic(name).map_err(|e| Refusal::new(response::INVALID_PARAMETER, e.to_string()))?;
    }
    if names::is_not_allowed_send_topic(name) {
        let remark = format!("Sending message to topic[{name}] is forbidden.");
        return Err(Refusal::new(response::NO_PERMISSION, remark));
    }
    known.map_or_else(|| create(broker, call, header, name), Ok)
}

/// Makes a topic that is not there (`createTopicInSendMessageMethod`).
fn create(broker: &Shared, call: &Call<'_>, header: &SendHeader<'_>, name: &str) -> Result<Arc<Topic>, Refusal> {
    let retry = name.starts_with(names::RETRY_PREFIX);
    let sys_flag = match (header.unit_mode, retry) {
        (false, _) => 0,
        (true, true) => ferromq_protocol::sys_flag::topic::UNIT_SUB,
        (true, false) => ferromq_protocol::sys_flag::topic::UNIT,
    };
    let default_topic = header.default_topic.to_str()?;
    let queues = header.default_topic_queue_nums;
    broker
        .topics
        .create_on_send(name, &default_topic, queues, sys_flag, call.conn.peer())
        .or_else(|| retry.then(|| broker.topics.create_if_absent(name, 1, 6, false, sys_flag)).flatten())
        .ok_or_else(|| {
            let remark = format!("topic[{name}] not exist, apply first please!");
            Refusal::new(response::TOPIC_NOT_EXIST, remark)
        })
}

/// A message of a compacted topic has a key. `text`: its properties.
pub(super) fn check_key(target: &Target, seen: &Seen, text: &[u8]) -> Result<(), Refusal> {
    let has_key = || seen.keys.as_ref().and_then(|keys| text.get(keys.clone())).is_some_and(properties::names_a_key);
    if target.topic.is_compacted() && !has_key() {
        return Err(Refusal::new(response::MESSAGE_ILLEGAL, "Required message key is missing"));
    }
    Ok(())
}
