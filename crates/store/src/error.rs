//! What can go wrong, as callers and people see it.

use std::io;
use std::path::{Path, PathBuf};

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has the folder.
    #[error("the store {root} is in use by another broker{}: stop it, or choose another storePathRootDir", pid_text(*.pid))]
    InUse { root: PathBuf, pid: Option<u32> },
    /// A file operation failed.
    #[error("the store cannot {what} {path}: {source}")]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    /// A log file has another length than the setting says.
    #[error(
        "the commit log file {path} has {len} bytes but mappedFileSizeCommitLog is {expected}: set it to the value the files were written with"
    )]
    FileSize { path: PathBuf, len: u64, expected: u64 },
    /// Log files are missing in the middle.
    #[error(
        "the commit log has a gap: the file that begins at {missing} is missing before {path}; bring it back, or move the files before the gap away to go on without their messages"
    )]
    Gap { missing: u64, path: PathBuf },
    /// There is neither a log nor a table.
    #[error("{root} is no store: it has neither commitlog nor config; give the folder that storePathRootDir names")]
    NoStore { root: PathBuf },
    /// A Java broker kept queues or tables where only it can read them.
    #[error(
        "{folder} is a RocksDB database of a Java broker, which is not read here: starting without it would lose what it holds; docs/migration.md has the way out"
    )]
    RocksDb { folder: PathBuf },
    /// A setting makes no sense.
    #[error("{0}")]
    Setting(String),
}

fn pid_text(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (process {pid})"))
}

impl OpenError {
    pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OpenError {
        move |source| OpenError::Io { what, path: path.to_owned(), source }
    }
}

/// Why messages were not appended. None of the batch's messages is stored then, unless a crash shows otherwise later.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AppendError {
    /// A write or sync has failed, now or earlier: nothing is accepted until a restart.
    #[error("the store is read-only: {reason}")]
    ReadOnly { reason: String },
    /// No room; writes are accepted again when there is.
    #[error("the disk is full: {reason}")]
    DiskFull { reason: String },
    /// The store is closing.
    #[error("the store is shutting down")]
    ShuttingDown,
}

/// Why a message cannot be stored at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reject {
    #[error("the body has {len} bytes, more than maxMessageSize {max}")]
    Body { len: usize, max: usize },
    #[error("the message does not fit the record layout: {0}")]
    Record(#[from] ferromq_protocol::record::EncodeError),
    #[error("the record has {len} bytes, more than a commit log file can hold ({max})")]
    TooLarge { len: usize, max: u64 },
    #[error("the topic name cannot be a folder's name")]
    TopicName,
    #[error(
        "INNER_MULTI_DISPATCH names {name:?}: give names of light queues (%LMQ% and what a folder can be called), separated by commas"
    )]
    LightQueue { name: String },
    #[error("INNER_MULTI_DISPATCH names a light queue twice: name each once")]
    LightQueueTwice,
    #[error("the store has as many light queues as maxLmqConsumeQueueNum allows ({max}): raise it, or delete some")]
    TooManyLightQueues { max: usize },
    #[error("only a queue of a topic with queue.type=BatchCQ takes an inner batch, of at least one message")]
    InnerBatch,
    #[error("the topic or queue of the message is not that of its queue handle")]
    OtherQueue,
}
