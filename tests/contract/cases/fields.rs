//! What is in a message: every field arrives as it was sent, whatever its size, and what is too big is refused.

use crate::common::{ALL, DELIVERY, JAVA, Stage};
use ferromq_contract::driver::{Msg, pattern};
use ferromq_contract::runner::{Case, Client, Lab};
use ferromq_contract::server::Make;
use ferromq_contract::wire::now_ms;
use ferromq_contract::{Outcome, Stop, ensure, ensure_eq};

pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for client in ALL {
        let label = client.label();
        all.push(Case::shared(format!("fields::{label}::round_trip"), move |lab| round_trip(lab, client)));
        all.push(Case::shared(format!("fields::{label}::big_body"), move |lab| big_body(lab, client)));
    }
    for client in JAVA {
        let label = client.label();
        all.push(Case::shared(format!("fields::{label}::compressed_body"), move |lab| compressed_body(lab, client)));
        all.push(Case::shared(format!("fields::{label}::oversized_body_is_refused"), move |lab| {
            oversized(lab, client)
        }));
    }
    all.push(Case::shared("fields::raw::empty_body", empty_body));
    all
}

const BODY: &str = "grüße, 消息, \u{1F980}, \"quoted\" \\ back\nline\ttab \u{0}nul";

fn round_trip(lab: &Lab, client: Client) -> Outcome {
    let stage = Stage::new(lab, client, "fields", 2)?;
    let consumer = stage.consumer(&stage.name("group"), &[])?;
    let producer = stage.producer(&[])?;
    let before = now_ms();
    let message = Msg::new(&stage.topic, BODY)
        .with("tags", "TagÄ")
        .with("keys", "order-1 order-2")
        .with("flag", -77)
        .with("p.plain", "value")
        .with("p.schlüssel", "wert mit ümlaut und 漢字 \u{1F600}")
        .with("p.spaces and = & signs", "a=b&c \"d\" {e}");
    let sent = stage.driver.send(&producer, "sync", &[message])?;
    let got = stage.driver.wait_events(&consumer, 1, DELIVERY)?;
    let after = now_ms();
    stage.stop(&consumer)?;
    stage.stop(&producer)?;
    let (sent, got) = (&sent[0], &got[0]);
    for (key, expected) in [
        ("topic", stage.topic.as_str()),
        ("body", BODY),
        ("tags", "TagÄ"),
        ("keys", "order-1 order-2"),
        ("flag", "-77"),
        ("p.plain", "value"),
        ("p.schlüssel", "wert mit ümlaut und 漢字 \u{1F600}"),
        ("p.spaces and = & signs", "a=b&c \"d\" {e}"),
        ("reconsume", "0"),
        ("sysflag", "0"),
        ("bornhost", "127.0.0.1"),
        ("storehost", stage.cluster.broker.addr().as_str()),
        ("id", sent.get("id")),
        ("queue", sent.get("queue")),
        ("offset", sent.get("offset")),
    ] {
        ensure_eq!(got.get(key), expected, "field {key}");
    }
    let (born, stored) = (got.num("born")?, got.num("stored")?);
    ensure!(
        before <= born && born <= stored && stored <= after,
        "times: {before} sent, {born} born, {stored} stored, {after} received"
    );
    ensure_eq!(got.num("bodycrc")?, got.num("crc")? & 0x7fff_ffff, "body crc");
    Ok(())
}

/// Just under the 4 MiB limit; its answer to the consumer exceeds every smaller buffer on the way.
fn big_body(lab: &Lab, client: Client) -> Outcome {
    const SIZE: usize = 3_900_000;
    let stage = Stage::new(lab, client, "big", 1)?;
    let producer = stage.producer(&[])?;
    let big: Vec<Msg> = (0..3).map(|seed| Msg::filled(&stage.topic, SIZE, seed)).collect();
    let sent = stage.driver.send(&producer, "sync", &big)?;
    ensure!(sent.iter().all(|r| r.get("status") == "SEND_OK"), "a big message was refused: {sent:?}");
    let consumer = stage.consumer(&stage.name("group"), &[])?;
    let got = stage.driver.wait_events(&consumer, 3, DELIVERY)?;
    stage.stop(&consumer)?;
    stage.stop(&producer)?;
    for row in &got {
        let expected = pattern(SIZE, row.num("offset")? as u8);
        ensure_eq!(row.num("len")?, SIZE as i64, "length");
        ensure_eq!(row.num("crc")?, i64::from(crc32fast::hash(&expected)), "content of message {}", row.get("offset"));
    }
    Ok(())
}

fn compressed_body(lab: &Lab, client: Client) -> Outcome {
    let stage = Stage::new(lab, client, "zip", 1)?;
    let producer = stage.producer(&[("compressover", "1000")])?;
    stage.driver.send(&producer, "sync", &[Msg::filled(&stage.topic, 100_000, 5)])?;
    let consumer = stage.consumer(&stage.name("group"), &[])?;
    let got = stage.driver.wait_events(&consumer, 1, DELIVERY)?;
    stage.stop(&consumer)?;
    stage.stop(&producer)?;
    let stored = stage.stored(1, 1)?.remove(0).remove(0);
    ensure!(stored.body.len() < 50_000 && stored.sys_flag & 1 == 1, "the stored body is not compressed");
    ensure_eq!(got[0].num("len")?, 100_000, "length after inflating");
    ensure_eq!(got[0].num("crc")?, i64::from(crc32fast::hash(&pattern(100_000, 5))), "content");
    Ok(())
}

/// The client is told to let it pass, so that it is the broker that refuses.
fn oversized(lab: &Lab, client: Client) -> Outcome {
    let stage = Stage::new(lab, client, "oversized", 1)?;
    let producer = stage.producer(&[("maxsize", "8000000"), ("retries", "0")])?;
    let refused = stage.driver.send(&producer, "sync", &[Msg::filled(&stage.topic, 4_300_000, 1)]);
    let Err(Stop::Failed(why)) = refused else { return Err("a body of 4.3 MB was accepted".into()) };
    ensure!(why.contains("code 13"), "refused with another code than 13: {why}");
    stage.driver.send(&producer, "sync", &[Msg::new(&stage.topic, "after it")])?;
    stage.stop(&producer)?;
    stage.stored(1, 1).map(drop)
}

/// The clients refuse an empty body themselves; the protocol allows it.
fn empty_body(lab: &Lab) -> Outcome {
    if lab.make == Make::Java {
        return Err(Stop::Skipped("the Java broker answers an empty body with a NullPointerException".to_owned()));
    }
    let stage = Stage::new(lab, Client::Java5, "empty", 1)?;
    let mut conn = stage.cluster.broker.conn()?;
    let sent = conn.send(&stage.topic, 0, "KEYS\u{1}none\u{2}", b"")?;
    let consumer = stage.consumer(&stage.name("group"), &[])?;
    let got = stage.driver.wait_events(&consumer, 1, DELIVERY)?;
    stage.stop(&consumer)?;
    ensure_eq!(got[0].num("len")?, 0, "length");
    ensure_eq!(got[0].num("offset")?, sent.offset, "offset");
    ensure_eq!(got[0].get("keys"), "none", "keys");
    Ok(())
}
