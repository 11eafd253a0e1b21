//! `ferromq dev`: NameServer, Broker and proxy in one process, with defaults for a developer's machine.
//!
//! Owns nothing beyond the three servers. Order: folder, NameServer, Broker, proxy, banner; the reverse at the stop.

use crate::cli::DevArgs;
use crate::settings::BrokerSettings;
use crate::{Failure, host, printer, servers};
use ferromq_broker::Broker;
use ferromq_common::{lifecycle::StopSignals, logging, net};
use ferromq_namesrv::{NameServer, NamesrvConfig};
use ferromq_proxy::{CertificateFiles, Node, Proxy, ProxyConfig, RemotingDoor};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Instant;
use tracing::level_filters::LevelFilter;

const NAMESRV_PORT: u16 = 9876;
const BROKER_PORT: u16 = 10911;

/// Runs both servers until a signal comes.
pub fn run(arguments: DevArgs) -> Result<(), Failure> {
    let started = Instant::now();
    logging::init(LevelFilter::WARN);
    let signals = StopSignals::install()?;
    let data = data_folder(&arguments)?;
    let mut settings = broker_settings(&arguments, &data)?;

    let name_server = NameServer::start(NamesrvConfig {
        bind_address: arguments.listen.to_string(),
        listen_port: arguments.namesrv_port.unwrap_or(NAMESRV_PORT),
        kv_config_path: data.join("namesrv/kvConfig.json"),
        config_store_path: data.join("namesrv/namesrv.properties"),
        ..NamesrvConfig::default()
    })?;
    let reached_at = |port| SocketAddr::new(reachable(arguments.listen), port).to_string();
    let namesrv_address = reached_at(name_server.addr().port());
    settings.broker.namesrv_addr = Some(namesrv_address.clone());
    let broker_name = settings.broker.broker_name.clone();
    settings.broker.effective_properties = settings.effective();
    let broker = match Broker::start(settings.broker, settings.store) {
        Ok(broker) => broker,
        Err(error) => {
            name_server.shutdown();
            return Err(error.into());
        }
    };

    let proxy = match Proxy::start(&proxy_config(&arguments), &broker) {
        Ok(proxy) => proxy,
        Err(error) => {
            broker.shutdown();
            name_server.shutdown();
            return Err(error.into());
        }
    };

    broker.wait_registered(servers::REGISTERED_WITHIN);
    printer::lines([
        servers::namesrv_ready(name_server.addr()),
        servers::broker_ready(&broker_name, broker.addr(), Some(&namesrv_address)),
    ]);
    let port = |addr: Option<SocketAddr>| addr.map_or(0, |addr| addr.port());
    let ports = [port(proxy.remoting_addr()), proxy.addr().port(), port(proxy.http_addr())];
    let [remoting, grpc, http] = ports.map(reached_at);
    let addresses = [namesrv_address, broker.addr().to_string(), remoting, grpc, http];
    printer::lines(banner(&addresses, &data, started.elapsed().as_millis()));
    let signal = signals.wait();
    tracing::info!("{signal} received, stopping");
    proxy.shutdown();
    broker.shutdown();
    name_server.shutdown();
    Ok(())
}

fn data_folder(arguments: &DevArgs) -> Result<PathBuf, Failure> {
    let folder = match &arguments.data {
        Some(folder) => folder.clone(),
        None => host::data_home()
            .ok_or("no folder for the data: HOME is not set; give one with --data DIR")?
            .join("ferromq/dev"),
    };
    let made = std::fs::create_dir_all(&folder).and_then(|()| std::path::absolute(&folder));
    made.map_err(|error| {
        format!("cannot use the data folder {}: {error}; choose another with --data DIR", folder.display()).into()
    })
}

/// Dev's own defaults, then the file, then the options.
fn broker_settings(arguments: &DevArgs, data: &Path) -> Result<BrokerSettings, Failure> {
    let mut settings = BrokerSettings::new();
    settings.broker.broker_name = "broker-a".into();
    settings.broker.bind_address = arguments.listen.to_string();
    settings.broker.broker_ip1 = reachable(arguments.listen).to_string();
    settings.broker.listen_port = BROKER_PORT;
    settings.store.root = data.join("store");
    settings.serve_light_queues();
    settings.read(arguments.config.as_deref())?.log();
    if let Some(port) = arguments.broker_port {
        settings.broker.listen_port = port;
    }
    if arguments.data.is_some() {
        settings.store.root = data.join("store");
    }
    Ok(settings)
}

fn proxy_config(arguments: &DevArgs) -> ProxyConfig {
    let files = arguments.tls_cert.clone().zip(arguments.tls_key.clone());
    let certificate = files.map(|(certificate, key)| CertificateFiles { certificate, key });
    let at = |port| SocketAddr::new(arguments.listen, port);
    ProxyConfig {
        certificate,
        http: Some(at(arguments.http_port)),
        remoting: Some(RemotingDoor::new(at(arguments.proxy_port))),
        node: Node { name: host::name(), ..Node::default() },
        ..ProxyConfig::new(at(arguments.grpc_port))
    }
}

/// The address clients use for a listening address.
fn reachable(listen: IpAddr) -> IpAddr {
    match listen {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => net::outward_ip(),
        IpAddr::V6(address) if address.is_unspecified() => net::outward_ip(),
        address => address,
    }
}

fn banner([namesrv, broker, remoting, grpc, http]: &[String; 5], data: &Path, took_millis: u128) -> Vec<String> {
    let program = std::env::args().next().unwrap_or_else(|| "ferromq".into());
    let option = if *namesrv == format!("127.0.0.1:{NAMESRV_PORT}") { String::new() } else { format!(" -n {namesrv}") };
    vec![
        String::new(),
        format!("FerroMQ is ready after {took_millis} ms."),
        String::new(),
        format!("  NameServer  {namesrv}   (namesrvAddr of any RocketMQ client)"),
        format!("  Broker      {broker}"),
        format!("  Proxy       {remoting}   (namesrvAddr where only one address can be reached)"),
        format!("  gRPC        {grpc}   (endpoints of rocketmq-clients; TLS or plaintext)"),
        format!("  HTTP        {http}   (curl; /openapi.json describes it)"),
        format!("  Data        {}", data.display()),
        String::new(),
        "In a second terminal:".into(),
        String::new(),
        format!("  {program} send Greetings \"hello\"{option}"),
        format!("  {program} tail Greetings --from-beginning{option}"),
        String::new(),
        "Ctrl-C stops.".into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn dev(line: &str) -> DevArgs {
        match Cli::parse_from(line.split_whitespace()).command {
            Command::Dev(arguments) => arguments,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn options_come_before_the_file_and_the_file_before_the_defaults() {
        let dir = tempfile::tempdir().unwrap();
        let conf = dir.path().join("my.conf");
        std::fs::write(&conf, "brokerName=mine\nlistenPort=20911\nstorePathRootDir=/elsewhere\n").unwrap();
        let conf = conf.display();
        let settings = broker_settings(&dev(&format!("ferromq dev -c {conf}")), Path::new("/data")).ok().unwrap();
        assert_eq!((settings.broker.broker_name.as_str(), settings.broker.listen_port), ("mine", 20911));
        assert_eq!(settings.store.root, Path::new("/elsewhere"));
        let line = format!("ferromq dev -c {conf} --broker-port 0 --data /data");
        let settings = broker_settings(&dev(&line), Path::new("/data")).ok().unwrap();
        assert_eq!(settings.broker.listen_port, 0);
        assert_eq!(settings.store.root, Path::new("/data/store"));
        assert_eq!(settings.broker.broker_ip1, "127.0.0.1");
    }

    #[test]
    fn commands_of_the_banner_name_the_address_when_it_is_not_the_usual_one() {
        let addresses = |namesrv: &str| [namesrv, "b", "p", "g", "h"].map(str::to_owned);
        let usual = banner(&addresses("127.0.0.1:9876"), Path::new("/d"), 3).join("\n");
        assert!(usual.contains("send Greetings \"hello\"\n"));
        let other = banner(&addresses("127.0.0.1:1234"), Path::new("/d"), 3).join("\n");
        assert!(other.contains("tail Greetings --from-beginning -n 127.0.0.1:1234\n"));
    }
}
