//! How far delayed delivery is: `delayOffset.json` (one offset for each delay level) and `timercheck` (binary), both of
//! RocketMQ's form.
//!
//! A mark may be written only when the deliveries it speaks of are on the disk: else a power cut takes a delivered
//! message back that nobody would deliver again. So the newest mark waits here until the log is flushed so far.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ferromq_common::clock;
use ferromq_common::json_file::{self, LoadError};
use ferromq_protocol::body::DataVersion;
use ferromq_store::{Queue, Store};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::levels::Levels;
use super::pending::Pendings;
use crate::persist::{self, SaveSignal};

const LEVELS_FILE: &str = "delayOffset.json";
const TIMER_FILE: &str = "timercheck";
/// Bytes of `timercheck`: one page, of which 56 are used.
const TIMER_FILE_BYTES: usize = 4096;
/// RocketMQ's log of timer messages, from which its wheel is filled. It is not kept here: where it stands, RocketMQ ran
/// last, and messages before the mark may be pending.
const JAVA_TIMER_LOG: &str = "timerlog";
const JAVA_TIMER_WHEEL: &str = "timerwheel";

/// The content of `delayOffset.json`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct DelayOffsets {
    data_version: Option<DataVersion>,
    /// Level to offset.
    offset_table: BTreeMap<i32, i64>,
}

/// How far timer messages are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct TimerMark {
    /// All slots before it are done, for messages before `cursor`.
    pub read_time: i64,
    /// The first message of the timer topic that was not read.
    pub cursor: i64,
    /// No message before this one is pending.
    pub pending_from: i64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Mark {
    offsets: Vec<i64>,
    timer: TimerMark,
    /// Position in the log up to which the deliveries lie that this mark knows.
    end: u64,
}

#[derive(Default)]
struct State {
    latest: Mark,
    /// Waits for the flush of its `end`.
    waiting: Mark,
    /// May be written.
    durable: Mark,
    changes: u64,
    version: DataVersion,
}

/// The marks; advanced by the thread that delivers, written by `persist.rs`.
pub(crate) struct Marks {
    state: Mutex<State>,
    levels_path: PathBuf,
    timer_path: PathBuf,
    root: PathBuf,
    /// RocketMQ's own timer files stand beside ours.
    java_files: AtomicBool,
}

impl Marks {
    pub(super) fn open(root: &Path, levels: &[Arc<Queue>]) -> Result<Self, LoadError> {
        let levels_path = persist::config_path(root, LEVELS_FILE);
        let timer_path = persist::config_path(root, TIMER_FILE);
        let effect = "all delayed messages in the log are looked at, those that the index shows to be delivered are not delivered again";
        let saved = persist::load_or_begin_anew::<DelayOffsets>(&levels_path, effect)?.unwrap_or_default();
        let offsets =
            (1..).zip(levels).map(|(level, _)| saved.offset_table.get(&level).copied().unwrap_or(0)).collect();
        let java_files = root.join(JAVA_TIMER_LOG).exists();
        let timer = match json_file::load(&timer_path, |bytes| decode(bytes).ok_or("it is shorter than 56 bytes")) {
            Ok(found) => found.into_option(&timer_path),
            Err(error) => {
                tracing::warn!("{error}; all timer messages in the log are looked at instead");
                None
            }
        };
        // Without a file nothing is known to be done: the index has to say.
        let mut timer = timer.unwrap_or_default();
        if java_files {
            timer.pending_from = 0;
        }
        let mark = Mark { offsets, timer, end: 0 };
        let state = State {
            latest: mark.clone(),
            waiting: mark.clone(),
            durable: mark,
            changes: 0,
            version: saved.data_version.unwrap_or_default(),
        };
        let java_files = AtomicBool::new(java_files);
        Ok(Self { state: Mutex::new(state), levels_path, timer_path, root: root.to_owned(), java_files })
    }

    pub(super) fn delay_offsets(&self) -> Vec<i64> {
        self.state.lock().durable.offsets.clone()
    }

    pub(super) fn latest_offsets(&self) -> Vec<i64> {
        self.state.lock().latest.offsets.clone()
    }

    pub(super) fn timer_mark(&self) -> TimerMark {
        self.state.lock().durable.timer
    }

    /// Takes what the delivering thread has done.
    pub(super) fn advance(&self, store: &Store, levels: &Levels, pendings: Option<&mut Pendings>) {
        let mut state = self.state.lock();
        state.latest.offsets.clear();
        state.latest.offsets.extend(levels.offsets());
        state.latest.end = levels.end();
        if let Some(pendings) = pendings {
            state.latest.timer = pendings.mark().unwrap_or(state.latest.timer);
            state.latest.end = state.latest.end.max(pendings.end());
        }
        state.settle(store.flushed_position());
    }

    /// Lets RocketMQ's timer files go once `timercheck` says what is pending: a RocketMQ that opens the store again reads
    /// the timer topic from there. Left behind, they would make it deliver again what was delivered here.
    pub(super) fn forget_java_files(&self, saving: &SaveSignal) {
        if !self.java_files.swap(false, Ordering::Relaxed) {
            return;
        }
        self.state.lock().changes += 1;
        let root = self.root.clone();
        saving.when_saved(move |saved| {
            let gone = saved.and_then(|()| {
                std::fs::remove_dir_all(root.join(JAVA_TIMER_LOG)).map_err(|error| error.to_string())?;
                std::fs::remove_file(root.join(JAVA_TIMER_WHEEL)).or_else(|error| match error.kind() {
                    io::ErrorKind::NotFound => Ok(()),
                    _ => Err(error.to_string()),
                })
            });
            match gone {
                Ok(()) => {
                    tracing::info!("timer messages of the former broker are taken over, its timer files are removed")
                }
                Err(error) => tracing::warn!("the former broker's timer files stay: {error}"),
            }
        });
    }

    /// Grows with each change of what may be written.
    pub(crate) fn changes(&self, store: &Store) -> u64 {
        let mut state = self.state.lock();
        state.settle(store.flushed_position());
        state.changes
    }

    pub(crate) fn levels_path(&self) -> &Path {
        &self.levels_path
    }

    pub(crate) fn timer_path(&self) -> &Path {
        &self.timer_path
    }

    /// The content of `delayOffset.json`.
    pub(crate) fn encode_levels(&self) -> io::Result<Vec<u8>> {
        let mut state = self.state.lock();
        state.version.next_version(clock::now_millis());
        let offset_table = (1..).zip(state.durable.offsets.iter().copied()).collect();
        let file = DelayOffsets { data_version: Some(state.version), offset_table };
        Ok(serde_json::to_vec_pretty(&file)?)
    }

    /// The content of `timercheck`.
    pub(crate) fn encode_timer(&self) -> Vec<u8> {
        let state = self.state.lock();
        encode(&state.durable.timer, &state.version)
    }
}

impl State {
    /// Lets marks become writable whose deliveries are on the disk.
    fn settle(&mut self, flushed: u64) {
        for _ in 0..2 {
            if self.waiting.end <= flushed && self.waiting != self.durable {
                self.durable = self.waiting.clone();
                self.changes += 1;
            }
            if self.waiting == self.durable {
                self.waiting = self.latest.clone();
            }
        }
    }
}

/// Time read, position of RocketMQ's timer log, offset read, the master's offset, version: 8 bytes each. RocketMQ goes on
/// from the smaller offset; the larger is where reading really is.
fn encode(mark: &TimerMark, version: &DataVersion) -> Vec<u8> {
    let fields =
        [mark.read_time, 0, mark.cursor, mark.pending_from, version.state_version, version.timestamp, version.counter];
    let mut bytes: Vec<u8> = fields.iter().flat_map(|field| field.to_be_bytes()).collect();
    bytes.resize(TIMER_FILE_BYTES, 0);
    bytes
}

fn decode(bytes: &[u8]) -> Option<TimerMark> {
    let (fields, _) = bytes.as_chunks::<8>();
    let field = |at: usize| fields.get(at).map(|field| i64::from_be_bytes(*field));
    let (read_time, cursor, master) = (field(0)?, field(2)?, field(3)?);
    Some(TimerMark { read_time, cursor, pending_from: cursor.min(master).max(0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timer_file_is_rocketmqs() {
        let mark = TimerMark { read_time: 0x0102, cursor: 9, pending_from: 4 };
        let bytes = encode(&mark, &DataVersion { state_version: 1, timestamp: 2, counter: 3 });
        assert_eq!(bytes.len(), 4096);
        assert_eq!((bytes[6], bytes[7], bytes[23], bytes[31], bytes[55]), (1, 2, 9, 4, 3));
        assert_eq!(decode(&bytes), Some(mark));
        assert_eq!(decode(&bytes[..20]), None);
    }

    #[test]
    fn a_mark_is_written_only_when_its_deliveries_are_on_the_disk() {
        let mark = |offset, end| Mark { offsets: vec![offset], end, ..Mark::default() };
        let mut state = State { latest: mark(1, 100), ..State::default() };
        state.settle(50);
        assert_eq!((state.durable.end, state.changes), (0, 0));
        // Newer marks do not push the waiting one out: it becomes writable under load too.
        state.latest = mark(2, 200);
        state.settle(120);
        assert_eq!(state.durable, mark(1, 100));
        state.settle(200);
        assert_eq!(state.durable, mark(2, 200));
        let changes = state.changes;
        state.settle(300);
        assert_eq!(state.changes, changes);
    }
}
