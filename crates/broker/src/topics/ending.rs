//! The end of a topic. Its queues are the store's, and removing them waits for the disk; meanwhile the name is nobody's.
//! So the handles that a topic keeps of its queues never outlive these: see [`super::Topic::queue`].

use super::{Table, TopicError, Topics};

impl Table {
    fn begin_ending(&mut self, name: &str) -> Result<(), TopicError> {
        match self.ending.insert(name.to_owned()) {
            true => Ok(()),
            false => Err(TopicError::Ending(name.to_owned())),
        }
    }
}

impl Topics {
    /// Forgets a topic, and has `end` remove its queues and whatever else there is of it. Until that is done no topic of
    /// the name is made, and the topic that was makes no more queues: the next one has nothing of it.
    pub fn delete<R>(&self, name: &str, end: impl FnOnce() -> R) -> Result<R, TopicError> {
        let mut table = self.table.write();
        table.begin_ending(name)?;
        let topic = table.topics.remove(name);
        if topic.is_some() {
            tracing::info!("topic {name} is deleted");
            self.note_change(&mut table);
        }
        drop(table);
        topic.inspect(|topic| topic.end());
        Ok(self.finish_ending(name, end))
    }

    /// The same of what is left of a topic that is not in the table; `None` if it is.
    pub fn clear<R>(&self, name: &str, end: impl FnOnce() -> R) -> Option<R> {
        let mut table = self.table.write();
        if table.topics.contains_key(name) || table.begin_ending(name).is_err() {
            return None;
        }
        drop(table);
        Some(self.finish_ending(name, end))
    }

    /// The name is free again whatever happens to `end`.
    fn finish_ending<R>(&self, name: &str, end: impl FnOnce() -> R) -> R {
        let _freed = Freed { topics: self, name };
        end()
    }
}

struct Freed<'t> {
    topics: &'t Topics,
    name: &'t str,
}

impl Drop for Freed<'_> {
    fn drop(&mut self) {
        self.topics.table.write().ending.remove(self.name);
    }
}
