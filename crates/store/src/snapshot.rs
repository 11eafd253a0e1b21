//! How all queues were at one moment, in one file beside the checkpoint: with very many queues it takes the place of
//! writing and reading a file for each of them. `queuesnapshot.0` and `.1` are written in turn; what they hold stands
//! in `docs/formats.md`. RocketMQ does not know them.
//!
//! Derived from the log like the queues, and believed only as far as nobody else can have changed anything: after the
//! death of the process or an orderly stop, when the checkpoint is the one it was taken with or names it, and only for
//! queues whose folder and files have not changed since, by the file system's own clock. The others are read from
//! their files, which the checkpoint vouches for.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::checkpoint::{Built, Loaded, Reader};
use crate::file::{self, DataFile, MaybeFaults};
use crate::queue::{Queue, Saved};

const MAGIC: u32 = 0x464D_5153;
const VERSION: u32 = 3;
/// Bytes written at once.
const CHUNK: usize = 1 << 20;

/// When a file or folder was changed, nanoseconds since 1970 by the clock of the file system.
pub(crate) type Changed = i64;

fn changed(metadata: &fs::Metadata) -> Changed {
    metadata.ctime().saturating_mul(1_000_000_000).saturating_add(metadata.ctime_nsec())
}

/// Whether `path` is there, and nobody changed it since a snapshot was `taken`. What happened in the same tick of the
/// clock counts as later.
pub(crate) fn is_untouched(path: &Path, taken: Changed) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        other => Ok(changed(&other?) < taken),
    }
}

fn path(root: &Path, slot: usize) -> PathBuf {
    root.join(format!("queuesnapshot.{slot}"))
}

/// Removes all snapshots.
pub(crate) fn remove(root: &Path, faults: MaybeFaults<'_>) -> io::Result<()> {
    (0..2).try_for_each(|slot| file::remove(&path(root, slot), faults))
}

/// Which snapshot is the newest one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taken {
    /// Number of its file.
    slot: usize,
    pub at: Changed,
}

/// A snapshot being written.
pub(crate) struct Writer {
    file: DataFile,
    taken: Taken,
    at: u64,
    bytes: Vec<u8>,
    crc: crc32fast::Hasher,
}

impl Writer {
    /// Begins a file beside that of the `last` one. The state to be saved is looked at afterwards.
    pub fn begin(root: &Path, last: Option<Taken>, faults: MaybeFaults<'_>) -> io::Result<Writer> {
        let slot = last.map_or(0, |last| 1 - last.slot);
        let path = path(root, slot);
        file::remove(&path, faults)?;
        let file = DataFile::create_sparse(&path, 0, faults)?;
        let taken = Taken { slot, at: changed(&file.file().metadata()?) };
        Ok(Writer { file, taken, at: 0, bytes: Vec::with_capacity(CHUNK), crc: crc32fast::Hasher::new() })
    }

    /// Saves the queues: those of one topic stand together. `base`: what the checkpoint says. `built`: how far they are
    /// at least. With `sync` the snapshot is on the disk afterwards.
    pub fn write(mut self, base: &Built, built: &Built, queues: &[Arc<Queue>], sync: bool) -> io::Result<Taken> {
        self.bytes.extend_from_slice(&MAGIC.to_be_bytes());
        self.bytes.extend_from_slice(&VERSION.to_be_bytes());
        self.bytes.extend_from_slice(&self.taken.at.to_be_bytes());
        base.encode(&mut self.bytes);
        built.encode(&mut self.bytes);
        for queues in queues.chunk_by(|a, b| a.topic() == b.topic()) {
            let name = queues[0].topic();
            self.bytes.extend_from_slice(&(name.len() as u32).to_be_bytes());
            self.bytes.extend_from_slice(name.as_bytes());
            self.bytes.extend_from_slice(&(queues.len() as u32).to_be_bytes());
            for queue in queues {
                queue.save(&mut self.bytes);
                if self.bytes.len() >= CHUNK / 2 {
                    self.put()?;
                }
            }
        }
        self.put()?;
        self.bytes.extend_from_slice(&self.crc.clone().finalize().to_be_bytes());
        self.put()?;
        if sync {
            self.file.sync()?;
        }
        Ok(self.taken)
    }

    fn put(&mut self) -> io::Result<()> {
        self.crc.update(&self.bytes);
        self.file.write_sparse_at(&self.bytes, self.at)?;
        self.at += self.bytes.len() as u64;
        self.bytes.clear();
        Ok(())
    }
}

/// A snapshot that was read.
pub(crate) struct Snapshot {
    /// The file without its CRC.
    bytes: Vec<u8>,
    pub taken: Taken,
    base: Built,
    pub built: Built,
    /// Bytes before the first topic.
    head: usize,
}

impl Snapshot {
    /// The newest snapshot that goes with the checkpoint. One that cannot be read is as good as none.
    pub fn load(root: &Path, checkpoint: &Loaded) -> Option<Snapshot> {
        let read = |slot| Snapshot::decode(fs::read(path(root, slot)).ok()?, slot);
        let holds = |s: &Snapshot| checkpoint.built == Some(s.base) || checkpoint.snapshot == s.taken.at;
        (0..2).filter_map(read).filter(holds).max_by_key(|s| s.built.position)
    }

    fn decode(mut bytes: Vec<u8>, slot: usize) -> Option<Snapshot> {
        let (content, crc) = bytes.split_last_chunk::<4>()?;
        if crc32fast::hash(content).to_be_bytes() != *crc {
            return None;
        }
        let mut reader = Reader(content);
        if (reader.int(), reader.int()) != (MAGIC, VERSION) {
            return None;
        }
        let taken = Taken { slot, at: reader.long() };
        let (base, built) = (reader.built(), reader.built());
        let head = content.len() - reader.0.len();
        bytes.truncate(bytes.len() - crc.len());
        Some(Snapshot { bytes, taken, base, built, head })
    }

    /// The topics, each with its queues.
    pub fn topics(&self) -> impl Iterator<Item = (&str, Vec<Saved<'_>>)> {
        let mut reader = Reader(self.bytes.get(self.head..).unwrap_or_default());
        std::iter::from_fn(move || {
            let len = reader.int() as usize;
            let name = std::str::from_utf8(reader.take(len)?).ok().filter(|name| !name.is_empty())?;
            let count = reader.int();
            Some((name, (0..count).map_while(|_| Saved::decode(&mut reader)).collect()))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use ferromq_protocol::record::MessageParts;
    use tempfile::TempDir;

    use super::*;
    use crate::{AppendBatch, Store, StoreConfig};

    /// Enough for a snapshot.
    const QUEUES: u32 = 2100;

    /// Nothing is written but what the test asks for.
    fn open(root: &Path) -> Store {
        let config = StoreConfig {
            root: root.to_owned(),
            mapped_file_size_commit_log: 4 << 20,
            mapped_file_size_consume_queue: 20 * 100,
            max_hash_slot_num: 1000,
            max_index_num: 20_000,
            flush_interval_consume_queue: 3_600_000,
            durable_checkpoint_interval: 3_600_000,
            disk_space_floor: 0,
            ..StoreConfig::default()
        };
        Store::open(config, Arc::new(|_| ())).unwrap()
    }

    fn topic(n: u32) -> String {
        format!("T{}", n / 3)
    }

    fn send(store: &Store, queues: impl Iterator<Item = u32>) {
        let mut batch = AppendBatch::default();
        for n in queues {
            let (topic, id) = (topic(n), n % 3);
            let parts = MessageParts {
                topic: &topic,
                queue_id: id,
                body: b"a body",
                properties: b"UNIQ_KEY\x01k\x02",
                tags: None,
                keys: None,
                uniq_key: Some(b"k"),
                flag: 0,
                sys_flag: 0,
                born_timestamp: 1,
                born_host: "127.0.0.1:1".parse().unwrap(),
                store_host: "127.0.0.1:2".parse().unwrap(),
                reconsume_times: 0,
                prepared_transaction_offset: 0,
            };
            batch.push(&store.queue(&topic, id), &parts).unwrap();
        }
        store.append(&mut batch).unwrap();
        store.dispatch();
    }

    /// Three messages for each queue: in its file, in the snapshot, and for some in the log alone.
    fn fill(root: &Path) -> Store {
        let store = open(root);
        send(&store, 0..QUEUES);
        store.checkpoint_now();
        send(&store, 0..QUEUES);
        store.inner.save(false);
        send(&store, (0..QUEUES).step_by(7));
        store.inner.log.sync().unwrap();
        store.inner.note_flushed();
        store
    }

    fn taken(store: &Store) -> Option<Changed> {
        store.inner.progress.lock().snapshot.map(|taken| taken.at)
    }

    /// The process is gone, as far as the next store in this folder can tell. When its snapshot was taken.
    fn kill(store: Store, root: &Path) -> Option<Changed> {
        let taken = taken(&store);
        std::mem::forget(store);
        fs::remove_file(root.join("lock")).unwrap();
        taken
    }

    fn expected(extra: i64) -> BTreeMap<(String, u32), i64> {
        (0..QUEUES).map(|n| ((topic(n), n % 3), 2 + i64::from(n % 7 == 0) + extra)).collect()
    }

    /// Opens the store, checks every message, and appends one more to each queue. When the snapshot was taken that it used
    /// or made.
    fn check(root: &Path, extra: i64) -> (Store, Option<Changed>) {
        let store = open(root);
        let used = taken(&store);
        let queues = store.inner.all_queues();
        let ends: BTreeMap<_, _> = queues.iter().map(|q| ((q.topic().to_owned(), q.id()), q.next_offset())).collect();
        assert!(ends == expected(extra), "a queue has another end");
        for queue in &queues {
            let mut out = Vec::new();
            let outcome = store.read(queue, 0, 32, 1 << 20, &mut |_| true, &mut out);
            assert_eq!(i64::from(outcome.count), queue.max_offset(), "{queue:?}");
            assert_eq!(outcome.min_offset, 0);
        }
        send(&store, 0..QUEUES);
        (store, used)
    }

    fn queue_file(root: &Path, n: u32) -> PathBuf {
        root.join("consumequeue").join(topic(n)).join((n % 3).to_string()).join(file::name(0))
    }

    #[test]
    fn what_files_lack_is_in_the_snapshot_after_a_kill_and_after_a_stop() {
        let dir = TempDir::new().unwrap();
        let root = dir.path();
        let taken = kill(fill(root), root);
        let entries = fs::read(queue_file(root, 1)).unwrap();
        assert!(entries[20..].iter().all(|byte| *byte == 0), "the file was not to be written");
        let (store, used) = check(root, 0);
        assert!(taken.is_some() && used == taken);
        // The next snapshot goes with the same checkpoint.
        store.inner.save(false);
        let taken = kill(store, root);
        let (store, used) = check(root, 1);
        assert_eq!(used, taken);
        store.shutdown();
        let last = self::taken(&store);
        drop(store);
        let (store, used) = check(root, 2);
        assert_eq!(used, last, "after an orderly stop");
        drop(store);
    }

    #[test]
    fn what_somebody_changed_since_is_not_taken_from_the_snapshot() {
        let zero = |path: &Path| fs::write(path, [0; 2000]).unwrap();
        let remove_folder = |path: &Path| fs::remove_dir_all(path.parent().unwrap()).unwrap();
        let remove_topic = |path: &Path| fs::remove_dir_all(path.ancestors().nth(2).unwrap()).unwrap();
        let remove_all = |path: &Path| fs::remove_dir_all(path.ancestors().nth(3).unwrap()).unwrap();
        let damages: [&dyn Fn(&Path); 4] = [&zero, &remove_folder, &remove_topic, &remove_all];
        for (n, damage) in damages.into_iter().enumerate() {
            let dir = TempDir::new().unwrap();
            let taken = kill(fill(dir.path()), dir.path());
            damage(&queue_file(dir.path(), 1000));
            let (store, used) = check(dir.path(), 0);
            assert_ne!(used, taken, "damage {n}");
            drop(store);
        }
    }

    #[test]
    fn a_torn_or_old_snapshot_costs_time_and_nothing_else() {
        for old in [false, true] {
            let dir = TempDir::new().unwrap();
            let root = dir.path();
            let store = fill(root);
            let kept: Vec<_> = (0..2).map(|slot| fs::read(path(root, slot))).collect();
            if old {
                store.checkpoint_now();
                send(&store, (0..QUEUES).filter(|n| n % 7 != 0));
                store.checkpoint_now();
            }
            let taken = kill(store, root);
            for (slot, bytes) in kept.into_iter().enumerate() {
                let Ok(bytes) = bytes else { continue };
                let len = if old { bytes.len() } else { bytes.len() / 2 };
                fs::write(path(root, slot), &bytes[..len]).unwrap();
            }
            let store = open(root);
            assert_ne!(self::taken(&store), taken);
            for queue in store.inner.all_queues() {
                let n = queue.topic()[1..].parse::<u32>().unwrap() * 3 + queue.id();
                assert_eq!(queue.next_offset(), if old || n.is_multiple_of(7) { 3 } else { 2 });
            }
            drop(store);
        }
    }

    #[test]
    fn a_deleted_topic_does_not_come_back() {
        let dir = TempDir::new().unwrap();
        let store = fill(dir.path());
        store.delete_topic("T5").unwrap();
        kill(store, dir.path());
        let store = open(dir.path());
        assert!(store.queues("T5").is_empty());
        assert_eq!(store.inner.queue_count(), QUEUES as usize - 3);
        assert!(taken(&store).is_some(), "a new one was taken");
    }
}
