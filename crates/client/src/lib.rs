//! The Rust client of FerroMQ and Apache RocketMQ: producers, consumers and admin calls over the remoting protocol.
//!
//! ```no_run
//! use ferromq_client::{Ack, Client, ClientConfig, Message, SendStatus, Subscription};
//!
//! # async fn run() -> ferromq_client::Result<()> {
//! let client = Client::new(ClientConfig::new("127.0.0.1:9876"))?;
//! let producer = client.producer("orders-producer")?;
//! let sent = producer.send(&Message::new("orders", "one more").tag("new")).await?;
//! if sent.status != SendStatus::Ok {
//!     println!("{} is stored, but not as safe as was asked for: {:?}", sent.message_id, sent.status);
//! }
//!
//! let consumer = client
//!     .consumer("billing")
//!     .subscribe("orders", Subscription::tags("new || changed"))
//!     .start(|message| async move {
//!         println!("{}: {} bytes", message.message_id(), message.body.len());
//!         Ack::Done
//!     })
//!     .await?;
//! consumer.shutdown().await;
//! client.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! One [`Client`] per process is enough: everything made from it shares one pipelined connection per broker. All calls are
//! asynchronous on the caller's tokio runtime, which needs the `net` and `time` drivers.

#![warn(missing_docs)]

mod admin;
mod backlog;
mod client;
mod config;
mod consumer;
mod decode;
mod error;
mod filter;
mod heartbeat;
mod lock;
mod message;
mod producer;
mod producer_config;
mod pull;
mod queue_task;
mod rebalance;
mod relay;
mod route;
mod server_calls;

pub use admin::{Admin, TopicSettings};
pub use backlog::{Backlog, QueueBacklog};
pub use client::{Client, MAX_CACHED_TOPICS};
pub use config::ClientConfig;
pub use consumer::{Ack, ConsumeFrom, Consumer, ConsumerBuilder, ConsumerConfig};
pub use error::{Error, Result};
pub use ferromq_protocol::body::{ClusterInfo, TopicList, TopicRouteData};
pub use filter::Subscription;
pub use message::{MAX_BODY_BYTES, Message, MessageQueue, ReceivedMessage};
pub use producer::{Producer, SendResult, SendStatus};
pub use producer_config::ProducerConfig;
pub use pull::{MAX_PULL_MESSAGES, PullConsumer, PullResult, PullStatus};
pub use relay::BrokerQueues;
pub use server_calls::{BrokerCall, LiteTopicTaken, TransactionCheck};
