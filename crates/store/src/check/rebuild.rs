//! Builds consume queues and key index of a stopped store again from its log, and what is wrong in compacted copies from
//! their records and the log.
//!
//! Recovery does the work, as after a crash: this takes away what is to be built and leaves a checkpoint that says how far
//! the log goes and that nothing is complete. An interruption at any point leaves a store that the next start recovers.
//! Queues none of whose messages are in the log any more are kept: they alone know at which offset the queue goes on.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::report::Report;
use crate::checkpoint::{Built, Checkpoint, Times};
use crate::compaction::{self, Repair};
use crate::config::StoreConfig;
use crate::error::OpenError;
use crate::index::{IndexMark, list};
use crate::instance::Instance;
use crate::store::Store;

/// What a rebuild must know of the store, from the check before it.
#[derive(Clone, Debug, Default)]
pub(super) struct Plan {
    /// Folders of the queues with records in the log.
    pub queues: Vec<PathBuf>,
    /// Topics whose queues are batch queues.
    pub batch_topics: HashSet<String>,
    /// Topics whose messages may go with the log only when they are copied.
    pub compacted_topics: HashSet<String>,
    /// What is wrong in copies.
    pub repairs: Vec<Repair>,
    /// Topics that were deleted while their records are still in the log.
    pub deleted: Vec<Arc<str>>,
}

/// Builds again what the log says. `report` is that of a check with the same `config`, whose sizes must be those of the
/// files, and of a store that is usable.
pub fn rebuild_store(config: &StoreConfig, report: &Report) -> Result<(), OpenError> {
    let root = &config.root;
    {
        let instance = Instance::enter(root, None)?;
        instance.mark_running()?;
        leave_unbuilt(config, report).map_err(OpenError::io("prepare the rebuilding of", root))?;
        compaction::repair(config, &report.plan.repairs)
            .map_err(OpenError::io("rebuild the compacted copies of", root))?;
    }
    let (batch_topics, compacted_topics) = (report.plan.batch_topics.clone(), report.plan.compacted_topics.clone());
    let config = StoreConfig { batch_topics, compacted_topics, ..config.clone() };
    let store = Store::open(config, Arc::new(|_| ()))?;
    for topic in &report.plan.deleted {
        store.delete_topic(topic).map_err(OpenError::io("remove the queues of a deleted topic in", root))?;
    }
    store.shutdown();
    match store.write_error() {
        Some(error) if root.join("abort").exists() => {
            Err(OpenError::io("rebuild", root)(io::Error::other(error.to_string())))
        }
        _ => Ok(()),
    }
}

fn leave_unbuilt(config: &StoreConfig, report: &Report) -> io::Result<()> {
    let root = &config.root;
    let (checkpoint, loaded) = Checkpoint::open(root, None)?;
    // No sum of queue ends is negative: recovery finds them incomplete, and the log known up to its end.
    let (position, timestamp) = (report.log_end, report.last_timestamp);
    let built = Built { position, entries: -1, index: IndexMark::default(), timestamp };
    let times = Times { physic: report.last_timestamp, logics: 0, index: 0, ..loaded.times };
    checkpoint.write(&times, &built, &built, 0)?;
    checkpoint.sync()?;
    report.plan.queues.iter().try_for_each(|folder| remove_dir(folder))?;
    if config.message_index_enable {
        for (_, path) in list(&root.join("index"))? {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

fn remove_dir(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
