//! How far groups are (208, 317, 303), and carrying one group's progress over to another (314).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ferromq_common::clock;
use ferromq_protocol::Text;
use ferromq_protocol::body::{
    ConsumeStats, ConsumeStatsList, MessageQueue, OffsetWrapper, QueryConsumeTimeSpanBody, QueueTimeSpan,
};
use ferromq_protocol::code::response;
use ferromq_protocol::header::group::{
    CloneGroupOffsetHeader, GetConsumeStatsHeader, GetConsumeStatsInBrokerHeader, QueryConsumeTimeSpanHeader,
};
use ferromq_protocol::pop;

use super::admin::write_json;
use super::{Call, Refusal};
use crate::broker::Shared;
use crate::lag::Reader;
use crate::topics::Topic;

/// GET_CONSUME_STATS (208): what each queue holds and what the group has consumed of it.
pub(crate) fn of_group(broker: &Arc<Shared>, call: &Call<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let header = GetConsumeStatsHeader::read(&call.request.fields)?;
    let group = header.consumer_group.to_str()?;
    let given = |text: Option<Text<'_>>| text.map(|t| t.to_lossy().into_owned()).filter(|t| !t.trim().is_empty());
    let topics: BTreeSet<String> = match given(header.topic_list) {
        Some(list) => list.split(';').filter(|topic| !topic.is_empty()).map(str::to_owned).collect(),
        None => {
            let topics = given(header.topic).map_or_else(|| broker.offsets.topics_of(&group), |topic| vec![topic]);
            topics.into_iter().filter(|topic| is_read(broker, topic, &group)).collect()
        }
    };
    let collect = move |broker: &Shared, group: &str| {
        let mut stats = ConsumeStats::default();
        for topic in topics.iter().filter_map(|name| broker.topics.get(name)) {
            add_queues(broker, &topic, group, header.lag, &mut stats);
        }
        stats
    };
    if header.lag {
        let group = group.into_owned();
        return call.answer_later(broker, move |broker, head, out| write_json(head, out, &collect(broker, &group)));
    }
    call.respond_json(out, &collect(broker, &group))
}

/// GET_BROKER_CONSUME_STATS (317): the same for all groups, one entry for each topic a group has read.
pub(crate) fn of_all_groups(broker: &Arc<Shared>, call: &Call<'_>, _out: &mut Vec<u8>) -> Result<(), Refusal> {
    let only_ordered = GetConsumeStatsInBrokerHeader::read(&call.request.fields)?.is_order;
    call.answer_later(broker, move |broker, head, out| {
        let mut list = ConsumeStatsList { broker_addr: Some(broker.address()), ..Default::default() };
        for group in broker.groups.names() {
            let mut of_group = Vec::new();
            for name in BTreeSet::from_iter(broker.offsets.topics_of(&group)) {
                let Some(topic) = broker.topics.get(&name) else { continue };
                if (only_ordered && !topic.config().order) || !is_read(broker, &name, &group) {
                    continue;
                }
                let mut stats = ConsumeStats::default();
                add_queues(broker, &topic, &group, false, &mut stats);
                list.total_diff +=
                    stats.offset_table.values().map(|o| o.broker_offset - o.consumer_offset).sum::<i64>();
                list.total_inflight_diff +=
                    stats.offset_table.values().map(|o| o.pull_offset - o.consumer_offset).sum::<i64>();
                of_group.push(stats);
            }
            list.consume_stats_list.push(BTreeMap::from([(group, of_group)]));
        }
        write_json(head, out, &list)
    })
}

/// Whether a group that has an offset in a topic still reads it: a connected group that does not subscribe any more does not.
fn is_read(broker: &Shared, topic: &str, group: &str) -> bool {
    let connected = broker.clients.consumer_group(group).filter(|view| !view.subscriptions.is_empty());
    // Whoever pops a topic reads its retry topic as well.
    let subscribed = pop::normal_topic(topic, group);
    connected.is_none_or(|view| view.subscriptions.iter().any(|s| [topic, subscribed].contains(&s.data.topic.as_str())))
}

/// Adds a topic's queues to a group's statistics, as offsets: behind `consumer_offset` lies all that waits, up to
/// `pull_offset` what members have in hand. With `lag` it is counted, too.
fn add_queues(broker: &Shared, topic: &Topic, group: &str, lag: bool, stats: &mut ConsumeStats) {
    stats.consume_tps += broker.rates.rate(topic.name(), group);
    let reader = Reader::new(broker, topic, group);
    for id in 0..topic.read_queues() {
        let place = reader.place(id);
        let consumed = place.consumed();
        let queue = broker.store.find_queue(topic.name(), id).filter(|_| consumed > 0);
        let last = queue.and_then(|queue| broker.store.store_time(&queue, consumed - 1));
        let offsets = OffsetWrapper {
            broker_offset: place.end,
            consumer_offset: consumed,
            pull_offset: place.pulled,
            last_timestamp: last.unwrap_or(0).max(0),
            lag: lag.then(|| reader.lag(id, place)),
        };
        stats.offset_table.insert(queue_name(broker, topic.name(), id), offsets);
    }
}

pub(super) fn queue_name(broker: &Shared, topic: &str, id: u32) -> MessageQueue {
    let broker_name = broker.config.broker_name.clone();
    MessageQueue { topic: topic.to_owned(), broker_name, queue_id: id as i32 }
}

/// QUERY_CONSUME_TIME_SPAN (303): when the first, the last and the last consumed message of each queue were stored, and
/// for how long the next one has waited.
pub(crate) fn time_span(broker: &Arc<Shared>, call: &Call<'_>, _out: &mut Vec<u8>) -> Result<(), Refusal> {
    let header = QueryConsumeTimeSpanHeader::read(&call.request.fields)?;
    let (name, group) = (header.topic.to_str()?.into_owned(), header.group.to_str()?.into_owned());
    let topic = broker
        .topics
        .get(&name)
        .ok_or_else(|| Refusal::new(response::TOPIC_NOT_EXIST, format!("topic[{name}] not exist")))?;
    call.answer_later(broker, move |broker, head, out| {
        let now = clock::now_millis();
        let spans = (0..topic.write_queues()).map(|id| {
            let message_queue = Some(queue_name(broker, &name, id));
            let Some(queue) = broker.store.find_queue(&name, id) else {
                return QueueTimeSpan { message_queue, ..Default::default() };
            };
            let stored = |offset: i64| broker.store.store_time(&queue, offset);
            let first = broker.store.earliest_store_time(&queue).unwrap_or(-1);
            let consumed = broker.offsets.query(&name, &group, id).unwrap_or(0);
            let waiting = (consumed < queue.max_offset()).then(|| stored(consumed.max(queue.min_offset()))).flatten();
            QueueTimeSpan {
                message_queue,
                min_time_stamp: first,
                max_time_stamp: stored(queue.max_offset() - 1).unwrap_or(-1),
                consume_time_stamp: if consumed > 0 { stored(consumed - 1).unwrap_or(-1) } else { first },
                delay_time: waiting.map_or(0, |since| (now - since).max(0)),
            }
        });
        let body = QueryConsumeTimeSpanBody { consume_time_span_set: spans.collect() };
        write_json(head, out, &body)
    })
}

/// CLONE_GROUP_OFFSET (314): the destination begins where the source is, in one topic or all.
pub(crate) fn clone_offsets(broker: &Arc<Shared>, call: &Call<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let header = CloneGroupOffsetHeader::read(&call.request.fields)?;
    let (source, destination) = (header.src_group.to_str()?, header.dest_group.to_str()?);
    if broker.groups.find(&destination).is_none() {
        let remark = format!("Group {destination} does not exist: create it first");
        return Err(Refusal::new(response::SUBSCRIPTION_GROUP_NOT_EXIST, remark));
    }
    let topics = match header.topic.map(|topic| topic.to_str()).transpose()?.filter(|topic| !topic.trim().is_empty()) {
        Some(topic) => vec![topic.into_owned()],
        None => broker.offsets.topics_of(&source),
    };
    for topic in topics {
        if broker.topics.get(&topic).is_none() || (!header.offline && !is_read(broker, &topic, &source)) {
            tracing::warn!(
                "offsets of group {source} in topic {topic} are not cloned: it is gone, or not subscribed to"
            );
            continue;
        }
        tracing::info!("{} clones the offsets of group {source} in {topic} to {destination}", call.conn.peer());
        broker.offsets.copy(&topic, &source, &destination);
    }
    call.respond(out, response::SUCCESS).finish();
    Ok(())
}
