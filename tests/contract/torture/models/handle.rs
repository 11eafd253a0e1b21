//! Popped messages and their receipt handles, as a client makes them from an answer (RocketMQ 5.5 `ExtraInfoUtil`).

use ferromq_contract::record::{Stored, decode_all};
use ferromq_contract::wire::{Answer, now_ms};
use ferromq_contract::{Outcome, ensure};

pub const POP_MESSAGE: i32 = 200_050;
pub const ACK_MESSAGE: i32 = 200_051;
pub const BATCH_ACK_MESSAGE: i32 = 200_151;
pub const CHANGE_MESSAGE_INVISIBLETIME: i32 = 200_053;
/// Codes of an answer with nothing: PULL_NOT_FOUND, POLLING_FULL, POLLING_TIMEOUT.
const NOTHING: [i32; 3] = [19, 209, 210];
/// Revive queue of ordered pops.
const ORDERED: &str = "999";

/// What acknowledges a popped message. The fields: start of its check point, time of the pop, invisible time, revive queue,
/// origin (0 the topic, 1 and 2 a retry topic), broker, queue, offset.
#[derive(Clone, Debug)]
pub struct Handle([String; 8]);

impl Handle {
    fn parse(text: &str) -> Outcome<Handle> {
        let fields: Vec<String> = text.split(' ').map(str::to_owned).collect();
        Ok(Handle(fields.try_into().map_err(|_| format!("a receipt handle '{text}'"))?))
    }

    fn number(&self, at: usize) -> i64 {
        self.0[at].parse().unwrap_or(0)
    }

    /// When the message was popped, and when its time is over.
    pub fn times(&self) -> (i64, i64) {
        (self.number(1), self.number(1) + self.number(2))
    }

    pub fn offset(&self) -> i64 {
        self.number(7)
    }

    /// The fields by which a request names the message.
    pub fn request<'a>(&'a self, group: &'a str, real_topic: &'a str, text: &'a str) -> [(&'a str, &'a str); 5] {
        let [.., queue, offset] = &self.0;
        [("consumerGroup", group), ("topic", real_topic), ("queueId", queue), ("offset", offset), ("extraInfo", text)]
    }

    /// The topic that has the message.
    pub fn real_topic(&self, topic: &str, group: &str) -> String {
        match self.0[4].as_str() {
            "1" => format!("%RETRY%{group}_{topic}"),
            "2" => format!("%RETRY%{group}+{topic}"),
            _ => topic.to_owned(),
        }
    }

    /// Whether both messages were handed out together, from one queue.
    pub fn is_beside(&self, other: &Handle) -> bool {
        self.0[..7] == other.0[..7]
    }

    /// The body of a request that acknowledges messages with these offsets, this one's and those of others beside it.
    pub fn batch(&self, group: &str, topic: &str, offsets: &[i64]) -> Vec<u8> {
        // A set of bits as Java writes it: signed bytes, the lowest bits first.
        let mut bits: Vec<i8> = Vec::new();
        for offset in offsets {
            let at = (offset - self.number(0)).max(0) as usize;
            bits.resize(bits.len().max(at / 8 + 1), 0);
            bits[at / 8] |= 1 << (at % 8);
        }
        let [_, _, _, revive, origin, broker, queue, _] = &self.0;
        let [start, time, invisible] = [0, 1, 2].map(|at| self.number(at));
        format!(
            r#"{{"brokerName":"{broker}","acks":[{{"c":"{group}","t":"{topic}","r":"{origin}","so":{start},"q":{queue},"rq":{revive},"pt":{time},"it":{invisible},"b":{bits:?}}}]}}"#
        )
        .into_bytes()
    }

    pub fn text(&self) -> String {
        self.0.join(" ")
    }

    /// The handle after its time was changed.
    pub fn changed(&self, answer: &Answer) -> Outcome<Handle> {
        let mut changed = self.clone();
        for (at, key) in [(1, "popTime"), (2, "invisibleTime"), (3, "reviveQid")] {
            changed.0[at] = answer.num(key)?.to_string();
        }
        if changed.0[3] != ORDERED {
            changed.0[0] = changed.0[7].clone();
        }
        Ok(changed)
    }
}

/// The fields of a pop that does not wait.
pub fn pop_fields<'a>(
    group: &'a str,
    topic: &'a str,
    queue: &'a str,
    [max, invisible, now]: &'a [String; 3],
    order: &'a str,
) -> [(&'a str, &'a str); 9] {
    [
        ("consumerGroup", group),
        ("topic", topic),
        ("queueId", queue),
        ("maxMsgNums", max),
        ("invisibleTime", invisible),
        ("pollTime", "0"),
        ("bornTime", now),
        ("initMode", "0"),
        ("order", order),
    ]
}

/// The numbers of a pop: how many messages, their invisible time, and the time now.
pub fn numbers(max: u64, invisible: i64) -> [String; 3] {
    [max.to_string(), invisible.to_string(), now_ms().to_string()]
}

/// The messages of an answer to a pop.
pub fn popped(answer: &Answer) -> Outcome<Vec<(Stored, Handle)>> {
    if NOTHING.contains(&answer.code) {
        return Ok(Vec::new());
    }
    ensure!(answer.code == 0, "a pop: code {}: {}", answer.code, answer.remark);
    let starts = answer.fields.get("startOffsetInfo").map_or("", String::as_str);
    let mut all = Vec::new();
    for record in decode_all(&answer.body)? {
        let text = match record.property("POP_CK") {
            Some(given) => given.to_owned(),
            None => {
                let origin = match record.topic.strip_prefix("%RETRY%") {
                    None => 0,
                    Some(rest) => 1 + u8::from(rest.contains('+')),
                };
                let key = format!("{origin} {} ", record.queue_id);
                let start = starts.split(';').find_map(|part| part.strip_prefix(&key));
                let start = start.ok_or_else(|| format!("no start of '{key}' in '{starts}'"))?;
                let (time, invisible) = (answer.num("popTime")?, answer.num("invisibleTime")?);
                let (revive, queue, offset) = (answer.num("reviveQid")?, record.queue_id, record.queue_offset);
                format!("{start} {time} {invisible} {revive} {origin} broker-a {queue} {offset}")
            }
        };
        let handle = Handle::parse(&text)?;
        all.push((record, handle));
    }
    Ok(all)
}

/// The number in a body.
pub fn message_of(record: &Stored) -> Outcome<u64> {
    let body = String::from_utf8_lossy(&record.body);
    let number = body.split(' ').next().and_then(|number| number.parse().ok());
    number.ok_or_else(|| format!("a body '{body}'").into())
}
