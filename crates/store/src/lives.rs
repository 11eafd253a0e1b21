//! The end of a topic: its queues go, its records stay in the log until that expires. A topic of the same name that is
//! made again begins a new life at offset 0, and no queue ever holds messages of two lives: all records of one stand
//! before all of the next, because the end is taken under the append lock.

use crate::file;
use crate::queue::Kind;
use crate::store::Inner;

impl Inner {
    /// See [`crate::Store::delete_topic`].
    pub fn delete_topic(&self, topic: &str) -> std::io::Result<()> {
        let (queues, folders) = {
            let mut progress = self.progress.lock();
            self.forget_snapshot(&mut progress)?;
            // Behind `progress`, as everywhere. The copies of a topic of this name that is made meanwhile are begun when
            // the old ones are gone.
            let folders = self.compaction.folders.lock();
            // Under the append lock: what is appended afterwards belongs to the topic's next life, so that the records
            // of two lives never mix in the log.
            let _tail = self.log.tail.lock();
            // First: queues that are made from here on belong to no compacted topic.
            self.compaction.topics.write().remove(topic);
            let queues = self.topics.write().remove(topic).unwrap_or_default();
            let mut d = self.dispatcher.lock();
            for queue in queues.values() {
                d.entries -= queue.max_offset();
                queue.delete()?;
            }
            (queues, folders)
        };
        // Files that come back after a power cut would be taken for those of a topic of this name made later. Also without
        // queues: a deletion may have failed half way.
        self.set_kind(topic, Kind::Simple);
        for kind in Kind::ALL {
            file::remove_dir_durable(&self.context.place(kind).dir.join(topic), self.context.faults.as_ref())?;
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
