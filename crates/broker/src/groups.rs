//! Subscription groups: the settings of every consumer group (RocketMQ's `SubscriptionGroupManager`,
//! `subscriptionGroup.json`).
//!
//! Unknown groups get default settings on first use when `autoCreateSubscriptionGroup` allows it. Every change asks for an
//! early writing of the file. Who is connected is not known here (`clients.rs`), nor are offsets (`offsets.rs`).

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ferromq_common::clock;
use ferromq_protocol::body::{DataVersion, SubscriptionGroupConfig, SubscriptionGroupWrapper};
use ferromq_protocol::code::response;
use ferromq_protocol::topic as names;
use parking_lot::RwLock;

use crate::broadcast_groups;
use crate::config::BrokerConfig;
use crate::handler::Refusal;
use crate::offsets::Offsets;
use crate::persist::{self, LoadError, SaveSignal};
use crate::topics::{AttributeError, GROUP_ATTRIBUTES, alter_attributes};

/// Most subscription groups of one broker.
pub const MAX_GROUPS: usize = 200_000;
/// File name in the store's `config` folder.
const FILE: &str = "subscriptionGroup.json";
/// Groups with this prefix are made even when others are not (`enableCreateSysGroup`).
const SYSTEM_GROUP_PREFIX: &str = "CID_RMQ_SYS_";
/// Bit of the stored set that forbids reading (`PermName.INDEX_PERM_READ`).
const READ_BIT: i32 = 1 << 2;
/// Groups every broker has from its start (`SubscriptionGroupManager.init`).
const BUILT_IN: &[&str] = &[
    "TOOLS_CONSUMER",
    "FILTERSRV_CONSUMER",
    "SELF_TEST_C_GROUP",
    "CID_ONS-HTTP-PROXY",
    "CID_ONSAPI_PULL",
    "CID_ONSAPI_PERMISSION",
    "CID_ONSAPI_OWNER",
    "CID_RMQ_SYS_TRANS",
];

/// Why a group could not be made or changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    /// Code 29: the name breaks the rules.
    #[error("{0}")]
    Invalid(String),
    /// Code 1: the attributes cannot be changed so.
    #[error(transparent)]
    Attribute(#[from] AttributeError),
    /// Code 1.
    #[error("the broker has {MAX_GROUPS} subscription groups already, delete some before creating another")]
    TooMany,
}

/// Refuses a group that may not consume (`consumeEnable`).
pub(crate) fn refuse_paused(group: &SubscriptionGroupConfig) -> Result<(), Refusal> {
    if group.consume_enable {
        return Ok(());
    }
    let remark = format!("subscription group no permission, {}", group.group_name);
    Err(Refusal::new(response::NO_PERMISSION, remark))
}

struct Table {
    groups: HashMap<Arc<str>, Arc<SubscriptionGroupConfig>>,
    /// Topics a group may not read, by group, then topic; the value is a bit set.
    forbidden: BTreeMap<String, BTreeMap<String, i32>>,
    version: DataVersion,
}

/// All consumer groups of this broker, by name.
pub struct Groups {
    table: RwLock<Table>,
    changes: AtomicU64,
    auto_create: AtomicBool,
    create_system: bool,
    /// Light groups exist without being made.
    light: bool,
    /// There was no file that could be read.
    is_begun_anew: bool,
    path: PathBuf,
    saving: Arc<SaveSignal>,
}

impl Groups {
    /// Reads `subscriptionGroup.json` below `store_root` and adds the built-in groups it lacks.
    pub fn open(store_root: &Path, config: &BrokerConfig, saving: Arc<SaveSignal>) -> Result<Self, LoadError> {
        let path = persist::config_path(store_root, FILE);
        let mut groups: HashMap<Arc<str>, Arc<SubscriptionGroupConfig>> =
            BUILT_IN.iter().map(|n| with_defaults(n)).collect();
        let effect = "groups that have offsets are made again with default settings; pauses, retry policies, attributes and forbidden topics are lost, set them again";
        let loaded = persist::load_or_begin_anew::<SubscriptionGroupWrapper>(&path, effect)?;
        let is_begun_anew = loaded.is_none();
        let loaded = loaded.unwrap_or_default();
        for (name, mut group) in loaded.subscription_group_table {
            if let Err(e) = names::validate_group(&name) {
                tracing::warn!("a group of {FILE} is left out: {e}");
                continue;
            }
            group.group_name = name;
            groups.insert(Arc::from(group.group_name.as_str()), Arc::new(group));
        }
        Ok(Self {
            table: RwLock::new(Table { groups, forbidden: loaded.forbidden_table, version: loaded.data_version }),
            changes: AtomicU64::new(0),
            auto_create: config.auto_create_subscription_group.into(),
            create_system: config.enable_create_sys_group,
            light: config.enable_lmq,
            is_begun_anew,
            path,
            saving,
        })
    }

    /// Makes groups again that have offsets, if there was no file: they consumed before.
    pub fn restore_missing(&self, offsets: &Offsets) {
        let mut table = self.table.write();
        for name in offsets.groups().into_iter().filter(|_| self.is_begun_anew) {
            let is_known = table.groups.contains_key(name.as_str()) || name.starts_with(names::LMQ_PREFIX);
            if is_known || table.groups.len() >= MAX_GROUPS || names::validate_group(&name).is_err() {
                continue;
            }
            tracing::warn!("group {name} has offsets but stood in no {FILE}: it is made again with default settings");
            let (name, group) = with_defaults(&name);
            table.groups.insert(name, group);
            self.note_change(&mut table);
        }
    }

    /// Whether unknown groups are made at first use (`autoCreateSubscriptionGroup`).
    pub(crate) fn auto_create(&self) -> &AtomicBool {
        &self.auto_create
    }

    /// Names of all groups, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.table.read().groups.keys().map(|name| name.to_string()).collect();
        names.sort_unstable();
        names
    }

    /// The settings of a group that exists.
    pub fn get(&self, name: &str) -> Option<Arc<SubscriptionGroupConfig>> {
        let light = || (self.light && name.starts_with(names::LMQ_PREFIX)).then(|| with_defaults(name).1);
        self.table.read().groups.get(name).cloned().or_else(light)
    }

    /// Refuses what a group has waited for when it has been paused meanwhile.
    pub(crate) fn refuse_paused(&self, name: &str) -> Result<(), Refusal> {
        self.get(name).map_or(Ok(()), |group| refuse_paused(&group))
    }

    /// The settings of a group, which is made with defaults when that is allowed; `None` answers code 26.
    pub fn find(&self, name: &str) -> Option<Arc<SubscriptionGroupConfig>> {
        if let Some(group) = self.get(name) {
            return Some(group);
        }
        let allowed =
            self.auto_create.load(Ordering::Relaxed) || (self.create_system && name.starts_with(SYSTEM_GROUP_PREFIX));
        if !allowed || names::validate_group(name).is_err() {
            return None;
        }
        let mut table = self.table.write();
        if let Some(group) = table.groups.get(name) {
            return Some(Arc::clone(group));
        }
        if table.groups.len() >= MAX_GROUPS {
            tracing::error!("group {name} is not created: the broker has {MAX_GROUPS} groups already");
            return None;
        }
        tracing::info!("subscription group {name} is created with default settings");
        let (name, group) = with_defaults(name);
        table.groups.insert(name, Arc::clone(&group));
        self.note_change(&mut table);
        Some(group)
    }

    /// Whether reads of `topic` by `group` are switched off (`GroupForbidden`).
    pub fn is_read_forbidden(&self, group: &str, topic: &str) -> bool {
        let table = self.table.read();
        !table.forbidden.is_empty()
            && table.forbidden.get(group).and_then(|topics| topics.get(topic)).is_some_and(|bits| bits & READ_BIT != 0)
    }

    /// Switches reads of `topic` by `group` off or on.
    pub fn forbid_reads(&self, group: &str, topic: &str, forbidden: bool) {
        let mut table = self.table.write();
        let topics = table.forbidden.entry(group.to_owned()).or_default();
        let bits = topics.entry(topic.to_owned()).or_default();
        *bits = if forbidden { *bits | READ_BIT } else { *bits & !READ_BIT };
        if *bits == 0 {
            topics.remove(topic);
        }
        if topics.is_empty() {
            table.forbidden.remove(group);
        }
        self.note_change(&mut table);
    }

    /// Creates or replaces groups on an admin's behalf, all or none; `attributes` of each carry signs (`+key`, `-key`).
    pub fn update(&self, configs: Vec<SubscriptionGroupConfig>) -> Result<(), GroupError> {
        let mut table = self.table.write();
        let mut checked = Vec::with_capacity(configs.len());
        let mut added = 0;
        for mut config in configs {
            names::validate_group(&config.group_name).map_err(|e| GroupError::Invalid(e.to_string()))?;
            let current = table.groups.get(config.group_name.as_str());
            config.attributes = alter_attributes(GROUP_ATTRIBUTES, current.map(|g| &g.attributes), &config.attributes)?;
            added += usize::from(current.is_none());
            checked.push(config);
        }
        if table.groups.len() + added > MAX_GROUPS {
            return Err(GroupError::TooMany);
        }
        for config in checked {
            tracing::info!("subscription group {} is set to {config:?}", config.group_name);
            table.groups.insert(Arc::from(config.group_name.as_str()), Arc::new(config));
        }
        self.note_change(&mut table);
        Ok(())
    }

    /// Forgets a group's settings; whether it was there.
    pub fn delete(&self, name: &str) -> bool {
        let mut table = self.table.write();
        let existed = table.groups.remove(name).is_some() | table.forbidden.remove(name).is_some();
        if existed {
            tracing::info!("subscription group {name} is deleted");
            self.note_change(&mut table);
        }
        existed
    }

    /// Clients' own groups of broadcasts (`broadcast.rs`) whose client was not seen since `before`, seconds since 1970.
    pub(crate) fn not_seen_since(&self, before: i64) -> Vec<String> {
        let seen = |group: &SubscriptionGroupConfig| group.attributes.get(broadcast_groups::SEEN)?.parse::<i64>().ok();
        let table = self.table.read();
        let silent = table.groups.iter().filter(|(_, group)| seen(group).is_some_and(|seen| seen < before));
        silent.map(|(name, _)| name.to_string()).collect()
    }

    /// Everything, as `subscriptionGroup.json` and GET_ALL_SUBSCRIPTIONGROUP_CONFIG show it.
    pub fn snapshot(&self) -> SubscriptionGroupWrapper {
        let table = self.table.read();
        SubscriptionGroupWrapper {
            subscription_group_table: table
                .groups
                .iter()
                .map(|(name, group)| (name.to_string(), SubscriptionGroupConfig::clone(group)))
                .collect(),
            forbidden_table: table.forbidden.clone(),
            data_version: table.version,
        }
    }

    /// The content of `subscriptionGroup.json`.
    pub fn encode(&self) -> io::Result<Vec<u8>> {
        Ok(serde_json::to_vec_pretty(&self.snapshot())?)
    }

    /// Grows with each change.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// The file this table is kept in.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn note_change(&self, table: &mut Table) {
        table.version.next_version(clock::now_millis());
        self.changes.fetch_add(1, Ordering::Release);
        self.saving.soon();
    }
}

fn with_defaults(name: &str) -> (Arc<str>, Arc<SubscriptionGroupConfig>) {
    let config = SubscriptionGroupConfig { group_name: name.to_owned(), ..SubscriptionGroupConfig::default() };
    (Arc::from(name), Arc::new(config))
}

#[cfg(test)]
mod tests {
    use ferromq_common::json_file;

    use super::*;

    fn open(dir: &Path, config: &BrokerConfig) -> Groups {
        Groups::open(dir, config, Arc::new(SaveSignal::default())).unwrap()
    }

    fn named(name: &str) -> SubscriptionGroupConfig {
        SubscriptionGroupConfig { group_name: name.into(), ..Default::default() }
    }

    #[test]
    fn built_in_groups_exist_and_unknown_ones_are_made() {
        let dir = tempfile::tempdir().unwrap();
        let groups = open(dir.path(), &BrokerConfig::default());
        assert!(groups.get("TOOLS_CONSUMER").is_some());
        assert!(groups.get("mine").is_none());
        let made = groups.find("mine").unwrap();
        assert_eq!((made.retry_max_times, made.retry_queue_nums), (16, 1));
        assert_eq!(groups.changes(), 1);
        groups.find("mine").unwrap();
        assert_eq!(groups.changes(), 1);
    }

    #[test]
    fn nothing_is_made_when_the_broker_says_so_but_system_groups() {
        let dir = tempfile::tempdir().unwrap();
        let config = BrokerConfig { auto_create_subscription_group: false, ..Default::default() };
        let groups = open(dir.path(), &config);
        assert!(groups.find("mine").is_none());
        assert!(groups.find("CID_RMQ_SYS_REVIVE_GROUP").is_some());
    }

    #[test]
    fn groups_of_silent_clients_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let groups = open(dir.path(), &BrokerConfig::default());
        let seen = |name: &str, at: &str| SubscriptionGroupConfig {
            attributes: [(format!("+{}", broadcast_groups::SEEN), at.to_owned())].into(),
            ..named(name)
        };
        groups.update(vec![seen("silent", "99"), seen("here", "100"), named("shared")]).unwrap();
        assert_eq!(groups.not_seen_since(100), ["silent"]);
        groups.update(vec![seen("silent", "100")]).unwrap();
        assert!(groups.not_seen_since(100).is_empty());
    }

    #[test]
    fn bad_names_never_become_groups() {
        let dir = tempfile::tempdir().unwrap();
        let groups = open(dir.path(), &BrokerConfig::default());
        for name in ["", " ", "../../x", "a b", &"x".repeat(121)] {
            assert!(groups.find(name).is_none(), "{name}");
            assert!(matches!(groups.update(vec![named(name)]), Err(GroupError::Invalid(_))), "{name}");
        }
    }

    #[test]
    fn settings_survive_a_restart_with_those_of_java() {
        let dir = tempfile::tempdir().unwrap();
        let groups = open(dir.path(), &BrokerConfig::default());
        let version = groups.snapshot().data_version.counter;
        let mut config = named("mine");
        config.consume_enable = false;
        config.retry_max_times = 3;
        groups.update(vec![config, named("other")]).unwrap();
        json_file::store(groups.path(), &groups.encode().unwrap()).unwrap();

        let again = open(dir.path(), &BrokerConfig::default());
        let mine = again.get("mine").unwrap();
        assert!(!mine.consume_enable);
        assert_eq!(mine.retry_max_times, 3);
        assert!(again.get("other").is_some());
        assert_eq!(again.snapshot().data_version.counter, version + 1);
    }

    #[test]
    fn a_java_file_is_read() {
        let dir = tempfile::tempdir().unwrap();
        json_file::store(
            &persist::config_path(dir.path(), FILE),
            br#"{"dataVersion":{"counter":3,"stateVersion":0,"timestamp":1764000000000},
            "forbiddenTable":{"g":{"T":4}},
            "subscriptionGroupTable":{"g":{"attributes":{},"brokerId":0,"consumeBroadcastEnable":true,"consumeEnable":true,
            "consumeFromMinEnable":true,"consumeMessageOrderly":false,"consumeTimeoutMinute":15,"groupName":"g",
            "groupRetryPolicy":{"type":"CUSTOMIZED"},"groupSysFlag":0,"notifyConsumerIdsChangedEnable":false,
            "retryMaxTimes":16,"retryQueueNums":2,"whichBrokerWhenConsumeSlowly":1}}}"#,
        )
        .unwrap();
        let groups = open(dir.path(), &BrokerConfig::default());
        let group = groups.get("g").unwrap();
        assert_eq!(group.retry_queue_nums, 2);
        assert!(!group.notify_consumer_ids_changed_enable);
        assert!(groups.is_read_forbidden("g", "T"));
        assert!(!groups.is_read_forbidden("g", "U"));
        assert_eq!(groups.snapshot().data_version.counter, 3);
    }

    #[test]
    fn a_deleted_group_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let groups = open(dir.path(), &BrokerConfig::default());
        groups.find("mine").unwrap();
        assert!(groups.delete("mine"));
        assert!(!groups.delete("mine"));
        assert!(groups.get("mine").is_none());
    }
}
