//! Settings of a Broker from `broker.conf`: the table of keys with a meaning here, and the settings that are refused.

use super::{Remarks, Server, SettingsError, print_all, read_into};
use crate::host;
use ferromq_broker::BrokerConfig;
use ferromq_common::config::{self, Int, Key, Slot};
use ferromq_common::net;
use ferromq_common::properties::Properties;
use ferromq_protocol::body::MessageRequestMode;
use ferromq_store::{FlushMode, StoreConfig};
use std::net::{IpAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

const ROLES: &[&str] = &["ASYNC_MASTER", "SYNC_MASTER", "SLAVE"];
const REQUEST_MODES: &[&str] = &["PULL", "POP"];
const FLUSH_TYPES: &[&str] = &["ASYNC_FLUSH", "SYNC_FLUSH"];
/// Bytes of one consume queue entry; a file holds a whole number of them.
const CONSUME_QUEUE_ENTRY: u64 = 20;
/// The same of a batch consume queue.
const BATCH_QUEUE_ENTRY: u64 = 46;

/// Everything a broker is started with.
#[derive(Debug)]
pub struct BrokerSettings {
    /// What the broker itself takes.
    pub broker: BrokerConfig,
    /// What its store takes.
    pub store: StoreConfig,
    multi_dispatch: bool,
    role: usize,
    flush_type: usize,
    request_mode: usize,
    commit_log: Option<PathBuf>,
    delete_when: String,
    file: Properties,
}

/// Settings whose promise FerroMQ cannot keep yet: starting without them would lose or expose messages.
const REFUSED: &[(&str, &str, &str)] = &[
    (
        "brokerRole",
        "SLAVE",
        "a slave that nobody replicates to would answer as a second master; replication is not served yet",
    ),
    ("enableControllerMode", "true", "the controller decides who is master; it is not served yet"),
    ("enableDLegerCommitLog", "true", "the DLedger commit log is not served; its files differ"),
    ("aclEnable", "true", "access control is not served yet; the broker would let everybody in"),
    ("authenticationEnabled", "true", "access control is not served yet; the broker would let everybody in"),
    ("authorizationEnabled", "true", "access control is not served yet; the broker would let everybody in"),
    ("storeType", "defaultRocksDB", "only the file store is served; messages of the other would not be seen"),
    ("duplicationEnable", "true", "replicas of this kind are not served yet"),
];

impl BrokerSettings {
    /// RocketMQ's defaults on this machine.
    pub fn new() -> Self {
        let broker = BrokerConfig {
            broker_name: host::name(),
            broker_ip1: net::outward_ip().to_string(),
            namesrv_addr: std::env::var("NAMESRV_ADDR").ok().filter(|addresses| !addresses.trim().is_empty()),
            ..BrokerConfig::default()
        };
        let root = host::home().unwrap_or_default().join("store");
        let store = StoreConfig { root, ..StoreConfig::default() };
        let delete_when = "04".to_owned();
        Self {
            broker,
            store,
            multi_dispatch: false,
            role: 0,
            flush_type: 0,
            request_mode: 0,
            commit_log: None,
            delete_when,
            file: Properties::default(),
        }
    }

    /// Lets messages stand in light queues, and so in lite topics.
    pub fn serve_light_queues(&mut self) {
        self.broker.enable_lmq = true;
        self.multi_dispatch = true;
    }

    /// Reads a file over what is there.
    pub fn read(&mut self, path: Option<&Path>) -> Result<Remarks, SettingsError> {
        let (file, mut remarks) = read_into(path, Server::Broker, KEYS, self)?;
        for (key, value, why) in REFUSED {
            if file.get(key).is_some_and(|given| given.trim().eq_ignore_ascii_case(value)) {
                return Err(SettingsError(format!(
                    "{key}={value} cannot be served: {why}; remove the line to start without it"
                )));
            }
        }
        if ROLES[self.role] == "SYNC_MASTER" {
            let why = "brokerRole=SYNC_MASTER promises no copy on a second machine: replication is not served yet (and with RocketMQ's default inSyncReplicas=1 it promises none there either)";
            remarks.warnings.push(why.into());
        }
        self.file = file;
        self.broker.config_file = path.map(Path::to_owned);
        self.agree()?;
        Ok(remarks)
    }

    /// Settings that follow from others.
    fn agree(&mut self) -> Result<(), SettingsError> {
        // A master has the id 0 whatever the file says, as in RocketMQ.
        self.broker.broker_id = 0;
        self.broker.broker_ip1 = resolved(&self.broker.broker_ip1)?;
        self.store.flush_disk_type = if self.flush_type == 0 { FlushMode::Async } else { FlushMode::Sync };
        self.store.multi_dispatch = self.broker.enable_lmq && self.multi_dispatch;
        self.store.delete_when = hours(&self.delete_when)?;
        self.broker.pop.default_message_request_mode =
            if self.request_mode == 0 { MessageRequestMode::Pull } else { MessageRequestMode::Pop };
        let queue_file = &mut self.store.mapped_file_size_consume_queue;
        *queue_file = queue_file.next_multiple_of(CONSUME_QUEUE_ENTRY);
        let batch_file = &mut self.store.mapper_file_size_batch_consume_queue;
        *batch_file = batch_file.next_multiple_of(BATCH_QUEUE_ENTRY);
        let usual = self.store.root.join("commitlog");
        match &self.commit_log {
            Some(path) if *path != usual => Err(SettingsError(format!(
                "storePathCommitLog={} cannot be served: the commit log stands in {}; move it there, or set storePathRootDir to the folder above it",
                path.display(),
                usual.display()
            ))),
            _ => Ok(()),
        }
    }

    /// The settings in effect as properties text, for those who ask the broker (code 26).
    pub fn effective(&mut self) -> String {
        self.lines(false).join("\n")
    }

    /// `name=value` lines for `-p` and, with only the important ones, `-m`.
    pub fn lines(&mut self, important_only: bool) -> Vec<String> {
        if important_only {
            let important = config::describe(KEYS, self, true).into_iter();
            return important.map(|(name, value)| format!("{name}={value}")).collect();
        }
        let file = std::mem::take(&mut self.file);
        let lines = print_all(Server::Broker, KEYS, self, &file);
        self.file = file;
        lines
    }
}

/// An address for a host name; clients and message ids need one.
fn resolved(host: &str) -> Result<String, SettingsError> {
    if host.parse::<IpAddr>().is_ok() {
        return Ok(host.to_owned());
    }
    let found = (host, 0).to_socket_addrs().ok().and_then(|mut addresses| addresses.find(|address| address.is_ipv4()));
    let address =
        found.ok_or_else(|| SettingsError(format!("brokerIP1={host} is no address and cannot be resolved to one")))?;
    Ok(address.ip().to_string())
}

/// Hours of the day of `4;16`; none of an empty text.
fn hours(text: &str) -> Result<Vec<u32>, SettingsError> {
    let words = text.split(';').map(str::trim).filter(|word| !word.is_empty());
    let hour = |word: &str| word.parse().ok().filter(|hour| *hour < 24);
    let hours: Option<Vec<u32>> = words.map(hour).collect();
    hours.ok_or_else(|| {
        SettingsError(format!(
            "deleteWhen={text} is not allowed: it takes hours of the day, 00 to 23, separated by semicolons"
        ))
    })
}

const fn key(name: &'static str, slot: fn(&mut BrokerSettings) -> Slot<'_>) -> Key<BrokerSettings> {
    Key { name, important: false, slot }
}

const fn important(name: &'static str, slot: fn(&mut BrokerSettings) -> Slot<'_>) -> Key<BrokerSettings> {
    Key { name, important: true, slot }
}

/// A day, the longest period that makes sense in milliseconds.
const DAY_MS: i64 = 86_400_000;

const KEYS: &[Key<BrokerSettings>] = &[
    // Identity.
    important("brokerClusterName", |s| Slot::Text(&mut s.broker.broker_cluster_name)),
    important("brokerName", |s| Slot::Text(&mut s.broker.broker_name)),
    important("brokerId", |s| Slot::Int(Int::I64(&mut s.broker.broker_id), -1, i64::MAX)),
    important("brokerRole", |s| Slot::Word(&mut s.role, ROLES)),
    // Network.
    important("namesrvAddr", |s| Slot::Optional(&mut s.broker.namesrv_addr)),
    important("listenPort", |s| Slot::Int(Int::U16(&mut s.broker.listen_port), 0, 65_535)),
    important("brokerIP1", |s| Slot::Text(&mut s.broker.broker_ip1)),
    key("bindAddress", |s| Slot::Text(&mut s.broker.bind_address)),
    key("reactors", |s| Slot::Int(Int::Usize(&mut s.broker.reactors), 0, 64)),
    key("maxConnections", |s| Slot::Int(Int::Usize(&mut s.broker.max_connections), 1, 1_000_000)),
    key("serverChannelMaxIdleTimeSeconds", |s| {
        Slot::Int(Int::U64(&mut s.broker.server_channel_max_idle_time_seconds), 1, 86_400)
    }),
    key("channelExpiredTimeout", |s| Slot::Int(Int::U64(&mut s.broker.channel_expired_timeout), 1, DAY_MS)),
    key("subscriptionExpiredTimeout", |s| Slot::Int(Int::U64(&mut s.broker.subscription_expired_timeout), 1, DAY_MS)),
    // Registration.
    key("registerNameServerPeriod", |s| Slot::Int(Int::U64(&mut s.broker.register_name_server_period), 1, DAY_MS)),
    key("registerBrokerTimeoutMills", |s| Slot::Int(Int::U64(&mut s.broker.register_broker_timeout_mills), 1, DAY_MS)),
    key("forceRegister", |s| Slot::Bool(&mut s.broker.force_register)),
    key("compressedRegister", |s| Slot::Bool(&mut s.broker.compressed_register)),
    // Topics and groups.
    key("brokerPermission", |s| Slot::Int(Int::U32(&mut s.broker.broker_permission), 0, 7)),
    key("defaultTopicQueueNums", |s| Slot::Int(Int::U32(&mut s.broker.default_topic_queue_nums), 1, 65_535)),
    important("autoCreateTopicEnable", |s| Slot::Bool(&mut s.broker.auto_create_topic_enable)),
    important("autoCreateSubscriptionGroup", |s| Slot::Bool(&mut s.broker.auto_create_subscription_group)),
    key("clusterTopicEnable", |s| Slot::Bool(&mut s.broker.cluster_topic_enable)),
    key("brokerTopicEnable", |s| Slot::Bool(&mut s.broker.broker_topic_enable)),
    important("traceTopicEnable", |s| Slot::Bool(&mut s.broker.trace_topic_enable)),
    important("msgTraceTopicName", |s| Slot::Text(&mut s.broker.msg_trace_topic_name)),
    key("validateSystemTopicWhenUpdateTopic", |s| Slot::Bool(&mut s.broker.validate_system_topic_when_update_topic)),
    key("enableCreateSysGroup", |s| Slot::Bool(&mut s.broker.enable_create_sys_group)),
    key("enableRegisterProducer", |s| Slot::Bool(&mut s.broker.enable_register_producer)),
    key("notifyConsumerIdsChangedEnable", |s| Slot::Bool(&mut s.broker.notify_consumer_ids_changed_enable)),
    // Sending.
    key("maxMessageSize", |s| Slot::Int(Int::Usize(&mut s.store.max_message_size), 1, 64 * 1024 * 1024)),
    important("rejectTransactionMessage", |s| Slot::Bool(&mut s.broker.reject_transaction_message)),
    key("transactionTimeOut", |s| Slot::Int(Int::I64(&mut s.broker.transaction_time_out), 0, DAY_MS)),
    key("transactionCheckMax", |s| Slot::Int(Int::I32(&mut s.broker.transaction_check_max), 1, 1_000_000)),
    key("transactionCheckInterval", |s| Slot::Int(Int::I64(&mut s.broker.transaction_check_interval), 1, DAY_MS)),
    key("transactionOpMsgMaxSize", |s| {
        Slot::Int(Int::Usize(&mut s.broker.transaction_op_msg_max_size), 21, 4 * 1024 * 1024)
    }),
    key("startAcceptSendRequestTimeStamp", |s| {
        Slot::Int(Int::I64(&mut s.broker.start_accept_send_request_time_stamp), 0, i64::MAX)
    }),
    key("clientSendRateLimit", |s| Slot::Int(Int::U32(&mut s.broker.client_send_rate_limit), 0, 10_000_000)),
    key("waitTimeMillsInSendQueue", |s| Slot::Int(Int::U64(&mut s.broker.wait_time_mills_in_send_queue), 1, DAY_MS)),
    key("enableBroadcastOffsetStore", |s| Slot::Bool(&mut s.broker.enable_broadcast_offset_store)),
    key("broadcastOffsetExpireSecond", |s| {
        Slot::Int(Int::U64(&mut s.broker.broadcast_offset_expire_second), 1, 7 * 86_400)
    }),
    key("broadcastOffsetExpireMaxSecond", |s| {
        Slot::Int(Int::U64(&mut s.broker.broadcast_offset_expire_max_second), 1, 7 * 86_400)
    }),
    key("coldDataFlowControlEnable", |s| Slot::Bool(&mut s.broker.cold_data_flow_control_enable)),
    key("cgColdReadThreshold", |s| Slot::Int(Int::U64(&mut s.broker.cg_cold_read_threshold), 0, i64::MAX)),
    key("globalColdReadThreshold", |s| Slot::Int(Int::U64(&mut s.broker.global_cold_read_threshold), 0, i64::MAX)),
    key("clientUnflushedLimit", |s| Slot::Int(Int::U64(&mut s.broker.client_unflushed_limit), 0, i64::MAX)),
    key("producerGroupUnflushedLimit", |s| {
        Slot::Int(Int::U64(&mut s.broker.producer_group_unflushed_limit), 0, i64::MAX)
    }),
    key("maxUnflushedBytes", |s| Slot::Int(Int::U64(&mut s.broker.max_unflushed_bytes), 0, i64::MAX)),
    key("storeReplyMessageEnable", |s| Slot::Bool(&mut s.broker.store_reply_message_enable)),
    key("traceOn", |s| Slot::Bool(&mut s.broker.trace_on)),
    key("regionId", |s| Slot::Text(&mut s.broker.region_id)),
    // Pulling.
    key("longPollingEnable", |s| Slot::Bool(&mut s.broker.long_polling_enable)),
    key("shortPollingTimeMills", |s| Slot::Int(Int::U64(&mut s.broker.short_polling_time_mills), 1, DAY_MS)),
    key("litePullMessageEnable", |s| Slot::Bool(&mut s.broker.lite_pull_message_enable)),
    key("enablePropertyFilter", |s| Slot::Bool(&mut s.broker.enable_property_filter)),
    key("maxTransferBytesOnMessageInMemory", |s| {
        Slot::Int(Int::U32(&mut s.store.max_transfer_bytes_on_message_in_memory), 1, 16_000_000)
    }),
    key("maxTransferCountOnMessageInMemory", |s| {
        Slot::Int(Int::U32(&mut s.store.max_transfer_count_on_message_in_memory), 1, 100_000)
    }),
    key("maxMsgsNumBatch", |s| Slot::Int(Int::U32(&mut s.broker.max_msgs_num_batch), 1, 10_000)),
    key("maxTransferBytesOnMessageInDisk", |s| {
        Slot::Int(Int::U32(&mut s.store.max_transfer_bytes_on_message_in_disk), 1, 16_000_000)
    }),
    key("maxTransferCountOnMessageInDisk", |s| {
        Slot::Int(Int::U32(&mut s.store.max_transfer_count_on_message_in_disk), 1, 100_000)
    }),
    key("accessMessageInMemoryMaxRatio", |s| {
        Slot::Int(Int::U32(&mut s.store.access_message_in_memory_max_ratio), 0, 100)
    }),
    key("maxFilterMessageSize", |s| Slot::Int(Int::U32(&mut s.store.max_filter_message_size), 20, 100_000_000)),
    // Popping.
    key("reviveQueueNum", |s| Slot::Int(Int::U32(&mut s.broker.pop.revive_queue_num), 1, 64)),
    key("popPollingSize", |s| Slot::Int(Int::Usize(&mut s.broker.pop.pop_polling_size), 1, 100_000)),
    key("maxPopPollingSize", |s| Slot::Int(Int::Usize(&mut s.broker.pop.max_pop_polling_size), 1, 1_000_000)),
    key("popFromRetryProbability", |s| Slot::Int(Int::U32(&mut s.broker.pop.pop_from_retry_probability), 0, 100)),
    key("popFromRetryProbabilityForPriority", |s| {
        Slot::Int(Int::U32(&mut s.broker.pop.pop_from_retry_probability_for_priority), 0, 100)
    }),
    key("priorityOrderAsc", |s| Slot::Bool(&mut s.broker.pop.priority_order_asc)),
    key("enableRetryTopicV2", |s| Slot::Bool(&mut s.broker.pop.enable_retry_topic_v2)),
    key("retrieveMessageFromPopRetryTopicV1", |s| {
        Slot::Bool(&mut s.broker.pop.retrieve_message_from_pop_retry_topic_v1)
    }),
    key("serverLoadBalancerEnable", |s| Slot::Bool(&mut s.broker.pop.server_load_balancer_enable)),
    key("defaultMessageRequestMode", |s| Slot::Word(&mut s.request_mode, REQUEST_MODES)),
    key("defaultPopShareQueueNum", |s| Slot::Int(Int::I32(&mut s.broker.pop.default_pop_share_queue_num), -1, 100_000)),
    key("popResponseReturnActualRetryTopic", |s| Slot::Bool(&mut s.broker.pop.pop_response_return_actual_retry_topic)),
    key("enablePopMessageThreshold", |s| Slot::Bool(&mut s.broker.pop.enable_pop_message_threshold)),
    key("popInflightMessageThreshold", |s| {
        Slot::Int(Int::U32(&mut s.broker.pop.pop_inflight_message_threshold), 0, i32::MAX as i64)
    }),
    key("initPopOffsetByCheckMsgInMem", |s| Slot::Bool(&mut s.broker.pop.init_pop_offset_by_check_msg_in_mem)),
    // Store.
    important("storePathRootDir", |s| Slot::Path(&mut s.store.root)),
    important("storePathCommitLog", |s| Slot::OptionalPath(&mut s.commit_log)),
    key("mappedFileSizeCommitLog", |s| {
        Slot::Int(Int::U64(&mut s.store.mapped_file_size_commit_log), 65_536, i32::MAX as i64)
    }),
    key("mappedFileSizeConsumeQueue", |s| {
        Slot::Int(Int::U64(&mut s.store.mapped_file_size_consume_queue), 20, i32::MAX as i64)
    }),
    key("mapperFileSizeBatchConsumeQueue", |s| {
        Slot::Int(Int::U64(&mut s.store.mapper_file_size_batch_consume_queue), 46, i32::MAX as i64)
    }),
    key("enableCompaction", |s| Slot::Bool(&mut s.store.enable_compaction)),
    key("compactionMappedFileSize", |s| {
        Slot::Int(Int::U64(&mut s.store.compaction_mapped_file_size), 1, i32::MAX as i64)
    }),
    key("compactionCqMappedFileSize", |s| {
        Slot::Int(Int::U64(&mut s.store.compaction_cq_mapped_file_size), 92, i32::MAX as i64 / 8)
    }),
    key("compactionScheduleInternal", |s| {
        Slot::Int(Int::U64(&mut s.store.compaction_schedule_internal), 100, i32::MAX as i64)
    }),
    key("maxOffsetMapSize", |s| Slot::Int(Int::Usize(&mut s.store.max_offset_map_size), 1, i32::MAX as i64)),
    important("flushDiskType", |s| Slot::Word(&mut s.flush_type, FLUSH_TYPES)),
    important("flushIntervalCommitLog", |s| Slot::Int(Int::U64(&mut s.store.flush_interval_commit_log), 1, 60_000)),
    key("flushIntervalConsumeQueue", |s| Slot::Int(Int::U64(&mut s.store.flush_interval_consume_queue), 1, 600_000)),
    key("syncFlushTimeout", |s| Slot::Int(Int::U64(&mut s.store.sync_flush_timeout), 1, 600_000)),
    important("messageIndexEnable", |s| Slot::Bool(&mut s.store.message_index_enable)),
    key("maxHashSlotNum", |s| Slot::Int(Int::U32(&mut s.store.max_hash_slot_num), 1, 100_000_000)),
    key("maxIndexNum", |s| Slot::Int(Int::U32(&mut s.store.max_index_num), 2, 100_000_000)),
    key("checkCRCOnRecover", |s| Slot::Bool(&mut s.store.check_crc_on_recover)),
    // Retention and space.
    important("fileReservedTime", |s| Slot::Int(Int::U32(&mut s.store.file_reserved_time), 0, i32::MAX as i64)),
    important("deleteWhen", |s| Slot::Text(&mut s.delete_when)),
    important("diskMaxUsedSpaceRatio", |s| Slot::Int(Int::U32(&mut s.store.disk_max_used_space_ratio), 1, 100)),
    key("diskSpaceCleanForciblyRatio", |s| Slot::Int(Int::U32(&mut s.store.disk_space_clean_forcibly_ratio), 1, 100)),
    key("diskSpaceWarningLevelRatio", |s| Slot::Int(Int::U32(&mut s.store.disk_space_warning_level_ratio), 1, 100)),
    key("diskSpaceFloor", |s| Slot::Int(Int::U64(&mut s.store.disk_space_floor), 0, i64::MAX)),
    key("cleanFileForciblyEnable", |s| Slot::Bool(&mut s.store.clean_file_forcibly_enable)),
    key("cleanResourceInterval", |s| Slot::Int(Int::U64(&mut s.store.clean_resource_interval), 1, DAY_MS)),
    key("deleteCommitLogFilesInterval", |s| {
        Slot::Int(Int::U64(&mut s.store.delete_commit_log_files_interval), 0, 60_000)
    }),
    key("deleteFileBatchMax", |s| Slot::Int(Int::U32(&mut s.store.delete_file_batch_max), 1, 10_000)),
    key("enableLmq", |s| Slot::Bool(&mut s.broker.enable_lmq)),
    key("enableMultiDispatch", |s| Slot::Bool(&mut s.multi_dispatch)),
    key("maxLmqConsumeQueueNum", |s| Slot::Int(Int::Usize(&mut s.store.max_lmq_consume_queue_num), 0, 4_000_000)),
    // Lite topics.
    key("maxClientEventCount", |s| {
        Slot::Int(Int::Usize(&mut s.broker.lite.max_client_event_count), 1, i32::MAX as i64)
    }),
    key("maxLiteSubscriptionCount", |s| {
        Slot::Int(Int::Usize(&mut s.broker.lite.max_lite_subscription_count), 0, i32::MAX as i64)
    }),
    key("liteSubscriptionCheckInterval", |s| {
        Slot::Int(Int::U64(&mut s.broker.lite.lite_subscription_check_interval), 1, DAY_MS)
    }),
    key("liteSubscriptionCheckTimeoutMills", |s| {
        Slot::Int(Int::U64(&mut s.broker.lite.lite_subscription_check_timeout_mills), 1, DAY_MS)
    }),
    key("liteTtlCheckInterval", |s| Slot::Int(Int::U64(&mut s.broker.lite.lite_ttl_check_interval), 1, DAY_MS)),
    key("minLiteTTl", |s| Slot::Int(Int::U64(&mut s.broker.lite.min_lite_ttl), 0, i64::MAX)),
    key("messageDelayLevel", |s| Slot::Text(&mut s.store.message_delay_level)),
    // Delayed delivery.
    important("timerWheelEnable", |s| Slot::Bool(&mut s.broker.timer_wheel_enable)),
    key("enableMixedMessageType", |s| Slot::Bool(&mut s.broker.enable_mixed_message_type)),
    key("recallMessageEnable", |s| Slot::Bool(&mut s.broker.recall_message_enable)),
    key("allowRecallWhenBrokerNotWriteable", |s| Slot::Bool(&mut s.broker.allow_recall_when_broker_not_writeable)),
    key("timerMaxDelaySec", |s| Slot::Int(Int::U32(&mut s.broker.timer_max_delay_sec), 1, i32::MAX as i64)),
    key("timerPrecisionMs", |s| Slot::Int(Int::U32(&mut s.broker.timer_precision_ms), 1, 60_000)),
    key("timerRollWindowSlot", |s| Slot::Int(Int::U32(&mut s.broker.timer_roll_window_slot), 2, i32::MAX as i64)),
    // Offsets.
    key("flushConsumerOffsetInterval", |s| {
        Slot::Int(Int::U64(&mut s.broker.flush_consumer_offset_interval), 10, DAY_MS)
    }),
    key("useServerSideResetOffset", |s| Slot::Bool(&mut s.broker.use_server_side_reset_offset)),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<(BrokerSettings, Remarks), SettingsError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("broker.conf");
        std::fs::write(&path, text).unwrap();
        let mut settings = BrokerSettings::new();
        let remarks = settings.read(Some(&path))?;
        Ok((settings, remarks))
    }

    #[test]
    fn the_shipped_broker_conf_is_read_without_a_warning() {
        let shipped = include_str!("../../../../conf/broker.conf");
        let (settings, remarks) = read(shipped).unwrap();
        assert_eq!(settings.broker.broker_name, "broker-a");
        assert!(remarks.warnings.is_empty(), "{:?}", remarks.warnings);
    }

    #[test]
    fn every_key_of_the_table_is_one_of_rocketmq_or_said_to_be_ours() {
        let ours = [
            "clientSendRateLimit",
            "clientUnflushedLimit",
            "producerGroupUnflushedLimit",
            "maxUnflushedBytes",
            "reactors",
            "maxConnections",
            "diskSpaceFloor",
        ];
        for key in KEYS {
            let known = super::super::known(Server::Broker).any(|(name, _)| name == key.name);
            assert!(known != ours.contains(&key.name), "{}", key.name);
        }
    }

    #[test]
    fn promises_that_cannot_be_kept_are_refused_and_weak_ones_warned_of() {
        let error = read("brokerRole=SLAVE\nbrokerId=1\n").unwrap_err().to_string();
        assert!(error.starts_with("brokerRole=SLAVE cannot be served"), "{error}");
        assert!(read("aclEnable= TRUE ").is_err() && read("aclEnable=false").is_ok());
        let (_, remarks) = read("brokerRole=SYNC_MASTER").unwrap();
        assert!(remarks.warnings[0].contains("promises no copy"), "{:?}", remarks.warnings);
    }

    #[test]
    fn a_bad_value_stops_with_file_and_line() {
        let error = read("\nlistenPort=abc").unwrap_err().to_string();
        assert!(error.contains("broker.conf: listenPort=abc is not allowed (line 2)"), "{error}");
    }

    #[test]
    fn settings_of_broker_and_store_agree() {
        let (settings, _) =
            read("maxMessageSize=100\nflushDiskType=SYNC_FLUSH\nmappedFileSizeConsumeQueue=1001\nbrokerId=7\n")
                .unwrap();
        assert_eq!((settings.store.max_message_size, settings.store.max_message_size), (100, 100));
        assert_eq!(settings.store.flush_disk_type, FlushMode::Sync);
        assert_eq!((settings.store.mapped_file_size_consume_queue, settings.broker.broker_id), (1020, 0));
        assert!(read("storePathRootDir=/s\nstorePathCommitLog=/s/commitlog").is_ok());
        let error = read("storePathRootDir=/s\nstorePathCommitLog=/other").unwrap_err().to_string();
        assert!(error.contains("/s/commitlog"), "{error}");
    }

    #[test]
    fn hours_of_deletion_are_a_list() {
        let hours = |text: &str| read(&format!("deleteWhen={text}")).map(|(settings, _)| settings.store.delete_when);
        assert_eq!(hours("04").unwrap(), [4]);
        assert_eq!(hours("0; 12;23").unwrap(), [0, 12, 23]);
        assert!(hours("").unwrap().is_empty());
        for bad in ["24", "noon", "4,5", "-1"] {
            assert!(hours(bad).unwrap_err().to_string().starts_with(&format!("deleteWhen={bad} is not allowed")));
        }
        let (settings, _) = read("fileReservedTime=48\ndiskMaxUsedSpaceRatio=60\ndeleteFileBatchMax=3").unwrap();
        let store = settings.store;
        assert_eq!(
            (store.file_reserved_time, store.disk_max_used_space_ratio, store.delete_file_batch_max),
            (48, 60, 3)
        );
    }

    #[test]
    fn a_host_name_becomes_an_address() {
        assert_eq!(read("brokerIP1=localhost").unwrap().0.broker.broker_ip1, "127.0.0.1");
        assert_eq!(read("brokerIP1=10.1.2.3").unwrap().0.broker.broker_ip1, "10.1.2.3");
        assert!(read("brokerIP1=no such host").is_err());
    }

    #[test]
    fn printing_shows_values_of_the_file() {
        let (mut settings, _) = read("brokerName=here\ntimerMaxDelaySec=7\n").unwrap();
        let all = settings.lines(false);
        for expected in ["brokerName=here", "timerMaxDelaySec=7", "reviveQueueNum=8", "brokerRole=ASYNC_MASTER"] {
            assert!(all.iter().any(|line| line == expected), "{expected}");
        }
        let important = settings.lines(true);
        assert!(important.contains(&"brokerName=here".to_owned()) && important.len() < 40);
    }
}
