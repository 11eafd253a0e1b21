//! Broadcasting push consumers of the remoting protocol: each gets everything, and goes on where it was.

use crate::common::{ALL, DELIVERY, Stage, each_once, numbered, start};
use ferromq_contract::driver::{Driver, Msg};
use ferromq_contract::runner::{Case, Client, Lab};
use ferromq_contract::{Outcome, wait_for};
use std::time::Duration;

pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for client in ALL {
        let label = client.label();
        all.push(Case::shared(format!("broadcast::{label}::each_gets_everything"), move |lab| everything(lab, client)));
        all.push(Case::waiting(format!("broadcast::{label}::goes_on_after_a_restart"), move |lab| {
            restart(lab, client)
        }));
    }
    all
}

const MODEL: (&str, &str) = ("model", "BROADCASTING");

fn messages(topic: &str, prefix: &str, count: usize) -> Vec<Msg> {
    numbered(prefix, count).into_iter().map(|body| Msg::new(topic, body)).collect()
}

fn everything(lab: &Lab, client: Client) -> Outcome {
    let stage = Stage::new(lab, client, "broadcast", 4)?;
    let group = stage.name("group");
    let members = [(); 3].map(|()| stage.consumer(&group, &[MODEL]));
    let members = members.into_iter().collect::<Outcome<Vec<String>>>()?;
    let producer = stage.producer(&[])?;
    stage.driver.send(&producer, "sync", &messages(&stage.topic, "m", 40))?;
    for consumer in &members {
        stage.driver.wait_events(consumer, 40, DELIVERY)?;
    }
    std::thread::sleep(Duration::from_millis(300));
    for consumer in &members {
        each_once(&stage.driver.events(consumer), numbered("m", 40))?;
        stage.stop(consumer)?;
    }
    stage.stop(&producer)
}

/// A member keeps its offsets in a file beside it. Its process ends and another one starts under its name: that gets what was
/// sent meanwhile and nothing of what was there before, while a member that stayed gets all of it and one that is new begins at
/// the first message.
fn restart(lab: &Lab, client: Client) -> Outcome {
    const EACH: usize = 20;
    let stage = Stage::new(lab, client, "broadcast", 4)?;
    let (group, instance, producer) = (stage.name("group"), stage.name("instance"), stage.producer(&[])?);
    let join = |driver: &Driver, name: &str| {
        let options = [("topic", stage.topic.as_str()), ("instance", &instance), MODEL];
        start(driver, "consumer", &stage.cluster.namesrv.addr, name, &group, &options)
    };
    let stays = stage.consumer(&group, &[MODEL])?;
    let (first, before) = (lab.own_driver(client)?, lab.name("before"));
    join(&first, &before)?;
    stage.driver.send(&producer, "sync", &messages(&stage.topic, "before", EACH))?;
    each_once(&first.wait_events(&before, EACH, DELIVERY)?, numbered("before", EACH))?;
    stage.driver.wait_events(&stays, EACH, DELIVERY)?;
    first.call("stop", &[("name", &before)])?;
    first.kill()?;
    stage.driver.send(&producer, "sync", &messages(&stage.topic, "meanwhile", EACH))?;
    stage.driver.wait_events(&stays, 2 * EACH, DELIVERY)?;

    let (second, after) = (lab.own_driver(client)?, lab.name("after"));
    join(&second, &after)?;
    second.wait_events(&after, EACH, DELIVERY)?;
    let new = stage.consumer(&group, &[MODEL])?;
    stage.driver.send(&producer, "sync", &messages(&stage.topic, "after", EACH))?;
    second.wait_events(&after, 2 * EACH, DELIVERY)?;
    let later = || numbered("meanwhile", EACH).into_iter().chain(numbered("after", EACH));
    let all = || numbered("before", EACH).into_iter().chain(later());
    wait_for(DELIVERY, "all messages at those that missed none", || {
        Ok([&stays, &new].iter().all(|name| stage.driver.count(name) >= 3 * EACH).then_some(()))
    })?;
    each_once(&second.events(&after), later())?;
    second.call("stop", &[("name", &after)])?;
    for name in [&stays, &new] {
        each_once(&stage.driver.events(name), all())?;
        stage.stop(name)?;
    }
    stage.stop(&producer)
}
