//! A NameServer with one broker, and topics that clients can find there.

use crate::proxy::Proxy;
use crate::server::{Broker, Make, Namesrv, free_ports};
use crate::tools::Tools;
use crate::wire::{Conn, code};
use crate::{Outcome, wait_for};
use std::path::Path;
use std::time::Duration;

/// A NameServer with one broker.
pub struct Cluster {
    pub namesrv: Namesrv,
    pub broker: Broker,
    /// The Java server's proxy is a process of its own; ours is in the broker's.
    proxy: Option<Proxy>,
}

impl Cluster {
    /// Starts both of one make with further broker settings.
    pub fn start(tools: &Tools, make: Make, folder: &Path, settings: &[(&str, &str)]) -> Outcome<Cluster> {
        let namesrv = Namesrv::start(tools, make, &folder.join("namesrv"))?;
        let mut broker = Broker::new(make, &folder.join("broker"), "broker-a", &namesrv.addr);
        broker.settings = settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        broker.start(tools)?;
        Ok(Cluster { namesrv, broker, proxy: None })
    }

    /// Starts both with a proxy.
    pub fn proxied(tools: &Tools, make: Make, folder: &Path) -> Outcome<Cluster> {
        let namesrv = Namesrv::start(tools, make, &folder.join("namesrv"))?;
        let mut broker = Broker::new(make, &folder.join("broker"), "broker-a", &namesrv.addr)
            .set("transactionTimeOut", transaction_timeout(make))
            .set("transactionCheckInterval", 1000)
            .set("recallMessageEnable", true)
            .set("enableMixedMessageType", true)
            .set("enablePropertyFilter", true)
            // Lite topics are light queues.
            .set("enableLmq", true)
            .set("enableMultiDispatch", true);
        broker.grpc = (!make.is_java()).then(free_ports);
        broker.start(tools)?;
        let proxy =
            make.is_java().then(|| Proxy::start(tools, make, &folder.join("proxy"), &namesrv.addr)).transpose()?;
        Ok(Cluster { namesrv, broker, proxy })
    }

    /// The proxy, if it is a process of its own.
    pub fn proxy(&self) -> Option<&Proxy> {
        self.proxy.as_ref()
    }

    /// Where gRPC clients connect.
    pub fn endpoints(&self) -> String {
        match &self.proxy {
            Some(proxy) => proxy.addr.clone(),
            None => format!("127.0.0.1:{}", self.broker.grpc.unwrap_or_default()),
        }
    }

    /// Where HTTP clients connect.
    pub fn http(&self) -> String {
        format!("127.0.0.1:{}", self.broker.http_port().unwrap_or_default())
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

/// `transactionTimeOut` in milliseconds. A Java broker writes down that a transaction has ended after three seconds only,
/// and asks about it before.
pub fn transaction_timeout(make: Make) -> u32 {
    if make.is_java() { 6000 } else { 1000 }
}

/// Creates a topic at a broker and waits until a NameServer shows its queues.
pub fn create_topic(broker: &str, namesrv: &str, topic: &str, queues: u32) -> Outcome {
    Conn::open(broker)?.create_topic(topic, queues)?;
    wait_route(namesrv, topic, &format!("\"writeQueueNums\":{queues}"))
}

/// Creates a topic for messages of a kind (`message.type`) at all brokers and waits until a NameServer shows it there.
pub fn create_typed_topic(brokers: &[Broker], namesrv: &str, topic: &str, queues: u32, kind: &str) -> Outcome {
    for broker in brokers {
        broker.conn()?.create_typed_topic(topic, queues, kind)?;
        wait_route(namesrv, topic, &format!("\"brokerName\":\"{}\"", broker.name))?;
    }
    Ok(())
}

/// Waits until the route of a topic has `wanted` in it.
pub fn wait_route(namesrv: &str, topic: &str, wanted: &str) -> Outcome {
    let mut route = Conn::open(namesrv)?;
    wait_for(Duration::from_secs(35), format!("the route of {topic}"), || {
        let fields = [("topic", topic), ("acceptStandardJsonOnly", "true")];
        let answer = route.call(code::GET_ROUTEINFO_BY_TOPIC, &fields, &[])?;
        let body = String::from_utf8_lossy(&answer.body).replace(' ', "");
        Ok((answer.code == 0 && body.contains(wanted)).then_some(()))
    })
}
