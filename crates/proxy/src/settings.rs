//! What clients say of themselves, and what they are told to do (`GrpcClientSettingsManager`).

use ferromq_common::clock;
use ferromq_protocol::body::{
    ConsumeType, ConsumerData, CustomizedRetryPolicy, ExponentialRetryPolicy, GroupRetryPolicyType, HeartbeatData,
    ProducerData, SubscriptionData, SubscriptionGroupConfig,
};

use crate::door::Door;
use crate::message::{duration, millis};
use crate::names;
use crate::pb::retry_policy::Strategy;
use crate::pb::settings::PubSub;
use crate::pb::{
    ClientType, Code, CustomizedBackoff, ExponentialBackoff, FilterExpression, FilterType, Metric,
    ReceiveMessageRequest, RetryPolicy, Settings, Subscription, SubscriptionEntry,
};
use crate::rpc::lite;
use crate::status::Refused;

/// How often a producer tries, and its pauses in milliseconds.
const PRODUCER_ATTEMPTS: i32 = 3;
const PRODUCER_BACKOFF_MS: (i64, i64) = (10, 1000);
/// Most messages of one receive call.
pub(crate) const RECEIVE_BATCH: i32 = 32;
/// How long a receive call waits for messages, milliseconds.
const LONG_POLLING_MS: i64 = 20_000;
/// The first two entries of a table of waits are for clients that never tried.
const FIRST_ENTRY: usize = 2;
/// Waits grow this often, and no more.
const MAX_EXPONENT: u32 = 32;
/// Most topics of a producer, or subscriptions of a consumer.
const MAX_TOPICS: usize = 1000;

/// What a consumer would say that asks for messages.
pub(crate) fn of_receive(asked: &ReceiveMessageRequest, is_lite: bool) -> Settings {
    let entry = SubscriptionEntry {
        topic: asked.message_queue.as_ref().and_then(|queue| queue.topic.clone()),
        expression: asked.filter_expression.clone(),
    };
    let client_type = match (is_lite, asked.auto_renew) {
        (false, true) => ClientType::PushConsumer,
        (false, false) => ClientType::SimpleConsumer,
        (true, true) => ClientType::LitePushConsumer,
        (true, false) => ClientType::LiteSimpleConsumer,
    };
    let subscription =
        Subscription { group: asked.group.clone(), subscriptions: vec![entry], ..Subscription::default() };
    Settings {
        client_type: Some(client_type.into()),
        pub_sub: Some(PubSub::Subscription(subscription)),
        ..Settings::default()
    }
}

/// The settings with the server's values in them.
pub(crate) async fn completed(mut settings: Settings, door: &Door) -> Result<Settings, Refused> {
    settings.metric = Some(Metric { on: false, endpoints: None });
    let (is_lite, client_type) = (is_lite(&settings), settings.client_type());
    match &mut settings.pub_sub {
        Some(PubSub::Publishing(publishing)) => {
            if publishing.topics.len() > MAX_TOPICS {
                return Err(too_many());
            }
            for topic in &publishing.topics {
                names::topic(Some(topic))?;
            }
            publishing.max_body_size = i32::try_from(door.max_message_size()).unwrap_or(i32::MAX);
            publishing.validate_message_type = true;
            let (initial, max) = PRODUCER_BACKOFF_MS;
            settings.backoff_policy = Some(exponential(PRODUCER_ATTEMPTS, initial, max, 2));
        }
        Some(PubSub::Subscription(_)) if client_type == ClientType::Producer => {
            return Err(Refused::new(
                Code::BadRequest,
                "the settings are of a consumer, and say that it is a producer",
            ));
        }
        Some(PubSub::Subscription(subscription)) => {
            if subscription.subscriptions.len() > MAX_TOPICS {
                return Err(too_many());
            }
            for entry in &subscription.subscriptions {
                names::topic(entry.topic.as_ref())?;
            }
            let name = names::group(subscription.group.as_ref())?;
            // A group that may not be made is told by the calls of its members.
            let group = door.group(&name).await?;
            check_lite(&name, group.as_deref(), subscription, is_lite)?;
            subscription.lite_subscription_quota = group.as_deref().map(lite::quota);
            subscription.max_lite_topic_size = i32::try_from(names::MAX_LITE_TOPIC).ok();
            subscription.fifo = Some(group.as_ref().is_some_and(|group| group.consume_message_orderly));
            subscription.receive_batch_size = Some(RECEIVE_BATCH);
            subscription.long_polling_timeout = Some(duration(LONG_POLLING_MS));
            settings.backoff_policy = Some(match &group {
                Some(group) => retry_policy(group),
                None => retry_policy(&SubscriptionGroupConfig::default()),
            });
        }
        None => {
            return Err(Refused::new(Code::BadRequest, "the settings are neither of a producer nor of a consumer"));
        }
    }
    Ok(settings)
}

/// Groups bound to a parent topic have members that consume its lite topics, others have none (`validateLiteMode`).
fn check_lite(
    name: &str,
    group: Option<&SubscriptionGroupConfig>,
    subscription: &Subscription,
    is_lite: bool,
) -> Result<(), Refused> {
    let bound = group.and_then(lite::bound);
    match (group, subscription.subscriptions.first()) {
        _ if is_lite && bound.is_none() => {
            Err(Refused::new(Code::IllegalConsumerGroup, format!("regular group cannot use LITE mode: {name}")))
        }
        _ if !is_lite && bound.is_some() => {
            Err(Refused::new(Code::IllegalConsumerGroup, format!("lite group must use LITE mode: {name}")))
        }
        (Some(group), Some(entry)) if is_lite => lite::check_bound(name, group, &names::topic(entry.topic.as_ref())?),
        _ => Ok(()),
    }
}

fn too_many() -> Refused {
    Refused::new(Code::BadRequest, format!("the settings name more than {MAX_TOPICS} topics"))
}

fn exponential(max_attempts: i32, initial: i64, max: i64, multiplier: i64) -> RetryPolicy {
    let backoff = ExponentialBackoff {
        initial: Some(duration(initial)),
        max: Some(duration(max)),
        multiplier: multiplier as f32,
    };
    RetryPolicy { max_attempts, strategy: Some(Strategy::ExponentialBackoff(backoff)) }
}

fn retry_policy(group: &SubscriptionGroupConfig) -> RetryPolicy {
    let max_attempts = group.retry_max_times.saturating_add(1);
    let policy = &group.group_retry_policy;
    match policy.r#type {
        GroupRetryPolicyType::Exponential => {
            let ExponentialRetryPolicy { initial, max, multiplier } =
                policy.exponential_retry_policy.clone().unwrap_or_default();
            exponential(max_attempts, initial, max, multiplier)
        }
        GroupRetryPolicyType::Customized => {
            let CustomizedRetryPolicy { next } = policy.customized_retry_policy.clone().unwrap_or_default();
            let next = next.into_iter().map(duration).collect();
            RetryPolicy { max_attempts, strategy: Some(Strategy::CustomizedBackoff(CustomizedBackoff { next })) }
        }
    }
}

/// Most deliveries of a message to a group.
pub(crate) fn max_attempts(settings: &Settings) -> i32 {
    settings.backoff_policy.as_ref().map_or(i32::MAX, |policy| policy.max_attempts)
}

/// How long a message waits that was delivered that often, milliseconds (`CustomizedRetryPolicy`, `ExponentialRetryPolicy`).
pub(crate) fn wait_after(settings: &Settings, times: i32) -> i64 {
    let times = u32::try_from(times).unwrap_or(0);
    match settings.backoff_policy.as_ref().and_then(|policy| policy.strategy.as_ref()) {
        Some(Strategy::CustomizedBackoff(policy)) => {
            let entry = policy.next.get(times as usize + FIRST_ENTRY).or(policy.next.last());
            entry.map_or(0, millis)
        }
        Some(Strategy::ExponentialBackoff(policy)) => {
            let factor = f64::from(policy.multiplier).powf(f64::from(times.min(MAX_EXPONENT)));
            let [initial, max] = [&policy.initial, &policy.max].map(|bound| bound.as_ref().map_or(0, millis));
            ((initial as f64 * factor) as i64).min(max)
        }
        None => 0,
    }
}

/// The group of a consumer.
pub(crate) fn group(settings: &Settings) -> Option<String> {
    match &settings.pub_sub {
        Some(PubSub::Subscription(subscription)) => names::group(subscription.group.as_ref()).ok(),
        _ => None,
    }
}

/// The topics of a producer: each is a producer group of the same name.
pub(crate) fn topics(settings: &Settings) -> Vec<String> {
    match &settings.pub_sub {
        Some(PubSub::Publishing(publishing)) => {
            publishing.topics.iter().filter_map(|topic| names::topic(Some(topic)).ok()).collect()
        }
        _ => Vec::new(),
    }
}

/// Whether a consumer consumes lite topics.
pub(crate) fn is_lite(settings: &Settings) -> bool {
    matches!(settings.client_type(), ClientType::LitePushConsumer | ClientType::LiteSimpleConsumer)
}

/// The parent topic of a consumer of lite topics.
pub(crate) fn lite_parent(settings: &Settings) -> Option<String> {
    is_lite(settings).then(|| subscribed(settings).into_iter().next()).flatten()
}

/// The topics that a consumer subscribes to.
pub(crate) fn subscribed(settings: &Settings) -> Vec<String> {
    match &settings.pub_sub {
        Some(PubSub::Subscription(subscription)) => {
            subscription.subscriptions.iter().filter_map(|entry| names::topic(entry.topic.as_ref()).ok()).collect()
        }
        _ => Vec::new(),
    }
}

/// Whether a consumer's group consumes in order.
pub(crate) fn is_fifo(settings: &Settings) -> bool {
    matches!(&settings.pub_sub, Some(PubSub::Subscription(subscription)) if subscription.fifo == Some(true))
}

/// The heartbeat that tells the broker who a client is.
pub(crate) fn heartbeat(client_id: &str, settings: &Settings) -> HeartbeatData {
    let producers = topics(settings).into_iter().map(|group_name| ProducerData { group_name });
    HeartbeatData {
        client_id: client_id.to_owned(),
        producer_data_set: producers.collect(),
        consumer_data_set: consumer(settings).into_iter().collect(),
        ..HeartbeatData::default()
    }
}

/// The member of a group that a consumer is.
pub(crate) fn consumer(settings: &Settings) -> Option<ConsumerData> {
    let group_name = group(settings)?;
    let Some(PubSub::Subscription(subscription)) = &settings.pub_sub else { return None };
    let now = clock::now_millis();
    let subscriptions = subscription.subscriptions.iter().filter_map(|entry| {
        let topic = names::topic(entry.topic.as_ref()).ok()?;
        let (kind, text) = expression(entry.expression.as_ref());
        Some(SubscriptionData::of(&topic, kind, text, now))
    });
    let is_push = matches!(settings.client_type(), ClientType::PushConsumer | ClientType::LitePushConsumer);
    Some(ConsumerData {
        group_name,
        consume_type: if is_push { ConsumeType::ConsumePassively } else { ConsumeType::ConsumeActively },
        subscription_data_set: subscriptions.collect(),
        ..ConsumerData::default()
    })
}

/// Kind and text of a filter, as remoting has them.
pub(crate) fn expression(filter: Option<&FilterExpression>) -> (&'static str, &str) {
    match filter {
        None => ("TAG", "*"),
        Some(filter) if filter.r#type() == FilterType::Sql => ("SQL92", &filter.expression),
        Some(filter) => ("TAG", &filter.expression),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_with_the_deliveries() {
        let waits = |policy| {
            let settings = Settings { backoff_policy: Some(policy), ..Settings::default() };
            [0, 1, 40].map(|times| wait_after(&settings, times))
        };
        assert_eq!(waits(retry_policy(&SubscriptionGroupConfig::default())), [10_000, 30_000, 7_200_000]);
        assert_eq!(waits(exponential(17, 5000, 7_200_000, 2)), [5000, 10_000, 7_200_000]);
        assert_eq!(wait_after(&Settings::default(), 3), 0);
    }
}
