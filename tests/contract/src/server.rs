//! Starts and stops servers under test as child processes: ours, or the Apache RocketMQ 5.5 Java server with the same
//! configuration files. Each has a folder of its own, free ports on 127.0.0.1, and is killed by its own pid when dropped.

use crate::java;
pub use crate::ports::free_ports;
use crate::tools::Tools;
use crate::wire::{Conn, code};
use crate::{Outcome, Stop, While, wait_for};
use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// The longest a start may take; a Java broker on a busy machine needs most of it.
pub const START_LIMIT: Duration = Duration::from_secs(90);
/// The longest a stop by SIGTERM may take.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// Whose server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Make {
    Ferro,
    /// The reference, 5.5.0.
    Java,
    /// 4.9.7, the newest of its line among the published servers.
    Java4,
}

impl Make {
    pub fn is_java(self) -> bool {
        self != Make::Ferro
    }
}

/// A child process whose output goes to a file.
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts it with stdout and stderr in the log, which is begun anew.
    pub fn spawn(name: &str, mut command: Command, log: &Path) -> Outcome<Process> {
        let file = File::create(log)?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().doing(format!("starting {name}"))?;
        Ok(Process { child, name: name.to_owned(), log: log.to_owned() })
    }

    /// Starts it with stderr in the log; the caller has set up stdin and stdout.
    pub fn spawn_piped(name: &str, mut command: Command, log: &Path) -> Outcome<Process> {
        command.stderr(File::create(log)?);
        let child = command.spawn().doing(format!("starting {name}"))?;
        Ok(Process { child, name: name.to_owned(), log: log.to_owned() })
    }

    /// Its pipes, once.
    pub fn pipes(&mut self) -> Option<(ChildStdin, ChildStdout)> {
        Some((self.child.stdin.take()?, self.child.stdout.take()?))
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its exit status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits for its end.
    pub fn wait_end(&mut self, limit: Duration) -> Outcome<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                return Ok(status);
            }
            if start.elapsed() > limit {
                return Err(Stop::Failed(format!("{} did not end within {limit:?}:\n{}", self.name, self.log_tail())));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// All it has printed.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The last lines it has printed.
    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }

    /// Waits until it prints a line with `text`.
    pub fn wait_line(&mut self, text: &str, limit: Duration) -> Outcome {
        let start = Instant::now();
        loop {
            if self.log().contains(text) {
                return Ok(());
            }
            if let Some(status) = self.ended() {
                return Err(Stop::Failed(format!(
                    "{} ended ({status}) before '{text}':\n{}",
                    self.name,
                    self.log_tail()
                )));
            }
            if start.elapsed() > limit {
                return Err(Stop::Failed(format!("{}: no '{text}' within {limit:?}:\n{}", self.name, self.log_tail())));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: rustix::process::Signal) -> Outcome {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).map_err(|e| Stop::Failed(format!("signalling {}: {e}", self.name)))
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// CPU time it has used, user and system; resolution 10 ms.
    pub fn cpu(&self) -> Outcome<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid()))?;
        // Fields 14 and 15; the command name before them may contain anything.
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
        let ticks: u64 = fields.filter_map(|field| field.parse::<u64>().ok()).sum();
        Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
    }

    /// Anonymous resident memory in bytes.
    pub fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:"));
        line.and_then(|l| l.trim().trim_end_matches(" kB").parse::<u64>().ok()).map_or(0, |kb| kb << 10)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn ferro_command(tools: &Tools, folder: &Path, part: &str, conf: &Path) -> Outcome<Command> {
    let mut command = Command::new(tools.ferromq()?);
    command.args([part, "-c"]).arg(conf).env("ROCKETMQ_HOME", folder);
    Ok(command)
}

/// A running NameServer.
pub struct Namesrv {
    pub addr: String,
    pub process: Process,
}

impl Namesrv {
    /// Starts one in `folder`.
    pub fn start(tools: &Tools, make: Make, folder: &Path) -> Outcome<Namesrv> {
        let port = free_ports();
        std::fs::create_dir_all(folder)?;
        let conf = folder.join("namesrv.properties");
        let home = folder.display();
        let settings = [
            format!("listenPort={port}"),
            "bindAddress=127.0.0.1".to_owned(),
            format!("rocketmqHome={home}"),
            format!("kvConfigPath={home}/kvConfig.json"),
            format!("configStorePath={home}/namesrv-stored.properties"),
        ];
        std::fs::write(&conf, settings.join("\n"))?;
        let command = match make {
            Make::Java | Make::Java4 => {
                java::command(tools, make, folder, "128m", "org.apache.rocketmq.namesrv.NamesrvStartup", ("-c", &conf))?
            }
            Make::Ferro => ferro_command(tools, folder, "namesrv", &conf)?,
        };
        let mut process = Process::spawn("namesrv", command, &folder.join("namesrv.log"))?;
        process.wait_line("boot success", START_LIMIT)?;
        Ok(Namesrv { addr: format!("127.0.0.1:{port}"), process })
    }
}

/// A broker: its folder and settings, and its process while it runs.
pub struct Broker {
    pub make: Make,
    pub folder: PathBuf,
    pub name: String,
    pub port: u16,
    pub namesrv: String,
    /// Further lines of `broker.conf`.
    pub settings: Vec<(String, String)>,
    /// Port of gRPC clients, if it has a proxy.
    pub grpc: Option<u16>,
    pub process: Option<Process>,
}

impl Broker {
    /// A broker that is not started yet.
    pub fn new(make: Make, folder: &Path, name: &str, namesrv: &str) -> Broker {
        let (folder, name, namesrv) = (folder.to_owned(), name.to_owned(), namesrv.to_owned());
        Broker { make, folder, name, port: free_ports(), namesrv, settings: Vec::new(), grpc: None, process: None }
    }

    /// Adds a line to its `broker.conf`.
    pub fn set(mut self, key: &str, value: impl ToString) -> Broker {
        self.settings.push((key.to_owned(), value.to_string()));
        self
    }

    pub fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Port of HTTP clients, if it has a proxy.
    pub fn http_port(&self) -> Option<u16> {
        self.grpc.map(|port| port + 1)
    }

    /// Where remoting clients connect that know its proxy only, if it has one.
    pub fn front_door(&self) -> Option<String> {
        self.grpc.map(|port| format!("127.0.0.1:{}", port - 2))
    }

    pub fn store(&self) -> PathBuf {
        self.folder.join("store")
    }

    /// Its command line, after writing its configuration file.
    pub fn command(&self, tools: &Tools) -> Outcome<Command> {
        std::fs::create_dir_all(&self.folder)?;
        let conf = self.folder.join("broker.conf");
        let home = self.folder.display();
        let mut lines = vec![
            "brokerClusterName=DefaultCluster".to_owned(),
            format!("brokerName={}", self.name),
            "brokerId=0".to_owned(),
            "brokerIP1=127.0.0.1".to_owned(),
            "brokerIP2=127.0.0.1".to_owned(),
            format!("listenPort={}", self.port),
            "bindAddress=127.0.0.1".to_owned(),
            format!("namesrvAddr={}", self.namesrv),
            format!("rocketmqHome={home}"),
            format!("storePathRootDir={home}/store"),
            format!("storePathCommitLog={home}/store/commitlog"),
            // Files are allocated in full: a smaller size keeps many stores on one disk.
            "mappedFileSizeCommitLog=134217728".to_owned(),
            "autoCreateTopicEnable=true".to_owned(),
            "autoCreateSubscriptionGroup=true".to_owned(),
        ];
        if self.make.is_java() {
            // It refuses sends that waited 200 ms for a processor, which a busy machine makes them do.
            lines.push("waitTimeMillsInSendQueue=20000".to_owned());
        }
        lines.extend(self.settings.iter().map(|(k, v)| format!("{k}={v}")));
        std::fs::write(&conf, lines.join("\n"))?;
        match self.make {
            Make::Java | Make::Java4 => {
                let main = "org.apache.rocketmq.broker.BrokerStartup";
                java::command(tools, self.make, &self.folder, "512m", main, ("-c", &conf))
            }
            Make::Ferro => {
                let mut command = ferro_command(tools, &self.folder, "broker", &conf)?;
                if let Some(port) = self.grpc {
                    let proxy = self.folder.join("rmq-proxy.json");
                    std::fs::write(
                        &proxy,
                        format!("{{\"grpcServerPort\": {port}, \"remotingListenPort\": {}}}", port - 2),
                    )?;
                    command.arg("--enable-proxy").arg("--proxyConfigPath").arg(proxy);
                    command.args(self.http_port().map(|port| format!("--http-port={port}")));
                }
                Ok(command)
            }
        }
    }

    /// Starts it and waits until it says so and accepts connections.
    pub fn start(&mut self, tools: &Tools) -> Outcome {
        self.start_with(self.command(tools)?)
    }

    /// Starts it and waits for nothing: for whoever measures how soon it answers.
    pub fn launch(&mut self, tools: &Tools) -> Outcome {
        self.process = Some(Process::spawn("broker", self.command(tools)?, &self.folder.join("broker.log"))?);
        Ok(())
    }

    /// Starts it by a changed command line.
    pub fn start_with(&mut self, command: Command) -> Outcome {
        let mut process = Process::spawn("broker", command, &self.folder.join("broker.log"))?;
        process.wait_line("boot success", START_LIMIT)?;
        self.process = Some(process);
        wait_for(START_LIMIT, format!("connecting to {}", self.addr()), || Ok(Conn::open(&self.addr()).ok()))?;
        self.wait_registered()
    }

    /// Waits until every NameServer that runs knows it: clients started earlier find no route.
    fn wait_registered(&self) -> Outcome {
        let entry = format!("\"brokerName\":\"{}\"", self.name);
        for namesrv in self.namesrv.split(';').filter(|addr| !addr.is_empty()) {
            wait_for(START_LIMIT, format!("{} at the NameServer {namesrv}", self.name), || {
                let Ok(mut conn) = Conn::open(namesrv) else { return Ok(Some(())) };
                let body = conn.call(code::GET_BROKER_CLUSTER_INFO, &[], &[])?.body;
                Ok(String::from_utf8_lossy(&body).replace(' ', "").contains(&entry).then_some(()))
            })?;
        }
        Ok(())
    }

    /// Starts one that must fail: its exit status and all it printed.
    pub fn start_refused(&self, tools: &Tools, limit: Duration) -> Outcome<(ExitStatus, String)> {
        let mut process = Process::spawn("broker", self.command(tools)?, &self.folder.join("refused.log"))?;
        let start = Instant::now();
        loop {
            if let Some(status) = process.ended() {
                return Ok((status, process.log()));
            }
            if process.log().contains("boot success") {
                return Err(Stop::Failed(format!("the broker came up:\n{}", process.log_tail())));
            }
            if start.elapsed() > limit {
                return Err(Stop::Failed(format!("the broker neither started nor ended:\n{}", process.log_tail())));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// SIGTERM, and waits for its end.
    pub fn stop(&mut self) -> Outcome {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        process.signal(rustix::process::Signal::TERM)?;
        let status = process.wait_end(STOP_LIMIT)?;
        // A JVM reports the signal; ours ends as a program that did what it was told.
        let expected =
            status.success() || self.make.is_java() && (status.code() == Some(143) || status.signal() == Some(15));
        crate::ensure!(expected, "the broker ended with {status} after SIGTERM:\n{}", process.log_tail());
        Ok(())
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// A raw connection to it.
    pub fn conn(&self) -> Outcome<Conn> {
        Conn::open(&self.addr())
    }

    /// Whether its process still runs.
    pub fn alive(&mut self) -> bool {
        self.process.as_mut().is_some_and(|p| p.ended().is_none())
    }

    /// The end of its output, for a failure report.
    pub fn log_tail(&self) -> String {
        let log = std::fs::read(self.folder.join("broker.log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log).into_owned();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }
}
