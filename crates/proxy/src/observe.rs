//! What the proxy tells of the calls it has served: figures as Prometheus reads them (`GET /metrics` of the HTTP port), and a
//! line for each call at log level `debug`.
//!
//! `rocketmq_proxy_up` has RocketMQ's name and labels (`ProxyMetricsConstant`); what RocketMQ does not count has names of our own.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::call::Caller;
use crate::pb::Code;

/// How clients talk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Protocol {
    Grpc,
    Http,
}

/// A kind of call and what came of it. Names and outcomes are those of the protocols, so their number is bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Outcome {
    pub protocol: Protocol,
    /// A call of the gRPC service, or a method of HTTP.
    pub call: &'static str,
    /// RocketMQ's code, or the status of HTTP.
    pub code: i32,
}

#[derive(Clone, Copy, Default)]
struct Served {
    count: u64,
    took: Duration,
}

/// All calls so far.
#[derive(Default)]
pub(crate) struct Calls {
    table: Mutex<BTreeMap<Outcome, Served>>,
}

impl Calls {
    /// A call that began then is answered. `who` it was is written down, not counted.
    pub fn served(&self, outcome: Outcome, who: &dyn fmt::Display, began: Instant) {
        let took = began.elapsed();
        {
            let mut table = self.table.lock();
            let served = table.entry(outcome).or_default();
            served.count += 1;
            served.took += took;
        }
        let Outcome { protocol, call, .. } = outcome;
        tracing::debug!(?protocol, call, code = %outcome.code(), %who, took_us = took.as_micros() as u64, "served");
    }

    /// Everything as Prometheus reads it. `mode`: `local` or `cluster`; `clients`: those that have told their settings; `waiting`:
    /// requests of HTTP that wait for messages.
    pub fn text(&self, mode: &str, clients: usize, waiting: usize) -> String {
        let table = self.table.lock().clone();
        let mut text = String::new();
        let of_calls = |text: &mut String, figure: &dyn Fn(&Served) -> f64, name: &str| {
            table.iter().try_for_each(|(outcome, served)| {
                let Outcome { protocol, call, .. } = outcome;
                let (protocol, code) = (format!("{protocol:?}").to_lowercase(), outcome.code());
                writeln!(text, "{name}{{protocol=\"{protocol}\",call=\"{call}\",code=\"{code}\"}} {}", figure(served))
            })
        };
        // Writing to a string does not fail.
        let _ = (|| {
            head(&mut text, "rocketmq_proxy_up", "gauge", "Whether the proxy serves")?;
            writeln!(text, "rocketmq_proxy_up{{node_type=\"proxy\",proxy_mode=\"{mode}\"}} 1")?;
            head(&mut text, "ferromq_proxy_clients", "gauge", "Clients that have told their settings")?;
            writeln!(text, "ferromq_proxy_clients {clients}")?;
            head(&mut text, "ferromq_proxy_http_waiting", "gauge", "Requests of HTTP that wait for messages")?;
            writeln!(text, "ferromq_proxy_http_waiting {waiting}")?;
            head(&mut text, "ferromq_proxy_calls_total", "counter", "Calls that were answered")?;
            of_calls(&mut text, &|served| served.count as f64, "ferromq_proxy_calls_total")?;
            head(&mut text, "ferromq_proxy_call_seconds_total", "counter", "Time until they were, waiting included")?;
            of_calls(&mut text, &|served| served.took.as_secs_f64(), "ferromq_proxy_call_seconds_total")
        })();
        text
    }
}

impl Outcome {
    fn code(&self) -> String {
        match (self.protocol, Code::try_from(self.code)) {
            (Protocol::Grpc, Ok(code)) => code.as_str_name().to_owned(),
            _ => self.code.to_string(),
        }
    }
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) -> fmt::Result {
    writeln!(text, "# HELP {name} {help}.\n# TYPE {name} {kind}")
}

/// A caller as it stands in the log, or that there was none.
pub(crate) struct Who<'a>(pub Option<&'a Caller>);

impl fmt::Display for Who<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(caller) => write!(f, "{} at {}", caller.client_id, caller.ends.peer),
            None => f.write_str("a caller without a name"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_what_prometheus_reads() {
        let calls = Calls::default();
        let outcome = |protocol, call, code| Outcome { protocol, call, code };
        for code in [Code::Ok, Code::Ok, Code::TopicNotFound] {
            calls.served(outcome(Protocol::Grpc, "SendMessage", code as i32), &Who(None), Instant::now());
        }
        calls.served(outcome(Protocol::Http, "POST", 201), &Who(None), Instant::now());
        let text = calls.text("local", 3, 2);
        for line in [
            "# TYPE rocketmq_proxy_up gauge",
            "rocketmq_proxy_up{node_type=\"proxy\",proxy_mode=\"local\"} 1",
            "ferromq_proxy_clients 3",
            "ferromq_proxy_http_waiting 2",
            "ferromq_proxy_calls_total{protocol=\"grpc\",call=\"SendMessage\",code=\"OK\"} 2",
            "ferromq_proxy_calls_total{protocol=\"grpc\",call=\"SendMessage\",code=\"TOPIC_NOT_FOUND\"} 1",
            "ferromq_proxy_calls_total{protocol=\"http\",call=\"POST\",code=\"201\"} 1",
        ] {
            assert!(text.lines().any(|other| other == line), "{line} is not in\n{text}");
        }
        let is_sample = |line: &str| line.rsplit_once(' ').is_some_and(|(_, value)| value.parse::<f64>().is_ok());
        assert!(text.lines().all(|line| line.starts_with("# ") || is_sample(line)), "{text}");
    }
}
