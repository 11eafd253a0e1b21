//! `ferromq namesrv`: one server in this process, until a signal stops it.
//!
//! The lines with `boot success` are RocketMQ's to the letter: start scripts and test containers wait for them.

use crate::cli::NamesrvArgs;
use crate::{Failure, printer, settings};
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

/// RocketMQ's line for a NameServer that serves.
pub fn namesrv_ready(address: SocketAddr) -> String {
    format!("The Name Server boot success. serializeType=JSON, address {address}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_lines_are_rocketmqs() {
        assert_eq!(
            namesrv_ready("0.0.0.0:9876".parse().unwrap()),
            "The Name Server boot success. serializeType=JSON, address 0.0.0.0:9876"
        );
    }
}
