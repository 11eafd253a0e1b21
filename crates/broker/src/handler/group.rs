//! Admin requests about consumer groups: settings, and how far each has read.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ferromq_protocol::Text;
use ferromq_protocol::body::{
    ConsumeStats, GroupList, MessageQueue, OffsetWrapper, QuerySubscriptionResponseBody, ResetOffsetBody,
    SubscriptionGroupConfig, SubscriptionGroupList, TopicList,
};
use ferromq_protocol::code::response;
use ferromq_protocol::header::client::ResetOffsetHeader;
use ferromq_protocol::header::group::{
    DeleteSubscriptionGroupHeader, GetAllSubscriptionGroupHeader, GetAllSubscriptionGroupResponseHeader,
    GetConsumeStatsHeader, GroupHeader, QuerySubscriptionByConsumerHeader,
};
use ferromq_protocol::header::topic::TopicHeader;
use ferromq_store::Boundary;

use super::topic::Page;
use super::{Call, Refusal};
use crate::broker::Shared;
use crate::groups::GroupError;

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
    broker.groups.update(vec![config])?;
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
    broker.groups.delete(&group);
    if header.clean_offset {
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

/// GET_CONSUME_STATS (208): what each queue holds and what the group has consumed of it.
pub(crate) fn consume_stats(broker: &Arc<Shared>, call: &Call<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let header = GetConsumeStatsHeader::read(&call.request.fields)?;
    let group = header.consumer_group.to_str()?;
    let given = |text: Option<Text<'_>>| text.map(|t| t.to_lossy().into_owned()).filter(|t| !t.trim().is_empty());
    let list = given(header.topic_list);
    let topics: BTreeSet<String> = match &list {
        Some(list) => list.split(';').filter(|topic| !topic.is_empty()).map(str::to_owned).collect(),
        None => {
            let candidates = given(header.topic).map_or_else(|| broker.offsets.topics_of(&group), |topic| vec![topic]);
            let online = broker.clients.consumer_group(&group).filter(|view| !view.subscriptions.is_empty());
            let subscribed = |topic: &String| {
                online.as_ref().is_none_or(|view| view.subscriptions.iter().any(|s| s.data.topic == *topic))
            };
            candidates.into_iter().filter(subscribed).collect()
        }
    };
    let mut offset_table = BTreeMap::new();
    for name in topics {
        let Some(topic) = broker.topics.get(&name) else { continue };
        for id in 0..topic.read_queues() {
            let queue = broker.store.find_queue(&name, id);
            let consumed = broker.offsets.query(&name, &group, id).unwrap_or(0).max(0);
            let broker_offset = queue.as_ref().map_or(0, |queue| queue.max_offset().max(0));
            let last = queue.filter(|_| consumed > 0).and_then(|queue| broker.store.store_time(&queue, consumed - 1));
            let key = MessageQueue {
                topic: name.clone(),
                broker_name: broker.config.broker_name.clone(),
                queue_id: id as i32,
            };
            let offsets = OffsetWrapper {
                broker_offset,
                consumer_offset: consumed,
                pull_offset: consumed,
                last_timestamp: last.unwrap_or(0).max(0),
            };
            offset_table.insert(key, offsets);
        }
    }
    call.respond_json(out, &ConsumeStats { offset_table, consume_tps: 0.0 })
}

/// INVOKE_BROKER_TO_RESET_OFFSET (222): sets offsets by time or number; each queue's next pull starts there. As in RocketMQ's
/// server-side reset (`useServerSideResetOffset`, the default) no client has to be connected.
pub(crate) fn reset_offset(broker: &Arc<Shared>, call: &Call<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let header = ResetOffsetHeader::read(&call.request.fields)?;
    let (name, group) = (header.topic.to_str()?, header.group.to_str()?);
    let topic = broker
        .topics
        .get(&name)
        .ok_or_else(|| Refusal::new(response::TOPIC_NOT_EXIST, format!("Topic {name} does not exist")))?;
    if broker.groups.get(&group).is_none() {
        let remark = format!("Group {group} does not exist");
        return Err(Refusal::new(response::SUBSCRIPTION_GROUP_NOT_EXIST, remark));
    }
    let by_time = |id: u32| match broker.store.find_queue(&name, id) {
        None => 0,
        Some(queue) if header.timestamp < 0 => queue.max_offset(),
        Some(queue) => broker.store.search_by_time(&queue, header.timestamp, Boundary::Lower),
    };
    let target: Vec<(u32, i64)> = match u32::try_from(header.queue_id) {
        Err(_) => (0..topic.read_queues()).map(|id| (id, by_time(id))).collect(),
        Ok(id) if id >= topic.read_queues() => Vec::new(),
        Ok(id) => match header.offset.filter(|offset| *offset != -1) {
            None => vec![(id, by_time(id))],
            Some(offset) => {
                let queue = broker.store.find_queue(&name, id);
                let (min, max) = queue.map_or((0, 0), |queue| (queue.min_offset(), queue.max_offset()));
                if !(min..=max + 1).contains(&offset) {
                    let remark = format!("Target offset {offset} not in consume queue range [{min}-{max}]");
                    return Err(Refusal::new(response::SYSTEM_ERROR, remark));
                }
                vec![(id, offset)]
            }
        },
    };
    if target.is_empty() {
        return Err(Refusal::new(response::SYSTEM_ERROR, "No queues to reset."));
    }
    tracing::info!("{} resets the offsets of group {group} in topic {name} to {target:?}", call.conn.peer());
    let mut offset_table = BTreeMap::new();
    for (id, offset) in target {
        broker.offsets.reset(&name, &group, id, offset);
        let broker_name = broker.config.broker_name.clone();
        offset_table.insert(MessageQueue { topic: name.to_string(), broker_name, queue_id: id as i32 }, offset);
    }
    call.respond_json(out, &ResetOffsetBody { offset_table })
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
