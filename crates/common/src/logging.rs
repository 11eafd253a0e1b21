//! Where log lines go: standard error, one line per event, UTC time first.
//!
//! The level is `FERROMQ_LOG` (`error`, `warn`, `info`, `debug`, `trace`) or the command's own default. Log files and rotation are
//! left to whoever runs the process (systemd, a container): RocketMQ's `~/logs` surprises people.

use tracing::level_filters::LevelFilter;

/// Environment variable with the level.
pub const LEVEL_VARIABLE: &str = "FERROMQ_LOG";

/// Starts logging for the whole process; the first call counts. An unreadable level is reported and `default` stands.
pub fn init(default: LevelFilter) {
    let wanted = std::env::var(LEVEL_VARIABLE).ok();
    let parsed = wanted.as_deref().map(str::parse::<LevelFilter>);
    let level = match &parsed {
        Some(Ok(level)) => *level,
        _ => default,
    };
    let colour = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let started = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_ansi(colour)
        .with_target(false)
        .try_init();
    if let (Ok(()), Some(Err(_)), Some(wanted)) = (started, &parsed, &wanted) {
        tracing::warn!("{LEVEL_VARIABLE}={wanted} is no level; use error, warn, info, debug, trace or off");
    }
}
