//! Settings of the store, by RocketMQ's names in snake case (`MessageStoreConfig`), defaults of 5.5.

use std::path::PathBuf;
use std::sync::Arc;

use crate::faults::Faults;

/// When messages are forced to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlushMode {
    /// ASYNC_FLUSH: a message is acknowledged when the kernel has it; the disk follows within the flush interval.
    Async,
    /// SYNC_FLUSH: a message is acknowledged, and shown to consumers, when it is on the disk.
    Sync,
}

/// Settings of one store.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Folder of all files (`storePathRootDir`).
    pub root: PathBuf,
    /// Bytes of one commit log file (`mappedFileSizeCommitLog`).
    pub mapped_file_size_commit_log: u64,
    /// Bytes of one consume queue file, a multiple of 20 (`mappedFileSizeConsumeQueue`).
    pub mapped_file_size_consume_queue: u64,
    /// `flushDiskType`.
    pub flush_disk_type: FlushMode,
    /// Longest time an ASYNC_FLUSH message is not on the disk, milliseconds (`flushIntervalCommitLog`).
    pub flush_interval_commit_log: u64,
    /// How long a SYNC_FLUSH send waits for the disk, milliseconds (`syncFlushTimeout`).
    pub sync_flush_timeout: u64,
    /// How often consume queues are written to their files, milliseconds (`flushIntervalConsumeQueue`).
    pub flush_interval_consume_queue: u64,
    /// How often consume queues and index are forced to the disk, milliseconds. A restart after a power cut reads the
    /// log from there on.
    pub durable_checkpoint_interval: u64,
    /// Largest body, bytes (`maxMessageSize`).
    pub max_message_size: usize,
    /// Whether keys are indexed (`messageIndexEnable`).
    pub message_index_enable: bool,
    /// Hash slots of one index file (`maxHashSlotNum`).
    pub max_hash_slot_num: u32,
    /// Entries of one index file (`maxIndexNum`).
    pub max_index_num: u32,
    /// Whether recovery checks the CRC of bodies (`checkCRCOnRecover`).
    pub check_crc_on_recover: bool,
    /// Bytes of one answer, recent data (`maxTransferBytesOnMessageInMemory`).
    pub max_transfer_bytes_on_message_in_memory: u32,
    /// Messages of one answer, recent data (`maxTransferCountOnMessageInMemory`).
    pub max_transfer_count_on_message_in_memory: u32,
    /// Bytes of one answer, old data (`maxTransferBytesOnMessageInDisk`).
    pub max_transfer_bytes_on_message_in_disk: u32,
    /// Messages of one answer, old data (`maxTransferCountOnMessageInDisk`).
    pub max_transfer_count_on_message_in_disk: u32,
    /// Percent of the machine's memory within which data counts as recent (`accessMessageInMemoryMaxRatio`).
    pub access_message_in_memory_max_ratio: u32,
    /// Bytes of consume queue one read looks at, at least (`maxFilterMessageSize`).
    pub max_filter_message_size: u32,
    /// Percent of the volume in use above which writes are refused when less than `disk_space_floor` is free
    /// (`diskSpaceWarningLevelRatio`).
    pub disk_space_warning_level_ratio: u32,
    /// Free bytes above which the ratio does not matter: a large, well filled disk is no emergency.
    pub disk_space_floor: u64,
    /// Delay levels (`messageDelayLevel`).
    pub message_delay_level: String,
    /// Makes operations fail, and records them; for tests only.
    #[doc(hidden)]
    pub faults: Option<Arc<Faults>>,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            root: PathBuf::from("store"),
            mapped_file_size_commit_log: 1024 * 1024 * 1024,
            mapped_file_size_consume_queue: 6_000_000,
            flush_disk_type: FlushMode::Async,
            flush_interval_commit_log: 500,
            sync_flush_timeout: 5000,
            flush_interval_consume_queue: 1000,
            durable_checkpoint_interval: 10_000,
            max_message_size: 4 * 1024 * 1024,
            message_index_enable: true,
            max_hash_slot_num: 5_000_000,
            max_index_num: 20_000_000,
            check_crc_on_recover: true,
            max_transfer_bytes_on_message_in_memory: 256 * 1024,
            max_transfer_count_on_message_in_memory: 32,
            max_transfer_bytes_on_message_in_disk: 64 * 1024,
            max_transfer_count_on_message_in_disk: 8,
            access_message_in_memory_max_ratio: 40,
            max_filter_message_size: 16_000,
            disk_space_warning_level_ratio: 90,
            disk_space_floor: 2 * 1024 * 1024 * 1024,
            message_delay_level: "1s 5s 10s 30s 1m 2m 3m 4m 5m 6m 7m 8m 9m 10m 20m 30m 1h 2h".into(),
            faults: None,
        }
    }
}
