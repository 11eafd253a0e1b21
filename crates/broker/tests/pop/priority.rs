//! Messages with a priority: stored in the queue of that number, popped from the most important queue first.

use ferromq_broker::BrokerConfig;
use ferromq_protocol::body::{SubscriptionGroupConfig, TopicConfig};
use ferromq_protocol::header::pop::PopMessageHeader;

use crate::client::*;
use crate::support::*;

/// A topic of four priorities with one message of each of 0, 9, 1, 2 and one without any, in queue 1.
fn with_priorities(config: BrokerConfig) -> Bench {
    let bench = small_with(config);
    let topic = TopicConfig {
        topic_name: "P".into(),
        read_queue_nums: 4,
        write_queue_nums: 4,
        perm: 6,
        attributes: [("+message.type".to_owned(), "PRIORITY".to_owned())].into(),
        ..TopicConfig::default()
    };
    let shared = bench.broker.as_ref().unwrap().shared();
    shared.topics.update(vec![topic]).unwrap();
    for (priority, stored_in) in [("0", 0), ("9", 3), ("1", 1), ("2", 2), ("none", 1)] {
        let answer = bench.send("P", 1, &format!("_SYS_MSG_PRIORITY_\u{1}{priority}\u{2}"), priority.as_bytes());
        assert_eq!((code(&answer), number(&answer, "queueId")), (0, Some(stored_in)), "priority {priority}");
    }
    bench
}

fn popped(bench: &Bench, header: &PopMessageHeader<'_>) -> Vec<String> {
    bodies(&pop(bench, header).1).into_iter().map(str::to_owned).collect()
}

#[test]
fn the_most_important_are_popped_first() {
    let bench = with_priorities(config());
    for expected in ["9", "2", "1", "none", "0"] {
        // Whatever its turn, a pop begins there.
        assert_eq!(popped(&bench, &PopMessageHeader { max_msg_nums: 1, ..pop_header("P") }), [expected]);
    }
    let other = PopMessageHeader { consumer_group: "H".into(), queue_id: 1, ..pop_header("P") };
    assert_eq!(popped(&bench, &other), ["1", "none"]);
}

#[test]
fn the_first_queue_may_be_the_most_important_one() {
    let mut config = config();
    config.pop.priority_order_asc = false;
    let bench = with_priorities(config);
    assert_eq!(popped(&bench, &pop_header("P")), ["0", "1", "none", "2", "9"]);
}

#[test]
fn a_group_may_want_all_queues_alike() {
    let bench = with_priorities(config());
    let group = |name: &str, factor: &str| {
        let attributes = [("+priority.factor".to_owned(), factor.to_owned())].into();
        let config = SubscriptionGroupConfig { group_name: name.into(), attributes, ..Default::default() };
        bench.broker.as_ref().unwrap().shared().groups.update(vec![config]).unwrap();
    };
    let firsts = |factor: &str| -> usize {
        (0..8)
            .filter(|n| {
                let name = format!("F{factor}-{n}");
                group(&name, factor);
                let header =
                    PopMessageHeader { consumer_group: name.as_str().into(), max_msg_nums: 1, ..pop_header("P") };
                popped(&bench, &header) == ["9"]
            })
            .count()
    };
    assert_eq!(firsts("100"), 8);
    assert_eq!(firsts("0"), 2, "each of four queues comes first in its turn");
}

#[test]
fn a_priority_holds_for_nothing_but_priority_messages() {
    let bench = small();
    let answer = bench.send("T", 1, "_SYS_MSG_PRIORITY_\u{1}3\u{2}__SHARDINGKEY\u{1}k\u{2}", b"x");
    assert_eq!((code(&answer), number(&answer, "queueId")), (0, Some(1)));
    let (_, messages) = pop(&bench, &pop_header("T"));
    assert_eq!(ferromq_protocol::properties::get_str(&messages[0].properties, "_SYS_MSG_PRIORITY_"), None);
}
