//! Light queues with the official client: what it sends to several queues is read from each, also when the store goes to a
//! broker of the other make and back.

use crate::common::{check_store, each_once, numbered, start};
use ferromq_contract::cluster::create_topic;
use ferromq_contract::driver::{Msg, Row};
use ferromq_contract::runner::{Case, Client, Lab};
use ferromq_contract::server::{Broker, Make, Namesrv};
use ferromq_contract::{Outcome, While, ensure, ensure_eq, wait_for};
use std::time::Duration;

pub fn cases() -> Vec<Case> {
    vec![
        Case::alone("lmq::our_store_by_java_and_back", |lab| there_and_back(lab, lab.make, Make::Java)),
        Case::alone("lmq::java_store_by_ours_and_back", |lab| there_and_back(lab, Make::Java, lab.make)),
    ]
}

const TOPIC: &str = "lmq-parent";
const GROUP: &str = "lmq-group";
/// Each message of a round goes to its topic, the even ones to the first light queue, all to the second.
const EVEN: &str = "%LMQ%even";
const ALL: &str = "%LMQ%all";
const COUNT: usize = 40;

fn there_and_back(lab: &Lab, first: Make, second: Make) -> Outcome {
    let folder = lab.folder("lmq")?;
    let namesrv = Namesrv::start(&lab.tools, lab.make, &folder.join("namesrv"))?;
    let mut broker = Broker::new(first, &folder.join("broker"), "broker-a", &namesrv.addr)
        .set("mappedFileSizeCommitLog", 8 << 20)
        .set("maxIndexNum", 100_000)
        .set("maxHashSlotNum", 20_000)
        .set("enableLmq", true)
        .set("enableMultiDispatch", true);
    for (round, make) in [first, second, first].into_iter().enumerate() {
        broker.make = make;
        broker.start(&lab.tools).doing(format!("the store opened by {make:?}"))?;
        if round == 0 {
            create_topic(&broker.addr(), &namesrv.addr, TOPIC, 1)?;
        } else {
            read(lab, &broker, round).doing(format!("the light queues of the other make as {make:?} serves them"))?;
        }
        send(lab, &broker, round)?;
        read(lab, &broker, round + 1).doing(format!("light queues of {make:?}"))?;
        broker.stop()?;
        let (code, report) = check_store(lab, &broker, &[])?;
        let findings = report["findings"].as_array().ok_or("a report without findings")?;
        let are_notes = findings.iter().all(|finding| finding["kind"] == "not-checked");
        ensure!(are_notes && code == Some(0), "check-store after {make:?}: {report}");
    }
    Ok(())
}

fn bodies(round: usize) -> Vec<String> {
    numbered(&format!("round-{round}"), COUNT)
}

fn send(lab: &Lab, broker: &Broker, round: usize) -> Outcome {
    let driver = lab.driver(Client::Java5)?;
    let producer = lab.name("lmq-producer");
    start(driver, "producer", &broker.namesrv, &producer, "lmq-producers", &[])?;
    let messages: Vec<Msg> = bodies(round)
        .into_iter()
        .enumerate()
        .map(|(n, body)| {
            let lights = if n % 2 == 0 { format!("{EVEN},{ALL}") } else { ALL.to_owned() };
            Msg::new(TOPIC, body).with("p.INNER_MULTI_DISPATCH", lights)
        })
        .collect();
    driver.send(&producer, "sync", &messages)?;
    driver.call("stop", &[("name", &producer)]).map(drop)
}

/// All three queues hold what `rounds` rounds put into them, in order.
fn read(lab: &Lab, broker: &Broker, rounds: usize) -> Outcome {
    let driver = lab.driver(Client::Java5)?;
    let puller = lab.name("lmq-puller");
    start(driver, "puller", &broker.namesrv, &puller, GROUP, &[("topic", TOPIC)])?;
    let sent: Vec<String> = (0..rounds).flat_map(bodies).collect();
    let even: Vec<String> = sent.iter().step_by(2).cloned().collect();
    // The topic first: by its route the client learns the broker's address.
    for (topic, expected) in [(TOPIC, &sent), (EVEN, &even), (ALL, &sent)] {
        let mut got: Vec<Row> = Vec::new();
        wait_for(Duration::from_secs(30), format!("all messages of {topic}"), || {
            let offset = got.len().to_string();
            let place = [("name", puller.as_str()), ("topic", topic), ("broker", "broker-a"), ("queue", "0")];
            let place: Vec<_> = place.into_iter().chain([("offset", offset.as_str())]).collect();
            let mut rows = driver.call("pull", &place)?;
            rows.pop();
            got.extend(rows);
            Ok((got.len() >= expected.len()).then_some(()))
        })?;
        each_once(&got, expected.iter().cloned()).doing(topic.to_owned())?;
        ensure_eq!(got.iter().map(|row| row.get("body")).collect::<Vec<_>>(), *expected, "order in {topic}");
    }
    driver.call("stop", &[("name", &puller)]).map(drop)
}
