//! Pop, transactions, timers and order under random operations, stops and kills, over the remoting protocol: one script from
//! a seed, put to our broker and to a Java broker, and judged by the same judges (`ferromq-history`). Ours must lose nothing,
//! keep the order, and repeat nothing but what has expired; what the Java broker does is told and asserted nowhere.

mod fifo;
mod handle;
mod lane;
mod pop;
mod script;
mod timers;
mod transactions;

use ferromq_contract::cluster::Cluster;
use ferromq_contract::runner::{Case, Lab};
use ferromq_contract::server::Make;
use ferromq_contract::wire::now_ms;
use ferromq_contract::{Outcome, While, ensure, scale};
use ferromq_history::Tally;
use lane::{Part, cut, resume, settle};
use script::{PARTS, Step, script};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Faults of a history, and of the short one.
const FAULTS: u64 = 5;
const FEW_FAULTS: u64 = 2;
/// When nothing came for so long, nothing comes any more: longer than any time of a message, and than the server takes to ask
/// about a transaction.
const QUIET: Duration = Duration::from_secs(8);
/// And when something still has to come.
const GIVEN_UP: Duration = Duration::from_secs(60);

pub fn cases() -> Vec<Case> {
    vec![Case::alone("models::ours", ours), Case::alone("models::java", java)]
}

/// `FERROMQ_MODEL_HISTORIES`: how many, from the seed `FERROMQ_MODEL_SEED` on; none stands for a short one.
fn ours(lab: &Lab) -> Outcome {
    let count = scale("FERROMQ_MODEL_HISTORIES", 0);
    if count == 0 {
        return hold(histories(lab, Make::Ferro, "ours", (scale("FERROMQ_MODEL_SEED", 1), 1), FEW_FAULTS)?);
    }
    hold(histories(lab, Make::Ferro, "ours", (first_seed(), count), FAULTS)?)
}

/// Fails unless every promise was kept. What a fault alone explains is none of ours: kill -9 takes back nothing that was
/// answered.
fn hold(tallies: Vec<(String, Tally)>) -> Outcome {
    let broken = tallies.iter().filter(|(_, tally)| !tally.is_clean() || tally.by_fault > 0);
    let broken: Vec<String> = broken.map(|(name, tally)| format!("{name}: {}", tally.findings.join("\n  "))).collect();
    ensure!(broken.is_empty(), "{}", broken.join("\n"));
    Ok(())
}

/// The same for both servers.
fn first_seed() -> u64 {
    static CHOSEN: OnceLock<u64> = OnceLock::new();
    *CHOSEN.get_or_init(|| match scale("FERROMQ_MODEL_SEED", 0) {
        0 => now_ms() as u64 % 1_000_000,
        told => told,
    })
}

fn java(lab: &Lab) -> Outcome {
    let count = scale("FERROMQ_MODEL_HISTORIES", 0);
    crate::growth::asked(count)?;
    for (name, tally) in histories(lab, Make::Java, "Java 5.5.0", (first_seed(), count), FAULTS)? {
        tally.findings.iter().take(5).for_each(|finding| lab.tell(&format!("{name}: {finding}")));
    }
    Ok(())
}

/// The parts of one server.
type Parts = [Box<dyn Part>; PARTS];

/// What the histories of a server came to, by part.
#[derive(Default)]
struct Sum {
    operations: u64,
    refused: u64,
    tally: Tally,
}

/// Runs histories and puts a row for each part into the table.
fn histories(
    lab: &Lab,
    make: Make,
    who: &str,
    (seed, count): (u64, u64),
    faults: u64,
) -> Outcome<Vec<(String, Tally)>> {
    let mut sums: [(&str, Sum); PARTS] = Default::default();
    let (mut kills, mut stops) = (0, 0);
    for seed in seed..seed + count {
        let steps = script(seed, faults);
        kills += steps.iter().filter(|step| matches!(step, Step::Kill { .. })).count();
        stops += steps.iter().filter(|step| matches!(step, Step::Stop)).count();
        lab.tell(&format!("{who}: the history of seed {seed}"));
        let parts = history(lab, make, &steps).doing(format!("the history of seed {seed}"))?;
        for ((name, sum), mut part) in sums.iter_mut().zip(parts) {
            *name = part.name();
            sum.operations += part.lane().operations;
            sum.refused += part.lane().refused;
            let mut tally = part.finish();
            tally.findings.iter_mut().for_each(|finding| *finding = format!("seed {seed}: {finding}"));
            sum.tally.add(tally);
        }
        lab.sweep();
    }
    let faults = format!("{count} histories from seed {seed}, {kills} kills, {stops} stops");
    let sums = sums.into_iter().map(|(name, Sum { operations, refused, tally })| {
        let name = format!("{name}, {who}");
        lab.row(&name, format!("{faults}, {operations} operations, {refused} refused"), told(&tally));
        (name, tally)
    });
    Ok(sums.collect())
}

/// What a tally says; only timers have times.
fn told(tally: &Tally) -> String {
    let Tally { lost, by_expiry, by_fault, unexplained, disordered, unwanted, early, late, late_after_fault, .. } =
        tally;
    let again = format!("again: {by_expiry} by expiry, {by_fault} by a fault, {unexplained} unexplained");
    let mut told = format!("{lost} lost; {again}; {disordered} out of order, {unwanted} unwanted");
    if (*early, *late, *late_after_fault) != (0, 0, 0) {
        told += &format!(", {early} early; late by at most {late} ms, {late_after_fault} ms after a fault");
    }
    told
}

/// One history, on a server of its own; the parts as they are when nothing comes any more.
fn history(lab: &Lab, make: Make, steps: &[Step]) -> Outcome<Parts> {
    let folder = lab.folder("models")?;
    let settings = [
        ("mappedFileSizeCommitLog", "16777216"),
        ("maxIndexNum", "100000"),
        ("maxHashSlotNum", "20000"),
        // A Java broker writes down after three seconds only that a transaction has ended.
        ("transactionTimeOut", "5000"),
        ("transactionCheckInterval", "1000"),
    ];
    let mut cluster = Cluster::start(&lab.tools, make, &folder, &settings)?;
    let addr = cluster.broker.addr();
    let mut parts: Parts = [
        Box::new(pop::Pop::new(&addr)?),
        Box::new(fifo::Fifo::new(&addr)?),
        Box::new(transactions::Transactions::new(&addr)?),
        Box::new(timers::Timers::new(&addr)?),
    ];
    for (at, step) in steps.iter().enumerate() {
        take(lab, &mut cluster, &mut parts, step).doing(format!("step {at}"))?;
    }
    drain(&mut parts)?;
    cluster.broker.stop()?;
    Ok(parts)
}

fn take(lab: &Lab, cluster: &mut Cluster, parts: &mut Parts, step: &Step) -> Outcome {
    let from = match step {
        Step::Do { part, roll } => {
            let part = parts[*part].as_mut();
            part.begin(*roll)?;
            return settle(part, 0);
        }
        Step::Pause(pause) => {
            std::thread::sleep(*pause);
            return Ok(());
        }
        Step::Stop => {
            let from = now_ms();
            cluster.broker.stop()?;
            from
        }
        Step::Kill { rolls, answers, again } => {
            for (part, rolls) in parts.iter_mut().zip(rolls) {
                rolls.iter().try_for_each(|roll| part.begin(*roll))?;
                settle(part.as_mut(), rolls.len().saturating_sub(*answers))?;
            }
            let from = now_ms();
            cluster.broker.kill();
            parts.iter_mut().try_for_each(|part| cut(part.as_mut()))?;
            if let Some(after) = again {
                cluster.broker.launch(&lab.tools)?;
                std::thread::sleep(*after);
                cluster.broker.kill();
            }
            from
        }
    };
    cluster.broker.start(&lab.tools)?;
    let to = now_ms();
    parts.iter_mut().try_for_each(|part| resume(part.as_mut(), from, to))
}

/// Takes what comes until nothing comes any more.
fn drain(parts: &mut Parts) -> Outcome {
    let mut last = Instant::now();
    loop {
        for part in parts.iter_mut() {
            if part.drain()? {
                last = Instant::now();
            }
        }
        let open: usize = parts.iter().map(|part| part.open()).sum();
        if last.elapsed() > if open == 0 { QUIET } else { GIVEN_UP } {
            return Ok(());
        }
        // A poll: nothing tells that a message has come.
        std::thread::sleep(Duration::from_millis(50));
    }
}
