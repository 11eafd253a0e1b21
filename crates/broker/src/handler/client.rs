//! Requests of connected clients about themselves: heartbeat, leaving, checking a subscription, who else is in the group.

use std::sync::Arc;
use std::time::Instant;

use ferromq_protocol::body::{CheckClientRequestBody, GetConsumerListByGroupResponseBody, HeartbeatData};
use ferromq_protocol::code::response;
use ferromq_protocol::header::client::{GetConsumerListByGroupHeader, UnregisterClientHeader};
use ferromq_protocol::sys_flag::{perm, topic as topic_flag};
use ferromq_protocol::{json, topic as names};

use super::{Call, Refusal};
use crate::broker::Shared;
use crate::clients::{Client, ConsumerBeat, MAX_CLIENT_ID_BYTES};
use crate::filter::{self, Filter};

/// Largest heartbeat, bytes: thousands of groups with their subscriptions.
const MAX_HEARTBEAT_BYTES: usize = 4 * 1024 * 1024;
/// Longest name of a producer group, bytes (RocketMQ does not check it).
const MAX_PRODUCER_GROUP_BYTES: usize = 255;

/// HEART_BEAT (34).
pub(crate) fn heartbeat(broker: &Arc<Shared>, call: &Call<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let body = call.request.body;
    if body.len() > MAX_HEARTBEAT_BYTES {
        return Err(refuse(format!("the heartbeat has {} bytes, more than {MAX_HEARTBEAT_BYTES}", body.len())));
    }
    let data: HeartbeatData =
        json::from_slice(body).map_err(|e| refuse(format!("the heartbeat cannot be read: {e}")))?;
    if data.client_id.is_empty() || data.client_id.len() > MAX_CLIENT_ID_BYTES {
        return Err(refuse(format!("the heartbeat needs a clientID of 1 to {MAX_CLIENT_ID_BYTES} bytes")));
    }
    let now = Instant::now();
    let client = Client {
        connection: Arc::clone(call.conn),
        connection_id: call.conn.id(),
        client_id: Arc::from(data.client_id.as_str()),
        address: call.conn.peer(),
        language: call.request.head.language,
        version: call.request.head.version,
    };
    let first_version = data.heartbeat_fingerprint == 0;
    let mut wants_subscriptions = first_version;
    for consumer in data.consumer_data_set {
        // As in RocketMQ, a group that may not be created is passed over; its members learn it from their pulls.
        let Some(group) = broker.groups.find(&consumer.group_name) else { continue };
        let without_subscriptions = !first_version && data.is_without_sub;
        let retry_topic = names::retry_topic(&consumer.group_name);
        let is_ordered = |topic: &str| broker.topics.get(topic).is_some_and(|topic| topic.config().order);
        let order = match without_subscriptions {
            true => is_ordered(&retry_topic),
            false => consumer.subscription_data_set.iter().any(|data| is_ordered(&data.topic)),
        };
        let sys_flag = if consumer.unit_mode { topic_flag::UNIT_SUB } else { 0 };
        broker.topics.create_if_absent(&retry_topic, group.retry_queue_nums, perm::READ | perm::WRITE, order, sys_flag);
        let beat = ConsumerBeat {
            consume_type: consumer.consume_type,
            message_model: consumer.message_model,
            consume_from_where: consumer.consume_from_where,
            subscriptions: (!without_subscriptions).then_some(consumer.subscription_data_set),
            fingerprint: data.heartbeat_fingerprint,
            notify: group.notify_consumer_ids_changed_enable,
        };
        let outcome = broker
            .clients
            .consumer_beat(&consumer.group_name, client.clone(), beat, now)
            .map_err(|e| refuse(e.to_string()))?;
        wants_subscriptions |= outcome.wants_subscriptions;
    }
    for producer in data.producer_data_set {
        if producer.group_name.is_empty() || producer.group_name.len() > MAX_PRODUCER_GROUP_BYTES {
            return Err(refuse(format!("a producer group's name has 1 to {MAX_PRODUCER_GROUP_BYTES} bytes")));
        }
        broker.clients.producer_beat(&producer.group_name, client.clone(), now).map_err(|e| refuse(e.to_string()))?;
    }
    let mut answer = call.respond(out, response::SUCCESS);
    answer.bool("IS_SUPPORT_HEART_BEAT_V2", true).bool("IS_SUB_CHANGE", wants_subscriptions);
    answer.finish();
    Ok(())
}

/// UNREGISTER_CLIENT (35).
pub(crate) fn unregister(broker: &Arc<Shared>, call: &Call<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let header = UnregisterClientHeader::read(&call.request.fields)?;
    if let Some(group) = header.producer_group {
        broker.clients.unregister_producer(&group.to_str()?, call.conn.id());
    }
    if let Some(group) = header.consumer_group {
        broker.clients.unregister_consumer(&group.to_str()?, call.conn.id());
    }
    call.respond(out, response::SUCCESS).finish();
    Ok(())
}

/// CHECK_CLIENT_CONFIG (46): whether this broker can filter as a subscription asks.
pub(crate) fn check_config(broker: &Arc<Shared>, call: &Call<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let body: CheckClientRequestBody = json::from_slice(call.request.body)
        .map_err(|e| refuse(format!("the client's configuration cannot be read: {e}")))?;
    if let Some(subscription) = body.subscription_data
        && !filter::is_tag_type(&subscription.expression_type)
    {
        let kind = subscription.expression_type;
        if !broker.config.enable_property_filter {
            return Err(refuse(format!("The broker does not support consumer to filter message by {kind}")));
        }
        if let Err(error) = Filter::parse(&kind, &subscription.sub_string) {
            return Err(Refusal::new(response::SUBSCRIPTION_PARSE_FAILED, format!("Invalid MessageSelector. {error}")));
        }
    }
    call.respond(out, response::SUCCESS).finish();
    Ok(())
}

/// GET_CONSUMER_LIST_BY_GROUP (38).
pub(crate) fn consumer_ids(broker: &Arc<Shared>, call: &Call<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let group = GetConsumerListByGroupHeader::read(&call.request.fields)?.consumer_group.to_str()?;
    let consumer_id_list = broker.clients.consumer_ids(&group);
    if consumer_id_list.is_empty() {
        return Err(refuse(format!("no consumer for this group, {group}")));
    }
    call.respond_json(out, &GetConsumerListByGroupResponseBody { consumer_id_list })
}

fn refuse(remark: String) -> Refusal {
    Refusal::new(response::SYSTEM_ERROR, remark)
}
