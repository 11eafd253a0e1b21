//! The binary under the names of RocketMQ's start scripts, with their options.

use crate::process::{SMALL, Server, ferromq, output_of};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::process::Command;

fn named(name: &str, arguments: &[&str]) -> Command {
    let mut command = ferromq(arguments);
    command.arg0(format!("/opt/rocketmq/bin/{name}"));
    command
}

#[test]
fn name_server_and_broker_find_each_other() {
    let data = tempfile::tempdir().unwrap();
    let home = data.path().to_str().unwrap();
    let namesrv_conf = data.path().join("namesrv.conf");
    std::fs::write(&namesrv_conf, "listenPort=0\nbindAddress=127.0.0.1\n").unwrap();
    let mut command = named("mqnamesrv", &["-c", namesrv_conf.to_str().unwrap()]);
    command.env("HOME", home);
    let mut namesrv = Server::start(command);
    namesrv.wait_for("The Name Server boot success. serializeType=JSON, address 127.0.0.1:");
    let address = namesrv.namesrv();

    let broker_conf = data.path().join("broker.conf");
    let text = format!(
        "{SMALL}brokerName=broker-x\nbrokerIP1=127.0.0.1\nbindAddress=127.0.0.1\nlistenPort=0\nstorePathRootDir={home}/store\n"
    );
    std::fs::write(&broker_conf, text).unwrap();
    let mut command = named("mqbroker", &["-n", &address, "-c", broker_conf.to_str().unwrap()]);
    command.env("HOME", home);
    let mut broker = Server::start(command);
    let ready = broker.wait_for("The broker[broker-x, 127.0.0.1:");
    assert!(ready.ends_with(&format!("] boot success. serializeType=JSON and name server is {address}")), "{ready}");

    assert!(output_of(["send", "T", "x", "-n", &address]).starts_with("SEND_OK"));
    assert_eq!(broker.stop("TERM").code(), Some(0), "{}", broker.errors());
    assert_eq!(namesrv.stop("TERM").code(), Some(0), "{}", namesrv.errors());
}

#[test]
fn a_proxy_serves_its_own_broker_or_a_cluster() {
    let data = tempfile::tempdir().unwrap();
    let home = data.path().to_str().unwrap();
    let (broker_conf, proxy_conf) = (data.path().join("broker.conf"), data.path().join("rmq-proxy.json"));
    let text = format!(
        "{SMALL}brokerName=broker-x\nbrokerIP1=127.0.0.1\nbindAddress=127.0.0.1\nlistenPort=0\nstorePathRootDir={home}/store\n"
    );
    std::fs::write(&broker_conf, text).unwrap();
    std::fs::write(
        &proxy_conf,
        r#"{"grpcServerPort": 0, "remotingListenPort": 0, "proxyMode": "cluster", "neverHeardOf": 1}"#,
    )
    .unwrap();
    let (broker_conf, proxy_conf) = (broker_conf.to_str().unwrap(), proxy_conf.to_str().unwrap());

    let mut command = named("mqproxy", &["-pm", "LOCAL", "-bc", broker_conf, "-pc", proxy_conf]);
    command.env("HOME", home);
    let mut local = Server::start(command);
    local.wait_for("The broker[broker-x, 127.0.0.1:");
    local.wait_for("rocketmq-proxy startup successfully, gRPC at 127.0.0.1:");
    assert_eq!(local.stop("TERM").code(), Some(0), "{}", local.errors());

    // Nobody is there yet: it waits for a NameServer.
    let mut command = named("mqproxy", &["-n", "127.0.0.1:1", "-pc", proxy_conf, "--listen", "127.0.0.1"]);
    command.env("HOME", home);
    let mut cluster = Server::start(command);
    cluster.wait_for("rocketmq-proxy startup successfully, gRPC at 127.0.0.1:");
    assert_eq!(cluster.stop("TERM").code(), Some(0), "{}", cluster.errors());
    assert!(cluster.errors().contains("neverHeardOf"), "{}", cluster.errors());
}

#[test]
fn settings_are_printed_and_nothing_is_started() {
    let data = tempfile::tempdir().unwrap();
    let conf = data.path().join("broker.conf");
    std::fs::write(&conf, "brokerName=printed\nreviveQueueNum=3\n").unwrap();
    let print = |option| {
        let output = named("mqbroker", &["-c", conf.to_str().unwrap(), option]).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    let all = print("-p");
    assert!(all.contains("brokerName=printed\n") && all.contains("reviveQueueNum=3\n") && all.lines().count() > 500);
    let important = print("-m");
    assert!(important.contains("brokerName=printed\n") && important.lines().count() < 60);
    let namesrv = named("mqnamesrv", &["-p"]).output().unwrap();
    assert!(String::from_utf8(namesrv.stdout).unwrap().contains("listenPort=9876\n"));
    assert!(named("mqbroker", &["-h"]).output().unwrap().status.success());
}

#[test]
fn a_link_is_enough() {
    let bin = tempfile::tempdir().unwrap();
    let link = bin.path().join("mqnamesrv");
    symlink(env!("CARGO_BIN_EXE_ferromq"), &link).unwrap();
    let output = Command::new(link).arg("-p").output().unwrap();
    assert!(String::from_utf8(output.stdout).unwrap().contains("kvConfigPath="));
}
