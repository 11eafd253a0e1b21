//! How groups take the messages of a topic when the broker shares out the queues: by pull or by pop (RocketMQ's
//! `MessageRequestModeManager`, `messageRequestMode.json`).

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ferromq_common::json_file::LoadError;
use ferromq_protocol::body::{MessageRequestModeWrapper, SetMessageRequestModeRequestBody};
use parking_lot::RwLock;

use crate::persist::{self, SaveSignal};

/// Most pairs of topic and group with a mode of their own.
pub const MAX_MODES: usize = 200_000;
/// File name in the store's `config` folder.
const FILE: &str = "messageRequestMode.json";

/// Topic to group to mode.
type Modes = BTreeMap<String, BTreeMap<String, SetMessageRequestModeRequestBody>>;

/// The table. Methods may be called from any thread.
pub struct RequestModes {
    modes: RwLock<Modes>,
    changes: AtomicU64,
    path: PathBuf,
    saving: Arc<SaveSignal>,
}

impl RequestModes {
    /// Reads `messageRequestMode.json` below `store_root`, if there is one.
    pub fn open(store_root: &Path, saving: Arc<SaveSignal>) -> Result<Self, LoadError> {
        let path = persist::config_path(store_root, FILE);
        let effect = "all groups pull until the modes are set again";
        let loaded = persist::load_or_begin_anew::<MessageRequestModeWrapper>(&path, effect)?.unwrap_or_default();
        let modes = RwLock::new(loaded.message_request_mode_map);
        Ok(Self { modes, changes: AtomicU64::new(0), path, saving })
    }

    /// How a group takes a topic, if that was set.
    pub fn get(&self, topic: &str, group: &str) -> Option<SetMessageRequestModeRequestBody> {
        self.modes.read().get(topic)?.get(group).cloned()
    }

    /// Sets it; `false` when [`MAX_MODES`] are set already.
    pub fn set(&self, mode: SetMessageRequestModeRequestBody) -> bool {
        let mut modes = self.modes.write();
        let known = modes.get(&mode.topic).is_some_and(|groups| groups.contains_key(&mode.consumer_group));
        if !known && modes.values().map(BTreeMap::len).sum::<usize>() >= MAX_MODES {
            return false;
        }
        tracing::info!("group {} takes {} by {:?}", mode.consumer_group, mode.topic, mode.mode);
        modes.entry(mode.topic.clone()).or_default().insert(mode.consumer_group.clone(), mode);
        drop(modes);
        self.changes.fetch_add(1, Ordering::Release);
        self.saving.soon();
        true
    }

    /// Grows with each change.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// The file this table is kept in.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The table in the file's shape.
    pub fn snapshot(&self) -> MessageRequestModeWrapper {
        MessageRequestModeWrapper { message_request_mode_map: self.modes.read().clone() }
    }

    /// The content of `messageRequestMode.json`.
    pub fn encode(&self) -> io::Result<Vec<u8>> {
        Ok(serde_json::to_vec_pretty(&self.snapshot())?)
    }
}
