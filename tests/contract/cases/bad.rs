//! Bad input over the network: each gets the code a Java broker answers or a closed connection, costs bounded memory, and
//! leaves other clients served.

use ferromq_contract::cluster::Cluster;
use ferromq_contract::runner::{Case, Lab};
use ferromq_contract::server::Make;
use ferromq_contract::wire::{Conn, Header, code, frame, now_ms, pull_fields, raw_frame, send_fields};
use ferromq_contract::{Outcome, While, ensure, ensure_eq, scale, wait_for};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

pub fn cases() -> Vec<Case> {
    vec![
        Case::shared("bad::unknown_codes", unknown_codes),
        Case::shared("bad::missing_and_wrong_fields", missing_and_wrong_fields),
        Case::shared("bad::topic_names", topic_names),
        Case::shared("bad::offsets_and_counts", offsets_and_counts),
        Case::shared("bad::oversized_messages", oversized_messages),
        Case::alone("bad::broken_frames", broken_frames),
        Case::alone("bad::slow_frames_on_many_connections", slow_frames),
        Case::alone("bad::answers_nobody_reads", answers_nobody_reads),
    ]
}

const BOTH: [Header; 2] = [Header::Json, Header::Binary];

fn unknown_codes(lab: &Lab) -> Outcome {
    let cluster = lab.cluster()?;
    for addr in [cluster.broker.addr(), cluster.namesrv.addr.clone()] {
        for header in BOTH {
            let mut conn = Conn::open(&addr)?;
            conn.header = header;
            for unknown in [9999, 0, -1, 32767, -32768] {
                let answer = conn.call(unknown, &[("topic", "x")], b"body")?;
                ensure_eq!(answer.code, 3, "answer to code {unknown} by {addr} ({header:?} header): {}", answer.remark);
            }
        }
        ensure_eq!(Conn::open(&addr)?.call(1_000_000, &[], &[])?.code, 3, "answer to code 1000000 by {addr}");
    }
    Ok(())
}

/// A send, a pull and a topic creation without or with broken required fields: an error, and the connection stays usable.
fn missing_and_wrong_fields(lab: &Lab) -> Outcome {
    let cluster = lab.cluster()?;
    let topic = lab.name("fields");
    cluster.create_topic(&topic, 1)?;
    for header in BOTH {
        let mut conn = cluster.broker.conn()?;
        conn.header = header;
        let born = now_ms().to_string();
        let send = send_fields(&topic, "0", &born, "");
        for left_out in ["a", "b", "c", "d", "e", "f", "g", "h"] {
            let fields: Vec<_> = send.iter().copied().filter(|(key, _)| *key != left_out).collect();
            let answer = conn.call(code::SEND_MESSAGE_V2, &fields, b"body")?;
            // A Java broker does without the first group, and so may we.
            let needless = ["a", "c", "d"].contains(&left_out) && answer.code == 0;
            ensure!(needless || answer.code == 1, "send without {left_out} ({header:?}): code {}", answer.code);
        }
        let pull = pull_fields(&topic, "0", "0", "32");
        for left_out in ["consumerGroup", "topic", "queueId", "queueOffset", "maxMsgNums", "sysFlag"] {
            let fields: Vec<_> = pull.iter().copied().filter(|(key, _)| *key != left_out).collect();
            let answer = conn.call(code::PULL_MESSAGE, &fields, &[])?;
            ensure_eq!(answer.code, 1, "pull without {left_out} ({header:?}): {}", answer.remark);
        }
        for (key, value) in
            [("queueId", "zero"), ("queueOffset", "1e99"), ("maxMsgNums", "99999999999999999999"), ("sysFlag", "")]
        {
            let fields: Vec<_> = pull.iter().map(|(k, v)| if *k == key { (*k, value) } else { (*k, *v) }).collect();
            conn.call(code::PULL_MESSAGE, &fields, &[]).doing(format!("pull with {key}={value} ({header:?})"))?;
        }
        // The same connection still serves.
        conn.send(&topic, 0, "", b"fine")?;
    }
    Ok(())
}

/// Names that no topic or group may have, in every place where a name becomes a key of a table or a part of a path.
fn topic_names(lab: &Lab) -> Outcome {
    let cluster = lab.cluster()?;
    let long = "x".repeat(300);
    let names = [
        "../../escaped",
        "..",
        "a/escaped",
        "/tmp/escaped",
        "a b",
        "a\\escaped",
        "naïve",
        "",
        "a\u{0}b",
        "%RETRY%../../escaped",
        long.as_str(),
    ];
    let born = now_ms().to_string();
    let mut conn = cluster.broker.conn()?;
    for name in names {
        let answer = conn.call(code::SEND_MESSAGE_V2, &send_fields(name, "0", &born, ""), b"body")?;
        ensure!(answer.code != 0, "a send to topic {name:?} was accepted");
        let created = conn.create_topic(name, 1);
        ensure!(created.is_err(), "topic {name:?} was created");
        let answer = conn.call(code::PULL_MESSAGE, &pull_fields(name, "0", "0", "1"), &[])?;
        ensure!(answer.code != 0, "a pull from topic {name:?} found something");
        for bound in [code::GET_MAX_OFFSET, code::GET_MIN_OFFSET] {
            conn.call(bound, &[("topic", name), ("queueId", "0")], &[])?;
        }
        for group in [name, "fine"] {
            let fields = [("consumerGroup", group), ("topic", name), ("queueId", "0"), ("commitOffset", "5")];
            conn.call(code::UPDATE_CONSUMER_OFFSET, &fields, &[])?;
        }
        let heartbeat = serde_json::json!({
            "clientID": format!("bad@{name}"),
            "producerDataSet": [{"groupName": name}],
            "consumerDataSet": [{"groupName": name, "consumeType": "CONSUME_PASSIVELY", "messageModel": "CLUSTERING",
                "consumeFromWhere": "CONSUME_FROM_LAST_OFFSET", "unitMode": false,
                "subscriptionDataSet": [{"topic": name, "subString": "*", "classFilterMode": false, "subVersion": 1}]}],
        });
        conn.call(34, &[], heartbeat.to_string().as_bytes())?;
    }
    for reserved in ["TBW102", "SCHEDULE_TOPIC_XXXX", "RMQ_SYS_TRANS_HALF_TOPIC"] {
        let created = conn.create_topic(reserved, 1);
        ensure!(created.is_err(), "system topic {reserved} was changed");
    }
    conn.call(code::SEND_MESSAGE_V2, &send_fields("fine", "0", &born, ""), b"body")?.ok()?;
    // Nothing may have appeared outside the store, nor a queue folder of a bad name in it.
    let root = cluster.broker.folder.parent().ok_or("no parent folder")?;
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            ensure!(!name.contains("escaped") && name.len() < 256, "{} appeared", entry.path().display());
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    ensure!(!std::path::Path::new("/tmp/escaped").exists(), "/tmp/escaped appeared");
    Ok(())
}

fn offsets_and_counts(lab: &Lab) -> Outcome {
    let cluster = lab.cluster()?;
    let topic = lab.name("numbers");
    cluster.create_topic(&topic, 2)?;
    let mut conn = cluster.broker.conn()?;
    for i in 0..10 {
        conn.send(&topic, 0, "KEYS\u{1}k\u{2}", format!("m-{i}").as_bytes())?;
    }
    wait_for(Duration::from_secs(10), "ten messages", || {
        Ok((conn.bound(code::GET_MAX_OFFSET, &topic, 0)? == 10).then_some(()))
    })?;
    // Offsets outside the queue are corrected to its nearer end.
    for (offset, next) in [("-1", 0), ("-9223372036854775808", 0), ("11", 10), ("9223372036854775807", 10)] {
        let answer = conn.call(code::PULL_MESSAGE, &pull_fields(&topic, "0", offset, "32"), &[])?;
        ensure_eq!(
            (answer.code, answer.num("nextBeginOffset")?),
            (21, next),
            "pull at offset {offset}: {}",
            answer.remark
        );
        ensure!(answer.body.is_empty(), "records at offset {offset}");
    }
    for count in ["2147483647", "-2147483648", "-1", "0"] {
        let answer = conn
            .call(code::PULL_MESSAGE, &pull_fields(&topic, "0", "0", count), &[])
            .doing(format!("pull of {count}"))?;
        ensure!(answer.body.len() < 1 << 20, "an answer of {} bytes", answer.body.len());
    }
    for queue in ["-1", "2", "2147483647", "-2147483648"] {
        let answer = conn.call(code::PULL_MESSAGE, &pull_fields(&topic, queue, "0", "1"), &[])?;
        ensure_eq!(answer.code, if lab.make == Make::Java { answer.code } else { 29 }, "pull from queue {queue}");
        ensure!(answer.code != 0 && answer.body.is_empty(), "pull from queue {queue} found something");
        let born = now_ms().to_string();
        let answer = conn.call(code::SEND_MESSAGE_V2, &send_fields(&topic, queue, &born, ""), b"body")?;
        // A negative queue lets the broker choose one.
        let expected = if queue.starts_with('-') { 0 } else { 29 };
        ensure_eq!(answer.code, expected, "send to queue {queue}: {}", answer.remark);
    }
    for (time, boundary) in [("-1", "lower"), ("9223372036854775807", "upper"), ("-9223372036854775808", "sideways")] {
        let fields = [("topic", topic.as_str()), ("queueId", "0"), ("timestamp", time), ("boundaryType", boundary)];
        conn.call(code::SEARCH_OFFSET_BY_TIMESTAMP, &fields, &[]).doing(format!("search at {time}"))?;
    }
    for place in ["-1", "9223372036854775807", "1", "-9223372036854775808"] {
        let answer = conn.call(code::VIEW_MESSAGE_BY_ID, &[("offset", place)], &[])?;
        ensure!(answer.code != 0, "a message at position {place}");
    }
    for max in ["-1", "0", "2147483647", "-2147483648"] {
        let fields = [
            ("topic", topic.as_str()),
            ("key", "k"),
            ("maxNum", max),
            ("beginTimestamp", "-9223372036854775808"),
            ("endTimestamp", "9223372036854775807"),
        ];
        let answer = conn.call(code::QUERY_MESSAGE, &fields, &[]).doing(format!("query of {max}"))?;
        ensure!(answer.body.len() < 1 << 20, "an answer of {} bytes", answer.body.len());
    }
    for offset in ["-1", "-9223372036854775808", "9223372036854775807"] {
        let fields =
            [("consumerGroup", "numbers"), ("topic", topic.as_str()), ("queueId", "1"), ("commitOffset", offset)];
        conn.call(code::UPDATE_CONSUMER_OFFSET, &fields, &[])?;
        conn.call(code::QUERY_CONSUMER_OFFSET, &fields[..3], &[])?;
    }
    conn.send(&topic, 0, "", b"fine").map(drop)
}

fn oversized_messages(lab: &Lab) -> Outcome {
    let cluster = lab.cluster()?;
    let topic = lab.name("large");
    cluster.create_topic(&topic, 1)?;
    let mut conn = cluster.broker.conn()?;
    let answer = conn.send_raw(&topic, 0, "", &vec![7; (4 << 20) + 1])?;
    ensure_eq!(answer.code, 13, "body of 4 MiB and a byte: {}", answer.remark);
    let answer = conn.send_raw(&topic, 0, "", &vec![7; 15 << 20])?;
    ensure_eq!(answer.code, 13, "body of 15 MiB: {}", answer.remark);
    let answer = conn.send_raw(&topic, 0, &format!("long\u{1}{}\u{2}", "v".repeat(40_000)), b"body")?;
    ensure_eq!(answer.code, 13, "properties of 40,000 bytes: {}", answer.remark);
    conn.send(&topic, 0, &format!("long\u{1}{}\u{2}", "v".repeat(32_000)), &vec![7; 4 << 20])
        .doing("the largest message allowed")?;
    let got = wait_for(Duration::from_secs(10), "the message", || {
        Ok(Some(conn.read_queue(&topic, 0, 0)?).filter(|all| !all.is_empty()))
    })?;
    ensure_eq!((got.len(), got[0].body.len()), (1, 4 << 20), "messages stored, and the size of the body");
    Ok(())
}

/// Frames that are wrong at each level.
fn broken() -> Vec<(&'static str, Vec<u8>)> {
    let deep = |open: &str| format!("{{\"code\":10,\"extFields\":{}", open.repeat(100_000)).into_bytes();
    let good = frame(Header::Json, 310, 1, 0, &[("a", "b")], b"body");
    let mut all = vec![
        ("length -1", vec![0xff; 64]),
        ("length of 2 GiB", [&0x7fff_ffffu32.to_be_bytes()[..], &[0; 64]].concat()),
        ("length over 16 MiB", [&(16_777_217u32).to_be_bytes()[..], &[0; 64]].concat()),
        ("length 0", vec![0; 16]),
        ("length 3", [&3u32.to_be_bytes()[..], &[0; 16]].concat()),
        (
            "header longer than the frame",
            [&20u32.to_be_bytes()[..], &0x0000_ffffu32.to_be_bytes()[..], &[b'{'; 16]].concat(),
        ),
        ("unknown serialization", raw_frame(7, b"{\"code\":10}", b"")),
        ("no header", raw_frame(0, b"", b"body")),
        ("no binary header", raw_frame(1, b"", b"body")),
        ("not json", raw_frame(0, b"hello, world", b"")),
        ("half json", raw_frame(0, b"{\"code\":10,\"extFields\":{\"a\":", b"")),
        ("json array", raw_frame(0, b"[1,2,3]", b"")),
        ("json of other types", raw_frame(0, b"{\"code\":\"x\",\"flag\":{},\"opaque\":[],\"extFields\":7}", b"")),
        ("json with bytes that are no utf-8", raw_frame(0, b"{\"code\":10,\"remark\":\"\xff\xfe\xc0\"}", b"")),
        ("json with a lone surrogate", raw_frame(0, b"{\"code\":310,\"extFields\":{\"b\":\"\\ud800\"}}", b"")),
        ("json objects 100,000 deep", raw_frame(0, &deep("{\"a\":"), b"")),
        ("json arrays 100,000 deep", raw_frame(0, &deep("["), b"")),
        ("json numbers too large", raw_frame(0, b"{\"code\":99999999999999999999,\"opaque\":1e400}", b"")),
        ("another protocol", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec()),
        ("a tls hello", [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[0x41; 100]].concat()),
    ];
    let binary = |remark: i32, ext: i32, rest: &[u8]| {
        let mut head = vec![0, 10, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0];
        head.extend(remark.to_be_bytes());
        if remark == 0 {
            head.extend(ext.to_be_bytes());
        }
        head.extend(rest);
        raw_frame(1, &head, b"")
    };
    all.push(("binary remark of 2 GiB", binary(i32::MAX, 0, b"")));
    all.push(("binary remark of -1", binary(-1, 0, b"")));
    all.push(("binary fields of 2 GiB", binary(0, i32::MAX, b"")));
    all.push(("binary fields of -1", binary(0, -1, b"")));
    all.push(("binary key past the end", binary(0, 8, &[0xff; 8])));
    all.push(("binary value past the end", binary(0, 11, &[0, 1, b'a', 0x7f, 0xff, 0xff, 0xff, 1, 2, 3, 4])));
    all.push(("binary header cut short", raw_frame(1, &[0, 10, 0], b"")));
    for at in 0..good.len() {
        let mut flipped = good.clone();
        flipped[at] ^= 0x80;
        all.push(("a good frame with one bit flipped", flipped));
    }
    all
}

/// After each broken frame the connection is answered or closed (or the frame was only incomplete); the server stays up,
/// small, and serves the next client.
fn broken_frames(lab: &Lab) -> Outcome {
    let mut cluster = Cluster::start(&lab.tools, lab.make, &lab.folder("broken")?, &[])?;
    cluster.create_topic("fine", 1)?;
    let targets = [cluster.broker.addr(), cluster.namesrv.addr.clone()];
    for addr in &targets {
        for (what, bytes) in broken() {
            let mut stream = TcpStream::connect(addr).doing(format!("connecting after '{what}' to {addr}"))?;
            stream.set_read_timeout(Some(Duration::from_millis(20)))?;
            let _ = stream.write_all(&bytes);
            let mut answer = [0; 4096];
            let _ = stream.read(&mut answer);
        }
    }
    for addr in &targets {
        // The worst ones must end their connection at once: nothing after them can be understood.
        for (what, bytes) in broken()
            .into_iter()
            .filter(|(what, _)| ["length -1", "length of 2 GiB", "length over 16 MiB"].contains(what))
        {
            let mut stream = TcpStream::connect(addr)?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            stream.write_all(&bytes)?;
            let ended = match stream.read(&mut [0; 16]) {
                Ok(count) => count == 0,
                Err(e) => e.kind() == std::io::ErrorKind::ConnectionReset,
            };
            ensure!(ended, "the connection to {addr} stays open after '{what}'");
        }
    }
    let mut conn = cluster.broker.conn()?;
    let sent = conn.send("fine", 0, "", b"body")?;
    ensure_eq!(sent.offset, 0, "a broken frame was stored");
    ensure!(cluster.broker.alive(), "the broker ended");
    check_memory(lab, &cluster, 200)?;
    ensure!(cluster.namesrv.process.ended().is_none(), "the NameServer ended");
    cluster.broker.stop()
}

fn check_memory(lab: &Lab, cluster: &Cluster, mib: u64) -> Outcome {
    let broker = cluster.broker.process.as_ref().map_or(0, |p| p.memory() >> 20);
    let namesrv = cluster.namesrv.process.memory() >> 20;
    lab.tell(&format!("anonymous memory: broker {broker} MiB, NameServer {namesrv} MiB"));
    // A JVM's heap says nothing.
    ensure!(
        lab.make == Make::Java || broker < mib && namesrv < mib,
        "memory: broker {broker} MiB, NameServer {namesrv} MiB"
    );
    Ok(())
}

/// Connections that each claim a frame of 16 MiB and then send a byte now and then: `FERROMQ_SLOW_CONNECTIONS` of them,
/// 10,000 if the limit of open files allows it. Another client is served meanwhile at its usual speed.
fn slow_frames(lab: &Lab) -> Outcome {
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    let count = scale("FERROMQ_SLOW_CONNECTIONS", 10_000).min(files.saturating_sub(500));
    let mut cluster = Cluster::start(&lab.tools, lab.make, &lab.folder("slow")?, &[])?;
    cluster.create_topic("fine", 1)?;
    for addr in [cluster.broker.addr(), cluster.namesrv.addr.clone()] {
        let mut slow = Vec::new();
        for i in 0..count {
            // A server may refuse what is beyond its limits.
            let Ok(mut stream) = TcpStream::connect(&addr) else { break };
            let _ = stream.write_all(&(16_777_000u32 + (i % 200) as u32).to_be_bytes());
            let _ = stream.write_all(&[0, 0, 1, 0, b'{']);
            slow.push(stream);
        }
        ensure!(slow.len() as u64 > count / 10, "only {} connections were accepted by {addr}", slow.len());
        for _ in 0..5 {
            for stream in &mut slow {
                let _ = stream.write_all(b"\"");
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        check_memory(lab, &cluster, 300).doing(format!("{} slow connections to {addr}", slow.len()))?;
        drop(slow);
    }
    let addr = cluster.broker.addr();
    let mut served = cluster.broker.conn()?;
    let mut slow: Vec<TcpStream> = (0..(count / 2).min(2000)).filter_map(|_| TcpStream::connect(&addr).ok()).collect();
    for stream in &mut slow {
        let _ = stream.write_all(&[0, 0xff, 0xff, 0, 0, 0, 1, 0]);
    }
    let begun = Instant::now();
    for i in 0..200 {
        served.send("fine", 0, "", format!("m-{i}").as_bytes()).doing("sending beside slow connections")?;
        if let Some(stream) = slow.get_mut(i * 7) {
            let _ = stream.write_all(b"x");
        }
    }
    ensure!(begun.elapsed() < Duration::from_secs(5), "200 sends beside slow connections took {:?}", begun.elapsed());
    drop(slow);
    // And new clients get in.
    cluster.broker.conn()?.send("fine", 0, "", b"after")?;
    cluster.broker.stop()
}

/// A client that asks for megabytes and never reads them: the server keeps no more for it than its limit, and serves others.
fn answers_nobody_reads(lab: &Lab) -> Outcome {
    let mut cluster = Cluster::start(&lab.tools, lab.make, &lab.folder("unread")?, &[])?;
    cluster.create_topic("large", 1)?;
    let mut conn = cluster.broker.conn()?;
    for _ in 0..8 {
        conn.send("large", 0, "", &vec![1; 100_000])?;
    }
    wait_for(Duration::from_secs(10), "eight messages", || {
        Ok((conn.bound(code::GET_MAX_OFFSET, "large", 0)? == 8).then_some(()))
    })?;
    let request = frame(Header::Json, code::PULL_MESSAGE, 1, 0, &pull_fields("large", "0", "0", "32"), &[]);
    let mut deaf = Vec::new();
    for _ in 0..20 {
        let mut stream = TcpStream::connect(cluster.broker.addr())?;
        stream.set_write_timeout(Some(Duration::from_millis(100)))?;
        // Asks for up to 160 MB on each connection; a server that stops reading makes the write fail, which is right.
        for _ in 0..200 {
            if stream.write_all(&request).is_err() {
                break;
            }
        }
        deaf.push(stream);
    }
    std::thread::sleep(Duration::from_secs(1));
    check_memory(lab, &cluster, 600)?;
    let begun = Instant::now();
    for _ in 0..50 {
        conn.send("large", 0, "", b"small")?;
    }
    ensure!(begun.elapsed() < Duration::from_secs(5), "50 sends beside deaf clients took {:?}", begun.elapsed());
    drop(deaf);
    cluster.broker.stop()
}
