//! A broker whose tables in `config` are missing, cut, zeroed or old, any of them: it starts with what their copies say, or
//! the store; only offsets that it cannot read keep it from starting. No message is lost or gets another's offset.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use ferromq_broker::{Broker, StartError};
use ferromq_protocol::code::{request, response};
use ferromq_remoting::{Client, ClientConfig};
use ferromq_store::StoreConfig;
use serde_json::{Value, json};
use support::*;

const TOPIC: &str = "T";
const QUEUES: u64 = 3;
/// Messages of queue 0 when the files are damaged, and what the group had consumed of them at the end, and before.
const MESSAGES: i64 = 12;
const OFFSETS: [i64; 2] = [5, 9];
/// The table that nothing else tells.
const NEEDED: &str = "consumerOffset.json";

/// What happens to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Harm {
    Missing,
    Empty,
    Zeroed,
    Cut,
    Stale,
}

const HARMS: [Harm; 5] = [Harm::Missing, Harm::Empty, Harm::Zeroed, Harm::Cut, Harm::Stale];

/// A store that was stopped twice, so that tables have predecessors.
fn sample() -> tempfile::TempDir {
    let mut bench = start_with(config(), small);
    let create = |bench: &Bench, queues: u64| {
        let queues = queues.to_string();
        let answer = bench.call(request::UPDATE_AND_CREATE_TOPIC, b"", |frame| {
            frame.str("topic", TOPIC).str("readQueueNums", &queues).str("writeQueueNums", &queues).str("perm", "6");
            frame.str("topicFilterType", "SINGLE_TAG").str("topicSysFlag", "0").str("order", "false");
            frame.str("defaultTopic", "TBW102");
        });
        assert_eq!(code(&answer), response::SUCCESS, "{}", remark(&answer));
    };
    for (round, offset) in OFFSETS.into_iter().enumerate() {
        create(&bench, QUEUES - 1 + round as u64);
        bench.broker.as_ref().unwrap().shared().groups.find(["Early", "G"][round]).unwrap();
        for _ in 0..MESSAGES / 2 {
            assert_eq!(code(&bench.send(TOPIC, 0, "", b"x")), response::SUCCESS);
        }
        let answer = bench.call(request::UPDATE_CONSUMER_OFFSET, b"", |frame| {
            frame.str("topic", TOPIC).i32("queueId", 0).str("consumerGroup", "Early").i64("commitOffset", offset);
        });
        assert_eq!(code(&answer), response::SUCCESS, "{}", remark(&answer));
        bench.broker.take().unwrap().shutdown();
        let broker = open(bench.folder.path()).unwrap();
        bench.addr = broker.addr().to_string();
        bench.broker = Some(broker);
    }
    bench.broker.take().unwrap().shutdown();
    let copy = tempfile::tempdir().unwrap();
    killed_copy(bench.folder.path(), copy.path());
    copy
}

/// Files that are copied in no time.
fn small(store: &mut StoreConfig) {
    store.mapped_file_size_commit_log = 1 << 20;
    store.max_message_size = 64 * 1024;
    store.mapped_file_size_consume_queue = 20 * 100;
}

fn open(root: &Path) -> Result<Broker, StartError> {
    let mut store = store_config(root);
    small(&mut store);
    Broker::start(config(), store)
}

/// The tables, without their copies.
fn tables(root: &Path) -> Vec<String> {
    let names = fs::read_dir(root.join("config")).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
    names.retain(|name| !name.ends_with(".bak"));
    names.sort();
    names
}

fn harm(path: &Path, harm: Harm) {
    let bytes = fs::read(path).unwrap_or_default();
    match harm {
        Harm::Missing => drop(fs::remove_file(path)),
        Harm::Empty => fs::write(path, b"").unwrap(),
        Harm::Zeroed => fs::write(path, vec![0; bytes.len()]).unwrap(),
        Harm::Cut => fs::write(path, &bytes[..bytes.len() / 2]).unwrap(),
        Harm::Stale => drop(fs::copy(with_bak(path), path)),
    }
}

fn with_bak(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".bak");
    name.into()
}

/// Harms files of a copy of `sample`, starts a broker and looks at what it has.
fn check(sample: &Path, harms: &[(String, Harm)]) {
    let folder = tempfile::tempdir().unwrap();
    killed_copy(sample, folder.path());
    let config = folder.path().join("config");
    harms.iter().for_each(|(name, of)| harm(&config.join(name), *of));
    let is_readable = |name: &str| fs::read(config.join(name)).is_ok_and(|bytes| bytes.trim_ascii().ends_with(b"}"));
    let has: BTreeSet<String> =
        tables(sample).into_iter().filter(|name| is_readable(name) || is_readable(&format!("{name}.bak"))).collect();
    // What nobody can read, and no copy of it.
    let mut lost: Vec<(PathBuf, Vec<u8>)> = Vec::new();
    for name in tables(sample).iter().filter(|name| !has.contains(*name) && name.ends_with(".json")) {
        let there = [config.join(name), with_bak(&config.join(name))].map(|path| (fs::read(&path), path));
        lost.extend(there.into_iter().filter_map(|(bytes, path)| Some((path, bytes.ok()?))));
    }
    let start = || open(folder.path());
    let is_needed = |path: &Path| path.to_string_lossy().contains(NEEDED);
    if lost.iter().any(|(path, _)| is_needed(path)) {
        let error = start().err().unwrap_or_else(|| panic!("{harms:?}: it starts")).to_string();
        assert!(error.contains(NEEDED) && error.contains("resetOffsetByTime"), "{harms:?}: {error}");
        // Whoever moves them away starts without them.
        for path in [config.join(NEEDED), with_bak(&config.join(NEEDED))] {
            drop(fs::remove_file(path));
        }
    }
    let broker = start().unwrap_or_else(|error| panic!("{harms:?}: {error}"));
    for (path, bytes) in lost.iter().filter(|(path, _)| !is_needed(path) && !path.ends_with("consumerFilter.json")) {
        let kept = PathBuf::from(format!("{}.broken", path.display()));
        assert_eq!(fs::read(&kept).ok().as_ref(), Some(bytes), "{harms:?}: {}", kept.display());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (addr, client) = (broker.addr().to_string(), Client::new(ClientConfig::default(), None));
    let bench = Bench { broker: Some(broker), runtime, client, addr, folder };
    let max = || bench.ask(request::GET_MAX_OFFSET, TOPIC, 0, "offset", &[]);
    assert_eq!(max(), Some(MESSAGES), "{harms:?}");
    let pulled = bench.pull(&pull_header(TOPIC, 0, 0, "*"));
    assert_eq!((code(&pulled), records(pulled.body()).len() as i64), (response::SUCCESS, MESSAGES), "{harms:?}");
    assert_eq!(number(&bench.send(TOPIC, 0, "", b"x"), "queueOffset"), Some(MESSAGES), "{harms:?}");
    if has.contains(NEEDED) {
        let offset = bench.ask(request::QUERY_CONSUMER_OFFSET, TOPIC, 0, "offset", &[("consumerGroup", "Early")]);
        assert!(offset.is_some_and(|offset| OFFSETS.contains(&offset)), "{harms:?}: {offset:?}");
    }
    let shared = bench.broker.as_ref().unwrap().shared();
    let topic = shared.topics.get(TOPIC).unwrap();
    // Queues with messages are known without the table.
    let least = if has.contains("topics.json") { QUEUES as u32 - 1 } else { 1 };
    assert!((least..=QUEUES as u32).contains(&topic.write_queues()), "{harms:?}");
    if has.contains("subscriptionGroup.json") || has.contains(NEEDED) {
        assert!(shared.groups.get("Early").is_some(), "{harms:?}");
    }
}

#[test]
fn each_table_is_read_from_its_copy_whatever_became_of_it() {
    let sample = sample();
    let names = tables(sample.path());
    for needed in ["topics.json", "subscriptionGroup.json", "consumerOffset.json"] {
        assert!(names.iter().any(|name| name == needed), "{names:?}");
        assert!(with_bak(&sample.path().join("config").join(needed)).exists(), "{needed} has a predecessor");
    }
    for of in HARMS {
        check(sample.path(), &names.iter().map(|name| (name.clone(), of)).collect::<Vec<_>>());
    }
}

/// Both cut, emptied or zeroed, as the last moments of a disk leave them.
#[test]
fn each_table_may_be_damaged_with_its_copy() {
    let sample = sample();
    for name in tables(sample.path()) {
        for of in [Harm::Empty, Harm::Zeroed, Harm::Cut] {
            check(sample.path(), &[(format!("{name}.bak"), of), (name.clone(), of)]);
        }
    }
    let names = tables(sample.path()).into_iter().filter(|name| name != NEEDED);
    let all: Vec<_> = names.flat_map(|name| [(format!("{name}.bak"), Harm::Zeroed), (name, Harm::Cut)]).collect();
    check(sample.path(), &all);
}

/// The next writing of the table would take its place.
#[test]
fn a_damaged_table_that_cannot_be_moved_keeps_the_broker_from_starting() {
    let sample = sample();
    let path = sample.path().join("config/topics.json");
    fs::write(&path, "garbage").unwrap();
    fs::write(with_bak(&path), "").unwrap();
    let taken = |name: String| sample.path().join("config/topics.json").with_extension(format!("json.{name}"));
    let names = || std::iter::once("broken".to_owned()).chain((1..10).map(|n| format!("broken.{n}")));
    names().for_each(|name| fs::create_dir(taken(name)).unwrap());
    let error = open(sample.path()).err().unwrap().to_string();
    assert!(error.contains("topics.json") && error.contains("move both away"), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "garbage");
    names().for_each(|name| fs::remove_dir(taken(name)).unwrap());
    open(sample.path()).unwrap().shutdown();
    assert_eq!(fs::read_to_string(taken("broken".into())).unwrap(), "garbage");
}

/// As by hand, or of another store: the queues are built anew from the log.
#[test]
fn a_topic_that_is_said_to_have_batch_queues_keeps_its_messages() {
    let sample = sample();
    let path = sample.path().join("config/topics.json");
    let mut table: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    table["topicConfigTable"][TOPIC]["attributes"] = json!({"queue.type": "BatchCQ"});
    fs::write(&path, table.to_string()).unwrap();
    let broker = open(sample.path()).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (addr, client) = (broker.addr().to_string(), Client::new(ClientConfig::default(), None));
    let bench = Bench { broker: Some(broker), runtime, client, addr, folder: sample };
    assert!(bench.broker.as_ref().unwrap().shared().topics.get(TOPIC).unwrap().is_batch());
    let pulled = bench.pull(&pull_header(TOPIC, 0, 0, "*"));
    assert_eq!((code(&pulled), records(pulled.body()).len() as i64), (response::SUCCESS, MESSAGES));
    assert_eq!(number(&bench.send(TOPIC, 0, "", b"x"), "queueOffset"), Some(MESSAGES));
}

/// A newer broker may have written it: nothing of it is thrown away.
#[test]
fn a_table_that_is_whole_and_not_understood_is_not_set_aside() {
    for (name, content) in [("topics.json", r#"{"topicConfigTable":7}"#), ("subscriptionGroup.json", "[1]")] {
        let sample = sample();
        let path = sample.path().join("config").join(name);
        fs::write(&path, content).unwrap();
        fs::write(with_bak(&path), "garbage").unwrap();
        let error = open(sample.path()).err().unwrap().to_string();
        assert!(error.contains(name) && error.contains("move both away"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), content);
    }
}

#[test]
fn any_of_the_tables_and_copies_may_be_damaged_at_once() {
    let sample = sample();
    let names: Vec<String> = tables(sample.path()).into_iter().flat_map(|name| [format!("{name}.bak"), name]).collect();
    for seed in 1..=24_usize {
        // Each seed is another subset, with other harms.
        let pick = |n: usize| (seed * 7919 + n * 104_729) / 13;
        let hit = names.iter().enumerate().filter(|(n, _)| pick(*n) % 3 == 0);
        let harms: Vec<_> = hit.map(|(n, name)| (name.clone(), HARMS[pick(n + 1) % HARMS.len()])).collect();
        check(sample.path(), &harms);
    }
}
