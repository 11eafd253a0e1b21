//! Admin calls: topics, routes, the cluster, single messages (RocketMQ 5.5 `MQAdminExt`).

use std::collections::BTreeMap;

use ferromq_protocol::body::{ClusterInfo, TopicList, TopicRouteData};
use ferromq_protocol::code::{request, response};
use ferromq_protocol::header::namesrv::DeleteTopicFromNamesrvHeader;
use ferromq_protocol::header::query::{QueryMessageHeader, ViewMessageHeader};
use ferromq_protocol::header::send::ConsumerSendMsgBackHeader;
use ferromq_protocol::header::topic::{CreateTopicHeader, TopicHeader};
use ferromq_protocol::{FrameWriter, Text, id, sys_flag, topic};

use crate::client::{Client, MASTER_ID, body_of};
use crate::decode;
use crate::error::{Error, Result};
use crate::message::ReceivedMessage;

/// Settings of a topic to create or change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSettings {
    /// Its name.
    pub topic: String,
    /// Queues that are read, on each broker.
    pub read_queue_nums: i32,
    /// Queues that are written, on each broker.
    pub write_queue_nums: i32,
    /// 4 read, 2 write, 1 inherit, added up.
    pub perm: i32,
    /// Order-sensitive topic: sends to it are refused while the broker is not writeable.
    pub order: bool,
    /// Attributes as `mqadmin updateTopic -a` takes them, e.g. `+message.type=FIFO`; empty for none.
    pub attributes: String,
}

impl TopicSettings {
    /// 8 queues, readable and writeable, as `mqadmin updateTopic` has it.
    pub fn new(topic: impl Into<String>) -> Self {
        Self {
            topic: topic.into(),
            read_queue_nums: 8,
            write_queue_nums: 8,
            perm: sys_flag::perm::READ | sys_flag::perm::WRITE,
            order: false,
            attributes: String::new(),
        }
    }
}

/// Admin calls.
pub struct Admin {
    pub(crate) client: Client,
}

impl Client {
    /// Admin calls on this cluster.
    pub fn admin(&self) -> Admin {
        Admin { client: self.clone() }
    }
}

impl Admin {
    /// All brokers and clusters.
    pub async fn cluster_info(&self) -> Result<ClusterInfo> {
        let answer = self.client.shared.ask_namesrv(request::GET_BROKER_CLUSTER_INFO, |_| {}, &[]).await?;
        body_of("name server", &answer)
    }

    /// Names of all topics.
    pub async fn topics(&self) -> Result<TopicList> {
        let code = request::GET_ALL_TOPIC_LIST_FROM_NAMESERVER;
        let answer = self.client.shared.ask_namesrv(code, |_| {}, &[]).await?;
        body_of("name server", &answer)
    }

    /// Brokers and queues of a topic.
    pub async fn topic_route(&self, topic: &str) -> Result<TopicRouteData> {
        Ok(self.client.shared.fetch_route(topic).await?.data.clone())
    }

    /// Creates or changes a topic on the master at `broker_addr`.
    pub async fn update_topic(&self, broker_addr: &str, settings: &TopicSettings) -> Result<()> {
        topic::validate_topic(&settings.topic).map_err(|e| Error::Illegal(e.to_string()))?;
        let header = CreateTopicHeader {
            topic: Text::plain(&settings.topic),
            default_topic: Text::plain(topic::AUTO_CREATE_TOPIC_KEY),
            read_queue_nums: settings.read_queue_nums,
            write_queue_nums: settings.write_queue_nums,
            perm: settings.perm,
            topic_filter_type: Text::plain("SINGLE_TAG"),
            topic_sys_flag: Some(0),
            order: settings.order,
            attributes: Some(Text::plain(&settings.attributes)).filter(|a| !a.is_empty()),
            force: None,
        };
        let fields = |writer: &mut FrameWriter<'_>| header.write(writer);
        self.client.shared.ask(broker_addr, request::UPDATE_AND_CREATE_TOPIC, fields, &[]).await.map(drop)
    }

    /// Creates or changes a topic on all masters of a cluster, or of all clusters; answers their addresses.
    pub async fn update_topic_in_cluster(
        &self,
        cluster: Option<&str>,
        settings: &TopicSettings,
    ) -> Result<Vec<String>> {
        let masters = self.masters(cluster).await?;
        for addr in masters.values() {
            self.update_topic(addr, settings).await?;
        }
        Ok(masters.into_values().collect())
    }

    /// Deletes a topic on all brokers of a cluster (or of all) and from all name servers. Its messages are gone.
    pub async fn delete_topic(&self, cluster: Option<&str>, topic: &str) -> Result<()> {
        let header = TopicHeader { topic: Text::plain(topic) };
        let fields = |writer: &mut FrameWriter<'_>| header.write(writer);
        let info = self.cluster_info().await?;
        let brokers = info.broker_addr_table.values().filter(|b| cluster.is_none_or(|c| c == b.cluster));
        for addr in brokers.flat_map(|b| b.broker_addrs.values()) {
            self.client.shared.ask(addr, request::DELETE_TOPIC_IN_BROKER, fields, &[]).await?;
        }
        for addr in self.client.shared.namesrvs() {
            let header =
                DeleteTopicFromNamesrvHeader { topic: Text::plain(topic), cluster_name: cluster.map(Text::plain) };
            let fields = |writer: &mut FrameWriter<'_>| header.write(writer);
            self.client.shared.ask(addr, request::DELETE_TOPIC_IN_NAMESRV, fields, &[]).await?;
        }
        Ok(())
    }

    /// Master address by broker name.
    pub async fn masters(&self, cluster: Option<&str>) -> Result<BTreeMap<String, String>> {
        let info = self.cluster_info().await?;
        let brokers = info.broker_addr_table.into_values().filter(|b| cluster.is_none_or(|c| c == b.cluster));
        let masters: BTreeMap<String, String> =
            brokers.filter_map(|mut b| b.broker_addrs.remove(&MASTER_ID).map(|addr| (b.broker_name, addr))).collect();
        if masters.is_empty() {
            let cluster = cluster.unwrap_or("any cluster");
            return Err(Error::Illegal(format!("no master is registered in {cluster}, start a broker")));
        }
        Ok(masters)
    }

    /// The message that an offset id names, read from the broker in the id; `None` when it is gone.
    pub async fn view_message(&self, offset_message_id: &str) -> Result<Option<ReceivedMessage>> {
        let (host, offset) = id::parse_offset_message_id(offset_message_id)
            .ok_or_else(|| Error::Illegal(format!("{offset_message_id:?} is not an offset message id")))?;
        let addr = host.to_string();
        let header = ViewMessageHeader { topic: None, offset: offset as i64 };
        let fields = |writer: &mut FrameWriter<'_>| header.write(writer);
        match self.client.shared.ask(&addr, request::VIEW_MESSAGE_BY_ID, fields, &[]).await {
            Ok(answer) => {
                let records = decode::records(answer.body(), "");
                let records = records.map_err(|reason| Error::BadAnswer { addr, reason })?;
                Ok(records.into_iter().next())
            }
            Err(e) if e.code() == Some(response::SYSTEM_ERROR) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Lets the broker copy a stored message to the retry topic of a group, from where only that group gets it, whatever
    /// the number of its tries (CONSUMER_SEND_MSG_BACK).
    pub async fn send_to_retry(&self, message: &ReceivedMessage, group: &str) -> Result<()> {
        /// The shortest delay level: what matters is that the message comes, not when.
        const SOON: i32 = 1;
        let addr = self.client.shared.master_addr(&message.queue.broker_name)?;
        let header = ConsumerSendMsgBackHeader {
            offset: message.commit_log_offset,
            group: Text::plain(group),
            delay_level: SOON,
            origin_msg_id: Some(Text::plain(message.message_id())),
            origin_topic: Some(Text::plain(&message.queue.topic)),
            unit_mode: false,
            max_reconsume_times: Some(i32::MAX),
        };
        let fields = |writer: &mut FrameWriter<'_>| header.write(writer);
        self.client.shared.ask(&addr, request::CONSUMER_SEND_MSG_BACK, fields, &[]).await.map(drop)
    }

    /// Messages of a topic with a key (or, with `unique`, with that unique id) stored in a span of time, milliseconds
    /// since 1970 UTC, from all its brokers.
    pub async fn query_message(
        &self,
        topic: &str,
        key: &str,
        unique: bool,
        max: u32,
        span_ms: std::ops::RangeInclusive<i64>,
    ) -> Result<Vec<ReceivedMessage>> {
        let shared = &self.client.shared;
        let route = shared.fetch_route(topic).await?;
        let mut found = Vec::new();
        for broker in &route.data.broker_datas {
            let addr = shared.read_addr(&broker.broker_name, MASTER_ID)?;
            let header = QueryMessageHeader {
                topic: Text::plain(topic),
                key: Text::plain(key),
                max_num: i32::try_from(max).unwrap_or(i32::MAX),
                begin_timestamp: *span_ms.start(),
                end_timestamp: *span_ms.end(),
                ..QueryMessageHeader::default()
            };
            let fields = |writer: &mut FrameWriter<'_>| {
                header.write(writer);
                if unique {
                    writer.bool("_UNIQUE_KEY_QUERY", true);
                }
            };
            match shared.ask(&addr, request::QUERY_MESSAGE, fields, &[]).await {
                Ok(answer) => {
                    let records = decode::records(answer.body(), &broker.broker_name);
                    found.extend(records.map_err(|reason| Error::BadAnswer { addr, reason })?);
                }
                Err(e) if e.code() == Some(response::QUERY_NOT_FOUND) => {}
                Err(e) => return Err(e),
            }
        }
        // The index holds hashes of keys: others may share one.
        found.retain(|m| if unique { m.message_id() == key } else { m.keys().any(|k| k == key) });
        Ok(found)
    }
}
