//! Which member of a group reads which queues of a topic, and how far the group has got.

use crate::driver::Driver;
use crate::wire::{Conn, code};
use crate::{Outcome, Stop};
use std::collections::BTreeSet;

/// The queues of one topic that each member reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owners(Vec<BTreeSet<i32>>);

impl Owners {
    /// Asks the clients of push consumers, each by its driver and name.
    pub fn ask<'a>(members: impl IntoIterator<Item = (&'a Driver, &'a String)>, topic: &str) -> Outcome<Owners> {
        let mut owners = Vec::new();
        for (driver, name) in members {
            let rows = driver.call("owned", &[("name", name)])?;
            let queues = rows.iter().filter(|row| row.get("topic") == topic).map(|row| Ok(row.num("queue")? as i32));
            owners.push(queues.collect::<Outcome<_>>()?);
        }
        Ok(Owners(owners))
    }

    /// Whether each of the first `queues` queues has exactly one owner, no further one has any, and the members' shares
    /// differ by one at most.
    pub fn even(&self, queues: i32) -> bool {
        let mut all: Vec<i32> = self.0.iter().flatten().copied().collect();
        all.sort_unstable();
        let shares = self.0.iter().map(BTreeSet::len);
        let spread = shares.clone().max().unwrap_or(0) - shares.min().unwrap_or(0);
        all.into_iter().eq(0..queues) && spread <= 1
    }
}

/// How many members of a group a broker knows.
pub fn known(conn: &mut Conn, group: &str) -> Outcome<usize> {
    let answer = conn.call(code::GET_CONSUMER_LIST_BY_GROUP, &[("consumerGroup", group)], &[])?;
    if answer.code != 0 {
        return Ok(0);
    }
    let body: serde_json::Value =
        serde_json::from_slice(&answer.body).map_err(|e| Stop::Failed(format!("the list of members: {e}")))?;
    Ok(body["consumerIdList"].as_array().map_or(0, Vec::len))
}

/// What a group has committed, by queue; 0 where it has nothing.
pub fn committed(conn: &mut Conn, group: &str, topic: &str, queues: i32) -> Outcome<Vec<i64>> {
    (0..queues)
        .map(|queue| {
            let queue = queue.to_string();
            let fields = [("topic", topic), ("consumerGroup", group), ("queueId", queue.as_str())];
            let answer = conn.call(code::QUERY_CONSUMER_OFFSET, &fields, &[])?;
            if answer.code == 0 { answer.num("offset") } else { Ok(0) }
        })
        .collect()
}
