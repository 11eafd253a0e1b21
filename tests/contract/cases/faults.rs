//! What the machine does to a broker: a full or read-only disk, I/O errors, a store in use, a port in use, a torn log.
//! In each case nothing acknowledged is lost, nothing is acknowledged after a failure, and the reason is told.

use crate::common::{ALL, start};
use ferromq_contract::cluster::{Cluster, wait_route};
use ferromq_contract::driver::{Driver, Msg};
use ferromq_contract::inject::Injection;
use ferromq_contract::load::{Shape, Workload};
use ferromq_contract::runner::{Case, Client, Lab};
use ferromq_contract::server::{Broker, Make, Namesrv};
use ferromq_contract::tools::present;
use ferromq_contract::wire::code;
use ferromq_contract::{Outcome, Stop, While, ensure, ensure_eq, wait_for};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

pub fn cases() -> Vec<Case> {
    vec![
        Case::alone("faults::full_disk", full_disk),
        Case::alone("faults::read_only_folder", read_only_folder),
        Case::alone("faults::second_process_on_the_store", second_process),
        Case::alone("faults::port_in_use", port_in_use),
        Case::alone("faults::stop_under_load", stop_under_load),
        Case::alone("faults::torn_tail", torn_tail),
        Case::alone("faults::lost_consume_queues", lost_consume_queues),
        Case::alone("faults::eio_on_append", |lab| {
            io_error(lab, "ASYNC_FLUSH", "pwrite64,pwritev,pwritev2,write,writev", false)
        }),
        Case::alone("faults::eio_on_sync_under_sync_flush", |lab| {
            io_error(lab, "SYNC_FLUSH", "fdatasync,fsync,msync", true)
        }),
        Case::alone("faults::eio_on_sync_under_async_flush", |lab| {
            io_error(lab, "ASYNC_FLUSH", "fdatasync,fsync,msync", false)
        }),
        Case::alone("faults::senders_are_told_of_a_stalled_sync", stalled_sync),
    ]
}

const TOPIC: &str = "faults";
/// A message every broker accepts.
const BODY: &[u8] = b"12345678 probe";

/// For what cannot hold on the reference.
pub fn skip_java(lab: &Lab, why: &str) -> Outcome {
    if lab.make == Make::Java { Err(Stop::Skipped(format!("the Java broker {why}"))) } else { Ok(()) }
}

/// A small file system of its own, for root.
pub struct Disk(PathBuf);

impl Disk {
    pub fn new(folder: &Path, size: &str) -> Outcome<Disk> {
        if !rustix::process::geteuid().is_root() || !present("mount") {
            return Err(Stop::Skipped("only root can mount a small disk".to_owned()));
        }
        std::fs::create_dir_all(folder)?;
        let disk = Disk(folder.to_owned());
        if disk.mount(&format!("size={size}"), true).is_err() {
            return Err(Stop::Skipped("mounting a tmpfs is not permitted here".to_owned()));
        }
        Ok(disk)
    }

    /// Where it is mounted.
    pub fn folder(&self) -> &Path {
        &self.0
    }

    fn mount(&self, options: &str, first: bool) -> Outcome {
        let options = if first { options.to_owned() } else { format!("remount,{options}") };
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(&self.0)
            .stderr(Stdio::null())
            .status()?;
        ensure!(done.success(), "mount -o {options} failed");
        Ok(())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A broker whose folder is given, with one topic of one queue.
fn broker_on(lab: &Lab, folder: &Path, settings: &[(&str, &str)]) -> Outcome<(Namesrv, Broker)> {
    let namesrv = Namesrv::start(&lab.tools, lab.make, &lab.folder("faults-namesrv")?)?;
    let mut broker = Broker::new(lab.make, folder, "broker-a", &namesrv.addr);
    for (key, value) in settings {
        broker = broker.set(key, value);
    }
    broker.start(&lab.tools)?;
    broker.conn()?.create_topic(TOPIC, 1)?;
    Ok((namesrv, broker))
}

/// The disk fills up under load: sends are refused, what was acknowledged stays readable, also after more room and a restart.
fn full_disk(lab: &Lab) -> Outcome {
    skip_java(lab, "is killed by its own mapped files on a full disk")?;
    let disk = Disk::new(&lab.folder("full")?.join("disk"), "96m")?;
    // Its configuration and output stay on the machine's own disk.
    let (store, log) =
        (disk.0.join("store").display().to_string(), disk.0.join("store/commitlog").display().to_string());
    let settings = [
        ("mappedFileSizeCommitLog", "4194304"),
        ("maxHashSlotNum", "20000"),
        ("maxIndexNum", "100000"),
        // What was acknowledged is to stay; `retention` has the cases of a broker that makes room.
        ("cleanFileForciblyEnable", "false"),
        ("storePathRootDir", store.as_str()),
        ("storePathCommitLog", log.as_str()),
    ];
    let (_namesrv, mut broker) = broker_on(lab, &lab.folder("full-broker")?, &settings)?;
    let mut workload = Workload::new(TOPIC, 1);
    let load = workload.start(&broker.addr(), Shape::new(2, 2000))?;
    load.wait(2000, Duration::from_secs(30))?;
    // All the room goes at once, as it does when another program writes.
    let mut filler = std::fs::File::create(disk.0.join("filler"))?;
    while filler.write_all(&[1; 65536]).is_ok() {}
    while filler.write_all(&[1; 64]).is_ok() {}
    // Room inside the open file may last a while; then there are no more acknowledgements.
    let mut last = load.acked();
    let mut still = 0;
    wait_for(Duration::from_secs(60), "the broker refuses", || {
        std::thread::sleep(Duration::from_millis(480));
        still = if load.acked() == last { still + 1 } else { 0 };
        last = load.acked();
        Ok((still == 4).then_some(()))
    })?;
    workload.take(load)?;
    ensure!(broker.alive(), "the broker ended when the disk was full:\n{}", broker.log_tail());
    let refused = workload.probe(&broker.addr(), 0)?;
    ensure!(refused.code != 0, "a message was acknowledged on a full disk");
    ensure!(!refused.remark.is_empty(), "code {} without a reason", refused.code);
    workload.verify(&broker.addr(), true).doing("reading while the disk is full")?;
    broker.kill();
    broker.start(&lab.tools).err().map_or(Ok(()), |e| match e {
        // It may refuse to start without room, if it says so.
        Stop::Failed(why) if why.contains("space") => Ok(()),
        other => Err(other),
    })?;
    broker.kill();
    drop(filler);
    std::fs::remove_file(disk.0.join("filler"))?;
    disk.mount("size=400m", false)?;
    broker.start(&lab.tools).doing("starting with room again")?;
    workload.verify(&broker.addr(), true).doing("after the restart")?;
    workload.probe(&broker.addr(), 0)?.ok().doing("sending with room again")?;
    broker.stop()
}

fn read_only_folder(lab: &Lab) -> Outcome {
    let disk = Disk::new(&lab.folder("read-only")?.join("disk"), "600m")?;
    let folder = lab.folder("read-only-broker")?;
    let namesrv = Namesrv::start(&lab.tools, lab.make, &folder.join("namesrv"))?;
    let store = disk.0.join("store");
    let broker = Broker::new(lab.make, &folder.join("broker"), "broker-a", &namesrv.addr)
        .set("storePathRootDir", store.display())
        .set("storePathCommitLog", store.join("commitlog").display());
    disk.mount("ro", false)?;
    let (status, said) = broker.start_refused(&lab.tools, Duration::from_secs(60))?;
    ensure!(!status.success(), "the broker ended with success");
    if lab.make == Make::Ferro {
        ensure!(said.contains(&disk.0.display().to_string()), "the message does not name the folder:\n{said}");
        ensure!(said.to_lowercase().contains("read-only"), "the message does not say why:\n{said}");
        ensure!(!said.contains("panicked"), "the broker panicked:\n{said}");
    }
    Ok(())
}

fn second_process(lab: &Lab) -> Outcome {
    let folder = lab.folder("second")?;
    let (namesrv, mut first) = broker_on(lab, &folder.join("first"), &[])?;
    let mut conn = first.conn()?;
    conn.send(TOPIC, 0, "", BODY)?;
    let second = Broker::new(lab.make, &folder.join("second"), "broker-b", &namesrv.addr)
        .set("storePathRootDir", first.store().display())
        .set("storePathCommitLog", first.store().join("commitlog").display());
    let (status, said) = second.start_refused(&lab.tools, Duration::from_secs(60))?;
    ensure!(!status.success(), "the second broker ended with success");
    if lab.make == Make::Ferro {
        ensure!(said.contains(&first.store().display().to_string()), "the message does not name the store:\n{said}");
        ensure!(
            said.contains("lock") || said.contains("in use") || said.contains("another"),
            "the message does not say why:\n{said}"
        );
    }
    conn.send(TOPIC, 0, "", BODY).doing("sending to the first after the second's attempt")?;
    first.stop()?;
    first.start(&lab.tools)?;
    ensure_eq!(first.conn()?.read_queue(TOPIC, 0, 0)?.len(), 2, "messages after a restart");
    first.stop()
}

fn port_in_use(lab: &Lab) -> Outcome {
    let folder = lab.folder("port")?;
    let namesrv = Namesrv::start(&lab.tools, lab.make, &folder.join("namesrv"))?;
    let broker = Broker::new(lab.make, &folder.join("broker"), "broker-a", &namesrv.addr);
    let taken = std::net::TcpListener::bind(broker.addr())?;
    let (status, said) = broker.start_refused(&lab.tools, Duration::from_secs(60))?;
    ensure!(!status.success(), "the broker ended with success");
    if lab.make == Make::Ferro {
        ensure!(said.contains(&broker.port.to_string()), "the message does not name the port:\n{said}");
        ensure!(!said.contains("panicked"), "the broker panicked:\n{said}");
    }
    drop(taken);
    // The failed attempt leaves nothing that is in the way.
    let mut broker = broker;
    broker.start(&lab.tools).doing("starting with the port free")?;
    broker.stop()
}

/// SIGTERM while messages come in: the broker ends by itself, and all that was acknowledged is there.
fn stop_under_load(lab: &Lab) -> Outcome {
    let mut cluster = Cluster::start(&lab.tools, lab.make, &lab.folder("stop")?, &[])?;
    cluster.create_topic(TOPIC, 4)?;
    let mut workload = Workload::new(TOPIC, 4);
    for _ in 0..3 {
        let load = workload.start(&cluster.broker.addr(), Shape::new(4, 2000))?;
        load.wait(2000, Duration::from_secs(30))?;
        cluster.broker.stop()?;
        workload.take(load)?;
        ensure!(!cluster.broker.store().join("abort").exists(), "a clean stop left the abort file");
        cluster.broker.start(&lab.tools)?;
        workload.verify(&cluster.broker.addr(), true)?;
    }
    cluster.broker.stop()
}

/// The last record was being written when the power went: a part of it stands behind the good ones.
fn torn_tail(lab: &Lab) -> Outcome {
    let mut cluster =
        Cluster::start(&lab.tools, lab.make, &lab.folder("torn")?, &[("mappedFileSizeCommitLog", "16777216")])?;
    cluster.create_topic(TOPIC, 1)?;
    let mut conn = cluster.broker.conn()?;
    for i in 0..300 {
        conn.send(TOPIC, 0, "KEYS\u{1}torn\u{2}", format!("12345678 m-{i}").as_bytes())?;
    }
    wait_for(Duration::from_secs(10), "300 messages", || {
        Ok((conn.bound(code::GET_MAX_OFFSET, TOPIC, 0)? == 300).then_some(()))
    })?;
    let records = conn.read_queue(TOPIC, 0, 0)?;
    cluster.broker.kill();
    let last = &records[299];
    let end = last.physical_offset as u64 + last.raw.len() as u64;
    let mut log =
        std::fs::OpenOptions::new().write(true).open(cluster.broker.store().join("commitlog/00000000000000000000"))?;
    log.seek(SeekFrom::Start(end))?;
    // Up to the middle of its header: the crc of a record covers its body only.
    log.write_all(&last.raw[..60])?;
    log.sync_all()?;
    cluster.broker.start(&lab.tools)?;
    let mut conn = cluster.broker.conn()?;
    ensure_eq!(conn.read_queue(TOPIC, 0, 0)?, records, "records after the restart");
    let sent = conn.send(TOPIC, 0, "", BODY)?;
    ensure_eq!(sent.offset, 300, "queue offset of the next message");
    let all = wait_for(Duration::from_secs(10), "the next message", || {
        Ok(Some(conn.read_queue(TOPIC, 0, 0)?).filter(|all| all.len() == 301))
    })?;
    ensure_eq!(all[300].physical_offset as u64, end, "the next record overwrites the torn one");
    cluster.broker.stop()
}

/// The consume queues are derived from the log: without them, a start makes them anew.
fn lost_consume_queues(lab: &Lab) -> Outcome {
    let mut cluster =
        Cluster::start(&lab.tools, lab.make, &lab.folder("rebuild")?, &[("mappedFileSizeCommitLog", "4194304")])?;
    cluster.create_topic(TOPIC, 3)?;
    let mut conn = cluster.broker.conn()?;
    for i in 0..900 {
        conn.send(TOPIC, i % 3, "TAGS\u{1}t\u{2}", &vec![i as u8; 16 + i as usize * 13])?;
    }
    let read = |broker: &Broker| -> Outcome<Vec<_>> {
        let mut conn = broker.conn()?;
        wait_for(Duration::from_secs(15), "900 messages", || {
            let all: Outcome<Vec<_>> = (0..3).map(|queue| conn.read_queue(TOPIC, queue, 0)).collect();
            Ok(Some(all?).filter(|all| all.iter().map(Vec::len).sum::<usize>() == 900))
        })
    };
    let before = read(&cluster.broker)?;
    cluster.broker.stop()?;
    let queues = cluster.broker.store().join("consumequeue");
    let copy = |queue: i32| std::fs::read(queues.join(format!("{TOPIC}/{queue}/00000000000000000000")));
    let bytes: Vec<Vec<u8>> = (0..3).map(copy).collect::<Result<_, _>>()?;
    std::fs::remove_dir_all(&queues)?;
    cluster.broker.start(&lab.tools)?;
    let after = read(&cluster.broker)?;
    ensure!(after == before, "the rebuilt queues serve other records");
    cluster.broker.stop()?;
    for (queue, expected) in bytes.iter().enumerate() {
        ensure!(copy(queue as i32)? == *expected, "the rebuilt file of queue {queue} differs");
    }
    Ok(())
}

/// From some moment on, every such call on the commit log fails. No message is acknowledged whose record did not get
/// where the flush mode promises, the broker stays readable, and a restart has all that was acknowledged.
fn io_error(lab: &Lab, flush: &str, calls: &str, first_must_fail: bool) -> Outcome {
    skip_java(lab, "maps its files: there is no such call to fail")?;
    let folder = lab.folder("eio")?;
    let settings = [("flushDiskType", flush), ("mappedFileSizeCommitLog", "16777216")];
    let (_namesrv, mut broker) = broker_on(lab, &folder.join("broker"), &settings)?;
    let mut workload = Workload::new(TOPIC, 1);
    let load = workload.start(&broker.addr(), Shape::new(2, 1000))?;
    load.wait(500, Duration::from_secs(30))?;
    workload.take(load)?;
    let pid = broker.process.as_ref().map_or(0, |p| p.pid());
    // Calls on files of the commit log only; the process also writes to sockets, queues and its log.
    let (log, under) = (folder.join("strace.log"), broker.store().join("commitlog"));
    let injection = Injection::attach(pid, calls, "error=EIO:when=1+", Some(&under), &log)?;
    if first_must_fail || calls.starts_with("pwrite") {
        let answer = workload.probe(&broker.addr(), 0)?;
        ensure!(answer.code != 0, "acknowledged although the call failed");
    }
    // Under ASYNC_FLUSH a failed sync is noticed by the next flush; from then on nothing is acknowledged.
    let load = workload.start(&broker.addr(), Shape::new(2, 1000))?;
    let refused = wait_for(Duration::from_secs(10), "sends are refused", || {
        let answer = workload.probe(&broker.addr(), 0)?;
        Ok((answer.code != 0).then_some(answer))
    })?;
    ensure!(!refused.remark.is_empty(), "code {} without a reason", refused.code);
    let from = Instant::now();
    std::thread::sleep(Duration::from_millis(500));
    workload.take(load)?;
    ensure!(!workload.was_acked_after(from), "a message that was sent after the first refusal is acknowledged");
    drop(injection);
    let again = workload.probe(&broker.addr(), 0)?;
    ensure!(
        again.code != 0,
        "the broker writes on after a failed call: pages that the kernel gave up are not tried again"
    );
    ensure!(broker.alive(), "the broker ended:\n{}", broker.log_tail());
    broker.conn()?.read_queue(TOPIC, 0, 0).doing("reading from the broker after the failure")?;
    broker.kill();
    broker.start(&lab.tools).doing("starting after the failure")?;
    workload.verify(&broker.addr(), true)?;
    workload.probe(&broker.addr(), 0)?.ok().doing("sending after the restart")?;
    broker.stop()?;
    workload.end().map(drop)
}

/// The disk hangs for seconds under SYNC_FLUSH: the official clients are answered in time, FLUSH_DISK_TIMEOUT, and the
/// messages are there once when it goes on.
fn stalled_sync(lab: &Lab) -> Outcome {
    skip_java(lab, "maps its files: a sync has no file by whose name it could be told from others")?;
    let folder = lab.folder("stalled")?;
    let settings = [("flushDiskType", "SYNC_FLUSH"), ("syncFlushTimeout", "1500")];
    let (namesrv, mut broker) = broker_on(lab, &folder.join("broker"), &settings)?;
    wait_route(&namesrv.addr, TOPIC, "\"writeQueueNums\":1")?;
    let send = |client: Client, driver: &Driver, name: &String, when: &str| -> Outcome<String> {
        let rows = driver.send(name, "sync", &[Msg::new(TOPIC, format!("{}-{when}", client.label()))])?;
        Ok(rows[0].get("status").to_owned())
    };
    let mut producers = Vec::new();
    for client in ALL {
        let (driver, name) = (lab.driver(client)?, lab.name("producer"));
        start(driver, "producer", &namesrv.addr, &name, "contract-producers", &[])?;
        ensure_eq!(send(client, driver, &name, "before")?, "SEND_OK", "{}: status before the stall", client.label());
        producers.push((client, driver, name));
    }
    let pid = broker.process.as_ref().map_or(0, |p| p.pid());
    let (log, under) = (folder.join("strace.log"), broker.store().join("commitlog"));
    let injection = Injection::attach(pid, "fdatasync,fsync,msync", "delay_enter=8000000:when=1+", Some(&under), &log)?;
    for (client, driver, name) in &producers {
        // The Go driver gives the number of a status.
        let wanted = if *client == Client::Go { "status 1" } else { "FLUSH_DISK_TIMEOUT" };
        ensure_eq!(send(*client, driver, name, "stalled")?, wanted, "{}: status during the stall", client.label());
    }
    drop(injection);
    for (client, driver, name) in &producers {
        ensure_eq!(send(*client, driver, name, "after")?, "SEND_OK", "{}: status after it", client.label());
        driver.call("stop", &[("name", name)])?;
    }
    let sent =
        ["before", "stalled", "after"].map(|when| ALL.map(|client| format!("{}-{when}", client.label()))).concat();
    let mut conn = broker.conn()?;
    let stored = wait_for(Duration::from_secs(30), "all messages in the queue", || {
        Ok(Some(conn.read_queue(TOPIC, 0, 0)?).filter(|stored| stored.len() >= sent.len()))
    })?;
    let stored: Vec<String> = stored.iter().map(|r| String::from_utf8_lossy(&r.body).into_owned()).collect();
    ensure_eq!(stored, sent, "messages in the queue");
    broker.stop()
}
