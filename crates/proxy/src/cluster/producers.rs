//! Which clients produce for which group, so that one of them can be asked about a transaction.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

/// Client ids by producer group; each joins a group once.
#[derive(Default)]
pub(super) struct Producers {
    groups: Mutex<HashMap<String, Vec<String>>>,
    turn: AtomicUsize,
}

impl Producers {
    pub fn join(&self, group: &str, client: &str) {
        self.groups.lock().entry(group.to_owned()).or_default().push(client.to_owned());
    }

    pub fn leave(&self, group: &str, client: &str) {
        let mut groups = self.groups.lock();
        let Some(clients) = groups.get_mut(group) else { return };
        if let Some(at) = clients.iter().position(|joined| joined == client) {
            clients.swap_remove(at);
        }
        if clients.is_empty() {
            groups.remove(group);
        }
    }

    /// Up to `count` clients of a group, others the next time.
    pub fn some(&self, group: &str, count: usize) -> Vec<String> {
        let groups = self.groups.lock();
        let Some(clients) = groups.get(group) else { return Vec::new() };
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % clients.len();
        clients.iter().cycle().skip(turn).take(count.min(clients.len())).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_of_a_group_are_asked_in_turn() {
        let producers = Producers::default();
        assert!(producers.some("g", 3).is_empty());
        producers.join("g", "a");
        producers.join("g", "b");
        producers.join("other", "c");
        let (first, second) = (producers.some("g", 1), producers.some("g", 1));
        assert_ne!(first, second);
        assert_eq!(producers.some("g", 3).len(), 2);
        producers.leave("g", "a");
        assert_eq!(producers.some("g", 3), ["b"]);
        producers.leave("g", "b");
        producers.leave("g", "b");
        assert!(producers.some("g", 3).is_empty());
    }
}
