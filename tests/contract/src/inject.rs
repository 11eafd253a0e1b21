//! strace attached to a server, making its system calls fail or hang.

use crate::tools::present;
use crate::wire::now_ms;
use crate::{Outcome, Stop, wait_for};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Calls by which a server forces data to the disk.
pub const SYNCS: &str = "fdatasync,fsync,syncfs,sync_file_range,msync";
/// Calls by which it writes files; sockets are written otherwise.
pub const WRITES: &str = "pwrite64,pwritev,pwritev2";

/// An injection; it ends when dropped.
pub struct Injection {
    child: Child,
    log: PathBuf,
}

/// A call that was made to fail or hang.
#[derive(Debug)]
pub struct Hit {
    pub at: Instant,
    /// As strace shows it, with the path of the file.
    pub call: String,
}

impl Injection {
    /// Lets `fault` (strace's words: `error=EIO:when=3`) meet `calls` of a process; only on the files in `under`, if one
    /// is given.
    pub fn attach(pid: u32, calls: &str, fault: &str, under: Option<&Path>, log: &Path) -> Outcome<Injection> {
        if !present("strace") {
            return Err(Stop::Skipped("strace is not installed".to_owned()));
        }
        let pid = pid.to_string();
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-y", "-ttt", "-s", "0", "-p", &pid, "-o"]).arg(log);
        command.args(["-e", &format!("trace={calls}"), "-e", &format!("inject={calls}:{fault}")]);
        for entry in under.map(std::fs::read_dir).transpose()?.into_iter().flatten() {
            command.arg("-P").arg(entry?.path());
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let mut injection = Injection { child, log: log.to_owned() };
        let threads = PathBuf::from(format!("/proc/{pid}/task"));
        wait_for(Duration::from_secs(10), "strace attaches to every thread", || {
            if injection.child.try_wait()?.is_some() {
                return Err(Stop::Skipped("strace may not attach here".to_owned()));
            }
            for thread in std::fs::read_dir(&threads)? {
                let status = std::fs::read_to_string(thread?.path().join("status")).unwrap_or_default();
                if status.lines().any(|line| line.strip_prefix("TracerPid:").is_some_and(|tracer| tracer.trim() == "0"))
                {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })?;
        Ok(injection)
    }

    /// The first call that met the fault, if there was one.
    pub fn first_hit(&self) -> Option<Hit> {
        let text = String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned();
        let line = text.lines().find(|line| line.contains("(INJECTED)") || line.contains("(DELAYED)"))?;
        // Thread, seconds since 1970, call.
        let mut words = line.split_whitespace();
        let seconds: f64 = words.nth(1)?.parse().ok()?;
        let ago = Duration::try_from_secs_f64(now_ms() as f64 / 1000.0 - seconds).unwrap_or_default();
        let at = Instant::now() - ago;
        Some(Hit { at, call: words.collect::<Vec<_>>().join(" ") })
    }
}

/// How often one thread of a process, by its name, forces data to the disk while `work` goes on. No other thread stops for
/// strace, so that the process works nearly as it does alone.
pub fn count_syncs(pid: u32, thread: &str, log: &Path, work: impl FnOnce() -> Outcome) -> Outcome<usize> {
    if !present("strace") {
        return Err(Stop::Skipped("strace is not installed".to_owned()));
    }
    let mut found = None;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?.path();
        if std::fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == thread) {
            found = Some(task);
        }
    }
    let task = found.ok_or_else(|| format!("process {pid} has no thread {thread}"))?;
    let mut command = Command::new("strace");
    command.args(["-qq", "-e", &format!("trace={SYNCS}"), "-o"]).arg(log).arg("-p").args(task.file_name());
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let mut tracer = Injection { child, log: log.to_owned() };
    wait_for(Duration::from_secs(10), "strace attaches to the thread", || {
        if tracer.child.try_wait()?.is_some() {
            return Err(Stop::Skipped("strace may not attach here".to_owned()));
        }
        let status = std::fs::read_to_string(task.join("status"))?;
        let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
        Ok(tracer.is_some_and(|tracer| tracer.trim() != "0").then_some(()))
    })?;
    work()?;
    drop(tracer);
    Ok(std::fs::read_to_string(log)?.lines().filter(|line| line.contains("sync(")).count())
}

impl Drop for Injection {
    fn drop(&mut self) {
        // SIGTERM lets strace detach; killed, it would leave the process stopped in its calls.
        if let Some(pid) = rustix::process::Pid::from_raw(self.child.id().cast_signed()) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.child.wait();
    }
}
