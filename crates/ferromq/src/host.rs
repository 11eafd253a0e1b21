//! Facts about this machine: its name, the folder for a user's data.

use std::path::PathBuf;

/// The host name; RocketMQ's default for `brokerName`.
pub fn name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() { "DEFAULT_BROKER".into() } else { name }
}

/// The user's home folder, if there is one.
pub fn home() -> Option<PathBuf> {
    absolute("HOME")
}

/// Where programs keep a user's data: `$XDG_DATA_HOME`, else `~/.local/share`.
pub fn data_home() -> Option<PathBuf> {
    absolute("XDG_DATA_HOME").or_else(|| Some(home()?.join(".local/share")))
}

fn absolute(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_machine_has_a_name() {
        assert!(!super::name().is_empty());
    }
}
