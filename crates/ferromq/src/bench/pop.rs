//! The load of pop consumers: pops of 32 messages, each message acknowledged by a request of its own, as the official
//! clients do. The client library has no pop consumer yet, so the requests are made here.

use super::load::{self, Counters, Load, ThreadResult, on_this_thread};
use crate::Failure;
use crate::cli::BenchArgs;
use ferromq_protocol::code::{request, response};
use ferromq_protocol::header::pop::{AckMessageHeader, PopMessageHeader};
use ferromq_protocol::pop::{Origin, ReceiptHandle};
use ferromq_protocol::records;
use ferromq_protocol::{Encoding, FrameWriter, OwnedCommand, Text};
use ferromq_remoting::{Client, ClientConfig};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The group that pops.
const GROUP: &str = "ferromq_bench_pop";
/// Messages asked for in one pop.
const POP_BATCH: i32 = 32;
/// How long messages stay invisible, milliseconds.
const INVISIBLE_MS: i64 = 60_000;
/// How long the broker may keep a pop that finds nothing, milliseconds. Twice nothing ends a popper.
const POLL_MS: i64 = 1000;
const TIMEOUT: Duration = Duration::from_secs(10);

/// A broker that has queues of the topic.
#[derive(Clone)]
pub struct Broker {
    pub name: String,
    pub address: String,
}

/// What every popper needs.
struct Work {
    topic: String,
    counters: Arc<Counters>,
    wanted: u64,
}

/// Starts popping until `wanted` messages are acknowledged or nothing comes any more.
pub fn pop(arguments: &BenchArgs, brokers: &[Broker], wanted: u64) -> Result<Load, Failure> {
    load::start(arguments, |index, threads, counters| {
        let connections = (index..arguments.connections as usize).step_by(threads).count();
        let poppers = (arguments.in_flight as usize).div_ceil(POP_BATCH as usize);
        let brokers: Vec<Broker> = brokers.to_vec();
        let work = Work { topic: arguments.topic.clone(), counters, wanted };
        move || {
            on_this_thread(async move {
                let result = Rc::new(RefCell::new(ThreadResult::new()?));
                let work = Rc::new(work);
                let mut tasks = Vec::new();
                for number in 0..connections {
                    let client = Client::new(ClientConfig::default(), None);
                    let broker = Rc::new(brokers[(index + number) % brokers.len()].clone());
                    for _ in 0..poppers {
                        let (client, broker, work, result) =
                            (client.clone(), broker.clone(), work.clone(), result.clone());
                        tasks.push(tokio::task::spawn_local(async move {
                            pop_until_done(&client, &broker, &work, &result).await;
                        }));
                    }
                }
                for task in tasks {
                    task.await.map_err(|error| error.to_string())?;
                }
                Ok(result.replace(ThreadResult::new()?))
            })
        }
    })
}

async fn pop_until_done(client: &Client, broker: &Rc<Broker>, work: &Rc<Work>, result: &RefCell<ThreadResult>) {
    let mut nothing = 0;
    while work.counters.done() < work.wanted && !work.counters.has_failed() && nothing < 2 {
        let header = PopMessageHeader {
            consumer_group: Text::plain(GROUP),
            topic: Text::plain(&work.topic),
            queue_id: -1,
            max_msg_nums: POP_BATCH,
            invisible_time: INVISIBLE_MS,
            poll_time: POLL_MS,
            born_time: ferromq_common::clock::now_millis(),
            ..PopMessageHeader::default()
        };
        let began = Instant::now();
        let answer = client.invoke(&broker.address, TIMEOUT, |out, opaque| {
            let mut frame = FrameWriter::request(out, Encoding::Json, request::POP_MESSAGE, opaque, false);
            header.write(&mut frame);
            frame.finish();
        });
        match answer.await {
            Ok(answer) if answer.head().code == response::SUCCESS => {
                nothing = 0;
                let acks = acks(&answer, broker);
                let bytes: u64 = acks.iter().map(|ack| ack.bytes).sum();
                result.borrow_mut().record(began, bytes);
                let tasks: Vec<_> = acks
                    .into_iter()
                    .map(|ack| {
                        let (client, broker, work) = (client.clone(), broker.clone(), work.clone());
                        tokio::task::spawn_local(async move { acknowledge(&client, &broker, &work, &ack).await })
                    })
                    .collect();
                for task in tasks {
                    // A task here ends by itself.
                    let _ = task.await;
                }
            }
            Ok(answer) if answer.head().code == response::POLLING_TIMEOUT => nothing += 1,
            Ok(answer) => work.counters.fail(format!("{} {}", answer.head().code, answer.remark_lossy())),
            Err(error) => work.counters.fail(error.to_string()),
        }
    }
}

/// One message's acknowledgement.
struct Ack {
    real_topic: Origin,
    queue_id: i32,
    offset: i64,
    handle: String,
    bytes: u64,
}

/// The handles that a client makes from an answer.
fn acks(answer: &OwnedCommand, broker: &Broker) -> Vec<Ack> {
    let fields = answer.command().fields;
    let number = |key: &str| fields.opt_i64(key).unwrap_or_default();
    let starts = fields.opt_str("startOffsetInfo").unwrap_or_default();
    let start_of = |origin: Origin, queue_id: i32| {
        let key = format!("{} {queue_id} ", origin.digit());
        starts.split(';').find_map(|part| part.strip_prefix(&key)?.parse().ok()).unwrap_or_default()
    };
    let mut found = Vec::new();
    for message in records::iter(answer.body()) {
        let given = ferromq_protocol::properties::get_str(message.properties(), "POP_CK").map(str::to_owned);
        let handle = given.unwrap_or_else(|| {
            ReceiptHandle {
                start_offset: start_of(Origin::Topic, message.queue_id()),
                pop_time: number("popTime"),
                invisible_time: number("invisibleTime"),
                revive_queue: number("reviveQid") as i32,
                origin: Origin::Topic,
                broker_name: &broker.name,
                queue_id: Some(message.queue_id()),
                queue_offset: Some(message.queue_offset()),
            }
            .to_string()
        });
        found.push(Ack {
            real_topic: ReceiptHandle::parse(&handle).map(|handle| handle.origin).unwrap_or_default(),
            queue_id: message.queue_id(),
            offset: message.queue_offset(),
            handle,
            bytes: message.body().len() as u64,
        });
    }
    found
}

async fn acknowledge(client: &Client, broker: &Broker, work: &Work, ack: &Ack) {
    let topic = ack.real_topic.real_topic(&work.topic, GROUP);
    let header = AckMessageHeader {
        consumer_group: Text::plain(GROUP),
        topic: Text::plain(&topic),
        queue_id: ack.queue_id,
        extra_info: Text::plain(&ack.handle),
        offset: ack.offset,
        lite_topic: None,
    };
    let answer = client.invoke(&broker.address, TIMEOUT, |out, opaque| {
        let mut frame = FrameWriter::request(out, Encoding::Json, request::ACK_MESSAGE, opaque, false);
        header.write(&mut frame);
        frame.finish();
    });
    match answer.await {
        Ok(answer) if answer.head().code == response::SUCCESS => work.counters.count(1),
        Ok(answer) => work.counters.fail(format!("{} {}", answer.head().code, answer.remark_lossy())),
        Err(error) => work.counters.fail(error.to_string()),
    }
}
