//! The NameServer's settings, by RocketMQ's names (`NamesrvConfig` and `NettyServerConfig`), defaults of 5.5.

use std::path::PathBuf;

use ferromq_common::config::{self, Int, Key, Slot};

/// Settings of one NameServer. Field names are the keys of `namesrv.conf` in snake case.
#[derive(Clone, Debug)]
pub struct NamesrvConfig {
    /// Address the server listens on.
    pub bind_address: String,
    /// Port, 0 takes any free port.
    pub listen_port: u16,
    /// File of the key-value table.
    pub kv_config_path: PathBuf,
    /// File written when settings are changed by request (code 318).
    pub config_store_path: PathBuf,
    /// Adds `orderTopicConf` to routes.
    pub order_message_enable: bool,
    /// Answers a registration with the namespace ORDER_TOPIC_CONFIG.
    pub return_order_topic_config_to_broker: bool,
    /// How often silent brokers are looked for, milliseconds.
    pub scan_not_active_broker_interval: u64,
    /// Shows the lowest slave as master while there is none.
    pub support_acting_master: bool,
    /// Answers code 206.
    pub enable_all_topic_list: bool,
    /// Answers 224 and 311 to 313.
    pub enable_topic_list: bool,
    /// Refuses route requests for `wait_seconds_for_service` after the start.
    pub need_wait_for_service: bool,
    /// See `need_wait_for_service`, seconds.
    pub wait_seconds_for_service: u64,
    /// Topics missing in a registration are removed from the broker.
    pub delete_topic_with_broker_registration: bool,
    /// Keys that code 318 refuses, separated by semicolons.
    pub config_black_list: String,
    /// Idle connections are closed after this, seconds.
    pub server_channel_max_idle_time_seconds: u64,
    /// Most connections.
    pub max_connections: usize,
    /// Threads that read sockets.
    pub reactors: usize,
}

impl Default for NamesrvConfig {
    fn default() -> Self {
        let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default().join("namesrv");
        Self {
            bind_address: "0.0.0.0".into(),
            listen_port: 9876,
            kv_config_path: home.join("kvConfig.json"),
            config_store_path: home.join("namesrv.properties"),
            order_message_enable: false,
            return_order_topic_config_to_broker: true,
            scan_not_active_broker_interval: 5000,
            support_acting_master: false,
            enable_all_topic_list: true,
            enable_topic_list: true,
            need_wait_for_service: false,
            wait_seconds_for_service: 45,
            delete_topic_with_broker_registration: false,
            config_black_list: "configBlackList;configStorePath;kvConfigPath".into(),
            server_channel_max_idle_time_seconds: 120,
            max_connections: 65_536,
            reactors: 1,
        }
    }
}

/// Keys of `namesrv.conf` with a meaning here.
pub const KEYS: &[Key<NamesrvConfig>] = &[
    Key { name: "bindAddress", important: false, slot: |c| Slot::Text(&mut c.bind_address) },
    Key { name: "listenPort", important: true, slot: |c| Slot::Int(Int::U16(&mut c.listen_port), 0, 65535) },
    Key { name: "kvConfigPath", important: false, slot: |c| Slot::Path(&mut c.kv_config_path) },
    Key { name: "configStorePath", important: false, slot: |c| Slot::Path(&mut c.config_store_path) },
    Key { name: "orderMessageEnable", important: false, slot: |c| Slot::Bool(&mut c.order_message_enable) },
    Key {
        name: "returnOrderTopicConfigToBroker",
        important: false,
        slot: |c| Slot::Bool(&mut c.return_order_topic_config_to_broker),
    },
    Key {
        name: "scanNotActiveBrokerInterval",
        important: false,
        slot: |c| Slot::Int(Int::U64(&mut c.scan_not_active_broker_interval), 10, 600_000),
    },
    Key { name: "supportActingMaster", important: false, slot: |c| Slot::Bool(&mut c.support_acting_master) },
    Key { name: "enableAllTopicList", important: false, slot: |c| Slot::Bool(&mut c.enable_all_topic_list) },
    Key { name: "enableTopicList", important: false, slot: |c| Slot::Bool(&mut c.enable_topic_list) },
    Key { name: "needWaitForService", important: false, slot: |c| Slot::Bool(&mut c.need_wait_for_service) },
    Key {
        name: "waitSecondsForService",
        important: false,
        slot: |c| Slot::Int(Int::U64(&mut c.wait_seconds_for_service), 0, 86_400),
    },
    Key {
        name: "deleteTopicWithBrokerRegistration",
        important: false,
        slot: |c| Slot::Bool(&mut c.delete_topic_with_broker_registration),
    },
    Key { name: "configBlackList", important: false, slot: |c| Slot::Text(&mut c.config_black_list) },
    Key {
        name: "serverChannelMaxIdleTimeSeconds",
        important: false,
        slot: |c| Slot::Int(Int::U64(&mut c.server_channel_max_idle_time_seconds), 1, 86_400),
    },
    Key {
        name: "maxConnections",
        important: false,
        slot: |c| Slot::Int(Int::Usize(&mut c.max_connections), 1, 1_000_000),
    },
    Key { name: "reactors", important: false, slot: |c| Slot::Int(Int::Usize(&mut c.reactors), 1, 64) },
];

impl NamesrvConfig {
    /// All settings as a properties file.
    pub fn to_properties(&self) -> String {
        let mut config = self.clone();
        let lines = config::describe(KEYS, &mut config, false).into_iter();
        lines.map(|(key, value)| format!("{key}={}\n", value.replace('\\', "\\\\"))).collect()
    }

    /// Whether a request (code 318) may not change this key.
    pub(crate) fn is_protected(&self, key: &str) -> bool {
        ["configBlackList", "configStorePath", "kvConfigPath", "rocketmqHome"].contains(&key)
            || self.config_black_list.split(';').any(|listed| listed == key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferromq_common::properties::Properties;

    #[test]
    fn settings_go_both_ways() {
        let mut config = NamesrvConfig { order_message_enable: true, ..NamesrvConfig::default() };
        let properties = Properties::parse(config.to_properties().as_bytes()).unwrap();
        assert_eq!(properties.entries().len(), KEYS.len());
        assert_eq!(properties.get("orderMessageEnable"), Some("true"));
        config.order_message_enable = false;
        assert!(config::apply(KEYS, properties.entries(), &mut config).unwrap().is_empty());
        assert!(config.order_message_enable);
        assert!(config.is_protected("kvConfigPath") && !config.is_protected("orderMessageEnable"));
    }
}
