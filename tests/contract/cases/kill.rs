//! kill -9 under load, again and again: nothing acknowledged is lost, no queue offset is given twice, each start succeeds.

use ferromq_contract::ledger::Ledger;
use ferromq_contract::runner::{Case, Lab};
use ferromq_contract::server::Cluster;
use ferromq_contract::{Outcome, While, ensure, scale};
use std::time::Duration;

pub fn cases() -> Vec<Case> {
    vec![
        Case::alone("kill::cycles_async_flush", |lab| cycles(lab, "ASYNC_FLUSH", 1)),
        Case::alone("kill::cycles_sync_flush", |lab| cycles(lab, "SYNC_FLUSH", 4)),
    ]
}

const QUEUES: i32 = 8;
const CONNECTIONS: usize = 4;

/// `FERROMQ_KILL_CYCLES` sets the number of cycles under ASYNC_FLUSH; a quarter of it under SYNC_FLUSH.
fn cycles(lab: &Lab, flush: &str, share: u64) -> Outcome {
    let count = scale("FERROMQ_KILL_CYCLES", 20).div_ceil(share);
    // Small files: kills also hit the change from one file to the next.
    let settings = [("mappedFileSizeCommitLog", "16777216"), ("flushDiskType", flush)];
    let mut cluster = Cluster::start(&lab.tools, lab.make, &lab.folder("kill")?, &settings)?;
    let topic = lab.name("ledger");
    cluster.create_topic(&topic, QUEUES as u32)?;
    let mut ledger = Ledger::new(&topic, QUEUES);
    for cycle in 0..count {
        let load = ledger.load(&cluster.broker.addr(), CONNECTIONS, 2000)?;
        // From a moment after the start to some time under load, differently in each cycle.
        let wanted = [1, 50, 400, 2500, 6000][(cycle % 5) as usize];
        load.wait(wanted, Duration::from_secs(30)).doing(format!("cycle {cycle}"))?;
        std::thread::sleep(Duration::from_millis(cycle * 37 % 200));
        cluster.broker.kill();
        let acked = ledger.take(load).doing(format!("cycle {cycle}"))?;
        ensure!(acked as u64 >= wanted, "cycle {cycle}: {acked} acknowledgements only");
        cluster.broker.start(&lab.tools).doing(format!("start after kill {cycle}"))?;
        ledger
            .verify(&cluster.broker.addr(), false)
            .doing(format!("after kill {cycle}, {} acknowledged", ledger.len()))?;
    }
    let read = ledger.verify(&cluster.broker.addr(), true).doing("reading everything at the end")?;
    ensure!(read >= ledger.len(), "{read} messages in the log, {} acknowledged", ledger.len());
    lab.tell(&format!("{count} kills under {flush}: {} acknowledged, {read} in the log", ledger.len()));
    cluster.broker.stop()?;
    cluster.broker.start(&lab.tools)?;
    ledger.verify(&cluster.broker.addr(), true).doing("after a clean restart")?;
    Ok(())
}
