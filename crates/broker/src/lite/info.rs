//! What tools are told (`LiteManagerProcessor`, `LiteConsumerLagCalculator`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use ferromq_protocol::body::{
    ClientGroup, GetBrokerLiteInfoResponseBody, GetLiteClientInfoResponseBody, GetLiteGroupInfoResponseBody,
    GetLiteTopicInfoResponseBody, GetParentTopicInfoResponseBody, LiteLagInfo, OffsetWrapper, TopicOffset,
};
use ferromq_protocol::topic;

use super::upkeep::expiration;
use super::{BIND_TOPIC, Lites, QUEUE_ID, Traits};
use crate::broker::Shared;

/// Most lite topics of a client in one answer.
const MAX_TOPICS: usize = 10_000;
/// Most entries of a list of lags.
const MAX_LAGS: usize = 10_000;

/// Groups by the parent topic they are bound to.
fn bound_groups(broker: &Shared) -> BTreeMap<String, BTreeSet<String>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (name, group) in broker.groups.snapshot().subscription_group_table {
        if let Some(parent) = group.attributes.get(BIND_TOPIC) {
            found.entry(parent.clone()).or_default().insert(name);
        }
    }
    found
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// Of the broker as a whole.
pub(crate) fn of_broker(broker: &Shared) -> GetBrokerLiteInfoResponseBody {
    let (lights, max_lights) = broker.store.light_queues();
    let (parents, _) = broker.topics.snapshot();
    let parents = parents.keys().filter_map(|name| broker.topics.get(name)).filter(|topic| topic.is_lite());
    let now = Instant::now();
    let state = broker.lites.state.lock();
    GetBrokerLiteInfoResponseBody {
        store_type: "default".to_owned(),
        max_lmq_num: count(max_lights),
        current_lmq_num: count(lights),
        lite_subscription_count: count(state.registry.count()),
        order_info_count: count(broker.lites.orders.len()),
        cq_table_size: count(broker.store.topics().len()),
        offset_table_size: count(broker.offsets.len()),
        event_map_size: count(state.registry.clients().filter(|(_, of)| of.events.is_active(now)).count()),
        topic_meta: parents.map(|topic| (topic.name().to_owned(), expiration(&topic))).collect(),
        group_meta: bound_groups(broker),
    }
}

/// Of a parent topic.
pub(crate) fn of_parent(broker: &Shared, parent: &crate::topics::Topic) -> GetParentTopicInfoResponseBody {
    let name = parent.name();
    let topics = broker.store.topics();
    let own = topics.iter().filter(|queue| topic::lite_parts(queue).is_some_and(|(of, _)| of == name));
    GetParentTopicInfoResponseBody {
        groups: bound_groups(broker).remove(name),
        lite_topic_count: count(own.count()),
        lmq_num: count(broker.store.light_queues().0),
        topic: name.to_owned(),
        ttl: expiration(parent),
    }
}

/// Of one lite topic; whether its messages come here is not known here. May wait for the disk.
pub(crate) fn of_topic(broker: &Shared, parent: &str, lite: &str) -> GetLiteTopicInfoResponseBody {
    let name = topic::lite_queue(parent, lite);
    let queue = broker.store.find_queue(&name, QUEUE_ID).filter(|queue| queue.max_offset() > 0);
    let topic_offset = queue.map_or_else(TopicOffset::default, |queue| TopicOffset {
        min_offset: queue.min_offset(),
        max_offset: queue.max_offset(),
        last_update_timestamp: broker.store.store_time(&queue, queue.max_offset() - 1).unwrap_or(0),
    });
    let found = broker.lites.state.lock().registry.subscribers(parent, &name, None);
    let subscriber = found.into_iter().flat_map(|(group, clients)| {
        // Members that take everything are not named one by one.
        let clients = if Traits::of(broker, &group).is_wildcard() { vec!["*".into()] } else { clients };
        let of_group = move |id: Arc<str>| ClientGroup { client_id: id.to_string(), group: group.to_string() };
        clients.into_iter().map(of_group)
    });
    GetLiteTopicInfoResponseBody {
        lite_topic: lite.to_owned(),
        parent_topic: parent.to_owned(),
        sharding_to_broker: true,
        subscriber: subscriber.collect(),
        topic_offset,
    }
}

/// Of one client, with up to `max` of its lite topics.
pub(crate) fn of_client(
    lites: &Lites,
    parent: &str,
    group: &str,
    client: &str,
    max: i32,
) -> GetLiteClientInfoResponseBody {
    let state = lites.state.lock();
    let subscriber = state.registry.get(client);
    let max = usize::try_from(max).unwrap_or(0).min(MAX_TOPICS);
    let topics =
        |of: &super::registry::Subscriber<_>| of.queues.iter().take(max).map(|name| name.to_string()).collect();
    GetLiteClientInfoResponseBody {
        client_id: client.to_owned(),
        group: group.to_owned(),
        last_access_time: subscriber.map_or(-1, |of| of.events.asked_ms),
        last_consume_time: subscriber.map_or(0, |of| of.events.consumed_ms),
        lite_topic_count: subscriber.map_or(-1, |of| count(of.queues.len())),
        lite_topic_set: subscriber.map(topics),
        parent_topic: parent.to_owned(),
    }
}

/// Of a group: how far it is behind in one lite topic, or in all. May wait for the disk.
pub(crate) fn of_group(
    broker: &Shared,
    group: &str,
    parent: &str,
    lite: Option<&str>,
    top: i32,
) -> GetLiteGroupInfoResponseBody {
    let body = GetLiteGroupInfoResponseBody {
        group: group.to_owned(),
        parent_topic: parent.to_owned(),
        lite_topic: lite.map(str::to_owned),
        earliest_unconsumed_timestamp: -1,
        ..Default::default()
    };
    match lite.filter(|lite| !lite.is_empty()) {
        Some(lite) => in_one(broker, group, &topic::lite_queue(parent, lite), body),
        None => in_all(broker, group, usize::try_from(top).unwrap_or(0).min(MAX_LAGS), body),
    }
}

fn in_one(
    broker: &Shared,
    group: &str,
    name: &str,
    body: GetLiteGroupInfoResponseBody,
) -> GetLiteGroupInfoResponseBody {
    let Some(queue) = broker.store.find_queue(name, QUEUE_ID).filter(|queue| queue.max_offset() > 0) else {
        return GetLiteGroupInfoResponseBody { total_lag_count: -1, ..body };
    };
    let Some(committed) = broker.offsets.query(name, group, QUEUE_ID) else { return body };
    let stored_at = |offset: i64| broker.store.store_time(&queue, offset);
    let wrapper = OffsetWrapper {
        lag: None,
        broker_offset: queue.max_offset(),
        consumer_offset: committed,
        last_timestamp: stored_at(committed - 1).unwrap_or(0),
        pull_offset: 0,
    };
    GetLiteGroupInfoResponseBody {
        total_lag_count: wrapper.broker_offset - committed,
        earliest_unconsumed_timestamp: stored_at(committed).unwrap_or(-1),
        lite_topic_offset_wrapper: Some(wrapper),
        ..body
    }
}

fn in_all(
    broker: &Shared,
    group: &str,
    top: usize,
    body: GetLiteGroupInfoResponseBody,
) -> GetLiteGroupInfoResponseBody {
    let mut lags = Vec::new();
    for name in broker.offsets.topics_of(group) {
        let Some((_, lite)) = topic::lite_parts(&name) else { continue };
        let Some(queue) = broker.store.find_queue(&name, QUEUE_ID) else { continue };
        let committed = broker.offsets.query(&name, group, QUEUE_ID).unwrap_or_else(|| queue.max_offset());
        let lag_count = queue.max_offset() - committed;
        if lag_count > 0 {
            let earliest_unconsumed_timestamp = broker.store.store_time(&queue, committed).unwrap_or(-1);
            lags.push(LiteLagInfo { earliest_unconsumed_timestamp, lag_count, lite_topic: lite.to_owned() });
        }
    }
    let mut by_time: Vec<_> = lags.iter().filter(|lag| lag.earliest_unconsumed_timestamp > 0).cloned().collect();
    by_time.sort_by_key(|lag| lag.earliest_unconsumed_timestamp);
    by_time.truncate(top);
    let total_lag_count = lags.iter().map(|lag| lag.lag_count).sum();
    lags.sort_by_key(|lag| std::cmp::Reverse(lag.lag_count));
    lags.truncate(top);
    GetLiteGroupInfoResponseBody {
        total_lag_count,
        earliest_unconsumed_timestamp: by_time.first().map_or(-1, |lag| lag.earliest_unconsumed_timestamp),
        lag_count_top_k: Some(lags),
        lag_timestamp_top_k: Some(by_time),
        ..body
    }
}
