//! Reads a stopped store, ours or a Java broker's, and says whether a broker can take it over: the log record by record,
//! consume queues, key index and compacted copies against it, the checkpoint, and the tables of `config` against the queues.
//!
//! Nothing is written, and nothing is taken for granted: sizes are those of the files, every record's CRC is checked. It
//! holds a shared lock meanwhile, so that no broker starts. Memory is bounded by the number of queues, not of messages.

mod copies;
mod index;
mod layout;
mod log;
mod pieces;
mod queues;
mod rebuild;
mod report;
mod tables;

use std::io;
use std::path::Path;

use ferromq_protocol::record::Record;
use ferromq_protocol::sys_flag::message as flags;
use ferromq_protocol::topic;

pub(crate) use layout::rocksdb_folder;
pub use rebuild::rebuild_store;
pub use report::{Finding, Findings, Kind, Report, Severity};

use crate::append;
use crate::checkpoint::{Checkpoint, Loaded};
use crate::config::StoreConfig;
use crate::error::OpenError;
use crate::index::{self as key_index, Shape};
use crate::instance::Instance;
use crate::labels::Labels;
use crate::lmq;
use crate::queue::Kind::{Batch, Simple};
use copies::Copies;
use index::IndexCheck;
use layout::LogFiles;
use log::Event;
use queues::{Context, Expected, Queues};
use tables::Tables;

/// How far a check is.
#[derive(Clone, Copy, Debug)]
pub struct CheckProgress {
    /// Bytes of log that were read.
    pub done: u64,
    /// Bytes of all log files.
    pub all: u64,
}

/// Checks the store of `config`. `is_configured`: sizes come from a configuration file and must be those of the files;
/// else the files tell their sizes.
pub fn check_store(
    config: &StoreConfig,
    is_configured: bool,
    progress: &mut dyn FnMut(CheckProgress),
) -> Result<Report, OpenError> {
    let root = &config.root;
    let _lock = Instance::watch(root)?;
    if !root.join("commitlog").is_dir() && !root.join("config").is_dir() {
        return Err(OpenError::NoStore { root: root.clone() });
    }
    let fail = || OpenError::io("read", root);
    let mut report = Report { root: root.clone(), ..Report::default() };
    let findings = &mut report.findings;
    layout::tell_rocksdb(root, findings).map_err(fail())?;
    let log = LogFiles::find(&root.join("commitlog"), findings)?;
    if is_configured && !log.files.is_empty() && log.file_size != config.mapped_file_size_commit_log {
        findings.add(Kind::LogSetting, || {
            format!("the files have {} bytes, the setting is {}", log.file_size, config.mapped_file_size_commit_log)
        });
    }
    let tables = Tables::load(root, findings);
    report.groups = tables.groups;
    if findings.worst() == Some(Severity::Unusable) {
        return Ok(report);
    }
    layout::tell_unchecked(root, findings).map_err(fail())?;
    let loaded = Checkpoint::peek(root).map_err(fail())?;
    let was_killed = root.join("abort").exists();
    if was_killed {
        findings.add(Kind::NotStopped, || root.join("abort").display().to_string());
    }
    let queue_size = |kind| is_configured.then_some(config.queue_file_size(kind));
    let queues = Queues::find(root, queue_size, tables.batch_topics.clone(), log.start(), findings).map_err(fail())?;
    let index = match config.message_index_enable {
        true => {
            let shape = Shape { slots: config.max_hash_slot_num, entries: config.max_index_num };
            Some(IndexCheck::find(&root.join("index"), shape, log.start(), was_killed, findings).map_err(fail())?)
        }
        false => None,
    };
    let copies = Copies::find(config, &tables, findings).map_err(fail())?;
    let hashes = Vec::new();
    let mut check = Check { report, queues, index, copies, hashes, log_bytes: log.bytes() };
    check.read_log(&log, loaded.as_ref(), progress).map_err(fail())?;
    check.finish(config, &log, &tables, loaded.as_ref(), was_killed);
    if !is_configured {
        check.tell_settings();
    }
    Ok(check.report)
}

/// A check under way.
struct Check {
    report: Report,
    queues: Queues,
    /// `None` when keys are not indexed.
    index: Option<IndexCheck>,
    copies: Copies,
    /// Hashes of one record's keys.
    hashes: Vec<u32>,
    log_bytes: u64,
}

impl Check {
    fn read_log(
        &mut self,
        log: &LogFiles,
        loaded: Option<&Loaded>,
        progress: &mut dyn FnMut(CheckProgress),
    ) -> io::Result<()> {
        let certain = loaded.and_then(|loaded| loaded.built).map_or(0, |built| built.position);
        self.report.log_start = log.start();
        log::scan(log, certain, &mut |event| match event {
            Event::Record(record) => self.record(&record),
            Event::Damage { path, position, bytes, why } => {
                self.report.findings.add(Kind::RecordDamaged, || place(path, position, bytes, &why));
            }
            Event::Unreadable { path, position, error } => {
                self.report.findings.add(Kind::LogUnreadable, || place(path, position, 0, &error.to_string()));
            }
            Event::EndForBrokers { position } => {
                self.report
                    .findings
                    .add(Kind::RecordsBehindDamage, || format!("a start would cut the log at {position}"));
            }
            Event::End { position, bytes } => {
                self.report.log_end = position;
                if bytes > 0 {
                    self.report.findings.add(Kind::TornEnd, || format!("{bytes} bytes at {position}"));
                }
            }
            Event::Progress { position } => {
                progress(CheckProgress { done: position - log.start(), all: self.log_bytes });
            }
        })
    }

    fn record(&mut self, record: &Record<'_>) {
        let report = &mut self.report;
        report.records += 1;
        if report.records == 1 {
            report.first_timestamp = record.store_timestamp();
        }
        report.last_timestamp = record.store_timestamp();
        let name = std::str::from_utf8(record.topic()).ok().filter(|name| append::is_folder_name(name));
        let (Some(name), Ok(id)) = (name, u32::try_from(record.queue_id())) else {
            let position = record.physical_offset();
            report
                .findings
                .add(Kind::RecordDamaged, || format!("the record at {position} has no valid topic and queue"));
            return;
        };
        let labels = Labels::of(record.properties());
        self.keys(name, record, &labels);
        if !append::is_in_queue(record.sys_flag()) {
            return;
        }
        let expected = Expected {
            offset: record.queue_offset(),
            messages: append::messages_in(record),
            position: record.physical_offset() as u64,
            size: record.bytes().len() as i32,
            // There it is the time of delivery, which the delay levels of the broker that wrote it decide.
            tags_code: (name != topic::SCHEDULE).then(|| append::tags_code(labels.tags)),
            timestamp: record.store_timestamp(),
        };
        self.queues.record(name, id, &expected);
        self.copies.record(name, id, record);
        let lights = if labels.fans_out { lmq::stored(record) } else { Vec::new() };
        for (light, offset) in lights {
            self.queues.record(light, lmq::QUEUE_ID, &Expected { offset, messages: 1, ..expected });
        }
    }

    fn keys(&mut self, topic: &str, record: &Record<'_>, labels: &Labels<'_>) {
        let Some(index) = &mut self.index else { return };
        if flags::transaction_value(record.sys_flag()) == flags::TRANSACTION_ROLLBACK {
            return;
        }
        let prefix = key_index::key_prefix(topic);
        self.hashes.clear();
        key_index::push_hashes(prefix, labels.uniq_key, labels.keys, &mut self.hashes);
        let keys = self.hashes.len();
        // RocketMQ 5.5 files the tag as well, under a text of its own.
        let tag = labels.tags.map(|tag| [b"T#", tag].concat());
        key_index::push_hashes(prefix, tag.as_deref(), None, &mut self.hashes);
        let (keys, tag) = self.hashes.split_at(keys);
        let position = record.physical_offset() as u64;
        index.record(position, record.store_timestamp(), keys, tag.first().copied(), &mut self.report.findings);
    }

    fn finish(
        &mut self,
        config: &StoreConfig,
        log: &LogFiles,
        tables: &Tables,
        loaded: Option<&Loaded>,
        was_killed: bool,
    ) {
        let report = &mut self.report;
        let is_read_again = |position: u64, timestamp: i64| match loaded {
            Some(Loaded { built: Some(built), .. }) => position >= built.position,
            Some(Loaded { times, .. }) => timestamp > times.recover_from(),
            None => true,
        };
        let context = Context {
            log_end: report.log_end,
            was_killed,
            is_read_again: &is_read_again,
            is_topic: &|name| tables.is_topic(name),
        };
        self.queues.finish(&context, &mut report.findings);
        if let Some(index) = &mut self.index {
            index.finish(report.log_end, &is_read_again, &mut report.findings);
            (report.index_files, report.index_entries) = (index.files, index.entries);
        }
        tables.compare(&self.queues, &self.copies, &mut report.findings);
        tell_checkpoint(&config.root, loaded, report);
        report.log_file_bytes = log.file_size;
        [report.queue_file_bytes, report.batch_queue_file_bytes] = self.queues.file_sizes;
        report.queues = self.queues.count() as u64;
        report.plan = self.queues.plan(&|name| tables.is_topic(name));
        report.plan.compacted_topics.clone_from(&tables.compacted_topics);
        report.plan.compacted_topics.extend(self.copies.topics().cloned());
        report.plan.repairs = self.copies.finish(&self.queues, was_killed, &mut report.findings);
        (report.copies, report.copied_messages) = self.copies.count();
        report.topics = self.queues.topics().count() as u64;
    }

    /// Sizes that the next broker must be told.
    fn tell_settings(&mut self) {
        let usual = StoreConfig::default();
        let report = &mut self.report;
        let sizes = [
            ("mappedFileSizeCommitLog", report.log_file_bytes, usual.mapped_file_size_commit_log),
            (Simple.file_size_key(), report.queue_file_bytes, usual.queue_file_size(Simple)),
            (Batch.file_size_key(), report.batch_queue_file_bytes, usual.queue_file_size(Batch)),
        ];
        for (name, size, _) in sizes.into_iter().filter(|(_, size, usual)| *size != 0 && size != usual) {
            report.findings.add(Kind::SettingNeeded, || format!("{name}={size}"));
        }
    }
}

fn place(path: &Path, position: u64, bytes: u64, why: &str) -> String {
    format!("{} at {position}, {bytes} bytes: {why}", path.display())
}

/// What the checkpoint says of the log.
fn tell_checkpoint(root: &Path, loaded: Option<&Loaded>, report: &mut Report) {
    let path = root.join("checkpoint");
    let Some(loaded) = loaded else {
        let kind = if path.exists() { Kind::Checkpoint } else { Kind::NoCheckpoint };
        report.findings.add(kind, || path.display().to_string());
        return;
    };
    let (end, last) = (report.log_end, report.last_timestamp);
    if let Some(durable) = loaded.durable.filter(|durable| durable.position > end) {
        report
            .findings
            .add(Kind::LogShorterThanKnown, || format!("{} were on the disk, {end} are there", durable.position));
    } else if loaded.times.physic > last {
        let known = loaded.times.physic;
        report.findings.add(Kind::LogShorterThanKnown, || {
            format!("a record stored at {known} (ms) was on the disk, the last one there is of {last}")
        });
    } else if loaded.times.physic == 0 && report.records > 0 {
        report.findings.add(Kind::NoCheckpoint, || format!("{} says nothing", path.display()));
    }
}
