//! Admin requests about who is connected. And what all admin handlers use to read and write JSON bodies.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use ferromq_common::clock;
use ferromq_protocol::body::{
    Connection as ConnectionBody, ConsumerConnection, ProducerConnection, ProducerInfo, ProducerTableInfo,
};
use ferromq_protocol::code::response;
use ferromq_protocol::header::client::{GetConsumerConnectionListHeader, GetProducerConnectionListHeader};
use ferromq_protocol::{FrameWriter, Head, json, version};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Call, Refusal};
use crate::broker::Shared;
use crate::clients::Client;
use crate::persist::SaveSignal;

impl Call<'_> {
    /// The body, read in fastjson's dialect.
    pub(super) fn json_body<T: DeserializeOwned>(&self) -> Result<T, Refusal> {
        json::from_slice(self.request.body)
            .map_err(|e| Refusal::new(response::SYSTEM_ERROR, format!("the body of the request cannot be read: {e}")))
    }

    /// Answers with success and a body in fastjson's dialect.
    pub(super) fn respond_json(&self, out: &mut Vec<u8>, body: &impl Serialize) -> Result<(), Refusal> {
        self.respond_json_with(out, body, |_| {})
    }

    /// The same with header fields.
    pub(super) fn respond_json_with(
        &self,
        out: &mut Vec<u8>,
        body: &impl Serialize,
        fields: impl FnOnce(&mut FrameWriter<'_>),
    ) -> Result<(), Refusal> {
        write_json_with(&self.request.head, out, body, fields)
    }

    /// Answers with success once the change just made is on disk, from the thread that writes it; an answer says what lasts.
    pub(super) fn respond_when_saved(&self, saving: &SaveSignal) {
        let (connection, head) = (Arc::clone(self.conn), self.request.head);
        saving.when_saved(move |result| {
            if head.is_oneway() {
                return;
            }
            let told = connection.push(|out| match result {
                Ok(()) => FrameWriter::response(out, &head, response::SUCCESS).finish(),
                Err(why) => {
                    let mut answer = FrameWriter::response(out, &head, response::SYSTEM_ERROR);
                    answer.remark(&why);
                    answer.finish();
                }
            });
            if let Err(e) = told {
                tracing::debug!("{} is not told that its change is saved: {e}", connection.peer());
            }
        });
    }
}

/// As [`Call::respond_json`], for who answers later.
pub(super) fn write_json(head: &Head, out: &mut Vec<u8>, body: &impl Serialize) -> Result<(), Refusal> {
    write_json_with(head, out, body, |_| {})
}

fn write_json_with(
    head: &Head,
    out: &mut Vec<u8>,
    body: &impl Serialize,
    fields: impl FnOnce(&mut FrameWriter<'_>),
) -> Result<(), Refusal> {
    let body = json::to_vec_standard(body)
        .map_err(|e| Refusal::new(response::SYSTEM_ERROR, format!("the answer cannot be written as JSON: {e}")))?;
    let mut answer = FrameWriter::response(out, head, response::SUCCESS);
    fields(&mut answer);
    answer.finish_with_body(&body);
    Ok(())
}

/// GET_CONSUMER_CONNECTION_LIST (203).
pub(crate) fn consumer_connections(broker: &Arc<Shared>, call: &Call<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let name = GetConsumerConnectionListHeader::read(&call.request.fields)?.consumer_group.to_str()?;
    let group = broker
        .clients
        .consumer_group(&name)
        .ok_or_else(|| Refusal::new(response::CONSUMER_NOT_ONLINE, format!("the consumer group[{name}] not online")))?;
    let subscriptions = group.subscriptions.iter().map(|s| (s.data.topic.clone(), s.data.clone())).collect();
    call.respond_json(
        out,
        &ConsumerConnection {
            connection_set: connections(group.members),
            subscription_table: subscriptions,
            consume_type: group.consume_type,
            message_model: group.message_model,
            consume_from_where: group.consume_from_where,
        },
    )
}

/// GET_PRODUCER_CONNECTION_LIST (204).
pub(crate) fn producer_connections(broker: &Arc<Shared>, call: &Call<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let name = GetProducerConnectionListHeader::read(&call.request.fields)?.producer_group.to_str()?;
    let members = broker
        .clients
        .producers(&name)
        .ok_or_else(|| Refusal::new(response::SYSTEM_ERROR, format!("the producer group[{name}] not exist")))?;
    call.respond_json(out, &ProducerConnection { connection_set: connections(members) })
}

fn connections(members: Vec<Client>) -> BTreeSet<ConnectionBody> {
    let connection = |client: Client| ConnectionBody {
        client_id: client.client_id.to_string(),
        client_addr: client.address.to_string(),
        language: version::language_name(client.language).to_owned(),
        version: client.version,
    };
    members.into_iter().map(connection).collect()
}

/// GET_ALL_PRODUCER_INFO (328).
pub(crate) fn all_producers(broker: &Arc<Shared>, call: &Call<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let (now, now_millis) = (Instant::now(), clock::now_millis());
    let mut data: BTreeMap<String, Vec<ProducerInfo>> = BTreeMap::new();
    for (group, client, seen) in broker.clients.all_producers() {
        data.entry(group.to_string()).or_default().push(ProducerInfo {
            client_id: client.client_id.to_string(),
            remote_ip: client.address.to_string(),
            language: version::language_name(client.language).to_owned(),
            version: client.version,
            last_update_timestamp: now_millis - now.saturating_duration_since(seen).as_millis() as i64,
        });
    }
    call.respond_json(out, &ProducerTableInfo { data })
}
