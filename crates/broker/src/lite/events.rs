//! The lite topics in which messages wait for one client (RocketMQ's `ClientEventSet`).

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A client with noted topics that has not asked for this long gives them to others.
const INACTIVE: Duration = Duration::from_secs(10);
/// Such a client is the last to be told for this long.
const AVOIDED: Duration = Duration::from_secs(10);
/// A client that has asked within this time is counted.
const ACTIVE: Duration = Duration::from_secs(35);

/// Names of queues, each once, in the order their messages came.
#[derive(Debug)]
pub(super) struct Events {
    line: VecDeque<Arc<str>>,
    noted: HashSet<Arc<str>>,
    /// There was no room: some of its queues wait without being noted.
    pub overflowed: bool,
    /// When the client last asked, and the same in milliseconds since 1970.
    asked: Instant,
    pub asked_ms: i64,
    /// When it last got something to look at, milliseconds since 1970.
    pub consumed_ms: i64,
    avoided_until: Option<Instant>,
}

impl Events {
    pub fn new(now: Instant) -> Self {
        Events {
            line: VecDeque::new(),
            noted: HashSet::new(),
            overflowed: false,
            asked: now,
            asked_ms: -1,
            consumed_ms: 0,
            avoided_until: None,
        }
    }

    /// Notes a queue, unless `max` are noted.
    pub fn offer(&mut self, queue: &Arc<str>, max: usize) -> bool {
        if self.noted.contains(queue) {
            return true;
        }
        if self.line.len() >= max {
            self.overflowed = true;
            return false;
        }
        self.line.push_back(Arc::clone(queue));
        self.noted.insert(Arc::clone(queue))
    }

    /// The client asks.
    pub fn asks(&mut self, now: Instant, now_ms: i64) {
        (self.asked, self.asked_ms, self.avoided_until) = (now, now_ms, None);
    }

    /// The next queue to look at.
    pub fn next(&mut self) -> Option<Arc<str>> {
        let queue = self.line.pop_front()?;
        self.noted.remove(&queue);
        self.consumed_ms = self.asked_ms;
        Some(queue)
    }

    /// The queues that are looked at next.
    pub fn ahead(&self) -> impl Iterator<Item = &Arc<str>> {
        self.line.iter()
    }

    pub fn is_empty(&self) -> bool {
        self.line.is_empty()
    }

    pub fn forget(&mut self, queue: &str) {
        if self.noted.remove(queue) {
            self.line.retain(|noted| **noted != *queue);
        }
    }

    /// Takes all.
    pub fn take(&mut self) -> VecDeque<Arc<str>> {
        self.noted.clear();
        std::mem::take(&mut self.line)
    }

    /// Puts back what was taken.
    pub fn restore(&mut self, taken: VecDeque<Arc<str>>) {
        self.noted = taken.iter().cloned().collect();
        self.line = taken;
    }

    /// Whether somebody else had better look, which from now on is so for a while.
    pub fn gives_up(&mut self, now: Instant) -> bool {
        let gives_up = !self.is_empty() && now.saturating_duration_since(self.asked) > INACTIVE;
        if gives_up {
            self.avoided_until = Some(now + AVOIDED);
        }
        gives_up
    }

    pub fn is_avoided(&self, now: Instant) -> bool {
        self.avoided_until.is_some_and(|until| now < until)
    }

    /// Whether the client has something to look at or has asked of late.
    pub fn is_active(&self, now: Instant) -> bool {
        !self.is_empty() || now.saturating_duration_since(self.asked) < ACTIVE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_noted_once_and_no_more_than_there_is_room_for() {
        let now = Instant::now();
        let mut events = Events::new(now);
        let names: Vec<Arc<str>> = ["a", "b", "c"].map(Arc::from).into();
        assert!(events.offer(&names[0], 2) && events.offer(&names[0], 2) && events.offer(&names[1], 2));
        assert!(!events.offer(&names[2], 2) && events.overflowed);
        assert!(events.offer(&names[1], 2), "noted already");
        events.forget("a");
        assert_eq!((events.next().as_deref(), events.next()), (Some("b"), None));
    }

    #[test]
    fn who_does_not_ask_gives_up_and_is_avoided_until_it_asks() {
        let now = Instant::now();
        let late = now + INACTIVE + Duration::from_millis(1);
        let mut events = Events::new(now);
        assert!(!events.gives_up(late), "nothing to give");
        events.offer(&"a".into(), 2);
        assert!(!events.gives_up(now) && events.gives_up(late));
        assert!(events.is_avoided(late) && !events.is_avoided(late + AVOIDED));
        events.asks(late, 5);
        assert!(!events.is_avoided(late));
    }
}
