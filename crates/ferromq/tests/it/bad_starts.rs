//! Starts that cannot work: one clear message, exit code 1, no panic.

use crate::process::{Server, dev_on, run};
use std::net::TcpListener;
use std::path::Path;
use std::process::Output;

fn refused(arguments: &[String]) -> String {
    let Output { status, stdout, stderr } = run(arguments, "");
    let message = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(1), "{message}");
    assert!(stdout.is_empty(), "{}", String::from_utf8_lossy(&stdout));
    assert!(!message.contains("panicked") && !message.contains("backtrace"), "{message}");
    let complaints: Vec<_> = message.lines().filter(|line| line.starts_with("ferromq: ")).collect();
    assert_eq!(complaints.len(), 1, "{message}");
    complaints[0].to_owned()
}

fn with_port(option: &str, port: u16, data: &Path) -> Vec<String> {
    let mut arguments = dev_on(data);
    let place = arguments.iter().position(|argument| argument == option).unwrap();
    arguments[place + 1] = port.to_string();
    arguments
}

#[test]
fn a_port_in_use() {
    let data = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    for option in ["--namesrv-port", "--broker-port"] {
        let message = refused(&with_port(option, port, data.path()));
        assert!(message.contains(&port.to_string()), "{option}: {message}");
    }
}

#[test]
fn a_proxy_without_a_name_server() {
    let message = refused(&["proxy".to_owned()]);
    assert!(message.contains("no name server is set: give -n"), "{message}");
}

#[test]
fn a_second_process_on_the_same_store() {
    let data = tempfile::tempdir().unwrap();
    let mut first = Server::dev(data.path());
    let message = refused(&dev_on(data.path()));
    assert!(message.contains("store"), "{message}");
    assert_eq!(first.stop("TERM").code(), Some(0), "the first one is not disturbed");
}

#[test]
fn a_folder_that_cannot_be_made() {
    let data = tempfile::tempdir().unwrap();
    let file = data.path().join("a-file");
    std::fs::write(&file, "").unwrap();
    let message = refused(&dev_on(&file.join("data")));
    assert!(message.contains("a-file/data") && message.contains("--data"), "{message}");
}

#[test]
fn a_configuration_that_cannot_be_used() {
    let data = tempfile::tempdir().unwrap();
    let conf = data.path().join("broker.conf");
    let start = || {
        let mut arguments = dev_on(data.path());
        arguments.extend(["-c".to_owned(), conf.to_str().unwrap().to_owned()]);
        refused(&arguments)
    };
    assert!(start().contains("cannot read the configuration file"));
    std::fs::write(&conf, "# a\nlistenPort=much\n").unwrap();
    assert!(start().contains("broker.conf: listenPort=much is not allowed (line 2)"));
    std::fs::write(&conf, "brokerRole=SLAVE\n").unwrap();
    assert!(start().contains("brokerRole=SLAVE cannot be served"));
}

#[test]
fn tools_say_which_server_they_did_not_reach() {
    // Nobody listens on the first port; one that was free a moment ago may be another test's.
    let closed = "127.0.0.1:1";
    for arguments in [vec!["send", "T", "x"], vec!["tail", "T"], vec!["topic", "list"], vec!["bench"]] {
        let mut arguments: Vec<String> = arguments.into_iter().map(str::to_owned).collect();
        arguments.extend(["-n".to_owned(), closed.to_owned()]);
        let message = refused(&arguments);
        assert!(message.contains(closed), "{arguments:?}: {message}");
    }
}
