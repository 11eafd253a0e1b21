//! `ferromq namesrv` and `ferromq broker`: one server in this process, until a signal stops it.
//!
//! The lines with `boot success` are RocketMQ's to the letter: start scripts and test containers wait for them.

use crate::cli::{BrokerArgs, NamesrvArgs};
use crate::settings::{self, BrokerSettings};
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

/// Threads of the proxy: the broker's work is done on them, too.
const PROXY_THREADS: usize = 2;

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
    remarks.log();
    let proxy_port = match arguments.enable_proxy {
        true => Some(settings::read_proxy(arguments.proxy_config.as_deref())?),
        false => None,
    };
    if settings.broker.namesrv_addr.is_none() {
        tracing::warn!(
            "no name server is set: clients will not find this broker; give -n, namesrvAddr or NAMESRV_ADDR"
        );
    }
    let signals = StopSignals::install()?;
    let name = settings.broker.broker_name.clone();
    let name_servers = settings.broker.namesrv_addr.clone();
    settings.broker.effective_properties = settings.effective();
    let listen: IpAddr = settings.broker.bind_address.parse().unwrap_or(Ipv4Addr::UNSPECIFIED.into());
    let broker = Broker::start(settings.broker, settings.store)?;
    let proxy = match proxy_port.map(|port| Proxy::start(&proxy_config(listen, port), &broker)).transpose() {
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
    printer::lines(
        proxy.as_ref().map(|proxy| format!("rocketmq-proxy startup successfully, gRPC at {}", proxy.addr())),
    );
    let signal = signals.wait();
    tracing::info!("{signal} received, stopping");
    if let Some(proxy) = proxy {
        proxy.shutdown();
    }
    broker.shutdown();
    Ok(())
}

/// A proxy beside the broker of this process.
pub fn proxy_config(listen: IpAddr, port: u16) -> ProxyConfig {
    ProxyConfig { listen: SocketAddr::new(listen, port), threads: PROXY_THREADS }
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
