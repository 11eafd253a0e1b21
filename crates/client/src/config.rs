//! Settings shared by producers, consumers and admin calls of one client, by RocketMQ's names (`ClientConfig`).

use std::net::IpAddr;
use std::time::Duration;

use ferromq_common::net;
use ferromq_protocol::Encoding;

/// Settings of a [`crate::Client`].
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Name servers as `host:port`, separated by semicolons.
    pub namesrv_addr: String,
    /// Address in the client id and in message ids.
    pub client_ip: IpAddr,
    /// Part of the client id. `DEFAULT` becomes the process id and the start time, so that two processes on one
    /// machine are two members of a group.
    pub instance_name: String,
    /// Appended to the client id when set.
    pub unit_name: Option<String>,
    /// Longest wait for an answer unless a call says otherwise (`mqClientApiTimeout`).
    pub api_timeout: Duration,
    /// How often routes are fetched again.
    pub poll_name_server_interval: Duration,
    /// How often brokers hear of this client.
    pub heartbeat_broker_interval: Duration,
    /// Header encoding of requests.
    pub encoding: Encoding,
}

impl ClientConfig {
    /// Defaults of RocketMQ 5.5 with the given name servers.
    pub fn new(namesrv_addr: impl Into<String>) -> Self {
        Self {
            namesrv_addr: namesrv_addr.into(),
            client_ip: net::outward_ip(),
            instance_name: "DEFAULT".into(),
            unit_name: None,
            api_timeout: Duration::from_millis(3000),
            poll_name_server_interval: Duration::from_secs(30),
            heartbeat_broker_interval: Duration::from_secs(30),
            encoding: Encoding::Json,
        }
    }

    /// `ip@instance[@unit]`; `nanos` makes the default instance name unique in its process.
    pub(crate) fn client_id(&self, nanos: u128) -> String {
        let instance = match self.instance_name.as_str() {
            "DEFAULT" => format!("{}#{nanos}", std::process::id()),
            name => name.to_owned(),
        };
        match &self.unit_name {
            Some(unit) => format!("{}@{instance}@{unit}", self.client_ip),
            None => format!("{}@{instance}", self.client_ip),
        }
    }

    pub(crate) fn namesrvs(&self) -> Vec<String> {
        let parts = self.namesrv_addr.split(';').map(str::trim).filter(|a| !a.is_empty());
        parts.map(|a| a.strip_prefix("http://").unwrap_or(a).to_owned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn client_ids_and_name_servers() {
        let mut config = ClientConfig::new(" a:9876; b:9876 ;;");
        assert_eq!(config.namesrvs(), ["a:9876", "b:9876"]);
        config.client_ip = Ipv4Addr::LOCALHOST.into();
        assert_ne!(config.client_id(1), config.client_id(2));
        config.instance_name = "one".into();
        assert_eq!(config.client_id(1), "127.0.0.1@one");
        config.unit_name = Some("u".into());
        assert_eq!(config.client_id(1), "127.0.0.1@one@u");
    }
}
