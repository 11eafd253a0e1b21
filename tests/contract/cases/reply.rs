//! Request-reply with the official clients: the answer comes back to the producer that asked.

use crate::common::{JAVA, Stage};
use ferromq_contract::driver::Msg;
use ferromq_contract::runner::{Case, Client, Lab};
use ferromq_contract::{Outcome, ensure_eq};
use std::time::Duration;

pub fn cases() -> Vec<Case> {
    JAVA.map(|client| {
        Case::shared(format!("reply::requests_are_answered-{}", client.label()), move |lab| answered(lab, client))
    })
    .into()
}

fn answered(lab: &Lab, client: Client) -> Outcome {
    let stage = Stage::new(lab, client, "request", 2)?;
    let (asker, replier) = (stage.producer(&[])?, stage.producer(&[])?);
    let group = stage.name("group");
    let consumer = stage.consumer(&group, &[("replier", &replier)])?;
    // The first message shows that the consumer listens; its reply has nobody to go to. The asker does not send it: a
    // producer without a route tells the broker of itself with its first request, others with their next heartbeat.
    stage.driver.send(&replier, "sync", &[Msg::new(&stage.topic, "a message")])?;
    stage.driver.wait_events(&consumer, 1, crate::common::DELIVERY)?;
    for n in 0..20 {
        let body = format!("question {n}");
        let message = [Msg::new(&stage.topic, body.as_str())];
        let rows = stage.driver.begin("request", &[("name", &asker), ("timeout", "20000")], &message)?.rows()?;
        let reply = &rows[0];
        ensure_eq!(reply.get("body"), format!("reply to {body}"), "the reply");
        ensure_eq!(reply.get("topic"), "DefaultCluster_REPLY_TOPIC", "the topic of the reply");
        ensure_eq!(
            reply.get("p.PUSH_REPLY_TIME").is_empty(),
            false,
            "whether the broker notes when it pushed the reply"
        );
    }
    stage.driver.wait_events(&consumer, 21, Duration::from_secs(10))?;
    stage.stop(&consumer)?;
    stage.stop(&replier)?;
    stage.stop(&asker)
}
