//! Records of a Java broker in the revive topic: what its pops left comes back here.

use ferromq_protocol::header::pop::PopMessageHeader;

use crate::client::*;
use crate::support::*;

const REVIVE: &str = "rmq_sys_REVIVE_LOG_DefaultCluster";

/// What Java's timer brings when a check point of three messages and an acknowledgement of the second are due.
fn bring(bench: &Bench, broker_name: &str) {
    let popped_at = ferromq_common::clock::now_millis() - 1000;
    let ck = format!(
        r#"{{"bm":0,"bn":"{broker_name}","c":"G","d":[0,1,2],"it":1000,"n":3,"pt":{popped_at},"q":0,"ro":0,"so":0,"t":"T"}}"#
    );
    let ack = format!(r#"{{"ao":1,"bn":"{broker_name}","c":"G","pt":{popped_at},"q":0,"so":0,"t":"T"}}"#);
    assert_eq!(code(&bench.send(REVIVE, 3, "TAGS\u{1}ck\u{2}UNIQ_KEY\u{1}T@0@0@G\u{2}", ck.as_bytes())), 0);
    assert_eq!(code(&bench.send(REVIVE, 3, "TAGS\u{1}ack\u{2}UNIQ_KEY\u{1}T@0@1@G\u{2}", ack.as_bytes())), 0);
}

/// The group stands behind the messages, as a Java broker has left it.
fn taken_over() -> Bench {
    let bench = small();
    fill(&bench, "T", 0..3);
    let shared = bench.broker.as_ref().unwrap().shared();
    shared.groups.find("G").unwrap();
    shared.offsets.commit("T", "G", 0, 3);
    bench
}

#[test]
fn what_a_timer_brings_later_comes_back_without_what_was_acknowledged() {
    let bench = taken_over();
    assert!(pop(&bench, &pop_header("T")).1.is_empty());
    bring(&bench, "broker-a");
    assert_eq!(bodies(&pop_all(&bench, &pop_header("T"), 2)), ["0", "2"]);
    // Own pops go on beside it, and another broker's records are left alone.
    fill(&bench, "T", 3..5);
    let header = PopMessageHeader { invisible_time: 300, ..pop_header("T") };
    assert_eq!(bodies(&pop(&bench, &header).1), ["3", "4"]);
    bring(&bench, "broker-b");
    assert_eq!(bodies(&pop_all(&bench, &pop_header("T"), 2)), ["3", "4"]);
    assert!(pop(&bench, &pop_header("T")).1.is_empty());
}

#[test]
fn what_stands_there_at_the_start_comes_back_and_damage_is_passed_by() {
    let bench = taken_over();
    for body in [
        "",
        "{",
        "[]",
        r#"{"n":99,"t":"T","c":"G"}"#,
        r#"{"n":2,"d":[5],"t":"T","c":"G"}"#,
        r#"{"n":1,"t":"../x","c":"G"}"#,
    ] {
        assert_eq!(code(&bench.send(REVIVE, 2, "TAGS\u{1}ck\u{2}", body.as_bytes())), 0);
    }
    let negative = r#"{"n":1,"so":-5,"q":-1,"pt":-9223372036854775808,"it":-1,"t":"T","c":"G"}"#;
    assert_eq!(code(&bench.send(REVIVE, 2, "TAGS\u{1}ck\u{2}", negative.as_bytes())), 0);
    bring(&bench, "broker-a");
    let bench = restart(bench, config());
    assert_eq!(bodies(&pop_all(&bench, &pop_header("T"), 2)), ["0", "2"]);
}
