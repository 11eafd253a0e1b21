//! Waiting for the signal to stop.
//!
//! SIGTERM (what `kill`, systemd and containers send) and SIGINT (Ctrl-C) ask for a clean stop; a second one while the stop is
//! under way ends the process at once, with nothing more written. Servers own their threads; only the main thread waits here.

use std::io;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Exit code after a second signal: 128 + SIGINT, as shells have it.
const IMPATIENT_EXIT: i32 = 130;

/// The two signals, caught from the moment this is made. Made before a server starts, so that no signal is lost in between.
#[derive(Debug)]
pub struct StopSignals {
    runtime: tokio::runtime::Runtime,
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    /// Catches the signals.
    pub fn install() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let entered = runtime.enter();
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        drop(entered);
        Ok(Self { runtime, terminate, interrupt })
    }

    /// Blocks until one of them comes and says which. From then on a second one ends the process.
    pub fn wait(self) -> &'static str {
        let Self { runtime, mut terminate, mut interrupt } = self;
        let name = runtime.block_on(next(&mut terminate, &mut interrupt));
        let impatient = std::thread::Builder::new().name("second-signal".into()).spawn(move || {
            runtime.block_on(next(&mut terminate, &mut interrupt));
            std::process::exit(IMPATIENT_EXIT);
        });
        if let Err(error) = impatient {
            tracing::debug!("no thread to watch for a second signal: {error}");
        }
        name
    }
}

async fn next(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_that_comes_before_the_wait_is_not_lost() {
        let signals = StopSignals::install().unwrap();
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM).unwrap();
        assert_eq!(signals.wait(), "SIGTERM");
    }
}
