//! Plain HTTP with the real curl: the commands of `docs/http.md` as they stand there, every kind of message, messages that
//! cross from one protocol to the other, and bad requests.

use crate::common::{DELIVERY, start};
use ferromq_contract::cluster::create_typed_topic;
use ferromq_contract::driver::Msg;
use ferromq_contract::runner::{Case, Client, Lab};
use ferromq_contract::server::{Broker, Make, Process, START_LIMIT, free_ports};
use ferromq_contract::tools::need;
use ferromq_contract::{Outcome, Stop, While, ensure, ensure_eq, wait_for};
use serde_json::{Value, json};
use std::process::Command;
use std::slice;
use std::time::{Duration, Instant};

/// The walk-through.
const DOCUMENT: &str = include_str!("../../../docs/http.md");
/// The ports of the document.
const HTTP_PORT: &str = "127.0.0.1:8082";

pub fn cases() -> Vec<Case> {
    let shared = |name: &str, case: fn(&Curl<'_>) -> Outcome| {
        Case::shared(format!("http::{name}"), move |lab| case(&Curl::new(lab)?))
    };
    vec![
        Case::waiting("http::the_document_is_true", the_document),
        shared("send_receive_acknowledge", send_receive_acknowledge),
        shared("filters", filters),
        shared("delayed_and_recalled", delayed_and_recalled),
        shared("order", order),
        shared("dead_letter", dead_letter),
        shared("events", events),
        shared("to_remoting_and_back", crossing),
        shared("bad_input", bad_input),
    ]
}

/// curl on a server with a proxy, or on a proxy.
pub struct Curl<'a> {
    pub lab: &'a Lab,
    pub namesrv: &'a str,
    pub brokers: &'a [Broker],
    /// What stands before every path.
    pub base: String,
    /// Options of each call.
    pub options: &'a [&'a str],
}

/// Status and body of an answer.
pub type Answer = (u16, Value);

impl<'a> Curl<'a> {
    pub fn new(lab: &'a Lab) -> Outcome<Curl<'a>> {
        if lab.make == Make::Java {
            return Err(Stop::Skipped("the Java server has no HTTP".to_owned()));
        }
        need("curl")?;
        let cluster = lab.proxied()?;
        let (namesrv, brokers) = (cluster.namesrv.addr.as_str(), slice::from_ref(&cluster.broker));
        Ok(Curl { lab, namesrv, brokers, base: format!("http://{}", cluster.http()), options: &[] })
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// Runs curl with further arguments before the URL.
    pub fn ask(&self, path: &str, further: &[&str]) -> Outcome<Answer> {
        let mut command = Command::new("curl");
        command
            .args(["-sS", "--max-time", "60", "-w", "\n%{http_code}"])
            .args(self.options)
            .args(further)
            .arg(self.url(path));
        let output = command.output().doing("running curl")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, status) = text.rsplit_once('\n').unwrap_or_default();
        let status = status.parse().unwrap_or(0);
        ensure!(status != 0, "curl {further:?} {path}: {text}{}", String::from_utf8_lossy(&output.stderr));
        Ok((status, serde_json::from_str(body).unwrap_or(Value::String(body.to_owned()))))
    }

    fn send(&self, topic: &str, query: &str, body: &str) -> Outcome<Value> {
        let (status, sent) = self.ask(&format!("/v1/topics/{topic}/messages?{query}"), &["-d", body])?;
        ensure_eq!(status, 201, "sending: {sent}");
        Ok(sent)
    }

    /// Receives until there are `count` messages.
    fn receive(&self, topic: &str, group: &str, query: &str, count: usize) -> Outcome<Vec<Value>> {
        let mut all = Vec::new();
        wait_for(DELIVERY, format!("{count} messages by HTTP"), || {
            let path = format!("/v1/topics/{topic}/messages?group={group}&max=32&waitMs=2000&{query}");
            let (status, messages) = self.ask(&path, &[])?;
            ensure_eq!(status, 200, "receiving: {messages}");
            all.extend(messages.as_array().cloned().unwrap_or_default());
            Ok((all.len() >= count).then_some(()))
        })?;
        ensure_eq!(all.len(), count, "messages: {all:?}");
        Ok(all)
    }

    /// Applies a verb to the handles of messages, which must succeed.
    fn of_group(&self, topic: &str, group: &str, verb: &str, messages: &[Value]) -> Outcome<Value> {
        let handles: Vec<&Value> = messages.iter().map(|message| &message["receiptHandle"]).collect();
        let path = format!("/v1/topics/{topic}/groups/{group}/{verb}");
        let (status, outcomes) = self.ask(&path, &["--json", &json!(handles).to_string()])?;
        ensure_eq!(status, 200, "{verb}: {outcomes}");
        Ok(outcomes)
    }

    fn topic(&self, kind: &str) -> Outcome<String> {
        let topic = self.lab.name("http");
        create_typed_topic(self.brokers, self.namesrv, &topic, 4, kind)?;
        Ok(topic)
    }
}

fn texts(messages: &[Value], field: &str) -> Vec<String> {
    messages.iter().map(|message| message[field].as_str().unwrap_or_default().to_owned()).collect()
}

fn sorted(mut all: Vec<String>) -> Vec<String> {
    all.sort();
    all
}

pub fn send_receive_acknowledge(curl: &Curl<'_>) -> Outcome {
    let (topic, group) = (curl.topic("NORMAL")?, curl.lab.name("http-group"));
    let plain = curl.send(&topic, "tag=red&key=k1&key=k2&property.Own=%C3%A4", "plain")?;
    let envelope = json!({ "bodyBase64": "AP8=", "tag": "red", "keys": ["k1", "k2"], "properties": { "Own": "ä" } });
    let path = format!("/v1/topics/{topic}/messages");
    let (status, enveloped) = curl.ask(&path, &["--json", &envelope.to_string()])?;
    ensure_eq!(status, 201, "an envelope: {enveloped}");
    let messages = curl.receive(&topic, &group, "invisibleMs=10000", 2)?;
    let ids = [&plain, &enveloped].map(|sent| sent["messageId"].as_str().unwrap_or_default().to_owned());
    ensure_eq!(sorted(texts(&messages, "messageId")), sorted(ids.to_vec()), "ids");
    for message in &messages {
        let what = (&message["tag"], &message["keys"], &message["properties"], &message["deliveryAttempt"]);
        ensure_eq!(what, (&json!("red"), &json!(["k1", "k2"]), &json!({ "Own": "ä" }), &json!(1)), "{message}");
    }
    ensure!(texts(&messages, "body").contains(&"plain".to_owned()), "the text: {messages:?}");
    ensure!(texts(&messages, "bodyBase64").contains(&"AP8=".to_owned()), "the bytes: {messages:?}");
    // One is acknowledged, one comes again when its time is over.
    curl.of_group(&topic, &group, "ack", &messages[..1])?;
    let again = curl.receive(&topic, &group, "", 1)?;
    ensure_eq!(
        (&again[0]["messageId"], &again[0]["deliveryAttempt"]),
        (&messages[1]["messageId"], &json!(2)),
        "what was not acknowledged"
    );
    curl.of_group(&topic, &group, "invisible?invisibleMs=0", &again)?;
    let third = curl.receive(&topic, &group, "", 1)?;
    ensure_eq!(third[0]["deliveryAttempt"], json!(3), "after its time was ended");
    curl.of_group(&topic, &group, "ack", &third)?;
    ensure_eq!(curl.ask(&format!("{path}?group={group}"), &[])?, (200, json!([])), "what is left");
    Ok(())
}

pub fn filters(curl: &Curl<'_>) -> Outcome {
    let topic = curl.topic("NORMAL")?;
    for n in 0..6 {
        curl.send(&topic, &format!("tag={}&property.n={n}", ["a", "b", "c"][n % 3]), &n.to_string())?;
    }
    let by_tag = curl.receive(&topic, &curl.lab.name("http-group"), "filter=a%20%7C%7C%20b", 4)?;
    ensure_eq!(sorted(texts(&by_tag, "body")), ["0", "1", "3", "4"], "by tag");
    let by_sql = curl.receive(&topic, &curl.lab.name("http-group"), "sql=n%20%3E%202%20AND%20TAGS%20%3D%20'a'", 1)?;
    ensure_eq!(texts(&by_sql, "body"), ["3"], "by SQL");
    Ok(())
}

pub fn delayed_and_recalled(curl: &Curl<'_>) -> Outcome {
    let (topic, group) = (curl.topic("DELAY")?, curl.lab.name("http-group"));
    let begun = Instant::now();
    curl.send(&topic, "delayMs=3000", "late")?;
    let never = curl.send(&topic, "delayMs=5000", "never")?;
    let handle = never["recallHandle"].as_str().unwrap_or_default();
    let (status, recalled) = curl.ask(&format!("/v1/topics/{topic}/messages/{handle}"), &["-X", "DELETE"])?;
    ensure_eq!((status, &recalled["messageId"]), (200, &never["messageId"]), "the message taken back: {recalled}");
    curl.send(&topic, "delayMs=7000", "later")?;
    let messages = curl.receive(&topic, &group, "", 2)?;
    ensure!(begun.elapsed() >= Duration::from_secs(6), "too early: {messages:?}");
    ensure_eq!(sorted(texts(&messages, "body")), ["late", "later"], "deliveries");
    Ok(())
}

fn order(curl: &Curl<'_>) -> Outcome {
    let (topic, group) = (curl.topic("FIFO")?, curl.lab.name("http-group"));
    let body = format!("{{\"groupName\":\"{group}\",\"consumeMessageOrderly\":true}}");
    for broker in curl.brokers {
        broker.conn()?.update_group(&body)?;
    }
    for n in 0..6 {
        curl.send(&topic, "orderKey=one", &n.to_string())?;
    }
    let mut all = Vec::new();
    for _ in 0..6 {
        let path = format!("/v1/topics/{topic}/messages?group={group}&waitMs=10000");
        let (_, messages) = curl.ask(&path, &[])?;
        let messages = messages.as_array().cloned().unwrap_or_default();
        ensure_eq!(
            curl.ask(&path.replace("10000", "0"), &[])?.1,
            json!([]),
            "what follows one that is not acknowledged"
        );
        all.extend(texts(&messages, "body"));
        curl.of_group(&topic, &group, "ack", &messages)?;
    }
    ensure_eq!(all, ["0", "1", "2", "3", "4", "5"], "messages as they came");
    Ok(())
}

pub fn dead_letter(curl: &Curl<'_>) -> Outcome {
    let (topic, group) = (curl.topic("NORMAL")?, curl.lab.name("http-group"));
    curl.send(&topic, "key=dead", "poison")?;
    let messages = curl.receive(&topic, &group, "", 1)?;
    curl.of_group(&topic, &group, "dead-letter", &messages)?;
    let dlq = format!("%DLQ%{group}");
    let dead = wait_for(DELIVERY, "the dead letter", || {
        // A broker that has none knows no such topic.
        let letters = curl.brokers.iter().filter_map(|broker| broker.conn().ok()?.read_queue(&dlq, 0, 0).ok());
        Ok(letters.flatten().next())
    })?;
    ensure_eq!(String::from_utf8_lossy(&dead.body), "poison", "body of the dead letter");
    let origin = format!("DLQ_ORIGIN_TOPIC\u{1}{topic}\u{2}");
    ensure!(dead.properties.contains(&origin), "the topic it comes from: {}", dead.properties);
    Ok(())
}

pub fn events(curl: &Curl<'_>) -> Outcome {
    let (topic, group) = (curl.topic("NORMAL")?, curl.lab.name("http-group"));
    let mut command = Command::new("curl");
    command.args(["-sS", "-N", "-H", "Accept: text/event-stream"]).args(curl.options);
    command.arg(curl.url(&format!("/v1/topics/{topic}/messages?group={group}")));
    let folder = curl.lab.folder("http-events")?;
    let mut stream = Process::spawn("curl", command, &folder.join("curl.log"))?;
    for n in 0..3 {
        curl.send(&topic, "", &format!("event-{n}"))?;
        stream.wait_line(&format!("\"body\":\"event-{n}\""), DELIVERY)?;
    }
    let messages: Vec<Value> =
        stream.log().lines().filter_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok()).collect();
    ensure_eq!(texts(&messages, "body"), ["event-0", "event-1", "event-2"], "events");
    curl.of_group(&topic, &group, "ack", &messages)?;
    stream.kill();
    curl.send(&topic, "", "after")?;
    ensure_eq!(texts(&curl.receive(&topic, &group, "", 1)?, "body"), ["after"], "what comes when the stream is gone");
    Ok(())
}

/// A message keeps what it has on the way from one protocol to the other.
pub fn crossing(curl: &Curl<'_>) -> Outcome {
    let topic = curl.topic("NORMAL")?;
    let driver = curl.lab.driver(Client::Java5)?;
    let (there, back) = (curl.lab.name("producer"), curl.lab.name("consumer"));
    start(driver, "producer", curl.namesrv, &there, "contract-producers", &[])?;
    start(driver, "consumer", curl.namesrv, &back, &curl.lab.name("group"), &[("topic", &topic)])?;
    // Above 4 KiB the Java client packs a body.
    let long = "long ".repeat(2000);
    let message = Msg::new(&topic, long.clone()).with("tags", "t").with("keys", "k1 k2").with("p.own", "äöü €");
    driver.send(&there, "sync", &[message])?;
    curl.send(&topic, "tag=t&key=k1&key=k2&property.own=%C3%A4%C3%B6%C3%BC%20%E2%82%AC", "from http")?;
    let rows = driver.wait_events(&back, 2, DELIVERY)?;
    for row in rows {
        ensure_eq!((row.get("tags"), row.get("keys")), ("t", "k1 k2"), "tag and keys of {}", row.get("body"));
        ensure_eq!(row.get("p.own"), "äöü €", "the user's property");
    }
    let messages = curl.receive(&topic, &curl.lab.name("http-group"), "", 2)?;
    ensure_eq!(sorted(texts(&messages, "body")), ["from http".to_owned(), long], "bodies by HTTP");
    for message in &messages {
        let what = (&message["tag"], &message["keys"], &message["properties"]["own"]);
        ensure_eq!(what, (&json!("t"), &json!(["k1", "k2"]), &json!("äöü €")), "{}", message["messageId"]);
    }
    [&there, &back].into_iter().try_for_each(|name| driver.call("stop", &[("name", name)]).map(drop))
}

pub fn bad_input(curl: &Curl<'_>) -> Outcome {
    let topic = curl.topic("NORMAL")?;
    let messages = format!("/v1/topics/{topic}/messages");
    let big = curl.lab.folder("http-big")?.join("big");
    std::fs::write(&big, vec![b'x'; 5 << 20])?;
    let big = format!("@{}", big.display());
    let table: &[(&str, &[&str], u16)] = &[
        ("?tga=x", &["-d", "x"], 400),
        ("", &["-d", ""], 400),
        ("", &["--json", "hello"], 400),
        ("", &["--json", "{\"body\": \"x\", \"delayMs\": \"soon\"}"], 400),
        ("?orderKey=one", &["-d", "x"], 400),
        ("", &["--data-binary", &big], 413),
        ("", &["-H", "Transfer-Encoding: chunked", "--data-binary", &big], 413),
        ("", &["-H", "Content-Encoding: gzip", "-d", "x"], 415),
        ("", &["-H", "Origin: http://elsewhere.example", "-d", "x"], 403),
        ("", &["-X", "PATCH", "-d", "x"], 405),
        ("?group=g&max=1000", &[], 400),
        ("?group=TOOLS_CONSUMER", &[], 400),
        ("/nothing/here", &[], 404),
    ];
    for (further, arguments, expected) in table {
        let (status, told) = curl.ask(&format!("{messages}{further}"), arguments)?;
        ensure_eq!(status, *expected, "{arguments:?} {further}: {told}");
        let is_told = told["code"].is_string() && told["message"].as_str().is_some_and(|why| !why.is_empty());
        ensure!(is_told, "{arguments:?} {further} is not told why: {told}");
    }
    ensure_eq!(curl.ask("/health/ready", &[])?.0, 200, "the server afterwards");
    Ok(())
}

/// Runs the commands of the document against a `ferromq dev` of its own, one shell for all of them.
fn the_document(lab: &Lab) -> Outcome {
    if lab.make == Make::Java {
        return Err(Stop::Skipped("the Java server has no HTTP".to_owned()));
    }
    need("curl")?;
    need("bash")?;
    let folder = lab.folder("http-document")?;
    let (namesrv, broker, http) = (free_ports(), free_ports(), free_ports());
    let ferromq = lab.tools.ferromq()?;
    let mut command = Command::new(&ferromq);
    command.arg("dev").arg("--data").arg(folder.join("data")).args(["--grpc-port", "0", "--proxy-port", "0"]);
    for (option, port) in [("--namesrv-port", namesrv), ("--broker-port", broker), ("--http-port", http)] {
        command.args([option, &port.to_string()]);
    }
    let mut server = Process::spawn("dev", command, &folder.join("dev.log"))?;
    server.wait_line("boot success", START_LIMIT)?;
    let blocks = blocks(DOCUMENT);
    let script: String = blocks.iter().map(|(commands, _)| format!("{commands}echo; echo '@@@'\n")).collect();
    let program = folder.join("ferromq");
    std::os::unix::fs::symlink(ferromq, &program)?;
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap_or_default());
    let output = Command::new("bash")
        .args(["-c", &script.replace(HTTP_PORT, &format!("127.0.0.1:{http}"))])
        .env("PATH", path)
        .env("NAMESRV_ADDR", format!("127.0.0.1:{namesrv}"))
        .output()
        .doing("running the document")?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let answers: Vec<&str> = printed.split("@@@\n").collect();
    ensure_eq!(answers.len(), blocks.len() + 1, "blocks that ran; {errors}");
    for ((commands, expected), answer) in blocks.iter().zip(answers) {
        ensure!(agrees(expected, answer), "{commands}\nprints\n{answer}\n{errors}and not\n{expected}");
    }
    ensure!(blocks.len() >= 8, "the document has only {} blocks", blocks.len());
    Ok(())
}

/// Each block of commands, and the block behind it that says what they print.
fn blocks(document: &str) -> Vec<(String, String)> {
    let mut fences = document.split("```").skip(1).step_by(2).peekable();
    let mut all = Vec::new();
    while let Some(fence) = fences.next() {
        if let Some(commands) = fence.strip_prefix("sh\n") {
            let answer = fences.next_if(|next| !next.starts_with("sh\n")).unwrap_or_default();
            let answer = answer.split_once('\n').map_or("", |(_, answer)| answer);
            all.push((commands.to_owned(), answer.to_owned()));
        }
    }
    all
}

/// Whether what was printed has the expected lines, in their order. `…` stands for anything, and so does each number.
fn agrees(expected: &str, printed: &str) -> bool {
    // Answers of curl have no line break at their end.
    let printed = printed.replace("}{", "}\n{").replace("][", "]\n[");
    let mut printed = printed.lines();
    expected.lines().all(|line| printed.any(|found| matches(line, found)))
}

fn matches(expected: &str, printed: &str) -> bool {
    if let (Ok(expected), Ok(printed)) = (serde_json::from_str(expected), serde_json::from_str(printed)) {
        return is_like(&expected, &printed);
    }
    let mut rest = printed;
    let begins = expected.split('…').next().is_some_and(|first| printed.starts_with(first));
    begins
        && expected.split('…').all(|part| match rest.find(part) {
            Some(at) => {
                rest = &rest[at + part.len()..];
                true
            }
            None => false,
        })
}

fn is_like(expected: &Value, printed: &Value) -> bool {
    match (expected, printed) {
        (Value::Object(expected), Value::Object(printed)) => {
            expected.len() == printed.len()
                && expected.iter().all(|(name, value)| printed.get(name).is_some_and(|found| is_like(value, found)))
        }
        (Value::Array(expected), Value::Array(printed)) => {
            expected.len() == printed.len() && expected.iter().zip(printed).all(|(e, p)| is_like(e, p))
        }
        (Value::Number(_), Value::Number(_)) => true,
        (Value::String(expected), Value::String(_)) if expected == "…" => true,
        (expected, printed) => expected == printed,
    }
}
