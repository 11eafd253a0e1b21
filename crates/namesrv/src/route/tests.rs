//! The rules of the route table, and the traps in them.

use super::*;

const A0: &str = "10.0.0.1:10911";
const A1: &str = "10.0.0.2:10911";

fn master(addr: &str) -> Registration<'_> {
    Registration {
        cluster: "c1",
        broker_name: "a",
        broker_addr: addr,
        broker_id: 0,
        ha_server_addr: "10.0.0.1:10912",
        zone_name: None,
        heartbeat_timeout_ms: DEFAULT_HEARTBEAT_TIMEOUT_MS,
        enable_acting_master: Some(false),
        connection: 1,
    }
}

fn slave(addr: &str, id: i64) -> Registration<'_> {
    Registration { broker_id: id, ha_server_addr: "10.0.0.2:10912", connection: 2, ..master(addr) }
}

fn topic(name: &str, perm: i32) -> TopicConfig {
    TopicConfig { topic_name: name.into(), read_queue_nums: 4, write_queue_nums: 4, perm, ..TopicConfig::default() }
}

fn body(counter: i64, topics: &[&str]) -> BrokerTopics {
    BrokerTopics {
        data_version: DataVersion { state_version: 0, timestamp: 1, counter },
        topics: topics.iter().map(|name| topic(name, 6)).collect(),
        ..BrokerTopics::default()
    }
}

fn state_version(mut body: BrokerTopics, state_version: i64) -> BrokerTopics {
    body.data_version.state_version = state_version;
    body
}

fn with_master() -> RouteTable {
    let mut table = RouteTable::default();
    table.register(&master(A0), body(1, &["orders", "TBW102"]), 0).unwrap();
    table
}

fn perm(table: &RouteTable, topic: &str) -> i32 {
    table.route(topic, false).unwrap().queue_datas[0].perm
}

fn addrs(table: &RouteTable) -> Vec<(i64, String)> {
    table.member_group("c1", "a").broker_addrs.into_iter().collect()
}

#[test]
fn a_registration_makes_routes_and_lists() {
    let table = with_master();
    let route = table.route("orders", false).unwrap();
    assert_eq!((route.queue_datas[0].read_queue_nums, route.queue_datas[0].perm), (4, 6));
    assert_eq!(route.broker_datas[0].broker_addrs[&0], A0);
    assert!(table.route("nothing", false).is_none());
    assert_eq!(table.all_topics().topic_list.len(), 2);
    assert_eq!(table.topics_of_cluster("c1").topic_list.len(), 2);
    assert!(table.topics_of_cluster("c2").topic_list.is_empty());
    let system = table.system_topics();
    assert!(system.topic_list.contains("c1") && system.topic_list.contains("a"));
    assert_eq!(system.broker_addr.as_deref(), Some(A0));
    assert!(table.cluster_info().cluster_addr_table["c1"].contains("a"));
}

#[test]
fn an_unknown_broker_with_exactly_one_topic_is_refused() {
    let mut table = RouteTable::default();
    let refused = table.register(&master(A0), body(1, &["orders"]), 0);
    assert_eq!(refused, Err(Refused::SingleTopicOfUnknownBroker));
    assert!(table.cluster_info().broker_addr_table.is_empty(), "leaves no trace");
    // With no topic at all, or with two, it is taken; then one topic is an update of that topic.
    table.register(&master(A0), body(1, &[]), 0).unwrap();
    table.register(&master(A0), body(2, &["orders"]), 0).unwrap();
    assert!(table.route("orders", false).is_some());
    // Another id of the same broker is unknown too.
    assert!(table.register(&slave(A1, 1), body(1, &["orders"]), 0).is_err());
}

#[test]
fn slaves_learn_their_master_and_bring_no_topics() {
    let mut table = with_master();
    let answer = table.register(&slave(A1, 1), body(9, &["orders", "only-on-slave"]), 0).unwrap();
    assert_eq!(answer.master_addr.as_deref(), Some(A0));
    assert_eq!(answer.ha_server_addr.as_deref(), Some("10.0.0.1:10912"));
    assert!(table.route("only-on-slave", false).is_none());
    let answer = table.register(&master(A0), body(1, &["orders", "TBW102"]), 0).unwrap();
    assert_eq!(answer, Registered::default());
}

#[test]
fn the_lowest_slave_without_master_brings_topics_unless_it_is_old() {
    let mut table = RouteTable::default();
    let old = Registration { enable_acting_master: None, ..slave(A1, 1) };
    table.register(&old, body(1, &["orders", "x"]), 0).unwrap();
    assert!(table.route("orders", false).is_none());
    table.register(&slave(A1, 1), body(2, &["orders", "x"]), 0).unwrap();
    assert_eq!(perm(&table, "orders"), 6);
}

#[test]
fn an_acting_master_is_read_only_and_shown_under_id_0() {
    let mut table = RouteTable::default();
    let acting = |addr, id| Registration { enable_acting_master: Some(true), ..slave(addr, id) };
    table.register(&acting(A1, 2), body(1, &["orders", "x"]), 0).unwrap();
    assert_eq!(perm(&table, "orders"), 4);
    assert_eq!(table.route("orders", false).unwrap().broker_datas[0].broker_addrs.keys().next(), Some(&2));
    let route = table.route("orders", true).unwrap();
    assert_eq!(route.broker_datas[0].broker_addrs.iter().next(), Some((&0, &A1.to_owned())));
}

#[test]
fn a_lost_master_takes_the_write_permission_only_where_slaves_may_act() {
    for (acting, left) in [(true, 4), (false, 6)] {
        let mut table = RouteTable::default();
        let m = Registration { enable_acting_master: Some(acting), ..master(A0) };
        let s = Registration { enable_acting_master: Some(acting), ..slave(A1, 1) };
        table.register(&m, body(1, &["orders", "x"]), 0).unwrap();
        table.register(&s, body(1, &["orders", "x"]), 0).unwrap();
        assert!(table.unregister("c1", A0, "a"));
        assert_eq!(perm(&table, "orders"), left);
        assert_eq!(addrs(&table), [(1, A1.to_owned())]);
    }
}

#[test]
fn one_address_has_one_id() {
    let mut table = with_master();
    table.register(&slave(A1, 1), body(1, &["orders", "x"]), 0).unwrap();
    // The master dies and the slave takes its place.
    table.register(&master(A1), body(2, &["orders", "x"]), 0).unwrap();
    assert_eq!(addrs(&table), [(0, A1.to_owned())]);
}

#[test]
fn a_changed_address_with_an_older_state_is_ignored() {
    let mut table = RouteTable::default();
    table.register(&master(A0), state_version(body(1, &["orders", "x"]), 5), 0).unwrap();
    let answer = table.register(&master(A1), state_version(body(2, &["other", "x"]), 4), 0).unwrap();
    assert!(answer.outdated);
    assert_eq!(addrs(&table), [(0, A0.to_owned())]);
    assert!(table.route("other", false).is_none() && table.data_version("c1", A1).is_none());
    // The same state or a newer one moves it.
    table.register(&master(A1), state_version(body(2, &["other", "x"]), 5), 0).unwrap();
    assert_eq!(addrs(&table), [(0, A1.to_owned())]);
}

#[test]
fn wiped_permissions_come_back_with_the_next_changed_registration_only() {
    let mut table = with_master();
    assert_eq!(table.wipe_write_perm("a"), 2);
    assert_eq!(perm(&table, "orders"), 4);
    table.register(&master(A0), body(1, &["orders", "TBW102"]), 0).unwrap();
    assert_eq!(perm(&table, "orders"), 4, "same data version");
    table.register(&master(A0), body(2, &["orders", "TBW102"]), 0).unwrap();
    assert_eq!(perm(&table, "orders"), 6);
    table.wipe_write_perm("a");
    assert_eq!(table.add_write_perm("a"), 2);
    assert_eq!(perm(&table, "orders"), 6);
    assert_eq!(table.wipe_write_perm("nobody"), 0);
}

#[test]
fn a_topic_deleted_here_comes_back_with_the_next_registration() {
    let mut table = with_master();
    table.delete_topic("orders", Some("other"));
    assert!(table.route("orders", false).is_some());
    table.delete_topic("orders", Some("c1"));
    assert!(table.route("orders", false).is_none());
    table.register(&master(A0), body(1, &["orders", "TBW102"]), 0).unwrap();
    assert!(table.route("orders", false).is_some());
    table.delete_topic("orders", None);
    assert!(table.route("orders", false).is_none());
}

#[test]
fn topics_missing_in_a_registration_go_only_when_asked() {
    let mut table = with_master();
    table.register(&master(A0), body(2, &["TBW102", "x"]), 0).unwrap();
    assert!(table.route("orders", false).is_some());
    table.delete_missing_topics = true;
    table.register(&master(A0), body(3, &["TBW102", "x"]), 0).unwrap();
    assert!(table.route("orders", false).is_none() && table.route("TBW102", false).is_some());
}

#[test]
fn silence_and_closed_connections_remove_brokers_and_routes() {
    let mut table = with_master();
    table.register(&slave(A1, 1), body(1, &[]), 0).unwrap();
    table.heartbeat("c1", A0, 60_000);
    assert_eq!(table.expire(120_000), []);
    assert_eq!(table.expire(120_001), [(A1.to_owned(), 2)]);
    assert!(table.route("orders", false).is_some());
    assert_eq!(table.connection_closed(2), Vec::<String>::new());
    assert_eq!(table.connection_closed(1), [A0.to_owned()]);
    assert!(table.route("orders", false).is_none());
    assert!(table.cluster_info().cluster_addr_table.is_empty());
    assert_eq!(table.all_topics().topic_list.len(), 0);
    table.heartbeat("c1", A0, 200_000);
    assert!(table.data_version("c1", A0).is_none(), "a heartbeat registers nobody");
}

#[test]
fn the_broker_chooses_its_time_out() {
    let mut table = RouteTable::default();
    let quick = Registration { heartbeat_timeout_ms: 1000, ..master(A0) };
    table.register(&quick, body(1, &[]), 0).unwrap();
    assert_eq!(table.expire(1001).len(), 1);
    let endless = Registration { heartbeat_timeout_ms: i64::MAX, ..master(A0) };
    table.register(&endless, body(1, &[]), 5).unwrap();
    assert_eq!(table.expire(i64::MAX).len(), 0);
}

#[test]
fn a_new_connection_takes_over_from_the_old_one() {
    let mut table = with_master();
    table.register(&Registration { connection: 7, ..master(A0) }, body(1, &["orders", "x"]), 0).unwrap();
    assert!(table.connection_closed(1).is_empty());
    assert!(table.route("orders", false).is_some());
}

#[test]
fn a_renamed_broker_leaves_its_old_name() {
    let mut table = with_master();
    table.register(&Registration { broker_name: "renamed", ..master(A0) }, body(1, &["orders", "x"]), 0).unwrap();
    let names: Vec<_> = table.cluster_info().broker_addr_table.into_keys().collect();
    assert_eq!(names, ["renamed"]);
    assert_eq!(table.route("orders", false).unwrap().queue_datas.len(), 1);
}

#[test]
fn all_brokers_of_a_connection_go_with_it() {
    let mut table = with_master();
    table.register(&Registration { broker_name: "b", ..master(A1) }, body(1, &["orders", "x"]), 0).unwrap();
    assert_eq!(table.route("orders", false).unwrap().queue_datas.len(), 2);
    assert_eq!(table.connection_closed(1).len(), 2);
    assert!(table.route("orders", false).is_none());
}

#[test]
fn single_topics_need_known_brokers() {
    let mut table = with_master();
    let queue = |broker_name: &str| QueueData {
        broker_name: broker_name.into(),
        read_queue_nums: 1,
        write_queue_nums: 1,
        perm: 6,
        topic_sys_flag: 0,
    };
    assert!(!table.register_topic("new", vec![queue("nobody")]));
    assert!(table.route("new", false).is_none());
    assert!(table.register_topic("new", vec![queue("a")]));
    assert_eq!(table.route("new", false).unwrap().queue_datas[0].read_queue_nums, 1);
    assert!(!table.register_topic("new", vec![]));
}

#[test]
fn zones_keep_near_brokers_and_those_without_master() {
    let mut table = with_master();
    let in_zone = |broker_name, addr, broker_id, zone| Registration {
        broker_name,
        broker_id,
        zone_name: Some(zone),
        ..master(addr)
    };
    table.register(&in_zone("near", A1, 0, "Z1"), body(1, &["orders", "x"]), 0).unwrap();
    table.register(&in_zone("far", "10.0.0.3:1", 0, "z2"), body(1, &["orders", "x"]), 0).unwrap();
    table.register(&in_zone("headless", "10.0.0.4:1", 1, "z2"), body(1, &["orders", "x"]), 0).unwrap();
    let mut route = table.route("orders", false).unwrap();
    filter_by_zone(&mut route, "z1");
    let names: Vec<_> = route.broker_datas.iter().map(|b| b.broker_name.as_str()).collect();
    assert_eq!(names, ["headless", "near"]);
    assert_eq!(route.queue_datas.len(), 2);
}

#[test]
fn filter_servers_ride_along() {
    let mut table = RouteTable::default();
    let servers = |list: &[&str]| BrokerTopics {
        filter_servers: Some(list.iter().map(|s| (*s).to_owned()).collect()),
        ..body(1, &["orders", "x"])
    };
    table.register(&master(A0), servers(&["f:1"]), 0).unwrap();
    assert_eq!(table.route("orders", false).unwrap().filter_server_table[A0], ["f:1"]);
    table.register(&master(A0), body(1, &["orders", "x"]), 0).unwrap();
    assert_eq!(table.route("orders", false).unwrap().filter_server_table.len(), 1, "absent list changes nothing");
    table.register(&master(A0), servers(&[]), 0).unwrap();
    assert!(table.route("orders", false).unwrap().filter_server_table.is_empty());
}

#[test]
fn names_and_numbers_are_limited() {
    let mut table = RouteTable::default();
    let long = "x".repeat(MAX_NAME_BYTES + 1);
    assert_eq!(
        table.register(&Registration { cluster: &long, ..master(A0) }, body(1, &[]), 0),
        Err(Refused::IllegalName("clusterName"))
    );
    assert!(table.register(&Registration { broker_addr: "", ..master(A0) }, body(1, &[]), 0).is_err());
    assert_eq!(table.register(&master(A0), body(1, &["ok", &long, ""]), 0).unwrap().skipped_topics, 2);
    for i in 1..MAX_LIVE_BROKERS {
        let (name, addr) = (format!("b{i}"), format!("h:{i}"));
        table.register(&Registration { broker_name: &name, ..master(&addr) }, body(1, &[]), 0).unwrap();
    }
    let one_more = Registration { broker_name: "more", ..master("h:0") };
    assert_eq!(table.register(&one_more, body(1, &[]), 0), Err(Refused::TooManyBrokers));
    assert!(table.register(&master(A0), body(2, &[]), 0).is_ok(), "known ones may go on");
}

#[test]
fn unit_flags() {
    let mut table = RouteTable::default();
    let mut topics = body(1, &["plain", "unit", "sub", "both"]);
    for (topic, flag) in topics.topics.iter_mut().zip(0..) {
        topic.topic_sys_flag = flag;
    }
    table.register(&master(A0), topics, 0).unwrap();
    let names = |list: ferromq_protocol::body::TopicList| list.topic_list.into_iter().collect::<Vec<_>>();
    assert_eq!(names(table.unit_topics()), ["both", "unit"]);
    assert_eq!(names(table.unit_sub_topics()), ["both", "sub"]);
    assert_eq!(names(table.unit_sub_un_unit_topics()), ["sub"]);
}

#[test]
fn static_topic_mappings() {
    let mut table = RouteTable::default();
    let mut with_mapping = body(1, &["static", "x"]);
    with_mapping.mappings.push(TopicQueueMappingInfo {
        topic: Some("static".into()),
        bname: Some("a".into()),
        total_queues: 8,
        ..TopicQueueMappingInfo::default()
    });
    with_mapping
        .mappings
        .push(TopicQueueMappingInfo { bname: Some("another".into()), ..with_mapping.mappings[0].clone() });
    assert_eq!(table.register(&master(A0), with_mapping, 0).unwrap().skipped_topics, 1);
    let mappings = table.route("static", false).unwrap().topic_queue_mapping_by_broker.unwrap();
    assert_eq!((mappings.len(), mappings["a"].total_queues), (1, 8));
    assert!(table.route("x", false).unwrap().topic_queue_mapping_by_broker.is_none());
}
