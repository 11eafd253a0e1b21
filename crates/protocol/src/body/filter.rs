//! The file `consumerFilter.json`: which groups filter which topics by an expression (RocketMQ's `ConsumerFilterManager`).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The whole file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConsumerFilterWrapper {
    pub filter_data_by_topic: BTreeMap<String, FilterDataMapByTopic>,
}

/// The filters of one topic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FilterDataMapByTopic {
    /// By consumer group.
    pub group_filter_data: BTreeMap<String, ConsumerFilterData>,
    pub topic: String,
}

/// How one group filters one topic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConsumerFilterData {
    pub bloom_filter_data: BloomFilterData,
    /// When this expression was first seen, milliseconds since 1970.
    pub born_time: i64,
    /// `subVersion` of the subscription.
    pub client_version: i64,
    pub consumer_group: String,
    /// When the group's last member left, milliseconds since 1970; 0 while there is one.
    pub dead_time: i64,
    pub expression: String,
    /// `SQL92`.
    pub expression_type: String,
    pub topic: String,
}

/// The place of a group and topic in RocketMQ's bloom filter; a Java broker drops a file that has none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BloomFilterData {
    pub bit_num: i32,
    pub bit_pos: Vec<i32>,
}
