//! Request code -> answer, on one page (RocketMQ 5.5 `DefaultRequestProcessor` and `ClientRequestProcessor`).
//!
//! Owns the locks around the route table, the key-value table and the settings. Runs on the thread that read the
//! request; nothing here waits for the network. Must not know sockets: a connection is a number.

use std::borrow::Cow;
use std::time::Instant;

use ferromq_common::config::apply;
use ferromq_common::json_file;
use ferromq_common::properties::Properties;
use ferromq_protocol::body::{DataVersion, GetBrokerMemberGroupResponseBody, TopicList, TopicRouteData};
use ferromq_protocol::code::{request, response};
use ferromq_protocol::header::namesrv::{
    BrokerHeartbeatHeader, DeleteTopicFromNamesrvHeader, GetBrokerMemberGroupHeader, GetKvListByNamespaceHeader,
    GetRouteInfoHeader, GetTopicsByClusterHeader, KvConfigHeader, PutKvConfigHeader, RegisterBrokerHeader,
    UnregisterBrokerHeader, WritePermOfBrokerHeader,
};
use ferromq_protocol::header::topic::TopicHeader;
use ferromq_protocol::{Command, FieldError, FrameWriter, HeaderError, Text, json};
use parking_lot::RwLock;

use crate::config::{KEYS, NamesrvConfig};
use crate::kv::{KvConfig, NAMESPACE_ORDER_TOPIC_CONFIG};
use crate::register_body;
use crate::route::{self, DEFAULT_HEARTBEAT_TIMEOUT_MS, Registration, RouteTable};

/// Extension fields that brokers and clients may add (RocketMQ `MixAll`): their zone, and whether routes are limited to it.
const ZONE_NAME: &str = "__ZONE_NAME";
const ZONE_MODE: &str = "__ZONE_MODE";
/// The page that RocketMQ's remark about an unknown topic names.
const APPLY_TOPIC_URL: &str = "https://rocketmq.apache.org/docs/bestPractice/06FAQ";

/// Everything a NameServer knows.
#[derive(Debug)]
pub struct State {
    pub routes: RwLock<RouteTable>,
    pub kv: RwLock<KvConfig>,
    pub config: RwLock<NamesrvConfig>,
    /// Zero of the clock that the route table sees.
    pub started: Instant,
}

/// An answer other than success.
struct Refusal {
    code: i32,
    remark: String,
}

impl Refusal {
    fn new(code: i32, remark: impl Into<String>) -> Self {
        Self { code, remark: remark.into() }
    }
}

impl From<FieldError> for Refusal {
    fn from(e: FieldError) -> Self {
        Self::new(response::SYSTEM_ERROR, e.to_string())
    }
}

impl From<HeaderError> for Refusal {
    fn from(e: HeaderError) -> Self {
        Self::new(response::SYSTEM_ERROR, e.to_string())
    }
}

impl From<serde_json::Error> for Refusal {
    fn from(e: serde_json::Error) -> Self {
        Self::new(response::SYSTEM_ERROR, format!("cannot write the answer as JSON: {e}"))
    }
}

/// Success: fields of the header and the body.
#[derive(Default)]
struct Answer {
    fields: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn body(body: Vec<u8>) -> Result<Self, Refusal> {
        Ok(Self { fields: Vec::new(), body })
    }

    fn field(key: &'static str, value: impl ToString) -> Result<Self, Refusal> {
        Ok(Self { fields: vec![(key, value.to_string())], body: Vec::new() })
    }
}

type Outcome = Result<Answer, Refusal>;

impl State {
    /// Milliseconds since the start.
    pub fn now_ms(&self) -> i64 {
        self.started.elapsed().as_millis() as i64
    }

    /// Appends the answer to one request; nothing for a one-way request.
    pub fn serve(&self, connection: u64, command: &Command<'_>, out: &mut Vec<u8>) {
        let outcome = self.answer(connection, command);
        if command.head.is_oneway() {
            return;
        }
        match outcome {
            Ok(answer) => {
                let mut writer = FrameWriter::response(out, &command.head, response::SUCCESS);
                for (key, value) in &answer.fields {
                    writer.str(key, value);
                }
                writer.finish_with_body(&answer.body);
            }
            Err(refusal) => {
                let mut writer = FrameWriter::response(out, &command.head, refusal.code);
                writer.remark(&refusal.remark);
                writer.finish();
            }
        }
    }

    fn answer(&self, connection: u64, c: &Command<'_>) -> Outcome {
        match c.head.code {
            request::GET_ROUTEINFO_BY_TOPIC => self.route_info(c),
            request::REGISTER_BROKER => self.register_broker(connection, c),
            request::UNREGISTER_BROKER => self.unregister_broker(c),
            request::BROKER_HEARTBEAT => self.broker_heartbeat(c),
            request::QUERY_DATA_VERSION => self.query_data_version(c),
            request::GET_BROKER_CLUSTER_INFO => self.cluster_info(c),
            request::GET_BROKER_MEMBER_GROUP => self.member_group(c),
            request::GET_ALL_TOPIC_LIST_FROM_NAMESERVER => {
                let enabled = self.config.read().enable_all_topic_list;
                self.topic_list(enabled, RouteTable::all_topics)
            }
            request::GET_TOPICS_BY_CLUSTER => {
                let cluster = GetTopicsByClusterHeader::read(&c.fields)?.cluster.to_str()?;
                self.topic_list(self.lists_enabled(), |routes| routes.topics_of_cluster(&cluster))
            }
            request::GET_SYSTEM_TOPIC_LIST_FROM_NS => self.topic_list(true, RouteTable::system_topics),
            request::GET_UNIT_TOPIC_LIST => self.topic_list(self.lists_enabled(), RouteTable::unit_topics),
            request::GET_HAS_UNIT_SUB_TOPIC_LIST => self.topic_list(self.lists_enabled(), RouteTable::unit_sub_topics),
            request::GET_HAS_UNIT_SUB_UNUNIT_TOPIC_LIST => {
                self.topic_list(self.lists_enabled(), RouteTable::unit_sub_un_unit_topics)
            }
            request::DELETE_TOPIC_IN_NAMESRV => {
                let header = DeleteTopicFromNamesrvHeader::read(&c.fields)?;
                let cluster = header.cluster_name.as_ref().map(Text::to_str).transpose()?;
                self.routes.write().delete_topic(&header.topic.to_str()?, cluster.as_deref());
                Ok(Answer::default())
            }
            request::REGISTER_TOPIC_IN_NAMESRV => {
                let topic = TopicHeader::read(&c.fields)?.topic.to_str()?;
                let route: TopicRouteData = from_json(c.body)?;
                if !route.queue_datas.is_empty() && !self.routes.write().register_topic(&topic, route.queue_datas) {
                    tracing::warn!(%topic, "topic was registered with a broker that has not registered itself");
                }
                Ok(Answer::default())
            }
            request::WIPE_WRITE_PERM_OF_BROKER => {
                let broker_name = WritePermOfBrokerHeader::read(&c.fields)?.broker_name.to_str()?;
                let count = self.routes.write().wipe_write_perm(&broker_name);
                Answer::field("wipeTopicCount", count)
            }
            request::ADD_WRITE_PERM_OF_BROKER => {
                let broker_name = WritePermOfBrokerHeader::read(&c.fields)?.broker_name.to_str()?;
                let count = self.routes.write().add_write_perm(&broker_name);
                Answer::field("addTopicCount", count)
            }
            request::PUT_KV_CONFIG => {
                let h = PutKvConfigHeader::read(&c.fields)?;
                let put = self.kv.write().put(&h.namespace.to_str()?, &h.key.to_str()?, &h.value.to_str()?);
                put.map(|()| Answer::default()).map_err(|e| Refusal::new(response::SYSTEM_ERROR, e.to_string()))
            }
            request::DELETE_KV_CONFIG => {
                let (namespace, key) = kv_key(c)?;
                let deleted = self.kv.write().delete(&namespace, &key);
                deleted.map(|()| Answer::default()).map_err(|e| Refusal::new(response::SYSTEM_ERROR, e.to_string()))
            }
            request::GET_KV_CONFIG => {
                let (namespace, key) = kv_key(c)?;
                match self.kv.read().get(&namespace, &key) {
                    Some(value) => Answer::field("value", value),
                    None => Err(Refusal::new(
                        response::QUERY_NOT_FOUND,
                        format!("No config item, Namespace: {namespace} Key: {key}"),
                    )),
                }
            }
            request::GET_KVLIST_BY_NAMESPACE => {
                let namespace = GetKvListByNamespaceHeader::read(&c.fields)?.namespace.to_str()?;
                match self.kv.read().namespace(&namespace) {
                    Some(table) => Answer::body(json::to_vec_standard(&table)?),
                    None => {
                        Err(Refusal::new(response::QUERY_NOT_FOUND, format!("No config item, Namespace: {namespace}")))
                    }
                }
            }
            request::UPDATE_NAMESRV_CONFIG => self.update_config(c.body),
            request::GET_NAMESRV_CONFIG => Answer::body(self.config.read().to_properties().into_bytes()),
            code => {
                Err(Refusal::new(response::REQUEST_CODE_NOT_SUPPORTED, format!(" request type {code} not supported")))
            }
        }
    }

    fn lists_enabled(&self) -> bool {
        self.config.read().enable_topic_list
    }

    fn topic_list(&self, enabled: bool, list: impl FnOnce(&RouteTable) -> TopicList) -> Outcome {
        if !enabled {
            return Err(Refusal::new(response::SYSTEM_ERROR, "disable"));
        }
        let list = list(&self.routes.read());
        Answer::body(json::to_vec_standard(&list)?)
    }

    fn route_info(&self, c: &Command<'_>) -> Outcome {
        let header = GetRouteInfoHeader::read(&c.fields)?;
        let topic = header.topic.to_str()?;
        let (acting_master, order, wait) = {
            let config = self.config.read();
            let wait =
                config.need_wait_for_service && self.started.elapsed().as_secs() < config.wait_seconds_for_service;
            (config.support_acting_master, config.order_message_enable, wait)
        };
        if wait {
            return Err(Refusal::new(response::SYSTEM_ERROR, "name server not ready"));
        }
        let Some(mut route) = self.routes.read().route(&topic, acting_master) else {
            return Err(Refusal::new(
                response::TOPIC_NOT_EXIST,
                format!(
                    "No topic route info in name server for the topic: {topic}\nSee {APPLY_TOPIC_URL} for further details."
                ),
            ));
        };
        if order {
            route.order_topic_conf = self.kv.read().get(NAMESPACE_ORDER_TOPIC_CONFIG, &topic).map(str::to_owned);
        }
        if c.fields.opt_bool(ZONE_MODE) == Some(true)
            && let Some(zone) = c.fields.opt_str(ZONE_NAME).filter(|z| !z.trim().is_empty())
        {
            route::filter_by_zone(&mut route, &zone);
        }
        Answer::body(json::to_vec_for(c, &route)?)
    }

    fn register_broker(&self, connection: u64, c: &Command<'_>) -> Outcome {
        let h = RegisterBrokerHeader::read(&c.fields)?;
        let (cluster, broker_name) = (h.cluster_name.to_str()?, h.broker_name.to_str()?);
        let (broker_addr, ha_server_addr) = (h.broker_addr.to_str()?, h.ha_server_addr.to_str()?);
        let zone = c.fields.opt_str(ZONE_NAME);
        let registration = Registration {
            cluster: &cluster,
            broker_name: &broker_name,
            broker_addr: &broker_addr,
            broker_id: h.broker_id,
            ha_server_addr: &ha_server_addr,
            zone_name: zone.as_deref(),
            heartbeat_timeout_ms: h.heartbeat_timeout_millis.unwrap_or(DEFAULT_HEARTBEAT_TIMEOUT_MS),
            enable_acting_master: h.enable_acting_master,
            connection,
        };
        let body = register_body::read(c.body, h.compressed, h.body_crc32, c.head.version)
            .inspect_err(|e| tracing::warn!(%broker_name, %broker_addr, "broker refused: {e}"))
            .map_err(|e| Refusal::new(response::SYSTEM_ERROR, e.to_string()))?;
        let outcome = self.routes.write().register(&registration, body, self.now_ms());
        let registered = outcome.map_err(|e| {
            tracing::warn!(%broker_name, %broker_addr, id = registration.broker_id, "broker refused: {e}");
            Refusal::new(response::SYSTEM_ERROR, e.to_string())
        })?;
        if registered.outdated {
            tracing::warn!(%broker_name, %broker_addr, "registration ignored: a newer broker holds this id");
        }
        if registered.skipped_topics > 0 {
            tracing::warn!(%broker_name, skipped = registered.skipped_topics, "topics left out of the routes: illegal name or table full");
        }
        let mut answer = Answer::default();
        answer.fields.extend(registered.ha_server_addr.map(|a| ("haServerAddr", a)));
        answer.fields.extend(registered.master_addr.map(|a| ("masterAddr", a)));
        if self.config.read().return_order_topic_config_to_broker
            && let Some(table) = self.kv.read().namespace(NAMESPACE_ORDER_TOPIC_CONFIG)
        {
            answer.body = json::to_vec_standard(&table)?;
        }
        Ok(answer)
    }

    fn unregister_broker(&self, c: &Command<'_>) -> Outcome {
        let h = UnregisterBrokerHeader::read(&c.fields)?;
        let (cluster, addr, name) = (h.cluster_name.to_str()?, h.broker_addr.to_str()?, h.broker_name.to_str()?);
        let known = self.routes.write().unregister(&cluster, &addr, &name);
        tracing::info!(broker = %name, %addr, known, "broker unregistered");
        Ok(Answer::default())
    }

    fn broker_heartbeat(&self, c: &Command<'_>) -> Outcome {
        let h = BrokerHeartbeatHeader::read(&c.fields)?;
        let (cluster, addr) = (h.cluster_name.to_str()?, h.broker_addr.to_str()?);
        self.routes.write().heartbeat(&cluster, &addr, self.now_ms());
        Ok(Answer::default())
    }

    fn query_data_version(&self, c: &Command<'_>) -> Outcome {
        let h = UnregisterBrokerHeader::read(&c.fields)?;
        let (cluster, addr) = (h.cluster_name.to_str()?, h.broker_addr.to_str()?);
        let theirs: DataVersion = from_json(c.body)?;
        let mut routes = self.routes.write();
        routes.heartbeat(&cluster, &addr, self.now_ms());
        let ours = routes.data_version(&cluster, &addr);
        let mut answer = Answer::field("changed", ours != Some(&theirs))?;
        if let Some(ours) = ours {
            answer.body = json::to_vec_standard(ours)?;
        }
        Ok(answer)
    }

    fn cluster_info(&self, c: &Command<'_>) -> Outcome {
        let info = self.routes.read().cluster_info();
        Answer::body(json::to_vec_for(c, &info)?)
    }

    fn member_group(&self, c: &Command<'_>) -> Outcome {
        let h = GetBrokerMemberGroupHeader::read(&c.fields)?;
        let group = self.routes.read().member_group(&h.cluster_name.to_str()?, &h.broker_name.to_str()?);
        let body = GetBrokerMemberGroupResponseBody { broker_member_group: Some(group) };
        Answer::body(json::to_vec_for(c, &body)?)
    }

    /// Changes settings and writes them to `configStorePath`. Unknown keys are passed over, as in RocketMQ.
    fn update_config(&self, body: &[u8]) -> Outcome {
        let refuse = |remark: String| Refusal::new(response::SYSTEM_ERROR, remark);
        let properties = Properties::parse(body).map_err(|e| refuse(e.to_string()))?;
        let mut config = self.config.write();
        if properties.entries().iter().any(|entry| config.is_protected(&entry.key)) {
            return Err(Refusal::new(response::NO_PERMISSION, "Can not update config in black list."));
        }
        let mut changed = config.clone();
        apply(KEYS, properties.entries(), &mut changed).map_err(|e| refuse(e.to_string()))?;
        json_file::store(&changed.config_store_path, changed.to_properties().as_bytes())
            .map_err(|e| refuse(format!("cannot write {}: {e}", changed.config_store_path.display())))?;
        self.routes.write().delete_missing_topics = changed.delete_topic_with_broker_registration;
        *config = changed;
        Ok(Answer::default())
    }
}

fn from_json<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    json::from_slice(bytes)
        .map_err(|e| Refusal::new(response::SYSTEM_ERROR, format!("cannot read the body as JSON: {e}")))
}

fn kv_key<'a>(c: &Command<'a>) -> Result<(Cow<'a, str>, Cow<'a, str>), Refusal> {
    let header = KvConfigHeader::read(&c.fields)?;
    Ok((header.namespace.to_str()?, header.key.to_str()?))
}
