//! `ferromq bench`: throughput, latency and what a message costs the server, measured through the client library.
//!
//! `load.rs` makes the load on threads of its own, `process.rs` reads the server's CPU time, `report.rs` shows the result. CPU time per message
//! is the figure that compares: messages per second depend on who else uses the machine, the load generator included.

mod load;
mod pop;
mod process;
mod report;

use crate::cli::{BenchArgs, BenchWork};
use crate::{Failure, connect, printer, text, topic};
use ferromq_client::{Client, Error, MessageQueue};
use load::{Counters, Load};
use report::{Phase, Report};
use std::collections::BTreeSet;
use std::net::ToSocketAddrs;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// RocketMQ's group for tools; brokers have it from the start.
const GROUP: &str = "TOOLS_CONSUMER";
/// How often the progress line changes.
const PROGRESS_PERIOD: Duration = Duration::from_millis(500);

/// Where a queue stood when a phase began.
#[derive(Clone, Debug)]
struct Span {
    queue: MessageQueue,
    from: i64,
    to: i64,
}

/// Measures and prints the result.
pub fn run(arguments: BenchArgs) -> Result<(), Failure> {
    let (before, pids) = connect::block_on(async {
        let client = connect::client(&arguments.cluster)?;
        ensure_topic(&client, &arguments).await?;
        let spans = spans(&client, &arguments).await?;
        let pids = match arguments.pid {
            Some(pid) => BTreeSet::from([pid]),
            None => broker_pids(&client, &arguments).await?,
        };
        client.shutdown().await;
        Ok((spans, pids))
    })?;
    let mut report = Report::new(&arguments, before.len());
    if matches!(arguments.work, BenchWork::Send | BenchWork::Both) {
        report.send = Some(measure("sent", &pids, arguments.messages, || load::send(&arguments))?);
    }
    if arguments.work == BenchWork::Pop {
        let brokers = connect::block_on(async {
            let client = connect::client(&arguments.cluster)?;
            let brokers = brokers(&client, &arguments).await?;
            client.shutdown().await;
            Ok(brokers)
        })?;
        let wanted = arguments.messages;
        report.pop = Some(measure("popped", &pids, wanted, || pop::pop(&arguments, &brokers, wanted))?);
    }
    if matches!(arguments.work, BenchWork::Pull | BenchWork::Both) {
        let work = connect::block_on(async {
            let client = connect::client(&arguments.cluster)?;
            let now = spans(&client, &arguments).await?;
            client.shutdown().await;
            Ok(if report.send.is_some() { added_since(&before, now) } else { now })
        })?;
        let there: i64 = work.iter().map(|span| span.to - span.from).sum();
        let wanted = arguments.messages.min(there as u64);
        if wanted == 0 {
            return Err(Failure(format!(
                "topic {} has no messages to pull; run `ferromq bench send` first",
                arguments.topic
            )));
        }
        report.pull = Some(measure("pulled", &pids, wanted, || load::pull(&arguments, &work, wanted))?);
    }
    printer::lines(if arguments.json { vec![report.json()?] } else { report.lines() });
    match report.failures() {
        0 => Ok(()),
        failures => {
            Err(Failure(format!("{} calls failed; the first: {}", text::grouped(failures), report.first_failure())))
        }
    }
}

async fn ensure_topic(client: &Client, arguments: &BenchArgs) -> Result<(), Failure> {
    match client.admin().topic_route(&arguments.topic).await {
        Ok(_) => Ok(()),
        Err(Error::NoRoute { .. }) => {
            topic::create(client, &arguments.cluster, &arguments.topic, arguments.queues, None).await.map(drop)
        }
        Err(error) => Err(connect::explain(&error, &arguments.cluster)),
    }
}

async fn spans(client: &Client, arguments: &BenchArgs) -> Result<Vec<Span>, Failure> {
    let consumer = client.pull_consumer(GROUP)?;
    let mut spans = Vec::new();
    for queue in consumer.queues(&arguments.topic).await? {
        let (from, to) = (consumer.min_offset(&queue).await?, consumer.max_offset(&queue).await?);
        spans.push(Span { queue, from, to });
    }
    Ok(spans)
}

fn added_since(before: &[Span], now: Vec<Span>) -> Vec<Span> {
    let start = |queue: &MessageQueue| before.iter().find(|span| span.queue == *queue).map(|span| span.to);
    now.into_iter().map(|span| Span { from: start(&span.queue).unwrap_or(span.from), ..span }).collect()
}

/// The processes behind the topic's brokers, those on this machine.
async fn broker_pids(client: &Client, arguments: &BenchArgs) -> Result<BTreeSet<u32>, Failure> {
    let route = client.admin().topic_route(&arguments.topic).await?;
    let addresses = route.broker_datas.iter().flat_map(|broker| broker.broker_addrs.values());
    let resolved = addresses.filter_map(|address| address.to_socket_addrs().ok()?.next());
    Ok(resolved.filter_map(process::listener).collect())
}

/// The brokers that have queues of the topic.
async fn brokers(client: &Client, arguments: &BenchArgs) -> Result<Vec<pop::Broker>, Failure> {
    let route = client.admin().topic_route(&arguments.topic).await?;
    let masters = route.broker_datas.iter().filter_map(|broker| {
        let address = broker.broker_addrs.get(&0)?.clone();
        Some(pop::Broker { name: broker.broker_name.clone(), address })
    });
    let brokers: Vec<_> = masters.collect();
    if brokers.is_empty() {
        return Err(Failure(format!("no master has queues of topic {}", arguments.topic)));
    }
    Ok(brokers)
}

/// Runs a load, shows its progress, and takes the server's CPU time around it.
fn measure(
    verb: &str,
    pids: &BTreeSet<u32>,
    total: u64,
    start: impl FnOnce() -> Result<Load, Failure>,
) -> Result<Phase, Failure> {
    let cpu = |pids: &BTreeSet<u32>| pids.iter().map(|pid| process::cpu_time(*pid)).sum::<Option<Duration>>();
    let cpu_before = cpu(pids);
    let began = Instant::now();
    let load = start()?;
    let counters: Arc<Counters> = load.counters();
    let mut last = (0, began);
    let outcome = load.join(PROGRESS_PERIOD, || {
        let (done, now) = (counters.done(), Instant::now());
        let rate = (done - last.0) as f64 / now.duration_since(last.1).as_secs_f64();
        last = (done, now);
        printer::progress(&format!(
            "{} of {} {verb}, {}/s",
            text::grouped(done),
            text::grouped(total),
            text::grouped(rate as u64)
        ));
    });
    printer::progress_end();
    let cpu = if pids.is_empty() {
        None
    } else {
        cpu_before.zip(cpu(pids)).map(|(before, after)| after.saturating_sub(before))
    };
    Ok(Phase::new(outcome?, began.elapsed(), cpu))
}
