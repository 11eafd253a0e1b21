//! What clients say of themselves, and what they are told to do (`GrpcClientSettingsManager`).

use std::sync::Arc;

use ferromq_broker::Shared;
use ferromq_common::clock;
use ferromq_protocol::body::{
    ConsumeType, ConsumerData, CustomizedRetryPolicy, ExponentialRetryPolicy, GroupRetryPolicyType, HeartbeatData,
    ProducerData, SubscriptionData, SubscriptionGroupConfig,
};

use crate::message::duration;
use crate::names;
use crate::pb::retry_policy::Strategy;
use crate::pb::settings::PubSub;
use crate::pb::{
    ClientType, Code, CustomizedBackoff, ExponentialBackoff, FilterExpression, FilterType, Metric,
    ReceiveMessageRequest, RetryPolicy, Settings, Subscription, SubscriptionEntry,
};
use crate::status::Refused;

/// How often a producer tries, and its pauses in milliseconds.
const PRODUCER_ATTEMPTS: i32 = 3;
const PRODUCER_BACKOFF_MS: (i64, i64) = (10, 1000);
/// Most messages of one receive call.
pub(crate) const RECEIVE_BATCH: i32 = 32;
/// How long a receive call waits for messages, milliseconds.
const LONG_POLLING_MS: i64 = 20_000;
/// Most topics of a producer, or subscriptions of a consumer.
const MAX_TOPICS: usize = 1000;

/// What a consumer would say that asks for messages.
pub(crate) fn of_receive(asked: &ReceiveMessageRequest) -> Settings {
    let entry = SubscriptionEntry {
        topic: asked.message_queue.as_ref().and_then(|queue| queue.topic.clone()),
        expression: asked.filter_expression.clone(),
    };
    let client_type = if asked.auto_renew { ClientType::PushConsumer } else { ClientType::SimpleConsumer };
    let subscription =
        Subscription { group: asked.group.clone(), subscriptions: vec![entry], ..Subscription::default() };
    Settings {
        client_type: Some(client_type.into()),
        pub_sub: Some(PubSub::Subscription(subscription)),
        ..Settings::default()
    }
}

/// The settings with the server's values in them.
pub(crate) fn completed(mut settings: Settings, broker: &Arc<Shared>) -> Result<Settings, Refused> {
    settings.metric = Some(Metric { on: false, endpoints: None });
    match &mut settings.pub_sub {
        Some(PubSub::Publishing(publishing)) => {
            if publishing.topics.len() > MAX_TOPICS {
                return Err(too_many());
            }
            for topic in &publishing.topics {
                names::topic(Some(topic))?;
            }
            publishing.max_body_size = i32::try_from(broker.max_message_size).unwrap_or(i32::MAX);
            publishing.validate_message_type = true;
            let (initial, max) = PRODUCER_BACKOFF_MS;
            settings.backoff_policy = Some(exponential(PRODUCER_ATTEMPTS, initial, max, 2));
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
            let group = broker.groups.find(&name);
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

fn consumer(settings: &Settings) -> Option<ConsumerData> {
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
