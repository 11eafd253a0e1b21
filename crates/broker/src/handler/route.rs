//! GET_ROUTEINFO_BY_TOPIC (105) of clients that know no NameServer, only the address of this process: the topic's queues
//! on this broker, at the address that the client itself used (`GetTopicRouteActivity` of RocketMQ's proxy in local mode).

use std::collections::BTreeMap;
use std::sync::Arc;

use ferromq_protocol::body::{BrokerData, QueueData, TopicRouteData};
use ferromq_protocol::code::response;
use ferromq_protocol::header::namesrv::GetRouteInfoHeader;
use ferromq_protocol::json;

use super::{Call, Refusal};
use crate::broker::Shared;

/// Code 105. On other ports it is not served, as in RocketMQ.
pub(crate) fn by_topic(broker: &Arc<Shared>, call: &Call<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let local = call.conn.local();
    let Some(door) = broker.front_door.get().filter(|door| door.port == local.port()) else {
        let remark = " request type 105 not supported: ask a NameServer, or the proxy";
        return Err(Refusal::new(response::REQUEST_CODE_NOT_SUPPORTED, remark));
    };
    let topic = GetRouteInfoHeader::read(&call.request.fields)?.topic.to_str()?;
    let Some(known) = broker.topics.get(&topic) else {
        let remark = format!("No topic route info in name server for the topic: {topic}");
        return Err(Refusal::new(response::TOPIC_NOT_EXIST, remark));
    };
    let (config, broker_name) = (known.config(), &broker.config.broker_name);
    let allowed = broker.live.broker_permission();
    let queues = QueueData {
        broker_name: broker_name.clone(),
        perm: config.perm & allowed,
        read_queue_nums: config.read_queue_nums,
        write_queue_nums: config.write_queue_nums,
        topic_sys_flag: config.topic_sys_flag,
    };
    let member = BrokerData {
        broker_addrs: BTreeMap::from([(broker.config.broker_id, (door.told)(local))]),
        broker_name: broker_name.clone(),
        cluster: broker.config.broker_cluster_name.clone(),
        ..BrokerData::default()
    };
    let route = TopicRouteData { broker_datas: vec![member], queue_datas: vec![queues], ..TopicRouteData::default() };
    let body = json::to_vec_for(call.request, &route)
        .map_err(|error| Refusal::new(response::SYSTEM_ERROR, format!("the route cannot be written: {error}")))?;
    call.respond(out, response::SUCCESS).finish_with_body(&body);
    Ok(())
}
