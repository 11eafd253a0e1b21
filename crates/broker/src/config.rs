//! The broker's settings, by RocketMQ's names (`BrokerConfig`), defaults of 5.5.

use std::path::PathBuf;

use ferromq_protocol::body::MessageRequestMode;

/// Settings of one broker. Field names are the keys of `broker.conf` in snake case.
#[derive(Clone, Debug)]
pub struct BrokerConfig {
    /// Cluster this broker belongs to.
    pub broker_cluster_name: String,
    /// Name of the broker group.
    pub broker_name: String,
    /// 0 is the master.
    pub broker_id: i64,
    /// Address published to clients.
    pub broker_ip1: String,
    /// Address the server listens on.
    pub bind_address: String,
    /// Port of the main listener, 0 takes any free port; the fast port is this one less 2.
    pub listen_port: u16,
    /// Name servers, separated by semicolons.
    pub namesrv_addr: Option<String>,
    /// Bit set of 4 read, 2 write.
    pub broker_permission: u32,
    /// Most queues of a topic made by a first send.
    pub default_topic_queue_nums: u32,
    /// Whether a first send creates its topic.
    pub auto_create_topic_enable: bool,
    /// Whether unknown groups get a default configuration on first use.
    pub auto_create_subscription_group: bool,
    /// Whether a topic with the cluster's name exists.
    pub cluster_topic_enable: bool,
    /// Whether a topic with the broker's name exists.
    pub broker_topic_enable: bool,
    /// Whether the trace topic exists here.
    pub trace_topic_enable: bool,
    /// Name of the trace topic.
    pub msg_trace_topic_name: String,
    /// Value of TRACE_ON.
    pub trace_on: bool,
    /// Value of MSG_REGION.
    pub region_id: String,
    /// Whether pulls may wait.
    pub long_polling_enable: bool,
    /// Longest wait when `long_polling_enable` is off, milliseconds.
    pub short_polling_time_mills: u64,
    /// Period of writing `consumerOffset.json`, milliseconds.
    pub flush_consumer_offset_interval: u64,
    /// Whether members of a group are told of changes (code 40).
    pub notify_consumer_ids_changed_enable: bool,
    /// Refuse half messages.
    pub reject_transaction_message: bool,
    /// A half message is asked about after this, milliseconds.
    pub transaction_time_out: i64,
    /// Checks before a half message is given up.
    pub transaction_check_max: i32,
    /// Time between two checks of one half message, milliseconds.
    pub transaction_check_interval: i64,
    /// Most bytes of the body of one op message.
    pub transaction_op_msg_max_size: usize,
    /// Server-side offset reset.
    pub use_server_side_reset_offset: bool,
    /// Allow SQL92 expressions.
    pub enable_property_filter: bool,
    /// Period of registration, milliseconds, forced into 10 s..60 s.
    pub register_name_server_period: u64,
    /// Time-out of one registration, milliseconds.
    pub register_broker_timeout_mills: u64,
    /// Register even without a change.
    pub force_register: bool,
    /// Register with a compressed body.
    pub compressed_register: bool,
    /// Clients without a heartbeat for this long are dropped, milliseconds.
    pub channel_expired_timeout: u64,
    /// Subscriptions not refreshed for this long are dropped, milliseconds.
    pub subscription_expired_timeout: u64,
    /// Before this time (ms since 1970) sends are refused.
    pub start_accept_send_request_time_stamp: i64,
    /// Accept LITE_PULL_MESSAGE.
    pub lite_pull_message_enable: bool,
    /// Keep the producers that heartbeats name.
    pub enable_register_producer: bool,
    /// Refuse to create or change system topics.
    pub validate_system_topic_when_update_topic: bool,
    /// Built-in groups are created at start.
    pub enable_create_sys_group: bool,
    /// Threads that read sockets.
    pub reactors: usize,
    /// Most connections, both ports together.
    pub max_connections: usize,
    /// Idle connections are closed after this, seconds.
    pub server_channel_max_idle_time_seconds: u64,
    /// Messages one QUERY_MESSAGE answers at most.
    pub max_msgs_num_batch: u32,
    /// Pop consumption.
    pub pop: PopConfig,
    /// Messages a second that one connection may send, 0 for any number.
    pub client_send_rate_limit: u32,
    /// Bytes of one connection that may be in the log without being on the disk, 0 for any number.
    pub client_unflushed_limit: u64,
    /// Bytes of one producer group that may be in the log without being on the disk, 0 for any number.
    pub producer_group_unflushed_limit: u64,
    /// Bytes of the log that may be on their way to the disk before sends are refused, 0 for any number.
    pub max_unflushed_bytes: u64,
    /// How long sends may have waited for the disk before those to degradable topics are refused, milliseconds.
    pub wait_time_mills_in_send_queue: u64,
    /// Whether it is remembered how far broadcasting consumers have read.
    pub enable_broadcast_offset_store: bool,
    /// How long one that is not connected is remembered, seconds.
    pub broadcast_offset_expire_second: u64,
    /// How long one that is connected and does not pull is, seconds.
    pub broadcast_offset_expire_max_second: u64,
    /// Whether reading of old messages is held to the next two thresholds.
    pub cold_data_flow_control_enable: bool,
    /// Bytes of old messages that a group may read in five seconds.
    pub cg_cold_read_threshold: u64,
    /// The same for all groups together.
    pub global_cold_read_threshold: u64,
    /// Replies to requests are kept as messages of the reply topic.
    pub store_reply_message_enable: bool,
    /// The file that changes of settings are written into; `None` keeps them until the next start only.
    pub config_file: Option<PathBuf>,
    /// Let producers take timer messages back.
    pub recall_message_enable: bool,
    /// `enableMixedMessageType`: topics may be created that take messages of all kinds (`message.type=MIXED`).
    pub enable_mixed_message_type: bool,
    /// Also while the broker takes no messages.
    pub allow_recall_when_broker_not_writeable: bool,
    /// Accept timer messages.
    pub timer_wheel_enable: bool,
    /// Longest delay of a timer message, seconds.
    pub timer_max_delay_sec: u32,
    /// Timer messages are due at full multiples of this, milliseconds.
    pub timer_precision_ms: u32,
    /// Timer messages that wait longer than this many steps are stored anew in between.
    pub timer_roll_window_slot: u32,
    /// Light topics and groups (`%LMQ%...`) exist without anybody making them.
    pub enable_lmq: bool,
    /// Lite topics.
    pub lite: LiteConfig,
    /// All settings in effect as properties text, one `key=value` a line (code 26).
    pub effective_properties: String,
}

impl Default for BrokerConfig {
    fn default() -> Self {
        Self {
            broker_cluster_name: "DefaultCluster".into(),
            broker_name: "broker-a".into(),
            broker_id: 0,
            broker_ip1: "127.0.0.1".into(),
            bind_address: "0.0.0.0".into(),
            listen_port: 10911,
            namesrv_addr: None,
            broker_permission: 6,
            default_topic_queue_nums: 8,
            auto_create_topic_enable: true,
            auto_create_subscription_group: true,
            cluster_topic_enable: true,
            broker_topic_enable: true,
            trace_topic_enable: false,
            msg_trace_topic_name: "RMQ_SYS_TRACE_TOPIC".into(),
            trace_on: true,
            region_id: "DefaultRegion".into(),
            long_polling_enable: true,
            short_polling_time_mills: 1000,
            flush_consumer_offset_interval: 5000,
            notify_consumer_ids_changed_enable: true,
            reject_transaction_message: false,
            transaction_time_out: 6000,
            transaction_check_max: 15,
            transaction_check_interval: 30_000,
            transaction_op_msg_max_size: 4096,
            use_server_side_reset_offset: true,
            enable_property_filter: false,
            register_name_server_period: 30_000,
            register_broker_timeout_mills: 24_000,
            force_register: true,
            compressed_register: false,
            channel_expired_timeout: 120_000,
            subscription_expired_timeout: 600_000,
            start_accept_send_request_time_stamp: 0,
            lite_pull_message_enable: true,
            enable_register_producer: true,
            validate_system_topic_when_update_topic: true,
            enable_create_sys_group: true,
            reactors: 0,
            max_connections: 20_000,
            server_channel_max_idle_time_seconds: 120,
            max_msgs_num_batch: 64,
            pop: PopConfig::default(),
            client_send_rate_limit: 0,
            client_unflushed_limit: 0,
            producer_group_unflushed_limit: 0,
            max_unflushed_bytes: 0,
            wait_time_mills_in_send_queue: 200,
            enable_broadcast_offset_store: true,
            broadcast_offset_expire_second: 120,
            broadcast_offset_expire_max_second: 300,
            cold_data_flow_control_enable: false,
            cg_cold_read_threshold: 3 * 1024 * 1024,
            global_cold_read_threshold: 100 * 1024 * 1024,
            store_reply_message_enable: true,
            config_file: None,
            recall_message_enable: false,
            enable_mixed_message_type: false,
            allow_recall_when_broker_not_writeable: true,
            timer_wheel_enable: true,
            timer_max_delay_sec: 3 * 24 * 3600,
            timer_precision_ms: 1000,
            timer_roll_window_slot: 2 * 24 * 3600,
            enable_lmq: false,
            lite: LiteConfig::default(),
            effective_properties: String::new(),
        }
    }
}

/// Settings of pop consumption.
#[derive(Clone, Debug)]
pub struct PopConfig {
    /// Queues of the revive topic.
    pub revive_queue_num: u32,
    /// Most pops of one group and topic that wait.
    pub pop_polling_size: usize,
    /// Most pops that wait, all groups together.
    pub max_pop_polling_size: usize,
    /// Share of pops that look at the retry topic first, percent.
    pub pop_from_retry_probability: u32,
    /// The same for pops of a topic whose messages have priorities.
    pub pop_from_retry_probability_for_priority: u32,
    /// The queue with the largest number has the highest priority, else the first one.
    pub priority_order_asc: bool,
    /// Retry topics are called `%RETRY%group+topic` instead of `%RETRY%group_topic`.
    pub enable_retry_topic_v2: bool,
    /// With the second naming: messages under the first are popped too.
    pub retrieve_message_from_pop_retry_topic_v1: bool,
    /// Whether the broker shares out queues among the members of a group that asks it to.
    pub server_load_balancer_enable: bool,
    /// How groups take messages whose queues the broker shares out.
    pub default_message_request_mode: MessageRequestMode,
    /// How many other members share a member's queues by pop; 0 or less: all members pop all queues.
    pub default_pop_share_queue_num: i32,
    /// Retried messages go out under the name of their retry topic.
    pub pop_response_return_actual_retry_topic: bool,
    /// Whether `pop_inflight_message_threshold` holds.
    pub enable_pop_message_threshold: bool,
    /// Messages of one queue that a group may have unacknowledged before it gets no more of that queue.
    pub pop_inflight_message_threshold: u32,
    /// A group that begins with the newest message gets all of a queue whose first message is in memory.
    pub init_pop_offset_by_check_msg_in_mem: bool,
}

impl Default for PopConfig {
    fn default() -> Self {
        Self {
            revive_queue_num: 8,
            pop_polling_size: 1024,
            max_pop_polling_size: 100_000,
            pop_from_retry_probability: 20,
            pop_from_retry_probability_for_priority: 0,
            priority_order_asc: true,
            enable_retry_topic_v2: false,
            retrieve_message_from_pop_retry_topic_v1: true,
            server_load_balancer_enable: true,
            default_message_request_mode: MessageRequestMode::Pull,
            default_pop_share_queue_num: -1,
            pop_response_return_actual_retry_topic: false,
            enable_pop_message_threshold: false,
            pop_inflight_message_threshold: 10_000,
            init_pop_offset_by_check_msg_in_mem: true,
        }
    }
}

/// Settings of lite topics.
#[derive(Clone, Debug)]
pub struct LiteConfig {
    /// Most lite topics with messages that are noted for one client, unless its group says another number.
    pub max_client_event_count: usize,
    /// Most pairs of client and lite topic it subscribes to.
    pub max_lite_subscription_count: usize,
    /// How often clients are looked for that were not heard, milliseconds.
    pub lite_subscription_check_interval: u64,
    /// For how long a client is known that says nothing of its lite topics, milliseconds.
    pub lite_subscription_check_timeout_mills: u64,
    /// How often lite topics are looked for that are idle for too long, milliseconds.
    pub lite_ttl_check_interval: u64,
    /// No lite topic goes that is idle for less than this, and none before the broker has run for as long, milliseconds.
    pub min_lite_ttl: u64,
}

impl Default for LiteConfig {
    fn default() -> Self {
        Self {
            max_client_event_count: 100,
            max_lite_subscription_count: 100_000,
            lite_subscription_check_interval: 120_000,
            lite_subscription_check_timeout_mills: 180_000,
            lite_ttl_check_interval: 120_000,
            min_lite_ttl: 900_000,
        }
    }
}
