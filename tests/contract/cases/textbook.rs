//! `ferromq dev` and a user's program as the textbook has it, through a restart of the server.

use ferromq_contract::runner::{Case, Lab};
use ferromq_contract::server::{Make, Process, START_LIMIT, free_ports};
use ferromq_contract::{Outcome, Stop, ensure, ensure_eq, wait_for};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

pub fn cases() -> Vec<Case> {
    vec![Case::alone("textbook::ordered_messages_through_a_restart_of_dev", ordered_messages)]
}

const ORDERS: usize = 6;
const STEPS: usize = 20;

fn dev(lab: &Lab, folder: &Path, namesrv: u16, broker: u16) -> Outcome<Process> {
    let mut command = Command::new(lab.tools.ferromq()?);
    command.arg("dev").arg("--data").arg(folder.join("data"));
    command.args(["--namesrv-port", &namesrv.to_string(), "--broker-port", &broker.to_string(), "--grpc-port", "0"]);
    command.args(["--http-port", "0", "--proxy-port", "0"]);
    let mut process = Process::spawn("dev", command, &folder.join("dev.log"))?;
    process.wait_line("boot success", START_LIMIT)?;
    Ok(process)
}

fn stop(mut process: Process) -> Outcome {
    process.signal(rustix::process::Signal::TERM)?;
    let status = process.wait_end(START_LIMIT)?;
    ensure!(status.success(), "dev ended with {status} after SIGTERM:\n{}", process.log_tail());
    Ok(())
}

fn ordered_messages(lab: &Lab) -> Outcome {
    if lab.make == Make::Java {
        return Err(Stop::Skipped("the Java server has no dev mode".to_owned()));
    }
    let folder = lab.folder("textbook")?;
    let (namesrv, broker) = (free_ports(), free_ports());
    let server = dev(lab, &folder, namesrv, broker)?;
    let mut command = lab.tools.textbook("OrderedMessages", &folder)?;
    command.args([&format!("127.0.0.1:{namesrv}"), "TopicOrder", &ORDERS.to_string(), &STEPS.to_string()]);
    let mut program = Process::spawn("textbook", command, &folder.join("textbook.log"))?;
    program.wait_line(&format!("received 0/{}", STEPS / 4), Duration::from_secs(60))?;
    stop(server)?;
    std::thread::sleep(Duration::from_millis(300));
    let server = dev(lab, &folder, namesrv, broker)?;
    program.wait_line("all sent", Duration::from_secs(90))?;
    let all = ORDERS * STEPS;
    wait_for(Duration::from_secs(60), "all steps received", || {
        let log = program.log();
        let received: BTreeSet<&str> = log.lines().filter_map(|l| l.strip_prefix("received ")).collect();
        Ok((received.len() == all).then_some(()))
    })
    .map_err(|e| Stop::Failed(format!("{e}:\n{}", program.log_tail())))?;
    program.kill();
    stop(server)?;
    let log = program.log();
    let mut steps: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    let mut queues: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for line in log.lines().filter_map(|l| l.strip_prefix("received ")) {
        let (body, queue) = line.split_once(" queue ").ok_or("a foreign line")?;
        let (order, step) = body.split_once('/').ok_or("a foreign body")?;
        let step: usize = step.parse().map_err(|_| "a foreign body")?;
        let seen = steps.entry(order).or_default();
        if !seen.contains(&step) {
            seen.push(step);
        }
        queues.entry(order).or_default().insert(queue);
    }
    ensure_eq!(steps.len(), ORDERS, "orders");
    for (order, seen) in steps {
        ensure_eq!(seen, (0..STEPS).collect::<Vec<_>>(), "steps of order {order} as they arrived");
        ensure_eq!(queues[order].len(), 1, "queues of order {order}");
    }
    Ok(())
}
