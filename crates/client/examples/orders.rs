//! Orders in order: three steps of each of ten orders, sent so that one order's steps share a queue, and consumed one
//! after the other.
//!
//! `cargo run --release -- dev` in one terminal, then `cargo run -p ferromq-client --example orders [NAMESRV]`.

use std::time::Duration;

use ferromq_client::{
    Ack, Client, ClientConfig, ConsumeFrom, ConsumerConfig, Message, ReceivedMessage, SendStatus, Subscription,
};

#[tokio::main(flavor = "current_thread")]
#[allow(clippy::print_stdout, reason = "an example shows what it does")]
async fn main() -> ferromq_client::Result<()> {
    let namesrv = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9876".into());
    let client = Client::new(ClientConfig::new(namesrv))?;

    let producer = client.producer("orders-producer")?;
    for step in ["created", "paid", "shipped"] {
        for order in 0..10 {
            let message = Message::new("orders", format!("order {order} is {step}")).tag(step);
            let sent = producer.send_by(&message, |queues| order % queues.len()).await?;
            if sent.status != SendStatus::Ok {
                println!("order {order} is {step}: stored, but {:?}", sent.status);
            }
        }
    }

    let config = ConsumerConfig { consume_from_where: ConsumeFrom::First, ..ConsumerConfig::new("orders-consumer") };
    let consumer = client
        .consumer_with(config)
        .subscribe("orders", Subscription::all())
        .start_orderly(|message: ReceivedMessage| async move {
            println!("queue {}: {}", message.queue.queue_id, String::from_utf8_lossy(&message.body));
            Ack::Done
        })
        .await?;
    tokio::time::sleep(Duration::from_secs(3)).await;

    consumer.shutdown().await;
    producer.shutdown().await;
    client.shutdown().await;
    Ok(())
}
