//! `ferromq dev`: ready lines, a message there and back, a clean stop, a start on the same data.

use crate::process::{Server, dev_on, ferromq, output_of};
use std::process::Stdio;

#[test]
fn a_message_goes_in_comes_out_and_survives_a_restart() {
    let data = tempfile::tempdir().unwrap();
    let mut dev = Server::dev(data.path());
    let namesrv = dev.namesrv();
    let sent = output_of(["send", "Greetings", "hello", "-n", &namesrv]);
    assert!(sent.starts_with("SEND_OK  "), "{sent}");
    let read = || output_of(["tail", "Greetings", "--from-beginning", "--count", "1", "-n", &namesrv]);
    assert!(read().ends_with("  hello\n"), "{}", read());
    assert_eq!(dev.stop("TERM").code(), Some(0), "{}", dev.errors());

    let mut again = Server::dev(data.path());
    let namesrv = again.namesrv();
    let read = output_of(["tail", "Greetings", "--from-beginning", "--count", "1", "-n", &namesrv]);
    assert!(read.ends_with("  hello\n"), "{read}");
    assert_eq!(again.stop("INT").code(), Some(0), "Ctrl-C is a clean stop, too: {}", again.errors());
}

#[test]
fn ready_lines_are_the_ones_java_users_wait_for() {
    let data = tempfile::tempdir().unwrap();
    let mut dev = Server::start(ferromq(dev_on(data.path())));
    let namesrv = dev.wait_for("The Name Server boot success. serializeType=JSON, address 127.0.0.1:");
    let broker = dev.wait_for("The broker[broker-a, 127.0.0.1:");
    let port = namesrv.rsplit(':').next().unwrap();
    assert!(
        broker.ends_with(&format!("] boot success. serializeType=JSON and name server is 127.0.0.1:{port}")),
        "{broker}"
    );
    let send = dev.wait_for(" send Greetings ");
    assert!(send.ends_with(&format!("-n 127.0.0.1:{port}")), "the command can be copied as it is: {send}");
    assert_eq!(dev.stop("TERM").code(), Some(0));
}

#[test]
fn messages_survive_a_kill() {
    let data = tempfile::tempdir().unwrap();
    let mut dev = Server::dev(data.path());
    output_of(["send", "Kept", "one", "--count", "50", "-n", &dev.namesrv()]);
    dev.stop("KILL");
    let mut again = Server::dev(data.path());
    let read = output_of(["tail", "Kept", "--from-beginning", "--count", "50", "-n", &again.namesrv()]);
    assert_eq!(read.lines().count(), 50);
    assert_eq!(again.stop("TERM").code(), Some(0));
}

#[test]
fn a_data_folder_may_have_blanks_and_need_not_exist() {
    let data = tempfile::tempdir().unwrap();
    let folder = data.path().join("not yet/here and there");
    let mut dev = Server::dev(&folder);
    assert!(folder.join("store").is_dir());
    assert_eq!(dev.stop("TERM").code(), Some(0));
}

#[test]
fn settings_of_a_broker_conf_count_and_odd_keys_only_warn() {
    let data = tempfile::tempdir().unwrap();
    let conf = data.path().join("broker.conf");
    std::fs::write(&conf, "brokerName=mine\nbrokerNmae=x\ntimerWheelEnable=true\n").unwrap();
    let mut command = ferromq(dev_on(data.path()));
    command.arg("-c").arg(&conf);
    let mut dev = Server::start(command);
    dev.wait_for("The broker[mine, ");
    assert_eq!(dev.stop("TERM").code(), Some(0));
    let errors = dev.errors();
    assert!(errors.contains("brokerNmae (line 2) is ignored; did you mean brokerName?"), "{errors}");
}

#[test]
fn a_tail_sees_a_topic_appear_and_new_messages_as_they_come() {
    let data = tempfile::tempdir().unwrap();
    let mut dev = Server::dev(data.path());
    let namesrv = dev.namesrv();
    let mut tail = ferromq(["tail", "Later", "--count", "3", "-n", &namesrv]);
    let mut tail = Server::start({
        tail.stdin(Stdio::null());
        tail
    });
    let waits = tail.next_error();
    assert!(waits.contains("topic Later does not exist yet"), "{waits}");
    output_of(["send", "Later", "first", "-n", &namesrv]);
    tail.wait_for("  first");
    output_of(["send", "Later", "second", "-n", &namesrv]);
    tail.wait_for("  second");
    output_of(["send", "Later", "third", "-n", &namesrv]);
    tail.wait_for("  third");
    assert_eq!(dev.stop("TERM").code(), Some(0));
}
