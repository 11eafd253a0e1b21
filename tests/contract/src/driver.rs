//! One driver program (Java or Go) running the official client, as a child process: requests go out as lines, answers and
//! the events of push consumers come back as lines and are kept here. See `tests/java/common/Driver.java`.

use crate::server::Process;
use crate::{Outcome, Stop, While, wait_for};
use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The longest a request may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(400);
/// Rows of an answer that may wait to be read.
const MAX_ROWS: usize = 100_000;

/// One line of an answer, or one message: names and values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row(pub BTreeMap<String, String>);

impl Row {
    fn parse(text: &str) -> Row {
        let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
        Row(pairs.map(|(k, v)| (unescape(k), unescape(v))).collect())
    }

    /// A value, or the empty string.
    pub fn get(&self, key: &str) -> &str {
        self.0.get(key).map_or("", String::as_str)
    }

    /// A value that must be a number.
    pub fn num(&self, key: &str) -> Outcome<i64> {
        self.get(key).parse().map_err(|_| Stop::Failed(format!("no number under '{key}' in {:?}", self.0)))
    }

    /// Where the message is.
    pub fn place(&self) -> Outcome<Place> {
        Ok((self.num("queue")? as i32, self.num("offset")?))
    }
}

/// Where a message is: queue and offset.
pub type Place = (i32, i64);

/// One message to send, as the driver understands it.
#[derive(Clone, Debug)]
pub struct Msg(Vec<(String, String)>);

impl Msg {
    /// A message with a text body.
    pub fn new(topic: &str, body: impl Into<String>) -> Msg {
        Msg(vec![("topic".into(), topic.into()), ("body".into(), body.into())])
    }

    /// A message whose body is `size` bytes of the driver's pattern (see [`pattern`]).
    pub fn filled(topic: &str, size: usize, seed: u8) -> Msg {
        Msg(vec![("topic".into(), topic.into())]).with("fill", size).with("seed", seed)
    }

    /// Sets `tags`, `keys`, `flag`, `hash`, or a user property `p.<name>`.
    pub fn with(mut self, key: &str, value: impl ToString) -> Msg {
        self.0.push((key.into(), value.to_string()));
        self
    }
}

/// The bytes of a filled body.
pub fn pattern(size: usize, seed: u8) -> Vec<u8> {
    (0..size).map(|i| ((i * 31 + usize::from(seed)) % 251) as u8).collect()
}

enum Reply {
    Row(Row),
    Done,
    Fail(Row),
}

#[derive(Default)]
struct Inbox {
    waiting: HashMap<u64, SyncSender<Reply>>,
    events: HashMap<String, Vec<Row>>,
}

/// A running driver. It is shared by cases: names of producers and consumers must be unique among them.
pub struct Driver {
    stdin: Mutex<ChildStdin>,
    inbox: Arc<Mutex<Inbox>>,
    next: AtomicU64,
    process: Process,
}

fn hold<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Driver {
    /// Starts the program and waits until it listens.
    pub fn start(name: &str, mut command: Command, folder: &std::path::Path) -> Outcome<Driver> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Process::spawn_piped(name, command, &folder.join(format!("{name}.log")))?;
        let (stdin, stdout) = process.pipes().ok_or("the driver has no pipes")?;
        let inbox = Arc::new(Mutex::new(Inbox::default()));
        let (ready, listening) = sync_channel(1);
        let shared = Arc::clone(&inbox);
        std::thread::spawn(move || read_lines(BufReader::new(stdout), &shared, &ready));
        listening
            .recv_timeout(Duration::from_secs(60))
            .map_err(|_| Stop::Failed(format!("{name} did not come up:\n{}", process.log_tail())))?;
        Ok(Driver { stdin: Mutex::new(stdin), inbox, next: AtomicU64::new(1), process })
    }

    /// Sends a request without waiting for its answer.
    pub fn begin(&self, verb: &str, parameters: &[(&str, &str)], messages: &[Msg]) -> Outcome<Pending> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, replies) = sync_channel(MAX_ROWS);
        hold(&self.inbox).waiting.insert(id, sender);
        let mut line = format!("{id} {verb} {}", query(parameters.iter().map(|(k, v)| (*k, *v))));
        for message in messages {
            line.push_str("&m=");
            line.push_str(&escape(&query(message.0.iter().map(|(k, v)| (k.as_str(), v.as_str())))));
        }
        line.push('\n');
        hold(&self.stdin).write_all(line.as_bytes()).doing(format!("asking the driver to {verb}"))?;
        Ok(Pending { replies, verb: verb.to_owned() })
    }

    /// Sends a request and waits for all rows of its answer.
    pub fn call(&self, verb: &str, parameters: &[(&str, &str)]) -> Outcome<Vec<Row>> {
        self.begin(verb, parameters, &[])?.rows()
    }

    /// Sends messages with a started producer; `mode` is sync, async, oneway, batch or selector.
    pub fn send(&self, producer: &str, mode: &str, messages: &[Msg]) -> Outcome<Vec<Row>> {
        self.begin("send", &[("name", producer), ("mode", mode)], messages)?.rows()
    }

    /// What a consumer has received so far.
    pub fn events(&self, consumer: &str) -> Vec<Row> {
        hold(&self.inbox).events.get(consumer).cloned().unwrap_or_default()
    }

    /// How many messages a consumer has received so far.
    pub fn count(&self, consumer: &str) -> usize {
        hold(&self.inbox).events.get(consumer).map_or(0, Vec::len)
    }

    /// Waits until a consumer has at least `count` messages.
    pub fn wait_events(&self, consumer: &str, count: usize, limit: Duration) -> Outcome<Vec<Row>> {
        wait_for(limit, "", || Ok((self.count(consumer) >= count).then_some(()))).map_err(|_| {
            Stop::Failed(format!(
                "consumer {consumer} has {} of {count} messages after {limit:?}",
                self.count(consumer)
            ))
        })?;
        Ok(self.events(consumer))
    }

    /// kill -9. What its consumers had received stays.
    pub fn kill(&self) -> Outcome {
        self.process.signal(rustix::process::Signal::KILL)
    }

    /// The end of the driver's own log.
    pub fn log_tail(&self) -> String {
        self.process.log_tail()
    }
}

/// A request under way.
pub struct Pending {
    replies: Receiver<Reply>,
    verb: String,
}

impl Pending {
    /// Waits for the end of the answer.
    pub fn rows(self) -> Outcome<Vec<Row>> {
        let mut rows = Vec::new();
        loop {
            match self.replies.recv_timeout(ANSWER_LIMIT) {
                Ok(Reply::Row(row)) => rows.push(row),
                Ok(Reply::Done) => return Ok(rows),
                Ok(Reply::Fail(row)) => {
                    return Err(Stop::Failed(format!("{}: code {}: {}", self.verb, row.get("code"), row.get("error"))));
                }
                Err(e) => return Err(Stop::Failed(format!("{}: no answer from the driver ({e})", self.verb))),
            }
        }
    }
}

fn read_lines(lines: impl BufRead, inbox: &Mutex<Inbox>, ready: &SyncSender<()>) {
    for line in lines.lines().map_while(Result::ok) {
        let mut part = line.splitn(3, ' ');
        let (first, second, rest) = (part.next().unwrap_or(""), part.next().unwrap_or(""), part.next().unwrap_or(""));
        if first == "ready" {
            let _ = ready.try_send(());
        } else if first == "event" {
            hold(inbox).events.entry(second.to_owned()).or_default().push(Row::parse(rest));
        } else if let Ok(id) = first.parse::<u64>() {
            let mut inbox = hold(inbox);
            let reply = match second {
                "row" => Reply::Row(Row::parse(rest)),
                "done" => Reply::Done,
                _ => Reply::Fail(Row::parse(rest)),
            };
            let over = !matches!(reply, Reply::Row(_));
            if let Some(sender) = inbox.waiting.get(&id) {
                let _ = sender.try_send(reply);
            }
            if over {
                inbox.waiting.remove(&id);
            }
        }
    }
    hold(inbox).waiting.clear();
}

fn query<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let pairs: Vec<String> = pairs.map(|(k, v)| format!("{}={}", escape(k), escape(v))).collect();
    pairs.join("&")
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex =
            (bytes[i] == b'%').then(|| text.get(i + 1..i + 3)).flatten().and_then(|h| u8::from_str_radix(h, 16).ok());
        match (bytes[i], hex) {
            (_, Some(value)) => {
                out.push(value);
                i += 2;
            }
            (b'+', None) => out.push(b' '),
            (other, None) => out.push(other),
        }
        i += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}
