//! What is checked of a pull, and where its messages stand.

use std::sync::Arc;

use ferromq_protocol::body::{MessageModel, SubscriptionGroupConfig};
use ferromq_protocol::code::{request, response};
use ferromq_protocol::header::pull::{PullHeader, PullResponseHeader};
use ferromq_protocol::sys_flag::pull as flags;
use ferromq_protocol::{FrameWriter, Head, topic as names};

use super::{Pull, Wanted};
use crate::broker::Shared;
use crate::filter::{self, Filter};
use crate::groups::refuse_paused;
use crate::handler::{Call, Refusal};

/// `forbiddenType` of an answer with code 16 (RocketMQ's `ForbiddenType`).
mod forbidden {
    pub const BROKER: i32 = 1;
    pub const GROUP: i32 = 2;
    pub const TOPIC: i32 = 3;
    pub const BROADCASTING: i32 = 4;
    pub const SUBSCRIPTION: i32 = 5;
}

/// A refusal that tells who forbids (RocketMQ's `forbiddenType`, 0 for none).
pub(super) struct Refused {
    refusal: Refusal,
    forbidden_type: i32,
}

impl<E: Into<Refusal>> From<E> for Refused {
    fn from(refusal: E) -> Self {
        Self { refusal: refusal.into(), forbidden_type: 0 }
    }
}

impl Refused {
    fn forbidden(forbidden_type: i32, remark: String) -> Self {
        Self { refusal: Refusal::new(response::NO_PERMISSION, remark), forbidden_type }
    }

    /// Of a group that may not consume.
    pub fn paused(refusal: Refusal) -> Self {
        Self { refusal, forbidden_type: forbidden::GROUP }
    }

    /// A lite topic that has no message yet: an empty queue.
    fn empty(offset: i64) -> Self {
        let code = if offset == 0 { response::PULL_NOT_FOUND } else { response::PULL_OFFSET_MOVED };
        Refusal::new(code, "NO_MATCHED_LOGIC_QUEUE").into()
    }

    /// Whether there may be something soon.
    pub fn may_wait(&self) -> bool {
        self.refusal.code == response::PULL_NOT_FOUND
    }

    pub fn write(&self, head: &Head, out: &mut Vec<u8>) {
        let mut frame = FrameWriter::response(out, head, self.refusal.code);
        frame.remark(&self.refusal.remark);
        if matches!(self.refusal.code, response::NO_PERMISSION | response::PULL_NOT_FOUND | response::PULL_OFFSET_MOVED)
        {
            // Clients read the offsets whatever the code.
            let forbidden_type = Some(self.forbidden_type).filter(|of| *of != 0);
            PullResponseHeader { forbidden_type, ..PullResponseHeader::default() }.write(&mut frame);
        }
        frame.finish();
    }
}

pub(super) fn check(
    broker: &Shared,
    call: &Call<'_>,
    header: &PullHeader<'_>,
    topic_name: &str,
    group_name: &str,
) -> Result<Pull, Refused> {
    let config = &broker.config;
    if broker.live.broker_permission() & 4 == 0 {
        let remark = format!("the broker[{}] pulling message is forbidden", config.broker_ip1);
        return Err(Refused::forbidden(forbidden::BROKER, remark));
    }
    if call.request.head.code == request::LITE_PULL_MESSAGE && !broker.live.lite_pull_message_enable() {
        let remark = format!("the broker[{}] for lite pull consumer is forbidden", config.broker_ip1);
        return Err(Refused::forbidden(forbidden::BROKER, remark));
    }
    let group = broker.groups.find(group_name).ok_or_else(|| {
        let remark = format!("subscription group [{group_name}] does not exist");
        Refusal::new(response::SUBSCRIPTION_GROUP_NOT_EXIST, remark)
    })?;
    refuse_paused(&group).map_err(Refused::paused)?;
    let topic = broker.topics.get(topic_name).ok_or_else(|| {
        Refusal::new(response::TOPIC_NOT_EXIST, format!("topic[{topic_name}] not exist, apply first please!"))
    })?;
    if !topic.is_readable() {
        let remark = format!("the topic[{topic_name}] pulling message is forbidden");
        return Err(Refused::forbidden(forbidden::TOPIC, remark));
    }
    let queue = u32::try_from(header.queue_id)
        .ok()
        .filter(|id| *id < topic.read_queues())
        .and_then(|id| topic.queue(&broker.store, id))
        .ok_or_else(|| {
            let (id, queues, peer) = (header.queue_id, topic.read_queues(), call.conn.peer());
            let remark = format!(
                "queueId[{id}] is illegal, topic:[{topic_name}] topicConfig.readQueueNums:[{queues}] consumer:[{peer}]"
            );
            Refusal::new(response::INVALID_PARAMETER, remark)
        })?;
    let wanted = match header.sys_flag & flags::SUBSCRIPTION != 0 {
        true => given_subscription(broker, header)?,
        false => registered_subscription(broker, header, topic_name, &group)?,
    };
    let queue = match header.lite_topic.map(|lite| lite.to_str()).transpose()?.filter(|lite| !lite.trim().is_empty()) {
        None => Arc::clone(queue),
        Some(lite) => {
            let light = broker.store.find_queue(&names::lite_queue(topic_name, &lite), queue.id());
            light.ok_or_else(|| Refused::empty(header.queue_offset))?
        }
    };
    Ok(Pull {
        head: call.request.head,
        is_light: queue.topic() != topic_name,
        queue,
        offset: header.queue_offset,
        wanted,
        // The store's own limits for recent and old data come on top.
        max_messages: u32::try_from(header.max_msg_nums).unwrap_or(0).max(1),
        topic_sys_flag: topic.config().topic_sys_flag,
        read: broker.rates.read_by(topic_name, group_name),
        limit: broker.limits.of_group(group_name, &group.attributes),
        is_counted: broker.live.cold_data_flow_control_enable(),
        group,
    })
}

/// The subscription written into the request.
fn given_subscription(broker: &Shared, header: &PullHeader<'_>) -> Result<Wanted, Refused> {
    let expression_type = header.expression_type.map(|text| text.to_str()).transpose()?.unwrap_or_default();
    let text = header.subscription.map(|text| text.to_str()).transpose()?.unwrap_or_default();
    let filter = Filter::parse(&expression_type, &text).map_err(|error| {
        let remark = format!("parse the consumer's subscription failed: {error}");
        Refusal::new(response::SUBSCRIPTION_PARSE_FAILED, remark)
    })?;
    check_type(broker, &expression_type)?;
    Ok(Wanted::Given(filter))
}

/// The subscription that heartbeats of the group have told.
fn registered_subscription(
    broker: &Shared,
    header: &PullHeader<'_>,
    topic_name: &str,
    group: &SubscriptionGroupConfig,
) -> Result<Wanted, Refused> {
    let group_name = &group.group_name;
    let absent =
        |what: &str| Refusal::new(response::SUBSCRIPTION_NOT_EXIST, format!("the consumer's {what} not exist"));
    let consumer = broker.clients.consumer(group_name, topic_name).ok_or_else(|| absent("group info"))?;
    if !group.consume_broadcast_enable && consumer.message_model == MessageModel::Broadcasting {
        let remark = format!("the consumer group[{group_name}] can not consume by broadcast way");
        return Err(Refused::forbidden(forbidden::BROADCASTING, remark));
    }
    if broker.groups.is_read_forbidden(group_name, topic_name) {
        let remark = format!("the consumer group[{group_name}] is forbidden for topic[{topic_name}]");
        return Err(Refused::forbidden(forbidden::SUBSCRIPTION, remark));
    }
    let subscription = consumer.subscription.ok_or_else(|| absent("subscription"))?;
    if subscription.data.sub_version < header.sub_version {
        return Err(Refusal::new(response::SUBSCRIPTION_NOT_LATEST, "the consumer's subscription not latest").into());
    }
    if let Some(error) = &subscription.error {
        let remark = format!("The broker's consumer filter data is not exist!Your expression may be wrong! {error}");
        return Err(Refusal::new(response::FILTER_DATA_NOT_EXIST, remark).into());
    }
    check_type(broker, &subscription.data.expression_type)?;
    Ok(Wanted::Registered(subscription))
}

/// Expressions on properties are served when `enablePropertyFilter` says so.
fn check_type(broker: &Shared, expression_type: &str) -> Result<(), Refused> {
    if filter::is_tag_type(expression_type) || broker.config.enable_property_filter {
        return Ok(());
    }
    let remark = format!("The broker does not support consumer to filter message by {expression_type}");
    Err(Refusal::new(response::SYSTEM_ERROR, remark).into())
}
