//! `ferromq send`: messages from the command line or from standard input, over a real route and the client library.

use crate::cli::SendArgs;
use crate::{Failure, connect, printer};
use ferromq_client::{Message, Producer, ProducerConfig, SendResult, SendStatus};
use serde_json::json;
use std::io::BufRead;
use std::time::Duration;

const GROUP: &str = "ferromq_send";

/// Sends, and prints a line per acknowledgement.
pub fn run(arguments: SendArgs) -> Result<(), Failure> {
    connect::block_on(async {
        let client = connect::client(&arguments.cluster)?;
        let config =
            ProducerConfig { send_msg_timeout: Duration::from_millis(arguments.timeout), ..ProducerConfig::new(GROUP) };
        let producer = client.producer_with(config)?;
        match &arguments.body {
            Some(body) => {
                for _ in 0..arguments.count {
                    send(&producer, &arguments, body.as_bytes()).await?;
                }
            }
            None => {
                for line in std::io::stdin().lock().split(b'\n') {
                    let line = line?;
                    if !line.is_empty() {
                        send(&producer, &arguments, &line).await?;
                    }
                }
            }
        }
        producer.shutdown().await;
        client.shutdown().await;
        Ok(())
    })
}

async fn send(producer: &Producer, arguments: &SendArgs, body: &[u8]) -> Result<(), Failure> {
    let message = message(arguments, body);
    let sent = producer.send(&message).await.map_err(|error| connect::explain(&error, &arguments.cluster))?;
    let status = status(sent.status);
    // Whether somebody reads it does not matter: the message is to be sent.
    printer::lines([if arguments.json { as_json(&sent, status) } else { as_text(&sent, status) }]);
    match sent.status {
        SendStatus::Ok => Ok(()),
        _ => Err(Failure(format!("the message is stored, but {status}: it may be lost if that broker is lost now"))),
    }
}

fn message(arguments: &SendArgs, body: &[u8]) -> Message {
    let mut message = Message::new(&arguments.topic, body);
    if let Some(tag) = &arguments.tag {
        message = message.tag(tag);
    }
    if let Some(keys) = &arguments.keys {
        message = message.keys(keys.split_whitespace());
    }
    arguments.properties.iter().fold(message, |message, (name, value)| message.property(name, value))
}

/// RocketMQ's names.
fn status(status: SendStatus) -> &'static str {
    match status {
        SendStatus::Ok => "SEND_OK",
        SendStatus::FlushDiskTimeout => "FLUSH_DISK_TIMEOUT",
        SendStatus::FlushSlaveTimeout => "FLUSH_SLAVE_TIMEOUT",
        SendStatus::SlaveNotAvailable => "SLAVE_NOT_AVAILABLE",
    }
}

fn as_text(sent: &SendResult, status: &str) -> String {
    let SendResult { message_id, queue, queue_offset, .. } = sent;
    format!("{status}  {message_id}  {} queue {} offset {queue_offset}", queue.broker_name, queue.queue_id)
}

fn as_json(sent: &SendResult, status: &str) -> String {
    json!({
        "status": status,
        "messageId": sent.message_id,
        "offsetMessageId": sent.offset_message_id,
        "broker": sent.queue.broker_name,
        "queueId": sent.queue.queue_id,
        "queueOffset": sent.queue_offset,
    })
    .to_string()
}
