//! What a producer sends, and what it does when brokers fail.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]
#![allow(dead_code, reason = "not every test uses all of the fake")]

mod fake;

use std::time::{Duration, Instant};

use fake::{Fake, namesrv, route, stored};
use ferromq_client::{Client, ClientConfig, Error, Message, ProducerConfig, SendStatus};
use ferromq_protocol::code::{request, response};
use ferromq_remoting::InvokeError;

fn broker(code: i32) -> Fake {
    Fake::start(move |asked| match asked.code {
        request::HEART_BEAT | request::UNREGISTER_CLIENT => Some((0, vec![], vec![])),
        _ => Some(stored(code, asked.field("e"))),
    })
}

fn client(namesrv: &Fake) -> Client {
    Client::new(ClientConfig::new(&namesrv.addr)).unwrap()
}

fn property(text: &str, name: &str) -> String {
    let pairs = text.split('\u{2}').filter_map(|p| p.split_once('\u{1}'));
    pairs.filter(|(n, _)| *n == name).map(|(_, v)| v.to_owned()).next().unwrap_or_default()
}

#[tokio::test]
async fn one_message() {
    let broker = broker(0);
    let names = namesrv("orders", route(&[("a", &broker.addr)], 4));
    let producer = client(&names).producer("group").unwrap();
    let message = Message::new("orders", "hello").tag("t").keys(["k"]).property("colour", "red").flag(5);
    let sent = producer.send(&message).await.unwrap();
    assert_eq!((sent.status, sent.queue_offset, sent.queue.broker_name.as_str()), (SendStatus::Ok, 42, "a"));
    assert_eq!(sent.offset_message_id, "7F00000100002A9F0000000000000000");
    let asked = &broker.asked(request::SEND_MESSAGE_V2)[0];
    assert_eq!(asked.body, b"hello");
    for (key, value) in [
        ("a", "group"),
        ("b", "orders"),
        ("c", "TBW102"),
        ("d", "4"),
        ("f", "0"),
        ("h", "5"),
        ("j", "0"),
        ("m", "false"),
        ("n", "a"),
    ] {
        assert_eq!(asked.field(key), value, "{key}");
    }
    let properties = asked.field("i");
    assert_eq!(property(properties, "TAGS"), "t");
    assert_eq!(property(properties, "colour"), "red");
    assert_eq!(property(properties, "UNIQ_KEY"), sent.message_id);
    assert_eq!(sent.message_id.len(), 32);
    // The broker hears of the producer without waiting for the next beat.
    let beat = &broker.wait_asked(request::HEART_BEAT, 1).await[0];
    assert!(String::from_utf8_lossy(&beat.body).contains(r#""producerDataSet":[{"groupName":"group"}]"#));
    producer.shutdown().await;
    assert_eq!(broker.asked(request::UNREGISTER_CLIENT)[0].field("producerGroup"), "group");
}

#[tokio::test]
async fn binary_headers_carry_the_same() {
    let broker = broker(0);
    let names = namesrv("orders", route(&[("a", &broker.addr)], 1));
    let config = ClientConfig { encoding: ferromq_protocol::Encoding::Binary, ..ClientConfig::new(&names.addr) };
    let producer = Client::new(config).unwrap().producer("group").unwrap();
    let sent = producer.send(&Message::new("orders", "hello").property("colour", "rot-grün")).await.unwrap();
    assert_eq!(sent.queue_offset, 42);
    let asked = &broker.asked(request::SEND_MESSAGE_V2)[0];
    assert_eq!((asked.field("b"), property(asked.field("i"), "colour").as_str()), ("orders", "rot-grün"));
}

#[tokio::test]
async fn long_bodies_are_compressed_when_that_helps() {
    let broker = broker(0);
    let names = namesrv("orders", route(&[("a", &broker.addr)], 1));
    let producer = client(&names).producer("group").unwrap();
    let mut state = 1u32;
    let noise: Vec<u8> = (0..5000)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect();
    for (body, compressed) in [(vec![b'x'; 4096], false), (vec![b'x'; 4097], true), (noise, false)] {
        let sent = producer.send(&Message::new("orders", body.clone())).await.unwrap();
        assert_eq!(sent.status, SendStatus::Ok);
        let asked = broker.asked(request::SEND_MESSAGE_V2).pop().unwrap();
        assert_eq!(asked.field("f"), if compressed { "769" } else { "0" });
        assert_eq!(asked.body == body, !compressed);
    }
}

#[tokio::test]
async fn queues_take_turns() {
    let broker = broker(0);
    let names = namesrv("orders", route(&[("a", &broker.addr)], 3));
    let producer = client(&names).producer("group").unwrap();
    let mut queues = Vec::new();
    for _ in 0..6 {
        queues.push(producer.send(&Message::new("orders", "x")).await.unwrap().queue.queue_id);
    }
    queues.sort();
    assert_eq!(queues, [0, 0, 1, 1, 2, 2]);
    assert_eq!(names.asked(request::GET_ROUTEINFO_BY_TOPIC).len(), 1, "the route is kept");
}

#[tokio::test]
async fn a_failing_broker_is_left_for_another_with_the_same_id() {
    let (bad, good) = (broker(response::SYSTEM_BUSY), broker(0));
    let names = namesrv("orders", route(&[("a", &bad.addr), ("b", &good.addr)], 4));
    let producer = client(&names).producer("group").unwrap();
    for _ in 0..8 {
        let sent = producer.send(&Message::new("orders", "x")).await.unwrap();
        assert_eq!(sent.queue.broker_name, "b");
    }
    let tried = bad.asked(request::SEND_MESSAGE_V2);
    assert!(!tried.is_empty());
    let stored: Vec<String> =
        good.asked(request::SEND_MESSAGE_V2).iter().map(|a| property(a.field("i"), "UNIQ_KEY")).collect();
    for asked in tried {
        assert!(stored.contains(&property(asked.field("i"), "UNIQ_KEY")));
    }
}

#[tokio::test]
async fn three_tries_and_no_more_and_none_after_a_final_answer() {
    for (code, tries) in [(response::SERVICE_NOT_AVAILABLE, 3), (response::MESSAGE_ILLEGAL, 1)] {
        let bad = broker(code);
        let names = namesrv("orders", route(&[("a", &bad.addr)], 4));
        let producer = client(&names).producer("group").unwrap();
        let error = producer.send(&Message::new("orders", "x")).await.unwrap_err();
        assert_eq!(error.code(), Some(code));
        assert_eq!(bad.asked(request::SEND_MESSAGE_V2).len(), tries);
    }
}

#[tokio::test]
async fn a_dead_broker_costs_no_message() {
    let good = broker(0);
    let names = namesrv("orders", route(&[("a", "127.0.0.1:1"), ("b", &good.addr)], 1));
    let producer = client(&names).producer("group").unwrap();
    for _ in 0..4 {
        assert_eq!(producer.send(&Message::new("orders", "x")).await.unwrap().queue.broker_name, "b");
    }
}

#[tokio::test]
async fn stored_without_flush_is_an_answer_not_an_error() {
    let slow = broker(response::FLUSH_DISK_TIMEOUT);
    let names = namesrv("orders", route(&[("a", &slow.addr)], 4));
    let client = client(&names);
    let producer = client.producer("group").unwrap();
    let sent = producer.send(&Message::new("orders", "x")).await.unwrap();
    assert_eq!(sent.status, SendStatus::FlushDiskTimeout);
    assert_eq!(slow.asked(request::SEND_MESSAGE_V2).len(), 1);
    let config = ProducerConfig { retry_another_broker_when_not_store_ok: true, ..ProducerConfig::new("g2") };
    let again = client.producer_with(config).unwrap().send(&Message::new("orders", "x")).await.unwrap();
    assert_eq!(again.status, SendStatus::FlushDiskTimeout);
    assert_eq!(slow.asked(request::SEND_MESSAGE_V2).len(), 4);
}

#[tokio::test]
async fn silence_ends_at_the_time_out() {
    let silent = Fake::start(|_| None);
    let names = namesrv("orders", route(&[("a", &silent.addr)], 4));
    let time = Duration::from_millis(200);
    let config = ProducerConfig { send_msg_timeout: time, ..ProducerConfig::new("g") };
    let producer = client(&names).producer_with(config).unwrap();
    let start = Instant::now();
    let error = producer.send(&Message::new("orders", "x")).await.unwrap_err();
    // The time that is set, and not the three seconds of others.
    let (Error::TimedOut { after, .. } | Error::Unreachable { source: InvokeError::Timeout(after), .. }) = error else {
        panic!("{error}");
    };
    assert!(after <= time && start.elapsed() >= time - Duration::from_millis(10), "{after:?} {:?}", start.elapsed());
}

#[tokio::test]
async fn a_new_topic_takes_the_route_of_the_default_topic() {
    let broker = broker(0);
    let names = namesrv("TBW102", route(&[("a", &broker.addr)], 8));
    let client = client(&names);
    let producer = client.producer("group").unwrap();
    let mut ids = Vec::new();
    for _ in 0..8 {
        let sent = producer.send(&Message::new("fresh", "x")).await.unwrap();
        assert_eq!(sent.queue.topic, "fresh");
        ids.push(sent.queue.queue_id);
    }
    assert!(ids.iter().all(|id| *id < 4), "{ids:?}");
    let none = client.pull_consumer("g").unwrap().queues("fresh").await;
    assert!(matches!(none, Err(Error::NoRoute { .. })), "readers do not invent topics");
}

#[tokio::test]
async fn keys_and_selectors_choose_the_queue() {
    let broker = broker(0);
    let names = namesrv("orders", route(&[("a", &broker.addr)], 4));
    let producer = client(&names).producer("group").unwrap();
    let message = Message::new("orders", "x");
    // "polygenelubricants" has Java's smallest hash, whose absolute value does not exist.
    for key in ["polygenelubricants", "4711"] {
        let first = producer.send_by_key(&message, key).await.unwrap().queue;
        assert_eq!(producer.send_by_key(&message, key).await.unwrap().queue, first);
    }
    let chosen = producer.send_by(&message, |queues| queues.len() - 1).await.unwrap();
    assert_eq!(chosen.queue.queue_id, 3);
    assert!(matches!(producer.send_by(&message, |q| q.len()).await, Err(Error::Illegal(_))));
    let queue = chosen.queue;
    assert_eq!(producer.send_to(&message, &queue).await.unwrap().queue, queue);
}

#[tokio::test]
async fn a_batch_is_one_request() {
    let broker = broker(0);
    let names = namesrv("orders", route(&[("a", &broker.addr)], 1));
    let producer = client(&names).producer("group").unwrap();
    let messages = [Message::new("orders", "one").flag(7), Message::new("orders", "two").tag("t")];
    let sent = producer.send_batch(&messages).await.unwrap();
    let ids: Vec<&str> = sent.message_id.split(',').collect();
    assert_eq!(ids.len(), 2);
    let asked = &broker.asked(request::SEND_BATCH_MESSAGE)[0];
    assert_eq!(asked.field("m"), "true");
    let one = format!("UNIQ_KEY\u{1}{}\u{2}", ids[0]);
    let mut wanted = ((22 + 3 + one.len()) as u32).to_be_bytes().to_vec();
    wanted.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 3]);
    wanted.extend(b"one");
    wanted.extend((one.len() as u16).to_be_bytes());
    wanted.extend(one.as_bytes());
    assert!(asked.body.starts_with(&wanted));
    assert!(producer.send_batch(&[]).await.is_err());
    let mixed = [Message::new("orders", "one"), Message::new("other", "two")];
    assert!(matches!(producer.send_batch(&mixed).await, Err(Error::Illegal(_))));
}

#[tokio::test]
async fn oneway_wants_no_answer() {
    let broker = broker(0);
    let names = namesrv("orders", route(&[("a", &broker.addr)], 1));
    let producer = client(&names).producer("group").unwrap();
    producer.send_oneway(&Message::new("orders", "x")).await.unwrap();
    assert_eq!(broker.wait_asked(request::SEND_MESSAGE_V2, 1).await[0].body, b"x");
}

#[tokio::test]
async fn the_next_name_server_is_asked_when_one_is_down() {
    let broker = broker(0);
    let names = namesrv("orders", route(&[("a", &broker.addr)], 1));
    for order in [format!("127.0.0.1:1;{}", names.addr), format!("{};127.0.0.1:1", names.addr)] {
        let producer = Client::new(ClientConfig::new(order)).unwrap().producer("group").unwrap();
        assert_eq!(producer.send(&Message::new("orders", "x")).await.unwrap().status, SendStatus::Ok);
    }
    assert!(matches!(Client::new(ClientConfig::new(" ; ")), Err(Error::NoNameServer)));
    let lost = Client::new(ClientConfig::new("127.0.0.1:1")).unwrap();
    let error = lost.producer("g").unwrap().send(&Message::new("orders", "x")).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
}
