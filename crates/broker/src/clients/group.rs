//! One connected consumer group: its members, what it subscribes to, and whether its members agree on that.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Instant;

use ferromq_protocol::body::{ConsumeFromWhere, ConsumeType, MessageModel, SubscriptionData};

use super::{Client, ConsumerBeat, Subscription};

/// Most bytes of what a member subscribes to that a report of differing members shows.
const MAX_SAID_BYTES: usize = 512;

/// One client of one group.
pub(super) struct Member<C> {
    pub client: Client<C>,
    pub seen: Instant,
    /// What it last said to subscribe to.
    pub said: Option<Said>,
}

/// What a member subscribes to.
#[derive(Clone)]
pub(super) struct Said {
    digest: u64,
    text: Box<str>,
}

impl Said {
    fn new(list: &[SubscriptionData]) -> Self {
        let mut parts: Vec<String> = list.iter().map(|data| format!("{} {:?}", data.topic, data.sub_string)).collect();
        parts.sort_unstable();
        let mut text = parts.join(", ");
        text.truncate(text.floor_char_boundary(MAX_SAID_BYTES));
        Self { digest: digest(list), text: text.into() }
    }
}

/// One connected consumer group.
pub(super) struct ConsumerGroup<C> {
    pub members: HashMap<u64, Member<C>>,
    pub subscriptions: HashMap<Box<str>, Arc<Subscription>>,
    pub subscription_bytes: usize,
    pub consume_type: ConsumeType,
    pub message_model: MessageModel,
    pub consume_from_where: ConsumeFromWhere,
    pub fingerprint: i32,
    pub notify: bool,
    /// The differing subscriptions that were reported, as one number.
    pub reported: Option<u64>,
}

impl<C> ConsumerGroup<C> {
    pub fn new(beat: &ConsumerBeat) -> Self {
        Self {
            members: HashMap::new(),
            subscriptions: HashMap::new(),
            subscription_bytes: 0,
            consume_type: beat.consume_type,
            message_model: beat.message_model,
            consume_from_where: beat.consume_from_where,
            fingerprint: beat.fingerprint,
            notify: beat.notify,
            reported: None,
        }
    }

    /// Renews a member; whether it is new.
    pub fn touch(
        &mut self,
        group: &str,
        client: Client<C>,
        subscriptions: Option<&[SubscriptionData]>,
        now: Instant,
    ) -> bool {
        match self.members.get_mut(&client.connection_id) {
            Some(member) => {
                if member.client.client_id != client.client_id {
                    tracing::error!(
                        "group {group}: connection {} speaks for client {} and now for {}",
                        client.address,
                        member.client.client_id,
                        client.client_id
                    );
                    member.client = client;
                }
                member.seen = now;
                if let Some(list) = subscriptions
                    && member.said.as_ref().is_none_or(|said| said.digest != digest(list))
                {
                    member.said = Some(Said::new(list));
                }
                false
            }
            None => {
                tracing::info!("consumer {} of group {group} connected from {}", client.client_id, client.address);
                let said = subscriptions.map(Said::new);
                self.members.insert(client.connection_id, Member { client, seen: now, said });
                true
            }
        }
    }

    /// Takes over a full list of subscriptions; whether a topic came or went. A newer `subVersion` replaces silently.
    pub fn subscribe(&mut self, group: &str, list: Vec<SubscriptionData>) -> bool {
        let mut changed = false;
        let topics: HashSet<String> = list.iter().map(|data| data.topic.clone()).collect();
        for data in list {
            match self.subscriptions.get(data.topic.as_str()) {
                Some(known) if known.data.sub_version >= data.sub_version => {}
                known => {
                    if known.is_none() {
                        tracing::info!("group {group} subscribes to topic {}: {}", data.topic, data.sub_string);
                        changed = true;
                    }
                    let subscription = Subscription::new(data);
                    if let Some(error) = &subscription.error {
                        let data = &subscription.data;
                        tracing::warn!(
                            "group {group} gets nothing of topic {}: the {} expression {:?} is refused: {error}",
                            data.topic,
                            data.expression_type,
                            data.sub_string
                        );
                    }
                    self.subscriptions.insert(subscription.data.topic.as_str().into(), Arc::new(subscription));
                }
            }
        }
        self.subscriptions.retain(|topic, _| {
            let stays = topics.contains(&**topic);
            if !stays {
                tracing::warn!("group {group} does not subscribe to topic {topic} any more");
                changed = true;
            }
            stays
        });
        changed
    }

    /// Two members that subscribe differently, if there are any.
    pub fn differing(&self) -> Option<[(&Client<C>, &Said); 2]> {
        let mut said = self.members.values().filter_map(|member| Some((&member.client, member.said.as_ref()?)));
        let first = said.next()?;
        let other = said.find(|(_, said)| said.digest != first.1.digest)?;
        Some([first, other])
    }

    /// Reports members that subscribe differently, once for each change of what they subscribe to.
    pub fn report_differing(&mut self, group: &str) {
        let Some([(one, says_one), (two, says_two)]) = self.differing() else {
            self.reported = None;
            return;
        };
        let digests: HashSet<u64> = self.members.values().filter_map(|m| Some(m.said.as_ref()?.digest)).collect();
        let state = digests.into_iter().fold(0, u64::wrapping_add);
        if self.reported == Some(state) {
            return;
        }
        tracing::warn!(
            "MEMBERS OF CONSUMER GROUP {group} SUBSCRIBE TO DIFFERENT TOPICS OR TAGS: {} ({}) to {}; {} ({}) to {}. The broker keeps one \
             subscription per group and the newest heartbeat wins, so messages are skipped or delivered to clients that did not ask for \
             them. Make all members subscribe alike or give each subscription a group of its own",
            one.client_id,
            one.address,
            says_one.text,
            two.client_id,
            two.address,
            says_two.text
        );
        self.reported = Some(state);
    }
}

/// A number that is the same for lists which subscribe to the same, in any order.
pub(super) fn digest(list: &[SubscriptionData]) -> u64 {
    list.iter()
        .map(|data| {
            let mut hasher = DefaultHasher::new();
            (&data.topic, &data.sub_string, &data.expression_type).hash(&mut hasher);
            hasher.finish()
        })
        .fold(0, u64::wrapping_add)
}

/// Text kept for a list of subscriptions, bytes.
pub(super) fn text_bytes(list: &[SubscriptionData]) -> usize {
    list.iter()
        .map(|data| {
            let tags: usize = data.tags_set.iter().map(|tag| tag.len() + 24).sum();
            data.topic.len() + data.sub_string.len() + tags + 8 * data.code_set.len() + 200
        })
        .sum()
}
