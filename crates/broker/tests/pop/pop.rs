//! Pop, acknowledge, change, come back; and all of it across kills and restarts.

use ferromq_protocol::Text;
use ferromq_protocol::code::{request, response};
use ferromq_protocol::header::pop::PopMessageHeader;
use ferromq_protocol::pop::ReceiptHandle;

use crate::client::*;
use crate::support::*;

/// Time enough for some requests on a busy machine.
const SHORT: i64 = 2000;

#[test]
fn messages_are_handed_out_once_with_what_handles_are_made_of() {
    let bench = small();
    fill(&bench, "T", 0..40);
    let (answer, first) = pop(&bench, &pop_header("T"));
    assert_eq!((code(&answer), remark(&answer).as_str()), (response::SUCCESS, "FOUND"));
    assert_eq!(bodies(&first), (0..32).map(|n| n.to_string()).collect::<Vec<_>>());
    assert_eq!(field(&answer, "startOffsetInfo").unwrap(), "0 0 0");
    assert_eq!((number(&answer, "restNum"), number(&answer, "invisibleTime")), (Some(8), Some(60_000)));
    assert!((0..8).contains(&number(&answer, "reviveQid").unwrap()));
    let (_, second) = pop(&bench, &pop_header("T"));
    assert_eq!(bodies(&second), (32..40).map(|n| n.to_string()).collect::<Vec<_>>());
    let (answer, none) = pop(&bench, &pop_header("T"));
    assert_eq!((code(&answer), none.len()), (response::POLLING_TIMEOUT, 0));
    // Another group has its own.
    let other = PopMessageHeader { consumer_group: Text::plain("H"), max_msg_nums: 3, ..pop_header("T") };
    assert_eq!(bodies(&pop(&bench, &other).1), ["0", "1", "2"]);
    // What was handed out counts as consumed: the lag of a group is what it has still to pop.
    let committed = bench.ask(request::QUERY_CONSUMER_OFFSET, "T", 0, "offset", &[("consumerGroup", "G")]);
    assert_eq!(committed, Some(40));
}

#[test]
fn tags_select_and_what_they_leave_out_is_passed_by() {
    let bench = small();
    fill(&bench, "T", 0..10);
    let odd = PopMessageHeader { exp: Some(Text::plain("odd")), ..pop_header("T") };
    let (answer, found) = pop(&bench, &odd);
    assert_eq!(bodies(&found), ["1", "3", "5", "7", "9"]);
    assert_eq!(field(&answer, "msgOffsetInfo").unwrap(), "0 0 1,3,5,7,9");
    found.iter().for_each(|message| ack(&bench, message));
    assert!(pop(&bench, &pop_header("T")).1.is_empty());
    fill(&bench, "T", 10..12);
    let none = PopMessageHeader { exp: Some(Text::plain("other")), ..pop_header("T") };
    assert!(pop(&bench, &none).1.is_empty());
    assert!(pop(&bench, &pop_header("T")).1.is_empty());
}

#[test]
fn sql_selects_among_the_first_deliveries_and_among_those_that_come_back() {
    let bench = small();
    fill(&bench, "T", 0..10);
    let exp = Some(Text::plain("TAGS = 'odd' AND UNIQ_KEY <> 'id7'"));
    let sql = PopMessageHeader { exp, exp_type: Some(Text::plain("SQL92")), invisible_time: 2_500, ..pop_header("T") };
    let (_, first) = pop(&bench, &sql);
    assert_eq!(bodies(&first), ["1", "3", "5", "9"]);
    first[..3].iter().for_each(|message| ack(&bench, message));
    let again = pop_one(&bench, &sql);
    assert_eq!((again.body.as_str(), again.reconsume_times), ("9", 1));
    ack(&bench, &again);
    // One that waits is answered by the first message it wants.
    let waits = PopMessageHeader { poll_time: 25_000, born_time: ferromq_common::clock::now_millis(), ..sql };
    let (_, found) = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| pop(&bench, &waits));
        wait_until("a pop that waits", || bench.broker.as_ref().unwrap().shared().pops.waiting() == 1);
        fill(&bench, "T", 10..14);
        waiting.join().unwrap()
    });
    assert_eq!(found.first().map(|message| message.body.as_str()), Some("11"));
    let wrong = PopMessageHeader { exp: Some(Text::plain("a >")), ..sql };
    assert_eq!(code(&pop(&bench, &wrong).0), response::SUBSCRIPTION_PARSE_FAILED);
}

#[test]
fn a_group_with_too_much_unacknowledged_gets_no_more() {
    let mut config = config();
    config.pop.enable_pop_message_threshold = true;
    config.pop.pop_inflight_message_threshold = 9;
    let bench = small_with(config);
    fill(&bench, "T", 0..40);
    let ten = PopMessageHeader { max_msg_nums: 10, ..pop_header("T") };
    let first = pop(&bench, &ten).1;
    assert_eq!(first.len(), 10);
    let (answer, none) = pop(&bench, &ten);
    assert_eq!((code(&answer), none.len()), (response::POLLING_TIMEOUT, 0));
    // What a full queue keeps back counts as left, also beside messages of another queue.
    assert_eq!(number(&answer, "restNum"), Some(30));
    bench.send("T", 1, "UNIQ_KEY\u{1}beside\u{2}", b"beside");
    let (answer, one) = pop(&bench, &ten);
    assert_eq!((bodies(&one), number(&answer, "restNum")), (vec!["beside"], Some(30)));
    let other = PopMessageHeader { consumer_group: Text::plain("H"), ..ten };
    assert_eq!(pop(&bench, &other).1.len(), 10);
    let waits = PopMessageHeader { poll_time: 25_000, born_time: ferromq_common::clock::now_millis(), ..ten };
    let (_, second) = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| pop(&bench, &waits));
        wait_until("a pop that waits", || bench.broker.as_ref().unwrap().shared().pops.waiting() == 1);
        ack(&bench, &first[4]);
        waiting.join().unwrap()
    });
    assert_eq!(second.first().map(|message| message.queue_offset), Some(10));
    let update = bench.call(request::UPDATE_BROKER_CONFIG, b"enablePopMessageThreshold=false", |_| {});
    assert_eq!(code(&update), 0);
    assert_eq!(pop(&bench, &pop_header("T")).1.len(), 20);
}

#[test]
fn one_queue_can_be_popped_alone() {
    let bench = small();
    fill(&bench, "T", 0..3);
    let queue = |queue_id| PopMessageHeader { queue_id, ..pop_header("T") };
    assert!(pop(&bench, &queue(1)).1.is_empty());
    assert_eq!(pop(&bench, &queue(0)).1.len(), 3);
}

#[test]
fn what_is_not_acknowledged_comes_back_through_the_retry_topic() {
    let bench = small();
    fill(&bench, "T", 0..4);
    let header = PopMessageHeader { invisible_time: SHORT, ..pop_header("T") };
    let first = pop(&bench, &header).1;
    let popped_at = ReceiptHandle::parse(&first[0].handle).unwrap().pop_time;
    ack(&bench, &first[0]);
    ack(&bench, &first[2]);
    let again = pop_all(&bench, &header, 2);
    assert_eq!(bodies(&again), ["1", "3"]);
    for message in &again {
        assert_eq!((message.topic.as_str(), message.real_topic.as_str()), ("T", "%RETRY%G_T"));
        assert_eq!(message.reconsume_times, 1);
        let property = |name| ferromq_protocol::properties::get_str(&message.properties, name);
        assert_eq!(property("1ST_POP_TIME"), Some(popped_at.to_string().as_str()));
        assert_eq!(property("ORIGIN_GROUP"), Some("G"));
        assert!(property("UNIQ_KEY").unwrap().starts_with("id"));
    }
    ack(&bench, &again[0]);
    let third = pop_all(&bench, &header, 1);
    assert_eq!((bodies(&third), third[0].reconsume_times), (vec!["3"], 2));
    // An acknowledgement after the expiry is answered and changes nothing.
    ack(&bench, &again[1]);
    ack(&bench, &third[0]);
    sleep(2 * SHORT as u64);
    assert!(pop(&bench, &header).1.is_empty());
    assert_eq!(bench.broker.as_ref().unwrap().shared().pops.check_points(), 0);
}

#[test]
fn what_was_popped_from_a_deleted_topic_is_forgotten() {
    let bench = small();
    fill(&bench, "T", 0..2);
    let before = pop(&bench, &pop_header("T")).1;
    assert_eq!(before.len(), 2);
    assert_eq!(code(&bench.call(request::DELETE_TOPIC_IN_BROKER, b"", |frame| _ = frame.str("topic", "T"))), 0);
    assert_eq!(bench.broker.as_ref().unwrap().shared().pops.check_points(), 0);
    fill(&bench, "T", 5..6);
    assert_eq!(bench.lag("G", "T"), [1, 0, 0, 1, 0]);
    let after = pop(&bench, &pop_header("T")).1;
    assert_eq!(bodies(&after), ["5"]);
    // The handle of the message that had this offset before.
    ack(&bench, &before[0]);
    assert_eq!(bench.lag("G", "T")[4], 1);
    ack(&bench, &after[0]);
    assert_eq!(bench.lag("G", "T"), [1, 1, 1, 0, 0]);
}

#[test]
fn a_kill_brings_nothing_back_that_was_popped_from_a_deleted_topic() {
    for messages in [1, 4] {
        let bench = small();
        fill(&bench, "T", 0..2);
        assert_eq!(pop(&bench, &pop_header("T")).1.len(), 2);
        assert_eq!(code(&bench.call(request::DELETE_TOPIC_IN_BROKER, b"", |frame| _ = frame.str("topic", "T"))), 0);
        fill(&bench, "T", 5..5 + messages);
        let bench = kill(bench, config());
        assert_eq!(bench.broker.as_ref().unwrap().shared().pops.check_points(), 0);
        let expected: Vec<String> = (5..5 + messages).map(|n| n.to_string()).collect();
        assert_eq!(bodies(&pop(&bench, &pop_header("T")).1), expected, "the group begins with the topic");
    }
}

#[test]
fn what_was_tried_too_often_ends_among_the_dead_letters() {
    let bench = small();
    fill(&bench, "T", 0..1);
    let header = PopMessageHeader { invisible_time: 50, ..pop_header("T") };
    pop_one(&bench, &header);
    let group = r#"{"groupName":"G","retryMaxTimes":1}"#;
    let answer = bench.call(request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, group.as_bytes(), |_| {});
    assert_eq!(code(&answer), 0);
    let again = pop_one(&bench, &header);
    assert_eq!(again.reconsume_times, 1);
    let dead = || bench.ask(request::GET_MAX_OFFSET, "%DLQ%G", 0, "offset", &[]) == Some(1);
    wait_until("the dead letter", dead);
    let letter = &records(bench.pull(&pull_header("%DLQ%G", 0, 0, "*")).body())[0];
    assert_eq!((letter.body.as_slice(), letter.property("DLQ_ORIGIN_TOPIC")), (&b"0"[..], Some("T".to_owned())));
    assert_eq!(letter.property("DLQ_ORIGIN_MESSAGE_ID").as_deref(), Some("id0"));
    assert!(pop(&bench, &header).1.is_empty());
}

#[test]
fn the_invisible_time_of_one_message_can_be_changed() {
    let bench = small();
    fill(&bench, "T", 0..3);
    let header = PopMessageHeader { invisible_time: SHORT, ..pop_header("T") };
    let popped = pop(&bench, &header).1;
    let kept = change(&bench, &popped[1], 60_000).unwrap();
    assert_ne!(kept.handle, popped[1].handle);
    // The old handle is of no use any more.
    assert_eq!(change(&bench, &popped[1], 60_000), Err(response::NO_MESSAGE));
    let again = pop_all(&bench, &header, 2);
    assert_eq!(bodies(&again), ["0", "2"]);
    // Back at once.
    change(&bench, &kept, 0).unwrap();
    assert_eq!(pop_one(&bench, &header).body, "1");
}

#[test]
fn retried_messages_of_the_second_naming_come_back_too() {
    let mut settings = config();
    settings.pop.enable_retry_topic_v2 = true;
    let bench = small_with(settings.clone());
    fill(&bench, "T", 0..1);
    let header = PopMessageHeader { invisible_time: 100, ..pop_header("T") };
    pop_one(&bench, &header);
    assert_eq!(pop_one(&bench, &header).real_topic, "%RETRY%G+T");
    let bench = kill(bench, settings);
    let again = pop_one(&bench, &header);
    assert_eq!((again.real_topic.as_str(), again.reconsume_times), ("%RETRY%G+T", 2));
    ack(&bench, &again);
}

#[test]
fn a_kill_takes_neither_what_was_popped_nor_what_was_acknowledged() {
    let bench = small();
    fill(&bench, "T", 0..10);
    let header = PopMessageHeader { invisible_time: 4000, ..pop_header("T") };
    let popped = pop(&bench, &PopMessageHeader { max_msg_nums: 6, ..header }).1;
    popped[..4].iter().for_each(|message| ack(&bench, message));
    let changed = change(&bench, &popped[4], 60_000).unwrap();
    let bench = kill(bench, config());
    // Nothing of it is popped again before its time, and what follows is.
    assert_eq!(bodies(&pop(&bench, &header).1), ["6", "7", "8", "9"]);
    ack(&bench, &changed);
    let back = pop_all(&bench, &header, 1);
    assert_eq!(bodies(&back), ["5"]);
    ack(&bench, &back[0]);
    let bench = restart(bench, config());
    let back = pop_all(&bench, &header, 4);
    assert_eq!(bodies(&back), ["6", "7", "8", "9"]);
    back.iter().for_each(|message| ack(&bench, message));
    let bench = kill(bench, config());
    assert!(pop(&bench, &header).1.is_empty());
    assert_eq!(bench.broker.as_ref().unwrap().shared().pops.check_points(), 0);
}

#[test]
fn under_sync_flush_everything_works_and_is_on_the_disk_when_it_is_answered() {
    let sync = |store: &mut ferromq_store::StoreConfig| store.flush_disk_type = ferromq_store::FlushMode::Sync;
    let bench = start_with(config(), sync);
    fill(&bench, "T", 0..4);
    let header = PopMessageHeader { invisible_time: SHORT, ..pop_header("T") };
    let popped = pop_all(&bench, &header, 4);
    let store = &bench.broker.as_ref().unwrap().shared().store;
    for message in &popped[..2] {
        let before = store.max_physical_offset();
        ack(&bench, message);
        assert!(store.flushed_position() > before);
    }
    let before = store.max_physical_offset();
    let kept = change(&bench, &popped[2], 60_000).unwrap();
    assert!(store.flushed_position() > before);
    assert_eq!(bodies(&pop_all(&bench, &header, 1)), ["3"]);
    ack(&bench, &kept);
}

#[test]
fn a_reset_is_popped_from_and_survives_a_restart() {
    let bench = small();
    fill(&bench, "T", 0..5);
    pop(&bench, &pop_header("T")).1.iter().for_each(|message| ack(&bench, message));
    bench.broker.as_ref().unwrap().shared().offsets.reset("T", "G", 0, 2);
    let one = PopMessageHeader { max_msg_nums: 1, ..pop_header("T") };
    assert_eq!(bodies(&pop(&bench, &one).1), ["2"]);
    let bench = restart(bench, config());
    assert_eq!(bodies(&pop(&bench, &one).1), ["3"]);
}

#[test]
fn a_group_begins_where_it_asks_to() {
    let bench = start_with(config(), |store| store.access_message_in_memory_max_ratio = 0);
    fill(&bench, "T", 0..5);
    let newest = PopMessageHeader { init_mode: 1, ..pop_header("T") };
    let mut found = Vec::new();
    // Old data is read by another thread, whose answer waits for messages.
    let patient = PopMessageHeader { poll_time: 25_000, ..newest };
    wait_until("the newest message", || {
        found = pop(&bench, &patient).1;
        !found.is_empty()
    });
    assert_eq!(bodies(&found), ["4"]);
    let oldest = PopMessageHeader { init_mode: 0, poll_time: 25_000, consumer_group: Text::plain("H"), ..newest };
    assert_eq!(pop(&bench, &oldest).1.len(), 5);
}

#[test]
fn acknowledgements_may_come_in_one_request() {
    let bench = small();
    fill(&bench, "T", 0..12);
    let header = PopMessageHeader { invisible_time: SHORT, ..pop_header("T") };
    let popped = pop(&bench, &header).1;
    let handle = ReceiptHandle::parse(&popped[0].handle).unwrap();
    // All but 0, 1 and 11: bits 2..=10.
    let body = format!(
        r#"{{"brokerName":"broker-a","acks":[{{"c":"G","t":"T","r":"0","so":{},"q":0,"rq":{},"pt":{},"it":{SHORT},"b":"/Ac="}}]}}"#,
        handle.start_offset, handle.revive_queue, handle.pop_time
    );
    assert_eq!(code(&bench.call(request::BATCH_ACK_MESSAGE, body.as_bytes(), |_| {})), 0);
    assert_eq!(bodies(&pop_all(&bench, &header, 3)), ["0", "1", "11"]);
}

#[test]
fn what_is_popped_and_not_acknowledged_counts_in_the_lag() {
    let bench = small();
    fill(&bench, "T", 0..40);
    let ten = PopMessageHeader { max_msg_nums: 10, ..pop_header("T") };
    let first = pop(&bench, &ten).1;
    // End, consumed, pulled; ready, in flight.
    assert_eq!(bench.lag("G", "T"), [40, 0, 10, 30, 10]);
    first[3..].iter().for_each(|message| ack(&bench, message));
    assert_eq!(bench.lag("G", "T"), [40, 7, 10, 30, 3]);
    // What comes back waits in the retry topic.
    let short = PopMessageHeader { max_msg_nums: 2, invisible_time: 3 * SHORT, ..pop_header("T") };
    assert_eq!(pop(&bench, &short).1.len(), 2);
    assert_eq!(bench.lag("G", "T"), [40, 7, 12, 28, 5]);
    wait_until("two come back", || bench.lag("G", "T") == [40, 9, 12, 28, 3]);
    wait_until("they are ready again", || bench.lag("G", "%RETRY%G_T")[3] == 2);
    first[..3].iter().for_each(|message| ack(&bench, message));
    while let (_, found) = pop(&bench, &pop_header("T"))
        && !found.is_empty()
    {
        found.iter().for_each(|message| ack(&bench, message));
    }
    assert_eq!(bench.lag("G", "T"), [40, 40, 40, 0, 0]);
    assert_eq!(bench.lag("G", "%RETRY%G_T")[3..], [0, 0]);
}

#[test]
fn a_restart_forgets_nothing_of_the_lag() {
    let bench = small();
    fill(&bench, "T", 0..40);
    let ten = PopMessageHeader { max_msg_nums: 10, ..pop_header("T") };
    ack(&bench, &pop(&bench, &ten).1[4]);
    let before = bench.lag("G", "T");
    assert_eq!(before, [40, 1, 10, 30, 9]);
    let bench = restart(bench, config());
    assert_eq!(bench.lag("G", "T"), before);
}
