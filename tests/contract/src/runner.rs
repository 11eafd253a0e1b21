//! Runs the cases and prints one line each in the manner of libtest. Cases that share the standing server run a few at a
//! time (they mostly wait); cases that stop, damage or load a server run one after the other. What fails runs once more by
//! itself, where that is allowed: no case asks how a client fares on a machine that is busy with something else. Both
//! outcomes are told at the end, beside the tally, so that a failure that comes and goes is not overlooked.

pub use crate::client::Client;
use crate::cluster::Cluster;
use crate::driver::Driver;
use crate::server::Make;
use crate::tools::Tools;
use crate::{Outcome, Stop};
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::ThreadId;
use std::time::Instant;
use tempfile::TempDir;

/// Cases that run at the same time on the standing server.
const SIDE_BY_SIDE: usize = 4;
/// Most failed cases that run once more: more than that is no matter of a busy machine.
const MAX_AGAIN: usize = 8;
/// Folder of the standing server.
const STANDING: &str = "standing";
/// Keeps all folders.
const KEEP: &str = "FERROMQ_CONTRACT_KEEP";

/// A line of the table of figures: what was done, how much of it, what came out.
type Row = [String; 3];

type Body = Box<dyn Fn(&Lab) -> Outcome + Send + Sync>;

/// One case.
pub struct Case {
    name: String,
    alone: bool,
    body: Body,
}

impl Case {
    /// A case on the standing server, beside others.
    pub fn shared(name: impl Into<String>, body: impl Fn(&Lab) -> Outcome + Send + Sync + 'static) -> Case {
        Case { name: name.into(), alone: false, body: Box::new(body) }
    }

    /// A case with servers of its own that spends its time waiting, for a lease or a pause of a client: beside others, too.
    pub fn waiting(name: impl Into<String>, body: impl Fn(&Lab) -> Outcome + Send + Sync + 'static) -> Case {
        Case { name: name.into(), alone: false, body: Box::new(body) }
    }

    /// A case that needs the machine for itself, or whose servers do.
    pub fn alone(name: impl Into<String>, body: impl Fn(&Lab) -> Outcome + Send + Sync + 'static) -> Case {
        Case { name: name.into(), alone: true, body: Box::new(body) }
    }
}

/// What all cases share: the tools, the driver of each client, and a standing server. Each is started by its first user.
pub struct Lab {
    pub tools: Tools,
    /// Whose server is under test (`FERROMQ_CONTRACT_SERVER=java` runs the cases on the reference).
    pub make: Make,
    counter: AtomicUsize,
    drivers: [OnceLock<Outcome<Driver>>; 9],
    admin: OnceLock<Outcome<Driver>>,
    standing: OnceLock<Outcome<Cluster>>,
    proxied: OnceLock<Outcome<Cluster>>,
    /// Figures for the table at the end.
    rows: Mutex<Vec<Row>>,
    /// Folders made since the last sweep, and the threads of the cases that made them.
    made: Mutex<Vec<(ThreadId, PathBuf)>>,
    // The last one: it goes when nothing writes to it any more.
    folder: TempDir,
}

impl Lab {
    fn new() -> Outcome<Lab> {
        let make =
            if std::env::var("FERROMQ_CONTRACT_SERVER").is_ok_and(|v| v == "java") { Make::Java } else { Make::Ferro };
        let folder = tempfile::Builder::new().prefix("ferromq-contract-").tempdir()?;
        Ok(Lab {
            tools: Tools::default(),
            make,
            counter: AtomicUsize::new(0),
            drivers: Default::default(),
            admin: OnceLock::new(),
            standing: OnceLock::new(),
            proxied: OnceLock::new(),
            rows: Mutex::default(),
            made: Mutex::new(Vec::new()),
            folder,
        })
    }

    /// A fresh folder.
    pub fn folder(&self, name: &str) -> Outcome<PathBuf> {
        let path = self.folder.path().join(format!("{:03}-{name}", self.counter.fetch_add(1, Ordering::Relaxed)));
        std::fs::create_dir_all(&path)?;
        self.made.lock().unwrap_or_else(PoisonError::into_inner).push((std::thread::current().id(), path.clone()));
        Ok(path)
    }

    /// Removes what this thread's case has made, at its end if not before: stores take gigabytes.
    pub fn sweep(&self) {
        let me = std::thread::current().id();
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let mine: Vec<PathBuf> = made.extract_if(.., |(id, _)| *id == me).map(|(_, path)| path).collect();
        drop(made);
        if std::env::var_os(KEEP).is_none() {
            mine.iter().for_each(|path| drop(std::fs::remove_dir_all(path)));
        }
    }

    /// A name nobody else uses, for topics, groups, producers and consumers.
    pub fn name(&self, what: &str) -> String {
        format!("{what}-{}", self.counter.fetch_add(1, Ordering::Relaxed))
    }

    /// The standing server.
    pub fn cluster(&self) -> Outcome<&Cluster> {
        let start = || {
            let folder = self.folder.path().join(STANDING);
            std::fs::create_dir_all(&folder)?;
            Cluster::start(&self.tools, self.make, &folder, &[])
        };
        self.standing.get_or_init(start).as_ref().map_err(Clone::clone)
    }

    /// The standing server with a proxy, which asks soon what became of transactions.
    pub fn proxied(&self) -> Outcome<&Cluster> {
        let start = || {
            let folder = self.folder.path().join("proxied");
            std::fs::create_dir_all(&folder)?;
            Cluster::proxied(&self.tools, self.make, &folder)
        };
        self.proxied.get_or_init(start).as_ref().map_err(Clone::clone)
    }

    /// The driver of a client.
    pub fn driver(&self, client: Client) -> Outcome<&Driver> {
        self.drivers[client as usize].get_or_init(|| self.own_driver(client)).as_ref().map_err(Clone::clone)
    }

    /// A driver for one case alone, which may kill it.
    pub fn own_driver(&self, client: Client) -> Outcome<Driver> {
        match client {
            Client::Java5 => self.start_java(client, "5.5.0", &[]),
            // In its test mode, which is the default, it trusts any certificate.
            Client::Java5Tls => self.start_java(client, "5.5.0", &["-Dtls.enable=true"]),
            Client::Java4 => self.start_java(client, "4.9.8", &[]),
            Client::Go => self.start_at_home(client, Command::new(self.tools.go_driver()?)),
            Client::GrpcJava => self.start_grpc(),
            Client::GrpcGo => self.start_at_home(client, Command::new(self.tools.go_grpc_driver()?)),
            Client::GrpcPython => self.start_at_home(client, self.tools.python_driver()?),
            Client::GrpcNode => self.start_at_home(client, self.tools.node_driver()?),
            Client::GrpcRust => self.start_at_home(client, Command::new(self.tools.rust_driver()?)),
        }
    }

    /// What one command line of the official mqadmin prints; blanks in a row count as one.
    pub fn mqadmin(&self, namesrv: &str, command: &str) -> Outcome<String> {
        let driver = self.admin.get_or_init(|| self.start_admin()).as_ref().map_err(Clone::clone)?;
        let arguments: Vec<(&str, &str)> =
            command.split_whitespace().chain(["-n", namesrv]).map(|argument| ("a", argument)).collect();
        let rows = driver.call("mqadmin", &arguments)?;
        let printed = rows.first().map(|row| row.get("out").to_owned()).unwrap_or_default();
        Ok(printed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ") + "\n").collect())
    }

    /// Starts a driver whose client writes below the home folder.
    fn start_at_home(&self, client: Client, mut command: Command) -> Outcome<Driver> {
        command.env("HOME", self.folder.path());
        Driver::start(client.label(), command, self.folder.path())
    }

    fn start_grpc(&self) -> Outcome<Driver> {
        let classpath = self.tools.grpc_classpath()?;
        let mut command = Command::new("java");
        command.args(["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dfile.encoding=UTF-8"]);
        command.arg(format!("-Duser.home={}", self.folder.path().display()));
        command.args(["-cp", &classpath, "GrpcDriver"]);
        Driver::start("grpc-java", command, self.folder.path())
    }

    fn start_admin(&self) -> Outcome<Driver> {
        let classpath = self.tools.admin_classpath()?;
        let mut command = Command::new("java");
        command.args(["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dfile.encoding=UTF-8"]);
        command.arg("-Drocketmq.logback.statusListenerClass=NOP");
        command.arg(format!("-Duser.home={}", self.folder.path().display()));
        // Some commands write files where they are started.
        command.env("ROCKETMQ_HOME", self.folder.path()).current_dir(self.folder.path());
        command.args(["-cp", &classpath, "Admin"]);
        Driver::start("mqadmin", command, self.folder.path())
    }

    fn start_java(&self, client: Client, version: &str, further: &[&str]) -> Outcome<Driver> {
        let classpath = self.tools.client_classpath(version)?;
        let mut command = Command::new("java");
        command.args(["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dfile.encoding=UTF-8"]);
        command.arg(format!("-Duser.home={}", self.folder.path().display()));
        command.args(further).args(["-cp", &classpath, "Driver"]);
        Driver::start(client.label(), command, self.folder.path())
    }

    /// Prints a figure beside the cases' lines.
    pub fn tell(&self, figure: &str) {
        say(&format!("     {figure}"));
    }

    /// Puts a line into the table of figures that is printed at the end.
    pub fn row(&self, what: &str, how_much: String, result: String) {
        self.tell(&format!("{what}: {how_much}: {result}"));
        self.rows.lock().unwrap_or_else(PoisonError::into_inner).push([what.to_owned(), how_much, result]);
    }

    fn print_table(&self) {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let (first, second) = (width(0), width(1));
        if !rows.is_empty() {
            say("");
        }
        for [what, how_much, result] in rows.iter() {
            say(&format!("| {what:first$} | {how_much:second$} | {result}"));
        }
    }

    fn standing_log(&self) -> Option<String> {
        self.standing.get().and_then(|c| c.as_ref().ok()).map(|c| c.broker.log_tail())
    }

    fn root(&self) -> &Path {
        self.folder.path()
    }
}

/// What becomes of a case that has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    RunsAgain,
    /// It is a proof, which one failure refutes, or a measurement.
    Fails,
}

/// Runs the cases whose names contain one of the arguments (all without any), and reports.
pub fn main(cases: Vec<Case>, failed: Failed) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let filters: Vec<&String> = arguments.iter().filter(|a| !a.starts_with('-')).collect();
    let exact = arguments.iter().any(|a| a == "--exact");
    let wanted = |case: &Case| {
        filters.is_empty()
            || filters.iter().any(|f| if exact { case.name == **f } else { case.name.contains(f.as_str()) })
    };
    let total = cases.len();
    let cases: Vec<Case> = cases.into_iter().filter(wanted).collect();
    if arguments.iter().any(|a| a == "--list") {
        for case in &cases {
            say(&format!("{}: test", case.name));
        }
        return ExitCode::SUCCESS;
    }
    let lab = match Lab::new() {
        Ok(lab) => lab,
        Err(e) => {
            say(&format!("cannot set up the cases: {e}"));
            return ExitCode::FAILURE;
        }
    };
    let begun = Instant::now();
    say(&format!("\nrunning {} tests", cases.len()));
    let tally = Mutex::new(Tally::default());
    let (alone, shared): (Vec<&Case>, Vec<&Case>) = cases.iter().partition(|c| c.alone);
    let turn = AtomicUsize::new(0);
    let again = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..SIDE_BY_SIDE {
            scope.spawn(|| {
                while let Some(&case) = shared.get(turn.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(why) = run(&lab, case, &tally) {
                        again.lock().unwrap_or_else(PoisonError::into_inner).push((case, why));
                    }
                }
            });
        }
    });
    let mut again = again.into_inner().unwrap_or_else(PoisonError::into_inner);
    let alone: Vec<(&Case, String)> =
        alone.into_iter().filter_map(|case| run(&lab, case, &tally).err().map(|why| (case, why))).collect();
    let mut tally = tally.into_inner().unwrap_or_else(PoisonError::into_inner);
    again.extend(alone);
    if again.len() > MAX_AGAIN {
        tally.failed.extend(again.drain(..).map(|(case, why)| (case.name.clone(), why)));
    }
    let again = run_again(&lab, again, failed, &mut tally);
    lab.print_table();
    if !tally.failed.is_empty() {
        say("\nfailures:");
        for (name, why) in &tally.failed {
            say(&format!("\n---- {name} ----\n{why}"));
        }
        if let Some(log) = lab.standing_log() {
            say(&format!("\n---- end of the standing broker's output ----\n{log}"));
        }
        say("\nfailures:");
        for (name, _) in &tally.failed {
            say(&format!("    {name}"));
        }
    }
    again.iter().for_each(|outcome| say(outcome));
    let verdict = if tally.failed.is_empty() { "ok" } else { "FAILED" };
    say(&format!(
        "\ntest result: {verdict}. {} passed; {} failed; {} ignored; 0 measured; {} filtered out; finished in {:.2}s\n",
        tally.passed,
        tally.failed.len(),
        tally.skipped,
        total - cases.len(),
        begun.elapsed().as_secs_f64()
    ));
    if std::env::var_os(KEEP).is_some() {
        say(&format!("kept: {}", lab.root().display()));
        std::mem::forget(lab);
    }
    if tally.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[derive(Default)]
struct Tally {
    passed: usize,
    skipped: usize,
    failed: Vec<(String, String)>,
}

/// Runs failed cases once more where that is allowed; a line of each with both outcomes.
fn run_again(lab: &Lab, failures: Vec<(&Case, String)>, failed: Failed, tally: &mut Tally) -> Vec<String> {
    let mut outcomes = Vec::new();
    for (case, first) in failures {
        if failed == Failed::Fails {
            tally.failed.push((case.name.clone(), first));
            continue;
        }
        say(&format!("\n---- {} failed and runs once more by itself ----\n{first}", case.name));
        let counted = Mutex::new(std::mem::take(tally));
        let second = run(lab, case, &counted);
        *tally = counted.into_inner().unwrap_or_else(PoisonError::into_inner);
        let (how, then) =
            (if case.alone { "alone" } else { "beside others" }, if second.is_ok() { "passed" } else { "failed" });
        outcomes.push(format!("RAN TWICE: {} failed {how}, then {then} by itself", case.name));
        tally.failed.extend(second.err().map(|why| (case.name.clone(), why)));
    }
    outcomes
}

fn attempt(lab: &Lab, case: &Case) -> Outcome {
    catch_unwind(AssertUnwindSafe(|| (case.body)(lab)))
        .unwrap_or_else(|_| Err(Stop::Failed("the case panicked".to_owned())))
}

/// Runs a case and counts it, unless it fails.
fn run(lab: &Lab, case: &Case, tally: &Mutex<Tally>) -> Result<(), String> {
    let begun = Instant::now();
    let outcome = attempt(lab, case);
    let seconds = begun.elapsed().as_secs_f64();
    lab.sweep();
    let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
    match outcome {
        Ok(()) => {
            tally.passed += 1;
            say(&format!("test {} ... ok ({seconds:.1} s)", case.name));
        }
        Err(Stop::Skipped(why)) => {
            tally.skipped += 1;
            say(&format!("test {} ... ignored, {why}", case.name));
        }
        Err(Stop::Failed(why)) => {
            say(&format!("test {} ... FAILED ({seconds:.1} s)", case.name));
            return Err(why);
        }
    }
    Ok(())
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}
