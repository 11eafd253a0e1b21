//! `check-store` on the store of a `dev` that runs, has stopped, was damaged.

use crate::process::{Server, dev_on, ferromq, output_of, run};
use std::fs;
use std::path::{Path, PathBuf};

/// Files a test can read in no time.
const SETTINGS: &str = "mappedFileSizeCommitLog=16777216\nmaxHashSlotNum=1000\nmaxIndexNum=4000\n";

fn check(store: &Path, options: &[&str]) -> (i32, String, String) {
    let conf = store.with_file_name("broker.conf");
    let known = if conf.exists() { vec!["-c", conf.to_str().unwrap()] } else { Vec::new() };
    let arguments = ["check-store", store.to_str().unwrap()].into_iter().chain(known).chain(options.iter().copied());
    let output = run(arguments, "");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// A stopped store with ten messages in `Checked`.
fn stopped_store(data: &Path) -> PathBuf {
    let conf = data.join("broker.conf");
    fs::write(&conf, SETTINGS).unwrap();
    let mut dev = Server::start(ferromq(dev_on(data).into_iter().chain(["-c".into(), conf.to_str().unwrap().into()])));
    dev.wait_for("Ctrl-C stops");
    let namesrv = dev.namesrv();
    output_of(["send", "Checked", "x", "--count", "10", "-k", "key", "-n", &namesrv]);
    let store = data.join("store");
    let (code, _, errors) = check(&store, &[]);
    assert_eq!(code, 2);
    assert!(errors.contains("in use by another broker") && errors.contains(&dev.pid().to_string()), "{errors}");
    assert_eq!(dev.stop("TERM").code(), Some(0));
    store
}

fn queue_file(store: &Path) -> PathBuf {
    let queues = fs::read_dir(store.join("consumequeue/Checked")).unwrap().map(|entry| entry.unwrap().path());
    queues.map(|queue| queue.join("00000000000000000000")).find(|file| file.is_file()).unwrap()
}

#[test]
fn a_store_is_checked_and_rebuilt_by_exit_code_and_report() {
    let data = tempfile::tempdir().unwrap();
    let store = stopped_store(data.path());
    let (code, report, _) = check(&store, &[]);
    assert_eq!(code, 0, "{report}");
    assert!(report.contains("SAFE: a broker can take this store over"), "{report}");

    let file = queue_file(&store);
    let mut bytes = fs::read(&file).unwrap();
    bytes[7] ^= 1;
    fs::write(&file, &bytes).unwrap();
    let (code, report, _) = check(&store, &[]);
    assert_eq!(code, 1);
    assert!(report.contains("DAMAGED") && report.contains("Checked/") && report.contains("--rebuild"), "{report}");
    let (code, json, _) = check(&store, &["--output", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((code, json["verdict"].as_str(), json["exitCode"].as_i64()), (1, Some("damaged"), Some(1)));
    let damage = json["findings"].as_array().unwrap().iter().find(|finding| finding["severity"] == "damage").unwrap();
    assert_eq!((damage["kind"].as_str(), damage["count"].as_u64()), (Some("entry-wrong"), Some(1)), "{json}");
    assert_eq!(json["log"]["records"], 10);
    assert_eq!(json["compacted"], serde_json::json!({ "queues": 0, "messages": 0 }));

    let (code, report, _) = check(&store, &["--rebuild"]);
    assert_eq!(code, 0, "{report}");
    bytes[7] ^= 1;
    assert!(fs::read(&file).unwrap() == bytes, "as it was before the damage");
}

#[test]
fn what_is_no_store_or_cannot_be_served_has_exit_code_2() {
    let data = tempfile::tempdir().unwrap();
    let (code, _, errors) = check(data.path(), &[]);
    assert_eq!(code, 2);
    assert!(errors.contains("is no store") && errors.contains("storePathRootDir"), "{errors}");
    let queues = data.path().join("consumequeue");
    fs::create_dir_all(data.path().join("commitlog")).unwrap();
    fs::create_dir_all(&queues).unwrap();
    fs::write(queues.join("CURRENT"), "MANIFEST-000005\n").unwrap();
    let (code, report, _) = check(data.path(), &["--rebuild"]);
    assert_eq!(code, 2);
    assert!(report.contains("NOT USABLE") && report.contains("docs/migration.md"), "{report}");
    let (code, _, errors) = check(data.path(), &["-c", "/no/such/file"]);
    assert_eq!(code, 2, "{errors}");
}
