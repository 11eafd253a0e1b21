//! Messages of one queue that were handed out together: which they are, and which of them are acknowledged.

use ferromq_protocol::pop::MAX_MESSAGES;

const _: () = assert!(MAX_MESSAGES <= u32::BITS as usize, "a check point has a bit for each message");

/// First queue offset and time of a pop: what names a check point of a queue in handles.
pub(crate) type Key = (i64, i64);

/// Messages of one queue that were handed out together.
#[derive(Clone, Debug)]
pub(crate) struct CheckPoint {
    /// Where its record stands in the revive topic.
    pub revive_queue: u32,
    pub revive_offset: i64,
    /// When it is worked off, milliseconds since 1970.
    pub due: i64,
    /// Number of messages.
    pub count: u32,
    /// A bit for each acknowledged message.
    pub acked: u32,
    /// Distance of each message from the first offset; `None` when they follow each other.
    pub diffs: Option<Box<[i32]>>,
}

impl CheckPoint {
    /// The check point of messages handed out.
    pub fn new((start, _): Key, revive_queue: u32, revive_offset: i64, due: i64, offsets: &[i64]) -> Self {
        let in_a_row = (start..).zip(offsets).all(|(expected, offset)| expected == *offset);
        let diffs = || offsets.iter().map(|offset| (offset - start) as i32).collect();
        let count = offsets.len() as u32;
        Self { revive_queue, revive_offset, due, count, acked: 0, diffs: (!in_a_row).then(diffs) }
    }

    /// Which of the messages has this offset.
    pub fn index(&self, start: i64, offset: i64) -> Option<u32> {
        let diff = offset.checked_sub(start)?;
        let index = match &self.diffs {
            None => u32::try_from(diff).ok()?,
            Some(diffs) => diffs.iter().position(|d| i64::from(*d) == diff)? as u32,
        };
        (index < self.count).then_some(index)
    }

    /// Whether nobody acknowledged a message.
    pub fn is_waiting(&self, index: u32) -> bool {
        self.acked & (1 << index) == 0
    }

    /// How many messages nobody acknowledged.
    pub fn waiting_count(&self) -> usize {
        (self.count - self.acked.count_ones().min(self.count)) as usize
    }

    /// Offsets of the messages that nobody acknowledged.
    pub fn waiting(&self, start: i64) -> Vec<i64> {
        let offset = |index: u32| match &self.diffs {
            None => start + i64::from(index),
            Some(diffs) => start + diffs.get(index as usize).map_or(0, |diff| i64::from(*diff)),
        };
        (0..self.count).filter(|index| self.is_waiting(*index)).map(offset).collect()
    }
}
