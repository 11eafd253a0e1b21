//! Many producers, one topic, two groups of many consumers.

use ferromq_contract::cluster::Cluster;
use ferromq_contract::runner::{Case, Client, Lab};
use ferromq_contract::{Outcome, ensure_eq, scale};

pub fn cases() -> Vec<Case> {
    vec![Case::alone("fanout::eight_producers_two_groups_of_eight", eight_by_eight)]
}

/// 1,000,000 messages (`FERROMQ_FANOUT`) by 8 producers over 8 queues to 8 consumers of an orderly group and 8 of a
/// concurrent one. Requests carry 1 to `FERROMQ_FANOUT_BATCH` messages in turn.
fn eight_by_eight(lab: &Lab) -> Outcome {
    let total = scale("FERROMQ_FANOUT", 1_000_000);
    let batch = scale("FERROMQ_FANOUT_BATCH", 15).to_string();
    let driver = lab.driver(Client::Java5)?;
    let mut cluster = Cluster::start(&lab.tools, lab.make, &lab.folder("fanout")?, &[])?;
    let topic = lab.name("fanout");
    cluster.create_topic(&topic, 8)?;
    let (namesrv, total_text) = (cluster.namesrv.addr.as_str(), total.to_string());
    let fields = [
        ("namesrv", namesrv),
        ("topic", topic.as_str()),
        ("total", &total_text),
        ("batch", &batch),
        ("seconds", "380"),
    ];
    let groups = driver.call("fan", &fields)?;
    ensure_eq!(groups.len(), 2, "groups");
    for group in &groups {
        let name = group.get("group");
        lab.tell(&format!(
            "{name}: {} received, {} ms until sent, {} ms until received",
            group.get("received"),
            group.get("sendms"),
            group.get("totalms")
        ));
        let sent = total / 8 * 8;
        for key in ["sent", "received", "distinct"] {
            ensure_eq!(group.num(key)? as u64, sent, "{key} by {name} ({:?})", group.0);
        }
        for key in ["duplicates", "disorder", "idleconsumers"] {
            ensure_eq!(group.num(key)?, 0, "{key} in {name} ({:?})", group.0);
        }
    }
    cluster.broker.stop()
}
