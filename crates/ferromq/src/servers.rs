//! `ferromq namesrv` and `ferromq broker`: one server in this process, until a signal stops it.
//!
//! The lines with `boot success` are RocketMQ's to the letter: start scripts and test containers wait for them.

use crate::cli::{BrokerArgs, NamesrvArgs};
use crate::settings::{self, BrokerSettings};
use crate::{Failure, printer};
use ferromq_broker::Broker;
use ferromq_common::{lifecycle::StopSignals, logging};
use ferromq_namesrv::NameServer;
use std::net::SocketAddr;
use tracing::level_filters::LevelFilter;

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
    tracing::info!("{} received, stopping", signals.wait());
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
    if arguments.enable_proxy {
        tracing::warn!("--enable-proxy has no effect: the gRPC proxy is not served yet, remoting clients are");
    }
    if settings.broker.namesrv_addr.is_none() {
        tracing::warn!("no name server is set: clients will not find this broker; give -n, namesrvAddr or NAMESRV_ADDR");
    }
    let signals = StopSignals::install()?;
    let name = settings.broker.broker_name.clone();
    let name_servers = settings.broker.namesrv_addr.clone();
    let broker = Broker::start(settings.broker, settings.store)?;
    printer::lines([broker_ready(&name, broker.addr(), name_servers.as_deref())]);
    tracing::info!("{} received, stopping", signals.wait());
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
