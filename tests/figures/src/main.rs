//! The figures of the second protocol, ours beside the Java 5.5 server (broker, and proxy as a process of its own) under the
//! same load, in turns: `cargo xtask figures`. CPU per message is the figure that compares; the machine may be shared.

mod client;
mod load;
mod remoting;

/// What `proto/` becomes, for a client.
mod pb {
    #![allow(clippy::all, clippy::allow_attributes_without_reason, dead_code, reason = "generated")]
    tonic::include_proto!("apache.rocketmq.v2");
}

use ferromq_contract::cluster::Cluster;
use ferromq_contract::load::{Shape, Workload};
use ferromq_contract::runner::{self, Case, Failed, Lab};
use ferromq_contract::server::{Make, Process};
use ferromq_contract::{Outcome, ensure, scale};
use std::process::ExitCode;
use std::time::Duration;

const QUEUES: u32 = 8;
/// Connected consumers that do nothing.
const IDLE: usize = 5000;
/// Messages a second of the latency figure.
const RATE: u32 = 1000;

fn main() -> ExitCode {
    let figures = vec![
        Case::alone("figures::send_receive_latency", beside_java),
        Case::alone("figures::idle_consumers", idle_consumers),
        Case::alone("figures::local_mode_against_remoting", local_against_remoting),
    ];
    runner::main(figures, Failed::Fails)
}

/// Seconds of each measurement (`FERROMQ_FIGURE_SECONDS`).
fn seconds() -> Duration {
    Duration::from_secs(scale("FERROMQ_FIGURE_SECONDS", 8))
}

/// One of the two, and what was measured of it in each round.
struct Side {
    name: &'static str,
    cluster: Cluster,
    send: Vec<f64>,
    receive: Vec<f64>,
    p99: Vec<f64>,
}

impl Side {
    fn start(lab: &Lab, make: Make, name: &'static str) -> Outcome<Side> {
        let cluster = Cluster::proxied(&lab.tools, make, &lab.folder(name)?)?;
        Ok(Side { name, cluster, send: Vec::new(), receive: Vec::new(), p99: Vec::new() })
    }

    fn servers(&self) -> Vec<&Process> {
        self.cluster.broker.process.iter().chain(self.cluster.proxy().map(|proxy| &proxy.process)).collect()
    }

    fn cpu(&self) -> Outcome<Duration> {
        self.servers().into_iter().map(Process::cpu).sum()
    }

    /// Microseconds of the servers' CPU time for each message of a load.
    fn cost(&self, load: impl FnOnce() -> Outcome<u64>) -> Outcome<f64> {
        let before = self.cpu()?;
        let count = load()?;
        ensure!(count > 0, "{}: no message went through", self.name);
        Ok((self.cpu()? - before).as_secs_f64() * 1e6 / count as f64)
    }

    fn round(&mut self, lab: &Lab, warm_up: bool) -> Outcome {
        let (addr, topic, group) = (self.cluster.endpoints(), lab.name("load"), lab.name("group"));
        self.cluster.create_typed_topic(&topic, QUEUES, "NORMAL")?;
        let send = self.cost(|| load::send(&addr, &topic, 16, seconds()))?;
        let receive = self.cost(|| load::receive(&addr, &group, &topic, seconds() * 2))?;
        let clock = lab.name("clock");
        self.cluster.create_typed_topic(&clock, QUEUES, "NORMAL")?;
        let latencies = load::end_to_end(&addr, &lab.name("group"), &clock, RATE, seconds())?;
        let p99 = latencies.value_at_quantile(0.99) as f64;
        lab.tell(&format!("{}: send {send:.1} us, receive and ack {receive:.1} us, p99 {p99:.0} us", self.name));
        if !warm_up {
            self.send.push(send);
            self.receive.push(receive);
            self.p99.push(p99);
        }
        Ok(())
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Sends, receipts with acknowledgements, and latency at a fixed rate, in turns; the first round warms up and is not counted.
fn beside_java(lab: &Lab) -> Outcome {
    let mut sides = [Side::start(lab, Make::Java, "java")?, Side::start(lab, Make::Ferro, "ours")?];
    let rounds = scale("FERROMQ_FIGURE_ROUNDS", 3);
    for round in 0..=rounds {
        for side in &mut sides {
            side.round(lab, round == 0)?;
        }
    }
    let [java, ours] = &sides;
    for (what, java, ours, unit) in [
        ("gRPC send, 1 KiB, 4 connections x 16 calls: CPU per message", &java.send, &ours.send, "us"),
        ("gRPC receive + ack, 1 KiB, 4 connections: CPU per message", &java.receive, &ours.receive, "us"),
        ("gRPC end to end, 1,000 msg/s: p99", &java.p99, &ours.p99, "us"),
    ] {
        let (java, ours) = (median(java), median(ours));
        let ratio = format!("ours {ours:.1} {unit}, Java {java:.1} {unit}: 1/{:.1}", java / ours);
        lab.row(what, format!("median of {rounds}"), ratio);
    }
    Ok(())
}

/// Memory that consumers cost which are only there.
fn idle_consumers(lab: &Lab) -> Outcome {
    let side = Side::start(lab, Make::Ferro, "idle")?;
    let (topic, group) = (lab.name("idle"), lab.name("group"));
    side.cluster.create_typed_topic(&topic, QUEUES, "NORMAL")?;
    let memory = || side.servers().iter().map(|process| process.memory()).sum::<u64>() >> 20;
    let before = memory();
    let after = load::idle(&side.cluster.endpoints(), &group, &topic, IDLE, memory)?;
    lab.row("gRPC consumers idle, anonymous memory", format!("{IDLE}"), format!("{after} MiB ({before} MiB without)"));
    Ok(())
}

/// What a message costs through the proxy of the broker's process against the remoting protocol, in turns: sends one at a time
/// on each of four connections, and sixteen; then what the last ones sent is consumed twice.
fn local_against_remoting(lab: &Lab) -> Outcome {
    let side = Side::start(lab, Make::Ferro, "local")?;
    let rounds = scale("FERROMQ_FIGURE_ROUNDS", 3);
    let mut costs = [(); 3].map(|()| (Vec::new(), Vec::new()));
    for round in 0..=rounds {
        let of_round = local_round(lab, &side)?;
        // The first warms up.
        if round > 0 {
            for (all, (grpc, remoting)) in costs.iter_mut().zip(of_round) {
                all.0.push(grpc);
                all.1.push(remoting);
            }
        }
    }
    let what = ["send, 4 x 1", "send, 4 x 16", "receive + ack, 4 x 2 x 32"];
    for (what, (grpc, remoting)) in what.into_iter().zip(&costs) {
        let (grpc, remoting) = (median(grpc), median(remoting));
        let result = format!("gRPC {grpc:.1} us, remoting {remoting:.1} us: {:.2}x", grpc / remoting);
        lab.row(
            &format!("local mode against remoting, {what}: CPU per message"),
            format!("median of {rounds}"),
            result,
        );
    }
    Ok(())
}

/// Microseconds for each message of gRPC and of remoting.
fn local_round(lab: &Lab, side: &Side) -> Outcome<[(f64, f64); 3]> {
    let (addr, endpoints) = (side.cluster.broker.addr(), side.cluster.endpoints());
    let send = |topic: &str, in_flight| -> Outcome<(f64, f64)> {
        let grpc = side.cost(|| load::send(&endpoints, topic, in_flight, seconds()))?;
        // Its bodies vary evenly up to the size that is given.
        let remoting = side.cost(|| {
            let mut workload = Workload::new(topic, QUEUES as i32);
            let running = workload.start(&addr, Shape { in_flight, ..Shape::new(4, 2 * load::BODY) })?;
            std::thread::sleep(seconds());
            workload.take(running)
        })?;
        Ok((grpc, remoting))
    };
    let topics = [lab.name("local"), lab.name("local")];
    for topic in &topics {
        side.cluster.create_typed_topic(topic, QUEUES, "NORMAL")?;
    }
    let [one, many] = [send(&topics[0], 1)?, send(&topics[1], 16)?];
    let grpc = side.cost(|| load::receive(&endpoints, &lab.name("group"), &topics[1], seconds()))?;
    let in_flight = QUEUES as usize / load::CONNECTIONS;
    let remoting = side.cost(|| remoting::pop(&addr, &lab.name("group"), &topics[1], in_flight, seconds()))?;
    lab.tell(&format!("gRPC and remoting, us: send {one:.1?}, {many:.1?}, receive and ack {:.1?}", (grpc, remoting)));
    Ok([one, many, (grpc, remoting)])
}
