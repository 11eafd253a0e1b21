//! Old files are deleted: what consumers and producers notice of it.

use crate::common::{DELIVERY, start};
use crate::faults::{Disk, skip_java};
use ferromq_contract::cluster::create_topic;
use ferromq_contract::runner::{Case, Client, Lab};
use ferromq_contract::server::{Broker, Namesrv};
use ferromq_contract::wire::code;
use ferromq_contract::{Outcome, ensure, ensure_eq, wait_for};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

pub fn cases() -> Vec<Case> {
    vec![
        Case::alone("retention::a_consumer_below_the_minimum_goes_on", consumer_below_minimum),
        Case::alone("retention::a_small_volume_keeps_the_newest", small_volume),
    ]
}

const TOPIC: &str = "retention";
/// Response codes.
const SERVICE_NOT_AVAILABLE: i32 = 14;
const PULL_OFFSET_MOVED: i32 = 21;
/// Bytes of a log file.
const LOG_FILE: u64 = 1 << 20;

/// Lets all but the newest two log files look as if nobody had written to them for years.
fn age_log_files(store: &Path) -> Outcome {
    let mut files: Vec<_> =
        std::fs::read_dir(store.join("commitlog"))?.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>()?;
    files.sort();
    files.truncate(files.len().saturating_sub(2));
    for path in files {
        std::fs::File::options()
            .write(true)
            .open(path)?
            .set_modified(UNIX_EPOCH + Duration::from_secs(1_600_000_000))?;
    }
    Ok(())
}

/// A group that stopped early finds its place deleted: it gets everything that is still there, and what comes.
fn consumer_below_minimum(lab: &Lab) -> Outcome {
    let folder = lab.folder("retention")?;
    let namesrv = Namesrv::start(&lab.tools, lab.make, &folder.join("namesrv"))?;
    let mut broker = Broker::new(lab.make, &folder.join("broker"), "broker-a", &namesrv.addr)
        .set("mappedFileSizeCommitLog", LOG_FILE)
        .set("mappedFileSizeConsumeQueue", 20 * 500)
        .set("fileReservedTime", 1000)
        .set("cleanResourceInterval", 200)
        .set("maxIndexNum", 100_000)
        .set("maxHashSlotNum", 20_000);
    broker.start(&lab.tools)?;
    create_topic(&broker.addr(), &namesrv.addr, TOPIC, 1)?;
    let driver = lab.driver(Client::Java5)?;
    let mut conn = broker.conn()?;
    let body = |n: usize| format!("{n}:{}", "r".repeat(1000));
    for n in 0..10 {
        conn.send(TOPIC, 0, "", body(n).as_bytes())?;
    }
    let (group, first, second) = (lab.name("group"), lab.name("consumer"), lab.name("consumer"));
    start(driver, "consumer", &namesrv.addr, &first, &group, &[("topic", TOPIC)])?;
    driver.wait_events(&first, 10, DELIVERY)?;
    driver.call("stop", &[("name", &first)])?;

    for n in 10..5000 {
        conn.send(TOPIC, 0, "", body(n).as_bytes())?;
    }
    age_log_files(&broker.store())?;
    conn.call(code::DELETE_EXPIRED_COMMITLOG, &[], &[])?.ok()?;
    let limit = Duration::from_secs(if lab.make == ferromq_contract::server::Make::Java { 150 } else { 60 });
    let min = wait_for(limit, "the queue's minimum moves", || {
        let min = conn.bound(code::GET_MIN_OFFSET, TOPIC, 0)?;
        Ok((min > 2000).then_some(min))
    })?;
    let pulled = conn.pull(TOPIC, 0, 10, 32)?;
    ensure_eq!((pulled.code, pulled.next, pulled.min), (PULL_OFFSET_MOVED, min, min), "a pull below the minimum");
    conn.call(code::CLEAN_EXPIRED_CONSUMEQUEUE, &[], &[])?.ok()?;

    start(driver, "consumer", &namesrv.addr, &second, &group, &[("topic", TOPIC)])?;
    conn.send(TOPIC, 0, "", body(5000).as_bytes())?;
    driver.wait_events(&second, 5001 - min as usize, DELIVERY)?;
    let got: BTreeSet<usize> = driver
        .events(&second)
        .iter()
        .filter_map(|event| event.get("body").split_once(':').and_then(|(n, _)| n.parse().ok()))
        .collect();
    ensure_eq!(got, (min as usize..=5000).collect(), "numbers received");
    driver.call("stop", &[("name", &second)])?;

    broker.kill();
    broker.start(&lab.tools)?;
    ensure_eq!(broker.conn()?.bound(code::GET_MIN_OFFSET, TOPIC, 0)?, min, "the minimum after a kill");
    broker.stop()
}

/// More is sent than the volume holds: the oldest files make room, and nothing but their messages is lost.
fn small_volume(lab: &Lab) -> Outcome {
    skip_java(lab, "is killed by its own mapped files on a full disk")?;
    let disk = Disk::new(&lab.folder("small")?.join("disk"), "24m")?;
    let store = disk.folder().join("store");
    let namesrv = Namesrv::start(&lab.tools, lab.make, &lab.folder("small-namesrv")?)?;
    let mut broker = Broker::new(lab.make, &lab.folder("small-broker")?, "broker-a", &namesrv.addr)
        .set("storePathRootDir", store.display())
        .set("storePathCommitLog", store.join("commitlog").display())
        .set("mappedFileSizeCommitLog", LOG_FILE)
        .set("cleanResourceInterval", 500)
        .set("deleteCommitLogFilesInterval", 1)
        .set("maxIndexNum", 20_000)
        .set("maxHashSlotNum", 20_000);
    broker.start(&lab.tools)?;
    create_topic(&broker.addr(), &namesrv.addr, TOPIC, 1)?;
    let mut conn = broker.conn()?;
    let (mut sent, mut refused) = (0, 0);
    while sent < 1000 {
        let body = format!("{sent}:{}", "s".repeat(60_000));
        match conn.send_raw(TOPIC, 0, "", body.as_bytes())? {
            answer if answer.code == 0 => sent += 1,
            answer => {
                ensure_eq!(answer.code, SERVICE_NOT_AVAILABLE, "{}", answer.remark);
                refused += 1;
                ensure!(refused < 4000, "writes do not resume: {}", answer.remark);
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
    ensure!(broker.alive(), "the broker ended:\n{}", broker.log_tail());
    let min = conn.bound(code::GET_MIN_OFFSET, TOPIC, 0)?;
    ensure!(min > 0 && min < 1000, "minimum {min} of 60 MB on a volume of 24 MB");
    broker.kill();
    broker.start(&lab.tools)?;
    // Files go on making room until the volume is no longer too full: what counts is a read in which none went.
    let min_before = min;
    let (min, stored) = wait_for(Duration::from_secs(20), "a read without a deletion", || {
        let mut conn = broker.conn()?;
        let min = conn.bound(code::GET_MIN_OFFSET, TOPIC, 0)?;
        // The minimum follows a deletion a moment later: a read between the two does not begin at it.
        let stored = conn.read_queue(TOPIC, 0, min).ok();
        if stored.is_none() {
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(stored.map(|stored| (min, stored)))
    })?;
    ensure!((min_before..800).contains(&min), "minimum {min} after a kill, {min_before} before");
    ensure_eq!(stored.len() as i64, 1000 - min, "messages behind the minimum");
    for (n, record) in (min..).zip(&stored) {
        ensure!(record.body.starts_with(format!("{n}:").as_bytes()), "message {n}");
    }
    lab.tell(&format!("{refused} sends were refused while files were deleted"));
    broker.stop()
}
