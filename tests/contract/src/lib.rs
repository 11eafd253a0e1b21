//! The harness of the contract tests: it starts and stops servers (ours, and the Apache RocketMQ 5.5 Java server as the
//! reference), drives the official clients through small driver programs, and speaks the remoting protocol itself where
//! a client would hide what the server does. It shares no code with the servers: a format that is wrong in one place
//! must not look right because the test reads it with the same mistake.

mod client;
pub mod cluster;
pub mod driver;
pub mod flood;
pub mod inject;
mod java;
pub mod load;
pub mod owners;
mod ports;
pub mod proxy;
pub mod record;
pub mod runner;
pub mod server;
pub mod tools;
pub mod volume;
pub mod wire;

use std::fmt;
use std::time::{Duration, Instant};

/// Why a case did not pass.
#[derive(Debug, Clone)]
pub enum Stop {
    /// The behaviour is wrong.
    Failed(String),
    /// Something the case needs is missing on this machine.
    Skipped(String),
}

/// What a case, or a step of one, comes to.
pub type Outcome<T = ()> = Result<T, Stop>;

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stop::Failed(why) => write!(f, "{why}"),
            Stop::Skipped(why) => write!(f, "skipped: {why}"),
        }
    }
}

impl From<String> for Stop {
    fn from(why: String) -> Self {
        Stop::Failed(why)
    }
}

impl From<&str> for Stop {
    fn from(why: &str) -> Self {
        Stop::Failed(why.to_owned())
    }
}

impl From<std::io::Error> for Stop {
    fn from(error: std::io::Error) -> Self {
        Stop::Failed(error.to_string())
    }
}

/// Adds what was being done to an error.
pub trait While<T> {
    /// `what` reads as "sending the first message".
    fn doing(self, what: impl fmt::Display) -> Outcome<T>;
}

impl<T, E: Into<Stop>> While<T> for Result<T, E> {
    fn doing(self, what: impl fmt::Display) -> Outcome<T> {
        self.map_err(|e| match e.into() {
            Stop::Failed(why) => Stop::Failed(format!("{what}: {why}")),
            skipped => skipped,
        })
    }
}

/// Fails the case with a formatted reason unless the condition holds.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($reason:tt)+) => {
        if !$condition {
            return Err($crate::Stop::Failed(format!($($reason)+)));
        }
    };
}

/// Fails the case unless both values are equal, and shows them.
#[macro_export]
macro_rules! ensure_eq {
    ($left:expr, $right:expr, $($reason:tt)+) => {
        // A match keeps temporaries of both sides alive.
        match (&$left, &$right) {
            (left, right) => {
                if left != right {
                    return Err($crate::Stop::Failed(format!(
                        "{}: got {left:?}, expected {right:?}",
                        format!($($reason)+)
                    )));
                }
            }
        }
    };
}

/// Polls until the closure gives a value, at most for `limit`.
pub fn wait_for<T>(
    limit: Duration,
    what: impl fmt::Display,
    mut probe: impl FnMut() -> Outcome<Option<T>>,
) -> Outcome<T> {
    let start = Instant::now();
    loop {
        if let Some(found) = probe()? {
            return Ok(found);
        }
        if start.elapsed() > limit {
            return Err(Stop::Failed(format!("{what}: not within {} s", limit.as_secs_f32())));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A number from the environment, for the scale of a case.
pub fn scale(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.replace('_', "").parse().ok()).unwrap_or(otherwise)
}

/// Numbers that follow from a seed, which is not zero (xorshift).
pub struct Dice(pub u64);

impl Dice {
    /// The next one below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) % limit
    }
}
