//! The result of a measurement, for people and for programs.

use super::load::Outcome;
use crate::cli::BenchArgs;
use crate::text::grouped;
use serde::Serialize;
use std::time::Duration;

/// What `--json` prints; names carry their units.
#[derive(Serialize)]
pub struct Report {
    topic: String,
    queues: usize,
    body_bytes: u32,
    connections: u32,
    in_flight_per_connection: u32,
    /// The send phase, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub send: Option<Phase>,
    /// The pull phase, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pull: Option<Phase>,
    /// The pop phase, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pop: Option<Phase>,
}

/// One phase.
#[derive(Serialize)]
pub struct Phase {
    messages: u64,
    failures: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_failure: Option<String>,
    seconds: f64,
    messages_per_second: f64,
    mib_per_second: f64,
    latency_micros: Latency,
    /// User and system time of the server's process; absent where it cannot be read.
    server_cpu_micros_per_message: Option<f64>,
}

/// From call to answer.
#[derive(Serialize)]
struct Latency {
    p50: u64,
    p90: u64,
    p99: u64,
    p999: u64,
    max: u64,
}

impl Phase {
    /// Sums a phase up.
    pub fn new(outcome: Outcome, took: Duration, server_cpu: Option<Duration>) -> Self {
        let seconds = took.as_secs_f64().max(f64::EPSILON);
        let at = |quantile| outcome.latency.value_at_quantile(quantile);
        Self {
            messages: outcome.messages,
            failures: outcome.failures,
            first_failure: outcome.first_failure,
            seconds,
            messages_per_second: outcome.messages as f64 / seconds,
            mib_per_second: outcome.bytes as f64 / (1024.0 * 1024.0) / seconds,
            latency_micros: Latency {
                p50: at(0.5),
                p90: at(0.9),
                p99: at(0.99),
                p999: at(0.999),
                max: outcome.latency.max(),
            },
            server_cpu_micros_per_message: server_cpu
                .filter(|_| outcome.messages > 0)
                .map(|cpu| cpu.as_secs_f64() * 1e6 / outcome.messages as f64),
        }
    }

    fn lines(&self, verb: &str, per: &str) -> Vec<String> {
        let Latency { p50, p90, p99, p999, max } = self.latency_micros;
        let cpu = match self.server_cpu_micros_per_message {
            Some(micros) => format!("{micros:.2} µs per message"),
            None => "unknown: the broker is on another machine, or give its process with --pid".into(),
        };
        let mut lines = vec![
            format!("{verb} {} messages in {:.2} s", grouped(self.messages), self.seconds),
            format!("  throughput   {}/s, {:.1} MiB/s", grouped(self.messages_per_second as u64), self.mib_per_second),
            format!("  latency      per {per}, µs: p50 {p50}, p90 {p90}, p99 {p99}, p99.9 {p999}, max {max}"),
            format!("  server CPU   {cpu}"),
        ];
        if self.failures > 0 {
            lines.push(format!("  failures     {}", grouped(self.failures)));
        }
        lines
    }
}

impl Report {
    /// A report without phases.
    pub fn new(arguments: &BenchArgs, queues: usize) -> Self {
        Self {
            topic: arguments.topic.clone(),
            queues,
            body_bytes: arguments.size,
            connections: arguments.connections,
            in_flight_per_connection: arguments.in_flight,
            send: None,
            pull: None,
            pop: None,
        }
    }

    /// For a program.
    pub fn json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self)
    }

    /// For a person.
    pub fn lines(&self) -> Vec<String> {
        let Self { topic, queues, body_bytes, connections, in_flight_per_connection, .. } = self;
        let mut lines = vec![format!(
            "{topic}: {queues} queues, {} byte bodies, {connections} connections, {in_flight_per_connection} sends under way on each",
            grouped(u64::from(*body_bytes))
        )];
        lines.extend(self.send.iter().flat_map(|phase| phase.lines("sent", "send")));
        lines.extend(self.pull.iter().flat_map(|phase| phase.lines("pulled", "pull of up to 32 messages")));
        let pop = self.pop.iter().flat_map(|phase| phase.lines("popped and acknowledged", "pop of up to 32 messages"));
        lines.extend(pop);
        lines
    }

    /// Calls that failed, of all phases.
    pub fn failures(&self) -> u64 {
        self.phases().map(|phase| phase.failures).sum()
    }

    /// Why the first of them did.
    pub fn first_failure(&self) -> &str {
        self.phases().find_map(|phase| phase.first_failure.as_deref()).unwrap_or("no reason given")
    }

    fn phases(&self) -> impl Iterator<Item = &Phase> {
        self.send.iter().chain(&self.pull).chain(&self.pop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hdrhistogram::Histogram;

    #[test]
    fn figures_follow_from_the_outcome() {
        let mut latency = Histogram::new(3).unwrap();
        (1..=1000).for_each(|micros| latency.record(micros).unwrap());
        let bytes = 1000 * 1024 * 1024;
        let outcome = Outcome { messages: 1000, bytes, failures: 0, first_failure: None, latency };
        let phase = Phase::new(outcome, Duration::from_secs(2), Some(Duration::from_millis(3)));
        assert_eq!((phase.messages_per_second, phase.mib_per_second), (500.0, 500.0));
        assert_eq!(phase.server_cpu_micros_per_message, Some(3.0));
        assert_eq!((phase.latency_micros.p50, phase.latency_micros.max), (500, 1000));
        assert!(phase.lines("sent", "send").join("\n").contains("500/s, 500.0 MiB/s"));
    }
}
