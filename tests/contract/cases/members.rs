//! Members of a group that die amid their messages: nothing is lost, and what comes again had not been committed.

use crate::common::{DELIVERY, start};
use ferromq_contract::driver::{Driver, Place};
use ferromq_contract::flood::{Message, Width, flood};
use ferromq_contract::owners::{Owners, committed};
use ferromq_contract::runner::{Case, Client, Lab};
use ferromq_contract::{Outcome, While, ensure, ensure_eq, wait_for};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for client in [Client::Java5, Client::Go] {
        all.push(Case::waiting(format!("members::{}::killed_amid_its_messages", client.label()), move |lab| {
            killed(lab, client)
        }));
    }
    all
}

const QUEUES: i32 = 8;

/// Two members share 50,000 messages, and one is killed by kill -9 with messages in hand: the other gets everything that was
/// not committed. What was committed had gone through a listener, and does not come again.
fn killed(lab: &Lab, client: Client) -> Outcome {
    const MESSAGES: usize = 50_000;
    let (first, second) = (lab.own_driver(client)?, lab.own_driver(client)?);
    let cluster = lab.cluster()?;
    let (topic, group, names) = (lab.name("killed"), lab.name("group"), [lab.name("stays"), lab.name("dies")]);
    cluster.create_topic(&topic, QUEUES as u32)?;
    let mut conn = cluster.broker.conn()?;
    for (driver, name) in [&first, &second].into_iter().zip(&names) {
        let options = [("topic", topic.as_str()), ("brief", "true"), ("pause", "1")];
        start(driver, "consumer", &cluster.namesrv.addr, name, &group, &options)?;
    }
    wait_for(DELIVERY, "two members have half of the queues each", || {
        let owners = Owners::ask([(&first, &names[0]), (&second, &names[1])], &topic)?;
        Ok(owners.even(QUEUES).then_some(()))
    })?;
    flood(&cluster.broker.addr(), Width { connections: 2, under_way: 100 }, 0..MESSAGES, |number| Message {
        topic: topic.clone(),
        queue: number as i32 % QUEUES,
        properties: String::new(),
        body: b"work".to_vec(),
    })?;
    second.wait_events(&names[1], MESSAGES / 10, DELIVERY)?;
    let before = wait_for(DELIVERY, "each queue has a committed offset", || {
        Ok(Some(committed(&mut conn, &group, &topic, QUEUES)?)
            .filter(|offsets| offsets.iter().all(|offset| *offset > 0)))
    })?;
    second.kill()?;
    let died = Instant::now();
    let mut taken: BTreeMap<Place, Vec<&str>> = BTreeMap::new();
    let complete = wait_for(DELIVERY, "all messages", || {
        if first.count(&names[0]) + second.count(&names[1]) < MESSAGES {
            return Ok(None);
        }
        taken = places(&[(&first, &names[0]), (&second, &names[1])])?;
        Ok((taken.len() == MESSAGES).then_some(()))
    });
    complete.doing(format!("{} and {} came", first.count(&names[0]), second.count(&names[1])))?;
    let again: Vec<(&Place, &Vec<&str>)> = taken.iter().filter(|(_, by)| by.len() > 1).collect();
    lab.tell(&format!(
        "{} killed with {} of {MESSAGES} messages: {} came again, all had come {:.1} s later",
        client.label(),
        second.count(&names[1]),
        again.len(),
        died.elapsed().as_secs_f64()
    ));
    ensure!(second.count(&names[1]) < MESSAGES / 2, "the killed member had no messages left");
    for ((queue, offset), by) in again {
        ensure_eq!(
            by.iter().collect::<BTreeSet<_>>().len(),
            by.len(),
            "queue {queue} offset {offset}, taken by {by:?}"
        );
        let committed = before[*queue as usize];
        ensure!(*offset >= committed, "queue {queue} offset {offset} came again, {committed} was committed before");
    }
    Ok(())
}

/// Who took which message.
fn places<'n>(members: &[(&Driver, &'n String)]) -> Outcome<BTreeMap<Place, Vec<&'n str>>> {
    let mut taken: BTreeMap<Place, Vec<&str>> = BTreeMap::new();
    for (driver, name) in members {
        for row in driver.events(name) {
            taken.entry(row.place()?).or_default().push(name);
        }
    }
    Ok(taken)
}
