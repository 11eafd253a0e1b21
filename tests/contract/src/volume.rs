//! A small volume whose power can be cut: a file system on a loop device. `cut` is the shutdown call that ext4 and XFS
//! have for this purpose: everything that was not synced is gone, and every later write fails, for whatever process.
//! A cut volume comes back by [`Volume::repair`], as a disk does after the power returns.

use crate::tools::present;
use crate::{Outcome, Stop, While, ensure};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// `EXT4_IOC_SHUTDOWN`, the same as `XFS_IOC_GOINGDOWN`.
const SHUTDOWN: rustix::ioctl::Opcode = 0x8004_587d;
/// Without writing the journal.
const NO_LOG_FLUSH: u32 = 2;

/// Between two syncs of a probe.
const PROBE_PAUSE: Duration = Duration::from_millis(10);

/// Which file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSystem {
    Ext4,
    Xfs,
}

impl FileSystem {
    fn mkfs(self) -> (&'static str, &'static [&'static str]) {
        match self {
            // Nothing is zeroed behind our back while the test runs.
            Self::Ext4 => ("mkfs.ext4", &["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"]),
            Self::Xfs => ("mkfs.xfs", &["-q", "-f"]),
        }
    }

    /// As mount calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }
}

/// A mounted volume.
pub struct Volume {
    /// Where it is mounted.
    pub path: PathBuf,
    image: PathBuf,
    kind: FileSystem,
    mounted: bool,
}

impl Volume {
    /// Makes one of `mib` MiB in `folder` and mounts it. Skips the case where that cannot be done.
    pub fn new(folder: &Path, kind: FileSystem, mib: u64) -> Outcome<Volume> {
        let (mkfs, options) = kind.mkfs();
        if !rustix::process::geteuid().is_root() {
            return Err(Stop::Skipped("only root can mount a volume whose power can be cut".to_owned()));
        }
        for tool in [mkfs, "mount", "umount"] {
            if !present(tool) {
                return Err(Stop::Skipped(format!("{tool} is not installed")));
            }
        }
        std::fs::create_dir_all(folder)?;
        let (path, image) = (folder.join("volume"), folder.join("volume.image"));
        std::fs::create_dir_all(&path)?;
        File::create(&image)?.set_len(mib << 20)?;
        let made = Command::new(mkfs).args(options).arg(&image).stdout(Stdio::null()).output()?;
        ensure!(made.status.success(), "{mkfs}: {}", String::from_utf8_lossy(&made.stderr));
        let mut volume = Volume { path, image, kind, mounted: false };
        if let Err(why) = volume.mount() {
            return Err(Stop::Skipped(format!("loop devices cannot be mounted here: {why}")));
        }
        Ok(volume)
    }

    fn mount(&mut self) -> Outcome {
        let mounted = Command::new("mount")
            .args(["-t", self.kind.name(), "-o", "loop"])
            .arg(&self.image)
            .arg(&self.path)
            .output()
            .doing("starting mount")?;
        ensure!(mounted.status.success(), "mount: {}", String::from_utf8_lossy(&mounted.stderr));
        self.mounted = true;
        Ok(())
    }

    /// Cuts the power.
    pub fn cut(&self) -> Outcome {
        let folder = File::open(&self.path)?;
        shut_down(&folder).map_err(|error| Stop::Failed(format!("shutting the file system down: {error}")))
    }

    /// The power is back. No process may have the volume open.
    pub fn repair(&mut self) -> Outcome {
        self.unmount()?;
        self.mount()
    }

    fn unmount(&mut self) -> Outcome {
        let done = Command::new("umount").arg(&self.path).output()?;
        ensure!(done.status.success(), "umount: {}", String::from_utf8_lossy(&done.stderr));
        self.mounted = false;
        Ok(())
    }
}

/// The loop device goes with the mount. A process that still has a file open keeps the mount until it ends.
impl Drop for Volume {
    fn drop(&mut self) {
        if self.mounted && self.unmount().is_err() {
            let _ = Command::new("umount").arg("-l").arg(&self.path).status();
        }
        let _ = std::fs::remove_file(&self.image);
    }
}

/// Beside a server, asks what the disk itself takes for a sync: a small write and a sync, again and again.
pub struct SyncProbe {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Duration>,
}

impl SyncProbe {
    /// Begins on a file of its own.
    pub fn start(volume: &Volume) -> Outcome<SyncProbe> {
        let file = File::create(volume.path.join("sync-probe"))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut slowest = Duration::ZERO;
            while !stopped.load(Ordering::Relaxed) {
                let began = Instant::now();
                let is_over = file.write_all_at(&[1; 4096], 0).and_then(|()| file.sync_data()).is_err();
                slowest = slowest.max(began.elapsed());
                if is_over {
                    // The power is cut. What was waited for until now counts.
                    break;
                }
                std::thread::sleep(PROBE_PAUSE);
            }
            slowest
        });
        Ok(SyncProbe { stop, thread })
    }

    /// Ends it; the longest that a sync took, the one under way at a power cut among them.
    pub fn slowest(self) -> Outcome<Duration> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| "the sync probe panicked".into())
    }
}

#[allow(unsafe_code, reason = "no library offers this call; it is the whole point of this file")]
fn shut_down(folder: &File) -> rustix::io::Result<()> {
    // SAFETY: the opcode takes a pointer to a u32 that it only reads, which is what the setter passes.
    unsafe {
        let call = rustix::ioctl::Setter::<SHUTDOWN, u32>::new(NO_LOG_FLUSH);
        rustix::ioctl::ioctl(folder, call)
    }
}
