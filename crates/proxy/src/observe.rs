//! What the proxy tells of the calls it has served: figures as Prometheus reads them (`GET /metrics` of the HTTP port), and a
//! line for each call at log level `debug`.
//!
//! `rocketmq_proxy_up` and `rocketmq_rpc_latency` have RocketMQ's names, labels and bounds (`ProxyMetricsConstant`,
//! `RemotingMetricsManager`), as its exporter for Prometheus writes them. RocketMQ counts latencies of remoting only; ours are of
//! every protocol, by `protocol_type`. What RocketMQ does not count has names of our own.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::time::{Duration, Instant};

use ferromq_protocol::code::response;
use parking_lot::Mutex;

use crate::call::Caller;
use crate::pb::Code;

/// Upper bounds of RocketMQ's histogram of latencies (`RemotingMetricsManager`), milliseconds.
const BOUNDS_MS: [u64; 9] = [1, 3, 5, 7, 10, 100, 1000, 2000, 3000];
/// Kinds of calls and outcomes that are told apart; what would be one more counts as another.
const MAX_OUTCOMES: usize = 4096;
/// The code of outcomes that have no name.
const OTHER: i32 = i32::MIN;

/// What a proxy calls itself in its figures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// `proxyClusterName`.
    pub cluster: String,
    /// `proxyName`.
    pub name: String,
}

impl Default for Node {
    fn default() -> Self {
        Node { cluster: "DefaultCluster".to_owned(), name: "DEFAULT_PROXY".to_owned() }
    }
}

/// How clients talk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Protocol {
    Grpc,
    Http,
    Remoting,
}

/// What became of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Sent {
    Success,
    Oneway,
    WriteChannelFailed,
    /// The client gave the call up before there was one.
    Cancelled,
}

/// A kind of call and what came of it. Names and outcomes are those of the protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Outcome {
    pub protocol: Protocol,
    /// A call of the gRPC service, a request of remoting, or a method of HTTP.
    pub call: &'static str,
    /// RocketMQ's code, or the status of HTTP.
    pub code: i32,
    /// The call may wait for messages; of HTTP this is not known.
    pub polls: Option<bool>,
    pub sent: Sent,
}

#[derive(Clone, Copy, Default)]
struct Served {
    count: u64,
    took: Duration,
    /// Calls that took no longer than each of [`BOUNDS_MS`], and longer than the one before.
    within: [u64; BOUNDS_MS.len()],
}

/// All calls so far.
pub(crate) struct Calls {
    node: Node,
    table: Mutex<BTreeMap<Outcome, Served>>,
}

impl Calls {
    pub fn new(node: Node) -> Self {
        Calls { node, table: Mutex::default() }
    }

    /// A call that began then is answered, or given up. `who` it was is written down, not counted.
    pub fn served(&self, outcome: Outcome, who: &dyn fmt::Display, began: Instant) {
        let took = began.elapsed();
        self.count(outcome.named(), took);
        let Outcome { protocol, call, .. } = outcome;
        tracing::debug!(?protocol, call, code = %outcome.code(), %who, took_us = took.as_micros() as u64, "served");
    }

    fn count(&self, outcome: Outcome, took: Duration) {
        let mut table = self.table.lock();
        let is_full = table.len() >= MAX_OUTCOMES && !table.contains_key(&outcome);
        let counted = if is_full { Outcome { call: "other", code: OTHER, ..outcome } } else { outcome };
        let served = table.entry(counted).or_default();
        served.count += 1;
        served.took += took;
        if let Some(at) = BOUNDS_MS.iter().position(|bound| took <= Duration::from_millis(*bound)) {
            served.within[at] += 1;
        }
    }

    /// Everything as Prometheus reads it. `mode`: `local` or `cluster`; `clients`: those that have told their settings; `waiting`:
    /// requests of HTTP that wait for messages.
    pub fn text(&self, mode: &str, clients: usize, waiting: usize) -> String {
        let table = self.table.lock().clone();
        let Node { cluster, name } = &self.node;
        let node = format!(
            "cluster=\"{}\",node_id=\"{}\",node_type=\"proxy\",proxy_mode=\"{mode}\"",
            escaped(cluster),
            escaped(name)
        );
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = (|| {
            head(&mut text, "rocketmq_proxy_up", "gauge", "Whether the proxy serves")?;
            writeln!(text, "rocketmq_proxy_up{{{node}}} 1")?;
            head(&mut text, "ferromq_proxy_clients", "gauge", "Clients that have told their settings")?;
            writeln!(text, "ferromq_proxy_clients{{{node}}} {clients}")?;
            head(&mut text, "ferromq_proxy_http_waiting", "gauge", "Requests of HTTP that wait for messages")?;
            writeln!(text, "ferromq_proxy_http_waiting{{{node}}} {waiting}")?;
            head(&mut text, LATENCY, "histogram", "Time until calls were answered, waiting for messages included")?;
            table.iter().try_for_each(|(outcome, served)| served.write(&mut text, &format!("{node},{outcome}")))
        })();
        text
    }
}

/// RocketMQ's `rocketmq_rpc_latency`, by the name that its exporter for Prometheus makes of it.
const LATENCY: &str = "rocketmq_rpc_latency_milliseconds";

impl Served {
    fn write(&self, text: &mut String, labels: &str) -> fmt::Result {
        let mut until = 0;
        for (bound, within) in BOUNDS_MS.iter().zip(self.within) {
            until += within;
            writeln!(text, "{LATENCY}_bucket{{{labels},le=\"{bound}.0\"}} {until}")?;
        }
        writeln!(text, "{LATENCY}_bucket{{{labels},le=\"+Inf\"}} {}", self.count)?;
        writeln!(text, "{LATENCY}_count{{{labels}}} {}", self.count)?;
        writeln!(text, "{LATENCY}_sum{{{labels}}} {}", self.took.as_secs_f64() * 1000.0)
    }
}

impl Outcome {
    /// Brokers may answer with any number: those without a name are one.
    fn named(self) -> Self {
        let has_name = self.protocol != Protocol::Remoting || response::name(self.code).is_some();
        Outcome { code: if has_name { self.code } else { OTHER }, ..self }
    }

    fn code(&self) -> String {
        match (self.protocol, Code::try_from(self.code)) {
            (_, _) if self.code == OTHER => "other".to_owned(),
            (Protocol::Grpc, Ok(code)) => code.as_str_name().to_owned(),
            (Protocol::Remoting, _) => response::name(self.code).map_or_else(|| self.code.to_string(), str::to_owned),
            _ => self.code.to_string(),
        }
    }
}

/// As labels of RocketMQ, whose names of calls and codes are in lower case.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (call, code) = (snake(self.call), self.code().to_lowercase());
        let (protocol, result) = (snake(&format!("{:?}", self.protocol)), snake(&format!("{:?}", self.sent)));
        write!(f, "protocol_type=\"{protocol}\",request_code=\"{call}\",response_code=\"{code}\"")?;
        if let Some(polls) = self.polls {
            write!(f, ",is_long_polling=\"{polls}\"")?;
        }
        write!(f, ",result=\"{result}\"")
    }
}

/// `SendMessage` and `SEND_MESSAGE` as `send_message`.
fn snake(name: &str) -> String {
    let mut text = String::new();
    let mut was_lower = false;
    for letter in name.chars() {
        if letter.is_uppercase() && was_lower {
            text.push('_');
        }
        was_lower = letter.is_lowercase();
        text.extend(letter.to_lowercase());
    }
    text
}

/// A text as the value of a label.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) -> fmt::Result {
    writeln!(text, "# HELP {name} {help}.\n# TYPE {name} {kind}")
}

/// A caller as it stands in the log, or that there was none.
pub(crate) struct Who<'a>(pub Option<&'a Caller>);

impl fmt::Display for Who<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(caller) => write!(f, "{} at {}{}", caller.client_id, caller.ends.peer, caller.credential),
            None => f.write_str("a caller without a name"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(protocol: Protocol, call: &'static str, code: i32, polls: Option<bool>) -> Outcome {
        Outcome { protocol, call, code, polls, sent: Sent::Success }
    }

    #[test]
    fn figures_are_what_prometheus_reads() {
        let calls = Calls::new(Node { name: "a \"proxy\"".to_owned(), ..Node::default() });
        let sent = |code: Code| outcome(Protocol::Grpc, "SendMessage", code as i32, Some(false));
        calls.count(sent(Code::Ok), Duration::from_millis(1));
        calls.count(sent(Code::Ok), Duration::from_millis(8));
        calls.count(sent(Code::Ok), Duration::from_secs(60));
        calls.count(sent(Code::TopicNotFound), Duration::ZERO);
        calls.count(outcome(Protocol::Remoting, "PULL_MESSAGE", 19, Some(true)), Duration::from_secs(2));
        calls.count(outcome(Protocol::Http, "POST", 201, None), Duration::ZERO);
        let text = calls.text("local", 3, 2);
        let node = r#"cluster="DefaultCluster",node_id="a \"proxy\"",node_type="proxy",proxy_mode="local""#;
        let ok = r#"protocol_type="grpc",request_code="send_message",response_code="ok",is_long_polling="false",result="success""#;
        let pulled = r#"protocol_type="remoting",request_code="pull_message",response_code="pull_not_found",is_long_polling="true",result="success""#;
        let posted = r#"protocol_type="http",request_code="post",response_code="201",result="success""#;
        for line in [
            "# TYPE rocketmq_proxy_up gauge".to_owned(),
            format!("rocketmq_proxy_up{{{node}}} 1"),
            format!("ferromq_proxy_clients{{{node}}} 3"),
            format!("ferromq_proxy_http_waiting{{{node}}} 2"),
            "# TYPE rocketmq_rpc_latency_milliseconds histogram".to_owned(),
            format!("rocketmq_rpc_latency_milliseconds_bucket{{{node},{ok},le=\"1.0\"}} 1"),
            format!("rocketmq_rpc_latency_milliseconds_bucket{{{node},{ok},le=\"7.0\"}} 1"),
            format!("rocketmq_rpc_latency_milliseconds_bucket{{{node},{ok},le=\"10.0\"}} 2"),
            format!("rocketmq_rpc_latency_milliseconds_bucket{{{node},{ok},le=\"3000.0\"}} 2"),
            format!("rocketmq_rpc_latency_milliseconds_bucket{{{node},{ok},le=\"+Inf\"}} 3"),
            format!("rocketmq_rpc_latency_milliseconds_count{{{node},{ok}}} 3"),
            format!("rocketmq_rpc_latency_milliseconds_sum{{{node},{ok}}} 60009"),
            format!("rocketmq_rpc_latency_milliseconds_bucket{{{node},{pulled},le=\"2000.0\"}} 1"),
            format!("rocketmq_rpc_latency_milliseconds_count{{{node},{posted}}} 1"),
        ] {
            assert!(text.lines().any(|other| other == line), "{line} is not in\n{text}");
        }
        let is_sample = |line: &str| line.rsplit_once(' ').is_some_and(|(_, value)| value.parse::<f64>().is_ok());
        assert!(text.lines().all(|line| line.starts_with("# ") || is_sample(line)), "{text}");
    }

    #[test]
    fn the_number_of_figures_has_a_limit() {
        let calls = Calls::new(Node::default());
        for code in 0..2 * MAX_OUTCOMES as i32 {
            calls.count(outcome(Protocol::Http, "GET", code, None), Duration::ZERO);
        }
        assert_eq!(calls.table.lock().len(), MAX_OUTCOMES + 1);
        let unnamed = |code| outcome(Protocol::Remoting, "HEART_BEAT", code, Some(false)).named();
        assert_eq!(unnamed(123_456), unnamed(654_321));
        assert_ne!(unnamed(0), unnamed(1));
    }
}
