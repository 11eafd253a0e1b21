//! Facts about this machine: its name, the address others reach it at, the folder for a user's data.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::PathBuf;

/// The host name; RocketMQ's default for `brokerName`.
pub fn name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() { "DEFAULT_BROKER".into() } else { name }
}

/// The address of the interface that leads out of this machine, 127.0.0.1 when none does. Nothing is sent.
pub fn outward_ip() -> IpAddr {
    /// A documentation address (RFC 5737): connecting a UDP socket only asks the routing table.
    const OUTSIDE: (Ipv4Addr, u16) = (Ipv4Addr::new(198, 51, 100, 1), 9);
    let asked = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| {
        socket.connect(OUTSIDE)?;
        socket.local_addr()
    });
    match asked {
        Ok(address) if !address.ip().is_unspecified() => address.ip(),
        _ => Ipv4Addr::LOCALHOST.into(),
    }
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
    fn the_machine_has_a_name_and_an_address() {
        assert!(!super::name().is_empty());
        assert!(!super::outward_ip().is_unspecified());
    }
}
