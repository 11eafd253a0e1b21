//! The proxy as a process of its own in front of a cluster: ours, or that of the Apache RocketMQ 5.5 Java server.

use crate::Outcome;
use crate::java;
use crate::server::{Make, Process, START_LIMIT, free_ports};
use crate::tools::Tools;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// A running proxy in front of a cluster.
pub struct Proxy {
    pub addr: String,
    /// Where remoting clients connect that know the proxy only.
    pub front_door: String,
    /// Where HTTP clients connect, if it is ours.
    pub http: String,
    pub process: Process,
}

impl Proxy {
    /// Starts one in `folder`, ours under the name of Java's program, for the brokers that a NameServer knows. Java's
    /// listens on all addresses: it cannot be told otherwise.
    pub fn start(tools: &Tools, make: Make, folder: &Path, namesrv: &str) -> Outcome<Proxy> {
        std::fs::create_dir_all(folder)?;
        let (port, conf) = (free_ports(), folder.join("rmq-proxy.json"));
        let mut settings = serde_json::json!({"rocketMQClusterName": "DefaultCluster", "grpcServerPort": port, "remotingListenPort": port - 2});
        let command = match make {
            Make::Ferro => {
                let mut command = Command::new(tools.ferromq()?);
                command
                    .arg0("mqproxy")
                    .args(["-n", namesrv, "--listen", "127.0.0.1", "-pm", "cluster", "-pc"])
                    .arg(&conf)
                    .args(["--http-port", &(port + 1).to_string()]);
                command
            }
            Make::Java | Make::Java4 => {
                for (key, value) in [
                    ("proxyMode", serde_json::json!("cluster")),
                    ("namesrvAddr", namesrv.into()),
                    ("localServeAddr", "127.0.0.1".into()),
                    ("metricsExporterType", "DISABLE".into()),
                    // It tells brokers of producers this often, and a broker asks nobody before.
                    ("transactionHeartbeatPeriodSecond", 1.into()),
                ] {
                    settings[key] = value;
                }
                let main = "org.apache.rocketmq.proxy.ProxyStartup";
                java::command(tools, make, folder, "512m", main, ("-pc", &conf))?
            }
        };
        std::fs::write(&conf, settings.to_string())?;
        let mut process = Process::spawn("proxy", command, &folder.join("proxy.log"))?;
        process.wait_line("rocketmq-proxy startup successfully", START_LIMIT)?;
        let [addr, front_door, http] = [port, port - 2, port + 1].map(|port| format!("127.0.0.1:{port}"));
        Ok(Proxy { addr, front_door, http, process })
    }
}
