//! Who reads which queue of a topic: the broker tells the members of a group, and each of them, asked through the broker,
//! what it reads.

use crate::wire::{Conn, code};
use crate::{Outcome, Stop};
use std::collections::{BTreeMap, BTreeSet};

/// GET_CONSUMER_RUNNING_INFO, which the broker hands on to the member.
const GET_CONSUMER_RUNNING_INFO: i32 = 307;

/// The queues of one topic, by the client ids of a group's members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owners(BTreeMap<String, BTreeSet<i32>>);

impl Owners {
    /// Asks a broker. A member that does not answer, as one that has just ended, owns nothing.
    pub fn ask(conn: &mut Conn, group: &str, topic: &str) -> Outcome<Owners> {
        let mut owners = BTreeMap::new();
        for id in members(conn, group)? {
            let fields = [("consumerGroup", group), ("clientId", id.as_str()), ("jstackEnable", "false")];
            let answer = conn.call(GET_CONSUMER_RUNNING_INFO, &fields, &[])?;
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            owners.insert(id, if answer.code == 0 { queues(&text, topic) } else { BTreeSet::new() });
        }
        Ok(Owners(owners))
    }

    /// How many members there are.
    pub fn members(&self) -> usize {
        self.0.len()
    }

    /// Whether each of the first `queues` queues has exactly one owner, no further one has any, and the members' shares
    /// differ by one at most.
    pub fn even(&self, queues: i32) -> bool {
        let mut all: Vec<i32> = self.0.values().flatten().copied().collect();
        all.sort_unstable();
        let shares = self.0.values().map(BTreeSet::len);
        let spread = shares.clone().max().unwrap_or(0) - shares.min().unwrap_or(0);
        all.into_iter().eq(0..queues) && spread <= 1
    }
}

/// The client ids of a group's members; none where the broker knows no such group.
fn members(conn: &mut Conn, group: &str) -> Outcome<Vec<String>> {
    let answer = conn.call(code::GET_CONSUMER_LIST_BY_GROUP, &[("consumerGroup", group)], &[])?;
    if answer.code != 0 {
        return Ok(Vec::new());
    }
    let body: serde_json::Value =
        serde_json::from_slice(&answer.body).map_err(|e| Stop::Failed(format!("the list of members: {e}")))?;
    let ids = body["consumerIdList"].as_array().map(Vec::as_slice).unwrap_or_default();
    Ok(ids.iter().filter_map(|id| id.as_str().map(str::to_owned)).collect())
}

/// The queues a member tells: its table has objects for keys, `{"brokerName":..,"queueId":..,"topic":..}:`, and so is no JSON.
fn queues(told: &str, topic: &str) -> BTreeSet<i32> {
    let wanted = format!("\"topic\":\"{topic}\"");
    let number = "\"queueId\":";
    let mut found = BTreeSet::new();
    for (at, _) in told.match_indices(number) {
        let object = (told[..at].rfind('{').unwrap_or(at), at + told[at..].find('}').unwrap_or(0));
        let digits = told[at + number.len()..].split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
        if told[object.0..object.1].contains(&wanted) {
            found.extend(digits.parse::<i32>());
        }
    }
    found
}
