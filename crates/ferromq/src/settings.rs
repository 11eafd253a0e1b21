//! From configuration file to settings: RocketMQ's properties files as they are.
//!
//! Three kinds of keys: those that fill a field here (`broker.rs` has the table; the NameServer's stands with its struct), those that
//! RocketMQ knows and FerroMQ does not serve (`known_keys.txt`; accepted, named in the log), and unknown ones (a warning with the
//! nearest known name). A key never stops the start; a value that its key does not take does, and so does a setting whose promise
//! FerroMQ could not keep (`broker::REFUSED`).

mod broker;
mod namesrv;
mod proxy;

pub use broker::BrokerSettings;
pub use namesrv::read as read_namesrv;
pub use proxy::{ProxySettings, read as read_proxy};

use ferromq_common::config::{self, Key};
use ferromq_common::properties::{Entry, Properties, PropertiesError};
use std::path::Path;

/// One line a key: `b`, `n`, `s` or `p` (broker, NameServer, both, proxy), the name, RocketMQ's default.
const KNOWN: &str = include_str!("settings/known_keys.txt");

/// Which program a file is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Server {
    Broker,
    Namesrv,
    Proxy,
}

/// What the reader of a file should be told.
#[derive(Debug, Default)]
pub struct Remarks {
    /// Worth a look: unknown keys, promises that are weaker than they sound.
    pub warnings: Vec<String>,
    /// Keys of RocketMQ that have no effect here.
    pub not_served: Vec<String>,
}

impl Remarks {
    /// Writes them to the log.
    pub fn log(&self) {
        for warning in &self.warnings {
            tracing::warn!("{warning}");
        }
        if !self.not_served.is_empty() {
            tracing::info!("settings of RocketMQ that have no effect here: {}", self.not_served.join(", "));
        }
    }
}

/// Why settings cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SettingsError(String);

/// Reads a file into `target`; without a file nothing changes.
fn read_into<S>(
    path: Option<&Path>,
    server: Server,
    table: &[Key<S>],
    target: &mut S,
) -> Result<(Properties, Remarks), SettingsError> {
    let Some(path) = path else { return Ok(Default::default()) };
    let in_file = |error: &dyn std::fmt::Display| SettingsError(format!("{}: {error}", path.display()));
    let properties = Properties::load(path).map_err(|error| match error {
        PropertiesError::BadEscape { .. } => in_file(&error),
        // These name the file by themselves.
        PropertiesError::Io { .. } | PropertiesError::TooLarge { .. } => SettingsError(error.to_string()),
    })?;
    let left = config::apply(table, properties.entries(), target).map_err(|error| in_file(&error))?;
    let remarks = judge(&left, server, table.iter().map(|key| key.name));
    Ok((properties, remarks))
}

fn known(server: Server) -> impl Iterator<Item = (&'static str, &'static str)> + Clone {
    let kinds: &[&str] = match server {
        Server::Broker => &["b", "s"],
        Server::Namesrv => &["n", "s"],
        Server::Proxy => &["p"],
    };
    KNOWN.lines().filter_map(move |line| {
        let (kind, rest) = line.split_once(' ')?;
        kinds.contains(&kind).then(|| rest.split_once('=')).flatten()
    })
}

fn judge(left: &[&Entry], server: Server, served: impl Iterator<Item = &'static str> + Clone) -> Remarks {
    let mut remarks = Remarks::default();
    for entry in left {
        let key = entry.key.as_str();
        if known(server).any(|(name, _)| name == key) {
            if !remarks.not_served.iter().any(|name| name == key) {
                remarks.not_served.push(key.to_owned());
            }
            continue;
        }
        let candidates = served.clone().chain(known(server).map(|(name, _)| name));
        let hint = config::nearest(key, candidates).map(|name| format!("; did you mean {name}?")).unwrap_or_default();
        remarks.warnings.push(format!("unknown setting {key} (line {}) is ignored{hint}", entry.line));
    }
    remarks
}

/// Lines for `-p`: the keys with a meaning, then the other known ones with the file's value or RocketMQ's default.
fn print_all<S>(server: Server, table: &[Key<S>], target: &mut S, file: &Properties) -> Vec<String> {
    let served = config::describe(table, target, false).into_iter().map(|(name, value)| format!("{name}={value}"));
    let others = known(server).filter(|(name, _)| table.iter().all(|key| key.name != *name));
    let others = others.map(|(name, default)| format!("{name}={}", file.get(name).unwrap_or(default)));
    served.chain(others).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_known_keys_is_well_formed() {
        assert!(known(Server::Broker).count() > 500);
        assert!(known(Server::Namesrv).count() > 50);
        assert!(known(Server::Proxy).count() > 140);
        let lines = KNOWN.lines().filter(|line| !line.starts_with('#'));
        for line in lines {
            let (kind, rest) = line.split_once(' ').unwrap();
            assert!(["b", "n", "s", "p"].contains(&kind) && rest.contains('='), "{line}");
        }
    }

    #[test]
    fn keys_are_served_known_or_unknown() {
        let properties =
            Properties::parse(b"timerWheelEnable=true\nbrokerNmae=x\nzzz=1\ntimerWheelEnable=false\n").unwrap();
        let left: Vec<&Entry> = properties.entries().iter().collect();
        let remarks = judge(&left, Server::Broker, ["brokerName"].into_iter());
        assert_eq!(remarks.not_served, ["timerWheelEnable"]);
        assert_eq!(
            remarks.warnings,
            [
                "unknown setting brokerNmae (line 2) is ignored; did you mean brokerName?",
                "unknown setting zzz (line 3) is ignored"
            ]
        );
    }
}
