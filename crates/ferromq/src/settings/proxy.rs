//! The proxy's own settings: RocketMQ's `rmq-proxy.json`.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use ferromq_common::config;
use ferromq_proxy::{AccessAddresses, CertificateFiles, ClusterConfig, Node, ProxyConfig, RemotingDoor, TlsMode};
use serde_json::{Map, Value};

use super::{Remarks, Server, SettingsError, known};
use crate::cli::ProxyMode;
use crate::host;

/// Port of gRPC clients (`grpcServerPort`).
const GRPC_PORT: u16 = 8081;
/// Port of remoting clients (`remotingListenPort`).
const REMOTING_PORT: u16 = 8080;

/// Keys of our own; the last one is a system property of RocketMQ's.
const OWN_KEYS: [&str; 3] = ["grpcAccessAddr", "remotingBrokerPorts", "tls.server.mode"];

/// What the file says.
#[derive(Debug)]
pub struct ProxySettings {
    pub proxy: ProxyConfig,
    /// What stands behind it, and the brokers if that is a cluster. No NameServer is an empty text.
    pub mode: ProxyMode,
    pub cluster: ClusterConfig,
    /// Configuration of the broker in this process.
    pub broker_config: Option<PathBuf>,
}

impl ProxySettings {
    fn new(listen: IpAddr) -> Self {
        ProxySettings {
            proxy: ProxyConfig {
                remoting: Some(RemotingDoor::new(SocketAddr::new(listen, REMOTING_PORT))),
                node: Node { name: host::name(), ..Node::default() },
                ..ProxyConfig::new(SocketAddr::new(listen, GRPC_PORT))
            },
            mode: ProxyMode::Cluster,
            cluster: ClusterConfig::new(""),
            broker_config: None,
        }
    }

    /// Takes one setting; false if it has no effect here.
    fn set(&mut self, key: &str, value: &Value, tls: &mut Tls) -> Result<bool, String> {
        let not = |what: &str| format!("{key} is {what}, not {value}");
        let text = || value.as_str().ok_or_else(|| not("a text"));
        let number = || value.as_u64().filter(|number| *number > 0).ok_or_else(|| not("a number above 0"));
        let port = |value: &Value| {
            let port = value.as_u64().and_then(|port| u16::try_from(port).ok());
            port.ok_or_else(|| not("a port from 0 to 65535"))
        };
        match key {
            "grpcServerPort" => self.proxy.listen.set_port(port(value)?),
            "remotingListenPort" | "remotingAccessAddr" | "remotingBrokerPorts" => {
                let Some(door) = &mut self.proxy.remoting else { return Ok(false) };
                match key {
                    "remotingListenPort" => door.listen.set_port(port(value)?),
                    "remotingAccessAddr" => door.access = Some(text()?.to_owned()).filter(|text| !text.is_empty()),
                    _ => {
                        let brokers = value.as_object().ok_or_else(|| not("an object of ports by broker name"))?;
                        let ports = brokers.iter().map(|(name, value)| Ok((name.clone(), port(value)?)));
                        door.broker_ports = ports.collect::<Result<BTreeMap<_, _>, String>>()?;
                    }
                }
            }
            "grpcMaxInboundMessageSize" => {
                self.proxy.max_inbound_bytes = usize::try_from(number()?).unwrap_or(usize::MAX);
            }
            "grpcAccessAddr" => {
                let access = AccessAddresses::parse(text()?).map_err(|why| format!("grpcAccessAddr: {why}"))?;
                self.proxy.access = Some(access);
            }
            "tlsTestModeEnable" => tls.made = value.as_bool().ok_or_else(|| not("true or false"))?,
            "tls.server.mode" => {
                let mode = TlsMode::named(text()?).ok_or_else(|| not("disabled, permissive or enforcing"))?;
                self.proxy.tls_mode = mode;
            }
            "tlsCertPath" => tls.certificate = Some(text()?.into()),
            "tlsKeyPath" => tls.key = Some(text()?.into()),
            "proxyMode" => {
                self.mode = match text()?.to_ascii_lowercase().as_str() {
                    "cluster" => ProxyMode::Cluster,
                    "local" => ProxyMode::Local,
                    _ => return Err(not("cluster or local")),
                }
            }
            "proxyClusterName" => text()?.clone_into(&mut self.proxy.node.cluster),
            "proxyName" => text()?.clone_into(&mut self.proxy.node.name),
            "rocketMQClusterName" => text()?.clone_into(&mut self.cluster.cluster_name),
            "namesrvAddr" => text()?.clone_into(&mut self.cluster.namesrv_addr),
            "brokerConfigPath" => self.broker_config = Some(text()?.into()),
            "maxMessageSize" => self.cluster.max_message_size = usize::try_from(number()?).unwrap_or(usize::MAX),
            "maxDelayTimeMills" => self.cluster.max_delay_ms = i64::try_from(number()?).unwrap_or(i64::MAX),
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// The settings of a proxy that listens on an address: of a file, else of RocketMQ's own place for it if there is one. What has
/// no effect is named in the log.
pub fn read(path: Option<&Path>, listen: IpAddr) -> Result<ProxySettings, SettingsError> {
    let in_home = || Some(home()?.join("conf/rmq-proxy.json")).filter(|file| file.exists());
    match path.map(Path::to_owned).or_else(in_home) {
        Some(path) => {
            tracing::info!("the proxy's settings are from {}", path.display());
            read_file(&path, listen)
        }
        None => Ok(ProxySettings::new(listen)),
    }
}

fn read_file(path: &Path, listen: IpAddr) -> Result<ProxySettings, SettingsError> {
    let mut settings = ProxySettings::new(listen);
    let wrong = |why: String| SettingsError(format!("the proxy's settings {}: {why}", path.display()));
    let text = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    let file: Map<String, Value> =
        serde_json::from_slice(&text).map_err(|error| wrong(format!("this is no JSON object: {error}")))?;
    let (mut tls, mut others) = (Tls::default(), Vec::new());
    for (key, value) in &file {
        if !settings.set(key, value, &mut tls).map_err(wrong)? {
            others.push(key.as_str());
        }
    }
    judge(&others).log();
    settings.proxy.certificate = tls.files().map_err(wrong)?;
    Ok(settings)
}

/// RocketMQ's folder of a proxy.
fn home() -> Option<PathBuf> {
    let home = ["RMQ_PROXY_HOME", "ROCKETMQ_HOME"].into_iter().find_map(std::env::var_os);
    home.filter(|home| !home.is_empty()).map(PathBuf::from)
}

/// What to say of keys that have no effect.
fn judge(keys: &[&str]) -> Remarks {
    let is_known = |key: &str| known(Server::Proxy).any(|(name, _)| name == key);
    let (not_served, unknown): (Vec<&str>, Vec<&str>) = keys.iter().partition(|key| is_known(key));
    let warnings = unknown.into_iter().map(|key| {
        let names = known(Server::Proxy).map(|(name, _)| name).chain(OWN_KEYS);
        let hint = config::nearest(key, names).map(|name| format!("; did you mean {name}?")).unwrap_or_default();
        format!("unknown setting {key} of the proxy is ignored{hint}")
    });
    Remarks { warnings: warnings.collect(), not_served: not_served.into_iter().map(str::to_owned).collect() }
}

/// RocketMQ's three settings of TLS.
struct Tls {
    /// `tlsTestModeEnable`: a certificate made by the process, whatever the files are.
    made: bool,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
}

impl Default for Tls {
    fn default() -> Self {
        Tls { made: true, certificate: None, key: None }
    }
}

impl Tls {
    fn files(self) -> Result<Option<CertificateFiles>, String> {
        if self.made {
            if self.certificate.is_some() || self.key.is_some() {
                tracing::warn!("tlsCertPath and tlsKeyPath count only with tlsTestModeEnable=false, which is not set");
            }
            return Ok(None);
        }
        let in_home = |name: &str| {
            home().map(|home| home.join("conf/tls").join(name)).ok_or_else(|| {
                "tlsTestModeEnable is false: name the files with tlsCertPath and tlsKeyPath, or set ROCKETMQ_HOME, where conf/tls has them"
                    .to_owned()
            })
        };
        let certificate = self.certificate.map_or_else(|| in_home("rocketmq.crt"), Ok)?;
        let key = self.key.map_or_else(|| in_home("rocketmq.key"), Ok)?;
        Ok(Some(CertificateFiles { certificate, key }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn read_text(text: &str) -> Result<ProxySettings, SettingsError> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("rmq-proxy.json");
        std::fs::write(&file, text).unwrap();
        read(Some(&file), Ipv4Addr::LOCALHOST.into())
    }

    #[test]
    fn the_port_is_read_and_broken_files_are_told() {
        assert_eq!(read(None, Ipv4Addr::LOCALHOST.into()).unwrap().proxy.listen.port(), 8081);
        assert_eq!(read_text(r#"{"rocketMQClusterName": "DefaultCluster"}"#).unwrap().proxy.listen.port(), 8081);
        assert_eq!(read_text(r#"{"grpcServerPort": 18081}"#).unwrap().proxy.listen.port(), 18081);
        for bad in [
            "",
            "[]",
            r#"{"grpcServerPort": "x"}"#,
            r#"{"grpcServerPort": 70000}"#,
            r#"{"tlsTestModeEnable": "no"}"#,
            r#"{"tlsCertPath": 5}"#,
            r#"{"tls.server.mode": "Enforcing"}"#,
            r#"{"grpcAccessAddr": "nowhere"}"#,
            r#"{"grpcMaxInboundMessageSize": 0}"#,
            r#"{"proxyMode": "both"}"#,
            r#"{"namesrvAddr": 9876}"#,
            r#"{"maxMessageSize": 0}"#,
            r#"{"remotingListenPort": -1}"#,
            r#"{"remotingBrokerPorts": [8090]}"#,
            r#"{"remotingBrokerPorts": {"broker-a": "8090"}}"#,
        ] {
            assert!(read_text(bad).unwrap_err().to_string().contains("rmq-proxy.json"), "{bad}");
        }
    }

    #[test]
    fn files_of_tls_count_outside_of_the_test_mode() {
        let files = r#""tlsCertPath": "/tls/a.crt", "tlsKeyPath": "/tls/a.key""#;
        let made = read_text(&format!("{{{files}}}")).unwrap();
        assert_eq!(made.proxy.certificate, None);
        let own = read_text(&format!(r#"{{"tlsTestModeEnable": false, {files}}}"#)).unwrap();
        let wanted = CertificateFiles { certificate: "/tls/a.crt".into(), key: "/tls/a.key".into() };
        assert_eq!(own.proxy.certificate, Some(wanted));
    }

    #[test]
    fn tls_has_three_modes() {
        let mode = |text: &str| read_text(text).unwrap().proxy.tls_mode;
        assert_eq!(mode("{}"), TlsMode::Permissive);
        assert_eq!(mode(r#"{"tls.server.mode": "disabled"}"#), TlsMode::Disabled);
        assert_eq!(mode(r#"{"tls.server.mode": "enforcing"}"#), TlsMode::Enforcing);
    }

    #[test]
    fn remoting_clients_have_a_door() {
        let door = |text: &str| read_text(text).unwrap().proxy.remoting.unwrap();
        assert_eq!((door("{}").listen.port(), door("{}").access), (8080, None));
        let text = r#"{"remotingListenPort": 0, "remotingAccessAddr": "mq.example.com", "remotingBrokerPorts": {"broker-a": 8090}}"#;
        let set = door(text);
        assert_eq!((set.listen.port(), set.access.as_deref()), (0, Some("mq.example.com")));
        assert_eq!(set.broker_ports, BTreeMap::from([("broker-a".to_owned(), 8090)]));
    }

    #[test]
    fn keys_without_effect_are_told_apart() {
        let remarks = judge(&["enablePrintJstack", "grpcServerPrt", "grpcAcessAddr", "neverHeardOf"]);
        assert_eq!(remarks.not_served, ["enablePrintJstack"]);
        let unknown = |key: &str, hint: &str| format!("unknown setting {key} of the proxy is ignored{hint}");
        let warnings = [
            unknown("grpcServerPrt", "; did you mean grpcServerPort?"),
            unknown("grpcAcessAddr", "; did you mean grpcAccessAddr?"),
            unknown("neverHeardOf", ""),
        ];
        assert_eq!(remarks.warnings, warnings);
    }

    #[test]
    fn a_cluster_is_described() {
        let text = r#"{"proxyMode": "LOCAL", "namesrvAddr": "a:1;b:2", "rocketMQClusterName": "east", "brokerConfigPath": "b.conf",
            "proxyClusterName": "doors", "proxyName": "door-1",
            "maxMessageSize": 1024, "maxDelayTimeMills": 5000, "enablePrintJstack": false, "nobodyKnows": {}}"#;
        let settings = read_text(text).unwrap();
        assert_eq!((settings.mode, settings.broker_config.as_deref()), (ProxyMode::Local, Some(Path::new("b.conf"))));
        let node = settings.proxy.node;
        assert_eq!((node.cluster.as_str(), node.name.as_str()), ("doors", "door-1"));
        let cluster = settings.cluster;
        assert_eq!((cluster.namesrv_addr.as_str(), cluster.cluster_name.as_str()), ("a:1;b:2", "east"));
        assert_eq!((cluster.max_message_size, cluster.max_delay_ms), (1024, 5000));
    }
}
