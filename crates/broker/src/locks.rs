//! Queue locks of orderly consumers (RocketMQ's `RebalanceLockManager`).
//!
//! A lock is a lease of [`LOCK_LIFE`] held by a client id for one queue within one group; the same owner renews it. When the
//! owner's last connection ends, the lease is over as soon as the owner itself must take it for lost ([`LEFT_LIFE`]): not
//! before, because it may reconnect and its last batch may still be in work. RocketMQ always waits for the whole lease.
//! Kept in memory only: after a restart owners lock again within seconds.
//!
//! One mutex over all groups; nothing is done under it but look-ups.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use ferromq_protocol::body::MessageQueue;
use parking_lot::Mutex;

/// How long a lock lives without renewal (`rocketmq.broker.rebalance.lockMaxLiveTime`).
pub const LOCK_LIFE: Duration = Duration::from_millis(60_000);
/// The same once the owner has no connection. Its client holds a lock for lost 30 s after the last renewal.
pub const LEFT_LIFE: Duration = Duration::from_millis(35_000);
/// Most locked queues of one group.
const MAX_LOCKS_PER_GROUP: usize = 100_000;
/// Most locked queues of all groups.
const MAX_LOCKS: usize = 1_000_000;

struct Lease {
    client_id: Box<str>,
    renewed: Instant,
    /// Its owner's last connection has ended since.
    owner_left: bool,
}

impl Lease {
    fn is_expired(&self, now: Instant) -> bool {
        let life = if self.owner_left { LEFT_LIFE } else { LOCK_LIFE };
        now.saturating_duration_since(self.renewed) > life
    }

    fn new(client_id: &str, now: Instant) -> Self {
        Self { client_id: client_id.into(), renewed: now, owner_left: false }
    }
}

/// Which client of a group owns which queue.
#[derive(Default)]
pub struct OrderLocks {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    groups: HashMap<Box<str>, HashMap<MessageQueue, Lease>>,
    /// Of all groups.
    leases: usize,
}

impl OrderLocks {
    /// Locks for `client_id` what is free, expired or its own; the answer lists what it holds now.
    pub fn lock_batch(
        &self,
        group: &str,
        queues: Vec<MessageQueue>,
        client_id: &str,
        now: Instant,
    ) -> Vec<MessageQueue> {
        let mut table = self.table.lock();
        let Table { groups, leases: all } = &mut *table;
        let leases = groups.entry(group.into()).or_default();
        let mut granted = Vec::with_capacity(queues.len().min(MAX_LOCKS_PER_GROUP));
        let mut left_out = 0_usize;
        for queue in queues {
            let full = leases.len() >= MAX_LOCKS_PER_GROUP || *all >= MAX_LOCKS;
            match leases.get_mut(&queue) {
                Some(lease) if *lease.client_id == *client_id => (lease.renewed, lease.owner_left) = (now, false),
                Some(lease) if lease.is_expired(now) => {
                    tracing::info!(
                        "group {group}: expired lock of {queue:?} goes from {} to {client_id}",
                        lease.client_id
                    );
                    *lease = Lease::new(client_id, now);
                }
                Some(_) => continue,
                None if full => {
                    left_out += 1;
                    continue;
                }
                None => {
                    leases.insert(queue.clone(), Lease::new(client_id, now));
                    *all += 1;
                }
            }
            granted.push(queue);
        }
        if leases.is_empty() {
            groups.remove(group);
        }
        if left_out > 0 {
            tracing::warn!(
                "group {group} gets no lock for {left_out} queues: one group may hold {MAX_LOCKS_PER_GROUP}, all together {MAX_LOCKS}"
            );
        }
        granted
    }

    /// Gives up the locks among `queues` that `client_id` owns.
    pub fn unlock_batch(&self, group: &str, queues: &[MessageQueue], client_id: &str) {
        let mut table = self.table.lock();
        let Table { groups, leases: all } = &mut *table;
        let Some(leases) = groups.get_mut(group) else { return };
        for queue in queues {
            match leases.get(queue) {
                Some(lease) if *lease.client_id == *client_id => {
                    leases.remove(queue);
                    *all -= 1;
                }
                Some(lease) => {
                    tracing::debug!("group {group}: {client_id} cannot unlock {queue:?}, {} owns it", lease.client_id);
                }
                None => {}
            }
        }
        if leases.is_empty() {
            groups.remove(group);
        }
    }

    /// Whether the group holds any live lock, which marks it as consuming in order.
    pub fn holds_any(&self, group: &str, now: Instant) -> bool {
        self.table.lock().groups.get(group).is_some_and(|leases| leases.values().any(|lease| !lease.is_expired(now)))
    }

    /// The last connection of a group's client has ended.
    pub fn owner_left(&self, group: &str, client_id: &str) {
        if let Some(leases) = self.table.lock().groups.get_mut(group) {
            leases
                .values_mut()
                .filter(|lease| *lease.client_id == *client_id)
                .for_each(|lease| lease.owner_left = true);
        }
    }

    /// Forgets expired locks; called now and then so that groups which are gone leave nothing behind. The groups in which
    /// queues of an owner that left are free from now on: their members should come for them.
    pub fn sweep(&self, now: Instant) -> Vec<Box<str>> {
        let mut freed = Vec::new();
        let mut table = self.table.lock();
        let Table { groups, leases: all } = &mut *table;
        groups.retain(|group, leases| {
            let before = leases.len();
            let left =
                leases.extract_if(|_, lease| lease.is_expired(now)).filter(|(_, lease)| lease.owner_left).count();
            if left > 0 {
                freed.push(group.clone());
            }
            *all -= before - leases.len();
            !leases.is_empty()
        });
        freed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(id: i32) -> MessageQueue {
        MessageQueue { topic: "T".into(), broker_name: "b".into(), queue_id: id }
    }

    fn queues(ids: std::ops::Range<i32>) -> Vec<MessageQueue> {
        ids.map(queue).collect()
    }

    #[test]
    fn the_first_client_owns_and_renews() {
        let locks = OrderLocks::default();
        let t0 = Instant::now();
        assert_eq!(locks.lock_batch("g", queues(0..4), "a", t0), queues(0..4));
        let t1 = t0 + LOCK_LIFE;
        assert_eq!(locks.lock_batch("g", queues(2..6), "b", t1), queues(4..6));
        assert_eq!(locks.lock_batch("g", queues(0..4), "a", t1), queues(0..4));
        assert!(locks.lock_batch("g", queues(0..4), "b", t1 + LOCK_LIFE).is_empty());
        assert_eq!(locks.lock_batch("other", queues(0..4), "b", t0), queues(0..4));
    }

    #[test]
    fn an_expired_lock_is_taken_over() {
        let locks = OrderLocks::default();
        let t0 = Instant::now();
        locks.lock_batch("g", queues(0..1), "a", t0);
        let late = t0 + LOCK_LIFE + Duration::from_millis(1);
        assert!(!locks.holds_any("g", late));
        assert_eq!(locks.lock_batch("g", queues(0..1), "b", late), queues(0..1));
        assert!(locks.lock_batch("g", queues(0..1), "a", late).is_empty());
    }

    #[test]
    fn only_the_owner_unlocks() {
        let locks = OrderLocks::default();
        let now = Instant::now();
        locks.lock_batch("g", queues(0..2), "a", now);
        locks.unlock_batch("g", &queues(0..2), "b");
        assert!(locks.lock_batch("g", queues(0..2), "b", now).is_empty());
        locks.unlock_batch("g", &queues(0..1), "a");
        assert_eq!(locks.lock_batch("g", queues(0..2), "b", now), queues(0..1));
    }

    #[test]
    fn queues_of_an_owner_that_left_move_on_when_it_must_have_noticed() {
        let locks = OrderLocks::default();
        let t0 = Instant::now();
        locks.lock_batch("g", queues(0..2), "a", t0);
        locks.lock_batch("g", queues(2..3), "b", t0);
        locks.owner_left("g", "a");
        let early = t0 + LEFT_LIFE;
        assert!(locks.lock_batch("g", queues(0..1), "b", early).is_empty());
        assert!(locks.sweep(early).is_empty());
        // It came back for one of them.
        assert_eq!(locks.lock_batch("g", queues(0..1), "a", early), queues(0..1));
        let late = early + Duration::from_millis(1);
        assert_eq!(locks.sweep(late), ["g".into()]);
        assert_eq!(locks.lock_batch("g", queues(0..3), "b", late), queues(1..3));
    }

    #[test]
    fn a_sweep_forgets_the_expired_only() {
        let locks = OrderLocks::default();
        let t0 = Instant::now();
        locks.lock_batch("old", queues(0..1), "a", t0);
        let late = t0 + LOCK_LIFE + Duration::from_millis(1);
        locks.lock_batch("new", queues(0..1), "a", late);
        locks.sweep(late);
        assert!(locks.holds_any("new", late));
        let table = locks.table.lock();
        assert_eq!((table.groups.len(), table.leases), (1, 1));
    }

    #[test]
    fn the_number_of_locks_is_bounded_and_what_is_given_up_makes_room() {
        let locks = OrderLocks::default();
        let now = Instant::now();
        let most = MAX_LOCKS_PER_GROUP as i32;
        assert_eq!(locks.lock_batch("g", queues(0..most + 1), "a", now).len(), MAX_LOCKS_PER_GROUP);
        locks.table.lock().leases = MAX_LOCKS - 1;
        assert_eq!(locks.lock_batch("h", queues(0..2), "a", now), queues(0..1));
        assert!(locks.lock_batch("i", queues(0..1), "a", now).is_empty());
        assert_eq!(locks.table.lock().groups.len(), 2, "a group without a lock leaves nothing behind");
        locks.unlock_batch("h", &queues(0..1), "a");
        assert_eq!(locks.lock_batch("i", queues(0..2), "a", now), queues(0..1));
    }
}
