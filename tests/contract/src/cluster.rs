//! A NameServer with one broker, and topics that clients can find there.

use crate::server::{Broker, Make, Namesrv, free_ports};
use crate::tools::Tools;
use crate::wire::{Conn, code};
use crate::{Outcome, Stop, wait_for};
use std::path::Path;
use std::time::Duration;

/// A NameServer with one broker.
pub struct Cluster {
    pub namesrv: Namesrv,
    pub broker: Broker,
}

impl Cluster {
    /// Starts both of one make with further broker settings.
    pub fn start(tools: &Tools, make: Make, folder: &Path, settings: &[(&str, &str)]) -> Outcome<Cluster> {
        let namesrv = Namesrv::start(tools, make, &folder.join("namesrv"))?;
        let mut broker = Broker::new(make, &folder.join("broker"), "broker-a", &namesrv.addr);
        broker.settings = settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        broker.start(tools)?;
        Ok(Cluster { namesrv, broker })
    }

    /// Starts both with a proxy in the broker's process.
    pub fn proxied(tools: &Tools, make: Make, folder: &Path) -> Outcome<Cluster> {
        if make.is_java() {
            return Err(Stop::Skipped("the proxy of the reference server is not among its jars here".into()));
        }
        let namesrv = Namesrv::start(tools, make, &folder.join("namesrv"))?;
        let mut broker = Broker::new(make, &folder.join("broker"), "broker-a", &namesrv.addr)
            .set("transactionTimeOut", 1000)
            .set("transactionCheckInterval", 1000)
            .set("recallMessageEnable", true)
            .set("enableMixedMessageType", true)
            .set("enablePropertyFilter", true);
        broker.grpc = Some(free_ports());
        broker.start(tools)?;
        Ok(Cluster { namesrv, broker })
    }

    /// Where gRPC clients connect.
    pub fn endpoints(&self) -> String {
        format!("127.0.0.1:{}", self.broker.grpc.unwrap_or_default())
    }

    /// Creates a topic for messages of a kind (`message.type`).
    pub fn create_typed_topic(&self, topic: &str, queues: u32, kind: &str) -> Outcome {
        self.broker.conn()?.create_typed_topic(topic, queues, kind)
    }

    /// Creates a topic and waits until the NameServer knows its queues.
    pub fn create_topic(&self, topic: &str, queues: u32) -> Outcome {
        create_topic(&self.broker.addr(), &self.namesrv.addr, topic, queues)
    }
}

/// Creates a topic at a broker and waits until a NameServer shows its queues.
pub fn create_topic(broker: &str, namesrv: &str, topic: &str, queues: u32) -> Outcome {
    Conn::open(broker)?.create_topic(topic, queues)?;
    let mut route = Conn::open(namesrv)?;
    let wanted = format!("\"writeQueueNums\":{queues}");
    wait_for(Duration::from_secs(35), format!("the route of {topic}"), || {
        let fields = [("topic", topic), ("acceptStandardJsonOnly", "true")];
        let answer = route.call(code::GET_ROUTEINFO_BY_TOPIC, &fields, &[])?;
        let body = String::from_utf8_lossy(&answer.body).replace(' ', "");
        Ok((answer.code == 0 && body.contains(&wanted)).then_some(()))
    })
}
