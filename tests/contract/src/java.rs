//! How a Java server is started: its class path, flags, and the files it will not start without.

use crate::Outcome;
use crate::server::Make;
use crate::tools::Tools;
use std::path::Path;
use std::process::Command;

/// JVM flags of the reference server's own start script that matter here.
const JVM: [&str; 7] = [
    "-XX:+UseG1GC",
    "-XX:-UseLargePages",
    "-XX:+IgnoreUnrecognizedVMOptions",
    "--add-exports=java.base/jdk.internal.ref=ALL-UNNAMED",
    "--add-exports=java.base/sun.nio.ch=ALL-UNNAMED",
    "--add-opens=java.base/java.nio=ALL-UNNAMED",
    "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
];

/// The command line of the main class `main` with a configuration file, which follows its option, in `folder`.
pub fn command(
    tools: &Tools,
    make: Make,
    folder: &Path,
    heap: &str,
    main: &str,
    (option, conf): (&str, &Path),
) -> Outcome<Command> {
    let classpath = match make {
        Make::Java4 => tools.server4_classpath()?,
        _ => tools.server_classpath()?,
    };
    // Version 4.9 does not start without a file for its logging.
    let logging = folder.join("conf");
    std::fs::create_dir_all(&logging)?;
    for name in ["logback_broker.xml", "logback_namesrv.xml"] {
        std::fs::write(logging.join(name), "<configuration/>")?;
    }
    let mut command = Command::new("java");
    command.args([&format!("-Xms{heap}"), &format!("-Xmx{heap}")]).args(JVM);
    command.arg(format!("-Duser.home={}", folder.join("home").display()));
    // Its logging framework tells its life's story at start otherwise.
    command.arg("-Drocketmq.logback.statusListenerClass=NOP");
    command.args(["-cp", &classpath, main, option]).arg(conf);
    command.env("ROCKETMQ_HOME", folder).env("RMQ_PROXY_HOME", folder);
    Ok(command)
}
