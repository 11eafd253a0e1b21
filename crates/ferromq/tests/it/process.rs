//! Processes of the binary under test: started, read with a time limit, stopped by their own id.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

/// Longest time anything here may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Settings of the brokers that tests start: as they come they take 2 GiB of the disk each.
pub const SMALL: &str = include_str!("small.conf");
/// The file with them.
const SMALL_CONF: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/small.conf");

/// A command of the binary, its environment free of the developer's own settings.
pub fn ferromq<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ferromq"));
    command.args(arguments).env_remove("NAMESRV_ADDR").env_remove("FERROMQ_LOG").env_remove("ROCKETMQ_HOME");
    command
}

/// Runs a command to its end.
pub fn run<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>, input: &str) -> Output {
    let mut child =
        ferromq(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("no end after {PATIENCE:?}: {:?}", child.wait_with_output());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().unwrap()
}

/// Standard output of a command that must succeed.
pub fn output_of<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> String {
    output_with_input(arguments, "")
}

/// The same, with something on standard input.
pub fn output_with_input<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>, input: &str) -> String {
    let output = run(arguments, input);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Standard output of a command that must succeed, and is run again until it says what is waited for.
pub fn output_until(arguments: &[&str], is_so: impl Fn(&str) -> bool) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let output = output_of(arguments);
        if is_so(&output) || Instant::now() > deadline {
            return output;
        }
    }
}

/// A running server.
pub struct Server {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
    errors: Receiver<String>,
}

impl Server {
    /// Starts a command and keeps reading what it prints.
    pub fn start(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (lines, errors) = (lines_of(child.stdout.take().unwrap()), lines_of(child.stderr.take().unwrap()));
        Self { child, lines, seen: Vec::new(), errors }
    }

    /// `dev` on free ports, with small files.
    pub fn dev(data: &Path) -> Self {
        let mut command = ferromq(dev_on(data));
        command.args(["-c", SMALL_CONF]);
        let mut server = Self::start(command);
        server.wait_for("Ctrl-C stops");
        server
    }

    /// Waits for a line that contains `text`.
    pub fn wait_for(&mut self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("no {text:?} after {PATIENCE:?}; seen: {:?}", self.seen),
                Err(RecvTimeoutError::Disconnected) => {
                    let (status, errors) = (self.child.wait(), self.errors());
                    panic!("ended without {text:?}: {status:?} {errors}; seen: {:?}", self.seen);
                }
            }
        }
    }

    /// The NameServer's address from its `boot success` line.
    pub fn namesrv(&self) -> String {
        let line =
            self.seen.iter().find(|line| line.starts_with("The Name Server boot success")).expect("no such line");
        line.rsplit(' ').next().unwrap().to_owned()
    }

    /// The address of HTTP clients from `dev`'s banner.
    pub fn http(&self) -> String {
        let line = self.seen.iter().find(|line| line.starts_with("  HTTP ")).expect("no such line");
        line.split_whitespace().nth(1).unwrap().to_owned()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal and waits for the end.
    pub fn stop(&mut self, signal: &str) -> ExitStatus {
        let pid = self.pid().to_string();
        assert!(Command::new("kill").args([&format!("-{signal}"), &pid]).status().unwrap().success());
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "no end after {signal}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// The next line on standard error.
    pub fn next_error(&self) -> String {
        self.errors.recv_timeout(PATIENCE).expect("no line on standard error")
    }

    /// What else it wrote on standard error, once it has ended.
    pub fn errors(&self) -> String {
        self.errors.iter().map(|line| line + "\n").collect()
    }
}

/// The lines of a stream as they come, until it ends.
fn lines_of(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (printed, lines) = sync_channel(10_000);
    let stream = BufReader::new(stream);
    std::thread::spawn(move || stream.lines().map_while(Result::ok).all(|line| printed.send(line).is_ok()));
    lines
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Arguments of a `dev` on free ports.
pub fn dev_on(data: &Path) -> Vec<String> {
    let data = data.to_str().unwrap();
    [
        "dev",
        "--namesrv-port",
        "0",
        "--broker-port",
        "0",
        "--proxy-port",
        "0",
        "--grpc-port",
        "0",
        "--http-port",
        "0",
        "--data",
        data,
    ]
    .map(str::to_owned)
    .to_vec()
}
