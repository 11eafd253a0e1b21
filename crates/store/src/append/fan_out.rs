//! A batch with messages that stand in light queues too, as dispatch takes it: each message, and behind it one item for
//! each of its further places.

use super::AppendBatch;
use crate::dispatch::{Group, Item};

impl AppendBatch {
    /// Takes the messages out, each with its further places behind it.
    pub(super) fn fan_out(&mut self) -> (Vec<Group>, Vec<Item>) {
        let (mut groups, mut items) = (Vec::new(), Vec::new());
        let queues = self.groups.drain(..).flat_map(|group| std::iter::repeat_n(group.queue, group.len));
        for ((message, at), queue) in self.messages.drain(..).zip(&self.results).zip(queues) {
            let item = message.item(at);
            groups.push(Group { queue, len: 1 });
            items.push(item);
            for (queue, offset) in message.lights.into_iter().flat_map(|lights| lights.places) {
                groups.push(Group { queue, len: 1 });
                items.push(item.in_light(offset));
            }
        }
        (groups, items)
    }
}
