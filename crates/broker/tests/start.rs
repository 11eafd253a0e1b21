//! Starting and stopping: ports, folders, and what the fast port serves.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::net::TcpListener;

use ferromq_broker::{Broker, BrokerConfig, StartError};
use ferromq_protocol::Encoding;
use ferromq_protocol::FrameWriter;
use ferromq_protocol::code::{request, response};
use support::*;

/// A broker on a port that was free with its second lower neighbour a moment ago, and still was.
fn start_on_a_pair() -> Bench {
    let start = |_| {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        match start_in(tempfile::tempdir().unwrap(), BrokerConfig { listen_port: port, ..config() }, |_| {}) {
            Ok(bench) => Some(bench),
            Err(StartError::Listen { .. }) => None,
            Err(error) => panic!("{error}"),
        }
    };
    (0..100).find_map(start).unwrap()
}

#[test]
fn the_fast_port_takes_sends_and_no_pulls() {
    let bench = start_on_a_pair();
    let port = bench.broker.as_ref().unwrap().addr().port();
    let fast = format!("127.0.0.1:{}", port - 2);
    let ask = |code: i32, write: &dyn Fn(&mut FrameWriter<'_>)| {
        let answer = bench.client.invoke(&fast, TIMEOUT, |out, opaque| {
            let mut frame = FrameWriter::request(out, Encoding::Json, code, opaque, false);
            write(&mut frame);
            frame.finish_with_body(b"x");
        });
        bench.runtime.block_on(answer).unwrap()
    };
    let sent = ask(request::SEND_MESSAGE_V2, &|frame| send_header("T", 0, "").write_short(frame));
    assert_eq!(code(&sent), response::SUCCESS, "{}", remark(&sent));
    for pull in [request::PULL_MESSAGE, request::LITE_PULL_MESSAGE] {
        let refused = ask(pull, &|frame| pull_header("T", 0, 0, "*").write(frame));
        assert_eq!(code(&refused), response::REQUEST_CODE_NOT_SUPPORTED);
    }
    // Message ids name the main port whatever port took the message.
    let (host, _) = ferromq_protocol::id::parse_offset_message_id(&field(&sent, "msgId").unwrap()).unwrap();
    assert_eq!(host.port(), port);
}

#[test]
fn a_taken_port_and_a_taken_folder_are_told() {
    let bench = start();
    let port = bench.broker.as_ref().unwrap().addr().port();
    let other = tempfile::tempdir().unwrap();
    let taken = Broker::start(BrokerConfig { listen_port: port, ..config() }, store_config(other.path()));
    assert!(matches!(taken.err().unwrap(), StartError::Listen { port: p, .. } if p == port));
    // Nothing was made for a broker that could not listen.
    assert_eq!(std::fs::read_dir(other.path()).unwrap().count(), 0);

    let error = Broker::start(config(), store_config(bench.folder.path())).err().unwrap();
    assert!(error.to_string().contains("in use"), "{error}");
    assert_eq!(code(&bench.send("T", 0, "", b"x")), response::SUCCESS);
}

#[test]
fn addresses_that_are_none_are_told() {
    let folder = tempfile::tempdir().unwrap();
    for wrong in [
        BrokerConfig { bind_address: "nowhere".into(), ..config() },
        BrokerConfig { broker_ip1: "nowhere".into(), ..config() },
    ] {
        let error = Broker::start(wrong, store_config(folder.path())).err().unwrap();
        assert!(error.to_string().contains("nowhere is not an IP address"), "{error}");
    }
}

#[test]
fn a_stop_answers_what_is_in_hand_and_the_next_start_finds_everything() {
    let mut bench = start();
    for n in 0..50 {
        assert_eq!(number(&bench.send("T", 0, "", b"x"), "queueOffset"), Some(n));
    }
    bench.broker.take().unwrap().shutdown();
    let again = Broker::start(config(), store_config(bench.folder.path())).unwrap();
    bench.addr = again.addr().to_string();
    bench.broker = Some(again);
    assert_eq!(bench.ask(request::GET_MAX_OFFSET, "T", 0, "offset", &[]), Some(50));
    assert_eq!(number(&bench.send("T", 0, "", b"x"), "queueOffset"), Some(50));
}
