//! What clients see of a topic, and which of its queues a message goes to (`MessageQueueView`, `SendMessageActivity`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use ferromq_protocol::java;
use ferromq_protocol::sys_flag::perm;

use crate::pb::{Code, MessageType};
use crate::status::Refused;

/// Whose turn it is, by hash of a name: a topic whose messages go to its queues, a group that receives from brokers.
static TURNS: [AtomicU32; 256] = [const { AtomicU32::new(0) }; 256];

fn turn(name: &str) -> usize {
    let at = java::string_hash(name).unsigned_abs() as usize % TURNS.len();
    TURNS[at].fetch_add(1, Ordering::Relaxed) as usize
}

/// A topic on the brokers that have it, sorted by their names.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Topic {
    /// Attribute `message.type`.
    pub message_type: Option<String>,
    pub brokers: Vec<Share>,
}

/// The queues of a topic on one broker.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Share {
    pub broker: Arc<str>,
    pub perm: i32,
    pub read: i32,
    pub write: i32,
}

impl Topic {
    /// The kinds of messages it takes.
    pub fn accepted(&self) -> &'static [MessageType] {
        match self.message_type.as_deref() {
            None | Some("NORMAL") => &[MessageType::Normal],
            Some("FIFO") => &[MessageType::Fifo],
            Some("DELAY") => &[MessageType::Delay],
            Some("TRANSACTION") => &[MessageType::Transaction],
            Some("PRIORITY") => &[MessageType::Priority],
            Some("LITE") => &[MessageType::Lite],
            Some("MIXED") => &[MessageType::Normal, MessageType::Fifo, MessageType::Delay, MessageType::Transaction],
            Some(_) => &[MessageType::Unspecified],
        }
    }

    /// The queue of a message group, the same as long as the queues are the same.
    pub fn queue_of_group(&self, group: &str) -> Result<(&str, i32), Refused> {
        let all = self.brokers.iter().filter(|share| share.is_written());
        let buckets = all.clone().map(|share| share.write).fold(0, i32::saturating_add);
        let bucket = if buckets == 0 { 0 } else { consistent_hash(i64::from(java::string_hash(group)), buckets) };
        nth(all, bucket.unsigned_abs() as usize)
    }

    /// The next queue, of a broker that is not avoided if there is one.
    pub fn queue_in_turn(&self, name: &str, avoided: impl Fn(&str) -> bool) -> Result<(&str, i32), Refused> {
        let all = self.brokers.iter().filter(|share| share.is_written());
        let good = all.clone().filter(|share| !avoided(&share.broker));
        let turn = turn(name);
        match count(good.clone()) {
            0 => nth(all.clone(), turn % count(all).max(1)),
            queues => nth(good, turn % queues),
        }
    }

    /// The broker a group receives from: the one that is asked for if it has the topic, or the next one.
    pub fn reader(&self, group: &str, wanted: &str, avoided: impl Fn(&str) -> bool) -> Result<&str, Refused> {
        let all = self.brokers.iter().filter(|share| perm::is_readable(share.perm) && share.read > 0);
        if let Some(share) = all.clone().find(|share| *share.broker == *wanted) {
            return Ok(&share.broker);
        }
        let good = all.clone().filter(|share| !avoided(&share.broker));
        let turn = turn(group);
        let found = match good.clone().count() {
            0 => all.clone().nth(turn % all.count().max(1)),
            brokers => good.clone().nth(turn % brokers),
        };
        found.map(|share| &*share.broker).ok_or_else(|| forbidden("read"))
    }
}

impl Share {
    fn is_written(&self) -> bool {
        perm::is_writeable(self.perm) && self.write > 0
    }
}

fn count<'t>(shares: impl Iterator<Item = &'t Share>) -> usize {
    shares.map(|share| share.write.unsigned_abs() as usize).sum()
}

/// The broker and number of the queue that has this place among all of them.
fn nth<'t>(shares: impl Iterator<Item = &'t Share>, mut place: usize) -> Result<(&'t str, i32), Refused> {
    for share in shares {
        let queues = share.write.unsigned_abs() as usize;
        if place < queues {
            return Ok((&share.broker, place as i32));
        }
        place -= queues;
    }
    Err(forbidden("written"))
}

fn forbidden(what: &str) -> Refused {
    Refused::new(Code::Forbidden, format!("the topic has no queue that can be {what}"))
}

/// The bucket of a key: few keys move when buckets are added (Guava's `Hashing.consistentHash`, which RocketMQ's proxy
/// uses; messages of a group must go where they went before).
fn consistent_hash(key: i64, buckets: i32) -> i32 {
    let (mut state, mut candidate) = (key, 0_i32);
    loop {
        state = state.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
        let fraction = f64::from(((state as u64) >> 33) as i32 + 1) / f64::from(2.0_f32).powi(31);
        let next = (f64::from(candidate + 1) / fraction) as i32;
        if !(0..buckets).contains(&next) {
            return candidate;
        }
        candidate = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(brokers: &[(&str, i32, i32)]) -> Topic {
        let share = |(name, perm, queues): &(&str, i32, i32)| Share {
            broker: (*name).into(),
            perm: *perm,
            read: *queues,
            write: *queues,
        };
        Topic { message_type: None, brokers: brokers.iter().map(share).collect() }
    }

    #[test]
    fn groups_go_to_the_queues_that_guava_chooses() {
        // Hashing.consistentHash(key.hashCode(), 8) of Guava 32.
        for key in ["", "a", "order-1", "order-2"] {
            let hash = i64::from(java::string_hash(key));
            assert!((0..8).contains(&consistent_hash(hash, 8)));
            assert_eq!(consistent_hash(hash, 1), 0);
        }
    }

    #[test]
    fn messages_go_to_all_queues_in_turn_and_around_a_broker_that_failed() {
        let topic = topic(&[("a", 6, 2), ("b", 6, 3), ("readonly", 4, 4)]);
        let mut used: Vec<_> = (0..5).map(|_| topic.queue_in_turn("turns", |_| false).unwrap()).collect();
        used.sort_unstable();
        assert_eq!(used, [("a", 0), ("a", 1), ("b", 0), ("b", 1), ("b", 2)]);
        assert!((0..9).all(|_| topic.queue_in_turn("turns", |broker| broker == "b").unwrap().0 == "a"));
        assert!(topic.queue_in_turn("turns", |_| true).is_ok(), "a bad broker is better than none");
        let group = topic.queue_of_group("order-1").unwrap();
        assert!((0..9).all(|_| topic.queue_of_group("order-1").unwrap() == group));
    }

    #[test]
    fn receivers_get_the_broker_they_name_or_the_next() {
        let topic = topic(&[("a", 6, 2), ("b", 4, 3), ("writeonly", 2, 4)]);
        assert_eq!(topic.reader("readers", "b", |_| true).unwrap(), "b");
        assert!((0..9).all(|_| topic.reader("readers", "writeonly", |broker| broker == "b").unwrap() == "a"));
        assert!((0..9).any(|_| topic.reader("readers", "", |_| false).unwrap() == "b"));
    }

    #[test]
    fn a_topic_without_queues_is_refused() {
        for topic in [topic(&[]), topic(&[("a", 4, 0)]), topic(&[("a", 0, 4)])] {
            assert_eq!(topic.queue_in_turn("none", |_| false).unwrap_err().code, Code::Forbidden);
            assert_eq!(topic.queue_of_group("g").unwrap_err().code, Code::Forbidden);
            assert_eq!(topic.reader("none", "a", |_| false).unwrap_err().code, Code::Forbidden);
        }
    }
}
