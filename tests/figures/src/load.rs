//! The loads that are measured. One thread makes each, so that the servers have the rest of a small machine.

use crate::client::{self, Client, Session};
use ferromq_contract::{Outcome, ensure};
use hdrhistogram::Histogram;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::task::LocalSet;

/// Connections of producers, and of consumers.
pub const CONNECTIONS: usize = 4;
/// Bytes of a body.
pub const BODY: usize = 1024;
/// Empty answers in a row after which a consumer takes its queue for read.
const EMPTY: u32 = 3;

/// Runs a load to its end on this thread.
fn on_this_thread<T>(load: impl Future<Output = Outcome<T>>) -> Outcome<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, load)
}

async fn all(tasks: Vec<tokio::task::JoinHandle<Outcome>>) -> Outcome {
    for task in tasks {
        task.await.map_err(|e| e.to_string())??;
    }
    Ok(())
}

/// Sends until the time is over, `in_flight` calls under way on each connection; how many messages.
pub fn send(addr: &str, topic: &str, in_flight: usize, time: Duration) -> Outcome<u64> {
    on_this_thread(async {
        let (sent, end) = (Rc::new(Cell::new(0)), Instant::now() + time);
        let (mut tasks, mut sessions) = (Vec::new(), Vec::new());
        for number in 0..CONNECTIONS {
            let client = Client::connect(addr, format!("figures-producer-{number}")).await?;
            sessions.push(client.begin(client::producer(topic)).await?);
            client.route(topic).await?;
            for _ in 0..in_flight {
                let (client, sent, topic) = (client.clone(), Rc::clone(&sent), topic.to_owned());
                tasks.push(tokio::task::spawn_local(async move {
                    while Instant::now() < end {
                        client.send(&topic, vec![b'x'; BODY]).await?;
                        sent.set(sent.get() + 1);
                    }
                    Ok(())
                }));
            }
        }
        all(tasks).await?;
        Ok(sent.get())
    })
}

/// Receives what the topic has, and acknowledges each message by a call of its own, as the official clients do; ends after
/// `time`, or when there is nothing more. How many messages.
pub fn receive(addr: &str, group: &str, topic: &str, time: Duration) -> Outcome<u64> {
    on_this_thread(async {
        let (done, end) = (Rc::new(Cell::new(0)), Instant::now() + time);
        let consumers = Consumers::connect(addr, group, topic).await?;
        let tasks = consumers.of_each_queue(|client, queue| {
            let (done, group, topic) = (Rc::clone(&done), group.to_owned(), topic.to_owned());
            async move {
                let mut empty = 0;
                while Instant::now() < end && empty < EMPTY {
                    let received = client.receive(&group, &queue, Duration::from_secs(1)).await?;
                    empty = if received.is_empty() { empty + 1 } else { 0 };
                    let acks: Vec<_> = received
                        .into_iter()
                        .map(|message| {
                            let (client, group, topic) = (client.clone(), group.clone(), topic.clone());
                            tokio::task::spawn_local(async move { client.ack(&group, &topic, message.entry).await })
                        })
                        .collect();
                    let count = acks.len() as u64;
                    all(acks).await?;
                    done.set(done.get() + count);
                }
                Ok(())
            }
        });
        all(tasks).await?;
        Ok(done.get())
    })
}

/// Consumers of one group, each with a connection, and the queues of its topic.
struct Consumers {
    clients: Vec<Client>,
    queues: Vec<crate::pb::MessageQueue>,
    _sessions: Vec<Session>,
}

impl Consumers {
    async fn connect(addr: &str, group: &str, topic: &str) -> Outcome<Consumers> {
        let (mut clients, mut sessions) = (Vec::new(), Vec::new());
        for number in 0..CONNECTIONS {
            let client = Client::connect(addr, format!("figures-{group}-{number}")).await?;
            sessions.push(client.begin(client::consumer(group, topic)).await?);
            client.heartbeat(group).await?;
            clients.push(client);
        }
        let queues = clients[0].route(topic).await?;
        ensure!(!queues.is_empty(), "{topic} has no queues");
        Ok(Consumers { clients, queues, _sessions: sessions })
    }

    /// A task for each queue, spread over the connections.
    fn of_each_queue<F>(
        &self,
        mut work: impl FnMut(Client, crate::pb::MessageQueue) -> F,
    ) -> Vec<tokio::task::JoinHandle<Outcome>>
    where
        F: Future<Output = Outcome> + 'static,
    {
        let clients = self.clients.iter().cycle();
        let pairs = self.queues.iter().zip(clients);
        pairs.map(|(queue, client)| tokio::task::spawn_local(work(client.clone(), queue.clone()))).collect()
    }
}

/// Sends `rate` messages a second on a schedule that does not wait for answers, while consumers receive them: microseconds from
/// the moment each message was to be sent to the moment it was received.
pub fn end_to_end(addr: &str, group: &str, topic: &str, rate: u32, time: Duration) -> Outcome<Histogram<u64>> {
    on_this_thread(async {
        let consumers = Consumers::connect(addr, group, topic).await?;
        let begun = Instant::now();
        let total = u64::from(rate) * time.as_secs();
        let latencies = Rc::new(RefCell::new(Histogram::<u64>::new(3).map_err(|e| e.to_string())?));
        let got = Rc::new(Cell::new(0));
        let tasks = consumers.of_each_queue(|client, queue| {
            let (got, latencies) = (Rc::clone(&got), Rc::clone(&latencies));
            let (group, topic) = (group.to_owned(), topic.to_owned());
            async move {
                while got.get() < total && begun.elapsed() < time + Duration::from_secs(20) {
                    let received = client.receive(&group, &queue, Duration::from_secs(2)).await?;
                    let now = begun.elapsed().as_micros() as u64;
                    for message in received {
                        let at = message.body.first_chunk().map(|bytes| u64::from_be_bytes(*bytes)).unwrap_or(now);
                        // Nothing recorded here is beyond what a histogram takes.
                        let _ = latencies.borrow_mut().record(now.saturating_sub(at).max(1));
                        got.set(got.get() + 1);
                        let (client, group, topic) = (client.clone(), group.clone(), topic.clone());
                        tokio::task::spawn_local(async move { client.ack(&group, &topic, message.entry).await });
                    }
                }
                Ok(())
            }
        });
        let producer = Client::connect(addr, "figures-clock".to_owned()).await?;
        let _session = producer.begin(client::producer(topic)).await?;
        producer.route(topic).await?;
        let mut sends = Vec::new();
        for number in 0..total {
            let due = begun + Duration::from_secs(1) + Duration::from_secs_f64(number as f64 / f64::from(rate));
            tokio::time::sleep_until(due.into()).await;
            let mut body = vec![0; BODY];
            body[..8].copy_from_slice(&((due - begun).as_micros() as u64).to_be_bytes());
            let (producer, topic) = (producer.clone(), topic.to_owned());
            sends.push(tokio::task::spawn_local(async move { producer.send(&topic, body).await }));
        }
        all(sends).await?;
        all(tasks).await?;
        ensure!(got.get() >= total, "{} of {total} messages came", got.get());
        let latencies = latencies.borrow().clone();
        Ok(latencies)
    })
}

/// Connects `count` consumers, each with a telemetry stream, and measures while they idle.
pub fn idle<T>(addr: &str, group: &str, topic: &str, count: usize, measure: impl FnOnce() -> T) -> Outcome<T> {
    on_this_thread(async {
        let mut held = Vec::with_capacity(count);
        for number in 0..count {
            let client = Client::connect(addr, format!("figures-idle-{number}")).await?;
            let session = client.begin(client::consumer(group, topic)).await?;
            client.heartbeat(group).await?;
            held.push((client, session));
        }
        Ok(measure())
    })
}
