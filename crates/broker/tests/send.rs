//! Sends over a real socket: what is stored, what is answered, what is refused.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use ferromq_protocol::Text;
use ferromq_protocol::code::{request, response};
use ferromq_protocol::header::send::SendHeader;
use ferromq_protocol::{Encoding, FrameWriter};
use support::*;

#[test]
fn a_sent_message_is_stored_with_what_the_broker_adds() {
    let bench = start();
    let answer = bench.send("T1", 1, "UNIQ_KEY\u{1}U1\u{2}TAGS\u{1}a\u{2}WAIT\u{1}true\u{2}k\u{1}ü\u{2}", b"hello");
    assert_eq!(code(&answer), response::SUCCESS, "{}", remark(&answer));
    assert_eq!(number(&answer, "queueId"), Some(1));
    assert_eq!(number(&answer, "queueOffset"), Some(0));
    assert_eq!(field(&answer, "transactionId").as_deref(), Some("U1"));
    assert_eq!(field(&answer, "MSG_REGION").as_deref(), Some("DefaultRegion"));
    assert_eq!(field(&answer, "TRACE_ON").as_deref(), Some("true"));
    let id = field(&answer, "msgId").unwrap();
    let (host, offset) = ferromq_protocol::id::parse_offset_message_id(&id).unwrap();
    assert_eq!((host.to_string(), offset), (bench.addr.clone(), 0));

    wait_until("dispatch", || bench.ask(request::GET_MAX_OFFSET, "T1", 1, "offset", &[]) == Some(1));
    let pulled = bench.pull(&pull_header("T1", 1, 0, "*"));
    let stored = &records(pulled.body())[0];
    assert_eq!((stored.topic.as_str(), stored.queue_id, &stored.body[..]), ("T1", 1, &b"hello"[..]));
    assert_eq!(stored.born_timestamp, 1_700_000_000_000);
    for (key, value) in [
        ("UNIQ_KEY", Some("U1")),
        ("TAGS", Some("a")),
        ("k", Some("ü")),
        ("MSG_REGION", Some("DefaultRegion")),
        ("TRACE_ON", Some("true")),
        ("CLUSTER", Some("DefaultCluster")),
        ("WAIT", None),
    ] {
        assert_eq!(stored.property(key).as_deref(), value, "{key}");
    }
}

#[test]
fn both_encodings_and_both_names_of_fields_are_taken() {
    let bench = start();
    let header = send_header("T2", 0, "UNIQ_KEY\u{1}U\u{2}");
    for encoding in [Encoding::Json, Encoding::Binary] {
        let short = bench.call_in(encoding, request::SEND_MESSAGE_V2, b"x", |frame| header.write_short(frame));
        let long = bench.call_in(encoding, request::SEND_MESSAGE, b"x", |frame| header.write_long(frame));
        assert_eq!((code(&short), code(&long)), (0, 0));
        assert_eq!(short.head().encoding, encoding);
    }
    assert_eq!(bench.ask(request::GET_MAX_OFFSET, "T2", 0, "offset", &[("committed", "false")]), Some(4));
}

#[test]
fn a_first_send_makes_the_topic_and_a_missing_id_is_made() {
    let bench = start();
    let answer = bench.send("Young", -1, "", b"x");
    assert_eq!(code(&answer), response::SUCCESS);
    assert_eq!(field(&answer, "transactionId").unwrap().len(), 32);
    let topic = bench.broker.as_ref().unwrap().shared().topics.get("Young").unwrap();
    assert_eq!((topic.read_queues(), topic.write_queues()), (4, 4));
}

#[test]
fn refusals_have_the_codes_java_users_know() {
    let bench = start();
    let refused = |header: &SendHeader<'_>, body: &[u8]| {
        let answer = bench.send_as(header, body);
        (code(&answer), remark(&answer))
    };
    assert_eq!(code(&bench.send("Known", 0, "", b"x")), 0);
    for (topic, expected) in [
        ("../../x", response::INVALID_PARAMETER),
        ("a b", response::INVALID_PARAMETER),
        ("", response::INVALID_PARAMETER),
        ("SCHEDULE_TOPIC_XXXX", response::NO_PERMISSION),
        ("RMQ_SYS_TRANS_HALF_TOPIC", response::NO_PERMISSION),
    ] {
        assert_eq!(refused(&send_header(topic, 0, ""), b"x").0, expected, "{topic:?}");
    }
    let long = "t".repeat(128);
    assert_eq!(refused(&send_header(&long, 0, ""), b"x").0, response::INVALID_PARAMETER);
    assert_eq!(refused(&send_header("Known", 4, ""), b"x").0, response::INVALID_PARAMETER);
    assert_eq!(refused(&send_header("Known", i32::MAX, ""), b"x").0, response::INVALID_PARAMETER);
    let big = vec![0; 4 * 1024 * 1024 + 1];
    assert_eq!(refused(&send_header("Known", 0, ""), &big).0, response::MESSAGE_ILLEGAL);
    let long = format!("k\u{1}{}\u{2}", "v".repeat(32_767));
    assert_eq!(refused(&send_header("Known", 0, &long), b"x").0, response::MESSAGE_ILLEGAL);
    let no_default = SendHeader { default_topic: Text::plain("Nothing"), ..send_header("Unknown", 0, "") };
    assert_eq!(refused(&no_default, b"x").0, response::TOPIC_NOT_EXIST);
    assert_eq!(bench.ask(request::GET_MAX_OFFSET, "Known", 0, "offset", &[("committed", "false")]), Some(1));
}

#[test]
fn kinds_that_are_not_served_are_never_stored() {
    let bench = start();
    let answer = bench.send("Kinds", 0, "DELAY\u{1}x\u{2}", b"x");
    assert_eq!(code(&answer), response::MESSAGE_ILLEGAL, "{}", remark(&answer));
    let prepared = SendHeader { sys_flag: 4, ..send_header("Kinds", 0, "") };
    assert_eq!(code(&bench.send_as(&prepared, b"x")), response::MESSAGE_ILLEGAL);
    assert_eq!(bench.ask(request::GET_MAX_OFFSET, "Kinds", 0, "offset", &[("committed", "false")]), Some(0));
}

#[test]
fn a_missing_field_is_named() {
    let bench = start();
    let answer = bench.call(request::SEND_MESSAGE_V2, b"x", |frame: &mut FrameWriter<'_>| {
        frame.str("a", "PG").str("b", "T");
    });
    assert_eq!(code(&answer), response::SYSTEM_ERROR);
    assert!(remark(&answer).contains("is null"), "{}", remark(&answer));
}

#[test]
fn pipelined_sends_are_all_answered_and_keep_their_order() {
    let bench = start();
    let connection = bench.connection();
    let sends = (0..500).map(|n: i32| {
        let connection = connection.clone();
        bench.runtime.spawn(async move {
            let body = n.to_be_bytes();
            connection
                .invoke(TIMEOUT, |out, opaque| {
                    let mut frame = FrameWriter::request(out, Encoding::Json, request::SEND_MESSAGE_V2, opaque, false);
                    send_header("Pipe", 0, "").write_short(&mut frame);
                    frame.finish_with_body(&body);
                })
                .await
                .unwrap()
        })
    });
    let answers: Vec<_> = sends.collect::<Vec<_>>().into_iter().map(|s| bench.runtime.block_on(s).unwrap()).collect();
    let mut offsets: Vec<i64> = answers.iter().map(|a| number(a, "queueOffset").unwrap()).collect();
    offsets.sort_unstable();
    assert_eq!(offsets, (0..500).collect::<Vec<_>>());
}

#[test]
fn a_send_that_meets_the_end_of_its_topic_is_refused_and_the_next_topic_begins_without_it() {
    let bench = start();
    assert_eq!(number(&bench.send("Gone", 0, "", b"before"), "queueOffset"), Some(0));
    let send = |frame: &mut FrameWriter<'_>| send_header("Gone", 0, "").write_short(frame);
    let answer = bench.call_as_topic_ends("Gone", request::SEND_MESSAGE_V2, b"in flight", send);
    assert_eq!(code(&answer), response::TOPIC_NOT_EXIST, "{}", remark(&answer));
    assert!(remark(&answer).contains("deleted"), "{}", remark(&answer));
    assert_eq!(number(&bench.send("Gone", 0, "", b"after"), "queueOffset"), Some(0));
    assert_eq!(bench.ask(request::GET_MAX_OFFSET, "Gone", 0, "offset", &[("committed", "false")]), Some(1));
}

/// What was delivered to its name before stands in a simple queue, and no queue has entries of two kinds.
#[test]
fn a_topic_that_is_made_with_batch_queues_begins_without_what_its_name_had() {
    let bench = start();
    assert_eq!(number(&bench.send("Late", 0, "", b"before"), "queueOffset"), Some(0));
    let shared = bench.broker.as_ref().unwrap().shared();
    // Its queues stay, as those that delayed messages make while there is no topic.
    shared.topics.delete("Late", || ()).unwrap();
    let create = |queues: &str| {
        code(&bench.call(request::UPDATE_AND_CREATE_TOPIC, b"", |frame| {
            frame.str("topic", "Late").str("readQueueNums", queues).str("writeQueueNums", queues).str("perm", "6");
            frame.str("topicFilterType", "SINGLE_TAG").str("topicSysFlag", "0").str("order", "false");
            frame.str("defaultTopic", "TBW102").str("attributes", "+queue.type=BatchCQ");
        }))
    };
    assert_eq!(create("-1"), response::INVALID_PARAMETER);
    assert_eq!(shared.store.queues("Late").len(), 1, "a refusal ends nothing");
    assert_eq!(create("1"), response::SUCCESS);
    assert!(shared.store.queues("Late").is_empty());
    assert_eq!(number(&bench.send("Late", 0, "", b"x"), "queueOffset"), Some(0));
    assert!(shared.store.find_queue("Late", 0).unwrap().is_batch());
}

#[test]
fn one_way_sends_are_stored_and_not_answered() {
    let bench = start();
    let connection = bench.connection();
    for _ in 0..3 {
        connection
            .oneway(|out, opaque| {
                let mut frame = FrameWriter::request(out, Encoding::Json, request::SEND_MESSAGE_V2, opaque, true);
                send_header("OneWay", 0, "").write_short(&mut frame);
                frame.finish_with_body(b"x");
            })
            .unwrap();
    }
    wait_until("the sends", || {
        bench.ask(request::GET_MAX_OFFSET, "OneWay", 0, "offset", &[("committed", "false")]) == Some(3)
    });
}

fn inner(body: &[u8], properties: &[u8]) -> Vec<u8> {
    let total = (4 * 5 + body.len() + 2 + properties.len()) as i32;
    let mut out = Vec::new();
    for n in [total, 0, 0, 9, body.len() as i32] {
        out.extend_from_slice(&n.to_be_bytes());
    }
    out.extend_from_slice(body);
    out.extend_from_slice(&(properties.len() as i16).to_be_bytes());
    out.extend_from_slice(properties);
    out
}

#[test]
fn a_batch_becomes_one_record_per_message_with_an_id_each() {
    let bench = start();
    let body = [inner(b"one", b"UNIQ_KEY\x01A\x02TAGS\x01t\x02"), inner(b"two", b"UNIQ_KEY\x01B\x02")].concat();
    let header = SendHeader { batch: true, ..send_header("Batch", 2, "UNIQ_KEY\u{1}WHOLE\u{2}WAIT\u{1}true\u{2}") };
    let answer = bench.call(request::SEND_BATCH_MESSAGE, &body, |frame| header.write_short(frame));
    assert_eq!(code(&answer), response::SUCCESS, "{}", remark(&answer));
    assert_eq!(field(&answer, "transactionId").as_deref(), Some("WHOLE"));
    let ids = field(&answer, "msgId").unwrap();
    let ids: Vec<&str> = ids.split(',').collect();
    assert_eq!(ids.len(), 2);
    wait_until("dispatch", || bench.ask(request::GET_MAX_OFFSET, "Batch", 2, "offset", &[]) == Some(2));
    for (n, id) in ids.iter().enumerate() {
        let (_, offset) = ferromq_protocol::id::parse_offset_message_id(id).unwrap();
        let view = bench.call(request::VIEW_MESSAGE_BY_ID, b"", |frame| {
            frame.i64("offset", offset as i64);
        });
        assert_eq!(code(&view), response::SUCCESS, "{}", remark(&view));
        let stored = &records(view.body())[0];
        assert_eq!((stored.queue_offset, stored.flag), (n as i64, 9));
        assert_eq!(stored.property("UNIQ_KEY").as_deref(), Some(["A", "B"][n]));
        assert_eq!(stored.body, [b"one", b"two"][n]);
    }
}

#[test]
fn a_broken_batch_is_refused_as_a_whole() {
    let bench = start();
    let header = SendHeader { batch: true, ..send_header("Batch", 0, "") };
    let good = inner(b"one", b"");
    let mut cut = [good.clone(), inner(b"two", b"")].concat();
    cut.pop();
    let delayed = [good.clone(), inner(b"two", b"DELAY\x013\x02")].concat();
    for body in [&cut[..], &delayed, b"", b"\0\0\0"] {
        let answer = bench.call(request::SEND_BATCH_MESSAGE, body, |frame| header.write_short(frame));
        assert_eq!(code(&answer), response::MESSAGE_ILLEGAL);
    }
    let retry = SendHeader { topic: Text::plain("%RETRY%G"), ..header };
    let answer = bench.call(request::SEND_BATCH_MESSAGE, &good, |frame| retry.write_short(frame));
    assert_eq!(code(&answer), response::MESSAGE_ILLEGAL);
    assert_eq!(bench.ask(request::GET_MAX_OFFSET, "Batch", 0, "offset", &[("committed", "false")]), Some(0));
}

#[test]
fn a_message_retried_too_often_becomes_a_dead_letter() {
    let bench = start();
    let header = SendHeader {
        reconsume_times: Some(17),
        max_reconsume_times: Some(16),
        ..send_header("%RETRY%Group", 0, "UNIQ_KEY\u{1}U\u{2}")
    };
    let answer = bench.send_as(&header, b"x");
    assert_eq!(code(&answer), response::SUCCESS, "{}", remark(&answer));
    wait_until("dispatch", || bench.ask(request::GET_MAX_OFFSET, "%DLQ%Group", 0, "offset", &[]) == Some(1));
    let pulled = bench.pull(&pull_header("%DLQ%Group", 0, 0, "*"));
    assert_eq!(records(pulled.body())[0].property("DELAY").as_deref(), Some("-1"));
}

#[test]
fn unknown_codes_are_told_and_the_connection_goes_on() {
    let bench = start();
    for unknown in [9999, -1, request::CHECK_TRANSACTION_STATE] {
        let answer = bench.call(unknown, b"", |_| {});
        assert_eq!(code(&answer), response::REQUEST_CODE_NOT_SUPPORTED);
        assert_eq!(remark(&answer), format!(" request type {unknown} not supported"));
    }
    assert_eq!(code(&bench.send("After", 0, "", b"x")), 0);
}
