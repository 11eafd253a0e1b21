//! `ferromq dlq` against a running broker: what is shown, and that a replay happens once, also over a restart.

use crate::process::{Server, output_of, output_until, run};

#[test]
fn dead_letters_are_shown_and_replayed_once_also_over_a_restart() {
    let data = tempfile::tempdir().unwrap();
    let mut server = Server::dev(data.path());
    let namesrv = server.namesrv();
    let call = |namesrv: &str, arguments: &[&str]| output_of([arguments, &["-n", namesrv]].concat());
    for n in ["1", "2", "3"] {
        call(&namesrv, &["send", "%DLQ%G", n, "-k", &format!("k{n}")]);
    }
    // Groups are those that the NameServer knows; the broker tells it of a new topic soon after the send.
    let has_all = |listed: &str| listed.lines().any(|line| line.starts_with("G ") && line.contains(" 3 "));
    let listed = output_until(&["dlq", "list", "-n", &namesrv], has_all);
    assert!(has_all(&listed), "{listed}");
    assert_eq!(call(&namesrv, &["dlq", "search", "G"]).lines().count(), 3);
    let exported = call(&namesrv, &["dlq", "export", "G", "--key", "k2"]);
    assert!(exported.lines().count() == 1 && exported.contains("\"body\":\"2\""), "{exported}");

    let unsaid = run(["dlq", "replay", "G", "-n", &namesrv], "");
    assert!(!unsaid.status.success(), "{unsaid:?}");
    let dry = call(&namesrv, &["dlq", "replay", "G", "--all", "--dry-run"]);
    assert!(dry.ends_with("3 would be replayed, 0 passed over, 0 failed\n"), "{dry}");
    let one = call(&namesrv, &["dlq", "replay", "G", "--key", "k1"]);
    assert!(one.ends_with("1 replayed, 0 passed over, 0 failed\n"), "{one}");

    assert!(server.stop("TERM").success());
    let server = Server::dev(data.path());
    let namesrv = server.namesrv();
    let rest = call(&namesrv, &["dlq", "replay", "G", "--all"]);
    assert!(rest.ends_with("2 replayed, 1 passed over, 0 failed\n"), "{rest}");
    let again = call(&namesrv, &["dlq", "replay", "G", "--all"]);
    assert!(again.ends_with("0 replayed, 3 passed over, 0 failed\n"), "{again}");
    let delivered = call(&namesrv, &["tail", "%RETRY%G", "--from-beginning", "--count", "3", "--json"]);
    assert_eq!(delivered.lines().count(), 3, "{delivered}");
}
