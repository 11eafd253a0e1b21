//! Messages whose topic was deleted after they were added to a batch. They are not stored: the topic they were checked
//! for is no more, and the next one of its name may be of another kind.

use super::{AppendBatch, Appended};

impl Appended {
    /// In place of the message of a deleted topic.
    const NOT_STORED: Appended =
        Appended { queue_offset: -1, messages: 0, physical_offset: 0, size: 0, store_timestamp: 0 };

    /// Whether the log has it. If not, its topic was deleted while it was under way.
    pub fn is_stored(&self) -> bool {
        self.size > 0
    }
}

impl AppendBatch {
    /// Takes out what has no queue any more. Under the append lock, under which queues are deleted.
    pub(super) fn leave_out_ended(&mut self) {
        if !self.groups.iter().any(|group| group.queue.is_deleted()) {
            return;
        }
        let (mut message, mut byte, mut hash) = (self.messages.len(), self.bytes.len(), self.hashes.len());
        for group in self.groups.iter().rev() {
            let messages = message - group.len..message;
            let of_group = &self.messages[messages.clone()];
            let bytes = byte - of_group.iter().map(|m| m.size as usize).sum::<usize>()..byte;
            let hashes = hash - of_group.iter().map(|m| m.hash_count as usize).sum::<usize>()..hash;
            (message, byte, hash) = (messages.start, bytes.start, hashes.start);
            if group.queue.is_deleted() {
                self.messages.drain(messages.clone());
                self.bytes.drain(bytes);
                self.hashes.drain(hashes);
                self.left_out.push(messages);
            }
        }
        self.groups.retain(|group| !group.queue.is_deleted());
    }

    /// Gives them a result all the same: each message has one, in order.
    pub(super) fn answer_left_out(&mut self) {
        while let Some(messages) = self.left_out.pop() {
            let none = std::iter::repeat_n(Appended::NOT_STORED, messages.len());
            self.results.splice(messages.start..messages.start, none);
        }
    }
}
