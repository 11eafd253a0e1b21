//! The queues of a topic on all brokers, as the name servers tell: what sharing out queues needs (RocketMQ's
//! `TopicRouteInfoManager`).
//!
//! An answer is used for [`FRESH`]; after that the next who asks fetches it again, and an old one serves while no name
//! server answers. A topic that no name server knows has this broker's queues.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferromq_protocol::body::{MessageQueue, TopicRouteData};
use ferromq_protocol::code::{request, response};
use ferromq_protocol::header::namesrv::GetRouteInfoHeader;
use ferromq_protocol::sys_flag::perm;
use ferromq_protocol::{Encoding, FrameWriter, Text, json};
use ferromq_remoting::{Client, ClientConfig};
use parking_lot::Mutex;

/// How long an answer is used. Clients ask for their share every 20 s.
const FRESH: Duration = Duration::from_secs(10);
/// Most topics that are remembered.
const MAX_TOPICS: usize = 10_000;
/// Most queues of one topic that are shared out.
const MAX_QUEUES: usize = 100_000;
const TIMEOUT: Duration = Duration::from_secs(3);

/// Readable queues of one topic, sorted as clients sort them.
type Queues = Arc<[MessageQueue]>;

/// The way to the name servers, and what they said last.
pub(crate) struct TopicRoutes {
    client: Client,
    servers: Vec<String>,
    known: Mutex<HashMap<Box<str>, (Instant, Queues)>>,
}

impl TopicRoutes {
    /// Will ask the servers of `namesrvAddr`.
    pub fn new(namesrv_addr: Option<&str>) -> Self {
        let servers = namesrv_addr.unwrap_or_default().split(';').map(str::trim).filter(|server| !server.is_empty());
        Self {
            client: Client::new(ClientConfig::default(), None),
            servers: servers.map(str::to_owned).collect(),
            known: Mutex::default(),
        }
    }

    /// The readable queues of a topic; `None` when no name server knows it.
    pub async fn queues(&self, topic: &str) -> Option<Queues> {
        let known = self.known.lock().get(topic).cloned();
        if let Some((at, queues)) = &known
            && at.elapsed() < FRESH
        {
            return Some(Arc::clone(queues));
        }
        for server in &self.servers {
            match self.ask(server, topic).await {
                Ok(queues) => {
                    let mut known = self.known.lock();
                    if known.len() >= MAX_TOPICS {
                        known.retain(|_, (at, _)| at.elapsed() < FRESH);
                    }
                    if let Some(queues) = &queues
                        && known.len() < MAX_TOPICS
                    {
                        known.insert(topic.into(), (Instant::now(), Arc::clone(queues)));
                    }
                    return queues;
                }
                Err(why) => tracing::warn!("name server {server} does not tell the route of {topic}: {why}"),
            }
        }
        known.map(|(_, queues)| queues)
    }

    async fn ask(&self, server: &str, topic: &str) -> Result<Option<Queues>, String> {
        let header = GetRouteInfoHeader { topic: Text::plain(topic), accept_standard_json_only: Some(true) };
        let answer = self.client.invoke(server, TIMEOUT, |out, opaque| {
            let mut frame = FrameWriter::request(out, Encoding::Json, request::GET_ROUTEINFO_BY_TOPIC, opaque, false);
            header.write(&mut frame);
            frame.finish();
        });
        let answer = answer.await.map_err(|error| error.to_string())?;
        match answer.head().code {
            response::SUCCESS => {}
            response::TOPIC_NOT_EXIST => return Ok(None),
            code => return Err(format!("{code} {}", answer.remark_lossy())),
        }
        let route: TopicRouteData = json::from_slice(answer.body()).map_err(|error| error.to_string())?;
        Ok(Some(readable(topic, &route)))
    }
}

fn readable(topic: &str, route: &TopicRouteData) -> Queues {
    let readable = route.queue_datas.iter().filter(|data| perm::is_readable(data.perm));
    let queues = readable.flat_map(|data| {
        (0..data.read_queue_nums).map(|queue_id| MessageQueue {
            broker_name: data.broker_name.clone(),
            queue_id,
            topic: topic.to_owned(),
        })
    });
    queues.take(MAX_QUEUES).collect::<BTreeSet<_>>().into_iter().collect()
}
