//! What a check found: kinds of findings, how often each occurred, and a few places of each.
//!
//! A finding's kind decides its severity and carries the advice, so that the same trouble always reads the same. Counts
//! are exact; examples are bounded. Nothing here reads a file.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::rebuild::Plan;

/// Most places told for one kind of finding.
pub const MAX_EXAMPLES: usize = 5;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing; a broker copes with it by itself.
    Note,
    /// Messages, or the ways to them, are lost or wrong.
    Damage,
    /// A broker cannot use the store as it is.
    Unusable,
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    RocksDb,
    LogFileSize,
    LogGap,
    LogSetting,
    TableUnreadable,
    RecordDamaged,
    LogUnreadable,
    RecordsBehindDamage,
    LogShorterThanKnown,
    QueueFile,
    QueueUnreadable,
    EntryMissing,
    EntryWrong,
    EntryStray,
    EntryBeyondEnd,
    OffsetTwice,
    OffsetGap,
    CopyUnreadable,
    CopyFile,
    CopyRecord,
    CopyEntry,
    CopyMissing,
    CopyDiffers,
    IndexFile,
    IndexMissing,
    IndexWrong,
    NoIndex,
    Checkpoint,
    TableFromCopy,
    TableLost,
    NoTopicTable,
    ConsumerOffset,
    DelayOffset,
    NotStopped,
    TornEnd,
    QueuesBehind,
    EntriesAhead,
    CopyTorn,
    CopyPass,
    CopyPosition,
    CopyUnused,
    IndexBehind,
    TopicUnknown,
    NoCheckpoint,
    NotChecked,
    SettingNeeded,
}

/// Name, severity, meaning and advice of a kind.
type Text = (&'static str, Severity, &'static str, &'static str);

impl Kind {
    /// All there is to say of a kind, on one page.
    fn text(self) -> Text {
        use Severity::{Damage, Note, Unusable};
        const REBUILD: &str = "--rebuild builds queues and index again from the log";
        const COPY: &str =
            "--rebuild makes entries of the records, and copies again what the log still has; the rest is lost";
        const LOST: &str = "these bytes are lost unless a copy of the file has them; a broker passes over them";
        match self {
            Self::RocksDb => (
                "rocksdb",
                Unusable,
                "a RocksDB database holds data that only the Java broker reads",
                "docs/migration.md has the way out: settings by mqadmin rocksDBConfigToJson, queues by --rebuild once the folder is moved away",
            ),
            Self::LogFileSize => (
                "log-file-size",
                Unusable,
                "a commit log file has another size than the others",
                "bring the file back from a copy, or move it away and lose its messages",
            ),
            Self::LogGap => (
                "log-gap",
                Unusable,
                "a commit log file is missing between others",
                "bring it back, or move the files before the gap away to go on without their messages",
            ),
            Self::LogSetting => (
                "log-setting",
                Unusable,
                "the commit log was written with another mappedFileSizeCommitLog",
                "set mappedFileSizeCommitLog to the size of the files",
            ),
            Self::TableUnreadable => (
                "table-unreadable",
                Unusable,
                "neither a table that a broker needs nor its copy can be read",
                "repair one of the two, or move both away to start without; groups without offsets begin where their clients say, until mqadmin resetOffsetByTime sets them back",
            ),
            Self::RecordDamaged => ("record-damaged", Damage, "bytes in the commit log are no sound record", LOST),
            Self::LogUnreadable => ("log-unreadable", Damage, "the disk does not give a part of the commit log", LOST),
            Self::RecordsBehindDamage => (
                "records-behind-damage",
                Damage,
                "sound records follow a damaged place in the last log file, where a broker takes the log to end",
                "--rebuild keeps them; a broker that is started before cuts them off",
            ),
            Self::LogShorterThanKnown => (
                "log-shorter-than-known",
                Damage,
                "the commit log ends before a position or time that was on the disk",
                "log files are missing at the end: bring them back before anything is appended",
            ),
            Self::QueueFile => {
                ("queue-file", Damage, "a consume queue file has a wrong size, or one before it is missing", REBUILD)
            }
            Self::QueueUnreadable => {
                ("queue-unreadable", Damage, "the disk does not give a consume queue file", REBUILD)
            }
            Self::EntryMissing => (
                "entry-missing",
                Damage,
                "a record has no entry in its consume queue: consumers do not see it",
                REBUILD,
            ),
            Self::EntryWrong => {
                ("entry-wrong", Damage, "a consume queue entry does not describe the record of its offset", REBUILD)
            }
            Self::EntryStray => {
                ("entry-stray", Damage, "a consume queue entry leads to no record of its offset", REBUILD)
            }
            Self::EntryBeyondEnd => (
                "entry-beyond-end",
                Damage,
                "consume queue entries lead behind the end of the log",
                "log files may be missing at the end: bring them back; else --rebuild drops the entries",
            ),
            Self::OffsetTwice => (
                "offset-twice",
                Damage,
                "records have a queue offset that an earlier record has: consumers see only one of them",
                "nothing restores them in place; they can be read by their position and sent again",
            ),
            Self::OffsetGap => (
                "offset-gap",
                Damage,
                "queue offsets between two records belong to no record",
                "the records that had them are lost; consumers pass over the gap",
            ),
            Self::CopyUnreadable => {
                ("copy-unreadable", Damage, "the disk does not give a part of a compacted queue", COPY)
            }
            Self::CopyFile => (
                "copy-file",
                Damage,
                "a file of a compacted queue has a wrong size, or the other one of its pair is missing",
                COPY,
            ),
            Self::CopyRecord => ("copy-record", Damage, "a record of a compacted queue is not sound", COPY),
            Self::CopyEntry => {
                ("copy-entry", Damage, "an entry of a compacted queue does not describe its record", COPY)
            }
            Self::CopyMissing => (
                "copy-missing",
                Damage,
                "the newest message of a key is in the log, but not in the compacted queue that consumers read",
                COPY,
            ),
            Self::CopyDiffers => {
                ("copy-differs", Damage, "a message of a compacted queue is another one in the log", COPY)
            }
            Self::CopyTorn => {
                ("copy-torn", Note, "the end of a compacted queue is not as the log says; a start copies it again", "")
            }
            Self::CopyPass => {
                ("copy-pass", Note, "a pass of compaction was interrupted; a start completes or forgets it", "")
            }
            Self::CopyPosition => (
                "copy-position",
                Note,
                "how far compaction came cannot be read, or is further than its copy goes; passes look at more messages again",
                "",
            ),
            Self::CopyUnused => {
                ("copy-unused", Note, "there are copies of a topic that is deleted, or not compacted any more", "")
            }
            Self::IndexFile => ("index-file", Damage, "an index file contradicts itself", REBUILD),
            Self::IndexMissing => (
                "index-missing",
                Damage,
                "keys of records are not in the key index: queries by key do not find them",
                REBUILD,
            ),
            Self::IndexWrong => ("index-wrong", Damage, "index entries fit no key of the record they lead to", REBUILD),
            Self::NoIndex => (
                "no-index",
                Damage,
                "there is no key index: queries by key find nothing",
                "--rebuild makes one; with messageIndexEnable=false in the file given with -c this is as it should be",
            ),
            Self::Checkpoint => (
                "checkpoint",
                Damage,
                "the checkpoint file is damaged",
                "a broker then reads all of the log at its start; --rebuild writes a new one",
            ),
            Self::TableFromCopy => (
                "table-from-copy",
                Damage,
                "a table of the config folder cannot be read, its older copy can",
                "a broker uses the copy; what changed after the copy was made is lost",
            ),
            Self::TableLost => (
                "table-lost",
                Damage,
                "a table of the config folder and its copy are damaged: a broker sets both aside and begins it anew",
                "bring one of the two back to keep what it says",
            ),
            Self::NoTopicTable => (
                "no-topic-table",
                Damage,
                "config/topics.json is missing: a broker makes the topics in the log again, with default settings",
                "bring the file back to keep their settings, or set them again",
            ),
            Self::ConsumerOffset => (
                "consumer-offset",
                Damage,
                "a group's committed offset lies behind the end of its queue: it would miss messages to come",
                "reset the group's offset, or bring back the log files that are missing",
            ),
            Self::DelayOffset => (
                "delay-offset",
                Damage,
                "the offset of a delay level lies behind the end of its queue: delayed messages to come would be missed",
                "bring back the log files that are missing, or correct config/delayOffset.json",
            ),
            Self::NotStopped => {
                ("not-stopped", Note, "the last broker did not stop in order; the next start recovers", "")
            }
            Self::TornEnd => (
                "torn-end",
                Note,
                "behind the last record stand bytes of a write that did not end, or of an earlier use; a start cuts them off",
                "",
            ),
            Self::QueuesBehind => {
                ("queues-behind", Note, "the last records are not in their consume queues yet; a start adds them", "")
            }
            Self::EntriesAhead => (
                "entries-ahead",
                Note,
                "entries of consume queues or index belong to records that did not reach the log; a start cuts them off",
                "",
            ),
            Self::IndexBehind => {
                ("index-behind", Note, "the last keys are not in the index yet; a start adds them", "")
            }
            Self::TopicUnknown => (
                "topic-unknown",
                Note,
                "messages or offsets belong to a topic that config/topics.json does not have: it was deleted, or has to be created again to be read",
                "",
            ),
            Self::NoCheckpoint => {
                ("no-checkpoint", Note, "there is no usable checkpoint: the next start reads all of the log", "")
            }
            Self::NotChecked => ("not-checked", Note, "this part of the store was not checked", ""),
            Self::SettingNeeded => (
                "setting-needed",
                Note,
                "the files have sizes that are not RocketMQ's defaults: the broker that takes them over needs these settings",
                "",
            ),
        }
    }

    /// A word for programs.
    pub fn name(self) -> &'static str {
        self.text().0
    }

    pub fn severity(self) -> Severity {
        self.text().1
    }

    /// What it means, as a sentence.
    pub fn meaning(self) -> &'static str {
        self.text().2
    }

    /// What to do; empty for notes.
    pub fn advice(self) -> &'static str {
        self.text().3
    }
}

/// How often something was found, and where first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Finding {
    pub count: u64,
    /// The first places, at most [`MAX_EXAMPLES`].
    pub examples: Vec<String>,
}

/// All findings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings(BTreeMap<Kind, Finding>);

impl Findings {
    /// Counts one; `place` is told if it is among the first.
    pub fn add(&mut self, kind: Kind, place: impl FnOnce() -> String) {
        self.add_many(kind, 1, place);
    }

    /// Counts `count` at one place.
    pub fn add_many(&mut self, kind: Kind, count: u64, place: impl FnOnce() -> String) {
        let finding = self.0.entry(kind).or_default();
        finding.count += count;
        if finding.examples.len() < MAX_EXAMPLES {
            finding.examples.push(place());
        }
    }

    /// The findings, kind by kind, the worst first.
    pub fn iter(&self) -> impl Iterator<Item = (Kind, &Finding)> {
        let of = |severity| self.0.iter().filter(move |(kind, _)| kind.severity() == severity).map(|(k, f)| (*k, f));
        of(Severity::Unusable).chain(of(Severity::Damage)).chain(of(Severity::Note))
    }

    /// How often a kind was found.
    pub fn count(&self, kind: Kind) -> u64 {
        self.0.get(&kind).map_or(0, |finding| finding.count)
    }

    /// The worst there is.
    pub fn worst(&self) -> Option<Severity> {
        self.0.keys().map(|kind| kind.severity()).max()
    }
}

/// What the check of one store has to say.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub root: PathBuf,
    /// Position of the first byte of the log, and behind the last record.
    pub log_start: u64,
    pub log_end: u64,
    /// Sizes of the files, bytes; 0 without files.
    pub log_file_bytes: u64,
    pub queue_file_bytes: u64,
    pub batch_queue_file_bytes: u64,
    pub records: u64,
    /// Store timestamps of the first and the last record, milliseconds since 1970.
    pub first_timestamp: i64,
    pub last_timestamp: i64,
    pub topics: u64,
    pub queues: u64,
    pub index_files: u64,
    pub index_entries: u64,
    /// Compacted queues, and their messages.
    pub copies: u64,
    pub copied_messages: u64,
    pub groups: u64,
    pub findings: Findings,
    pub(super) plan: Plan,
}

impl Report {
    /// Whether a broker can take the store over without anything being lost or wrong.
    pub fn is_safe(&self) -> bool {
        self.findings.worst().is_none_or(|worst| worst == Severity::Note)
    }
}
