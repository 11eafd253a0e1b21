//! A member of a group against a scripted broker: sharing, committing, sending back, resets.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]
#![allow(dead_code, reason = "not every test uses all of the fake")]

mod fake;
#[path = "fake/broker.rs"]
mod fake_broker;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fake::{Fake, WAIT, namesrv, route};
use fake_broker::Broker;
use ferromq_client::{
    Ack, Client, ClientConfig, ConsumeFrom, ConsumerConfig, Error, MessageQueue, PullStatus, ReceivedMessage,
    Subscription,
};
use ferromq_protocol::code::request;
use parking_lot::Mutex;

fn config() -> ConsumerConfig {
    ConsumerConfig {
        consume_from_where: ConsumeFrom::First,
        persist_consumer_offset_interval: Duration::from_millis(20),
        ..ConsumerConfig::new("group")
    }
}

fn client(names: &Fake) -> Client {
    Client::new(ClientConfig::new(&names.addr)).unwrap()
}

async fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let deadline = Instant::now() + WAIT;
    while !reached() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn alone_it_reads_everything_once_and_commits() {
    let broker = Broker::new(100);
    let fake = broker.start();
    let names = namesrv("orders", route(&[("a", &fake.addr)], 4));
    let client = client(&names);
    let seen: Arc<Mutex<Vec<(i32, i64)>>> = Arc::default();
    let note = seen.clone();
    let consumer = client.consumer_with(config()).subscribe("orders", Subscription::all());
    let consumer = consumer
        .start(move |m: ReceivedMessage| {
            assert_eq!(m.property("MAX_OFFSET"), Some("100"));
            note.lock().push((m.queue.queue_id, m.queue_offset));
            async { Ack::Done }
        })
        .await
        .unwrap();
    until("400 messages", || seen.lock().len() == 400).await;
    until("commits", || broker.committed.lock().values().filter(|o| **o == 100).count() == 4).await;
    consumer.shutdown().await;
    let mut seen = seen.lock().clone();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 400);
    assert_eq!(fake.asked(request::UNREGISTER_CLIENT)[0].field("consumerGroup"), "group");
    let beat = String::from_utf8(fake.asked(request::HEART_BEAT)[0].body.clone()).unwrap();
    for part in [
        r#""consumeType":"CONSUME_PASSIVELY""#,
        r#""messageModel":"CLUSTERING""#,
        r#""consumeFromWhere":"CONSUME_FROM_FIRST_OFFSET""#,
        r#""topic":"%RETRY%group""#,
        r#""topic":"orders""#,
    ] {
        assert!(beat.contains(part), "{part} in {beat}");
    }
}

#[tokio::test]
async fn members_that_come_and_go_change_the_share() {
    let broker = Broker::new(10);
    let fake = broker.start();
    let names = namesrv("orders", route(&[("a", &fake.addr)], 4));
    // "000" sorts before the client's own address, so the first two queues are the other's.
    broker.others.lock().push("000".to_owned());
    let seen: Arc<Mutex<Vec<i32>>> = Arc::default();
    let note = seen.clone();
    let client = client(&names);
    let consumer = client.consumer_with(config()).subscribe("orders", Subscription::all());
    let consumer = consumer
        .start(move |m: ReceivedMessage| {
            note.lock().push(m.queue.queue_id);
            async { Ack::Done }
        })
        .await
        .unwrap();
    until("its half", || seen.lock().len() == 20).await;
    assert!(seen.lock().iter().all(|q| *q >= 2));
    broker.others.lock().clear();
    fake.tell_all(request::NOTIFY_CONSUMER_IDS_CHANGED, "consumerGroup", "group");
    until("all of it", || seen.lock().len() == 40).await;
    // Now three more come: it keeps the last queue and commits what it gives up.
    broker.others.lock().extend(["000", "001", "002"].map(str::to_owned));
    broker.committed.lock().clear();
    fake.tell_all(request::NOTIFY_CONSUMER_IDS_CHANGED, "consumerGroup", "group");
    until("three given up", || fake.asked(request::GET_CONSUMER_LIST_BY_GROUP).len() >= 3).await;
    consumer.shutdown().await;
    assert_eq!(seen.lock().len(), 40);
}

#[tokio::test]
async fn what_is_not_done_goes_back_to_the_broker() {
    let broker = Broker::new(3);
    let fake = broker.start();
    let names = namesrv("orders", route(&[("a", &fake.addr)], 1));
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    let client = client(&names);
    let consumer = client.consumer_with(config()).subscribe("orders", Subscription::all());
    let consumer = consumer
        .start(move |m: ReceivedMessage| {
            count.fetch_add(1, Ordering::SeqCst);
            async move {
                match m.queue_offset {
                    0 => Ack::Later,
                    1 => panic!("a handler that panics"),
                    _ => Ack::Done,
                }
            }
        })
        .await
        .unwrap();
    let mut back = fake.wait_asked(request::CONSUMER_SEND_MSG_BACK, 2).await;
    until("commit", || broker.committed.lock().get(&0) == Some(&3)).await;
    consumer.shutdown().await;
    back.sort_by_key(|b| b.field("offset").to_owned());
    for (asked, offset) in back.iter().zip(["1000", "1001"]) {
        assert_eq!((asked.field("offset"), asked.field("group")), (offset, "group"));
        assert_eq!((asked.field("originTopic"), asked.field("delayLevel")), ("orders", "0"));
        assert_eq!(asked.field("maxReconsumeTimes"), "", "the group's configuration decides");
    }
    assert_eq!(calls.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_reset_moves_it() {
    let broker = Broker::new(5);
    let fake = broker.start();
    let names = namesrv("orders", route(&[("a", &fake.addr)], 1));
    broker.committed.lock().insert(0, 5);
    broker.reset_to.store(2, Ordering::SeqCst);
    let seen: Arc<Mutex<Vec<i64>>> = Arc::default();
    let note = seen.clone();
    let client = client(&names);
    let consumer = client.consumer_with(config()).subscribe("orders", Subscription::all());
    let consumer = consumer
        .start(move |m: ReceivedMessage| {
            note.lock().push(m.queue_offset);
            async { Ack::Done }
        })
        .await
        .unwrap();
    until("the last three", || seen.lock().len() == 3).await;
    consumer.shutdown().await;
    let mut seen = seen.lock().clone();
    seen.sort_unstable();
    assert_eq!(seen, [2, 3, 4]);
}

#[tokio::test]
async fn tags_of_one_hash_are_told_apart_and_skipped_messages_are_committed() {
    let broker = Broker::new(10);
    let fake = broker.start();
    let names = namesrv("orders", route(&[("a", &fake.addr)], 1));
    let seen = Arc::new(AtomicUsize::new(0));
    let count = seen.clone();
    let client = client(&names);
    let consumer = client.consumer_with(config()).subscribe("orders", Subscription::tags("Aa"));
    let consumer = consumer
        .start(move |m: ReceivedMessage| {
            assert_eq!(m.tag(), Some("Aa"));
            count.fetch_add(1, Ordering::SeqCst);
            async { Ack::Done }
        })
        .await
        .unwrap();
    until("commit", || broker.committed.lock().get(&0) == Some(&10)).await;
    consumer.shutdown().await;
    assert_eq!(seen.load(Ordering::SeqCst), 5);
}

#[tokio::test]
async fn a_client_is_one_member_of_a_group() {
    let broker = Broker::new(0);
    let fake = broker.start();
    let names = namesrv("orders", route(&[("a", &fake.addr)], 1));
    let client = client(&names);
    let begin = || client.consumer_with(config()).subscribe("orders", Subscription::all());
    let first = begin().start(|_| async { Ack::Done }).await.unwrap();
    assert!(matches!(begin().start(|_| async { Ack::Done }).await, Err(Error::Illegal(_))));
    first.shutdown().await;
    begin().start(|_| async { Ack::Done }).await.unwrap().shutdown().await;
    assert!(matches!(client.consumer("g").start(|_| async { Ack::Done }).await, Err(Error::Illegal(_))));
}

#[tokio::test]
async fn an_orderly_member_locks_and_keeps_the_order_through_failures() {
    let broker = Broker::new(20);
    let fake = broker.start();
    let names = namesrv("orders", route(&[("a", &fake.addr)], 2));
    let seen: Arc<Mutex<Vec<(i32, i64, i32)>>> = Arc::default();
    let note = seen.clone();
    let client = client(&names);
    let config =
        ConsumerConfig { suspend_current_queue_time: Duration::from_millis(20), max_reconsume_times: 2, ..config() };
    let consumer = client.consumer_with(config).subscribe("orders", Subscription::all());
    let consumer = consumer
        .start_orderly(move |m: ReceivedMessage| {
            note.lock().push((m.queue.queue_id, m.queue_offset, m.reconsume_times));
            async move {
                // The third message of the first queue succeeds at the second try, the fifth never.
                match (m.queue.queue_id, m.queue_offset, m.reconsume_times) {
                    (0, 2, 0) | (0, 4, _) => Ack::Later,
                    _ => Ack::Done,
                }
            }
        })
        .await
        .unwrap();
    until("commits", || broker.committed.lock().values().filter(|o| **o == 20).count() == 2).await;
    consumer.shutdown().await;
    let of_first: Vec<(i64, i32)> = seen.lock().iter().filter(|s| s.0 == 0).map(|s| (s.1, s.2)).collect();
    let mut wanted = vec![(0, 0), (1, 0), (2, 0), (2, 1), (3, 0), (4, 0), (4, 1), (4, 2)];
    wanted.extend((5..20).map(|o| (o, 0)));
    assert_eq!(of_first, wanted);
    let dead = fake.asked(request::CONSUMER_SEND_MSG_BACK);
    assert_eq!((dead.len(), dead[0].field("offset"), dead[0].field("delayLevel")), (1, "1004", "-1"));
    let locked = String::from_utf8(fake.asked(request::LOCK_BATCH_MQ)[0].body.clone()).unwrap();
    assert!(locked.contains(r#"{"brokerName":"a","queueId":0,"topic":"orders"}"#), "{locked}");
    let unlocked = fake.asked(request::UNLOCK_BATCH_MQ).pop().unwrap();
    assert!(String::from_utf8_lossy(&unlocked.body).contains(r#""queueId":1"#));
}

#[tokio::test]
async fn without_the_lock_nothing_is_read() {
    let broker = Broker::new(20);
    broker.locks.store(false, Ordering::SeqCst);
    let fake = broker.start();
    let names = namesrv("orders", route(&[("a", &fake.addr)], 1));
    let seen = Arc::new(AtomicUsize::new(0));
    let count = seen.clone();
    let client = client(&names);
    let consumer = client.consumer_with(config()).subscribe("orders", Subscription::all());
    let consumer = consumer
        .start_orderly(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
            async { Ack::Done }
        })
        .await
        .unwrap();
    fake.wait_asked(request::LOCK_BATCH_MQ, 1).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!((seen.load(Ordering::SeqCst), fake.asked(request::PULL_MESSAGE).len()), (0, 0));
    broker.locks.store(true, Ordering::SeqCst);
    until("all", || seen.load(Ordering::SeqCst) == 20).await;
    consumer.shutdown().await;
}

#[tokio::test]
async fn pulling_by_hand() {
    let broker = Broker::new(40);
    let fake = broker.start();
    let names = namesrv("orders", route(&[("a", &fake.addr)], 2));
    let pull = client(&names).pull_consumer("hand").unwrap();
    let queues = pull.queues("orders").await.unwrap();
    assert_eq!(queues.len(), 2);
    let first = pull.pull(&queues[1], 0, 32, &Subscription::tags("BB"), None).await.unwrap();
    assert_eq!((first.status, first.next_begin_offset, first.messages.len()), (PullStatus::Found, 32, 16));
    assert_eq!(first.messages[0].body, b"message 1");
    assert_eq!(first.messages[0].message_id(), "ID1-1");
    let asked = &fake.asked(request::PULL_MESSAGE)[0];
    assert_eq!((asked.field("sysFlag"), asked.field("subscription")), ("4", "BB"));
    assert_eq!(pull.committed_offset(&queues[1]).await.unwrap(), None);
    pull.commit_offset(&queues[1], 32).await.unwrap();
    assert_eq!(pull.committed_offset(&queues[1]).await.unwrap(), Some(32));
    let unknown = MessageQueue { broker_name: "nobody".into(), ..queues[0].clone() };
    assert!(matches!(pull.max_offset(&unknown).await, Err(Error::UnknownBroker(_))));
}
