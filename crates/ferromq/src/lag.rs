//! `ferromq lag`: how far a group is behind, by queue and topic, and when it will have caught up. The lag is what its filter
//! wants of the messages nobody has got yet, and those that its members have in hand.

use crate::cli::LagArgs;
use crate::{Failure, connect, printer};
use ferromq_client::Backlog;
use serde_json::json;
use std::time::Duration;

/// Prints what the group has still to read.
pub fn run(arguments: LagArgs) -> Result<(), Failure> {
    connect::block_on(async {
        let client = connect::client(&arguments.cluster)?;
        let backlog = client.admin().backlog(&arguments.group).await;
        let mut topics = backlog.map_err(|error| connect::explain(&error, &arguments.cluster))?;
        client.shutdown().await;
        topics.retain(|backlog| arguments.topic.as_ref().is_none_or(|topic| backlog.topic == *topic));
        if topics.is_empty() {
            let of_topic = arguments.topic.map(|topic| format!(" in topic {topic}")).unwrap_or_default();
            return Err(Failure(format!(
                "group {} has no offsets{of_topic}: it has consumed nothing yet",
                arguments.group
            )));
        }
        printer::lines(if arguments.json { topics.iter().map(as_json).collect() } else { table(&topics) });
        Ok(())
    })
}

fn table(topics: &[Backlog]) -> Vec<String> {
    let row = |cells: [&str; 8]| {
        let [place, end, consumed, lag, in_flight, behind, rates, drained] = cells;
        format!("{place:<40} {end:>12} {consumed:>12} {lag:>10} {in_flight:>10} {behind:>9} {rates:>19} {drained:>10}")
            .trim_end()
            .to_owned()
    };
    let mut lines =
        vec![row(["TOPIC / QUEUE", "END", "CONSUMED", "LAG", "IN FLIGHT", "BEHIND", "IN/S  OUT/S", "DRAINED IN"])];
    for topic in topics {
        let drained = topic.drained_in().map_or_else(|| "never".to_owned(), seconds);
        let rates = format!("{:.1}  {:.1}", topic.sent_rate, topic.read_rate);
        let (lag, in_flight) = (topic.lag().to_string(), topic.in_flight().to_string());
        lines.push(row([&topic.topic, "", "", &lag, &in_flight, &seconds(topic.behind()), &rates, &drained]));
        for queue in &topic.queues {
            let place = format!("  {} {}", queue.queue.broker_name, queue.queue.queue_id);
            let [end, consumed, lag, in_flight] =
                [queue.end, queue.consumed, queue.lag(), queue.in_flight].map(|number| number.to_string());
            lines.push(row([&place, &end, &consumed, &lag, &in_flight, &seconds(queue.behind), "", ""]));
        }
    }
    lines
}

fn as_json(topic: &Backlog) -> String {
    let queues = topic.queues.iter().map(|queue| {
        json!({
            "broker": queue.queue.broker_name,
            "queue": queue.queue.queue_id,
            "end": queue.end,
            "consumed": queue.consumed,
            "lag": queue.lag(),
            "inFlight": queue.in_flight,
            "ready": queue.ready,
            "behindSeconds": queue.behind.as_secs_f64(),
        })
    });
    json!({
        "topic": topic.topic,
        "lag": topic.lag(),
        "inFlight": topic.in_flight(),
        "behindSeconds": topic.behind().as_secs_f64(),
        "sentPerSecond": topic.sent_rate,
        "readPerSecond": topic.read_rate,
        "drainedInSeconds": topic.drained_in().map(|time| time.as_secs_f64()),
        "queues": queues.collect::<Vec<_>>(),
    })
    .to_string()
}

fn seconds(time: Duration) -> String {
    match time.as_secs() {
        0 if time.is_zero() => "0 s".to_owned(),
        0..=9 => format!("{:.1} s", time.as_secs_f64()),
        whole => format!("{whole} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_says_what_is_behind_and_never() {
        let backlog = Backlog { topic: "T".into(), queues: Vec::new(), sent_rate: 2.0, read_rate: 1.0 };
        let lines = table(&[backlog]);
        assert!(lines[0].starts_with("TOPIC / QUEUE") && lines[0].ends_with("DRAINED IN"), "{}", lines[0]);
        assert!(lines[1].ends_with("2.0  1.0        0 s"), "{}", lines[1]);
        assert_eq!(
            (seconds(Duration::from_millis(1500)), seconds(Duration::from_secs(75))),
            ("1.5 s".into(), "75 s".into())
        );
    }
}
