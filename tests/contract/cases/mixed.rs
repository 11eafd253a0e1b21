//! Clusters of both makes: a Java NameServer with our broker, our NameServer with a Java broker, and both brokers under
//! one NameServer.

use crate::common::{ALL, DELIVERY, bodies, start};
use ferromq_contract::driver::Msg;
use ferromq_contract::runner::{Case, Lab};
use ferromq_contract::server::{Broker, Make, Namesrv, create_topic};
use ferromq_contract::{Outcome, ensure_eq, wait_for};
use std::collections::BTreeSet;

pub fn cases() -> Vec<Case> {
    vec![
        Case::alone("mixed::java_namesrv_our_broker", |lab| serve(lab, Make::Java, &[lab.make])),
        Case::alone("mixed::our_namesrv_java_broker", |lab| serve(lab, lab.make, &[Make::Java])),
        Case::alone("mixed::our_namesrv_java_broker_and_our_broker", |lab| {
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
        ensure_eq!(driver.events(&consumer).len(), 80, "messages received by {client:?}");
        driver.call("stop", &[("name", &consumer)])?;
        driver.call("stop", &[("name", &producer)])?;
    }
    for broker in &mut brokers {
        broker.stop()?;
    }
    Ok(())
}
