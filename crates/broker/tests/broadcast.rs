//! Where broadcasting consumers go on: those behind a proxy, those that come from it or move to it, and after a restart.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use ferromq_broker::Broker;
use ferromq_protocol::Text;
use ferromq_protocol::code::{request, response};
use ferromq_protocol::header::pull::PullHeader;
use support::*;

/// A pull of a proxy for the client, or the client's own; what it got, or where it is to go on.
fn pull(bench: &Bench, client: Option<&str>, offset: i64) -> Result<Vec<String>, i64> {
    let header = PullHeader {
        request_source: client.map(|_| 1),
        proxy_forward_client_id: client.map(Text::plain),
        ..pull_header("T", 0, offset, "*")
    };
    let answer = bench.pull(&header);
    match code(&answer) {
        response::SUCCESS => {
            Ok(records(answer.body()).into_iter().map(|r| String::from_utf8(r.body).unwrap()).collect())
        }
        response::PULL_OFFSET_MOVED => Err(number(&answer, "nextBeginOffset").unwrap()),
        other => panic!("{other}: {}", remark(&answer)),
    }
}

#[test]
fn consumers_of_a_proxy_go_on_where_they_were_and_new_ones_where_the_slowest_was() {
    let quick = || ferromq_broker::BrokerConfig { channel_expired_timeout: 3000, ..config() };
    let mut bench = start_with(quick(), |_| {});
    for n in 0..10 {
        assert_eq!(code(&bench.send("T", 0, "", n.to_string().as_bytes())), 0);
    }
    wait_until("dispatch", || bench.ask(request::GET_MAX_OFFSET, "T", 0, "offset", &[]) == Some(10));
    // Nothing is known: the first message is in memory.
    assert_eq!(pull(&bench, Some("a"), -1), Err(0));
    assert_eq!(pull(&bench, Some("a"), 8).unwrap(), ["8", "9"]);
    // A place behind the end is none, and one before the last is passed.
    assert_eq!(pull(&bench, Some("a"), 50), Err(10));
    assert_eq!(pull(&bench, Some("a"), 3).unwrap().len(), 7);
    assert_eq!(pull(&bench, Some("a"), -1), Err(8));
    assert_eq!(pull(&bench, Some("b"), 6).unwrap().len(), 4);
    let kept = |bench: &Bench| bench.broker.as_ref().unwrap().shared().offsets.query("T", "CG@broadcast", 0);
    wait_until("the slowest", || kept(&bench) == Some(6));
    assert_eq!(pull(&bench, Some("c"), -1), Err(6));
    let who = bench.call(request::QUERY_TOPIC_CONSUME_BY_WHO, b"", |frame| _ = frame.str("topic", "T"));
    assert!(!String::from_utf8_lossy(who.body()).contains('@'), "no group of the user's");

    // The consumer comes without the proxy: it goes on where the proxy left it, once, and so when it moves back.
    let beat = r#"{"clientID":"b","producerDataSet":[],"consumerDataSet":[{"groupName":"CG","consumeType":"CONSUME_PASSIVELY",
        "messageModel":"BROADCASTING","consumeFromWhere":"CONSUME_FROM_LAST_OFFSET","unitMode":false,"subscriptionDataSet":[]}]}"#;
    let beat = |bench: &Bench| assert_eq!(code(&bench.call(request::HEART_BEAT, beat.as_bytes(), |_| {})), 0);
    beat(&bench);
    assert_eq!(pull(&bench, None, 0), Err(6));
    assert_eq!(pull(&bench, None, 7).unwrap().len(), 3);
    assert_eq!(pull(&bench, None, 7).unwrap().len(), 3);
    assert_eq!(pull(&bench, Some("b"), 0), Err(7));
    assert_eq!(pull(&bench, Some("b"), 9).unwrap(), ["9"]);
    // Another group is another.
    let other = PullHeader { consumer_group: Text::plain("Other"), ..pull_header("T", 0, 0, "*") };
    assert_eq!(records(bench.pull(&other).body()).len(), 10);

    wait_until("the slowest", || kept(&bench) == Some(6));
    bench.broker.take().unwrap().shutdown();
    let broker = Broker::start(quick(), store_config(bench.folder.path())).unwrap();
    bench.addr = broker.addr().to_string();
    bench.broker = Some(broker);
    assert_eq!(pull(&bench, Some("d"), -1), Err(6));
}

#[test]
fn consumers_that_are_gone_are_forgotten_and_none_is_remembered_where_that_is_switched_off() {
    let mut config = config();
    (config.channel_expired_timeout, config.broadcast_offset_expire_second) = (100, 1);
    let bench = start_with(config.clone(), |_| {});
    for n in 0..4 {
        assert_eq!(code(&bench.send("T", 0, "", n.to_string().as_bytes())), 0);
    }
    wait_until("dispatch", || bench.ask(request::GET_MAX_OFFSET, "T", 0, "offset", &[]) == Some(4));
    assert_eq!(pull(&bench, Some("a"), 1).unwrap().len(), 3);
    let shared = bench.broker.as_ref().unwrap().shared();
    // It pulls on, so that it is not forgotten before.
    wait_until("what is kept", || {
        assert_eq!(pull(&bench, Some("a"), 1).unwrap().len(), 3);
        shared.offsets.query("T", "CG@broadcast", 0) == Some(1)
    });
    // The next one is the slowest as soon as the first is gone.
    wait_until("another slowest", || {
        assert_eq!(pull(&bench, Some("b"), 3).unwrap(), ["3"]);
        shared.offsets.query("T", "CG@broadcast", 0) == Some(3)
    });
    let answer = bench.call(request::DELETE_SUBSCRIPTIONGROUP, b"", |frame| {
        frame.str("groupName", "CG").str("cleanOffset", "true");
    });
    assert_eq!((code(&answer), shared.offsets.query("T", "CG@broadcast", 0)), (0, None));

    config.enable_broadcast_offset_store = false;
    let bench = start_with(config, |_| {});
    for n in 0..2 {
        assert_eq!(code(&bench.send("T", 0, "", n.to_string().as_bytes())), 0);
    }
    wait_until("dispatch", || bench.ask(request::GET_MAX_OFFSET, "T", 0, "offset", &[]) == Some(2));
    assert_eq!(pull(&bench, Some("a"), 1).unwrap(), ["1"]);
    assert_eq!(pull(&bench, Some("a"), -1), Err(0));
}
