//! The HTTP endpoint by plain sockets: what it answers, what it refuses, and that nothing a peer does ends it.

mod description;
mod refusals;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::process::{SMALL, Server, dev_on, ferromq, output_of, output_until};

/// Longest time an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);
const JSON: &str = "Content-Type: application/json\r\n";

/// The server under test, by its HTTP address.
pub struct Http {
    addr: String,
    namesrv: String,
    _dev: Server,
    _data: tempfile::TempDir,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    fn text(&self, field: &str) -> String {
        self.json()[field].as_str().unwrap_or_else(|| panic!("no {field}: {self:?}")).to_owned()
    }
}

impl Http {
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// With settings of the broker.
    fn with(settings: &[&str]) -> Self {
        let data = tempfile::tempdir().unwrap();
        let conf = data.path().join("broker.conf");
        std::fs::write(&conf, format!("{SMALL}{}", settings.join("\n"))).unwrap();
        let mut command = ferromq(dev_on(data.path()));
        command.arg("-c").arg(&conf);
        let mut dev = Server::start(command);
        dev.wait_for("Ctrl-C stops");
        Http { addr: dev.http(), namesrv: dev.namesrv(), _dev: dev, _data: data }
    }

    pub fn connect(&self) -> TcpStream {
        let socket = TcpStream::connect(&self.addr).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }

    /// Bytes as they are, and the answer to them.
    fn raw(&self, bytes: &[u8]) -> Answer {
        let mut socket = self.connect();
        // A server that refuses early may close before it has read all.
        let _ = socket.write_all(bytes);
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        Answer { status, head: head.to_owned(), body: body.to_owned() }
    }

    /// One request; `further` are lines of its head.
    pub fn ask(&self, method: &str, path: &str, further: &str, body: &[u8]) -> Answer {
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{further}Content-Length: {length}\r\n\r\n"
        );
        self.raw(&[head.as_bytes(), body].concat())
    }

    pub fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "", b"")
    }

    pub fn post(&self, path: &str, value: &Value) -> Answer {
        self.ask("POST", path, JSON, value.to_string().as_bytes())
    }

    fn create(&self, topic: &str, kind: &str) {
        output_of(["topic", "create", topic, "--queues", "4", "--type", kind, "-n", &self.namesrv]);
    }

    /// Messages of a group, waited for until there are `count`.
    fn receive(&self, topic: &str, group: &str, further: &str, count: usize) -> Vec<Value> {
        let mut all = Vec::new();
        while all.len() < count {
            let path = format!("/v1/topics/{topic}/messages?group={group}&max=32&waitMs=20000{further}");
            let answer = self.get(&path);
            assert_eq!(answer.status, 200, "{answer:?}");
            let messages = answer.json();
            let messages = messages.as_array().unwrap();
            assert!(!messages.is_empty(), "{count} messages: only {all:?}");
            all.extend(messages.iter().cloned());
        }
        assert_eq!(all.len(), count, "{all:?}");
        all
    }

    /// Returns when so many requests wait for messages.
    fn await_waiting(&self, count: usize) {
        let (name, value) = ("ferromq_proxy_http_waiting{", format!(" {count}"));
        let is_so = |line: &str| line.starts_with(name) && line.ends_with(&value);
        let deadline = Instant::now() + PATIENCE;
        while !self.get("/metrics").body.lines().any(is_so) {
            assert!(Instant::now() < deadline, "no {count} in {}", self.get("/metrics").body);
        }
    }

    fn ack(&self, topic: &str, group: &str, messages: &[Value]) -> Answer {
        let handles: Vec<&Value> = messages.iter().map(|message| &message["receiptHandle"]).collect();
        self.post(&format!("/v1/topics/{topic}/groups/{group}/ack"), &json!(handles))
    }
}

#[test]
fn probes_tell_how_the_server_is() {
    let http = Http::start();
    assert_eq!(http.get("/health/live").json(), json!({ "status": "live" }));
    assert_eq!(http.get("/health/ready").json(), json!({ "status": "ready" }));
    let head = http.ask("HEAD", "/health/ready", "", b"");
    assert_eq!((head.status, head.body.as_str()), (200, ""));

    let http = Http::with(&["brokerPermission=4"]);
    assert_eq!(http.get("/health/live").status, 200);
    let unready = http.get("/health/ready");
    assert_eq!(unready.status, 503, "{unready:?}");
    assert!(unready.text("message").contains("brokerPermission"), "{unready:?}");
}

#[test]
fn a_message_is_sent_received_and_acknowledged() {
    let http = Http::start();
    let sent =
        http.ask("POST", "/v1/topics/Plain/messages?tag=red&key=k1&key=k2&property.Colour=r%C3%B6d", "", b"hello");
    assert_eq!(sent.status, 201, "{sent:?}");
    assert!(sent.json()["queueId"].is_u64() && sent.json()["queueOffset"] == 0, "{sent:?}");
    let messages = http.receive("Plain", "g", "", 1);
    let message = &messages[0];
    assert_eq!(message["messageId"], sent.json()["messageId"]);
    assert_eq!((&message["body"], &message["tag"]), (&json!("hello"), &json!("red")));
    assert_eq!(message["keys"], json!(["k1", "k2"]));
    assert_eq!(message["properties"], json!({ "Colour": "röd" }));
    assert_eq!(message["deliveryAttempt"], 1);
    // Invisible to others of the group, and there for another group.
    assert_eq!(http.get("/v1/topics/Plain/messages?group=g").json(), json!([]));
    http.receive("Plain", "other", "", 1);
    let acked = http.ack("Plain", "g", &messages);
    assert_eq!((acked.status, &acked.json()[0]["code"]), (200, &json!("OK")), "{acked:?}");
}

#[test]
fn an_envelope_says_what_parameters_say() {
    let http = Http::start();
    let envelope = json!({ "bodyBase64": "AP8=", "tag": "t", "keys": ["k"], "properties": { "a": "b" } });
    assert_eq!(http.post("/v1/topics/Enveloped/messages", &envelope).status, 201);
    let messages = http.receive("Enveloped", "g", "", 1);
    assert_eq!(messages[0]["bodyBase64"], "AP8=", "no text: {messages:?}");
    assert!(messages[0].get("body").is_none());
    assert_eq!((&messages[0]["keys"], &messages[0]["properties"]["a"]), (&json!(["k"]), &json!("b")));
}

#[test]
fn what_is_not_acknowledged_comes_again_when_it_is_told_to() {
    let http = Http::start();
    http.ask("POST", "/v1/topics/Again/messages", "", b"x");
    let first = http.receive("Again", "g", "", 1);
    let path = "/v1/topics/Again/groups/g/invisible?invisibleMs=0";
    let changed = http.post(path, &json!([first[0]["receiptHandle"]]));
    assert_eq!(changed.status, 200, "{changed:?}");
    assert!(changed.json()[0]["nextReceiptHandle"].is_string());
    let second = http.receive("Again", "g", "", 1);
    assert_eq!((&second[0]["body"], &second[0]["deliveryAttempt"]), (&json!("x"), &json!(2)));
    // The handle of before is no more, and one that never was neither: each is told, the good one is done.
    let handles = json!([second[0]["receiptHandle"], "no handle"]);
    let acked = http.post("/v1/topics/Again/groups/g/ack", &handles);
    assert_eq!(acked.status, 207, "{acked:?}");
    let codes: Vec<Value> = acked.json().as_array().unwrap().iter().map(|outcome| outcome["code"].clone()).collect();
    assert_eq!(codes, ["OK", "INVALID_RECEIPT_HANDLE"]);
}

#[test]
fn dead_letters_can_be_looked_at() {
    let http = Http::start();
    http.ask("POST", "/v1/topics/Deadly/messages", "", b"poison");
    let messages = http.receive("Deadly", "mourners", "", 1);
    let moved = http.post("/v1/topics/Deadly/groups/mourners/dead-letter", &json!([messages[0]["receiptHandle"]]));
    assert_eq!(moved.status, 200, "{moved:?}");
    // The name server hears of the new topic a little later.
    let listed = output_until(&["dlq", "list", "-n", &http.namesrv], |listed| listed.contains("mourners"));
    assert!(listed.contains("mourners"), "no dead letters of the group are listed: {listed}");
}

#[test]
fn filters_choose_by_tag_and_by_sql() {
    let http = Http::with(&["enablePropertyFilter=true"]);
    http.create("Filtered", "normal");
    for (tag, n) in [("a", 1), ("b", 2), ("c", 3), ("a", 4)] {
        let path = format!("/v1/topics/Filtered/messages?tag={tag}&property.n={n}");
        assert_eq!(http.ask("POST", &path, "", n.to_string().as_bytes()).status, 201);
    }
    let bodies = |messages: Vec<Value>| {
        let mut bodies: Vec<String> = messages.iter().map(|m| m["body"].as_str().unwrap().to_owned()).collect();
        bodies.sort();
        bodies
    };
    assert_eq!(bodies(http.receive("Filtered", "tags", "&filter=a+%7C%7C+b", 3)), ["1", "2", "4"]);
    assert_eq!(bodies(http.receive("Filtered", "sql", "&sql=n+%3E+1+AND+TAGS+%3D+'a'", 1)), ["4"]);
}

#[test]
fn delayed_messages_come_later_and_groups_of_messages_in_order() {
    let http = Http::start();
    http.create("Delayed", "delay");
    http.create("Ordered", "fifo");
    let sent = http.post("/v1/topics/Delayed/messages", &json!({ "body": "late", "delayMs": 2000 }));
    assert_eq!(sent.status, 201, "{sent:?}");
    assert!(!sent.text("recallHandle").is_empty());
    let message = &http.receive("Delayed", "g", "", 1)[0];
    let (stored, due) = (message["storedAtMs"].as_i64().unwrap(), message["deliverAtMs"].as_i64().unwrap());
    assert!(stored + 50 >= due, "before its time: {message}");
    for n in 0..5 {
        let path = "/v1/topics/Ordered/messages?orderKey=one";
        assert_eq!(http.ask("POST", path, "", format!("{n}").as_bytes()).status, 201);
    }
    let bodies: Vec<Value> = http.receive("Ordered", "g", "", 5).iter().map(|m| m["body"].clone()).collect();
    assert_eq!(bodies, ["0", "1", "2", "3", "4"]);
}

#[test]
fn events_come_until_the_client_leaves() {
    let http = Http::start();
    http.create("Streamed", "normal");
    let mut socket = http.connect();
    let head = "GET /v1/topics/Streamed/messages?group=g HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n";
    socket.write_all(head.as_bytes()).unwrap();
    let mut lines = BufReader::new(socket).lines().map(|line| line.unwrap());
    assert_eq!(lines.next().unwrap(), "HTTP/1.1 200 OK");
    assert!(lines.any(|line| line.eq_ignore_ascii_case("content-type: text/event-stream")));
    let began = Instant::now();
    for n in 0..3 {
        let sent = http.ask("POST", "/v1/topics/Streamed/messages", "", format!("event {n}").as_bytes());
        assert_eq!(sent.status, 201, "{sent:?}");
        let data = lines.find_map(|line| {
            // Between events there are signs of life.
            assert!(began.elapsed() < 2 * PATIENCE, "event {n} does not come");
            line.strip_prefix("data: ").map(str::to_owned)
        });
        let data = data.unwrap();
        let message: Value = serde_json::from_str(&data).unwrap();
        assert_eq!(message["body"], json!(format!("event {n}")));
        http.ack("Streamed", "g", &[message]);
    }
    drop(lines);
    http.await_waiting(0);
    // What comes now is for the next.
    assert_eq!(http.ask("POST", "/v1/topics/Streamed/messages", "", b"after").status, 201);
    assert_eq!(http.receive("Streamed", "g", "", 1)[0]["body"], "after");
}

#[test]
fn a_client_that_leaves_while_it_waits_takes_no_message_with_it() {
    let http = Http::start();
    http.create("Left", "normal");
    let mut socket = http.connect();
    socket.write_all(b"GET /v1/topics/Left/messages?group=g&waitMs=20000 HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    http.await_waiting(1);
    drop(socket);
    http.await_waiting(0);
    http.ask("POST", "/v1/topics/Left/messages", "", b"still here");
    let message = &http.receive("Left", "g", "", 1)[0];
    assert_eq!((&message["body"], &message["deliveryAttempt"]), (&json!("still here"), &json!(1)));
}

#[test]
fn a_stop_ends_those_who_wait() {
    let data = tempfile::tempdir().unwrap();
    let mut dev = Server::dev(data.path());
    let addr = dev.http();
    let ask = |path: &str, further: &str| {
        let mut socket = TcpStream::connect(&addr).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n{further}\r\n").as_bytes()).unwrap();
        socket
    };
    output_of(["topic", "create", "Slow", "--queues", "1", "-n", &dev.namesrv()]);
    let mut events = ask("/v1/topics/Slow/messages?group=e", "Accept: text/event-stream\r\n");
    events.read_exact(&mut [0; 15]).unwrap();
    let mut waits = ask("/v1/topics/Slow/messages?group=w&waitMs=20000", "");
    let begun = Instant::now();
    assert_eq!(dev.stop("TERM").code(), Some(0), "{}", dev.errors());
    assert!(begun.elapsed() < Duration::from_secs(18), "the stop took {:?}, as long as they wait", begun.elapsed());
    let mut rest = String::new();
    let _ = waits.read_to_string(&mut rest);
    assert!(rest.is_empty() || rest.starts_with("HTTP/1.1 503"), "{rest}");
    let _ = events.read_to_end(&mut Vec::new());
}
