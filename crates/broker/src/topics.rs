//! Topic table: every topic of this broker with its queues and permissions (RocketMQ's `TopicConfigManager`, `topics.json`).
//!
//! Readers take an `Arc<Topic>` snapshot; a change replaces the snapshot under the write lock and raises
//! [`Topics::generation`], so that a send path may keep snapshots as long as the number stands. Every change asks for an
//! early writing of `topics.json` and wakes the registration with the name servers. Only this table makes topics: by an
//! admin request, by a first send (from the default topic's settings), or for retries and dead letters of a group.

mod attributes;
mod ending;
mod restore;
mod system;
mod topic;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ferromq_common::clock;
use ferromq_protocol::body::{DataVersion, TopicConfig, TopicConfigSerializeWrapper};
use ferromq_protocol::sys_flag::perm;
use ferromq_protocol::topic as names;
use ferromq_store::TopicKind;
use parking_lot::RwLock;
use tokio::sync::watch;

pub use attributes::AttributeError;
pub(crate) use attributes::{GROUP as GROUP_ATTRIBUTES, alter as alter_attributes, parse as parse_attributes};
pub use topic::Topic;

use crate::config::BrokerConfig;
use crate::persist::{self, LoadError, SaveSignal};

/// Most topics of one broker.
pub const MAX_TOPICS: usize = 500_000;
/// Most queues of one topic.
pub const MAX_QUEUES_PER_TOPIC: i32 = 16_384;
/// File name in the store's `config` folder.
const FILE: &str = "topics.json";

/// Permission bits with a meaning.
const ALL_PERMISSIONS: i32 = perm::INHERIT | perm::WRITE | perm::READ | perm::PRIORITY;

/// Why a topic could not be made or changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// Code 29: the name or a number is out of its rules.
    #[error("{0}")]
    Invalid(String),
    /// Code 1: the attributes cannot be changed so.
    #[error(transparent)]
    Attribute(#[from] AttributeError),
    /// Code 1.
    #[error("the broker has {MAX_TOPICS} topics already, delete some before creating another")]
    TooMany,
    /// Code 1.
    #[error("topic {0} is being deleted at this moment, try again")]
    Ending(String),
}

struct Table {
    topics: HashMap<Arc<str>, Arc<Topic>>,
    /// Names whose queues are being deleted: no topic is made there meanwhile.
    ending: HashSet<String>,
    version: DataVersion,
}

/// All topics of this broker, by name.
pub struct Topics {
    table: RwLock<Table>,
    generation: AtomicU64,
    system: HashSet<String>,
    auto_create: AtomicBool,
    /// Topics may take messages of all kinds.
    mixed: bool,
    validate_system: bool,
    /// Light topics exist without being made.
    light: bool,
    path: PathBuf,
    saving: Arc<SaveSignal>,
    /// The generation again, for who waits for a change.
    changed: watch::Sender<u64>,
}

impl Topics {
    /// Reads `topics.json` below `store_root` and adds the system topics it lacks.
    pub fn open(store_root: &Path, config: &BrokerConfig, saving: Arc<SaveSignal>) -> Result<Self, LoadError> {
        let path = persist::config_path(store_root, FILE);
        let mut topics = HashMap::new();
        let mut system = HashSet::new();
        for topic in system::system_topics(config) {
            system.insert(topic.topic_name.clone());
            topics.insert(Arc::from(topic.topic_name.as_str()), Arc::new(Topic::new(topic, None)));
        }
        let mut version = DataVersion { timestamp: clock::now_millis(), ..DataVersion::default() };
        let effect = "topics that have messages are made again with default settings; permissions, attributes and topics without messages are lost, create them again";
        if let Some(loaded) = persist::load_or_begin_anew::<TopicConfigSerializeWrapper>(&path, effect)? {
            version = loaded.data_version;
            for (name, mut topic) in loaded.topic_config_table {
                if let Err(e) = names::validate_topic(&name) {
                    tracing::warn!("a topic of {FILE} is left out: {e}");
                    continue;
                }
                topic.topic_name = name;
                topics.insert(Arc::from(topic.topic_name.as_str()), Arc::new(Topic::new(topic, None)));
            }
        }
        Ok(Self {
            table: RwLock::new(Table { topics, ending: HashSet::new(), version }),
            generation: AtomicU64::new(0),
            system,
            auto_create: config.auto_create_topic_enable.into(),
            mixed: config.enable_mixed_message_type,
            validate_system: config.validate_system_topic_when_update_topic,
            light: config.enable_lmq,
            path,
            saving,
            changed: watch::Sender::new(0),
        })
    }

    /// The topic as it stands now.
    pub fn get(&self, name: &str) -> Option<Arc<Topic>> {
        let light = || (self.light && name.starts_with(names::LMQ_PREFIX)).then(|| Arc::new(Topic::light(name)));
        self.table.read().topics.get(name).cloned().or_else(light)
    }

    /// Grows with every change of any topic: a kept snapshot is current while this number is the one it was taken under.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Shows every new generation; the registration waits on it.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Whether a first send may make a topic (`autoCreateTopicEnable`).
    pub(crate) fn auto_create(&self) -> &AtomicBool {
        &self.auto_create
    }

    /// Lets the name servers hear of this broker's topics again, though none has changed.
    pub(crate) fn announce(&self) {
        self.note_change(&mut self.table.write());
    }

    /// Keeps samples of what producers store.
    pub fn tick_rates(&self, now_millis: i64) {
        for topic in self.table.read().topics.values() {
            topic.taken().tick(now_millis);
        }
    }

    /// Number of topics.
    pub fn count(&self) -> usize {
        self.table.read().topics.len()
    }

    /// Whether a name is the broker's own: clients may not create, change or delete it.
    pub fn is_system(&self, name: &str) -> bool {
        self.system.contains(name) || names::is_system_topic(name)
    }

    /// Names of the system topics (code 305).
    pub fn system_names(&self) -> Vec<String> {
        let mut all: HashSet<String> = self.system.clone();
        all.extend(names::SYSTEM_TOPICS.iter().map(|name| (*name).to_owned()));
        let mut all: Vec<String> = all.into_iter().collect();
        all.sort_unstable();
        all
    }

    /// A topic for a first send, made like `default_topic`; `None` when that topic does not allow it.
    ///
    /// Queues: the smaller of what the client asks and what the default topic has; permission: the default topic's
    /// without the inherit bit (`createTopicInSendMessageMethod`).
    pub fn create_on_send(
        &self,
        name: &str,
        default_topic: &str,
        client_queues: i32,
        sys_flag: i32,
        peer: SocketAddr,
    ) -> Option<Arc<Topic>> {
        if names::validate_topic(name).is_err() {
            return None;
        }
        let mut table = self.table.write();
        if let Some(topic) = table.topics.get(name) {
            return Some(Arc::clone(topic));
        }
        let Some(default) = table.topics.get(default_topic).map(|topic| topic.config.clone()) else {
            tracing::debug!("topic {name} is not created for {peer}: its default topic {default_topic} does not exist");
            return None;
        };
        let inherits = perm::is_inherited(default.perm)
            && (self.auto_create.load(Ordering::Relaxed) || default_topic != names::AUTO_CREATE_TOPIC_KEY);
        if !inherits {
            tracing::debug!("topic {name} is not created for {peer}: topics may not be made from {default_topic}");
            return None;
        }
        let queues = client_queues.min(default.write_queue_nums).max(0);
        let config = TopicConfig {
            topic_name: name.to_owned(),
            read_queue_nums: queues,
            write_queue_nums: queues,
            perm: default.perm & !perm::INHERIT,
            topic_sys_flag: sys_flag,
            topic_filter_type: default.topic_filter_type,
            ..TopicConfig::default()
        };
        tracing::info!("topic {name} is created with {queues} queues from {default_topic} for {peer}");
        self.insert(&mut table, config)
    }

    /// The topic of a group's retries or dead letters, made when missing; its order flag follows the caller's
    /// (`createTopicInSendMessageBackMethod`). `None` when the name breaks the rules or the table is full.
    pub fn create_if_absent(
        &self,
        name: &str,
        queues: i32,
        permission: i32,
        order: bool,
        sys_flag: i32,
    ) -> Option<Arc<Topic>> {
        if let Some(topic) = self.get(name)
            && topic.config.order == order
        {
            return Some(topic);
        }
        names::validate_topic(name).ok()?;
        let mut table = self.table.write();
        let config = match table.topics.get(name) {
            Some(topic) if topic.config.order == order => return Some(Arc::clone(topic)),
            Some(topic) => TopicConfig { order, ..topic.config.clone() },
            None => TopicConfig {
                topic_name: name.to_owned(),
                read_queue_nums: queues.clamp(0, MAX_QUEUES_PER_TOPIC),
                write_queue_nums: queues.clamp(0, MAX_QUEUES_PER_TOPIC),
                perm: permission,
                order,
                topic_sys_flag: sys_flag,
                ..TopicConfig::default()
            },
        };
        self.insert(&mut table, config)
    }

    /// Creates or replaces topics on an admin's behalf, all or none; `attributes` of each carry signs (`+key`, `-key`).
    pub fn update(&self, configs: Vec<TopicConfig>) -> Result<(), TopicError> {
        let mut table = self.table.write();
        for config in self.changes(&table, configs)? {
            tracing::info!("topic {} is set to {config:?}", config.topic_name);
            self.insert(&mut table, config);
        }
        Ok(())
    }

    /// Names of the topics with batch queues that [`Topics::update`] would make.
    pub fn new_batch_topics(&self, configs: Vec<TopicConfig>) -> Result<Vec<String>, TopicError> {
        let table = self.table.read();
        let changes = self.changes(&table, configs)?.into_iter();
        let is_batch = |config: &TopicConfig| topic::kind_of(config) == TopicKind::Batch;
        let is_new = |topic: &TopicConfig| !table.topics.contains_key(topic.topic_name.as_str());
        Ok(changes.filter(|topic| is_new(topic) && is_batch(topic)).map(|topic| topic.topic_name).collect())
    }

    /// What an update changes, with the attributes that each topic has then.
    fn changes(&self, table: &Table, configs: Vec<TopicConfig>) -> Result<Vec<TopicConfig>, TopicError> {
        let mut checked = Vec::with_capacity(configs.len());
        let mut added = 0;
        for mut config in configs {
            self.check(&config)?;
            let current = table.topics.get(config.topic_name.as_str());
            if current.is_none() && table.ending.contains(&config.topic_name) {
                return Err(TopicError::Ending(config.topic_name));
            }
            let now = current.map(|topic| &topic.config.attributes);
            config.attributes = attributes::alter(attributes::TOPIC, now, &config.attributes)?;
            added += usize::from(current.is_none());
            if current.is_none_or(|topic| topic.config != config) {
                checked.push(config);
            }
        }
        match table.topics.len() + added > MAX_TOPICS {
            true => Err(TopicError::TooMany),
            false => Ok(checked),
        }
    }

    fn check(&self, config: &TopicConfig) -> Result<(), TopicError> {
        let name = &config.topic_name;
        names::validate_topic(name).map_err(|e| TopicError::Invalid(e.to_string()))?;
        if self.validate_system && self.is_system(name) {
            return Err(TopicError::Invalid(format!("The topic[{name}] is conflict with system topic.")));
        }
        let message_type = config.attributes.get("+message.type").map(String::as_str);
        if message_type == Some("MIXED") && !self.mixed {
            return Err(TopicError::Invalid("MIXED message type is not supported.".to_owned()));
        }
        for queues in [config.read_queue_nums, config.write_queue_nums] {
            if !(0..=MAX_QUEUES_PER_TOPIC).contains(&queues) {
                let text = format!("a topic has 0 to {MAX_QUEUES_PER_TOPIC} queues, not {queues}");
                return Err(TopicError::Invalid(text));
            }
        }
        if config.perm & !ALL_PERMISSIONS != 0 {
            let text = format!("the permission {} is not made of 1 inherit, 2 write, 4 read, 8 priority", config.perm);
            return Err(TopicError::Invalid(text));
        }
        Ok(())
    }

    /// Marks topics as ordered that the name server's order configuration names (answer of a registration).
    pub fn set_ordered<'a>(&self, names: impl Iterator<Item = &'a str>) {
        for name in names {
            let mut table = self.table.write();
            let Some(topic) = table.topics.get(name).filter(|topic| !topic.config.order) else { continue };
            let config = TopicConfig { order: true, ..topic.config.clone() };
            tracing::info!("topic {name} is ordered, as the name server's configuration says");
            self.insert(&mut table, config);
        }
    }

    /// All settings sorted by name, with the version they stand at.
    pub fn snapshot(&self) -> (BTreeMap<String, TopicConfig>, DataVersion) {
        let table = self.table.read();
        let configs = table.topics.values().map(|topic| (topic.name().to_owned(), topic.config.clone())).collect();
        (configs, table.version)
    }

    /// Version of the table, as name servers and replicas compare it.
    pub fn version(&self) -> DataVersion {
        self.table.read().version
    }

    /// The content of `topics.json`.
    pub fn encode(&self) -> io::Result<Vec<u8>> {
        let (topic_config_table, data_version) = self.snapshot();
        let wrapper = TopicConfigSerializeWrapper { topic_config_table, data_version };
        Ok(serde_json::to_vec_pretty(&wrapper)?)
    }

    /// Where a handler waits for its change to be on disk.
    pub fn saving(&self) -> &SaveSignal {
        &self.saving
    }

    /// The file this table is kept in.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn insert(&self, table: &mut Table, config: TopicConfig) -> Option<Arc<Topic>> {
        let before = table.topics.get(config.topic_name.as_str());
        if before.is_none() && table.topics.len() >= MAX_TOPICS {
            tracing::error!("topic {} is not created: the broker has {MAX_TOPICS} topics already", config.topic_name);
            return None;
        }
        if before.is_none() && table.ending.contains(&config.topic_name) {
            tracing::info!("topic {} is not created while one of its name is being deleted", config.topic_name);
            return None;
        }
        let name = Arc::from(config.topic_name.as_str());
        let topic = Arc::new(Topic::new(config, before.map(Arc::as_ref)));
        table.topics.insert(name, Arc::clone(&topic));
        self.note_change(table);
        Some(topic)
    }

    fn note_change(&self, table: &mut Table) {
        table.version.next_version(clock::now_millis());
        let generation = self.generation.fetch_add(1, Ordering::Release) + 1;
        self.saving.soon();
        self.changed.send_replace(generation);
    }
}

#[cfg(test)]
mod tests;
