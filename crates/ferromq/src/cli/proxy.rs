//! Options of `ferromq proxy` as data.

use clap::{Args, ValueEnum};
use std::net::IpAddr;
use std::path::PathBuf;

/// What stands behind a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProxyMode {
    /// The brokers that NameServers know
    Cluster,
    /// A broker in this process
    Local,
}

/// The options of Java's `mqproxy`, and some of our own.
#[derive(Debug, Args)]
pub struct ProxyArgs {
    /// NameServers, for example '192.168.0.1:9876;192.168.0.2:9876' [default: namesrvAddr of the file, or $NAMESRV_ADDR]
    #[arg(short = 'n', long = "namesrvAddr", value_name = "ADDRESSES")]
    pub namesrv: Option<String>,
    /// Settings of the proxy, a rmq-proxy.json (also -pc)
    #[arg(long = "proxyConfigPath", value_name = "FILE")]
    pub proxy_config: Option<PathBuf>,
    /// What stands behind it (also -pm) [default: proxyMode of the file, or cluster]
    #[arg(long = "proxyMode", value_enum, value_name = "MODE", ignore_case = true)]
    pub mode: Option<ProxyMode>,
    /// Configuration of the broker in this process, a Java properties file (also -bc)
    #[arg(long = "brokerConfigPath", value_name = "FILE")]
    pub broker_config: Option<PathBuf>,
    /// Port of gRPC clients, 0 for any free one [default: grpcServerPort of the file, or 8081]
    #[arg(long, value_name = "PORT")]
    pub grpc_port: Option<u16>,
    /// Port of remoting clients that know the proxy only, 0 for any free one [default: remotingListenPort of the file, or 8080]
    #[arg(long, value_name = "PORT")]
    pub proxy_port: Option<u16>,
    /// Port of HTTP clients, 0 for any free one; without it there are none
    #[arg(long, value_name = "PORT")]
    pub http_port: Option<u16>,
    /// Address to listen on [default: that of the broker in this process, else 0.0.0.0]
    #[arg(long, value_name = "IP")]
    pub listen: Option<IpAddr>,
}
