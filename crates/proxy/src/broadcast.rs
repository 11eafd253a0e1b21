//! Groups of which each client gets every message (`consume.broadcast`), for clients that know no such thing.
//!
//! Each client has a group of its own at the brokers, made after the one it names: what it takes is popped, comes back and is
//! acknowledged as in any other. It begins at the end of the queues when the client joins, and is forgotten when it leaves;
//! brokers forget those of silent clients by themselves. `docs/broadcast.md`.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferromq_broker::broadcast_groups::{ATTRIBUTE, SEEN};
use ferromq_common::clock;
use ferromq_protocol::body::SubscriptionGroupConfig;
use ferromq_protocol::code::request;
use ferromq_protocol::header::group::DeleteSubscriptionGroupHeader;
use ferromq_protocol::header::offset::{
    GetMaxOffsetHeader, OffsetResponseHeader, QueryConsumerOffsetHeader, UpdateConsumerOffsetHeader,
};
use ferromq_protocol::{Text, json, topic as names};
use md5::{Digest as _, Md5};
use parking_lot::Mutex;

use crate::call::Caller;
use crate::door::{At, Door, Line};
use crate::pb::Code;
use crate::status::Refused;

/// How often brokers are told that a client lives.
const SEEN_EVERY: Duration = Duration::from_secs(3600);
/// Most clients that are known to have joined; beyond it all of them join again, which changes nothing.
const MAX_JOINED: usize = 100_000;
/// Between the group and its client.
const SEPARATOR: &str = "-broadcast-";

/// A client's own group as the brokers were told of it.
struct Joined {
    at: Instant,
    topics: BTreeSet<String>,
}

/// Who has a group of its own.
pub(crate) struct Broadcasts {
    door: Door,
    joined: Mutex<HashMap<String, Joined>>,
}

/// Whether a group is the own one of a client of `group`.
pub(crate) fn is_of(own: &str, group: &str) -> bool {
    own.strip_prefix(group).is_some_and(|rest| rest.starts_with(SEPARATOR))
}

impl Broadcasts {
    pub fn new(door: Door) -> Self {
        Broadcasts { door, joined: Mutex::default() }
    }

    /// The group that counts for a client: the one it names, or its own.
    pub async fn group_of(&self, caller: &Caller, group: String) -> Result<String, Refused> {
        match self.broadcasting(&group).await? {
            None => Ok(group),
            Some(_) => own(&group, &caller.client_id),
        }
    }

    /// As [`Broadcasts::group_of`], for a client that is going to take messages of these topics.
    pub async fn join(&self, caller: &Caller, group: String, topics: &[String]) -> Result<String, Refused> {
        let Some(config) = self.broadcasting(&group).await? else { return Ok(group) };
        let own = own(&group, &caller.client_id)?;
        let (is_seen, new) = self.still_to_do(&own, topics);
        if is_seen && new.is_empty() {
            return Ok(own);
        }
        let line = self.door.line(caller);
        if !is_seen {
            self.make(&line, &config, &own).await?;
        }
        let mut begun = Vec::with_capacity(new.len());
        for topic in new {
            match self.begin(&line, &topic, &own).await {
                // It begins when there is one.
                Err(refused) if refused.code == Code::TopicNotFound => continue,
                outcome => outcome?,
            }
            begun.push(topic);
        }
        let mut joined = self.joined.lock();
        if joined.len() >= MAX_JOINED {
            joined.clear();
        }
        let client =
            joined.entry(own.clone()).or_insert_with(|| Joined { at: Instant::now(), topics: BTreeSet::new() });
        if !is_seen {
            client.at = Instant::now();
        }
        client.topics.extend(begun);
        Ok(own)
    }

    /// A client leaves: what it has consumed is forgotten.
    pub async fn leave(&self, caller: &Caller, group: &str) -> Result<(), Refused> {
        if self.broadcasting(group).await?.is_none() {
            return Ok(());
        }
        let own = own(group, &caller.client_id)?;
        self.joined.lock().remove(&own);
        let line = self.door.line(caller);
        let header = DeleteSubscriptionGroupHeader { group_name: Text::plain(&own), clean_offset: true };
        for broker in self.door.masters().await? {
            line.at(&broker)?.call(request::DELETE_SUBSCRIPTIONGROUP, |frame| header.write(frame), &[]).await?;
        }
        Ok(())
    }

    /// The settings of a group whose clients each get every message; `None` of all others.
    async fn broadcasting(&self, group: &str) -> Result<Option<Arc<SubscriptionGroupConfig>>, Refused> {
        let group = self.door.known_group(group).await?;
        Ok(group.filter(|group| group.attributes.get(ATTRIBUTE).is_some_and(|value| value == "true")))
    }

    /// Whether brokers know that the client lives, and the topics it has not begun with.
    fn still_to_do(&self, own: &str, topics: &[String]) -> (bool, Vec<String>) {
        match self.joined.lock().get(own) {
            None => (false, topics.to_vec()),
            Some(client) => {
                let new = topics.iter().filter(|topic| !client.topics.contains(*topic)).cloned().collect();
                (client.at.elapsed() < SEEN_EVERY, new)
            }
        }
    }

    /// Makes the client's group at all brokers, with the settings of the one it names.
    async fn make(&self, line: &Line, group: &SubscriptionGroupConfig, own: &str) -> Result<(), Refused> {
        let seen = (clock::now_millis() / 1000).to_string();
        let config = SubscriptionGroupConfig {
            group_name: own.to_owned(),
            attributes: [(format!("+{SEEN}"), seen)].into(),
            ..group.clone()
        };
        let body = json::to_vec_standard(&config).map_err(|error| {
            Refused::new(Code::InternalServerError, format!("the group's settings cannot be written: {error}"))
        })?;
        for broker in self.door.masters().await? {
            line.at(&broker)?.call(request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, |_| (), &body).await?;
        }
        Ok(())
    }

    /// Puts the client at the end of the queues that it has not read before.
    async fn begin(&self, line: &Line, topic: &str, own: &str) -> Result<(), Refused> {
        let found = self.door.topic(topic).await?;
        let (topic, own) = (Text::plain(topic), Text::plain(own));
        for share in &found.brokers {
            let broker = line.at(&share.broker)?;
            for queue_id in 0..share.read {
                begin_queue(&broker, topic, own, queue_id).await?;
            }
        }
        Ok(())
    }
}

async fn begin_queue(broker: &At<'_>, topic: Text<'_>, own: Text<'_>, queue_id: i32) -> Result<(), Refused> {
    let header = QueryConsumerOffsetHeader { consumer_group: own, topic, queue_id, set_zero_if_not_found: Some(false) };
    match broker.call(request::QUERY_CONSUMER_OFFSET, |frame| header.write(frame), &[]).await {
        Err(refused) if refused.code == Code::OffsetNotFound => {}
        known => return known.map(drop),
    }
    let header = GetMaxOffsetHeader { topic, queue_id, committed: None };
    let answer = broker.call(request::GET_MAX_OFFSET, |frame| header.write(frame), &[]).await?;
    let commit_offset = OffsetResponseHeader::read(&answer.command().fields)?.offset;
    let header = UpdateConsumerOffsetHeader { consumer_group: own, topic, queue_id, commit_offset };
    broker.call(request::UPDATE_CONSUMER_OFFSET, |frame| header.write(frame), &[]).await.map(drop)
}

/// The name of a client's own group: client ids have characters that names of groups have not.
fn own(group: &str, client_id: &str) -> Result<String, Refused> {
    let digest = Md5::digest(client_id.as_bytes());
    let hash: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let own = format!("{group}{SEPARATOR}{hash}");
    names::validate_group(&own).map_err(|_| {
        let most = names::MAX_GROUP_LEN - (own.len() - group.len());
        let why = format!("the name of a group that broadcasts ({ATTRIBUTE}) has at most {most} characters");
        Refused::new(Code::IllegalConsumerGroup, why)
    })?;
    Ok(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_has_a_name_of_its_own_which_tells_its_group() {
        let [one, other] = ["host@1@0@a", "host@1@0@b"].map(|client| own("g", client).unwrap());
        assert_ne!(one, other);
        assert!(is_of(&one, "g") && !is_of(&one, "h") && !is_of("g", "g"), "{one}");
        assert_eq!(own(&"g".repeat(93), "c").unwrap().len(), names::MAX_GROUP_LEN);
        let refused = own(&"g".repeat(94), "c").unwrap_err();
        assert!(refused.message.ends_with("at most 93 characters"), "{refused:?}");
    }
}
