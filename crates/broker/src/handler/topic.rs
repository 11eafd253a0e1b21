//! Admin requests about topics: create, change, delete, show.

use std::collections::BTreeMap;
use std::sync::Arc;

use ferromq_protocol::body::{
    ConsumeQueueData, CreateTopicListRequestBody, DataVersion, MessageQueue, QueryConsumeQueueResponseBody,
    TopicConfig, TopicConfigAndMappingSerializeWrapper, TopicConfigAndQueueMapping, TopicFilterType, TopicList,
    TopicOffset, TopicStatsTable,
};
use ferromq_protocol::code::response;
use ferromq_protocol::header::query::QueryConsumeQueueHeader;
use ferromq_protocol::header::topic::{
    CreateTopicHeader, GetAllTopicConfigHeader, GetAllTopicConfigResponseHeader, TopicHeader,
};
use ferromq_protocol::{Text, json, topic as names};

use super::{Call, Refusal};
use crate::broker::Shared;
use crate::topics::{TopicError, parse_attributes};

/// Most entries in one answer of QUERY_CONSUME_QUEUE.
const MAX_ENTRIES: usize = 10_000;
/// Most topics in one answer of GET_ALL_TOPIC_CONFIG to who asks for pages (`splitMetadataSize`).
const PAGE_TOPICS: usize = 2000;

impl From<TopicError> for Refusal {
    fn from(error: TopicError) -> Self {
        let code = match error {
            TopicError::Invalid(_) => response::INVALID_PARAMETER,
            TopicError::Attribute(_) | TopicError::TooMany | TopicError::Ending(_) => response::SYSTEM_ERROR,
        };
        Refusal::new(code, error.to_string())
    }
}

/// UPDATE_AND_CREATE_STATIC_TOPIC (513): refused in words, since a topic without its mapping would serve other queues than
/// those the tool writes into its mapping file.
pub(crate) fn create_static(_broker: &Arc<Shared>, call: &Call<'_>, _out: &mut Vec<u8>) -> Result<(), Refusal> {
    let topic = CreateTopicHeader::read(&call.request.fields)?.topic.to_lossy().into_owned();
    let remark = format!(
        "topic {topic:.127} is not created: static topics (logical queues that move between brokers) are not served; \
         create an ordinary one with updateTopic"
    );
    Err(Refusal::new(response::REQUEST_CODE_NOT_SUPPORTED, remark))
}

/// UPDATE_AND_CREATE_TOPIC (17).
pub(crate) fn create(broker: &Arc<Shared>, call: &Call<'_>, _out: &mut Vec<u8>) -> Result<(), Refusal> {
    let header = CreateTopicHeader::read(&call.request.fields)?;
    let changes = header.attributes.unwrap_or_default();
    let config = TopicConfig {
        topic_name: header.topic.to_str()?.into_owned(),
        read_queue_nums: header.read_queue_nums,
        write_queue_nums: header.write_queue_nums,
        perm: header.perm,
        topic_filter_type: if header.topic_filter_type.eq_str("MULTI_TAG") {
            TopicFilterType::MultiTag
        } else {
            TopicFilterType::SingleTag
        },
        topic_sys_flag: header.topic_sys_flag.unwrap_or(0),
        order: header.order,
        attributes: parse_attributes(&changes.to_str()?).map_err(TopicError::from)?,
    };
    tracing::info!("{} creates or changes topic {:?}", call.conn.peer(), config.topic_name);
    update(broker, vec![config])?;
    call.respond_when_saved(broker.topics.saving());
    Ok(())
}

/// UPDATE_AND_CREATE_TOPIC_LIST (18): all or none.
pub(crate) fn create_list(broker: &Arc<Shared>, call: &Call<'_>, _out: &mut Vec<u8>) -> Result<(), Refusal> {
    let body: CreateTopicListRequestBody = call.json_body()?;
    tracing::info!("{} creates or changes {} topics", call.conn.peer(), body.topic_config_list.len());
    update(broker, body.topic_config_list)?;
    call.respond_when_saved(broker.topics.saving());
    Ok(())
}

/// Creates or changes topics, all or none.
fn update(broker: &Shared, configs: Vec<TopicConfig>) -> Result<(), Refusal> {
    for name in broker.topics.new_batch_topics(configs.clone())? {
        // If it is there by now, or being deleted, the update says so.
        let begun = broker.topics.clear(&name, || broker.store.begin_batch_topic(&name)).transpose();
        begun.map_err(|error| {
            let remark = format!("topic {name} is not created, its earlier queues cannot be removed: {error}");
            Refusal::new(response::SYSTEM_ERROR, remark)
        })?;
    }
    Ok(broker.topics.update(configs)?)
}

/// DELETE_TOPIC_IN_BROKER (215): with its queues, its offsets and its groups' pop retry topics.
pub(crate) fn delete(broker: &Arc<Shared>, call: &Call<'_>, _out: &mut Vec<u8>) -> Result<(), Refusal> {
    let topic = TopicHeader::read(&call.request.fields)?.topic.to_str()?;
    names::validate_topic(&topic).map_err(|e| Refusal::new(response::INVALID_PARAMETER, e.to_string()))?;
    // Where something waits, and the broker holds the queues as long as it runs.
    let waiting = [names::SCHEDULE, names::TIMER, names::TRANS_HALF, names::TRANS_OP_HALF, &broker.revive_topic];
    let is_guarded = broker.config.validate_system_topic_when_update_topic && broker.topics.is_system(&topic);
    if is_guarded || waiting.contains(&&*topic) {
        let remark = format!("The topic[{topic}] is conflict with system topic.");
        return Err(Refusal::new(response::INVALID_PARAMETER, remark));
    }
    tracing::info!("{} deletes topic {topic}", call.conn.peer());
    if broker.topics.get(&topic).is_some_and(|topic| topic.is_lite()) {
        broker.lites.delete_of(broker, &topic);
    }
    let groups = broker.offsets.groups_of(&topic);
    let retry_topics = groups.iter().flat_map(|g| [format!("%RETRY%{g}_{topic}"), format!("%RETRY%{g}+{topic}")]);
    let existing: Vec<String> = retry_topics.filter(|name| broker.topics.get(name).is_some()).collect();
    for name in existing.iter().map(String::as_str).chain([&*topic]) {
        forget(broker, name)?;
    }
    call.respond_when_saved(broker.topics.saving());
    Ok(())
}

/// Deletes a topic with its queues, its offsets and what groups have of it in hand.
pub(crate) fn forget(broker: &Shared, name: &str) -> Result<(), Refusal> {
    let deleted = broker.topics.delete(name, || {
        let deleted = broker.store.delete_topic(name);
        // Afterwards: until then a pop or commit that had found the topic may still come between.
        broker.offsets.remove_topic(name);
        broker.pops.forget_topic(name);
        broker.order_pops.forget_topic(name);
        broker.rates.forget_topic(name);
        deleted
    })?;
    deleted.map_err(|e| Refusal::new(response::SYSTEM_ERROR, e.to_string()))
}

/// GET_ALL_TOPIC_CONFIG (21): everything, or a page of it for who asks with `topicSeq`.
pub(crate) fn all(broker: &Arc<Shared>, call: &Call<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let (mut topic_config_table, data_version) = broker.topics.snapshot();
    let total = topic_config_table.len();
    let header = GetAllTopicConfigHeader::read(&call.request.fields)?;
    let asked = (header.topic_seq, header.max_topic_num, header.data_version);
    if let Some(page) = Page::of(asked, &data_version, PAGE_TOPICS) {
        topic_config_table = topic_config_table.into_iter().skip(page.first).take(page.count).collect();
    }
    let body = TopicConfigAndMappingSerializeWrapper { topic_config_table, data_version, ..Default::default() };
    let header = GetAllTopicConfigResponseHeader { total_topic_num: Some(total as i32) };
    call.respond_json_with(out, &body, |answer| header.write(answer))
}

/// The part of a table that a replica asks for.
pub(super) struct Page {
    pub first: usize,
    pub count: usize,
}

impl Page {
    /// `None` when the request asks for everything; from the beginning when the table changed since the last page.
    ///
    /// `asked`: where the page begins, its size, and the version of the page before.
    pub fn of(
        asked: (Option<i32>, Option<i32>, Option<Text<'_>>),
        version: &DataVersion,
        limit: usize,
    ) -> Option<Page> {
        let (first, count, known) = asked;
        if first.is_none() && count.is_none() && known.is_none() {
            return None;
        }
        let known: Option<DataVersion> = known.and_then(|text| json::from_slice(&text.bytes()).ok());
        let first = if known.as_ref() == Some(version) { first.unwrap_or(0).max(0) as usize } else { 0 };
        let count = count.map_or(limit, |count| limit.min(count.max(0) as usize));
        Some(Page { first, count })
    }
}

/// GET_TOPIC_CONFIG (351).
pub(crate) fn get(broker: &Arc<Shared>, call: &Call<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let name = TopicHeader::read(&call.request.fields)?.topic.to_str()?;
    let topic = broker
        .topics
        .get(&name)
        .ok_or_else(|| Refusal::new(response::TOPIC_NOT_EXIST, format!("No topic in this broker. topic: {name}")))?;
    call.respond_json(out, &TopicConfigAndQueueMapping::from(topic.config().clone()))
}

/// GET_TOPIC_STATS_INFO (202): offsets of each queue.
pub(crate) fn stats(broker: &Arc<Shared>, call: &Call<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let name = TopicHeader::read(&call.request.fields)?.topic.to_str()?;
    let topic = broker
        .topics
        .get(&name)
        .ok_or_else(|| Refusal::new(response::TOPIC_NOT_EXIST, format!("topic[{name}] not exist")))?;
    let mut offset_table = BTreeMap::new();
    for id in 0..topic.read_queues().max(topic.write_queues()) {
        let queue = broker.store.find_queue(&name, id);
        let (min, max) = queue.as_ref().map_or((0, 0), |queue| (queue.min_offset().max(0), queue.max_offset().max(0)));
        let last = queue.filter(|_| max > 0).and_then(|queue| broker.store.store_time(&queue, max - 1)).unwrap_or(0);
        let key = MessageQueue {
            topic: name.to_string(),
            broker_name: broker.config.broker_name.clone(),
            queue_id: id as i32,
        };
        offset_table.insert(key, TopicOffset { min_offset: min, max_offset: max, last_update_timestamp: last });
    }
    call.respond_json(out, &TopicStatsTable { offset_table, topic_put_tps: topic.taken().rate() })
}

/// GET_SYSTEM_TOPIC_LIST_FROM_BROKER (305).
pub(crate) fn system_list(broker: &Arc<Shared>, call: &Call<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    call.respond_json(
        out,
        &TopicList { topic_list: broker.topics.system_names().into_iter().collect(), broker_addr: None },
    )
}

/// QUERY_CONSUME_QUEUE (321): entries of one queue as they stand, and whether a group's subscription is known.
pub(crate) fn consume_queue(broker: &Arc<Shared>, call: &Call<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let header = QueryConsumeQueueHeader::read(&call.request.fields)?;
    let (name, id) = (header.topic.to_str()?, header.queue_id);
    let queue = u32::try_from(id).ok().and_then(|id| broker.store.find_queue(&name, id));
    let queue = queue.ok_or_else(|| Refusal::new(response::SYSTEM_ERROR, format!("{id}@{name} is not exist!")))?;
    let (min, max) = (queue.min_offset(), queue.max_offset());
    let mut body = QueryConsumeQueueResponseBody { min_queue_index: min, max_queue_index: max, ..Default::default() };
    if let Some(group) = header.consumer_group {
        let group = group.to_str()?;
        match broker.clients.consumer(&group, &name).and_then(|view| view.subscription) {
            Some(subscription) => body.subscription_data = Some(subscription.data.clone()),
            None => body.filter_data = Some(format!("{group}@{name} is not online!")),
        }
    }
    let entry = |offset: i64| broker.store.next_entry(&queue, offset);
    body.queue_data = std::iter::successors(entry(header.index.max(min)), |before| entry(before.end()))
        .take(usize::try_from(header.count).unwrap_or(0).min(MAX_ENTRIES))
        .map(|entry| ConsumeQueueData {
            physic_offset: entry.physical_offset,
            physic_size: entry.size,
            tags_code: entry.tags_code,
            ..ConsumeQueueData::default()
        })
        .collect();
    call.respond_json(out, &body)
}
