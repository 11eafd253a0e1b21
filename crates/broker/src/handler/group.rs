//! Admin requests about consumer groups: settings, and who reads what.

use std::sync::Arc;

use ferromq_protocol::body::{
    GroupForbidden, GroupList, QuerySubscriptionResponseBody, SubscriptionGroupConfig, SubscriptionGroupList, TopicList,
};
use ferromq_protocol::code::response;
use ferromq_protocol::header::group::{
    DeleteSubscriptionGroupHeader, GetAllSubscriptionGroupHeader, GetAllSubscriptionGroupResponseHeader, GroupHeader,
    QuerySubscriptionByConsumerHeader, UpdateGroupForbiddenHeader,
};
use ferromq_protocol::header::topic::TopicHeader;

use super::topic::Page;
use super::{Call, Refusal};
use crate::broadcast_groups;
use crate::broker::Shared;
use crate::groups::GroupError;
use crate::lite::BIND_TOPIC;

/// Most groups in one answer of GET_ALL_SUBSCRIPTIONGROUP_CONFIG to who asks for pages (`splitMetadataSize`).
const PAGE_GROUPS: usize = 2000;

impl From<GroupError> for Refusal {
    fn from(error: GroupError) -> Self {
        let code = match error {
            GroupError::Invalid(_) => response::INVALID_PARAMETER,
            GroupError::Attribute(_) | GroupError::TooMany => response::SYSTEM_ERROR,
        };
        Refusal::new(code, error.to_string())
    }
}

/// UPDATE_AND_CREATE_SUBSCRIPTIONGROUP (200).
pub(crate) fn create(broker: &Arc<Shared>, call: &Call<'_>, _out: &mut Vec<u8>) -> Result<(), Refusal> {
    let config: SubscriptionGroupConfig = call.json_body()?;
    tracing::info!("{} creates or changes subscription group {:?}", call.conn.peer(), config.group_name);
    let of_client = config.attributes.keys().any(|key| key.strip_prefix('+') == Some(broadcast_groups::SEEN));
    broker.groups.update(vec![config])?;
    if of_client {
        broadcast_groups::forget_silent(broker)?;
    }
    call.respond_when_saved(broker.topics.saving());
    Ok(())
}

/// UPDATE_AND_CREATE_SUBSCRIPTIONGROUP_LIST (225): all or none.
pub(crate) fn create_list(broker: &Arc<Shared>, call: &Call<'_>, _out: &mut Vec<u8>) -> Result<(), Refusal> {
    let body: SubscriptionGroupList = call.json_body()?;
    tracing::info!("{} creates or changes {} subscription groups", call.conn.peer(), body.group_config_list.len());
    broker.groups.update(body.group_config_list)?;
    call.respond_when_saved(broker.topics.saving());
    Ok(())
}

/// DELETE_SUBSCRIPTIONGROUP (207), on request with its offsets.
pub(crate) fn delete(broker: &Arc<Shared>, call: &Call<'_>, _out: &mut Vec<u8>) -> Result<(), Refusal> {
    let header = DeleteSubscriptionGroupHeader::read(&call.request.fields)?;
    let group = header.group_name.to_str()?;
    tracing::info!("{} deletes subscription group {group:?}", call.conn.peer());
    let config = broker.groups.get(&group);
    let has = |attribute: &str| config.as_ref().is_some_and(|config| config.attributes.contains_key(attribute));
    if has(broadcast_groups::SEEN) {
        broadcast_groups::forget(broker, &group)?;
    }
    broker.groups.delete(&group);
    broker.order_pops.forget_group(&group);
    // Lite topics are too many to be left with offsets that nobody uses.
    if header.clean_offset || has(BIND_TOPIC) {
        broker.broadcast.remove_group(&group);
        broker.offsets.remove_group(&group);
    }
    call.respond_when_saved(broker.topics.saving());
    Ok(())
}

/// GET_ALL_SUBSCRIPTIONGROUP_CONFIG (201): everything, or a page of it for who asks with `groupSeq`.
pub(crate) fn all(broker: &Arc<Shared>, call: &Call<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let mut body = broker.groups.snapshot();
    let total = body.subscription_group_table.len();
    let header = GetAllSubscriptionGroupHeader::read(&call.request.fields)?;
    let asked = (header.group_seq, header.max_group_num, header.data_version);
    if let Some(page) = Page::of(asked, &body.data_version, PAGE_GROUPS) {
        let table = std::mem::take(&mut body.subscription_group_table);
        body.subscription_group_table = table.into_iter().skip(page.first).take(page.count).collect();
        let shown = &body.subscription_group_table;
        body.forbidden_table.retain(|group, _| shown.contains_key(group));
    }
    let header = GetAllSubscriptionGroupResponseHeader { total_group_num: Some(total as i32) };
    call.respond_json_with(out, &body, |answer| header.write(answer))
}

/// GET_SUBSCRIPTIONGROUP_CONFIG (352).
pub(crate) fn get(broker: &Arc<Shared>, call: &Call<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let name = GroupHeader::read(&call.request.fields)?.group.to_str()?;
    let group = broker
        .groups
        .find(&name)
        .ok_or_else(|| Refusal::new(response::SUBSCRIPTION_GROUP_NOT_EXIST, "No group in this broker"))?;
    call.respond_json(out, &*group)
}

/// UPDATE_AND_GET_GROUP_FORBIDDEN (353): switches a group's reading of one topic off or on, or only tells how it is.
pub(crate) fn forbidden(broker: &Arc<Shared>, call: &Call<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let header = UpdateGroupForbiddenHeader::read(&call.request.fields)?;
    let (group, topic) = (header.group.to_str()?, header.topic.to_str()?);
    if let Some(readable) = header.readable {
        if broker.groups.find(&group).is_none() || broker.topics.get(&topic).is_none() {
            let remark = format!("group {group} or topic {topic} does not exist");
            return Err(Refusal::new(response::SYSTEM_ERROR, remark));
        }
        tracing::info!("{} sets reading of topic {topic} by group {group} to {readable}", call.conn.peer());
        broker.groups.forbid_reads(&group, &topic, !readable);
    }
    let readable = Some(!broker.groups.is_read_forbidden(&group, &topic));
    call.respond_json(out, &GroupForbidden { group: group.into_owned(), topic: topic.into_owned(), readable })
}

/// QUERY_TOPIC_CONSUME_BY_WHO (300): groups that subscribe to a topic or have an offset in it.
pub(crate) fn groups_of_topic(broker: &Arc<Shared>, call: &Call<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let topic = TopicHeader::read(&call.request.fields)?.topic.to_str()?;
    let connected = broker.clients.groups_of_topic(&topic).into_iter().map(|group| group.to_string());
    call.respond_json(out, &GroupList { group_list: connected.chain(broker.offsets.groups_of(&topic)).collect() })
}

/// QUERY_TOPICS_BY_CONSUMER (343): topics a group has an offset in.
pub(crate) fn topics_of_group(broker: &Arc<Shared>, call: &Call<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let group = GroupHeader::read(&call.request.fields)?.group.to_str()?;
    let topic_list = broker.offsets.topics_of(&group).into_iter().collect();
    call.respond_json(out, &TopicList { topic_list, broker_addr: Some(broker.address()) })
}

/// QUERY_SUBSCRIPTION_BY_CONSUMER (345): what a connected group takes from a topic.
pub(crate) fn subscription(broker: &Arc<Shared>, call: &Call<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let header = QuerySubscriptionByConsumerHeader::read(&call.request.fields)?;
    let (group, topic) = (header.group.to_str()?, header.topic.unwrap_or_default().to_str()?);
    let known = broker.clients.consumer(&group, &topic).and_then(|view| view.subscription);
    call.respond_json(
        out,
        &QuerySubscriptionResponseBody {
            subscription_data: known.map(|subscription| subscription.data.clone()),
            group: Some(group.into_owned()),
            topic: Some(topic.into_owned()),
        },
    )
}
