//! Gets what the cases run with: the `ferromq` binary, the jars of the reference server and of the Java clients (Maven),
//! the Java driver (javac), the Go and Rust drivers, and the packages of the Python and Node clients. Everything lands in
//! `target/contract` and is made once.

use crate::{Outcome, Stop, While};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The version of the reference server; its jars come from the profile of that name in `tests/java/pom.xml`.
const SERVER: &str = "server-and-proxy-5.5.0";
/// The oldest server whose stores are taken over.
const SERVER4: &str = "server-4.9.7";

/// The version of the gRPC client, likewise.
const GRPC: &str = "client-grpc-5.2.0";

/// The version of mqadmin, likewise.
const ADMIN: &str = "tools-5.5.0";

/// Folders and programs of this run.
#[derive(Default)]
pub struct Tools {
    binary: OnceLock<Outcome<PathBuf>>,
    jars: [OnceLock<Outcome<PathBuf>>; 6],
    go: OnceLock<Outcome<PathBuf>>,
    go_grpc: OnceLock<Outcome<PathBuf>>,
    python: OnceLock<Outcome<PathBuf>>,
    node: OnceLock<Outcome<PathBuf>>,
    rust: OnceLock<Outcome<PathBuf>>,
}

impl Tools {
    /// The binary under test: `FERROMQ_BIN`, else built here in release mode.
    pub fn ferromq(&self) -> Outcome<PathBuf> {
        self.binary.get_or_init(build_binary).clone()
    }

    /// The class path of the reference server.
    pub fn server_classpath(&self) -> Outcome<String> {
        let jars = self.jars[0].get_or_init(|| resolve(SERVER)).clone()?;
        Ok(format!("{}/*", jars.display()))
    }

    /// The class path of the server 4.9.7.
    pub fn server4_classpath(&self) -> Outcome<String> {
        let jars = self.jars[3].get_or_init(|| resolve(SERVER4)).clone()?;
        Ok(format!("{}/*", jars.display()))
    }

    /// The class path of the driver on the client of that version ("5.5.0" or "4.9.8").
    pub fn client_classpath(&self, version: &str) -> Outcome<String> {
        let slot = if version.starts_with('5') { &self.jars[1] } else { &self.jars[2] };
        let jars = slot
            .get_or_init(|| {
                resolve(&format!("client-{version}")).and_then(|jars| {
                    let client = format!("client-{version}");
                    compile(&format!("classes-{version}"), &["common", "lines", "textbook", &client], jars)
                })
            })
            .clone()?;
        Ok(format!("{}:{}/*", cache().join(format!("classes-{version}")).display(), jars.display()))
    }

    /// The class path of the driver on the gRPC client.
    pub fn grpc_classpath(&self) -> Outcome<String> {
        let jars = self.jars[5]
            .get_or_init(|| resolve(GRPC).and_then(|jars| compile("classes-grpc", &["lines", "grpc"], jars)))
            .clone()?;
        Ok(format!("{}:{}/*", cache().join("classes-grpc").display(), jars.display()))
    }

    /// The class path of the driver around the official mqadmin.
    pub fn admin_classpath(&self) -> Outcome<String> {
        let jars = self.jars[4]
            .get_or_init(|| resolve(ADMIN).and_then(|jars| compile("classes-admin", &["admin"], jars)))
            .clone()?;
        Ok(format!("{}:{}/*", cache().join("classes-admin").display(), jars.display()))
    }

    /// A user's program of `tests/java/textbook` on the Java client 5.5.0; arguments are the caller's.
    pub fn textbook(&self, program: &str, home: &Path) -> Outcome<Command> {
        let classpath = self.client_classpath("5.5.0")?;
        let mut command = Command::new("java");
        command.args(["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]);
        command.arg(format!("-Duser.home={}", home.display())).args(["-cp", &classpath, program]);
        Ok(command)
    }

    /// The program of `tests/java/oracle` that asks the server's own filter classes.
    pub fn filter_oracle(&self) -> Outcome<Command> {
        let mut command = Command::new("java");
        command.args(["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", &self.server_classpath()?]);
        command.arg(root().join("tests/java/oracle/FilterOracle.java"));
        Ok(command)
    }

    /// The Go driver.
    pub fn go_driver(&self) -> Outcome<PathBuf> {
        self.go.get_or_init(|| build_go("go-driver", ".")).clone()
    }

    /// The Go driver on the gRPC client.
    pub fn go_grpc_driver(&self) -> Outcome<PathBuf> {
        self.go_grpc.get_or_init(|| build_go("go-grpc-driver", "./grpc")).clone()
    }

    /// The Python driver.
    pub fn python_driver(&self) -> Outcome<Command> {
        let folder = self.python.get_or_init(install_python).clone()?;
        let mut command = Command::new(folder.join("bin/python"));
        command.arg(root().join("tests/python/driver.py"));
        Ok(command)
    }

    /// The Node driver.
    pub fn node_driver(&self) -> Outcome<Command> {
        let folder = self.node.get_or_init(install_node).clone()?;
        let mut command = Command::new("node");
        command.env("NODE_PATH", folder.join("node_modules")).arg(root().join("tests/node/driver.js"));
        Ok(command)
    }

    /// The Rust driver.
    pub fn rust_driver(&self) -> Outcome<PathBuf> {
        self.rust.get_or_init(build_rust).clone()
    }
}

fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

/// Where jars, classes and the Go driver are kept between runs.
fn cache() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    target.join("contract")
}

/// Whether a program can be started at all.
pub fn present(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).is_file()))
}

/// Skips the case where a program is missing.
pub fn need(program: &str) -> Outcome {
    if present(program) { Ok(()) } else { Err(Stop::Skipped(format!("{program} is not installed"))) }
}

fn run(command: &mut Command) -> Outcome<String> {
    let output = command.output().doing(format!("starting {command:?}"))?;
    if !output.status.success() {
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        return Err(Stop::Failed(format!("{command:?} ended with {}:\n{out}{err}", output.status)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn build_binary() -> Outcome<PathBuf> {
    if let Some(path) = std::env::var_os("FERROMQ_BIN") {
        return Ok(PathBuf::from(path));
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let out = run(Command::new(cargo).current_dir(root()).args([
        "build",
        "--release",
        "-p",
        "ferromq",
        "--bin",
        "ferromq",
        "--message-format=json-render-diagnostics",
    ]))?;
    out.lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|m| m["target"]["name"] == "ferromq")
        .find_map(|m| m["executable"].as_str().map(PathBuf::from))
        .ok_or_else(|| "cargo named no executable called ferromq".into())
}

/// Copies the jars of one Maven profile into the cache; the copy is complete when its marker file stands.
fn resolve(profile: &str) -> Outcome<PathBuf> {
    need("java")?;
    let folder = cache().join(format!("lib-{profile}"));
    let marker = folder.join(".complete");
    if !marker.exists() {
        need("mvn")?;
        run(Command::new("mvn")
            .args(["-q", "-B", "-f"])
            .arg(root().join("tests/java/pom.xml"))
            .args(["-P", profile, "dependency:copy-dependencies", "-DincludeScope=runtime"])
            .arg(format!("-DoutputDirectory={}", folder.display())))?;
        std::fs::write(marker, "")?;
    }
    Ok(folder)
}

/// Compiles folders of `tests/java` into a folder of classes, against jars.
fn compile(classes: &str, folders: &[&str], jars: PathBuf) -> Outcome<PathBuf> {
    need("javac")?;
    let sources = root().join("tests/java");
    let mut files = Vec::new();
    for folder in folders {
        for entry in std::fs::read_dir(sources.join(folder))? {
            files.push(entry?.path());
        }
    }
    let classes = cache().join(classes);
    std::fs::create_dir_all(&classes)?;
    let changed = |file: &Path| std::fs::metadata(file).and_then(|m| m.modified());
    let marker = classes.join(".compiled");
    if let Ok(compiled) = changed(&marker)
        && files.iter().all(|file| changed(file).is_ok_and(|time| time < compiled))
    {
        return Ok(jars);
    }
    run(Command::new("javac")
        .args(["-nowarn", "-encoding", "UTF-8", "-cp"])
        .arg(format!("{}/*", jars.display()))
        .arg("-d")
        .arg(&classes)
        .args(files))?;
    std::fs::write(marker, "")?;
    Ok(jars)
}

fn build_go(name: &str, package: &str) -> Outcome<PathBuf> {
    need("go")?;
    let driver = cache().join(name);
    std::fs::create_dir_all(cache())?;
    run(Command::new("go")
        .current_dir(root().join("tests/go"))
        .args(["build", "-buildvcs=false", "-trimpath", "-o"])
        .arg(&driver)
        .arg(package))?;
    Ok(driver)
}

/// The Rust driver is a project of its own: its client's dependencies are no one else's.
fn build_rust() -> Outcome<PathBuf> {
    let (cargo, target) = (std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()), cache().join("rust"));
    run(Command::new(cargo)
        .current_dir(root().join("tests/rust"))
        .args(["build", "--quiet", "--locked", "--target-dir"])
        .arg(&target))?;
    Ok(target.join("debug/ferromq-rust-driver"))
}

/// An environment of Python with the packages of `tests/python/requirements.txt`.
fn install_python() -> Outcome<PathBuf> {
    need("python3")?;
    let folder = cache().join("python");
    let requirements = root().join("tests/python/requirements.txt");
    installed(&folder, &[&requirements], || {
        if run(Command::new("python3").args(["-c", "import ensurepip, venv"])).is_err() {
            return Err(Stop::Skipped("python3 cannot make environments (its venv package is missing)".into()));
        }
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
        run(Command::new(folder.join("bin/python")).args(["-m", "pip", "install", "-q", "-r"]).arg(&requirements))
    })
}

/// The packages of `tests/node/package-lock.json`.
fn install_node() -> Outcome<PathBuf> {
    need("node")?;
    need("npm")?;
    let folder = cache().join("node");
    let files = ["package.json", "package-lock.json"].map(|name| root().join("tests/node").join(name));
    installed(&folder, &[&files[0], &files[1]], || {
        std::fs::create_dir_all(&folder)?;
        for file in &files {
            std::fs::copy(file, folder.join(file.file_name().unwrap_or_default()))?;
        }
        run(Command::new("npm").current_dir(&folder).args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]))
    })
}

/// Installs packages into a folder unless it holds what the lists say: it keeps a copy of them.
fn installed(folder: &Path, lists: &[&Path], install: impl FnOnce() -> Outcome<String>) -> Outcome<PathBuf> {
    let wanted: Vec<u8> = lists.iter().map(std::fs::read).collect::<Result<Vec<_>, _>>()?.concat();
    let marker = folder.join(".installed");
    if std::fs::read(&marker).is_ok_and(|found| found == wanted) {
        return Ok(folder.to_owned());
    }
    install()?;
    std::fs::write(marker, wanted)?;
    Ok(folder.to_owned())
}
