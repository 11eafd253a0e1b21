//! How far a group is behind: messages, time, rates, and how long it needs to catch up.

use std::collections::BTreeMap;
use std::time::Duration;

use ferromq_protocol::FrameWriter;
use ferromq_protocol::Text;
use ferromq_protocol::body::{
    BrokerStatsData, ConsumeStats, OffsetWrapper, QueryConsumeTimeSpanBody, QueueLag, TopicList,
};
use ferromq_protocol::code::{request, response};
use ferromq_protocol::header::admin::ViewBrokerStatsDataHeader;
use ferromq_protocol::header::group::{GetConsumeStatsHeader, GroupHeader, QueryConsumeTimeSpanHeader};

use crate::admin::Admin;
use crate::client::body_of;
use crate::error::Result;
use crate::message::MessageQueue;

/// One queue of a [`Backlog`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueBacklog {
    /// Which queue.
    pub queue: MessageQueue,
    /// Its end.
    pub end: i64,
    /// Up to where the group has consumed.
    pub consumed: i64,
    /// Messages that no member of the group has got yet.
    pub ready: i64,
    /// Messages that members have got and are not done with.
    pub in_flight: i64,
    /// For how long the oldest of both has waited.
    pub behind: Duration,
}

impl QueueBacklog {
    /// Messages not consumed yet.
    pub fn lag(&self) -> i64 {
        self.ready + self.in_flight
    }
}

/// What a group has still to read of one topic.
#[derive(Clone, Debug, PartialEq)]
pub struct Backlog {
    /// The topic.
    pub topic: String,
    /// Its queues on all brokers.
    pub queues: Vec<QueueBacklog>,
    /// Messages a second that producers sent during the last minute.
    pub sent_rate: f64,
    /// Messages a second that the group read during the last minute.
    pub read_rate: f64,
}

impl Backlog {
    /// Messages not consumed yet.
    pub fn lag(&self) -> i64 {
        self.queues.iter().map(QueueBacklog::lag).sum()
    }

    /// Those of them that members of the group have in hand.
    pub fn in_flight(&self) -> i64 {
        self.queues.iter().map(|queue| queue.in_flight).sum()
    }

    /// For how long the oldest of them has waited.
    pub fn behind(&self) -> Duration {
        self.queues.iter().map(|queue| queue.behind).max().unwrap_or_default()
    }

    /// When the group has caught up at the rates of the last minute; `None` when it never does.
    pub fn drained_in(&self) -> Option<Duration> {
        let (lag, gain) = (self.lag(), self.read_rate - self.sent_rate);
        match lag {
            0 => Some(Duration::ZERO),
            _ if gain > 0.0 => Duration::try_from_secs_f64(lag as f64 / gain).ok(),
            _ => None,
        }
    }
}

impl Admin {
    /// What a group has still to read, by topic, over all masters.
    pub async fn backlog(&self, group: &str) -> Result<Vec<Backlog>> {
        let mut topics: BTreeMap<String, Backlog> = BTreeMap::new();
        for addr in self.masters(None).await?.into_values() {
            for topic in self.topics_of(&addr, group).await? {
                let stats = self.consume_stats(&addr, group, &topic).await?;
                // A Java broker does not count what waits, but knows for how long it has waited.
                let spans = match stats.offset_table.values().all(|offsets| offsets.lag.is_some()) {
                    true => QueryConsumeTimeSpanBody::default(),
                    false => self.time_span(&addr, group, &topic).await?,
                };
                let backlog = topics.entry(topic.clone()).or_insert_with(|| Backlog {
                    topic: topic.clone(),
                    queues: Vec::new(),
                    sent_rate: 0.0,
                    read_rate: 0.0,
                });
                backlog.read_rate += stats.consume_tps;
                backlog.sent_rate += self.sent_rate(&addr, &topic).await?;
                for (queue, offsets) in stats.offset_table {
                    let counted = offsets.lag.unwrap_or_else(|| by_offsets(&offsets, &queue, &spans));
                    backlog.queues.push(QueueBacklog {
                        queue: MessageQueue {
                            topic: queue.topic,
                            broker_name: queue.broker_name,
                            queue_id: queue.queue_id,
                        },
                        end: offsets.broker_offset,
                        consumed: offsets.consumer_offset,
                        ready: counted.ready,
                        in_flight: counted.in_flight,
                        behind: Duration::from_millis(counted.delay_time.max(0).unsigned_abs()),
                    });
                }
            }
        }
        Ok(topics.into_values().collect())
    }

    async fn topics_of(&self, addr: &str, group: &str) -> Result<Vec<String>> {
        let header = GroupHeader { group: Text::plain(group) };
        let fields = |writer: &mut FrameWriter<'_>| header.write(writer);
        let answer = self.client.shared.ask(addr, request::QUERY_TOPICS_BY_CONSUMER, fields, &[]).await?;
        let list: TopicList = body_of(addr, &answer)?;
        Ok(list.topic_list.into_iter().collect())
    }

    async fn consume_stats(&self, addr: &str, group: &str, topic: &str) -> Result<ConsumeStats> {
        let header = GetConsumeStatsHeader {
            consumer_group: Text::plain(group),
            topic: Some(Text::plain(topic)),
            lag: true,
            ..GetConsumeStatsHeader::default()
        };
        let fields = |writer: &mut FrameWriter<'_>| header.write(writer);
        let answer = self.client.shared.ask(addr, request::GET_CONSUME_STATS, fields, &[]).await?;
        body_of(addr, &answer)
    }

    async fn time_span(&self, addr: &str, group: &str, topic: &str) -> Result<QueryConsumeTimeSpanBody> {
        let header = QueryConsumeTimeSpanHeader { topic: Text::plain(topic), group: Text::plain(group) };
        let fields = |writer: &mut FrameWriter<'_>| header.write(writer);
        let answer = self.client.shared.ask(addr, request::QUERY_CONSUME_TIME_SPAN, fields, &[]).await?;
        body_of(addr, &answer)
    }

    /// Messages a second sent to a topic during the last minute; what never moved has no statistics.
    async fn sent_rate(&self, addr: &str, topic: &str) -> Result<f64> {
        let header =
            ViewBrokerStatsDataHeader { stats_name: Text::plain("TOPIC_PUT_NUMS"), stats_key: Text::plain(topic) };
        let fields = |writer: &mut FrameWriter<'_>| header.write(writer);
        match self.client.shared.ask(addr, request::VIEW_BROKER_STATS_DATA, fields, &[]).await {
            Ok(answer) => body_of::<BrokerStatsData>(addr, &answer).map(|data| data.stats_minute.tps),
            Err(e) if e.code() == Some(response::SYSTEM_ERROR) => Ok(0.0),
            Err(e) => Err(e),
        }
    }
}

/// What waits in a queue by its offsets alone, whatever the group's filter leaves out.
fn by_offsets(
    offsets: &OffsetWrapper,
    queue: &ferromq_protocol::body::MessageQueue,
    spans: &QueryConsumeTimeSpanBody,
) -> QueueLag {
    let pulled = offsets.pull_offset.max(offsets.consumer_offset).min(offsets.broker_offset);
    let span = spans.consume_time_span_set.iter().find(|span| span.message_queue.as_ref() == Some(queue));
    QueueLag {
        ready: offsets.broker_offset - pulled,
        in_flight: (pulled - offsets.consumer_offset).max(0),
        delay_time: span.map_or(0, |span| span.delay_time),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backlog(lag: i64, sent_rate: f64, read_rate: f64) -> Backlog {
        let queue = MessageQueue { topic: "T".into(), broker_name: "b".into(), queue_id: 0 };
        let (ready, in_flight, behind) = (lag - lag / 3, lag / 3, Duration::from_secs(3));
        let queues = vec![QueueBacklog { queue, end: 10, consumed: 10 - lag, ready, in_flight, behind }];
        Backlog { topic: "T".into(), queues, sent_rate, read_rate }
    }

    #[test]
    fn a_group_catches_up_when_it_reads_faster_than_producers_send() {
        assert_eq!(backlog(10, 5.0, 10.0).drained_in(), Some(Duration::from_secs(2)));
        assert_eq!(backlog(10, 10.0, 10.0).drained_in(), None);
        assert_eq!(backlog(0, 10.0, 0.0).drained_in(), Some(Duration::ZERO));
    }

    #[test]
    fn a_java_brokers_offsets_tell_what_is_in_flight_and_no_lag_is_negative() {
        let counted = |broker_offset, consumer_offset, pull_offset| {
            let offsets = OffsetWrapper { broker_offset, consumer_offset, pull_offset, ..OffsetWrapper::default() };
            let lag = by_offsets(&offsets, &Default::default(), &QueryConsumeTimeSpanBody::default());
            (lag.ready, lag.in_flight)
        };
        assert_eq!(counted(100, 60, 90), (10, 30));
        assert_eq!(counted(100, 60, -1), (40, 0));
        assert_eq!(counted(5, 60, 90), (0, 0));
    }
}
