//! What groups of one topic cost each other, and a group that is paused.

use crate::common::{ALL, DELIVERY, Stage, each_once, numbered, start};
use ferromq_contract::cluster::Cluster;
use ferromq_contract::driver::Msg;
use ferromq_contract::flood::{Message, Width, flood};
use ferromq_contract::runner::{Case, Client, Lab};
use ferromq_contract::wire::{Conn, code};
use ferromq_contract::{Outcome, ensure, wait_for};
use std::time::{Duration, Instant};

pub fn cases() -> Vec<Case> {
    let mut all = vec![Case::alone("groups::java5::a_slow_and_a_failing_neighbour", neighbours)];
    for client in ALL {
        all.push(Case::shared(format!("groups::{}::paused", client.label()), move |lab| paused(lab, client)));
    }
    all
}

const QUEUES: i32 = 4;

/// A quick group consumes bursts, in turn alone and beside two groups of other processes on the same topic: the listener of one
/// takes its time, so that its backlog grows with each burst, that of the other fails, so that all it takes is sent back.
/// The medians of the bursts' times are compared; the bound leaves room for a busy machine, whose noise is larger than the
/// difference.
fn neighbours(lab: &Lab) -> Outcome {
    const BURST: usize = 20_000;
    const ROUNDS: usize = 5;
    let (driver, others) = (lab.own_driver(Client::Java5)?, lab.own_driver(Client::Java5)?);
    let mut cluster = Cluster::start(&lab.tools, lab.make, &lab.folder("neighbours")?, &[])?;
    let (topic, namesrv) = (lab.name("shared"), cluster.namesrv.addr.clone());
    cluster.create_topic(&topic, QUEUES as u32)?;
    let (quick, addr) = (lab.name("quick"), cluster.broker.addr());
    start(&driver, "consumer", &namesrv, &quick, &quick, &[("topic", &topic), ("brief", "true"), ("batch", "32")])?;
    let mut sent = 0;
    let mut burst = || -> Outcome<Duration> {
        let begun = Instant::now();
        flood(&addr, Width { connections: 1, under_way: 100 }, sent..sent + BURST, |number| Message {
            topic: topic.clone(),
            queue: number as i32 % QUEUES,
            properties: String::new(),
            body: b"work".to_vec(),
        })?;
        sent += BURST;
        driver.wait_events(&quick, sent, DELIVERY)?;
        Ok(begun.elapsed())
    };
    // Until the client's code is compiled.
    burst()?;
    let groups = [(lab.name("slow"), "0"), (lab.name("failing"), "100")];
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        alone.push(burst()?);
        let mut running = Vec::new();
        for (group, fail) in &groups {
            let name = format!("{group}-{round}");
            let options = [("topic", topic.as_str()), ("brief", "true"), ("pause", "20"), ("fail", *fail)];
            start(&others, "consumer", &namesrv, &name, group, &options)?;
            running.push(name);
        }
        for name in &running {
            others.wait_events(name, 20, DELIVERY)?;
        }
        beside.push(burst()?);
        for name in &running {
            others.call("stop", &[("name", name)])?;
        }
    }
    let mut conn = cluster.broker.conn()?;
    let slow = lag(&mut conn, &topic, &groups[0].0)?;
    wait_for(DELIVERY, "the quick group has no lag", || Ok((lag(&mut conn, &topic, &quick)? == 0).then_some(())))?;
    driver.call("stop", &[("name", &quick)])?;
    alone.sort_unstable();
    beside.sort_unstable();
    let (alone, beside) = (alone[ROUNDS / 2].as_secs_f64(), beside[ROUNDS / 2].as_secs_f64());
    lab.tell(&format!(
        "{BURST} messages of 4 bytes to a quick group: {:.0} ms alone, {:.0} ms beside a slow and a failing one ({:+.1} %), the slow one {slow} behind",
        alone * 1000.0,
        beside * 1000.0,
        (beside / alone - 1.0) * 100.0
    ));
    ensure!(slow as usize > BURST, "the slow group kept up, {slow} behind: nothing was shown");
    // What it is on a machine at rest stands in the output; here others have the processors, too.
    ensure!(beside <= 5.0 * alone, "a burst takes {beside:.3} s beside a slow and a failing group, {alone:.3} s alone");
    cluster.broker.stop()
}

/// Messages a group has not consumed of a topic.
fn lag(conn: &mut Conn, topic: &str, group: &str) -> Outcome<i64> {
    let committed = ferromq_contract::owners::committed(conn, group, topic, QUEUES)?;
    let ends =
        (0..QUEUES).map(|queue| conn.bound(code::GET_MAX_OFFSET, topic, queue)).collect::<Outcome<Vec<i64>>>()?;
    Ok(ends.iter().zip(&committed).map(|(end, done)| end - done).sum())
}

/// mqadmin takes a group the right to consume: its running consumer gets nothing, while another group goes on; when it may
/// again, it gets all of it, once.
fn paused(lab: &Lab, client: Client) -> Outcome {
    let stage = Stage::new(lab, client, "paused", 2)?;
    let (group, producer) = (stage.name("group"), stage.producer(&[])?);
    let consumer = stage.consumer(&group, &[])?;
    let other = stage.consumer(&stage.name("other"), &[])?;
    let send = |what: &str| -> Outcome {
        let messages: Vec<Msg> = numbered(what, 8).iter().map(|body| Msg::new(&stage.topic, body)).collect();
        stage.driver.send(&producer, "sync", &messages).map(drop)
    };
    let may = |is_allowed: bool| -> Outcome {
        let command = format!("updateSubGroup -c DefaultCluster -g {group} -s {is_allowed}");
        let printed = lab.mqadmin(&stage.cluster.namesrv.addr, &command)?;
        ensure!(printed.contains("success."), "mqadmin {command}:\n{printed}");
        Ok(())
    };
    send("before")?;
    for name in [&consumer, &other] {
        stage.driver.wait_events(name, 8, DELIVERY)?;
    }
    may(false)?;
    send("meanwhile")?;
    stage.driver.wait_events(&other, 16, DELIVERY)?;
    // A client that is refused asks again after three seconds.
    std::thread::sleep(Duration::from_millis(3500));
    each_once(&stage.driver.events(&consumer), numbered("before", 8))?;
    may(true)?;
    send("after")?;
    for name in [&consumer, &other] {
        let rows = stage.driver.wait_events(name, 24, DELIVERY)?;
        let all = ["before", "meanwhile", "after"].into_iter().flat_map(|what| numbered(what, 8));
        each_once(&rows, all)?;
        stage.stop(name)?;
    }
    stage.stop(&producer)
}
