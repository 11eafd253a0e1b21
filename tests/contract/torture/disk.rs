//! A disk that fails: the k-th sync or write of the real binary meets EIO, ENOSPC or a stall, and a power cut follows, so
//! that what the broker promised meanwhile shows itself as true or false.

use crate::power::{IN_FLIGHT, WINDOW, broker_on, settle};
use ferromq_contract::inject::{Hit, Injection, SYNCS, WRITES};
use ferromq_contract::load::{Shape, Workload};
use ferromq_contract::runner::{Case, Lab};
use ferromq_contract::server::{Broker, Make};
use ferromq_contract::volume::{FileSystem, SyncProbe, Volume};
use ferromq_contract::{Outcome, While, ensure, scale, wait_for};
use std::path::Path;
use std::time::{Duration, Instant};

pub fn cases() -> Vec<Case> {
    vec![
        Case::alone("disk::errors_under_sync_flush", |lab| errors(lab, "SYNC_FLUSH")),
        Case::alone("disk::errors_under_async_flush", |lab| errors(lab, "ASYNC_FLUSH")),
    ]
}

const QUEUES: i32 = 4;
/// Each of so many first calls of a kind is hit in the full run.
const CALLS: u64 = 50;
/// How long a stalled call hangs.
const STALL: Duration = Duration::from_millis(1500);
/// What the broker has time to say after the fault, before the power is cut.
const AFTERMATH: Duration = Duration::from_millis(500);

/// What happens to a call, and strace's words for it.
const FAULTS: [(&str, &str); 3] = [("EIO", "error=EIO"), ("ENOSPC", "error=ENOSPC"), ("stall", "delay_enter=1500000")];

/// One error point.
struct Point {
    calls: &'static str,
    /// Which call of a thread, from 1 on.
    which: u64,
    fault: (&'static str, &'static str),
}

/// The points of the full run in an order in which any first part has something of everything; half of them, the odd or
/// the even calls, belong to each flush mode.
fn points(flush: &str, count: u64) -> Vec<Point> {
    let first = if flush == "SYNC_FLUSH" { 1 } else { 2 };
    let of_call =
        |which| [SYNCS, WRITES].into_iter().flat_map(move |calls| FAULTS.map(|fault| Point { calls, which, fault }));
    let all: Vec<Point> = (first..=CALLS).step_by(2).flat_map(of_call).collect();
    // Spread over all calls: every n-th point, with a step that meets each of the six kinds.
    let mut step = (all.len() as u64 / count.max(1)).max(1);
    while step.is_multiple_of(2) || step.is_multiple_of(3) {
        step -= 1;
    }
    all.into_iter().step_by(step as usize).take(count as usize).collect()
}

/// `FERROMQ_ERROR_POINTS` sets the number of points, half for each flush mode.
fn errors(lab: &Lab, flush: &str) -> Outcome {
    let points = points(flush, scale("FERROMQ_ERROR_POINTS", 20).div_ceil(2));
    let folder = lab.folder("disk")?;
    let mut volume = Volume::new(&folder, FileSystem::Ext4, 4096)?;
    // Many syncs come soon.
    let further = [("flushIntervalCommitLog", "25")];
    let (_namesrv, mut broker) = broker_on(lab, &folder, &volume, flush, Make::Ferro, &further)?;
    let topic = lab.name("cuts");
    broker.conn()?.create_topic(&topic, QUEUES as u32)?;
    settle(&volume)?;
    let mut workload = Workload::new(&topic, QUEUES);
    let (mut hits, mut refusing) = (0, 0);
    for (n, point) in points.iter().enumerate() {
        let what = format!("{} on call {} of {}", point.fault.0, point.which, point.calls);
        let hit = meet(lab, &folder, &mut volume, &mut broker, &mut workload, flush, point).doing(&what)?;
        hits += u64::from(hit.is_some());
        refusing += u64::from(hit.is_some_and(|refused| refused));
        workload.verify(&broker.addr(), false).doing(&what)?;
        let answer = workload.probe(&broker.addr(), n as i32 % QUEUES)?;
        ensure!(answer.code == 0, "{what}: a send after the restart: code {}: {}", answer.code, answer.remark);
    }
    workload.verify(&broker.addr(), true).doing("reading everything at the end")?;
    broker.stop()?;
    let report = workload.end()?;
    lab.row(
        &format!("disk errors, {flush}"),
        format!("{} points, {hits} hit, {} acked", points.len(), report.acked),
        format!("0 false SEND_OK, 0 failed starts; writes refused with a reason after {refusing}"),
    );
    Ok(())
}

/// Lets one fault happen under load, then cuts the power and starts the broker again. Whether the fault was met, and
/// whether the broker refused to write afterwards.
fn meet(
    lab: &Lab,
    folder: &Path,
    volume: &mut Volume,
    broker: &mut Broker,
    workload: &mut Workload,
    flush: &str,
    point: &Point,
) -> Outcome<Option<bool>> {
    let pid = broker.process.as_ref().map_or(0, |process| process.pid());
    let fault = format!("{}:when={}", point.fault.1, point.which);
    let injection = Injection::attach(pid, point.calls, &fault, None, &folder.join("strace.log"))?;
    let probe = SyncProbe::start(volume)?;
    let shape = Shape { in_flight: 2, consumer: true, pause: Duration::from_millis(1), ..Shape::new(4, 1000) };
    let load = workload.start(&broker.addr(), shape)?;
    // Not every thread makes that many calls.
    let hit = wait_for(Duration::from_secs(4), "the call", || Ok(injection.first_hit())).ok();
    std::thread::sleep(if point.fault.0 == "stall" { STALL + AFTERMATH } else { AFTERMATH });
    let refused = match &hit {
        Some(hit) => refuses(broker, workload, hit, point)?,
        None => false,
    };
    ensure!(broker.alive(), "the broker ended:\n{}", broker.log_tail());
    let cut = Instant::now();
    volume.cut()?;
    let in_flight = cut.elapsed() + IN_FLIGHT;
    // strace counts the calls of each thread by itself: the stall of a second one may be under way at the cut, and is then
    // what one sync takes.
    let stalled = if point.fault.0 == "stall" { STALL } else { Duration::ZERO };
    let slowest = probe.slowest()?.max(stalled);
    // Killed before strace lets go, so that no held call goes on.
    broker.kill();
    drop(injection);
    workload.take(load)?;
    match (flush, &hit) {
        ("SYNC_FLUSH", _) => workload.fault(cut, Duration::ZERO, in_flight),
        // Nothing was forced to the disk after the failure, and nothing may be acknowledged long after it.
        (_, Some(hit)) if refused => workload.fault(hit.at, WINDOW + slowest, WINDOW),
        _ => workload.fault(cut, WINDOW + slowest, WINDOW),
    }
    volume.repair()?;
    broker.start(&lab.tools).doing("starting after the failure")?;
    Ok(hit.map(|_| refused))
}

/// Whether the broker takes no message now, with a reason; it must not after a failed write or sync of the log.
fn refuses(broker: &Broker, workload: &mut Workload, hit: &Hit, point: &Point) -> Outcome<bool> {
    let answer = workload.probe(&broker.addr(), 0)?;
    ensure!(answer.code == 0 || !answer.remark.is_empty(), "code {} without a reason", answer.code);
    let of_log = hit.call.contains("/commitlog/");
    // No room for one write is no failure of the disk: it is refused, and the next may find room.
    let must_refuse = of_log && (point.fault.0 == "EIO" || point.fault.0 == "ENOSPC" && point.calls == SYNCS);
    ensure!(answer.code != 0 || !must_refuse, "a message is taken after {}", hit.call);
    ensure!(answer.code == 0 || point.fault.0 != "stall", "after a stall: code {}: {}", answer.code, answer.remark);
    Ok(answer.code != 0)
}
