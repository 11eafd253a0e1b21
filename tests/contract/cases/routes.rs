//! Running consumers and producers learn of what is new in the cluster: a broker, and a topic that was subscribed to before
//! it was there. None of them is started anew.

use crate::common::{ALL, DELIVERY, bodies, numbered, start};
use ferromq_contract::cluster::{Cluster, create_topic, wait_route};
use ferromq_contract::driver::Msg;
use ferromq_contract::runner::{Case, Client, Lab};
use ferromq_contract::server::Broker;
use ferromq_contract::{Outcome, ensure_eq, wait_for};
use std::collections::BTreeSet;
use std::time::Instant;

pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for client in ALL {
        let label = client.label();
        all.push(Case::waiting(format!("routes::{label}::a_new_broker"), move |lab| new_broker(lab, client)));
        all.push(Case::shared(format!("routes::{label}::a_topic_made_later"), move |lab| later_topic(lab, client)));
    }
    all
}

/// How often Java's clients ask for routes here; Go's asks every 30 s.
const POLL: (&str, &str) = ("poll", "1000");

/// A second broker joins, and the topic is made there: the consumer gets what only that broker has, and the producer sends to
/// both. Nothing comes twice.
fn new_broker(lab: &Lab, client: Client) -> Outcome {
    const QUEUES: u32 = 2;
    let driver = lab.driver(client)?;
    let folder = lab.folder("new-broker")?;
    let mut cluster = Cluster::start(&lab.tools, lab.make, &folder, &[])?;
    let namesrv = cluster.namesrv.addr.clone();
    let (topic, group) = (lab.name("topic"), lab.name("group"));
    let (producer, consumer) = (lab.name("producer"), lab.name("consumer"));
    cluster.create_topic(&topic, QUEUES)?;
    start(driver, "consumer", &namesrv, &consumer, &group, &[("topic", &topic), POLL])?;
    start(driver, "producer", &namesrv, &producer, "contract-producers", &[POLL])?;
    let mut sent = 0;
    let mut burst = || -> Outcome<BTreeSet<String>> {
        let messages: Vec<Msg> = (sent..sent + 8).map(|n| Msg::new(&topic, format!("m-{n}"))).collect();
        sent += messages.len();
        let rows = driver.send(&producer, "sync", &messages)?;
        Ok(rows.iter().map(|row| row.get("broker").to_owned()).collect())
    };
    ensure_eq!(burst()?.len(), 1, "brokers used at first");
    driver.wait_events(&consumer, 8, DELIVERY)?;

    let mut second = Broker::new(lab.make, &folder.join("second"), "broker-b", &namesrv);
    second.start(&lab.tools)?;
    create_topic(&second.addr(), &namesrv, &topic, QUEUES)?;
    wait_route(&namesrv, &topic, "\"brokerName\":\"broker-b\"")?;
    let known = Instant::now();
    second.conn()?.send(&topic, 0, "", b"only at the second")?;
    driver.wait_events(&consumer, 9, DELIVERY)?;
    let consumed = known.elapsed();
    wait_for(DELIVERY, "the producer sends to both brokers", || Ok((burst()?.len() == 2).then_some(())))?;
    lab.tell(&format!(
        "{}: a new broker's messages come after {:.1} s, a producer uses it after {:.1} s",
        client.label(),
        consumed.as_secs_f64(),
        known.elapsed().as_secs_f64()
    ));
    let rows = driver.wait_events(&consumer, sent + 1, DELIVERY)?;
    let mut expected: Vec<String> = numbered("m", sent);
    expected.push("only at the second".to_owned());
    ensure_eq!(bodies(&rows), expected.into_iter().map(|body| (body, 1)).collect(), "bodies and how often they came");
    for name in [&consumer, &producer] {
        driver.call("stop", &[("name", name)])?;
    }
    second.stop()?;
    cluster.broker.stop()
}

/// A running consumer subscribes to a topic that nobody has made; when it is made, its messages come.
fn later_topic(lab: &Lab, client: Client) -> Outcome {
    let (driver, cluster) = (lab.driver(client)?, lab.cluster()?);
    let namesrv = &cluster.namesrv.addr;
    let (topic, later) = (lab.name("early"), lab.name("later"));
    let (group, consumer) = (lab.name("group"), lab.name("consumer"));
    cluster.create_topic(&topic, 1)?;
    start(driver, "consumer", namesrv, &consumer, &group, &[("topic", &topic), ("further", &later), POLL])?;
    let mut conn = cluster.broker.conn()?;
    conn.send(&topic, 0, "", b"early")?;
    driver.wait_events(&consumer, 1, DELIVERY)?;
    cluster.create_topic(&later, 1)?;
    let made = Instant::now();
    conn.send(&later, 0, "", b"late")?;
    let rows = driver.wait_events(&consumer, 2, DELIVERY)?;
    lab.tell(&format!(
        "{}: a subscribed topic's messages come {:.1} s after it was made",
        client.label(),
        made.elapsed().as_secs_f64()
    ));
    let came: Vec<_> = rows.iter().map(|row| (row.get("topic"), row.get("body"))).collect();
    ensure_eq!(came, [(topic.as_str(), "early"), (later.as_str(), "late")], "what came");
    driver.call("stop", &[("name", &consumer)]).map(drop)
}
