//! Lite topics: who subscribes to which, and what a broker tells of them (RocketMQ 5.5).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{OffsetWrapper, TopicOffset};

/// LITE_SUBSCRIPTION_CTL.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LiteSubscriptionCtlRequestBody {
    pub subscription_set: Vec<LiteSubscription>,
}

/// What one client changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LiteSubscription {
    pub action: LiteSubscriptionAction,
    pub client_id: String,
    pub group: String,
    pub lite_topic_set: BTreeSet<String>,
    /// Where the group is to begin in the lite topics that are added.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset_option: Option<OffsetOption>,
    /// The parent topic.
    pub topic: String,
    pub version: i64,
}

/// How a client changes its set of lite topics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum LiteSubscriptionAction {
    #[default]
    PartialAdd,
    PartialRemove,
    /// The set is all there is.
    CompleteAdd,
    /// The client leaves.
    CompleteRemove,
}

/// Where to begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OffsetOption {
    pub r#type: OffsetOptionType,
    pub value: i64,
}

impl OffsetOption {
    /// Value of a policy: the oldest message.
    pub const POLICY_MIN: i64 = 1;
    /// Value of a policy: behind the newest message.
    pub const POLICY_MAX: i64 = 2;
}

/// What the value of an [`OffsetOption`] means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum OffsetOptionType {
    /// 0 where the group stands, or one of the constants above.
    #[default]
    Policy,
    Offset,
    /// So many before where the group stands.
    TailN,
    /// Milliseconds since 1970. RocketMQ's broker does nothing with it.
    Timestamp,
}

/// Answer to GET_BROKER_LITE_INFO.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GetBrokerLiteInfoResponseBody {
    /// Topics with consume queues.
    pub cq_table_size: i32,
    pub current_lmq_num: i32,
    /// Clients for which messages are noted.
    pub event_map_size: i32,
    /// Groups by the parent topic they are bound to.
    pub group_meta: BTreeMap<String, BTreeSet<String>>,
    pub lite_subscription_count: i32,
    pub max_lmq_num: i32,
    /// Pairs of topic and group with an offset.
    pub offset_table_size: i32,
    /// Pairs of lite topic and group that popped.
    pub order_info_count: i32,
    pub store_type: String,
    /// Minutes after which idle lite topics go, by parent topic.
    pub topic_meta: BTreeMap<String, i64>,
}

/// Answer to GET_PARENT_TOPIC_INFO.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GetParentTopicInfoResponseBody {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub groups: Option<BTreeSet<String>>,
    pub lite_topic_count: i32,
    /// Light queues of the broker.
    pub lmq_num: i32,
    pub topic: String,
    /// Minutes.
    pub ttl: i64,
}

/// A client and its group.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClientGroup {
    pub client_id: String,
    pub group: String,
}

/// Answer to GET_LITE_TOPIC_INFO.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GetLiteTopicInfoResponseBody {
    pub lite_topic: String,
    pub parent_topic: String,
    /// Whether messages of this lite topic come to this broker.
    pub sharding_to_broker: bool,
    pub subscriber: BTreeSet<ClientGroup>,
    pub topic_offset: TopicOffset,
}

/// Answer to GET_LITE_CLIENT_INFO.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GetLiteClientInfoResponseBody {
    pub client_id: String,
    pub group: String,
    /// Milliseconds since 1970; -1 for never.
    pub last_access_time: i64,
    /// Milliseconds since 1970; 0 for never.
    pub last_consume_time: i64,
    /// -1 for a client without a subscription.
    pub lite_topic_count: i32,
    /// Names of their queues.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lite_topic_set: Option<Vec<String>>,
    pub parent_topic: String,
}

/// How far a group is behind in one lite topic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LiteLagInfo {
    /// Milliseconds since 1970; -1 if that is not known.
    pub earliest_unconsumed_timestamp: i64,
    pub lag_count: i64,
    pub lite_topic: String,
}

/// Answer to GET_LITE_GROUP_INFO.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GetLiteGroupInfoResponseBody {
    /// Milliseconds since 1970; -1 for none.
    pub earliest_unconsumed_timestamp: i64,
    pub group: String,
    /// The largest lags first.
    #[serde(rename = "lagCountTopK", skip_serializing_if = "Option::is_none")]
    pub lag_count_top_k: Option<Vec<LiteLagInfo>>,
    /// The oldest messages first.
    #[serde(rename = "lagTimestampTopK", skip_serializing_if = "Option::is_none")]
    pub lag_timestamp_top_k: Option<Vec<LiteLagInfo>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lite_topic: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lite_topic_offset_wrapper: Option<OffsetWrapper>,
    pub parent_topic: String,
    /// -1 for a lite topic that does not exist.
    pub total_lag_count: i64,
}
