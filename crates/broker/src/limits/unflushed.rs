//! How many bytes of one topic, one connection or one producer group may be in the log without being on the disk: whoever
//! sends faster than the disk takes holds up itself only.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use ferromq_protocol::code::response;
use parking_lot::Mutex;

use crate::handler::Refusal;

/// Most parts that are told apart; beyond it the newest takes in what comes.
const MAX_PARTS: usize = 1024;

/// One such limit, and what counts against it.
#[derive(Debug)]
pub struct Unflushed {
    most: u64,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    bytes: u64,
    /// Where parts end in the log, and their bytes.
    parts: VecDeque<(u64, u64)>,
}

impl Unflushed {
    /// A limit of `most` bytes.
    pub fn new(most: u64) -> Self {
        Self { most, waiting: Mutex::default() }
    }

    /// A limit of `most` bytes, `None` for 0. One of the same size goes on.
    pub fn of(most: u64, before: Option<&Arc<Self>>) -> Option<Arc<Self>> {
        match before {
            _ if most == 0 => None,
            Some(limit) if limit.most == most => Some(Arc::clone(limit)),
            _ => Some(Arc::new(Self::new(most))),
        }
    }

    /// The limit that an attribute sets.
    pub fn of_attribute(
        attributes: &BTreeMap<String, String>,
        name: &str,
        before: Option<&Arc<Self>>,
    ) -> Option<Arc<Self>> {
        Self::of(attributes.get(name)?.parse().ok()?, before)
    }

    /// Bytes that have been appended and end before `end`.
    pub fn appended(&self, bytes: u64, end: u64) {
        let mut waiting = self.waiting.lock();
        waiting.bytes += bytes;
        let is_full = waiting.parts.len() >= MAX_PARTS;
        match waiting.parts.back_mut().filter(|last| is_full || last.0 == end) {
            Some(last) => *last = (end.max(last.0), last.1 + bytes),
            None => waiting.parts.push_back((end, bytes)),
        }
    }

    /// How many of them are not on the disk, which has the log up to `flushed`.
    pub fn waiting(&self, flushed: u64) -> u64 {
        let mut waiting = self.waiting.lock();
        while let Some((_, bytes)) = waiting.parts.pop_front_if(|(end, _)| *end <= flushed) {
            waiting.bytes -= bytes;
        }
        waiting.bytes
    }
}

/// Messages that are about to be appended together, by the limits they count against.
#[derive(Default)]
pub(crate) struct InHand(Vec<(Arc<Unflushed>, u64)>);

impl InHand {
    /// Refuses a send while the limit is reached. One message always passes when none waits, so that no limit is too
    /// small for a message.
    pub fn refuse_beyond(
        &self,
        limit: &Arc<Unflushed>,
        flushed: u64,
        who: fmt::Arguments<'_>,
        setting: &str,
    ) -> Result<(), Refusal> {
        let in_hand: u64 = self.0.iter().filter(|(other, _)| Arc::ptr_eq(other, limit)).map(|(_, bytes)| bytes).sum();
        let waiting = limit.waiting(flushed) + in_hand;
        if waiting < limit.most {
            return Ok(());
        }
        let remark = format!(
            "[FLOW_CONTROL]{waiting} bytes of {who} are not on the disk yet, {} may be ({setting}): retry later",
            limit.most
        );
        Err(Refusal::new(response::SYSTEM_BUSY, remark))
    }

    /// A message joins.
    pub fn add(&mut self, limit: &Arc<Unflushed>, bytes: u64) {
        match self.0.iter_mut().find(|(other, _)| Arc::ptr_eq(other, limit)) {
            Some((_, sum)) => *sum += bytes,
            None => self.0.push((Arc::clone(limit), bytes)),
        }
    }

    /// All are appended and end before `end`.
    pub fn appended(&mut self, end: u64) {
        self.0.drain(..).for_each(|(limit, bytes)| limit.appended(bytes, end));
    }

    /// None is.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_the_disk_counts_no_longer() {
        let limit = Unflushed::of(100, None).unwrap();
        let mut in_hand = InHand::default();
        let is_refused =
            |in_hand: &InHand, flushed| in_hand.refuse_beyond(&limit, flushed, format_args!("T"), "x").is_err();
        assert!(!is_refused(&in_hand, 0));
        in_hand.add(&limit, 60);
        in_hand.add(&limit, 60);
        assert!(is_refused(&in_hand, 0), "what is about to be appended counts");
        in_hand.appended(500);
        assert!(is_refused(&in_hand, 499) && !is_refused(&in_hand, 500));
        in_hand.add(&limit, 1000);
        in_hand.clear();
        assert_eq!(limit.waiting(500), 0, "what was not appended does not count");
    }

    #[test]
    fn the_number_of_parts_is_bounded_and_none_is_lost() {
        let limit = Unflushed::of(1, None).unwrap();
        let parts = MAX_PARTS as u64 + 10;
        (1..=parts).for_each(|end| limit.appended(1, end));
        assert_eq!(limit.waiting.lock().parts.len(), MAX_PARTS);
        assert_eq!(limit.waiting(0), parts);
        assert_eq!(limit.waiting(parts - 1), 11, "the last part has what there was no place for");
        assert_eq!(limit.waiting(parts), 0);
    }

    #[test]
    fn a_limit_of_the_same_size_goes_on() {
        let limit = Unflushed::of(5, None).unwrap();
        assert!(Arc::ptr_eq(&limit, &Unflushed::of(5, Some(&limit)).unwrap()));
        assert!(!Arc::ptr_eq(&limit, &Unflushed::of(6, Some(&limit)).unwrap()));
        assert!(Unflushed::of(0, Some(&limit)).is_none());
    }
}
