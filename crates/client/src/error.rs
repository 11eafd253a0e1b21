//! What can go wrong, as a program using the client sees it.

use std::time::Duration;

use ferromq_protocol::code;
use ferromq_remoting::InvokeError;

/// An error of the client.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration names no name server.
    #[error("no name server is set, give its address as host:port, several separated by semicolons")]
    NoNameServer,
    /// No name server knows the topic.
    #[error("no route to topic {topic}: no broker has registered it, create the topic or start its broker")]
    NoRoute {
        /// The topic.
        topic: String,
    },
    /// The topic has brokers, but no queue to write to (or to read from).
    #[error("topic {topic} has no queue that can be {wanted}, check its permission and whether a master is alive")]
    NoQueue {
        /// The topic.
        topic: String,
        /// `written` or `read`.
        wanted: &'static str,
    },
    /// The name of a broker without a known address.
    #[error("broker {0} has no known address, it may have stopped since the route was fetched")]
    UnknownBroker(String),
    /// A server answered with another code than success.
    #[error("{addr} answered {code} ({}): {remark}", code_name(*.code))]
    Refused {
        /// Address of the server.
        addr: String,
        /// Response code.
        code: i32,
        /// Its remark.
        remark: String,
    },
    /// No connection, a broken one, or no answer in time.
    #[error("no answer from {addr}: {source}")]
    Unreachable {
        /// Address of the server.
        addr: String,
        /// What happened.
        source: InvokeError,
    },
    /// The whole operation, with its retries, took too long.
    #[error("{what} did not end within {} ms", .after.as_millis())]
    TimedOut {
        /// The operation.
        what: &'static str,
        /// The time-out.
        after: Duration,
    },
    /// The message or an argument is not allowed.
    #[error("{0}")]
    Illegal(String),
    /// An answer that cannot be understood.
    #[error("cannot read the answer of {addr}: {reason}")]
    BadAnswer {
        /// Address of the server.
        addr: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A file of the client.
    #[error("cannot use {path}: {source}")]
    File {
        /// The file.
        path: std::path::PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

fn code_name(code: i32) -> &'static str {
    code::response::name(code).unwrap_or("unknown code")
}

impl Error {
    /// The response code, when a server refused.
    pub fn code(&self) -> Option<i32> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }
}

/// Result of a client call.
pub type Result<T> = std::result::Result<T, Error>;
