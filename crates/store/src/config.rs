//! Settings of the store, by RocketMQ's names in snake case (`MessageStoreConfig`), defaults of 5.5.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use crate::error::OpenError;
use crate::faults::Faults;
use crate::queue::Kind;

/// Smallest commit log file, bytes.
const MIN_LOG_FILE: u64 = 4096;

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
    /// Bytes of one batch consume queue file, a multiple of 46 (`mapperFileSizeBatchConsumeQueue`).
    pub mapper_file_size_batch_consume_queue: u64,
    /// Topics with `queue.type=BatchCQ`. Those that have files of this kind are known by them.
    pub batch_topics: HashSet<String>,
    /// Topics with `cleanup.policy=COMPACTION`.
    pub compacted_topics: HashSet<String>,
    /// Whether these are compacted; without it they are like others (`enableCompaction`).
    pub enable_compaction: bool,
    /// Bytes of one file of records of a compacted queue, about (`compactionMappedFileSize`).
    pub compaction_mapped_file_size: u64,
    /// Bytes of one file of entries of a compacted queue, about (`compactionCqMappedFileSize`).
    pub compaction_cq_mapped_file_size: u64,
    /// How often queues are compacted, milliseconds (`compactionScheduleInternal`).
    pub compaction_schedule_internal: u64,
    /// Bytes of memory that the keys of one pass may take (`maxOffsetMapSize`).
    pub max_offset_map_size: usize,
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
    /// Age from which a log file may be deleted, hours since its last write (`fileReservedTime`).
    pub file_reserved_time: u32,
    /// Hours of the day, local time, at which files that are old enough are deleted (`deleteWhen`).
    pub delete_when: Vec<u32>,
    /// Percent of the volume in use above which files that are old enough are deleted at any hour
    /// (`diskMaxUsedSpaceRatio`).
    pub disk_max_used_space_ratio: u32,
    /// Percent of the volume in use above which files are deleted whatever their age, when little is free besides
    /// (`diskSpaceCleanForciblyRatio`).
    pub disk_space_clean_forcibly_ratio: u32,
    /// Percent of the volume in use above which writes are refused when less than `disk_space_floor` is free
    /// (`diskSpaceWarningLevelRatio`).
    pub disk_space_warning_level_ratio: u32,
    /// Free bytes above which no write is refused, and twice of which no file is deleted before its time: a large, well
    /// filled disk is no emergency (`diskSpaceFloor`, ours).
    pub disk_space_floor: u64,
    /// Whether files may be deleted before their time when space is short (`cleanFileForciblyEnable`).
    pub clean_file_forcibly_enable: bool,
    /// How often files are looked at, milliseconds (`cleanResourceInterval`).
    pub clean_resource_interval: u64,
    /// Pause between two deletions of log files, milliseconds (`deleteCommitLogFilesInterval`).
    pub delete_commit_log_files_interval: u64,
    /// Most log files deleted in one look (`deleteFileBatchMax`).
    pub delete_file_batch_max: u32,
    /// Whether messages may stand in further, light queues (`enableLmq` and `enableMultiDispatch`). What the log says of
    /// them is followed in any case.
    pub multi_dispatch: bool,
    /// Most light queues (`maxLmqConsumeQueueNum`).
    pub max_lmq_consume_queue_num: usize,
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
            mapper_file_size_batch_consume_queue: 13_800_000,
            batch_topics: HashSet::new(),
            compacted_topics: HashSet::new(),
            enable_compaction: true,
            compaction_mapped_file_size: 100 * 1024 * 1024,
            compaction_cq_mapped_file_size: 10 * 1024 * 1024,
            compaction_schedule_internal: 900_000,
            max_offset_map_size: 100 * 1024 * 1024,
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
            file_reserved_time: 72,
            delete_when: vec![4],
            disk_max_used_space_ratio: 75,
            disk_space_clean_forcibly_ratio: 85,
            disk_space_warning_level_ratio: 90,
            disk_space_floor: 2 * 1024 * 1024 * 1024,
            clean_file_forcibly_enable: true,
            clean_resource_interval: 10_000,
            delete_commit_log_files_interval: 100,
            delete_file_batch_max: 10,
            multi_dispatch: false,
            max_lmq_consume_queue_num: 20_000,
            message_delay_level: "1s 5s 10s 30s 1m 2m 3m 4m 5m 6m 7m 8m 9m 10m 20m 30m 1h 2h".into(),
            faults: None,
        }
    }
}

impl StoreConfig {
    /// Refuses what makes no sense.
    pub(crate) fn check(&self) -> Result<(), OpenError> {
        let setting = |text: &str| Err(OpenError::Setting(text.to_owned()));
        if self.mapped_file_size_commit_log < MIN_LOG_FILE {
            return setting("mappedFileSizeCommitLog must be at least 4096 bytes");
        }
        for kind in Kind::ALL {
            let (size, unit, key) = (self.queue_file_size(kind), kind.unit(), kind.file_size_key());
            if size == 0 || !size.is_multiple_of(unit as u64) {
                return setting(&format!("{key} must be a multiple of {unit} bytes"));
            }
        }
        if self.max_hash_slot_num == 0 || self.max_index_num < 2 {
            return setting("maxHashSlotNum must be at least 1 and maxIndexNum at least 2");
        }
        Ok(())
    }

    /// Bytes of one file of the queues of a kind.
    pub(crate) fn queue_file_size(&self, kind: Kind) -> u64 {
        match kind {
            Kind::Simple => self.mapped_file_size_consume_queue,
            Kind::Batch => self.mapper_file_size_batch_consume_queue,
        }
    }

    /// Distance from the end of the log within which data counts as recent, bytes.
    pub(crate) fn recent_bytes(&self) -> u64 {
        let info = rustix::system::sysinfo();
        let memory = info.totalram.saturating_mul(u64::from(info.mem_unit));
        memory / 100 * u64::from(self.access_message_in_memory_max_ratio)
    }

    /// Delays of the levels, milliseconds. What is no delay counts as none.
    pub fn delays(&self) -> Vec<i64> {
        let delay = |word: &str| {
            let (number, unit) = word.split_at_checked(word.len().checked_sub(1)?)?;
            let unit = match unit {
                "s" => 1000,
                "m" => 60_000,
                "h" => 3_600_000,
                "d" => 86_400_000,
                _ => return None,
            };
            number.parse::<i64>().ok()?.checked_mul(unit)
        };
        self.message_delay_level.split_whitespace().map(|word| delay(word).unwrap_or(0)).collect()
    }
}
