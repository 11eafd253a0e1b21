//! Whatever brokers do, the tables agree with each other, and nothing outlives the last broker.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Register {
        cluster: u8,
        name: u8,
        addr: u8,
        id: i64,
        acting: Option<bool>,
        topics: Vec<u8>,
        version: i64,
        connection: u64,
    },
    Unregister {
        cluster: u8,
        name: u8,
        addr: u8,
    },
    Close(u64),
    Expire,
    Heartbeat {
        cluster: u8,
        addr: u8,
    },
    DeleteTopic {
        topic: u8,
        cluster: Option<u8>,
    },
    RegisterTopic {
        topic: u8,
        names: Vec<u8>,
    },
    Wipe(u8),
}

const CONNECTIONS: u64 = 4;

fn step() -> impl Strategy<Value = Step> {
    let small = || 0u8..3;
    let topics = prop::collection::vec(0u8..4, 0..4);
    let who = (small(), small(), small(), 0i64..3, any::<Option<bool>>());
    let register = (who, topics.clone(), 0i64..3, 0..CONNECTIONS).prop_map(
        |((cluster, name, addr, id, acting), topics, version, connection)| Step::Register {
            cluster,
            name,
            addr,
            id,
            acting,
            topics,
            version,
            connection,
        },
    );
    prop_oneof![
        6 => register,
        1 => (small(), small(), small()).prop_map(|(cluster, name, addr)| Step::Unregister { cluster, name, addr }),
        1 => (0..CONNECTIONS).prop_map(Step::Close),
        1 => Just(Step::Expire),
        1 => (small(), small()).prop_map(|(cluster, addr)| Step::Heartbeat { cluster, addr }),
        1 => (0u8..4, prop::option::of(small())).prop_map(|(topic, cluster)| Step::DeleteTopic { topic, cluster }),
        1 => (0u8..4, prop::collection::vec(small(), 0..3)).prop_map(|(topic, names)| Step::RegisterTopic { topic, names }),
        1 => small().prop_map(Step::Wipe),
    ]
}

fn text(kind: &str, number: u8) -> String {
    format!("{kind}{number}")
}

fn apply(table: &mut RouteTable, step: Step, now_ms: i64) {
    match step {
        Step::Register { cluster, name, addr, id, acting, topics, version, connection } => {
            let (cluster, name, addr) = (text("c", cluster), text("b", name), text("h", addr));
            let topic = |t: &u8| TopicConfig { topic_name: text("t", *t), ..TopicConfig::default() };
            let mapping = |t: &u8| TopicQueueMappingInfo {
                topic: Some(text("t", *t)),
                bname: Some(name.clone()),
                ..TopicQueueMappingInfo::default()
            };
            let body = BrokerTopics {
                data_version: DataVersion { state_version: version, timestamp: 0, counter: version },
                mappings: topics.iter().take(1).map(mapping).collect(),
                topics: topics.iter().map(topic).collect(),
                filter_servers: Some(vec!["f".into()]),
            };
            let registration = Registration {
                cluster: &cluster,
                broker_name: &name,
                broker_addr: &addr,
                broker_id: id,
                ha_server_addr: "h",
                zone_name: None,
                heartbeat_timeout_ms: 50,
                enable_acting_master: acting,
                connection,
            };
            let _ = table.register(&registration, body, now_ms);
        }
        Step::Unregister { cluster, name, addr } => {
            table.unregister(&text("c", cluster), &text("h", addr), &text("b", name));
        }
        Step::Close(connection) => {
            table.connection_closed(connection);
        }
        Step::Expire => {
            table.expire(now_ms);
        }
        Step::Heartbeat { cluster, addr } => table.heartbeat(&text("c", cluster), &text("h", addr), now_ms),
        Step::DeleteTopic { topic, cluster } => {
            table.delete_topic(&text("t", topic), cluster.map(|c| text("c", c)).as_deref());
        }
        Step::RegisterTopic { topic, names } => {
            let queue = |name: u8| QueueData { broker_name: text("b", name), perm: 6, ..QueueData::default() };
            table.register_topic(&text("t", topic), names.into_iter().map(queue).collect());
        }
        Step::Wipe(name) => {
            table.wipe_write_perm(&text("b", name));
        }
    }
}

fn agree(table: &RouteTable) {
    for (topic, queues) in &table.topics {
        assert!(!queues.is_empty(), "topic {topic} has no queues");
        assert!(table.route(topic, true).is_some());
        for (name, queue) in queues {
            assert!(table.brokers.contains_key(name), "topic {topic} is on {name}, which is gone");
            assert_eq!(name, &queue.broker_name);
        }
    }
    for names in table.mappings.values() {
        assert!(!names.is_empty() && names.keys().all(|name| table.brokers.contains_key(name)));
    }
    for (name, broker) in &table.brokers {
        assert!(!broker.broker_addrs.is_empty(), "{name} has no address");
        assert!(table.clusters.values().any(|names| names.contains(name)), "{name} is in no cluster");
        for addr in broker.broker_addrs.values() {
            let alive = table.live.iter().any(|(key, live)| key.addr == *addr && live.broker_name == *name);
            assert!(alive, "{name} has the address {addr}, which nobody keeps alive");
        }
    }
    for names in table.clusters.values() {
        assert!(!names.is_empty() && names.iter().all(|name| table.brokers.contains_key(name)));
    }
    assert!(table.filter_servers.keys().all(|key| table.live.contains_key(key)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn tables_agree_and_nothing_is_left_over(steps in prop::collection::vec(step(), 1..40)) {
        let mut table = RouteTable::default();
        for (now, step) in (0i64..).step_by(10).zip(steps) {
            apply(&mut table, step, now);
            agree(&table);
        }
        for connection in 0..CONNECTIONS {
            table.connection_closed(connection);
        }
        agree(&table);
        prop_assert!(table.brokers.is_empty() && table.topics.is_empty() && table.live.is_empty());
        prop_assert!(table.clusters.is_empty() && table.mappings.is_empty() && table.filter_servers.is_empty());
    }
}
