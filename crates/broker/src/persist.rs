//! When the JSON files of the store's `config` folder are written: one thread per broker, for all tables.
//!
//! It writes what changed: every `flushConsumerOffsetInterval`, at once when a table asks for it (topics and groups, on each
//! change), and at the stop. It does not know what the files mean; `json_file` of `ferromq-common` keeps them safe.
//! Files nobody registered here (a Java broker's `timermetrics` ...) are never touched.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ferromq_common::json_file;
pub use ferromq_common::json_file::LoadError;
use parking_lot::{Condvar, Mutex};
use serde::de::DeserializeOwned;

/// Most answers that wait for one writing; beyond it a caller is told that its change is not on disk yet.
const MAX_SAVE_WAITERS: usize = 10_000;

/// A disk that refuses is reported at most this often, however often it is tried.
const COMPLAINT_PERIOD: Duration = Duration::from_secs(10);

/// Path of a file in a store's `config` folder.
pub fn config_path(store_root: &Path, name: &str) -> PathBuf {
    store_root.join("config").join(name)
}

/// Reads a file of `config` in fastjson's dialect; `None` when there is none yet.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, LoadError> {
    Ok(json_file::load(path, ferromq_protocol::json::from_slice::<T>)?.into_option(path))
}

/// The same of a table that the broker can do without: if the file and its copy are both damaged they are set aside, and the
/// table begins anew; `effect` tells what that means. A table that is whole and says what nobody here understands is
/// an error all the same: it was hardly lost. So is one that cannot be set aside: the next writing would take its place.
pub fn load_or_begin_anew<T: DeserializeOwned>(path: &Path, effect: &str) -> Result<Option<T>, LoadError> {
    let error = match load(path) {
        Err(error) if json_file::is_damaged(path, ferromq_protocol::json::is_document) => error,
        other => return other,
    };
    if let Err(cause) = json_file::set_aside(path) {
        tracing::error!("{} and its copy cannot be moved out of the way: {cause}", path.display());
        return Err(error);
    }
    tracing::error!("{}: {effect}; what is there is kept beside it as .broken", error.what());
    Ok(None)
}

/// A table that is kept in one file.
pub struct Saved {
    /// Where it is kept.
    pub path: PathBuf,
    /// A number that grows with each change of the table.
    pub changes: Box<dyn Fn() -> u64 + Send>,
    /// The whole table as RocketMQ writes it.
    pub encode: Box<dyn Fn() -> io::Result<Vec<u8>> + Send>,
    /// Whether a call for an early writing includes this table; the others wait for the period.
    pub early: bool,
}

/// Told whether the change is on disk.
type Waiter = Box<dyn FnOnce(Result<(), String>) + Send>;

/// The way to the writing thread; tables hold it, handlers wait through it.
#[derive(Default)]
pub struct SaveSignal {
    state: Mutex<SignalState>,
    wake: Condvar,
}

#[derive(Default)]
struct SignalState {
    early: bool,
    stop: bool,
    waiters: Vec<Waiter>,
}

impl SaveSignal {
    /// Asks for an early writing of topics and groups.
    pub fn soon(&self) {
        self.state.lock().early = true;
        self.wake.notify_one();
    }

    /// Runs `done` on the writing thread once every change made before this call is on disk, or with the reason why not.
    pub fn when_saved(&self, done: impl FnOnce(Result<(), String>) + Send + 'static) {
        let mut state = self.state.lock();
        if state.stop || state.waiters.len() >= MAX_SAVE_WAITERS {
            drop(state);
            done(Err("the change is made but not on disk yet: the broker is stopping or too many changes wait".into()));
            return;
        }
        state.early = true;
        state.waiters.push(Box::new(done));
        drop(state);
        self.wake.notify_one();
    }
}

/// The writing thread.
pub struct Persister {
    signal: Arc<SaveSignal>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Persister {
    /// Starts the thread; `period` is `flushConsumerOffsetInterval`. What the tables hold now counts as saved.
    pub fn start(signal: Arc<SaveSignal>, tables: Vec<Saved>, period: Duration) -> io::Result<Self> {
        let work: Vec<(Saved, u64)> = tables.into_iter().map(|t| ((t.changes)(), t)).map(|(n, t)| (t, n)).collect();
        let shared = Arc::clone(&signal);
        let period = period.max(Duration::from_millis(100));
        let thread =
            std::thread::Builder::new().name("persist".into()).spawn(move || write_loop(&shared, work, period))?;
        Ok(Self { signal, thread: Mutex::new(Some(thread)) })
    }

    /// Writes what is left and ends the thread. May be called more than once.
    pub fn stop(&self) {
        self.signal.state.lock().stop = true;
        self.signal.wake.notify_one();
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!(
                "the thread that writes config files died; the newest offsets and topics may not be on disk"
            );
        }
    }
}

fn write_loop(signal: &SaveSignal, mut tables: Vec<(Saved, u64)>, period: Duration) {
    let mut next = Instant::now() + period;
    let mut silent_until = Instant::now();
    loop {
        let (stop, waiters) = {
            let mut state = signal.state.lock();
            while !state.early && !state.stop && !signal.wake.wait_until(&mut state, next).timed_out() {}
            state.early = false;
            (state.stop, std::mem::take(&mut state.waiters))
        };
        let all = stop || Instant::now() >= next;
        if all {
            next = Instant::now() + period;
        }
        let mut result = Ok(());
        for (table, saved) in tables.iter_mut().filter(|(t, _)| all || t.early) {
            let changes = (table.changes)();
            if changes == *saved {
                continue;
            }
            match (table.encode)().and_then(|content| json_file::store(&table.path, &content)) {
                Ok(()) => *saved = changes,
                Err(e) => {
                    let path = table.path.display();
                    if Instant::now() >= silent_until {
                        silent_until = Instant::now() + COMPLAINT_PERIOD;
                        tracing::error!(
                            "cannot write {path}: {e}; it is tried again, until then a restart loses its changes"
                        );
                    }
                    result = Err(format!("the change is made but cannot be written to {path}: {e}"));
                }
            }
        }
        for waiter in waiters {
            waiter(result.clone());
        }
        if stop {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::mpsc;

    use super::*;

    type Map = BTreeMap<String, i64>;

    #[test]
    fn changes_are_written_by_period_on_demand_and_at_stop() {
        let dir = tempfile::tempdir().unwrap();
        let value = Arc::new(AtomicU64::new(0));
        let saved = |name: &str, early| {
            let (a, b) = (Arc::clone(&value), Arc::clone(&value));
            Saved {
                path: config_path(dir.path(), name),
                changes: Box::new(move || a.load(Ordering::SeqCst)),
                encode: Box::new(move || Ok(format!("{{\"a\":{}}}", b.load(Ordering::SeqCst)).into_bytes())),
                early,
            }
        };
        let signal = Arc::new(SaveSignal::default());
        let tables = vec![saved("early.json", true), saved("late.json", false)];
        let persister = Persister::start(Arc::clone(&signal), tables, Duration::from_secs(3600)).unwrap();
        value.store(7, Ordering::SeqCst);
        let (tx, rx) = mpsc::sync_channel(1);
        signal.when_saved(move |result| tx.send(result).unwrap());
        assert_eq!(rx.recv_timeout(Duration::from_secs(10)).unwrap(), Ok(()));
        let read = |name: &str| load::<Map>(&config_path(dir.path(), name)).unwrap();
        assert_eq!(read("early.json").unwrap()["a"], 7);
        assert_eq!(read("late.json"), None);
        persister.stop();
        persister.stop();
        assert_eq!(read("late.json").unwrap()["a"], 7);
        let (tx, rx) = mpsc::sync_channel(1);
        signal.when_saved(move |result| tx.send(result.is_err()).unwrap());
        assert!(rx.recv().unwrap());
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_reported_to_who_waits() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config"), b"not a folder").unwrap();
        let value = Arc::new(AtomicU64::new(0));
        let reader = Arc::clone(&value);
        let table = Saved {
            path: config_path(dir.path(), "t.json"),
            changes: Box::new(move || reader.load(Ordering::SeqCst)),
            encode: Box::new(|| Ok(b"{}".to_vec())),
            early: true,
        };
        let signal = Arc::new(SaveSignal::default());
        let persister = Persister::start(Arc::clone(&signal), vec![table], Duration::from_secs(3600)).unwrap();
        value.store(1, Ordering::SeqCst);
        let (tx, rx) = mpsc::sync_channel(1);
        signal.when_saved(move |result| tx.send(result).unwrap());
        let error = rx.recv_timeout(Duration::from_secs(10)).unwrap().unwrap_err();
        assert!(error.contains("t.json"), "{error}");
        persister.stop();
    }
}
