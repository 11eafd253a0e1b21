//! Topics marked `degradable` give way under SYNC_FLUSH: while others send, all of them together may have so few bytes on
//! their way to the disk that the syncs the others wait for stay as short as without them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use ferromq_protocol::topic as names;

use super::{InHand, Unflushed};
use crate::handler::Refusal;
use crate::topics::Topic;

/// Most bytes of degradable topics that are in the log and not on the disk while others send. A sync with so many takes
/// hardly longer than one without; of 1 MiB it took seven times as long.
const MAX_BESIDE_OTHERS: u64 = 64 * 1024;
/// So long after a send others are taken to go on.
const OTHERS_GO_ON: Duration = Duration::from_secs(5);
/// Sends of others within this time are noted once: the note is in a cache line that all reactors share.
const NOTE_STEP: Duration = Duration::from_millis(100);

/// What degradable topics have on its way to the disk, and when others sent last.
pub(crate) struct GivingWay {
    unflushed: Arc<Unflushed>,
    /// Some degradable topic is sent to: before that nobody asks when others sent.
    is_needed: AtomicBool,
    begun: Instant,
    /// Milliseconds after `begun` until which others are taken to go on.
    others_until: AtomicU64,
}

impl Default for GivingWay {
    fn default() -> Self {
        Self {
            unflushed: Arc::new(Unflushed::new(MAX_BESIDE_OTHERS)),
            is_needed: AtomicBool::new(false),
            begun: Instant::now(),
            others_until: AtomicU64::new(0),
        }
    }
}

impl GivingWay {
    /// A send to `topic` comes; `flushed`: the log is on the disk up to here.
    pub fn refuse_beside_others(&self, topic: &Topic, in_hand: &InHand, flushed: u64) -> Result<(), Refusal> {
        if !topic.is_degradable() {
            // What clients and the broker write about themselves is no reason to give way.
            if self.is_needed.load(Relaxed) && !names::is_system_topic(topic.name()) {
                self.note_others();
            }
            return Ok(());
        }
        self.is_needed.store(true, Relaxed);
        if self.now() >= self.others_until.load(Relaxed) {
            return Ok(());
        }
        let who = format_args!("topics that give way to others");
        in_hand.refuse_beyond(&self.unflushed, flushed, who, "topic attribute degradable")
    }

    fn note_others(&self) {
        let until = self.now() + OTHERS_GO_ON.as_millis() as u64;
        if until.saturating_sub(self.others_until.load(Relaxed)) >= NOTE_STEP.as_millis() as u64 {
            self.others_until.store(until, Relaxed);
        }
    }

    /// What the bytes of a topic count against.
    pub fn limit_of(&self, topic: &Topic) -> Option<&Arc<Unflushed>> {
        topic.is_degradable().then_some(&self.unflushed)
    }

    fn now(&self) -> u64 {
        self.begun.elapsed().as_millis() as u64
    }
}
