//! How far the passes came, by queue (RocketMQ 5.5 `CompactionPositionMgr`, `compaction/position-checkpoint`). When the file
//! is lost a pass looks at more than it had to, and finds the same; what it says too much is taken back at the start. So it is
//! written like the tables of the broker, not through the door of what must not be lost.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use ferromq_common::json_file;
use ferromq_protocol::json;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// Name of the file.
pub(super) const FILE: &str = "position-checkpoint";

/// The file's content; names are topic, `_` and the number of the queue.
#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Table {
    queue_offset_map: BTreeMap<String, i64>,
}

/// How far passes came.
pub(super) struct Positions {
    path: PathBuf,
    table: Mutex<Table>,
}

impl Positions {
    /// Reads the file of this folder, if there is one.
    pub fn open(folder: &Path) -> Positions {
        let path = folder.join(FILE);
        let table = json_file::load(&path, json::from_slice::<Table>).unwrap_or_else(|error| {
            tracing::warn!("{error}; compaction looks at all messages again");
            json_file::Loaded::Absent
        });
        let table = table.into_option(&path).unwrap_or_default();
        Positions { path, table: Mutex::new(table) }
    }

    /// Queue offset of the last message that a pass has looked at, -1 before the first.
    pub fn of(&self, topic: &str, queue_id: u32) -> i64 {
        self.table.lock().queue_offset_map.get(&name(topic, queue_id)).copied().unwrap_or(-1)
    }

    /// Notes that messages behind `most` have not been looked at: they are copied again. At the start, when a full disk
    /// is no reason to stop: what counts is in memory.
    pub fn lower(&self, topic: &str, queue_id: u32, most: i64) {
        if self.of(topic, queue_id) > most {
            told(self.set(topic, queue_id, Some(most)));
        }
    }

    /// Forgets all but these queues. At the start.
    pub fn keep(&self, queues: &BTreeSet<(&str, u32)>) {
        let names: BTreeSet<String> = queues.iter().map(|(topic, id)| name(topic, *id)).collect();
        let mut table = self.table.lock();
        let before = table.queue_offset_map.len();
        table.queue_offset_map.retain(|name, _| names.contains(name));
        if table.queue_offset_map.len() != before {
            told(self.store(&table));
        }
    }

    /// Notes it, durably.
    pub fn set(&self, topic: &str, queue_id: u32, position: Option<i64>) -> io::Result<()> {
        let mut table = self.table.lock();
        let name = name(topic, queue_id);
        match position {
            Some(position) => table.queue_offset_map.insert(name, position),
            None => table.queue_offset_map.remove(&name),
        };
        self.store(&table)
    }

    fn store(&self, table: &Table) -> io::Result<()> {
        json_file::store(&self.path, &json::to_vec_standard(table).map_err(io::Error::other)?)
    }
}

fn told(stored: io::Result<()>) {
    if let Err(error) = stored {
        tracing::warn!("how far compaction came cannot be noted: {error}; the next start does it again");
    }
}

fn name(topic: &str, queue_id: u32) -> String {
    format!("{topic}_{queue_id}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rocketmqs_file_is_read_and_a_broken_one_is_as_good_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let text = r#"{"empty":false,"queueOffsetMap":{"T_0":41,"a_b_3":7}}"#;
        std::fs::write(dir.path().join(FILE), text).unwrap();
        let positions = Positions::open(dir.path());
        assert_eq!((positions.of("T", 0), positions.of("a_b", 3), positions.of("T", 1)), (41, 7, -1));
        positions.set("T", 1, Some(9)).unwrap();
        positions.set("T", 0, None).unwrap();
        let again = Positions::open(dir.path());
        assert_eq!((again.of("T", 0), again.of("a_b", 3), again.of("T", 1)), (-1, 7, 9));
        std::fs::write(dir.path().join(FILE), "{").unwrap();
        std::fs::remove_file(dir.path().join("position-checkpoint.bak")).unwrap();
        assert_eq!(Positions::open(dir.path()).of("T", 1), -1);
    }
}
