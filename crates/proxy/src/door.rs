//! The way into brokers: that of this process, whose handlers serve remoting requests on the caller's thread, without a
//! socket and without a second copy of a body; or those of a cluster, over connections that all callers share.

use std::sync::Arc;
use std::time::Duration;

use ferromq_broker::Shared;
use ferromq_protocol::body::SubscriptionGroupConfig;
use ferromq_protocol::code::response;
use ferromq_protocol::sys_flag::perm;
use ferromq_protocol::{Encoding, FrameWriter, OwnedCommand, topic};
use ferromq_remoting::{LocalPeer, LocalPeers, OnRequest};

use crate::call::Caller;
use crate::cluster::Cluster;
use crate::pb::Code;
use crate::status::Refused;
use crate::tls::Ends;
use crate::topic::{Share, Topic};

/// How long a request to a broker may take that does not wait for messages.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(3);

/// Where requests go.
#[derive(Clone)]
pub(crate) enum Door {
    Local(Local),
    Cluster(Arc<Cluster>),
}

/// The broker of this process.
#[derive(Clone)]
pub(crate) struct Local {
    broker: Arc<Shared>,
    peers: LocalPeers,
    name: Arc<str>,
}

impl Local {
    pub fn new(broker: Arc<Shared>, peers: LocalPeers) -> Self {
        let name = broker.config.broker_name.as_str().into();
        Local { broker, peers, name }
    }

    /// A connection for one caller, over which the broker may ask, too.
    pub fn connect(&self, caller: &Caller, on_request: OnRequest) -> LocalLine {
        let peer = self.peers.connect(caller.ends.peer, caller.ends.local, on_request);
        LocalLine { peer: Arc::new(peer), language: caller.language }
    }

    /// A connection over which the broker asks nothing.
    fn connect_to_ask(&self, ends: Ends) -> Arc<LocalPeer> {
        let nothing = OnRequest::new(|request| {
            tracing::debug!(code = request.head().code, "the broker asks a call, which answers nothing");
        });
        Arc::new(self.peers.connect(ends.peer, ends.local, nothing))
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// A topic as it is, or as the first message would make it.
    fn topic(&self, name: &str) -> Option<Topic> {
        let share = |perm, read, write| vec![Share { broker: Arc::clone(&self.name), perm, read, write }];
        if let Some(topic) = self.broker.topics.get(name) {
            let config = topic.config();
            let message_type = config.attributes.get("message.type").cloned();
            let brokers = share(config.perm, config.read_queue_nums, config.write_queue_nums);
            return Some(Topic { message_type, brokers });
        }
        // As remoting clients get the route of the template.
        let template = self.broker.topics.get(topic::AUTO_CREATE_TOPIC_KEY)?;
        let config = template.config();
        let most = i32::try_from(self.broker.config.default_topic_queue_nums).unwrap_or(i32::MAX);
        let count = most.min(config.write_queue_nums);
        let perm = config.perm & (perm::READ | perm::WRITE);
        Some(Topic { message_type: None, brokers: share(perm, count, count) })
    }
}

impl Door {
    /// What all calls of a connection share: the broker of this process sees it as one connection, too.
    pub fn peer(&self, ends: Ends) -> Option<Arc<LocalPeer>> {
        match self {
            Door::Local(local) => Some(local.connect_to_ask(ends)),
            Door::Cluster(_) => None,
        }
    }

    /// For the requests of one call that are answered at once.
    pub fn line(&self, caller: &Caller) -> Line {
        self.line_over(caller, caller.peer.clone())
    }

    /// For the requests of one call that may wait for messages: the end of the line takes them back.
    pub fn waiting_line(&self, caller: &Caller) -> Line {
        self.line_over(caller, None)
    }

    fn line_over(&self, caller: &Caller, peer: Option<Arc<LocalPeer>>) -> Line {
        match self {
            Door::Local(local) => {
                let peer = peer.unwrap_or_else(|| local.connect_to_ask(caller.ends));
                let line = LocalLine { peer, language: caller.language };
                Line::Local { name: Arc::clone(&local.name), line }
            }
            Door::Cluster(cluster) => Line::Cluster(Arc::clone(cluster)),
        }
    }

    /// What clients see of a topic.
    pub async fn topic(&self, name: &str) -> Result<Arc<Topic>, Refused> {
        let found = match self {
            Door::Local(local) => local.topic(name).map(Arc::new),
            Door::Cluster(cluster) => cluster.topic(name).await?,
        };
        found.ok_or_else(|| Refused::new(Code::TopicNotFound, format!("no route of topic {name}")))
    }

    /// A consumer group; `None` where it may not be made.
    pub async fn group(&self, name: &str) -> Result<Option<Arc<SubscriptionGroupConfig>>, Refused> {
        match self {
            Door::Local(local) => Ok(local.broker.groups.find(name)),
            Door::Cluster(cluster) => cluster.group(name).await,
        }
    }

    /// A consumer group that was made already: whoever only names one makes none.
    pub async fn known_group(&self, name: &str) -> Result<Option<Arc<SubscriptionGroupConfig>>, Refused> {
        match self {
            Door::Local(local) => Ok(local.broker.groups.get(name)),
            Door::Cluster(cluster) => cluster.group(name).await,
        }
    }

    /// The names of all brokers that take changes.
    pub async fn masters(&self) -> Result<Vec<String>, Refused> {
        match self {
            Door::Local(local) => Ok(vec![local.name.to_string()]),
            Door::Cluster(cluster) => cluster.masters().await,
        }
    }

    /// What a broker's answer about a topic means; one that does not know the topic any more is not asked again.
    pub fn refused(&self, topic: &str, answer: &OwnedCommand) -> Refused {
        if let Door::Cluster(cluster) = self
            && answer.head().code == response::TOPIC_NOT_EXIST
        {
            cluster.forget_topic(topic);
        }
        Refused::by_broker(answer)
    }

    /// Whether a broker has just failed, so that a message had better go to another.
    pub fn is_avoided(&self, broker: &str) -> bool {
        match self {
            Door::Local(_) => false,
            Door::Cluster(cluster) => cluster.is_avoided(broker),
        }
    }

    /// Why no message is taken now, if that is so; each broker of a cluster answers for itself.
    pub fn unready(&self) -> Option<String> {
        match self {
            Door::Local(local) => local.broker.unready(),
            Door::Cluster(_) => None,
        }
    }

    /// `local` or `cluster`, as RocketMQ's `proxyMode` has it.
    pub fn mode(&self) -> &'static str {
        match self {
            Door::Local(_) => "local",
            Door::Cluster(_) => "cluster",
        }
    }

    /// Largest body, bytes.
    pub fn max_message_size(&self) -> usize {
        match self {
            Door::Local(local) => local.broker.max_message_size,
            Door::Cluster(cluster) => cluster.config.max_message_size,
        }
    }

    /// How far ahead a message may be delayed, milliseconds.
    pub fn max_delay(&self) -> i64 {
        match self {
            Door::Local(local) => local.broker.timer.max_delay(),
            Door::Cluster(cluster) => cluster.config.max_delay_ms,
        }
    }
}

/// A connection to the broker of this process. Its end takes back what the broker still keeps for it.
pub(crate) struct LocalLine {
    peer: Arc<LocalPeer>,
    language: u8,
}

impl LocalLine {
    async fn ask(
        &self,
        code: i32,
        timeout: Duration,
        header: impl FnOnce(&mut FrameWriter<'_>),
        body: &[u8],
    ) -> Result<OwnedCommand, Refused> {
        let write = |out: &mut Vec<u8>, opaque| {
            let mut frame = FrameWriter::request_of(out, Encoding::Binary, code, opaque, self.language);
            header(&mut frame);
            frame.finish();
        };
        Ok(self.peer.invoke(timeout, write, body).await?)
    }

    /// One request that is to succeed.
    pub async fn call(
        &self,
        code: i32,
        header: impl FnOnce(&mut FrameWriter<'_>),
        body: &[u8],
    ) -> Result<OwnedCommand, Refused> {
        succeeded(self.ask(code, TIMEOUT, header, body).await?)
    }

    /// Answers a request of the broker; `frame` is the whole answer.
    pub fn answer(&self, opaque: i32, frame: &[u8]) {
        self.peer.answer(opaque, frame);
    }
}

/// The requests of one call.
pub(crate) enum Line {
    Local { name: Arc<str>, line: LocalLine },
    Cluster(Arc<Cluster>),
}

impl Line {
    /// Requests to one broker.
    pub fn at<'l>(&'l self, broker: &'l str) -> Result<At<'l>, Refused> {
        match self {
            Line::Local { name, line } if **name == *broker => Ok(At::Local(line)),
            Line::Local { .. } => {
                Err(Refused::new(Code::BadRequest, format!("broker {broker} is not the one that is served here")))
            }
            Line::Cluster(cluster) => Ok(At::Cluster(cluster, broker)),
        }
    }
}

/// One broker that a call asks.
pub(crate) enum At<'l> {
    Local(&'l LocalLine),
    Cluster(&'l Cluster, &'l str),
}

impl At<'_> {
    /// One request; any answer.
    pub async fn ask(
        &self,
        code: i32,
        timeout: Duration,
        header: impl FnOnce(&mut FrameWriter<'_>),
        body: &[u8],
    ) -> Result<OwnedCommand, Refused> {
        match self {
            At::Local(line) => line.ask(code, timeout, header, body).await,
            At::Cluster(cluster, broker) => cluster.ask(broker, code, timeout, header, body).await,
        }
    }

    /// One request that is to succeed.
    pub async fn call(
        &self,
        code: i32,
        header: impl FnOnce(&mut FrameWriter<'_>),
        body: &[u8],
    ) -> Result<OwnedCommand, Refused> {
        succeeded(self.ask(code, TIMEOUT, header, body).await?)
    }
}

fn succeeded(answer: OwnedCommand) -> Result<OwnedCommand, Refused> {
    match answer.head().code {
        response::SUCCESS => Ok(answer),
        _ => Err(Refused::by_broker(&answer)),
    }
}
