//! Clusters of both makes: a Java NameServer with our broker, our NameServer with a Java broker, and both brokers under
//! one NameServer.

use crate::common::{ALL, DELIVERY, bodies, start};
use ferromq_contract::cluster::create_topic;
use ferromq_contract::driver::Msg;
use ferromq_contract::runner::{Case, Client, Lab};
use ferromq_contract::server::{Broker, Make, Namesrv};
use ferromq_contract::wire::{Conn, code};
use ferromq_contract::{Outcome, ensure, ensure_eq, wait_for};
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::Duration;

pub fn cases() -> Vec<Case> {
    vec![
        Case::waiting("mixed::java_namesrv_our_broker", |lab| serve(lab, Make::Java, &[lab.make])),
        Case::waiting("mixed::our_namesrv_java_broker", |lab| serve(lab, lab.make, &[Make::Java])),
        Case::waiting("mixed::two_name_servers_tell_the_same", two_name_servers),
        Case::waiting("mixed::our_namesrv_java_broker_and_our_broker", |lab| {
            serve(lab, lab.make, &[Make::Java, lab.make])
        }),
    ]
}

/// Every client sends to all brokers and consumes from them.
fn serve(lab: &Lab, namesrv: Make, makes: &[Make]) -> Outcome {
    let folder = lab.folder("mixed")?;
    let namesrv = Namesrv::start(&lab.tools, namesrv, &folder.join("namesrv"))?;
    let mut brokers = Vec::new();
    for (i, make) in makes.iter().enumerate() {
        let mut broker = Broker::new(*make, &folder.join(format!("broker-{i}")), &format!("broker-{i}"), &namesrv.addr);
        broker.start(&lab.tools)?;
        brokers.push(broker);
    }
    for client in ALL {
        let driver = lab.driver(client)?;
        let (topic, group) = (lab.name("mixed"), lab.name("group"));
        for broker in &brokers {
            create_topic(&broker.addr(), &namesrv.addr, &topic, 4)?;
        }
        let (producer, consumer) = (lab.name("producer"), lab.name("consumer"));
        start(driver, "producer", &namesrv.addr, &producer, "contract-producers", &[])?;
        start(driver, "consumer", &namesrv.addr, &consumer, &group, &[("topic", &topic)])?;
        let all: Vec<Msg> = (0..80).map(|i| Msg::new(&topic, format!("m-{i}"))).collect();
        let sent = driver.send(&producer, "sync", &all)?;
        let used: BTreeSet<&str> = sent.iter().map(|r| r.get("broker")).collect();
        ensure_eq!(used.len(), brokers.len(), "brokers used by {client:?}");
        wait_for(DELIVERY, format!("80 messages at {client:?}"), || {
            Ok((bodies(&driver.events(&consumer)).len() == 80).then_some(()))
        })?;
        ensure_eq!(driver.count(&consumer), 80, "messages received by {client:?}");
        driver.call("stop", &[("name", &consumer)])?;
        driver.call("stop", &[("name", &producer)])?;
    }
    for broker in &mut brokers {
        broker.stop()?;
    }
    Ok(())
}

/// A broker registers at a Java NameServer and at ours; both give the same answers, and with one gone the other carries on.
fn two_name_servers(lab: &Lab) -> Outcome {
    let folder = lab.folder("two")?;
    let mut java = Namesrv::start(&lab.tools, Make::Java, &folder.join("java"))?;
    let ours = Namesrv::start(&lab.tools, lab.make, &folder.join("ours"))?;
    let both = format!("{};{}", java.addr, ours.addr);
    let mut broker = Broker::new(lab.make, &folder.join("broker"), "broker-a", &both);
    broker.start(&lab.tools)?;
    for addr in [&java.addr, &ours.addr] {
        create_topic(&broker.addr(), addr, "both", 5)?;
    }
    let ask = |addr: &str, code: i32, fields: &[(&str, &str)]| Conn::open(addr)?.call(code, fields, &[]);
    let standard = [("topic", "both"), ("acceptStandardJsonOnly", "true")];
    for (what, code, fields) in [
        ("the route in standard JSON", code::GET_ROUTEINFO_BY_TOPIC, &standard[..]),
        ("the route in the old dialect", code::GET_ROUTEINFO_BY_TOPIC, &standard[..1]),
        ("the route of an unknown topic", code::GET_ROUTEINFO_BY_TOPIC, &[("topic", "nowhere")]),
        ("the cluster", 106, &[]),
        ("the topics of the cluster", 224, &[("cluster", "DefaultCluster")]),
        ("a key-value configuration that is not there", 101, &[("namespace", "n"), ("key", "k")]),
    ] {
        let (expected, got) = (ask(&java.addr, code, fields)?, ask(&ours.addr, code, fields)?);
        ensure_eq!(got.code, expected.code, "code of {what} ({} / {})", got.remark, expected.remark);
        ensure_eq!(got.remark, expected.remark, "remark of {what}");
        // Java leaves number keys unquoted there; every reader takes the standard form as well.
        let body = if code == 106 { quoted_zero(&expected.body) } else { expected.body };
        ensure_eq!(normal(&got.body), normal(&body), "{what}");
    }
    java.process.kill();
    for client in ALL {
        let driver = lab.driver(client)?;
        let (producer, topic) = (lab.name("producer"), lab.name("one-left"));
        create_topic(&broker.addr(), &ours.addr, &topic, 2)?;
        // The Go driver takes one address only; the Java clients get both, the dead one first.
        let names = if client == Client::Go { &ours.addr } else { &both };
        start(driver, "producer", names, &producer, "contract-producers", &[("timeout", "10000")])?;
        let sent = wait_for(Duration::from_secs(60), "a send with one NameServer left", || {
            Ok(driver.send(&producer, "sync", &[Msg::new(&topic, "body")]).ok())
        })?;
        ensure!(sent[0].get("status") == "SEND_OK", "{client:?}: {sent:?}");
        driver.call("stop", &[("name", &producer)])?;
    }
    broker.stop()
}

fn quoted_zero(body: &[u8]) -> Vec<u8> {
    String::from_utf8_lossy(body).replace("{0:", "{\"0\":").into_bytes()
}

/// JSON with its members sorted; text that is no standard JSON (the old dialect) by its sorted pieces.
fn normal(body: &[u8]) -> String {
    fn sorted(value: &Value) -> Value {
        match value {
            Value::Object(map) => {
                let mut members: Vec<_> = map.iter().map(|(k, v)| (k.clone(), sorted(v))).collect();
                members.sort_by(|a, b| a.0.cmp(&b.0));
                Value::Object(members.into_iter().collect())
            }
            Value::Array(items) => {
                let mut items: Vec<Value> = items.iter().map(sorted).collect();
                items.sort_by_key(Value::to_string);
                Value::Array(items)
            }
            other => other.clone(),
        }
    }
    let text = String::from_utf8_lossy(body);
    if let Ok(value) = serde_json::from_str::<Value>(&text) {
        return sorted(&value).to_string();
    }
    let mut pieces: Vec<&str> = text.split([',', '{', '}', '[', ']']).filter(|p| !p.is_empty()).collect();
    pieces.sort_unstable();
    pieces.join(",")
}
