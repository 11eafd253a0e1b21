//! Key-value configuration of the NameServer, by namespace (RocketMQ 5.5 `KVConfigManager`).
//!
//! Owns the table and its file `kvConfig.json`, written at each change before the change is acknowledged. Must not know
//! requests.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use ferromq_common::json_file::{self, LoadError};
use ferromq_protocol::body::KvTable;
use ferromq_protocol::json;
use serde::{Deserialize, Serialize};

/// Namespace whose keys are topics and whose values are `broker:queues;broker:queues`.
pub const NAMESPACE_ORDER_TOPIC_CONFIG: &str = "ORDER_TOPIC_CONFIG";
/// Most entries, all namespaces together.
pub const MAX_ENTRIES: usize = 100_000;
/// Longest namespace, key or value, bytes.
pub const MAX_TEXT_BYTES: usize = 65_536;

/// The file's content: RocketMQ's `KVConfigSerializeWrapper`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Tables {
    config_table: BTreeMap<String, BTreeMap<String, String>>,
}

/// The table and where it is kept.
#[derive(Debug)]
pub struct KvConfig {
    tables: Tables,
    path: PathBuf,
}

/// Why a change was refused.
#[derive(Debug, thiserror::Error)]
pub enum KvError {
    /// [`MAX_ENTRIES`] or [`MAX_TEXT_BYTES`].
    #[error("the key-value table takes at most 100000 entries of at most 64 KiB, delete some first")]
    Full,
    /// The file could not be written; the change is undone.
    #[error("cannot write {path}: {source}, check the folder and its permissions")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl KvConfig {
    /// Reads the file; a missing one is an empty table.
    pub fn open(path: PathBuf) -> Result<Self, LoadError> {
        let tables = json_file::load(&path, json::from_slice::<Tables>)?.into_option(&path);
        Ok(Self { tables: tables.unwrap_or_default(), path })
    }

    /// Value of a key.
    pub fn get(&self, namespace: &str, key: &str) -> Option<&str> {
        self.tables.config_table.get(namespace)?.get(key).map(String::as_str)
    }

    /// All keys of a namespace; `None` when it never had one.
    pub fn namespace(&self, namespace: &str) -> Option<KvTable> {
        self.tables.config_table.get(namespace).map(|table| KvTable { table: table.clone() })
    }

    /// Sets a key and writes the file.
    pub fn put(&mut self, namespace: &str, key: &str, value: &str) -> Result<(), KvError> {
        let entries: usize = self.tables.config_table.values().map(BTreeMap::len).sum();
        let new = self.get(namespace, key).is_none();
        if (new && entries >= MAX_ENTRIES) || [namespace, key, value].iter().any(|t| t.len() > MAX_TEXT_BYTES) {
            return Err(KvError::Full);
        }
        let table = self.tables.config_table.entry(namespace.into()).or_default();
        let before = table.insert(key.into(), value.into());
        self.save(namespace, key, before)
    }

    /// Removes a key and writes the file. The namespace stays, even empty, as in RocketMQ.
    pub fn delete(&mut self, namespace: &str, key: &str) -> Result<(), KvError> {
        match self.tables.config_table.get_mut(namespace).and_then(|table| table.remove(key)) {
            Some(before) => self.save(namespace, key, Some(before)),
            None => Ok(()),
        }
    }

    fn save(&mut self, namespace: &str, key: &str, before: Option<String>) -> Result<(), KvError> {
        let bytes = serde_json::to_vec(&self.tables).map_err(io::Error::other);
        let written = bytes.and_then(|bytes| json_file::store(&self.path, &bytes));
        written.map_err(|source| {
            if let Some(table) = self.tables.config_table.get_mut(namespace) {
                match before {
                    Some(value) => table.insert(key.into(), value),
                    None => table.remove(key),
                };
            }
            KvError::Io { path: self.path.clone(), source }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("namesrv/kvConfig.json");
        let mut kv = KvConfig::open(path.clone()).unwrap();
        kv.put(NAMESPACE_ORDER_TOPIC_CONFIG, "orders", "broker-a:4;broker-b:4").unwrap();
        kv.put("other", "k", "ü").unwrap();
        kv.delete("other", "k").unwrap();
        kv.delete("nothing", "k").unwrap();
        let kv = KvConfig::open(path).unwrap();
        assert_eq!(kv.get(NAMESPACE_ORDER_TOPIC_CONFIG, "orders"), Some("broker-a:4;broker-b:4"));
        assert_eq!(kv.namespace("other").unwrap().table.len(), 0);
        assert!(kv.namespace("nothing").is_none());
    }

    #[test]
    fn reads_the_file_of_java() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kvConfig.json");
        std::fs::write(&path, "{\n\t\"configTable\":{\"ORDER_TOPIC_CONFIG\":{\"t\":\"a:1\"}\n\t}\n}").unwrap();
        assert_eq!(KvConfig::open(path).unwrap().get(NAMESPACE_ORDER_TOPIC_CONFIG, "t"), Some("a:1"));
    }

    #[test]
    fn a_change_that_cannot_be_written_is_undone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kvConfig.json");
        let mut kv = KvConfig::open(path.clone()).unwrap();
        kv.put("n", "k", "1").unwrap();
        std::fs::create_dir(dir.path().join("kvConfig.json.tmp")).unwrap();
        assert!(matches!(kv.put("n", "k", "2"), Err(KvError::Io { .. })));
        assert!(matches!(kv.delete("n", "k"), Err(KvError::Io { .. })));
        assert!(matches!(kv.put("n", "new", "2"), Err(KvError::Io { .. })));
        assert_eq!((kv.get("n", "k"), kv.get("n", "new")), (Some("1"), None));
    }

    #[test]
    fn limits() {
        let dir = tempfile::tempdir().unwrap();
        let mut kv = KvConfig::open(dir.path().join("kv.json")).unwrap();
        assert!(matches!(kv.put("n", "k", &"v".repeat(MAX_TEXT_BYTES + 1)), Err(KvError::Full)));
        std::fs::write(dir.path().join("broken.json"), "{").unwrap();
        assert!(KvConfig::open(dir.path().join("broken.json")).is_err());
    }
}
