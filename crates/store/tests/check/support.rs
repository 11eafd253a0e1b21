//! Stores to damage, and short ways to say what a check found.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use ferromq_protocol::record::{self, Entry};
use ferromq_store::{Kind, Report, StoreConfig, check_store};

use crate::common::copy_as_killed;

/// A store written by Java 5.5.0, stopped in order: 122 records of `JavaT` (queues 0, 1) and `JavaB` (queue 0).
pub fn java_store() -> (tempfile::TempDir, StoreConfig) {
    let dir = tempfile::tempdir().unwrap();
    copy_as_killed(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/java-5.5-store"), dir.path());
    table(dir.path(), "topics.json", &topics(&["JavaT", "JavaB"]));
    let config = StoreConfig {
        root: dir.path().to_owned(),
        mapped_file_size_commit_log: 16_384,
        mapped_file_size_consume_queue: 400,
        max_hash_slot_num: 50,
        max_index_num: 100,
        disk_space_floor: 0,
        ..StoreConfig::default()
    };
    (dir, config)
}

pub fn topics(names: &[&str]) -> String {
    let one = |name: &&str| format!(r#""{name}":{{"topicName":"{name}"}}"#);
    format!(r#"{{"topicConfigTable":{{{}}}}}"#, names.iter().map(one).collect::<Vec<_>>().join(","))
}

pub fn table(root: &Path, name: &str, content: &str) {
    fs::create_dir_all(root.join("config")).unwrap();
    fs::write(root.join("config").join(name), content).unwrap();
}

pub fn check(config: &StoreConfig) -> Report {
    check_store(config, true, &mut |_| ()).unwrap()
}

pub fn kinds(report: &Report) -> Vec<(Kind, u64)> {
    report.findings.iter().map(|(kind, finding)| (kind, finding.count)).collect()
}

pub fn first(report: &Report, kind: Kind) -> String {
    let found = report.findings.iter().find(|(found, _)| *found == kind);
    found.map(|(_, finding)| finding.examples.join("; ")).unwrap_or_default()
}

pub fn edit(path: PathBuf, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(&path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

/// Damages a fresh store and checks it.
pub fn after(damage: impl FnOnce(&Path)) -> Report {
    let (dir, config) = java_store();
    damage(dir.path());
    check(&config)
}

pub const LOG: &str = "commitlog/00000000000000000000";
pub const LAST_LOG: &str = "commitlog/00000000000000016384";
pub const QUEUE: &str = "consumequeue/JavaT/0/00000000000000000000";

pub fn index_file(root: &Path, n: usize) -> PathBuf {
    let mut files: Vec<_> = fs::read_dir(root.join("index")).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    files.swap_remove(n)
}

/// Where the bodies of a log file stand.
pub fn bodies(log: &[u8]) -> Vec<Range<usize>> {
    let (mut all, mut at) = (Vec::new(), 0);
    while let Entry::Record(record) = record::read(&log[at..]) {
        let start = record.body().as_ptr() as usize - log.as_ptr() as usize;
        all.push(start..start + record.body().len());
        at += record.bytes().len();
    }
    all
}
