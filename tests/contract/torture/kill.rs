//! kill -9 under load, again and again: nothing acknowledged is lost, no queue offset is given twice, each start succeeds.

use ferromq_contract::cluster::Cluster;
use ferromq_contract::load::{Shape, Workload};
use ferromq_contract::runner::{Case, Lab};
use ferromq_contract::{Outcome, While, ensure, scale};
use std::time::{Duration, Instant};

pub fn cases() -> Vec<Case> {
    vec![
        Case::alone("kill::async_flush", |lab| cycles(lab, "ASYNC_FLUSH")),
        Case::alone("kill::sync_flush", |lab| cycles(lab, "SYNC_FLUSH")),
    ]
}

const QUEUES: i32 = 8;
/// Acknowledged messages of each cycle, at least; some cycles have more.
const ACKED: [u64; 5] = [1000, 1200, 1500, 2500, 6000];
/// The store begins anew after so many cycles, so that it does not fill the disk.
const CYCLES_OF_A_STORE: u64 = 50;

/// `FERROMQ_KILL_CYCLES` sets the number of cycles in all: four fifths under ASYNC_FLUSH, a fifth under SYNC_FLUSH.
fn cycles(lab: &Lab, flush: &str) -> Outcome {
    let all = scale("FERROMQ_KILL_CYCLES", 50);
    let count = if flush == "ASYNC_FLUSH" { all - all / 5 } else { all / 5 };
    let (mut done, mut acked, mut slowest) = (0, 0, Duration::ZERO);
    while done < count {
        let of_this_store = CYCLES_OF_A_STORE.min(count - done);
        let (more, slow) = one_store(lab, flush, done, of_this_store)?;
        (done, acked, slowest) = (done + of_this_store, acked + more, slowest.max(slow));
    }
    lab.row(
        &format!("kill -9, {flush}"),
        format!("{count} kills, {acked} acked"),
        format!("0 lost, 0 offsets used twice, 0 failed starts; slowest start {} ms", slowest.as_millis()),
    );
    Ok(())
}

/// Kills one broker `count` times; acknowledged messages, and the slowest start.
fn one_store(lab: &Lab, flush: &str, done: u64, count: u64) -> Outcome<(u64, Duration)> {
    // Small files: kills also hit the change from one file to the next.
    let settings = [("mappedFileSizeCommitLog", "16777216"), ("flushDiskType", flush)];
    let mut cluster = Cluster::start(&lab.tools, lab.make, &lab.folder("kill")?, &settings)?;
    let topic = lab.name("kills");
    cluster.create_topic(&topic, QUEUES as u32)?;
    let mut workload = Workload::new(&topic, QUEUES);
    let shape = Shape { consumer: true, ..Shape::new(4, 2000) };
    let mut slowest = Duration::ZERO;
    for cycle in done..done + count {
        let load = workload.start(&cluster.broker.addr(), shape)?;
        load.wait(ACKED[(cycle % 5) as usize], Duration::from_secs(30)).doing(format!("cycle {cycle}"))?;
        std::thread::sleep(Duration::from_millis(cycle * 37 % 200));
        let at = Instant::now();
        cluster.broker.kill();
        let acked = workload.take(load).doing(format!("cycle {cycle}"))?;
        ensure!(acked >= 1000, "cycle {cycle}: {acked} acknowledgements only");
        workload.fault(at, Duration::ZERO, Duration::ZERO);
        let began = Instant::now();
        cluster.broker.start(&lab.tools).doing(format!("start after kill {cycle}"))?;
        slowest = slowest.max(began.elapsed());
        workload.verify(&cluster.broker.addr(), false).doing(format!("after kill {cycle}"))?;
    }
    workload.verify(&cluster.broker.addr(), true).doing("reading everything at the end")?;
    cluster.broker.stop()?;
    cluster.broker.start(&lab.tools)?;
    workload.verify(&cluster.broker.addr(), true).doing("after a clean restart")?;
    let report = workload.end()?;
    Ok((report.acked, slowest))
}
