//! Topics with `cleanup.policy=COMPACTION`: of the messages with the same keys the newest stays, however old (RocketMQ 5.5
//! `CompactionStore`). What is promised and why it is made so: `docs/adr/0011-compaction.md`.
//!
//! Messages are appended and dispatched like all others. A thread copies what is on the disk of the log to a *copy* of each
//! queue (`copy.rs`): pairs of files of records (`pair.rs`, `writer.rs`). From time to time a *pass* (`pass.rs`) writes all
//! full pairs anew without what is outdated and puts them in place at once (`commit.rs`). Consumers read the copy as far
//! as it goes, and the log behind it (`serve.rs`). A log file is deleted only when the copy has its messages on the disk
//! (`work.rs`): from then on the copy is the only truth about them, and the start takes care of it (`recover.rs`).

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ferromq_protocol::properties;
use ferromq_protocol::record::Record;
use parking_lot::{Mutex, RwLock};

use crate::append;
use crate::background::Bell;
use crate::config::StoreConfig;
use crate::error::OpenError;
use crate::faults::Faults;
use crate::labels::Labels;
use crate::mapped;
use crate::queue::{self, Kind};

mod commit;
mod copy;
mod pair;
mod pass;
mod position;
mod recover;
mod serve;
mod work;
mod writer;

pub(crate) use commit::is_pass_to_complete;
pub(crate) use copy::Compacted;
pub(crate) use pair::{Pair, is_same, next_sound};
pub(crate) use recover::{Repair, repair};
pub(crate) use writer::entry_of;

/// Bytes of an entry.
const UNIT: usize = Kind::Batch.unit();
/// Folder of all this in that of the store, and of the files of records in it.
const FOLDER: &str = "compaction";
const LOG_FOLDER: &str = "compactionLog";
const QUEUE_FOLDER: &str = "compactionCq";
/// Folder of the files a pass writes, in that of the queue (RocketMQ's `COMPACTING_SUB_FOLDER`).
pub(crate) const COMPACTING: &str = "compacting";
/// Files of records are at least so many times as large as those of entries (RocketMQ's `getCompactionLogSize`).
const LEAST_TIMES: u64 = 5;

/// Where the copies are, and how large their files.
pub(crate) struct Places {
    log: PathBuf,
    queue: PathBuf,
    /// Of a file of records and one of entries, bytes.
    sizes: [u64; 2],
    faults: Option<Arc<Faults>>,
    /// Pages that could not be read before the store was opened: what they held is not taken for nothing.
    lost_pages: u64,
    /// The store closes: passes end.
    is_closing: AtomicBool,
}

/// What a store has for its compacted topics.
pub(crate) struct Compaction {
    /// `enableCompaction`: without it these topics are like others, as in RocketMQ.
    is_enabled: bool,
    places: Arc<Places>,
    positions: position::Positions,
    pub topics: RwLock<HashSet<String>>,
    /// Held by the one who removes the folders of a topic, until queues may be made there again.
    pub folders: Mutex<()>,
    bell: Bell,
}

impl Compaction {
    pub fn new(config: &StoreConfig) -> Compaction {
        let root = config.root.join(FOLDER);
        let sizes = file_sizes(config.compaction_mapped_file_size, config.compaction_cq_mapped_file_size);
        let [log, queue] = folders(&config.root);
        Compaction {
            is_enabled: config.enable_compaction,
            places: Arc::new(Places {
                log,
                queue,
                sizes,
                faults: config.faults.clone(),
                lost_pages: mapped::lost_pages(),
                is_closing: AtomicBool::new(false),
            }),
            positions: position::Positions::open(&root),
            topics: RwLock::new(config.compacted_topics.clone()),
            folders: Mutex::default(),
            bell: Bell::default(),
        }
    }

    /// The copy of a queue that is made now, if its topic is compacted.
    pub fn copy_for(&self, topic: &Arc<str>, queue_id: u32, kind: Kind) -> Option<Arc<Compacted>> {
        let is_one = self.is_enabled && kind == Kind::Simple && append::is_folder_name(topic);
        let is_one = is_one && self.topics.read().contains(&**topic);
        is_one.then(|| {
            self.bell.ring();
            Arc::new(Compacted::new(&self.places, Arc::clone(topic), queue_id))
        })
    }

    /// The copy of a queue, whatever its topic is; nothing of it is looked at.
    pub fn copy_of(&self, topic: &str, queue_id: u32) -> Compacted {
        Compacted::new(&self.places, topic.into(), queue_id)
    }

    /// Queue offset of the last message that a pass over a queue has looked at, -1 before the first.
    pub fn position(&self, topic: &str, queue_id: u32) -> i64 {
        self.positions.of(topic, queue_id)
    }

    /// Ends the thread.
    pub fn stop(&self) {
        self.places.is_closing.store(true, Ordering::Release);
        self.bell.stop();
    }
}

/// Folders of the files of records and of entries below `root`, the folder of a store.
pub(crate) fn folders(root: &Path) -> [PathBuf; 2] {
    [LOG_FOLDER, QUEUE_FOLDER].map(|name| root.join(FOLDER).join(name))
}

/// The file that says how far passes came, below `root`.
pub(crate) fn positions_path(root: &Path) -> PathBuf {
    root.join(FOLDER).join(position::FILE)
}

/// Topics that have compacted queues below `root`, the folder of a store; without a consume queue a topic was deleted, and
/// RocketMQ has left its copy.
pub fn copied_topics(root: &Path) -> Result<Vec<String>, OpenError> {
    let [folder, _] = folders(root);
    let mut topics = queue::topics_in(&folder).map_err(OpenError::io("list", &folder))?;
    topics.retain(|topic| root.join(Kind::Simple.folder()).join(topic).is_dir());
    Ok(topics)
}

/// Sizes of the files of records and of entries that RocketMQ makes of the two settings: the first is a multiple of the
/// second, because both have the same names and its files are searched by their size.
fn file_sizes(log: u64, queue: u64) -> [u64; 2] {
    let queue = (queue / UNIT as u64).max(2) * UNIT as u64;
    let (times, rest) = (log / queue, log % queue);
    let times = match rest {
        _ if times < LEAST_TIMES => LEAST_TIMES,
        1.. if rest < queue / 2 => times,
        _ => times + 1,
    };
    [times * queue, queue]
}

/// The keys of a message, all of them as one text; `None` if there is nothing but white space.
pub(crate) fn keys_of<'a>(record: &Record<'a>) -> Option<&'a [u8]> {
    Labels::of(record.properties()).keys.filter(|keys| properties::names_a_key(keys))
}

pub(crate) fn has_key(record: &Record<'_>) -> bool {
    keys_of(record).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_as_large_as_rocketmq_makes_them() {
        assert_eq!(file_sizes(104_857_600, 10_485_760), [104_857_460, 10_485_746]);
        assert_eq!(file_sizes(1000, 460), [5 * 460, 460]);
        assert_eq!(file_sizes(460 * 7 + 230, 470), [460 * 8, 460]);
        assert_eq!(file_sizes(460 * 7 + 229, 470), [460 * 7, 460]);
        assert_eq!(file_sizes(460 * 7, 470), [460 * 8, 460]);
        assert_eq!(file_sizes(0, 0), [460, 92]);
    }
}
