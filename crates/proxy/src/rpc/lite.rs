//! Lite topics: SyncLiteSubscription, and where the messages of a lite pop stand (`ClientActivity`, `ClientProcessor`).

use ferromq_protocol::Text;
use ferromq_protocol::body::{
    LiteSubscription, LiteSubscriptionAction as Action, OffsetOption, OffsetOptionType, SubscriptionGroupConfig,
};
use ferromq_protocol::header::lite::PopLiteMessageHeader;
use ferromq_protocol::header::pop::{PopMessageHeader, PopMessageResponseHeader};
use ferromq_protocol::pop::{Origin, ReceiptHandle};
use ferromq_protocol::properties::{self, names as keys};
use ferromq_protocol::record::Record;
use ferromq_protocol::records;

use crate::call::Caller;
use crate::names;
use crate::pb::offset_option::OffsetType;
use crate::pb::{Code, LiteSubscriptionAction, SyncLiteSubscriptionRequest, SyncLiteSubscriptionResponse};
use crate::service::Service;
use crate::status::{self, Refused};

/// Attribute of a group: the parent topic whose lite topics it consumes.
const BIND_TOPIC: &str = "lite.bind.topic";
/// Attribute of a group: most lite topics of one client, and the number without it.
const QUOTA: &str = "lite.sub.client.quota";
const DEFAULT_QUOTA: i32 = 2000;
/// So many more are let through: clients count for themselves (`validateLiteSubscriptionQuota`).
const QUOTA_SLACK: usize = 300;
/// A client that has more messages in hand gets no more (`maxLiteRenewNumPerChannel`).
pub(crate) const MAX_IN_HAND: usize = 100;

/// The parent topic of a group that consumes lite topics.
pub(crate) fn bound(group: &SubscriptionGroupConfig) -> Option<&str> {
    group.attributes.get(BIND_TOPIC).map(String::as_str).filter(|topic| !topic.is_empty())
}

/// Most lite topics of one client of a group.
pub(crate) fn quota(group: &SubscriptionGroupConfig) -> i32 {
    group.attributes.get(QUOTA).and_then(|quota| quota.parse().ok()).unwrap_or(DEFAULT_QUOTA)
}

/// Refuses a parent topic that is not the one of the group.
pub(crate) fn check_bound(name: &str, group: &SubscriptionGroupConfig, parent: &str) -> Result<(), Refused> {
    match bound(group) {
        Some(bound) if bound == parent => Ok(()),
        bound => {
            let bound = bound.unwrap_or("none");
            let why = format!("lite group {name} is expected to bind topic {bound}, but actual is {parent}");
            Err(Refused::new(Code::IllegalTopic, why))
        }
    }
}

pub(crate) async fn sync(
    service: &Service,
    caller: &Caller,
    request: SyncLiteSubscriptionRequest,
) -> Result<SyncLiteSubscriptionResponse, Refused> {
    let topic = names::topic(request.topic.as_ref())?;
    let group = names::group(request.group.as_ref())?;
    let action = match request.action() {
        LiteSubscriptionAction::PartialAdd => Action::PartialAdd,
        LiteSubscriptionAction::PartialRemove => Action::PartialRemove,
        LiteSubscriptionAction::CompleteAdd => Action::CompleteAdd,
        LiteSubscriptionAction::CompleteRemove => Action::CompleteRemove,
    };
    if action == Action::PartialAdd {
        request.lite_topic_set.iter().try_for_each(|name| names::check_lite(name))?;
    }
    let config = service.door.group(&group).await?.ok_or_else(|| {
        Refused::new(Code::ConsumerGroupNotFound, format!("the consumer group {group} does not exist"))
    })?;
    check_bound(&group, &config, &topic)?;
    let quota = quota(&config);
    if request.lite_topic_set.len() > usize::try_from(quota).unwrap_or(0).saturating_add(QUOTA_SLACK) {
        let why = format!("lite subscription quota exceeded: {quota}");
        return Err(Refused::new(Code::LiteSubscriptionQuotaExceeded, why));
    }
    let offset_option = request.offset_option.and_then(|option| option.offset_type).map(|kind| match kind {
        OffsetType::Policy(policy) => option(OffsetOptionType::Policy, policy.into()),
        OffsetType::Offset(offset) => option(OffsetOptionType::Offset, offset),
        OffsetType::TailN(count) => option(OffsetOptionType::TailN, count),
        OffsetType::Timestamp(time) => option(OffsetOptionType::Timestamp, time),
    });
    let change = LiteSubscription {
        action,
        client_id: caller.client_id.clone(),
        group,
        topic,
        lite_topic_set: request.lite_topic_set.into_iter().collect(),
        offset_option: offset_option.filter(|_| action == Action::PartialAdd),
        version: request.version.unwrap_or(0),
    };
    service.clients.known(caller)?.subscribe_lite(change).await?;
    Ok(SyncLiteSubscriptionResponse { status: Some(status::ok()) })
}

fn option(r#type: OffsetOptionType, value: i64) -> OffsetOption {
    OffsetOption { r#type, value }
}

/// Where a record of a lite pop stands in its light queue, and its lite topic; `None` for one that is none.
pub(crate) fn place<'a>(
    record: &Record<'a>,
    header: &PopMessageResponseHeader<'_>,
    broker_name: &'a str,
) -> Option<(ReceiptHandle<'a>, &'a str)> {
    let lite = properties::get_str(record.properties(), keys::LITE_TOPIC)?;
    let offset = properties::get_str(record.properties(), keys::INNER_MULTI_QUEUE_OFFSET)?.parse().ok()?;
    let handle = ReceiptHandle {
        start_offset: 0,
        pop_time: header.pop_time,
        invisible_time: header.invisible_time,
        revive_queue: header.revive_qid,
        origin: Origin::Topic,
        broker_name,
        queue_id: Some(0),
        queue_offset: Some(offset),
    };
    Some((handle, lite))
}

/// The pop of lite topics that corresponds to a pop.
pub(crate) fn pop_header<'a>(client_id: &'a str, pop: &PopMessageHeader<'a>) -> PopLiteMessageHeader<'a> {
    PopLiteMessageHeader {
        client_id: Text::plain(client_id),
        consumer_group: pop.consumer_group,
        topic: pop.topic,
        max_msg_num: pop.max_msg_nums,
        invisible_time: pop.invisible_time,
        poll_time: pop.poll_time,
        born_time: pop.born_time,
        attempt_id: pop.attempt_id,
    }
}

/// How often the messages of a lite pop were handed out before; nothing for another pop, which has no `records` to count.
pub(crate) fn counts(header: &PopMessageResponseHeader<'_>, records: Option<&[u8]>) -> Vec<i64> {
    let Some(records) = records else { return Vec::new() };
    let messages = records::iter(records).count();
    parse_counts(&header.order_count_info.map(|text| text.to_lossy()).unwrap_or_default(), messages)
}

/// Numbers, or with Java's brokers `0 qo0%offset number`; of any other length they say nothing.
fn parse_counts(text: &str, messages: usize) -> Vec<i64> {
    let count = |part: &str| part.rsplit(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0);
    let counts: Vec<i64> = text.split(';').map(count).collect();
    if counts.len() == messages { counts } else { vec![0; messages] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_both_kinds_of_brokers_are_read() {
        assert_eq!(parse_counts("0;2", 2), [0, 2]);
        assert_eq!(parse_counts("0 qo0%6 1;0 qo0%7 3", 2), [1, 3]);
        assert_eq!(parse_counts("1", 2), [0, 0]);
        assert_eq!(parse_counts("", 1), [0]);
    }
}
