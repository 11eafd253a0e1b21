//! `ferromq namesrv`, `ferromq broker` and `ferromq proxy`: one server in this process, until a signal stops it.
//!
//! The lines with `boot success` are RocketMQ's to the letter: start scripts and test containers wait for them.

use crate::cli::{BrokerArgs, NamesrvArgs, ProxyArgs, ProxyMode};
use crate::settings::{self, BrokerSettings, ProxySettings, Remarks};
use crate::{Failure, printer};
use ferromq_broker::Broker;
use ferromq_common::{lifecycle::StopSignals, logging};
use ferromq_namesrv::NameServer;
use ferromq_proxy::{Proxy, ProxyConfig};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;
use tracing::level_filters::LevelFilter;

/// How long the ready line waits for the name servers: who reads it may send at once.
pub const REGISTERED_WITHIN: Duration = Duration::from_secs(3);

/// Runs a NameServer.
pub fn namesrv(arguments: &NamesrvArgs) -> Result<(), Failure> {
    let (config, remarks, lines) = settings::read_namesrv(arguments.config.as_deref())?;
    if arguments.print_all {
        printer::lines(lines);
        return Ok(());
    }
    logging::init(LevelFilter::INFO);
    remarks.log();
    let signals = StopSignals::install()?;
    let server = NameServer::start(config)?;
    printer::lines([namesrv_ready(server.addr())]);
    let signal = signals.wait();
    tracing::info!("{signal} received, stopping");
    server.shutdown();
    Ok(())
}

/// Runs a Broker.
pub fn broker(arguments: BrokerArgs) -> Result<(), Failure> {
    let mut settings = BrokerSettings::new();
    let remarks = settings.read(arguments.config.as_deref())?;
    if let Some(addresses) = arguments.namesrv {
        settings.broker.namesrv_addr = Some(addresses);
    }
    if arguments.print_all || arguments.print_important {
        printer::lines(settings.lines(!arguments.print_all));
        return Ok(());
    }
    logging::init(LevelFilter::INFO);
    let proxy = match arguments.enable_proxy {
        true => {
            let listen = listen(&settings);
            let config = settings::read_proxy(arguments.proxy_config.as_deref(), listen)?.proxy;
            Some(ProxyConfig { http: arguments.http_port.map(|port| SocketAddr::new(listen, port)), ..config })
        }
        false => None,
    };
    serve(settings, &remarks, proxy)
}

/// Runs a proxy, in local mode with its broker.
pub fn proxy(arguments: ProxyArgs) -> Result<(), Failure> {
    logging::init(LevelFilter::INFO);
    let ProxySettings { mut proxy, mode, mut cluster, broker_config } = settings::read_proxy(
        arguments.proxy_config.as_deref(),
        arguments.listen.unwrap_or(Ipv4Addr::UNSPECIFIED.into()),
    )?;
    if let Some(port) = arguments.grpc_port {
        proxy.listen.set_port(port);
    }
    if let (Some(port), Some(remoting)) = (arguments.proxy_port, &mut proxy.remoting) {
        remoting.listen.set_port(port);
    }
    proxy.http = arguments.http_port.map(|port| SocketAddr::new(proxy.listen.ip(), port));
    let file = Some(cluster.namesrv_addr).filter(|addresses| !addresses.is_empty());
    let name_servers = arguments.namesrv.or(file);
    if arguments.mode.unwrap_or(mode) == ProxyMode::Local {
        let mut settings = BrokerSettings::new();
        let remarks = settings.read(arguments.broker_config.or(broker_config).as_deref())?;
        settings.broker.namesrv_addr = name_servers.or(settings.broker.namesrv_addr);
        set_ip(&mut proxy, arguments.listen.unwrap_or_else(|| listen(&settings)));
        return serve(settings, &remarks, Some(proxy));
    }
    let name_servers = name_servers.or_else(|| std::env::var("NAMESRV_ADDR").ok());
    cluster.namesrv_addr =
        name_servers.ok_or("no name server is set: give -n, namesrvAddr of the proxy's settings, or NAMESRV_ADDR")?;
    proxy.threads = std::thread::available_parallelism().map_or(proxy.threads, |cores| cores.get());
    let signals = StopSignals::install()?;
    let proxy = Proxy::start_for_cluster(&proxy, cluster)?;
    printer::lines(proxy_ready(&proxy));
    let signal = signals.wait();
    tracing::info!("{signal} received, stopping");
    proxy.shutdown();
    Ok(())
}

/// Moves all doors of a proxy to an address.
fn set_ip(proxy: &mut ProxyConfig, ip: IpAddr) {
    let remoting = proxy.remoting.as_mut().map(|door| &mut door.listen);
    for listen in [Some(&mut proxy.listen), proxy.http.as_mut(), remoting].into_iter().flatten() {
        listen.set_ip(ip);
    }
}

/// The address a broker listens on.
fn listen(settings: &BrokerSettings) -> IpAddr {
    settings.broker.bind_address.parse().unwrap_or(Ipv4Addr::UNSPECIFIED.into())
}

/// Runs a broker, with a proxy beside it if there is one.
fn serve(mut settings: BrokerSettings, remarks: &Remarks, proxy: Option<ProxyConfig>) -> Result<(), Failure> {
    remarks.log();
    if settings.broker.namesrv_addr.is_none() {
        tracing::warn!(
            "no name server is set: clients will not find this broker; give -n, namesrvAddr or NAMESRV_ADDR"
        );
    }
    let signals = StopSignals::install()?;
    let name = settings.broker.broker_name.clone();
    let name_servers = settings.broker.namesrv_addr.clone();
    settings.broker.effective_properties = settings.effective();
    let broker = Broker::start(settings.broker, settings.store)?;
    let proxy = match proxy.map(|config| Proxy::start(&config, &broker)).transpose() {
        Ok(proxy) => proxy,
        Err(error) => {
            broker.shutdown();
            return Err(error.into());
        }
    };
    if name_servers.is_some() && !broker.wait_registered(REGISTERED_WITHIN) {
        tracing::warn!("not all name servers know this broker after {REGISTERED_WITHIN:?}; it goes on trying");
    }
    printer::lines([broker_ready(&name, broker.addr(), name_servers.as_deref())]);
    printer::lines(proxy.iter().flat_map(proxy_ready));
    let signal = signals.wait();
    tracing::info!("{signal} received, stopping");
    if let Some(proxy) = proxy {
        proxy.shutdown();
    }
    broker.shutdown();
    Ok(())
}

/// RocketMQ's line for a NameServer that serves.
pub fn namesrv_ready(address: SocketAddr) -> String {
    format!("The Name Server boot success. serializeType=JSON, address {address}")
}

/// RocketMQ's line for a broker that serves.
pub fn broker_ready(name: &str, address: SocketAddr, name_servers: Option<&str>) -> String {
    let known_by = name_servers.map(|addresses| format!(" and name server is {addresses}")).unwrap_or_default();
    format!("The broker[{name}, {address}] boot success. serializeType=JSON{known_by}")
}

/// RocketMQ's line for a proxy that serves, and where it does.
fn proxy_ready(proxy: &Proxy) -> Vec<String> {
    let ready = format!("rocketmq-proxy startup successfully, gRPC at {}", proxy.addr());
    let others = [("remoting", proxy.remoting_addr()), ("HTTP", proxy.http_addr())];
    let others = others.into_iter().filter_map(|(kind, addr)| Some(format!("{kind} at {}", addr?)));
    std::iter::once(ready).chain(others).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_lines_are_rocketmqs() {
        let address = "127.0.0.1:10911".parse().unwrap();
        assert_eq!(
            broker_ready("broker-a", address, Some("127.0.0.1:9876;h:1")),
            "The broker[broker-a, 127.0.0.1:10911] boot success. serializeType=JSON and name server is 127.0.0.1:9876;h:1"
        );
        assert_eq!(
            broker_ready("broker-a", address, None),
            "The broker[broker-a, 127.0.0.1:10911] boot success. serializeType=JSON"
        );
        assert_eq!(
            namesrv_ready("0.0.0.0:9876".parse().unwrap()),
            "The Name Server boot success. serializeType=JSON, address 0.0.0.0:9876"
        );
    }
}
