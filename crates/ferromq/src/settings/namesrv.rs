//! Settings of a NameServer from `namesrv.conf`.

use super::{Remarks, Server, SettingsError, print_all, read_into};
use ferromq_namesrv::{KEYS, NamesrvConfig};
use std::path::Path;

/// Reads a file over the defaults. As in RocketMQ, changes made by request go back to the file that was read.
/// The lines are what `-p` prints.
pub fn read(path: Option<&Path>) -> Result<(NamesrvConfig, Remarks, Vec<String>), SettingsError> {
    let mut config = NamesrvConfig::default();
    let (file, remarks) = read_into(path, Server::Namesrv, KEYS, &mut config)?;
    if let Some(path) = path {
        config.config_store_path = path.to_owned();
    }
    let lines = print_all(Server::Namesrv, KEYS, &mut config, &file);
    Ok((config, remarks, lines))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_over_the_defaults() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("namesrv.conf");
        std::fs::write(&path, "listenPort = 19876\nproductEnvName=x\nlistenPrt=1\n").unwrap();
        let (config, remarks, lines) = read(Some(&path)).unwrap();
        assert_eq!((config.listen_port, config.config_store_path), (19876, path));
        assert_eq!(remarks.not_served, ["productEnvName"]);
        assert!(remarks.warnings[0].contains("did you mean listenPort?"), "{:?}", remarks.warnings);
        assert!(lines.contains(&"listenPort=19876".to_owned()) && lines.contains(&"productEnvName=x".to_owned()));
    }
}
