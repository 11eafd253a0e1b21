//! One entry of a consume queue and how it stands in the files: 20 bytes of a simple queue (RocketMQ 5.5 `ConsumeQueue`,
//! `queue.type=SimpleCQ`), 46 bytes of a batch queue (`BatchConsumeQueue`, `queue.type=BatchCQ`).
//!
//! In a simple queue each entry is one message and stands at the place its offset gives. In a batch queue an entry may
//! be several messages that are one record, and says itself at which offset it begins: a place is found by searching.

/// Bytes of the larger unit.
pub(crate) const MAX_UNIT: usize = 46;
/// Size field of filler entries before the first message of a simple queue that does not begin at 0.
const BLANK_SIZE: i32 = i32::MAX;
/// What a batch queue has behind the number of messages: no offset in a compacted file, and a reserved 0.
const BATCH_REST: [u8; 8] = [0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0];

/// How a queue's entries stand in its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Simple,
    Batch,
}

impl Kind {
    pub const ALL: [Kind; 2] = [Kind::Simple, Kind::Batch];

    /// Bytes of one entry.
    pub const fn unit(self) -> usize {
        match self {
            Kind::Simple => 20,
            Kind::Batch => MAX_UNIT,
        }
    }

    /// Folder of the queues of this kind, in the store's.
    pub const fn folder(self) -> &'static str {
        match self {
            Kind::Simple => "consumequeue",
            Kind::Batch => "batchconsumequeue",
        }
    }

    /// The setting that tells how large their files are.
    pub const fn file_size_key(self) -> &'static str {
        match self {
            Kind::Simple => "mappedFileSizeConsumeQueue",
            Kind::Batch => "mapperFileSizeBatchConsumeQueue",
        }
    }

    /// The entry that stands in `bytes` as the `index`-th of its queue.
    pub fn decode(self, bytes: &[u8], index: i64) -> CqEntry {
        let long = |at: usize| bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |b| i64::from_be_bytes(*b));
        let size = bytes.get(8..).and_then(<[u8]>::first_chunk).map_or(0, |b| i32::from_be_bytes(*b));
        let simple = CqEntry {
            queue_offset: index,
            messages: 1,
            physical_offset: long(0),
            size,
            tags_code: long(12),
            store_timestamp: 0,
        };
        match self {
            Kind::Simple => simple,
            Kind::Batch => {
                let messages = bytes.get(36..).and_then(<[u8]>::first_chunk).map_or(0, |b| i16::from_be_bytes(*b));
                CqEntry { queue_offset: long(28), messages, store_timestamp: long(20), ..simple }
            }
        }
    }
}

/// One entry of a consume queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CqEntry {
    /// Offset of its first message in the queue.
    pub queue_offset: i64,
    /// Messages its record holds; more than one only in a batch queue.
    pub messages: i16,
    /// Position of the record in the log, bytes.
    pub physical_offset: i64,
    /// Bytes of the record.
    pub size: i32,
    /// Hash of the tag, 0 without one; delivery time in the schedule topic.
    pub tags_code: i64,
    /// When it was stored, milliseconds since 1970. Simple queues do not say: 0.
    pub(crate) store_timestamp: i64,
}

impl CqEntry {
    pub(super) fn blank() -> Self {
        let (queue_offset, messages, physical_offset, size) = (0, 1, 0, BLANK_SIZE);
        Self { queue_offset, messages, physical_offset, size, tags_code: 0, store_timestamp: 0 }
    }

    pub(crate) fn is_blank(&self) -> bool {
        self.physical_offset == 0 && self.size == BLANK_SIZE
    }

    pub(crate) fn is_written(&self) -> bool {
        self.physical_offset >= 0 && self.size > 0 && self.queue_offset >= 0 && self.messages > 0
    }

    /// Offset behind its last message.
    pub fn end(&self) -> i64 {
        self.queue_offset.saturating_add(i64::from(self.messages))
    }

    /// Whether it can stand behind `before`: a queue's records lie in the log in its order. An entry that was torn by a
    /// power cut has lost bytes of its position.
    pub(super) fn follows(&self, before: &CqEntry) -> bool {
        let is_behind = before.physical_offset < self.physical_offset && before.end() <= self.queue_offset;
        before.is_written() && (self.is_blank() || before.is_blank() || is_behind)
    }

    /// Appends the bytes that stand for it.
    #[inline]
    pub(crate) fn encode(&self, kind: Kind, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.physical_offset.to_be_bytes());
        out.extend_from_slice(&self.size.to_be_bytes());
        out.extend_from_slice(&self.tags_code.to_be_bytes());
        if kind == Kind::Batch {
            out.extend_from_slice(&self.store_timestamp.to_be_bytes());
            out.extend_from_slice(&self.queue_offset.to_be_bytes());
            out.extend_from_slice(&self.messages.to_be_bytes());
            out.extend_from_slice(&BATCH_REST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_stand_where_rocketmq_looks_for_them() {
        let entry = CqEntry {
            queue_offset: 7,
            messages: 5,
            physical_offset: 4096,
            size: 300,
            tags_code: -3,
            store_timestamp: 1_700_000_000_000,
        };
        let mut bytes = Vec::new();
        entry.encode(Kind::Batch, &mut bytes);
        assert_eq!(bytes.len(), Kind::Batch.unit());
        assert_eq!(bytes[12..20], (-3_i64).to_be_bytes());
        assert_eq!(bytes[20..28], 1_700_000_000_000_i64.to_be_bytes());
        assert_eq!(bytes[28..36], 7_i64.to_be_bytes());
        assert_eq!(bytes[36..], [0, 5, 255, 255, 255, 255, 0, 0, 0, 0]);
        assert_eq!(Kind::Batch.decode(&bytes, 99), entry);
        let mut simple = Vec::new();
        entry.encode(Kind::Simple, &mut simple);
        assert_eq!(simple, bytes[..20]);
        let read = Kind::Simple.decode(&simple, 9);
        assert_eq!((read.queue_offset, read.end(), read.physical_offset, read.size), (9, 10, 4096, 300));
    }
}
