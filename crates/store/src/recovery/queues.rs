//! Which queues there are at the start, and how each gets its state: from a snapshot, or from its files.

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::queue::{self, Kind, Queue, Saved};
use crate::snapshot::{Snapshot, is_untouched};
use crate::store::Inner;

/// Most threads that load queues.
const MAX_LOADERS: usize = 8;

/// A queue, and what the snapshot has of it.
type Found<'a> = (Arc<Queue>, Option<Saved<'a>>);

impl Inner {
    /// Loads all queues, on all processors; whether none had holes.
    pub(super) fn load_queues(
        &self,
        built_to: Option<u64>,
        log_start: u64,
        snapshot: Option<&Snapshot>,
    ) -> io::Result<(Vec<Arc<Queue>>, bool)> {
        let found = self.find_queues(snapshot)?;
        let processors = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_LOADERS);
        let part = found.len().div_ceil(processors).max(1);
        let load_one = |(queue, saved): &Found<'_>| match (saved, snapshot, built_to) {
            (Some(saved), Some(snapshot), Some(position)) => {
                queue.restore(saved, snapshot.taken.at, position, log_start)
            }
            _ => queue.load(built_to, log_start),
        };
        let load = |queues: &[Found<'_>]| {
            queues.iter().try_fold(true, |complete, found| load_one(found).map(|loaded| loaded && complete))
        };
        let complete = std::thread::scope(|scope| {
            let loaders: Vec<_> = found.chunks(part).map(|part| scope.spawn(move || load(part))).collect();
            loaders.into_iter().try_fold(true, |complete, loader| {
                let loaded = loader.join().map_err(|_| io::Error::other("a thread that loads queues panicked"))?;
                Ok::<_, io::Error>(loaded? && complete)
            })
        })?;
        let queues: Vec<_> = found.into_iter().map(|(queue, _)| queue).collect();
        self.dispatcher.lock().dirty.extend(queues.iter().filter(|queue| queue.has_unwritten()).cloned());
        Ok((queues, complete))
    }

    /// All queues that have a folder or stand in the snapshot. Folders that nobody changed since are not listed.
    fn find_queues<'a>(&self, snapshot: Option<&'a Snapshot>) -> io::Result<Vec<Found<'a>>> {
        let place = |kind: Kind| &self.context.place(kind).dir;
        let (mut found, mut known) = (Vec::new(), HashSet::new());
        for topic in queue::topics_in(place(Kind::Batch))? {
            self.set_kind(&topic, Kind::Batch);
        }
        for (topic, saved) in snapshot.iter().flat_map(|snapshot| snapshot.topics()) {
            known.insert(topic);
            let folder = place(self.kind_of(topic)).join(topic);
            if !is_as_taken(&folder, snapshot)? {
                let others = queue::queues_of(&folder)?.into_iter();
                let others = others.filter(|id| saved.iter().all(|saved| saved.id != *id));
                found.extend(others.map(|id| (self.queue(topic, id), None)));
            }
            found.extend(saved.into_iter().map(|saved| (self.queue(topic, saved.id), Some(saved))));
        }
        for kind in Kind::ALL {
            if is_as_taken(place(kind), snapshot)? {
                continue;
            }
            let is_new = |topic: &&String| !known.contains(topic.as_str()) && self.kind_of(topic) == kind;
            for topic in queue::topics_in(place(kind))?.iter().filter(is_new) {
                let queues = queue::queues_of(&place(kind).join(topic))?;
                found.extend(queues.into_iter().map(|id| (self.queue(topic, id), None)));
            }
        }
        Ok(found)
    }
}

/// Whether nobody changed a folder since the snapshot was taken.
fn is_as_taken(folder: &Path, snapshot: Option<&Snapshot>) -> io::Result<bool> {
    snapshot.map_or(Ok(false), |snapshot| is_untouched(folder, snapshot.taken.at))
}
