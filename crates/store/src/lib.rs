//! The log store: commit log, consume queues, key index, in the byte formats of RocketMQ 5.5.
//!
//! The commit log is the only truth; queues and index are derived from it. Callers append under one lock
//! (`append.rs`), whoever has time dispatches (`dispatch.rs`), threads flush (`flush.rs`), prepare and make checkpoints
//! (`background.rs`) and delete old files (`retention.rs`). No async, no sockets, no request codes here. Bytes from the disk never panic.

mod ahead;
mod append;
mod background;
mod check;
mod checkpoint;
mod commit_log;
mod compaction;
mod config;
mod damage;
mod dispatch;
mod error;
mod failure;
mod faults;
mod fd_cache;
mod file;
mod flush;
mod handles;
mod index;
mod instance;
mod labels;
mod lives;
mod lmq;
mod mapped;
mod queue;
mod read;
mod recovery;
mod redispatch;
mod repair;
mod retention;
mod snapshot;
mod space;
mod store;

pub use append::{Alike, AppendBatch, Appended};
pub use check::{CheckProgress, Finding, Findings, Kind, Report, Severity, check_store, rebuild_store};
pub use compaction::copied_topics;
pub use config::{FlushMode, StoreConfig};
pub use dispatch::Arrival;
pub use error::{AppendError, OpenError, Reject};
#[doc(hidden)]
pub use faults::{Event, Fault, Faults, Operation};
pub use ferromq_protocol::record::MessageParts;
pub use flush::Durability;
pub use handles::TopicKind;
pub use index::IndexHits;
pub use lmq::offset_in;
pub use queue::{CqEntry, Queue};
pub use read::{Boundary, ReadOutcome, ReadStatus};
pub use store::Store;
