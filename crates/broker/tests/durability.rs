//! What is answered when the disk is slow or refuses: never SEND_OK for what may not be there.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::sync::Arc;

use ferromq_broker::BrokerConfig;
use ferromq_protocol::code::{request, response};
use ferromq_store::{Fault, Faults, FlushMode, Operation};
use support::*;

#[test]
fn synced_sends_are_answered_and_seen_after_the_sync() {
    let bench = start_with(config(), |store| store.flush_disk_type = FlushMode::Sync);
    for n in 0..20 {
        let answer = bench.send("T", 0, "", b"x");
        assert_eq!((code(&answer), number(&answer, "queueOffset")), (response::SUCCESS, Some(n)));
    }
    bench.wait_dispatched();
    let pulled = bench.pull(&pull_header("T", 0, 0, "*"));
    assert_eq!(records(pulled.body()).len(), 20);
    let relaxed = bench.send("T", 0, "WAIT\u{1}false\u{2}", b"x");
    assert_eq!(code(&relaxed), response::SUCCESS);
}

#[test]
fn a_failed_sync_is_never_acknowledged_and_ends_all_sends() {
    let faults = Arc::new(Faults::default());
    let bench = start_with(config(), |store| {
        store.flush_disk_type = FlushMode::Sync;
        store.faults = Some(Arc::clone(&faults));
    });
    assert_eq!(code(&bench.send("T", 0, "", b"x")), response::SUCCESS);
    faults.inject(Operation::Sync, 0, Fault::Io);
    let refused = bench.send("T", 0, "", b"x");
    assert_eq!(code(&refused), response::SERVICE_NOT_AVAILABLE, "{}", remark(&refused));
    assert_eq!(number(&refused, "queueOffset"), None);
    faults.heal(Operation::Sync);
    let after = bench.send("T", 0, "", b"x");
    assert_eq!(code(&after), response::SERVICE_NOT_AVAILABLE);
    assert!(remark(&after).contains("read-only"), "{}", remark(&after));
    // What was acknowledged is still served.
    let pulled = bench.pull(&pull_header("T", 0, 0, "*"));
    assert_eq!(records(pulled.body()).len(), 1);
}

#[test]
fn a_failed_write_refuses_the_whole_drain() {
    let faults = Arc::new(Faults::default());
    let bench = start_with(config(), |store| store.faults = Some(Arc::clone(&faults)));
    assert_eq!(code(&bench.send("T", 0, "", b"x")), response::SUCCESS);
    faults.inject(Operation::Write, 0, Fault::Io);
    let refused = bench.send("T", 0, "", b"x");
    assert_eq!(code(&refused), response::SERVICE_NOT_AVAILABLE, "{}", remark(&refused));
    let end = bench.ask(request::GET_MAX_OFFSET, "T", 0, "offset", &[("committed", "false")]);
    assert_eq!(end, Some(1));
}

#[test]
fn no_room_for_the_next_file_is_told_and_passes() {
    let faults = Arc::new(Faults::default());
    let bench = start_with(config(), |store| {
        store.mapped_file_size_commit_log = 64 * 1024;
        store.faults = Some(Arc::clone(&faults));
    });
    let body = vec![b'x'; 16 * 1024];
    assert_eq!(code(&bench.send("T", 0, "", &body)), response::SUCCESS);
    faults.inject(Operation::Allocate, 0, Fault::NoSpace);
    // What is prepared already is used up first.
    let refused =
        (0..40).map(|_| bench.send("T", 0, "", &body)).find(|answer| code(answer) != response::SUCCESS).unwrap();
    assert_eq!(code(&refused), response::SERVICE_NOT_AVAILABLE, "{}", remark(&refused));
    assert!(remark(&refused).contains("disk is full"), "{}", remark(&refused));
    faults.heal(Operation::Allocate);
    assert_eq!(code(&bench.send("T", 0, "", &body)), response::SUCCESS);
}

/// Makes the topic D.
fn create_degradable(bench: &Bench) {
    let created = bench.call(request::UPDATE_AND_CREATE_TOPIC, b"", |frame| {
        frame.str("topic", "D").str("defaultTopic", "TBW102").i32("readQueueNums", 1).i32("writeQueueNums", 1);
        frame.i32("perm", 6).str("topicFilterType", "SINGLE_TAG").str("order", "false");
        frame.str("attributes", "+degradable=true");
    });
    assert_eq!(code(&created), response::SUCCESS, "{}", remark(&created));
}

/// What senders feel of a disk that hangs: those of degradable topics are told at once, the others wait for it.
#[test]
fn degradable_topics_are_busy_while_a_sync_takes_too_long() {
    let faults = Arc::new(Faults::default());
    let bench = start_with(BrokerConfig { wait_time_mills_in_send_queue: 100, ..config() }, |store| {
        store.flush_disk_type = FlushMode::Sync;
        store.faults = Some(Arc::clone(&faults));
    });
    create_degradable(&bench);
    assert_eq!(code(&bench.send("D", 0, "", b"x")), response::SUCCESS);
    faults.inject(Operation::Sync, 0, Fault::Stall);
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| bench.send("T", 0, "", b"x"));
        let store = &bench.broker.as_ref().unwrap().shared().store;
        wait_until("a sync that hangs", || store.sync_wait() > std::time::Duration::from_millis(100));
        let busy = bench.send("D", 0, "", b"x");
        assert_eq!(code(&busy), response::SYSTEM_BUSY, "{}", remark(&busy));
        assert!(remark(&busy).starts_with("[TIMEOUT_CLEAN_QUEUE]broker busy, start flow control for a while"));
        faults.heal(Operation::Sync);
        assert_eq!(code(&waits.join().unwrap()), response::SUCCESS);
    });
    assert_eq!(code(&bench.send("D", 0, "", b"x")), response::SUCCESS);
}

/// A sync that others wait for is not made longer by what may wait itself.
#[test]
fn degradable_topics_have_few_bytes_on_their_way_to_the_disk_while_others_send() {
    let faults = Arc::new(Faults::default());
    let bench = start_with(BrokerConfig { wait_time_mills_in_send_queue: 600_000, ..config() }, |store| {
        store.flush_disk_type = FlushMode::Sync;
        store.faults = Some(Arc::clone(&faults));
    });
    create_degradable(&bench);
    let (bench, body) = (&bench, vec![b'x'; 80 * 1024]);
    let store = &bench.broker.as_ref().unwrap().shared().store;
    // The queues are made before the disk hangs, that of the other topic before anybody gives way.
    for topic in ["T", "D"] {
        assert_eq!(code(&bench.send(topic, 0, "", b"x")), response::SUCCESS);
    }
    faults.inject(Operation::Sync, 0, Fault::Stall);
    std::thread::scope(|scope| {
        let sent = |topic: &'static str, body: Vec<u8>, waiting: u64| {
            let sends = scope.spawn(move || code(&bench.send(topic, 0, "", &body)));
            wait_until("a send that is stored", || store.unflushed_bytes() > waiting);
            sends
        };
        let alone = [sent("D", body.clone(), 80 * 1024), sent("D", body.clone(), 160 * 1024)];
        let before = store.unflushed_bytes();
        let other = sent("T", vec![b'x'], before);
        let busy = bench.send("D", 0, "", b"x");
        faults.heal(Operation::Sync);
        assert_eq!(code(&busy), response::SYSTEM_BUSY, "{}", remark(&busy));
        assert!(remark(&busy).contains("topic attribute degradable"), "{}", remark(&busy));
        for sends in alone.into_iter().chain([other]) {
            assert_eq!(sends.join().unwrap(), response::SUCCESS);
        }
    });
    assert_eq!(code(&bench.send("D", 0, "", b"x")), response::SUCCESS, "nothing of it waits any more");
}
