//! What was learnt from NameServers and brokers, kept for a while.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::status::Refused;

/// Most entries of one cache.
const MAX_ENTRIES: usize = 65_536;
/// After a broker failed, entries are read again unless they are younger than this.
const YOUNG: Duration = Duration::from_secs(1);

/// Values by name, each read again when it has been kept for the cache's time.
pub(super) struct Cache<T> {
    life: Duration,
    entries: Mutex<HashMap<String, Entry<T>>>,
}

struct Entry<T> {
    value: Arc<T>,
    read_at: Instant,
}

impl<T> Cache<T> {
    pub fn new(life: Duration) -> Self {
        Cache { life, entries: Mutex::default() }
    }

    /// The value of a name; `load` reads it where it is not known, is too old, or was read before something failed at
    /// `failed_at`. While one caller reads it again, others get the old one; so do all when it cannot be read. That
    /// there is none is not kept.
    pub async fn get(
        &self,
        name: &str,
        failed_at: Option<Instant>,
        load: impl Future<Output = Result<Option<T>, Refused>>,
    ) -> Result<Option<Arc<T>>, Refused> {
        let old = {
            let now = Instant::now();
            let mut entries = self.entries.lock();
            match entries.get_mut(name) {
                Some(entry) if self.is_fresh(entry.read_at, failed_at, now) => {
                    return Ok(Some(Arc::clone(&entry.value)));
                }
                Some(entry) => {
                    entry.read_at = now;
                    Some(Arc::clone(&entry.value))
                }
                None => None,
            }
        };
        match (load.await, old) {
            (Ok(Some(value)), _) => Ok(Some(self.keep(name, value))),
            (Ok(None), _) => {
                self.forget(name);
                Ok(None)
            }
            (Err(refused), Some(old)) => {
                tracing::debug!(name, ?refused, "what is known is used on, it cannot be read again");
                Ok(Some(old))
            }
            (Err(refused), None) => Err(refused),
        }
    }

    /// Reads it again at the next use.
    pub fn forget(&self, name: &str) {
        self.entries.lock().remove(name);
    }

    fn is_fresh(&self, read_at: Instant, failed_at: Option<Instant>, now: Instant) -> bool {
        let age = now.saturating_duration_since(read_at);
        age < self.life && (age < YOUNG || failed_at.is_none_or(|failed_at| failed_at < read_at))
    }

    fn keep(&self, name: &str, value: T) -> Arc<T> {
        let (value, now) = (Arc::new(value), Instant::now());
        let mut entries = self.entries.lock();
        if entries.len() >= MAX_ENTRIES {
            entries.retain(|_, entry| now.saturating_duration_since(entry.read_at) < self.life);
        }
        if entries.len() < MAX_ENTRIES {
            entries.insert(name.to_owned(), Entry { value: Arc::clone(&value), read_at: now });
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::Code;

    fn refused() -> Result<Option<i32>, Refused> {
        Err(Refused::new(Code::InternalServerError, "no answer"))
    }

    #[tokio::test]
    async fn values_are_read_again_when_they_are_old() {
        let cache = Cache::new(Duration::ZERO);
        let get = async |load: Result<Option<i32>, Refused>| {
            cache.get("t", None, async { load }).await.map(|found| found.map(|value| *value))
        };
        assert!(get(refused()).await.is_err());
        assert_eq!(get(Ok(Some(1))).await, Ok(Some(1)));
        assert_eq!(get(Ok(Some(2))).await, Ok(Some(2)));
        assert_eq!(get(refused()).await, Ok(Some(2)), "the old one is better than none");
        assert_eq!(get(Ok(None)).await, Ok(None));
        assert!(get(refused()).await.is_err(), "what is gone is not used on");
    }

    #[tokio::test]
    async fn values_are_kept_for_their_time_and_not_after_a_failure() {
        let cache = Cache::new(Duration::from_secs(3600));
        let get = async |value: i32| cache.get("t", None, async { Ok(Some(value)) }).await.unwrap().map(|value| *value);
        assert_eq!(get(1).await, Some(1));
        assert_eq!(get(2).await, Some(1));
        cache.forget("t");
        assert_eq!(get(3).await, Some(3));
        let read_at = Instant::now();
        let later = read_at + YOUNG * 2;
        assert!(cache.is_fresh(read_at, None, later));
        assert!(!cache.is_fresh(read_at, Some(read_at), later), "a broker has failed since");
        assert!(cache.is_fresh(read_at, Some(read_at), read_at), "but it is not read all the time");
        assert!(!cache.is_fresh(read_at, None, read_at + Duration::from_secs(3600)));
    }
}
