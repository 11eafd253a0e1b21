//! `ferromq dlq`: the dead letters of consumer groups, looked at and given to their group once more.
//!
//! A replay is a CONSUMER_SEND_MSG_BACK of the dead letter: the broker copies it to `%RETRY%group`, which nobody but the group
//! reads, with its retry count raised by one. That copy is also the mark against a second replay: a message with the
//! same id and that count is in the log after the dead letter only if somebody replayed it. No file or topic of our own
//! is needed, the mark survives restarts, and it is there as long as the log keeps the copy.

use crate::cli::{Cluster, DlqCommand, Wanted};
use crate::{Failure, connect, printer, tail, text};
use ferromq_client::{Client, Error, MessageQueue, PullConsumer, ReceivedMessage, Subscription};
use ferromq_common::clock;
use ferromq_protocol::properties::names;
use ferromq_protocol::topic;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::time::Duration;

/// RocketMQ's group for tools; brokers have it from the start.
const GROUP: &str = "TOOLS_CONSUMER";
/// Messages asked for at once.
const BATCH: u32 = 32;
/// Copies of one message that are looked at for a replay.
const MAX_COPIES: u32 = 64;

/// Does what the command says.
pub fn run(command: DlqCommand) -> Result<(), Failure> {
    connect::block_on(async {
        match command {
            DlqCommand::List { cluster } => list(&cluster).await,
            DlqCommand::Search { wanted, json } => search(&wanted, json).await,
            DlqCommand::Export { wanted, output } => match output {
                Some(path) => export(&wanted, BufWriter::new(File::create(path)?)).await,
                None => export(&wanted, std::io::stdout()).await,
            },
            DlqCommand::Replay { wanted, all, rate, dry_run, again } => {
                if !all && !wanted.selects() {
                    return Err(Failure(
                        "say which dead letters to replay (--id, --key, --topic, --since, --until, --limit), or --all"
                            .into(),
                    ));
                }
                replay(&wanted, rate, dry_run, again).await
            }
        }
    })
}

async fn list(cluster: &Cluster) -> Result<(), Failure> {
    let client = connect::client(cluster)?;
    let explain = |error: Error| connect::explain(&error, cluster);
    let topics = client.admin().topics().await.map_err(explain)?.topic_list;
    let mut groups: Vec<_> = topics.iter().filter_map(|name| name.strip_prefix(topic::DLQ_PREFIX)).collect();
    groups.sort_unstable();
    let consumer = client.pull_consumer(GROUP)?;
    printer::lines([format!("{:<40} {:>10}  {}", "GROUP", "MESSAGES", "OLDEST")]);
    for group in groups {
        let (mut count, mut oldest) = (0, None);
        for queue in consumer.queues(&topic::dlq_topic(group)).await.map_err(explain)? {
            let (min, max) = (consumer.min_offset(&queue).await?, consumer.max_offset(&queue).await?);
            count += max - min;
            if max > min {
                let first = consumer.pull(&queue, min, 1, &Subscription::all(), None).await?.messages;
                let stored = first.first().map(|message| message.store_timestamp);
                oldest = [oldest, stored].into_iter().flatten().min();
            }
        }
        printer::lines([format!("{group:<40} {count:>10}  {}", oldest.map(text::utc).unwrap_or_default())]);
    }
    Ok(())
}

async fn search(wanted: &Wanted, json: bool) -> Result<(), Failure> {
    let client = connect::client(&wanted.cluster)?;
    let mut letters = Letters::open(&client, wanted).await?;
    while let Some(letter) = letters.next().await? {
        let line = match json {
            true => tail::as_json(&letter),
            false => {
                let replayed = if was_replayed(&client, &wanted.group, &letter).await? { "  (replayed)" } else { "" };
                format!(
                    "{}  {}  {}  tries {}{replayed}  {}",
                    text::utc(letter.store_timestamp),
                    letter.message_id(),
                    origin(&letter),
                    letter.reconsume_times,
                    text::body(&letter.body)
                )
            }
        };
        if !printer::line(&line) {
            break;
        }
    }
    Ok(())
}

async fn export(wanted: &Wanted, mut out: impl Write) -> Result<(), Failure> {
    let client = connect::client(&wanted.cluster)?;
    let mut letters = Letters::open(&client, wanted).await?;
    let mut count = 0_u64;
    while let Some(letter) = letters.next().await? {
        writeln!(out, "{}", tail::as_json(&letter))?;
        count += 1;
    }
    out.flush()?;
    printer::error(&format!("{} dead letters of {} are written", text::grouped(count), wanted.group));
    Ok(())
}

async fn replay(wanted: &Wanted, rate: u32, dry_run: bool, again: bool) -> Result<(), Failure> {
    let client = connect::client(&wanted.cluster)?;
    let mut letters = Letters::open(&client, wanted).await?;
    let mut pace = tokio::time::interval(Duration::from_secs(1) / rate);
    let (mut replayed, mut skipped, mut failed) = (0_u64, 0_u64, 0_u64);
    while let Some(letter) = letters.next().await? {
        let (id, from) = (letter.message_id().to_owned(), origin(&letter).to_owned());
        let done = match was_replayed(&client, &wanted.group, &letter).await {
            Ok(true) if !again => Ok(false),
            Ok(_) if dry_run => Ok(true),
            Ok(_) => {
                pace.tick().await;
                client.admin().send_to_retry(&letter, &wanted.group).await.map(|()| true)
            }
            Err(error) => Err(error),
        };
        let line = match done {
            Ok(true) => {
                replayed += 1;
                format!("{}  {id}  {from}", if dry_run { "would replay" } else { "replayed" })
            }
            Ok(false) => {
                skipped += 1;
                format!("passed over  {id}  {from}: it was replayed already (--again replays it all the same)")
            }
            Err(error) => {
                failed += 1;
                format!("failed  {id}  {from}: {error}")
            }
        };
        printer::lines([line]);
    }
    let verb = if dry_run { "would be replayed" } else { "replayed" };
    printer::lines([format!("{replayed} {verb}, {skipped} passed over, {failed} failed")]);
    match failed {
        0 => Ok(()),
        _ => Err(Failure(format!("{failed} dead letters were not replayed; the same command tries them again"))),
    }
}

/// Whether the group has got this dead letter once more: its copy follows it in the log.
async fn was_replayed(client: &Client, group: &str, letter: &ReceivedMessage) -> Result<bool, Error> {
    let Some(id) = letter.property(names::UNIQ_CLIENT_MESSAGE_ID_KEYIDX) else { return Ok(false) };
    let retry = topic::retry_topic(group);
    for place in [topic::SCHEDULE, &retry] {
        let span = letter.store_timestamp..=i64::MAX;
        let copies = match client.admin().query_message(place, id, true, MAX_COPIES, span).await {
            Ok(copies) => copies,
            Err(Error::NoRoute { .. }) => continue,
            Err(error) => return Err(error),
        };
        let is_copy = |copy: &ReceivedMessage| {
            let goes_to = copy.property(names::REAL_TOPIC).unwrap_or(copy.topic());
            copy.reconsume_times == letter.reconsume_times.saturating_add(1) && goes_to == retry
        };
        if copies.iter().any(is_copy) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The topic a dead letter was sent to.
fn origin(letter: &ReceivedMessage) -> &str {
    let known = [names::DLQ_ORIGIN_TOPIC, names::RETRY_TOPIC].iter().find_map(|name| letter.property(name));
    known.unwrap_or(letter.topic())
}

/// The dead letters that are wanted, queue by queue, oldest first; those there are when it begins.
struct Letters<'a> {
    consumer: PullConsumer,
    wanted: &'a Wanted,
    /// Queues to read, with the next offset and the end.
    queues: Vec<(MessageQueue, i64, i64)>,
    fetched: std::vec::IntoIter<ReceivedMessage>,
    left: u64,
    until: i64,
}

impl<'a> Letters<'a> {
    async fn open(client: &Client, wanted: &'a Wanted) -> Result<Letters<'a>, Failure> {
        let consumer = client.pull_consumer(GROUP)?;
        let name = topic::dlq_topic(&wanted.group);
        let explain = |error: Error| match error {
            Error::NoRoute { .. } => {
                Failure(format!("group {} has no dead letters; `ferromq dlq list` shows who has", wanted.group))
            }
            other => connect::explain(&other, &wanted.cluster),
        };
        let now = clock::now_millis();
        let mut queues = Vec::new();
        for queue in consumer.queues(&name).await.map_err(explain)? {
            let first = match wanted.since {
                Some(span) => consumer.search_offset(&queue, now.saturating_sub_unsigned(span)).await?,
                None => consumer.min_offset(&queue).await?,
            };
            let end = consumer.max_offset(&queue).await?;
            queues.push((queue, first, end));
        }
        let until = wanted.until.map_or(i64::MAX, |span| now.saturating_sub_unsigned(span));
        let left = wanted.limit.unwrap_or(u64::MAX);
        Ok(Letters { consumer, wanted, queues, fetched: Vec::new().into_iter(), left, until })
    }

    async fn next(&mut self) -> Result<Option<ReceivedMessage>, Error> {
        while self.left > 0 {
            if let Some(message) = self.fetched.next() {
                if self.is_wanted(&message) {
                    self.left -= 1;
                    return Ok(Some(message));
                }
                continue;
            }
            let Some((queue, offset, end)) = self.queues.last_mut() else { return Ok(None) };
            if offset >= end {
                self.queues.pop();
                continue;
            }
            let pulled = self.consumer.pull(queue, *offset, BATCH, &Subscription::all(), None).await?;
            // A queue that gives nothing and does not move on has ended.
            *offset = if pulled.next_begin_offset > *offset { pulled.next_begin_offset } else { *end };
            let last = *end;
            let mut messages = pulled.messages;
            messages.retain(|message| message.queue_offset < last);
            self.fetched = messages.into_iter();
        }
        Ok(None)
    }

    fn is_wanted(&self, letter: &ReceivedMessage) -> bool {
        let wanted = self.wanted;
        let has_id = |id: &String| letter.message_id() == id || letter.offset_message_id == *id;
        (wanted.ids.is_empty() || wanted.ids.iter().any(has_id))
            && wanted.key.as_ref().is_none_or(|key| letter.keys().any(|k| k == key))
            && wanted.topic.as_ref().is_none_or(|topic| origin(letter) == topic)
            && letter.store_timestamp <= self.until
    }
}
