//! The command line as data: every command, option, default and help text. What a command does stands in the file of its name.

mod dlq;
mod message_type;
mod proxy;

use clap::{Args, Parser, Subcommand, ValueEnum};
pub use dlq::{DlqCommand, Wanted};
pub use message_type::MessageType;
pub use proxy::{ProxyArgs, ProxyMode};
use std::net::IpAddr;
use std::path::PathBuf;

/// RocketMQ's NameServer and Broker, and the tools around them, in one program.
#[derive(Debug, Parser)]
#[command(name = "ferromq", version, max_term_width = 110, after_help = START_HERE)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const START_HERE: &str = "\
First steps:
  ferromq dev                                  NameServer and Broker in one process, on this machine only
  ferromq send Greetings \"hello\"               in a second terminal
  ferromq tail Greetings --from-beginning

FERROMQ_LOG=debug shows more of what a server does, FERROMQ_LOG=error less.";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start NameServer and Broker in one process, for development and tests
    Dev(DevArgs),
    /// Start a NameServer (also as `mqnamesrv`)
    Namesrv(NamesrvArgs),
    /// Start a Broker (also as `mqbroker`)
    Broker(BrokerArgs),
    /// Start a proxy: gRPC clients in front of a cluster's brokers (also as `mqproxy`)
    Proxy(ProxyArgs),
    /// Send messages to a topic
    Send(SendArgs),
    /// Show the messages of a topic, and new ones as they come
    Tail(TailArgs),
    /// Create, list, delete topics; show where one lives
    #[command(subcommand)]
    Topic(TopicCommand),
    /// Inspect the dead letters of consumer groups, and replay them
    #[command(subcommand)]
    Dlq(DlqCommand),
    /// Show how far a consumer group is behind, and when it will have caught up
    Lag(LagArgs),
    /// Measure throughput, latency and the server's CPU time per message
    Bench(BenchArgs),
    /// Check the files of a stopped broker, of this or of a Java one: exit code 0 safe to take over, 1 damaged, 2 not usable
    CheckStore(CheckStoreArgs),
}

#[derive(Debug, Args)]
pub struct DevArgs {
    /// Folder for all data [default: ferromq/dev in the user's data folder]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Address to listen on; 0.0.0.0 lets other machines in
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    pub listen: IpAddr,
    /// Port of the NameServer, 0 for any free one [default: 9876]
    #[arg(long, value_name = "PORT")]
    pub namesrv_port: Option<u16>,
    /// Port of the Broker, 0 for any free one [default: 10911]
    #[arg(long, value_name = "PORT")]
    pub broker_port: Option<u16>,
    /// Port of remoting clients that know no NameServer, 0 for any free one
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    pub proxy_port: u16,
    /// Port of gRPC clients, 0 for any free one
    #[arg(long, value_name = "PORT", default_value_t = 8081)]
    pub grpc_port: u16,
    /// Port of HTTP clients, 0 for any free one
    #[arg(long, value_name = "PORT", default_value_t = 8082)]
    pub http_port: u16,
    /// Certificate chain of gRPC clients, PEM [default: made by the process]
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// Private key of that certificate, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// A broker.conf whose settings come before dev's own defaults
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// The options of Java's `mqnamesrv`.
#[derive(Debug, Args)]
pub struct NamesrvArgs {
    /// NameServer configuration, a Java properties file
    #[arg(short = 'c', long = "configFile", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print all settings and exit
    #[arg(short = 'p', long = "printConfigItem")]
    pub print_all: bool,
    /// Accepted for the sake of scripts; a NameServer needs no other
    #[arg(short = 'n', long = "namesrvAddr", value_name = "ADDRESSES")]
    pub namesrv: Option<String>,
}

/// The options of Java's `mqbroker`.
#[derive(Debug, Args)]
pub struct BrokerArgs {
    /// Broker configuration, a Java properties file
    #[arg(short = 'c', long = "configFile", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// NameServers, for example '192.168.0.1:9876;192.168.0.2:9876' [default: namesrvAddr of the file, or $NAMESRV_ADDR]
    #[arg(short = 'n', long = "namesrvAddr", value_name = "ADDRESSES")]
    pub namesrv: Option<String>,
    /// Print all settings and exit
    #[arg(short = 'p', long = "printConfigItem")]
    pub print_all: bool,
    /// Print the important settings and exit
    #[arg(short = 'm', long = "printImportantConfig")]
    pub print_important: bool,
    /// Serve gRPC clients, and remoting clients that know no NameServer, too
    #[arg(long)]
    pub enable_proxy: bool,
    /// Settings of the proxy, a rmq-proxy.json (`-pc` of `mqbroker`)
    #[arg(long = "proxyConfigPath", value_name = "FILE")]
    pub proxy_config: Option<PathBuf>,
    /// Port of HTTP clients, 0 for any free one; without it there are none
    #[arg(long, value_name = "PORT", requires = "enable_proxy")]
    pub http_port: Option<u16>,
}

/// How a command finds the servers.
#[derive(Debug, Args)]
pub struct Cluster {
    /// NameServers, separated by semicolons
    #[arg(
        short = 'n',
        long = "namesrv",
        value_name = "ADDRESSES",
        env = "NAMESRV_ADDR",
        default_value = "127.0.0.1:9876"
    )]
    pub namesrv: String,
}

#[derive(Debug, Args)]
pub struct SendArgs {
    /// Topic; a new one is created by the first message where the broker allows it
    pub topic: String,
    /// Message body; without it each line of standard input is a message
    pub body: Option<String>,
    #[command(flatten)]
    pub cluster: Cluster,
    /// Tag, for consumers that filter
    #[arg(short, long)]
    pub tag: Option<String>,
    /// Keys by which the message can be found again, separated by blanks
    #[arg(short, long = "keys", value_name = "KEYS")]
    pub keys: Option<String>,
    /// Property NAME=VALUE; may be repeated
    #[arg(short = 'P', long = "property", value_name = "NAME=VALUE", value_parser = name_and_value)]
    pub properties: Vec<(String, String)>,
    /// Send the body so many times
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..), requires = "body")]
    pub count: u64,
    /// Give up after so many milliseconds per message
    #[arg(long, value_name = "MS", default_value_t = 3000)]
    pub timeout: u64,
    /// Print one JSON object per message
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct TailArgs {
    /// Topic
    pub topic: String,
    #[command(flatten)]
    pub cluster: Cluster,
    /// Start with the oldest message kept, not with the next one
    #[arg(long, conflicts_with = "since")]
    pub from_beginning: bool,
    /// Start with messages stored this long ago, for example 90s, 15m, 2h, 1d
    #[arg(long, value_name = "DURATION", value_parser = span_millis)]
    pub since: Option<u64>,
    /// Only messages with one of these tags, for example 'red || blue'
    #[arg(short, long, value_name = "EXPRESSION", default_value = "*")]
    pub tag: String,
    /// Stop after so many messages
    #[arg(long, value_name = "N")]
    pub count: Option<u64>,
    /// Print one JSON object per message
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct LagArgs {
    /// Consumer group
    pub group: String,
    #[command(flatten)]
    pub cluster: Cluster,
    /// Only this topic
    #[arg(short, long)]
    pub topic: Option<String>,
    /// Print one JSON object per topic
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum TopicCommand {
    /// List the topics
    List {
        #[command(flatten)]
        cluster: Cluster,
        /// The system's own topics, too
        #[arg(long)]
        all: bool,
    },
    /// Create a topic, or change its number of queues
    Create {
        /// Name
        topic: String,
        #[command(flatten)]
        cluster: Cluster,
        /// Queues on each broker
        #[arg(short, long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=65535))]
        queues: u32,
        /// The kind of messages that gRPC clients send to it [default: normal, or what it was]
        #[arg(short = 't', long = "type", value_enum, value_name = "TYPE")]
        message_type: Option<MessageType>,
    },
    /// Delete a topic and what is in it, on all brokers
    Delete {
        /// Name
        topic: String,
        #[command(flatten)]
        cluster: Cluster,
    },
    /// Show the brokers and queues of a topic
    Route {
        /// Name
        topic: String,
        #[command(flatten)]
        cluster: Cluster,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BenchWork {
    /// Only send
    Send,
    /// Only pull what is there
    Pull,
    /// Send, then pull it all
    Both,
    /// Only pop what is there, and acknowledge every message
    Pop,
}

#[derive(Debug, Args)]
pub struct BenchArgs {
    /// What to measure
    #[arg(value_enum, default_value_t = BenchWork::Both)]
    pub work: BenchWork,
    #[command(flatten)]
    pub cluster: Cluster,
    /// Topic; created where it does not exist
    #[arg(long, default_value = "FerroBench")]
    pub topic: String,
    /// Queues of the topic when it is created
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub queues: u32,
    /// Messages to send
    #[arg(short, long, default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub messages: u64,
    /// Bytes of each body
    #[arg(short, long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=4_194_304))]
    pub size: u32,
    /// Connections to each broker
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub connections: u32,
    /// Messages under way on each connection
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub in_flight: u32,
    /// Process whose CPU time counts [default: the process on this machine that listens on the broker's port]
    #[arg(long)]
    pub pid: Option<u32>,
    /// Print the result as JSON
    #[arg(long)]
    pub json: bool,
}

/// How a report is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    /// For people
    Human,
    /// One JSON object
    Json,
}

#[derive(Debug, Args)]
pub struct CheckStoreArgs {
    /// The store: the folder that storePathRootDir names
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// The broker.conf it is to be served with; without it the files tell their sizes
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Build consume queues and key index again from the log, then check once more
    #[arg(long)]
    pub rebuild: bool,
    /// How the report is printed
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = OutputFormat::Human)]
    pub output: OutputFormat,
}

fn name_and_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write it as NAME=VALUE".into()),
    }
}

/// `90s`, `15m`, `2h`, `1d` in milliseconds.
fn span_millis(text: &str) -> Result<u64, String> {
    let expected = || "write a number and s, m, h or d, for example 15m".to_owned();
    let unit = text.chars().last().ok_or_else(expected)?;
    let seconds: u64 = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(expected()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| expected())?;
    number.checked_mul(seconds * 1000).ok_or_else(|| "that is longer than any log".to_owned())
}

/// Arguments with the command that the program's own name stands for: `mqbroker -c x` is `ferromq broker -c x`.
pub fn with_command_of_name(arguments: Vec<String>) -> Vec<String> {
    let name = arguments.first().map(|path| path.rsplit(['/', '\\']).next().unwrap_or_default());
    let (command, own) = match name {
        Some("mqnamesrv") => ("namesrv", 1),
        Some("mqbroker") => ("broker", 1),
        Some("mqproxy") => ("proxy", 1),
        _ if arguments.get(1).is_some_and(|command| command == "proxy") => ("proxy", 2),
        _ => return arguments,
    };
    let mut all = vec!["ferromq".to_owned(), command.to_owned()];
    all.extend(arguments.into_iter().skip(own).map(spelled));
    all
}

/// Java's options with one dash and two letters would read as two options.
fn spelled(argument: String) -> String {
    match argument.as_str() {
        "-pc" => "--proxyConfigPath".to_owned(),
        "-pm" => "--proxyMode".to_owned(),
        "-bc" => "--brokerConfigPath".to_owned(),
        _ => argument,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Command, clap::Error> {
        let words = line.split_whitespace().map(str::to_owned).collect();
        Cli::try_parse_from(with_command_of_name(words)).map(|cli| cli.command)
    }

    #[test]
    fn the_table_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn java_programs_are_served_by_their_names() {
        let Ok(Command::Broker(broker)) = parse("/opt/rocketmq/bin/mqbroker -n a:9876;b:9876 -c conf/broker.conf -m")
        else {
            panic!("not a broker");
        };
        assert_eq!(broker.namesrv.as_deref(), Some("a:9876;b:9876"));
        assert!(broker.print_important && !broker.print_all);
        assert!(matches!(parse("mqnamesrv -p -n x:1"), Ok(Command::Namesrv(NamesrvArgs { print_all: true, .. }))));
        let Ok(Command::Broker(broker)) = parse("mqbroker --enable-proxy -pc rmq-proxy.json") else {
            panic!("not a broker")
        };
        assert!(broker.enable_proxy && broker.proxy_config.is_some() && !broker.print_all);
        for line in
            ["mqproxy -pm LOCAL -bc b.conf -pc p.json -n a:1", "ferromq proxy -pm local -bc b.conf -pc p.json -n a:1"]
        {
            let Ok(Command::Proxy(proxy)) = parse(line) else { panic!("not a proxy: {line}") };
            assert_eq!((proxy.mode, proxy.namesrv.as_deref()), (Some(ProxyMode::Local), Some("a:1")));
            assert!(proxy.broker_config.is_some() && proxy.proxy_config.is_some());
        }
        assert_eq!(parse("mqbroker -h").unwrap_err().kind(), clap::error::ErrorKind::DisplayHelp);
    }

    #[test]
    fn dev_has_safe_defaults() {
        let Ok(Command::Dev(dev)) = parse("ferromq dev") else { panic!("not dev") };
        assert!(dev.listen.is_loopback());
        assert_eq!((dev.namesrv_port, dev.broker_port, dev.data), (None, None, None));
        let Ok(Command::Dev(dev)) = parse("ferromq dev --broker-port 0 --namesrv-port 0") else { panic!("not dev") };
        assert_eq!((dev.namesrv_port, dev.broker_port), (Some(0), Some(0)));
        assert!(parse("ferromq dev --broker-port 70000").is_err());
    }

    #[test]
    fn spans_and_properties_are_checked() {
        assert_eq!(span_millis("90s"), Ok(90_000));
        assert_eq!(span_millis("1d"), Ok(86_400_000));
        for bad in ["", "5", "m", "5y", "99999999999999999999s", "9999999999999999999d", "5\u{e4}"] {
            assert!(span_millis(bad).is_err(), "{bad}");
        }
        assert_eq!(name_and_value("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert!(name_and_value("=b").is_err() && name_and_value("a").is_err() && name_and_value("a=").is_err());
    }

    #[test]
    fn count_needs_a_body_to_repeat() {
        assert!(parse("ferromq send T --count 3").is_err());
        assert!(matches!(parse("ferromq send T x --count 3"), Ok(Command::Send(SendArgs { count: 3, .. }))));
    }
}
