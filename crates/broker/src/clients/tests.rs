//! Heartbeats, expiry and change notices of the client tables, without sockets.

use super::*;

type Table = Clients<u64>;

fn client(connection_id: u64, id: &str) -> Client<u64> {
    Client {
        connection: connection_id,
        connection_id,
        client_id: Arc::from(id),
        address: "127.0.0.1:5000".parse().unwrap(),
        language: 0,
        version: 513,
    }
}

fn data(topic: &str, text: &str, version: i64) -> SubscriptionData {
    SubscriptionData {
        topic: topic.into(),
        sub_string: text.into(),
        sub_version: version,
        expression_type: "TAG".into(),
        ..Default::default()
    }
}

fn beat(subscriptions: Option<Vec<SubscriptionData>>) -> ConsumerBeat {
    ConsumerBeat {
        consume_type: ConsumeType::ConsumePassively,
        message_model: MessageModel::Clustering,
        consume_from_where: ConsumeFromWhere::ConsumeFromLastOffset,
        subscriptions,
        fingerprint: 0,
        notify: true,
    }
}

fn subscribing(topics: &[&str]) -> ConsumerBeat {
    beat(Some(topics.iter().map(|topic| data(topic, "*", 1)).collect()))
}

fn notified(table: &Table) -> Vec<u64> {
    let mut all: Vec<u64> = table.take_notices().into_iter().flat_map(|(_, members)| members).collect();
    all.sort_unstable();
    all
}

#[test]
fn members_come_stay_and_leave_and_the_others_are_told() {
    let table = Table::default();
    let now = Instant::now();
    let outcome = table.consumer_beat("g", client(1, "a"), subscribing(&["T"]), now).unwrap();
    assert_eq!(outcome, BeatOutcome { changed: true, wants_subscriptions: true });
    assert_eq!(notified(&table), [1]);
    table.consumer_beat("g", client(2, "b"), subscribing(&["T"]), now).unwrap();
    assert_eq!(notified(&table), [1, 2]);
    assert!(!table.consumer_beat("g", client(2, "b"), subscribing(&["T"]), now).unwrap().changed);
    assert!(notified(&table).is_empty());
    assert_eq!(table.consumer_ids("g"), ["a", "b"]);

    table.unregister_consumer("g", 1);
    assert_eq!(notified(&table), [2]);
    assert_eq!(table.consumer_ids("g"), ["b"]);
    table.connection_closed(2);
    assert!(notified(&table).is_empty());
    assert!(table.consumer_ids("g").is_empty());
    assert!(table.consumer("g", "T").is_none());
    assert!(table.tables.read().of_connection.is_empty());
    assert_eq!(table.tables.read().subscription_bytes, 0);
}

#[test]
fn a_client_with_two_connections_is_listed_once() {
    let table = Table::default();
    let now = Instant::now();
    table.consumer_beat("g", client(1, "a"), subscribing(&["T"]), now).unwrap();
    table.consumer_beat("g", client(2, "a"), subscribing(&["T"]), now).unwrap();
    assert_eq!(table.consumer_ids("g"), ["a"]);
    table.connection_closed(1);
    assert_eq!(table.consumer_ids("g"), ["a"]);
}

#[test]
fn broadcasting_groups_and_groups_that_do_not_want_it_are_not_told() {
    let table = Table::default();
    let now = Instant::now();
    let broadcast = ConsumerBeat { message_model: MessageModel::Broadcasting, ..subscribing(&["T"]) };
    table.consumer_beat("broadcast", client(1, "a"), broadcast, now).unwrap();
    let quiet = ConsumerBeat { notify: false, ..subscribing(&["T"]) };
    table.consumer_beat("quiet", client(1, "a"), quiet, now).unwrap();
    table.connection_closed(1);
    assert!(notified(&table).is_empty());
}

#[test]
fn a_newer_subscription_replaces_and_an_older_one_does_not() {
    let table = Table::default();
    let now = Instant::now();
    let text = |table: &Table| table.consumer("g", "T").unwrap().subscription.unwrap().data.sub_string.clone();
    table.consumer_beat("g", client(1, "a"), beat(Some(vec![data("T", "x", 5)])), now).unwrap();
    notified(&table);
    let outcome = table.consumer_beat("g", client(1, "a"), beat(Some(vec![data("T", "y", 6)])), now).unwrap();
    assert!(!outcome.changed);
    assert_eq!(text(&table), "y");
    table.consumer_beat("g", client(2, "b"), beat(Some(vec![data("T", "z", 4)])), now).unwrap();
    assert_eq!(text(&table), "y");
}

#[test]
fn topics_that_a_heartbeat_leaves_out_are_dropped() {
    let table = Table::default();
    let now = Instant::now();
    table.consumer_beat("g", client(1, "a"), subscribing(&["T", "U"]), now).unwrap();
    notified(&table);
    assert!(table.consumer_beat("g", client(1, "a"), subscribing(&["U", "V"]), now).unwrap().changed);
    assert_eq!(notified(&table), [1]);
    assert!(table.consumer("g", "T").unwrap().subscription.is_none());
    assert!(table.consumer("g", "V").unwrap().subscription.is_some());
    assert!(table.groups_of_topic("T").is_empty());
    assert_eq!(table.groups_of_topic("U"), [Arc::from("g")]);
}

#[test]
fn a_heartbeat_without_subscriptions_keeps_them() {
    let table = Table::default();
    let now = Instant::now();
    let first = ConsumerBeat { fingerprint: 7, ..subscribing(&["T"]) };
    assert!(!table.consumer_beat("g", client(1, "a"), first, now).unwrap().wants_subscriptions);
    let light = || ConsumerBeat { fingerprint: 7, ..beat(None) };
    let outcome = table.consumer_beat("g", client(1, "a"), light(), now).unwrap();
    assert_eq!(outcome, BeatOutcome { changed: false, wants_subscriptions: false });
    assert!(table.consumer("g", "T").unwrap().subscription.is_some());

    let other = ConsumerBeat { fingerprint: 8, ..beat(None) };
    assert!(table.consumer_beat("g", client(2, "b"), other, now).unwrap().wants_subscriptions);
    assert!(table.consumer_beat("fresh", client(1, "a"), light(), now).unwrap().wants_subscriptions);
}

#[test]
fn silent_clients_expire() {
    let table = Table::default();
    let start = Instant::now();
    let timeout = Duration::from_secs(120);
    table.consumer_beat("g", client(1, "a"), subscribing(&["T"]), start).unwrap();
    table.producer_beat("p", client(1, "a"), start).unwrap();
    let later = start + Duration::from_secs(100);
    table.consumer_beat("g", client(2, "b"), subscribing(&["T"]), later).unwrap();
    notified(&table);
    assert!(table.expire(start + timeout, timeout).is_empty());
    assert_eq!(table.expire(start + timeout + Duration::from_secs(1), timeout), [1]);
    assert_eq!(table.consumer_ids("g"), ["b"]);
    assert!(table.producers("p").is_none());
    assert_eq!(notified(&table), [2]);
}

#[test]
fn producers_come_and_leave() {
    let table = Table::default();
    let now = Instant::now();
    table.producer_beat("p", client(1, "a"), now).unwrap();
    table.producer_beat("p", client(2, "b"), now).unwrap();
    table.producer_beat("p", client(1, "a"), now).unwrap();
    assert_eq!(table.producers("p").unwrap().len(), 2);
    table.unregister_producer("p", 1);
    table.connection_closed(2);
    assert!(table.producers("p").is_none());
    assert!(table.tables.read().of_connection.is_empty());
}

#[test]
fn tables_are_bounded() {
    let table = Table::default();
    let now = Instant::now();
    for n in 0..MAX_GROUPS_PER_CONNECTION {
        table.producer_beat(&format!("p{n}"), client(1, "a"), now).unwrap();
    }
    assert_eq!(table.producer_beat("more", client(1, "a"), now), Err(ClientsFull::GroupsOfConnection));
    assert!(table.producers("more").is_none());
    let many = beat(Some((0..=MAX_SUBSCRIPTIONS_PER_GROUP).map(|n| data(&format!("T{n}"), "*", 1)).collect()));
    assert_eq!(table.consumer_beat("g", client(2, "a"), many, now), Err(ClientsFull::Subscriptions));
    table.tables.write().subscription_bytes = MAX_SUBSCRIPTION_BYTES - 10;
    let one_more = subscribing(&["T"]);
    assert_eq!(table.consumer_beat("g", client(2, "a"), one_more, now), Err(ClientsFull::SubscriptionBytes));
    for n in 0..MAX_CLIENTS_PER_GROUP as u64 {
        table.producer_beat("full", client(10 + n, "a"), now).unwrap();
    }
    assert_eq!(table.producer_beat("full", client(9, "a"), now), Err(ClientsFull::Clients));
    assert!(!table.tables.read().of_connection.contains_key(&9));
    let members = table.tables.read().members;
    assert_eq!(members, MAX_GROUPS_PER_CONNECTION + MAX_CLIENTS_PER_GROUP);
    table.tables.write().subscription_bytes = 0;
    table.tables.write().members = MAX_MEMBERS;
    assert_eq!(table.consumer_beat("g", client(8, "a"), subscribing(&["T"]), now), Err(ClientsFull::Members));
    assert!(table.consumer_group("g").is_none());
    table.producer_beat("full", client(10, "a"), now).unwrap();
    table.connection_closed(1);
    table.consumer_beat("g", client(8, "a"), subscribing(&["T"]), now).unwrap();
}

#[test]
fn a_group_whose_members_differ_is_reported_once_for_each_change() {
    let table = Table::default();
    let now = Instant::now();
    let reported = |table: &Table| table.tables.read().consumers["g"].reported;
    let tell = |connection: u64, tags: &str| {
        let id = connection.to_string();
        table.consumer_beat("g", client(connection, &id), beat(Some(vec![data("T", tags, 1)])), now).unwrap();
    };
    tell(1, "a");
    assert_eq!((reported(&table), table.differing_groups().len()), (None, 0));
    tell(2, "b");
    let first = reported(&table);
    assert!(first.is_some());
    assert_eq!(table.differing_groups(), [Arc::from("g")]);
    for _ in 0..3 {
        tell(1, "a");
        tell(2, "b");
        assert_eq!(reported(&table), first);
    }
    tell(3, "c");
    assert_ne!(reported(&table), first);
    table.unregister_consumer("g", 3);
    tell(2, "a");
    assert_eq!((reported(&table), table.differing_groups().len()), (None, 0));
    tell(2, "b");
    assert_eq!(reported(&table), first);
}

#[test]
fn the_digest_knows_order_from_content() {
    assert_eq!(
        group::digest(&[data("T", "a", 1), data("U", "b", 1)]),
        group::digest(&[data("U", "b", 2), data("T", "a", 2)])
    );
    assert_ne!(group::digest(&[data("T", "a", 1)]), group::digest(&[data("T", "b", 1)]));
}
