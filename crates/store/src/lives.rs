//! The end of a topic: its queues go, its records stay in the log until that expires. A topic of the same name that is
//! made again begins a new life at offset 0, and no queue ever holds messages of two lives: all records of one stand
//! before all of the next, because the end is taken under the append lock. What is in flight then is not stored
//! (`append/ended.rs`), and what waits for dispatch stays with the queues that were.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use crate::append;
use crate::file;
use crate::queue::{Kind, Queue};
use crate::store::{Inner, Queues};

/// Topics that ended while dispatch was behind: where in the log, and the queues they had. At most one for each deletion
/// under way, which waits until dispatch is beyond it.
#[derive(Default)]
pub(crate) struct Ended(HashMap<Box<str>, (u64, Queues)>);

impl Ended {
    fn note(&mut self, topic: &str, end: u64, queues: &Queues) {
        let (until, all) = self.0.entry(topic.into()).or_default();
        *until = end;
        all.extend(queues.iter().map(|(id, queue)| (*id, Arc::clone(queue))));
    }

    /// Nothing before `position` is dispatched any more.
    pub fn forget_before(&mut self, position: u64) {
        self.0.retain(|_, (until, _)| *until > position);
    }
}

impl Inner {
    /// The queue that a record at `position` is for: of a topic that ended behind it the one that was, which takes nothing.
    pub fn queue_at(&self, ended: &Ended, topic: &str, id: u32, position: u64) -> Option<Arc<Queue>> {
        match ended.0.get(topic).filter(|(until, _)| position < *until) {
            Some((_, queues)) => queues.get(&id).cloned(),
            None => Some(self.queue(topic, id)),
        }
    }

    /// Removes a topic's queues if `has_to_end` says so. Those of its next life are of the kind `next`, until somebody says
    /// otherwise.
    pub fn end_topic(&self, topic: &str, next: Kind, has_to_end: impl FnOnce(&Queues) -> bool) -> io::Result<()> {
        if !append::is_folder_name(topic) {
            return Ok(());
        }
        let (queues, folders) = {
            let mut progress = self.progress.lock();
            self.forget_snapshot(&mut progress)?;
            // Behind `progress`, as everywhere. The copies of a topic of this name that is made meanwhile are begun when
            // the old ones are gone.
            let folders = self.compaction.folders.lock();
            // Under the append lock: what is appended afterwards belongs to the topic's next life, so that the records
            // of two lives never mix in the log.
            let _tail = self.log.tail.lock();
            if !has_to_end(self.topics.read().get(topic).unwrap_or(&Queues::new())) {
                return Ok(());
            }
            // First: queues that are made from here on belong to no compacted topic.
            self.compaction.topics.write().remove(topic);
            self.set_kind(topic, next);
            let queues = self.topics.write().remove(topic).unwrap_or_default();
            let mut d = self.dispatcher.lock();
            for queue in queues.values() {
                d.entries -= queue.max_offset();
                queue.delete();
            }
            if !queues.is_empty() && d.position < self.log.end() {
                d.ended.note(topic, self.log.end(), &queues);
            }
            // Also without queues: a deletion may have failed half way. Nobody has files of the next life yet.
            for kind in Kind::ALL {
                file::remove_dir_all(&self.context.place(kind).dir.join(topic), self.context.faults.as_ref())?;
            }
            (queues, folders)
        };
        // Files that come back after a power cut would be taken for those of a topic of this name made later.
        for dir in Kind::ALL.map(|kind| &self.context.place(kind).dir).into_iter().filter(|dir| dir.is_dir()) {
            file::sync_dir(dir, self.context.faults.as_ref())?;
        }
        queues.values().filter_map(|queue| queue.compacted()).for_each(|copy| copy.delete());
        self.remove_copies(topic)?;
        // Before whoever waits for messages is called, who may want it.
        drop(folders);
        if queues.is_empty() {
            return Ok(());
        }
        // The records of the life that ended are behind the checkpoint: a restart reads none of them, and does not
        // take the entries that are missing for lost.
        self.log.sync()?;
        self.dispatch_now();
        self.checkpoint(true);
        Ok(())
    }
}
