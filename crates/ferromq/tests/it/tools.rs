//! `send`, `tail`, `topic` and `bench` against a running `dev`.

use crate::process::{Server, output_of, output_with_input, run};
use std::collections::BTreeSet;

#[test]
fn lines_of_standard_input_become_messages_with_tag_keys_and_properties() {
    let data = tempfile::tempdir().unwrap();
    let mut dev = Server::dev(data.path());
    let namesrv = dev.namesrv();
    let options = ["send", "Lines", "-n", &namesrv, "-t", "red", "-k", "k1 k2", "-P", "shape=round", "--json"];
    let sent = output_with_input(options, "one\ntwo\n\nthree");
    assert_eq!(sent.lines().filter(|line| line.contains("\"status\":\"SEND_OK\"")).count(), 3, "{sent}");
    let read = output_of(["tail", "Lines", "--from-beginning", "--count", "3", "--json", "-n", &namesrv]);
    let messages: Vec<serde_json::Value> = read.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let bodies: BTreeSet<_> = messages.iter().map(|message| message["body"].as_str().unwrap()).collect();
    assert_eq!(bodies, BTreeSet::from(["one", "three", "two"]));
    for message in &messages {
        let properties = &message["properties"];
        assert_eq!((&properties["TAGS"], &properties["KEYS"]), (&"red".into(), &"k1 k2".into()));
        assert_eq!(properties["shape"], "round");
    }
    assert_eq!(dev.stop("TERM").code(), Some(0));
}

#[test]
fn a_tail_filters_by_tag_and_by_time() {
    let data = tempfile::tempdir().unwrap();
    let mut dev = Server::dev(data.path());
    let namesrv = dev.namesrv();
    for (tag, body) in [("red", "r1"), ("blue", "b1"), ("green", "g1"), ("red", "r2")] {
        output_of(["send", "Tagged", body, "-t", tag, "-n", &namesrv]);
    }
    let read = output_of(["tail", "Tagged", "--since", "1h", "--tag", "blue || green", "--count", "2", "-n", &namesrv]);
    assert!(read.contains("[blue]  b1") && read.contains("[green]  g1") && read.lines().count() == 2, "{read}");
    assert_eq!(dev.stop("TERM").code(), Some(0));
}

#[test]
fn topics_are_created_listed_shown_and_deleted() {
    let data = tempfile::tempdir().unwrap();
    let mut dev = Server::dev(data.path());
    let namesrv = dev.namesrv();
    output_of(["topic", "create", "Made", "--queues", "5", "-n", &namesrv]);
    assert!(output_of(["topic", "list", "-n", &namesrv]).lines().any(|line| line == "Made"));
    assert!(!output_of(["topic", "list", "-n", &namesrv]).contains("TBW102"));
    assert!(output_of(["topic", "list", "--all", "-n", &namesrv]).contains("TBW102"));
    let route = output_of(["topic", "route", "Made", "-n", &namesrv]);
    let row: Vec<_> = route.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!((row[0], &row[2..]), ("broker-a", &["5", "5", "6"][..]), "{route}");
    output_of(["topic", "delete", "Made", "-n", &namesrv]);
    let gone = run(["topic", "route", "Made", "-n", &namesrv], "");
    assert_eq!(gone.status.code(), Some(1));
    assert!(!output_of(["topic", "list", "-n", &namesrv]).contains("Made"));
    let bad = run(["topic", "create", "../../x", "-n", &namesrv], "");
    assert_eq!(bad.status.code(), Some(1), "names that are paths bounce: {bad:?}");
    assert_eq!(dev.stop("TERM").code(), Some(0));
}

#[test]
fn a_bench_counts_every_message_and_the_servers_time() {
    let data = tempfile::tempdir().unwrap();
    let mut dev = Server::dev(data.path());
    let namesrv = dev.namesrv();
    let json = output_of(["bench", "--messages", "2000", "--size", "100", "--json", "-n", &namesrv]);
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    for phase in ["send", "pull"] {
        let phase = &report[phase];
        assert_eq!((phase["messages"].as_u64(), phase["failures"].as_u64()), (Some(2000), Some(0)), "{json}");
        assert!(phase["latency_micros"]["p99"].as_u64() > Some(0), "{json}");
        assert!(phase["server_cpu_micros_per_message"].is_f64(), "dev is found by its port: {json}");
    }
    let json = output_of(["bench", "pop", "--messages", "1000", "--json", "-n", &namesrv]);
    let report: serde_json::Value = serde_json::from_str(&json).unwrap();
    // The last pops under way may bring some more.
    assert!(report["pop"]["messages"].as_u64().unwrap() >= 1000, "{json}");
    assert_eq!(report["pop"]["failures"], 0, "{json}");
    let text = output_of(["bench", "pull", "--messages", "100", "-n", &namesrv, "--pid", &dev.pid().to_string()]);
    assert!(text.contains("throughput") && text.contains("server CPU"), "{text}");
    assert_eq!(dev.stop("TERM").code(), Some(0));
}
