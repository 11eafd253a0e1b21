//! Routes as a client uses them (RocketMQ 5.5 `MQClientInstance`): which queues can be written, which can be read.
//!
//! Pure but for [`fetch`].

use ferromq_protocol::body::TopicRouteData;
use ferromq_protocol::code::{request, response};
use ferromq_protocol::header::namesrv::GetRouteInfoHeader;
use ferromq_protocol::sys_flag::perm;
use ferromq_protocol::{FrameWriter, Text};

use crate::client::{MASTER_ID, Shared, body_of};
use crate::error::{Error, Result};
use crate::message::MessageQueue;

/// Most queues of one topic on one broker that this client believes in.
const MAX_QUEUES: i32 = 65_536;

/// The route of one topic.
#[derive(Debug)]
pub(crate) struct Route {
    pub data: TopicRouteData,
    /// Queues that take messages, sorted by broker and number.
    pub publish: Vec<MessageQueue>,
    /// Queues that can be read, sorted.
    pub subscribe: Vec<MessageQueue>,
    /// It is the route of the default topic: the topic itself does not exist yet.
    pub from_default: bool,
}

impl Route {
    pub fn new(topic: &str, data: TopicRouteData) -> Self {
        let mut route = Route { publish: Vec::new(), subscribe: Vec::new(), from_default: false, data };
        let queues = |broker_name: &str, count: i32| {
            let (topic, broker_name) = (topic.to_owned(), broker_name.to_owned());
            (0..count.clamp(0, MAX_QUEUES)).map(move |queue_id| MessageQueue {
                topic: topic.clone(),
                broker_name: broker_name.clone(),
                queue_id,
            })
        };
        let data = &route.data;
        for queue in data.queue_datas.iter().filter(|q| perm::is_readable(q.perm)) {
            route.subscribe.extend(queues(&queue.broker_name, queue.read_queue_nums));
        }
        let has_master = |name: &str| {
            data.broker_datas.iter().any(|b| b.broker_name == name && b.broker_addrs.contains_key(&MASTER_ID))
        };
        let order = data.order_topic_conf.as_deref().unwrap_or_default();
        if order.is_empty() {
            for queue in &data.queue_datas {
                if perm::is_writeable(queue.perm) && has_master(&queue.broker_name) {
                    route.publish.extend(queues(&queue.broker_name, queue.write_queue_nums));
                }
            }
        } else {
            // `broker:queues;broker:queues`, fixed by an administrator so that the number never changes.
            for (broker_name, count) in order.split(';').filter_map(|part| part.trim().split_once(':')) {
                route.publish.extend(queues(broker_name, count.trim().parse().unwrap_or(0)));
            }
        }
        route.publish.sort();
        route.subscribe.sort();
        route
    }

    /// The route of the default topic, for a topic that the first send creates with at most `queues` queues a broker.
    pub fn of_default(topic: &str, mut data: TopicRouteData, queues: i32) -> Self {
        for queue in &mut data.queue_datas {
            queue.read_queue_nums = queue.read_queue_nums.min(queues);
            queue.write_queue_nums = queue.read_queue_nums;
        }
        Route { from_default: true, ..Route::new(topic, data) }
    }
}

/// Asks a name server.
pub(crate) async fn fetch(shared: &Shared, topic: &str) -> Result<TopicRouteData> {
    let header = GetRouteInfoHeader { topic: Text::plain(topic), accept_standard_json_only: Some(true) };
    let fields = |writer: &mut FrameWriter<'_>| header.write(writer);
    let answer = shared.ask_namesrv(request::GET_ROUTEINFO_BY_TOPIC, fields, &[]).await;
    let answer = answer.map_err(|e| match e.code() {
        Some(response::TOPIC_NOT_EXIST) => Error::NoRoute { topic: topic.to_owned() },
        _ => e,
    })?;
    body_of("name server", &answer)
}

#[cfg(test)]
mod tests {
    use ferromq_protocol::body::{BrokerData, QueueData};

    use super::*;

    fn data(brokers: &[(&str, i64, i32, i32, i32)]) -> TopicRouteData {
        let mut data = TopicRouteData::default();
        for (name, id, read, write, perm) in brokers {
            data.queue_datas.push(QueueData {
                broker_name: (*name).to_owned(),
                read_queue_nums: *read,
                write_queue_nums: *write,
                perm: *perm,
                topic_sys_flag: 0,
            });
            let mut broker = BrokerData { broker_name: (*name).to_owned(), ..BrokerData::default() };
            broker.broker_addrs.insert(*id, format!("{name}:1"));
            data.broker_datas.push(broker);
        }
        data
    }

    fn texts(queues: &[MessageQueue]) -> Vec<String> {
        queues.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn only_masters_with_permission_are_written() {
        let route =
            Route::new("t", data(&[("b", 0, 1, 2, 6), ("a", 0, 2, 1, 6), ("slave", 1, 1, 1, 6), ("ro", 0, 1, 1, 4)]));
        assert_eq!(texts(&route.publish), ["t@a:0", "t@b:0", "t@b:1"]);
        assert_eq!(texts(&route.subscribe), ["t@a:0", "t@a:1", "t@b:0", "t@ro:0", "t@slave:0"]);
    }

    #[test]
    fn order_configuration_and_default_topic() {
        let mut ordered = data(&[("a", 0, 4, 4, 6)]);
        ordered.order_topic_conf = Some("a:1;b:2;broken".into());
        assert_eq!(texts(&Route::new("t", ordered).publish), ["t@a:0", "t@b:0", "t@b:1"]);
        let route = Route::of_default("t", data(&[("a", 0, 8, 16, 7)]), 2);
        assert_eq!(texts(&route.publish), ["t@a:0", "t@a:1"]);
        assert!(route.from_default);
        assert!(Route::new("t", data(&[("a", 0, -1, i32::MIN, 6)])).publish.is_empty());
    }
}
