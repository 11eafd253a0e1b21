//! Filters at the broker: SQL92 by the official clients, and expression by expression against RocketMQ's own filter classes.

use crate::common::{ALL, DELIVERY, bodies, start};
use ferromq_contract::cluster::Cluster;
use ferromq_contract::driver::Msg;
use ferromq_contract::record::decode_all;
use ferromq_contract::runner::{Case, Client, Lab};
use ferromq_contract::wire::{code, pull_fields};
use ferromq_contract::{Outcome, ensure, ensure_eq, wait_for};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

/// Generated expressions that are compared.
const EXPRESSIONS: usize = 600;
/// Messages each of them is asked about.
const MESSAGES: usize = 40;

pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for client in ALL {
        all.push(Case::alone(format!("filter::{}::sql92", client.label()), move |lab| by_client(lab, client)));
    }
    all.push(Case::alone("filter::raw::sql92_is_what_rocketmq_says", as_rocketmq));
    all
}

fn cluster(lab: &Lab) -> Outcome<Cluster> {
    Cluster::start(&lab.tools, lab.make, &lab.folder("filter")?, &[("enablePropertyFilter", "true")])
}

fn by_client(lab: &Lab, client: Client) -> Outcome {
    let driver = lab.driver(client)?;
    let cluster = cluster(lab)?;
    let (topic, namesrv) = (lab.name("filter"), &cluster.namesrv.addr);
    cluster.create_topic(&topic, 4)?;
    let (producer, consumer) = (lab.name("producer"), lab.name("consumer"));
    let sql = "price between 10 and 19 and (color = 'red' or color is null) and name startswith 'n'";
    start(driver, "consumer", namesrv, &consumer, &lab.name("group"), &[("topic", &topic), ("sql", sql)])?;
    start(driver, "producer", namesrv, &producer, "contract-producers", &[])?;
    let mut messages = Vec::new();
    let mut expected = BTreeMap::new();
    for price in 0..30 {
        for color in ["red", "blue", ""] {
            let body = format!("{price} {color}");
            let message = Msg::new(&topic, &body).with("p.price", price).with("p.name", "nut");
            messages.push(if color.is_empty() { message } else { message.with("p.color", color) });
            if (10..20).contains(&price) && color != "blue" {
                expected.insert(body, 1);
            }
        }
    }
    driver.send(&producer, "sync", &messages)?;
    driver.wait_events(&consumer, expected.len(), DELIVERY)?;
    std::thread::sleep(Duration::from_millis(500));
    let got = bodies(&driver.events(&consumer));
    driver.call("stop", &[("name", &consumer)])?;
    driver.call("stop", &[("name", &producer)])?;
    ensure_eq!(got, expected, "messages delivered");
    Ok(())
}

/// A small generator, the same numbers in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % sides
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.roll(from.len())]
    }
}

const NAMES: [&str; 7] = ["a", "b", "c", "_d", "$e", "absent", "TAGS"];
const VALUES: [&str; 30] = [
    "0",
    "1",
    "5",
    "-5",
    "+7",
    "10",
    "3000000000",
    "-9223372036854775808",
    "1.5",
    "-0.0",
    "0.0",
    "1e3",
    "5.0",
    " 5 ",
    "5d",
    "NaN",
    "Infinity",
    "0x1p3",
    "true",
    "TRUE",
    "false",
    "abc",
    "ABC",
    "abcabc",
    "it's",
    "ü",
    "",
    "x y",
    "99999999999999999999",
    "5f",
];
const NUMBERS: [&str; 14] =
    ["0", "1", "5", "-5", "+5", "10", "7L", "3000000000", "1.5", "5.0", ".5", "1e3", "-1.5", "9223372036854775807"];
const TEXTS: [&str; 10] = ["'abc'", "'5'", "'a'", "''", "'it''s'", "'true'", "'1.5'", "'ü'", "'-5'", "'x y'"];

fn operand(dice: &mut Dice) -> String {
    match dice.roll(10) {
        0..=4 => dice.pick(&NAMES).to_owned(),
        5 | 6 => dice.pick(&NUMBERS).to_owned(),
        7 => dice.pick(&TEXTS).to_owned(),
        8 => dice.pick(&["TRUE", "false", "NULL", "-a", "+b", "- -5"]).to_owned(),
        _ => format!("({})", dice.pick(&NAMES)),
    }
}

fn term(dice: &mut Dice) -> String {
    let (left, name) = (operand(dice), dice.pick(&NAMES));
    match dice.roll(14) {
        0..=3 => format!("{left} {} {}", dice.pick(&["=", "<>", "=", "<>"]), operand(dice)),
        4..=6 => format!("{name} {} {}", dice.pick(&[">", ">=", "<", "<="]), dice.pick(&NUMBERS)),
        7 => format!("{left} {} {}", dice.pick(&[">", ">=", "<", "<="]), operand(dice)),
        8 => format!(
            "{name} {} {} AND {}",
            dice.pick(&["BETWEEN", "not between"]),
            dice.pick(&NUMBERS),
            dice.pick(&NUMBERS)
        ),
        9 => format!("{name} {} ({}, {})", dice.pick(&["IN", "NOT IN", "in"]), dice.pick(&TEXTS), dice.pick(&TEXTS)),
        10 => format!("{left} IS {}", dice.pick(&["NULL", "NOT NULL"])),
        11 | 12 => {
            let fit =
                dice.pick(&["CONTAINS", "STARTSWITH", "endswith", "NOT CONTAINS", "not startswith", "NOT ENDSWITH"]);
            format!("{left} {fit} {}", dice.pick(&TEXTS))
        }
        _ => left,
    }
}

fn expression(dice: &mut Dice, depth: usize) -> String {
    if depth == 0 || dice.roll(3) == 0 {
        return term(dice);
    }
    let left = expression(dice, depth - 1);
    match dice.roll(8) {
        0..=2 => format!("{left} AND {}", expression(dice, depth - 1)),
        3 | 4 => format!("{left} OR {}", expression(dice, depth - 1)),
        5 => format!("NOT ({left})"),
        6 => format!("({left}) {} ({})", dice.pick(&["AND", "or", "=", "<>"]), expression(dice, depth - 1)),
        _ => format!("NOT {left}"),
    }
}

/// Expressions in which one token is missing, doubled or foreign.
fn broken(dice: &mut Dice) -> String {
    let whole = expression(dice, 2);
    let mut words: Vec<&str> = whole.split(' ').collect();
    let at = dice.roll(words.len());
    match dice.roll(3) {
        0 => drop(words.remove(at)),
        1 => words.insert(at, words[at]),
        _ => {
            words.insert(at, dice.pick(&["(", ")", ",", "like", "!=", "--", "/* x */", "0.0", "007", "1e", "'", "== "]))
        }
    }
    words.join(" ")
}

fn as_rocketmq(lab: &Lab) -> Outcome {
    let mut dice = Dice(20_260_517);
    let properties: Vec<String> = (0..MESSAGES)
        .map(|n| {
            let mut text = format!("UNIQ_KEY\u{1}{n}\u{2}");
            for name in &NAMES[..5] {
                if dice.roll(4) > 0 {
                    text.push_str(&format!("{name}\u{1}{}\u{2}", dice.pick(&VALUES)));
                }
            }
            text
        })
        .collect();
    let expressions: Vec<String> =
        (0..EXPRESSIONS).map(|n| if n % 6 == 5 { broken(&mut dice) } else { expression(&mut dice, 3) }).collect();
    let said = ask_rocketmq(lab, &properties, &expressions)?;
    let cluster = cluster(lab)?;
    let topic = lab.name("filter");
    cluster.create_topic(&topic, 1)?;
    let mut conn = cluster.broker.conn()?;
    for (n, text) in properties.iter().enumerate() {
        conn.send(&topic, 0, text, n.to_string().as_bytes())?;
    }
    wait_for(DELIVERY, "all messages", || Ok((conn.read_queue(&topic, 0, 0)?.len() == MESSAGES).then_some(())))?;
    let (mut refused, mut matched, mut differ) = (0, 0, Vec::new());
    for (text, theirs) in expressions.iter().zip(&said) {
        let mut wanted = BTreeSet::new();
        let mut offset = 0;
        let ours = loop {
            let at = offset.to_string();
            let mut fields = pull_fields(&topic, "0", &at, "32").to_vec();
            fields.retain(|(key, _)| !["subscription", "expressionType"].contains(key));
            fields.extend([("subscription", text.as_str()), ("expressionType", "SQL92")]);
            let answer = conn.call(code::PULL_MESSAGE, &fields, &[])?;
            match answer.code {
                0 | 20 => {}
                19 => break None,
                23 => break Some("refused".to_owned()),
                other => return Err(format!("{text}: code {other}").into()),
            }
            for message in decode_all(&answer.body)? {
                wanted.insert(message.queue_offset);
            }
            offset = answer.num("nextBeginOffset")?;
            if offset >= MESSAGES as i64 {
                break None;
            }
        };
        let ours =
            ours.unwrap_or_else(|| (0..MESSAGES as i64).map(|n| if wanted.contains(&n) { '1' } else { '0' }).collect());
        refused += usize::from(ours == "refused");
        matched += wanted.len();
        if ours != *theirs {
            differ.push(format!("{text}\n   ours   {ours}\n   theirs {theirs}"));
        }
    }
    lab.tell(&format!("{EXPRESSIONS} expressions x {MESSAGES} messages: {refused} refused, {matched} matches"));
    ensure!(differ.is_empty(), "{} expressions differ:\n{}", differ.len(), differ[..differ.len().min(8)].join("\n"));
    ensure!(refused > 20 && refused < EXPRESSIONS / 2, "{refused} refused: the generator is not good");
    ensure!(matched > EXPRESSIONS, "{matched} matches: the generator is not good");
    Ok(())
}

/// The answers of RocketMQ's filter classes.
fn ask_rocketmq(lab: &Lab, properties: &[String], expressions: &[String]) -> Outcome<Vec<String>> {
    let mut child = lab.tools.filter_oracle()?.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut lines = String::new();
    for text in properties {
        lines.push_str(&format!("m {}\n", hex(text)));
    }
    for text in expressions {
        lines.push_str(&format!("e {}\n", hex(text)));
    }
    child.stdin.take().ok_or("the oracle has no stdin")?.write_all(lines.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "the oracle ended with {}", output.status);
    let said: Vec<String> = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
    ensure_eq!(said.len(), expressions.len(), "answers of the oracle");
    Ok(said)
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}
