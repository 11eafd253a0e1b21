//! The topics every broker has from its start.

use ferromq_protocol::body::TopicConfig;
use ferromq_protocol::pop::revive_topic;
use ferromq_protocol::sys_flag::perm;
use ferromq_protocol::topic as names;

use crate::config::BrokerConfig;

/// Queues of the schedule topic: one per delay level.
const SCHEDULE_QUEUES: i32 = 18;
/// Queues of the topic that benchmarks send to.
const BENCHMARK_QUEUES: i32 = 1024;
/// Queues of the topic named like the cluster (a `TopicConfig` without numbers).
const DEFAULT_QUEUES: i32 = 16;

/// What every broker has from its start (`TopicConfigManager.init`). Topics of features that are not here yet (timer
/// wheel) come with them; their names are reserved all the same.
pub(super) fn system_topics(config: &BrokerConfig) -> Vec<TopicConfig> {
    let topic = |name: &str, queues: i32, perm: i32| TopicConfig {
        topic_name: name.to_owned(),
        read_queue_nums: queues,
        write_queue_nums: queues,
        perm,
        ..TopicConfig::default()
    };
    let both = perm::READ | perm::WRITE;
    let open_if = |enabled: bool| perm::INHERIT | if enabled { both } else { 0 };
    let mut topics = vec![
        topic(names::SELF_TEST, 1, both),
        topic(names::BENCHMARK, BENCHMARK_QUEUES, both),
        topic(&config.broker_cluster_name, DEFAULT_QUEUES, open_if(config.cluster_topic_enable)),
        topic(&config.broker_name, 1, open_if(config.broker_topic_enable)),
        topic(names::OFFSET_MOVED_EVENT, 1, both),
        topic(names::SCHEDULE, SCHEDULE_QUEUES, both),
        topic(names::TRANS_HALF, 1, both),
        topic(names::TRANS_OP_HALF, 1, both),
        topic(&names::reply_topic(&config.broker_cluster_name), 1, both),
        topic(&revive_topic(&config.broker_cluster_name), config.pop.revive_queue_num as i32, both),
    ];
    if config.auto_create_topic_enable {
        topics.push(topic(names::AUTO_CREATE_TOPIC_KEY, config.default_topic_queue_nums as i32, open_if(true)));
    }
    if config.timer_wheel_enable {
        topics.push(topic(names::TIMER, 1, both));
    }
    if config.trace_topic_enable {
        topics.push(topic(&config.msg_trace_topic_name, 1, both));
    }
    topics
}
