//! Who this client is in which groups, and telling the brokers so.

use std::collections::BTreeMap;
use std::sync::Arc;

use ferromq_protocol::body::{ConsumerData, HeartbeatData, ProducerData};
use ferromq_protocol::code::request;
use ferromq_protocol::header::client::UnregisterClientHeader;
use ferromq_protocol::{FrameWriter, Text, json};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::client::{MASTER_ID, Shared};
use crate::error::{Error, Result};

/// The groups this client is a member of.
#[derive(Default)]
pub(crate) struct Groups {
    /// producer group -> how many producers of this client
    producers: BTreeMap<String, usize>,
    consumers: BTreeMap<String, Member>,
}

/// A consumer group this client is a member of.
struct Member {
    data: ConsumerData,
    /// Rung when the group changes.
    rebalance: Arc<Notify>,
}

impl Groups {
    /// Wakes the rebalance of a group, if this client is a member.
    pub fn wake(&self, group: &str) {
        if let Some(member) = self.consumers.get(group) {
            member.rebalance.notify_one();
        }
    }
}

impl Shared {
    /// Names a producer of `group` in heartbeats.
    pub fn join_producers(&self, group: &str) {
        *self.groups.lock().producers.entry(group.to_owned()).or_default() += 1;
    }

    /// Takes one producer of `group` out of the heartbeats; true when it was the last.
    pub fn leave_producers(&self, group: &str) -> bool {
        let mut groups = self.groups.lock();
        let Some(count) = groups.producers.get_mut(group) else { return false };
        *count -= 1;
        let last = *count == 0;
        if last {
            groups.producers.remove(group);
        }
        last
    }

    /// Names a consumer in heartbeats. `rebalance` is rung when brokers tell of a change in the group.
    pub fn join_consumers(&self, data: ConsumerData, rebalance: Arc<Notify>) -> Result<()> {
        let mut groups = self.groups.lock();
        if groups.consumers.contains_key(&data.group_name) {
            return Err(Error::Illegal(format!("this client already has a consumer of group {}", data.group_name)));
        }
        groups.consumers.insert(data.group_name.clone(), Member { data, rebalance });
        Ok(())
    }

    /// Takes a consumer out of the heartbeats.
    pub fn leave_consumers(&self, group: &str) {
        self.groups.lock().consumers.remove(group);
    }

    /// Tells the brokers of all known routes who this client is: masters of producers and consumers, slaves of
    /// consumers only. All at the same time, so that none waits for one that is dead. Failures are logged; the next beat
    /// tries again.
    pub async fn heartbeat(self: &Arc<Self>) {
        let data = {
            let groups = self.groups.lock();
            HeartbeatData {
                client_id: self.client_id.clone(),
                producer_data_set: groups
                    .producers
                    .keys()
                    .map(|group_name| ProducerData { group_name: group_name.clone() })
                    .collect(),
                consumer_data_set: groups.consumers.values().map(|member| member.data.clone()).collect(),
                ..HeartbeatData::default()
            }
        };
        let (producers, consumers) = (!data.producer_data_set.is_empty(), !data.consumer_data_set.is_empty());
        if !producers && !consumers {
            return;
        }
        let body: Arc<[u8]> = match json::to_vec_standard(&data) {
            Ok(body) => body.into(),
            Err(e) => return tracing::warn!("heartbeat cannot be written: {e}"),
        };
        let mut beats = JoinSet::new();
        for (broker, addr) in self.broker_addrs(consumers) {
            let (shared, body) = (Arc::clone(self), Arc::clone(&body));
            beats.spawn(async move {
                if let Err(e) = shared.ask(&addr, request::HEART_BEAT, |_| {}, &body).await {
                    tracing::warn!(%broker, "heartbeat failed: {e}");
                }
            });
        }
        beats.join_all().await;
    }

    /// Name and address of every known broker, of masters only unless `slaves`.
    pub fn broker_addrs(&self, slaves: bool) -> Vec<(String, String)> {
        let brokers = self.brokers.read();
        let all = brokers.iter().flat_map(|(name, ids)| ids.iter().map(move |(id, addr)| (name, id, addr)));
        let wanted = all.filter(|(_, id, _)| slaves || **id == MASTER_ID);
        wanted.map(|(name, _, addr)| (name.clone(), addr.clone())).collect()
    }

    /// Tells all known brokers that a group has lost this client.
    pub async fn unregister(&self, producer_group: Option<&str>, consumer_group: Option<&str>) {
        for (broker, addr) in self.broker_addrs(consumer_group.is_some()) {
            let header = UnregisterClientHeader {
                client_id: Text::plain(&self.client_id),
                producer_group: producer_group.map(Text::plain),
                consumer_group: consumer_group.map(Text::plain),
            };
            let fields = |writer: &mut FrameWriter<'_>| header.write(writer);
            if let Err(e) = self.ask(&addr, request::UNREGISTER_CLIENT, fields, &[]).await {
                tracing::debug!(%broker, "not unregistered: {e}");
            }
        }
    }
}
