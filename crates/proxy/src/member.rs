//! What brokers know of a client: the broker of this process sees it as a connection of its own, those of a cluster see
//! the proxy, which answers for the producer groups of all its clients.

use std::collections::BTreeSet;
use std::mem;
use std::sync::Arc;

use ferromq_protocol::body::{LiteSubscription, LiteSubscriptionAction, LiteSubscriptionCtlRequestBody};
use ferromq_protocol::code::{request, response};
use ferromq_protocol::header::client::UnregisterClientHeader;
use ferromq_protocol::{Text, json};
use ferromq_remoting::OnRequest;
use parking_lot::Mutex;

use crate::call::Caller;
use crate::cluster::Cluster;
use crate::door::{Door, LocalLine, TIMEOUT};
use crate::pb::{Code, Settings};
use crate::settings;
use crate::status::Refused;

/// The place of a client at the brokers.
pub(crate) enum Member {
    Local(LocalLine),
    Cluster { cluster: Arc<Cluster>, groups: Mutex<BTreeSet<String>> },
}

impl Member {
    /// `on_request` takes what the broker of this process asks; those of a cluster ask [`crate::clients::Clients`].
    pub fn new(door: &Door, caller: &Caller, on_request: OnRequest) -> Self {
        match door {
            Door::Local(local) => Member::Local(local.connect(caller, on_request)),
            Door::Cluster(cluster) => Member::Cluster { cluster: Arc::clone(cluster), groups: Mutex::default() },
        }
    }

    /// The client lives, with these settings.
    pub async fn beat(&self, id: &str, settings: &Settings) -> Result<(), Refused> {
        match self {
            Member::Local(line) => {
                let data = settings::heartbeat(id, settings);
                let body = json::to_vec_standard(&data).map_err(|error| {
                    Refused::new(Code::InternalServerError, format!("the heartbeat cannot be written: {error}"))
                })?;
                line.call(request::HEART_BEAT, |_| (), &body).await.map(drop)
            }
            Member::Cluster { .. } => {
                self.produce_for(id, settings::topics(settings).into_iter().collect()).await;
                Ok(())
            }
        }
    }

    /// The client changes what it takes of lite topics, at all brokers that have the parent topic. They tell it over this way
    /// in when a lite topic is not its own any more.
    pub async fn subscribe_lite(&self, change: LiteSubscription) -> Result<(), Refused> {
        let topic = change.topic.clone();
        let body = LiteSubscriptionCtlRequestBody { subscription_set: vec![change] };
        let body = json::to_vec_standard(&body).map_err(|error| {
            Refused::new(Code::InternalServerError, format!("the subscription cannot be written: {error}"))
        })?;
        match self {
            Member::Local(line) => {
                line.call(request::LITE_SUBSCRIPTION_CTL, |_| (), &body).await?;
            }
            Member::Cluster { cluster, .. } => {
                let topic = cluster
                    .topic(&topic)
                    .await?
                    .ok_or_else(|| Refused::new(Code::TopicNotFound, format!("no route of topic {topic}")))?;
                for share in &topic.brokers {
                    let code = request::LITE_SUBSCRIPTION_CTL;
                    let answer = cluster.ask(&share.broker, code, TIMEOUT, |_| (), &body).await?;
                    if answer.head().code != response::SUCCESS {
                        return Err(Refused::by_broker(&answer));
                    }
                }
            }
        }
        Ok(())
    }

    /// The client leaves; the brokers have forgotten it when this returns.
    pub async fn leave(&self, id: &str, settings: &Settings) -> Result<(), Refused> {
        if let (Some(topic), Some(group)) = (settings::lite_parent(settings), settings::group(settings)) {
            let action = LiteSubscriptionAction::CompleteRemove;
            let change = LiteSubscription { action, client_id: id.to_owned(), group, topic, ..Default::default() };
            if let Err(refused) = self.subscribe_lite(change).await {
                tracing::debug!(client = id, ?refused, "the lite topics of a client are forgotten only after a while");
            }
        }
        let Member::Local(line) = self else {
            self.produce_for(id, BTreeSet::new()).await;
            return Ok(());
        };
        let group = settings::group(settings);
        let topics = settings::topics(settings).into_iter().map(|topic| (Some(topic), None));
        for (producer, consumer) in topics.chain(group.map(|group| (None, Some(group)))) {
            let header = UnregisterClientHeader {
                client_id: Text::plain(id),
                producer_group: producer.as_deref().map(Text::plain),
                consumer_group: consumer.as_deref().map(Text::plain),
            };
            line.call(request::UNREGISTER_CLIENT, |frame| header.write(frame), &[]).await?;
        }
        Ok(())
    }

    /// Answers a request of the broker of this process; those of a cluster ask a client nothing by itself.
    pub fn answer(&self, opaque: i32, frame: &[u8]) {
        if let Member::Local(line) = self {
            line.answer(opaque, frame);
        }
    }

    async fn produce_for(&self, id: &str, wanted: BTreeSet<String>) {
        let Member::Cluster { cluster, groups } = self else { return };
        let before = mem::replace(&mut *groups.lock(), wanted.clone());
        for group in wanted.difference(&before) {
            // So that its brokers are known when they are told.
            if let Err(refused) = cluster.topic(group).await {
                tracing::debug!(group, ?refused, "the brokers of a producer's topic are not known yet");
            }
            cluster.join(group, id);
        }
        for group in before.difference(&wanted) {
            cluster.leave(group, id).await;
        }
    }
}
