//! What the checker has to say: counts, and every broken promise in words.

use std::fmt;

/// Most violations kept; the others are counted.
pub(crate) const MAX_VIOLATIONS: usize = 100;

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// Acknowledged, and not there. `age` is how long before the last fault it was acknowledged (negative: after it),
    /// nanoseconds.
    Lost { message: u64, queue: u32, offset: i64, age: i64 },
    /// A consumer had it, and it is gone: the consumer's offset is behind a message that others may never get.
    Vanished { message: u64, queue: u32, offset: i64 },
    /// One place of a queue stood for two messages.
    OffsetUsedTwice { queue: u32, offset: i64, first: u64, second: u64 },
    /// A message was sent once and stands at two places.
    Duplicated { message: u64, first: (u32, i64), second: (u32, i64) },
    /// `later` was sent after `earlier` and stands before it.
    Reordered { queue: u32, earlier: u64, later: u64 },
    /// The end of a queue went back.
    WentBack { queue: u32, was: i64, is: i64 },
    /// A message that nobody sent.
    NeverSent { queue: u32, offset: i64, message: u64 },
    /// Bytes that no test wrote: a damaged or foreign body.
    Damaged { queue: u32, offset: i64 },
    /// The producer was told that it is not stored, and it is.
    RefusedButStored { message: u64, queue: u32, offset: i64 },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Lost { message, queue, offset, age } => {
                let ms = age.unsigned_abs() / 1_000_000;
                let when = if age < 0 { "after" } else { "before" };
                write!(
                    f,
                    "lost: message {message}, acknowledged at queue {queue} offset {offset} {ms} ms {when} the fault"
                )
            }
            Self::Vanished { message, queue, offset } => {
                write!(f, "vanished: message {message} was delivered from queue {queue} offset {offset} and is gone")
            }
            Self::OffsetUsedTwice { queue, offset, first, second } => {
                write!(f, "offset used twice: queue {queue} offset {offset} stood for message {first}, then {second}")
            }
            Self::Duplicated { message, first, second } => {
                write!(f, "duplicated: message {message} stands at {first:?} and {second:?} (queue, offset)")
            }
            Self::Reordered { queue, earlier, later } => {
                write!(f, "reordered: queue {queue} has message {later} before {earlier}, which was sent first")
            }
            Self::WentBack { queue, was, is } => write!(f, "queue {queue} ended at {was} and ends at {is} now"),
            Self::NeverSent { queue, offset, message } => {
                write!(f, "never sent: message {message} at queue {queue} offset {offset}")
            }
            Self::Damaged { queue, offset } => write!(f, "damaged: the body at queue {queue} offset {offset}"),
            Self::RefusedButStored { message, queue, offset } => {
                write!(f, "refused but stored: message {message} at queue {queue} offset {offset}")
            }
        }
    }
}

/// Counts of a history, and what is wrong with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub acked: u64,
    pub refused: u64,
    pub unknown: u64,
    /// Deliveries to consumers, and those of them that came again to the same consumer.
    pub delivered: u64,
    pub delivered_again: u64,
    pub faults: u64,
    /// Acknowledged messages that are gone and must not be.
    pub lost: u64,
    /// Acknowledged messages that faults took back and were allowed to.
    pub lost_within_window: u64,
    /// How long before its fault the oldest of the messages taken back was acknowledged, nanoseconds, allowed or not.
    pub loss_window: u64,
    /// Broken promises, the first of them.
    pub violations: Vec<Violation>,
    /// How many there are in all.
    pub violation_count: u64,
}

impl Report {
    pub(crate) fn add(&mut self, violation: Violation) {
        self.violation_count += 1;
        self.lost += u64::from(matches!(violation, Violation::Lost { .. }));
        if self.violations.len() < MAX_VIOLATIONS {
            self.violations.push(violation);
        }
    }

    /// Whether every promise was kept.
    pub fn is_clean(&self) -> bool {
        self.violation_count == 0
    }
}

/// The counts, and the first violations.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 10;
        write!(
            f,
            "{} acknowledged, {} refused, {} unknown, {} faults, {} violations",
            self.acked, self.refused, self.unknown, self.faults, self.violation_count
        )?;
        self.violations.iter().take(SHOWN).try_for_each(|violation| write!(f, "\n  {violation}"))?;
        if self.violation_count > SHOWN as u64 {
            write!(f, "\n  and {} more", self.violation_count - SHOWN as u64)?;
        }
        Ok(())
    }
}
