//! The address of this machine, as far as the machine itself can tell. Sends nothing, keeps nothing.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};

/// A documentation address (RFC 5737): connecting a UDP socket to it only asks the routing table.
const OUTSIDE: (Ipv4Addr, u16) = (Ipv4Addr::new(198, 51, 100, 1), 9);

/// The address of the interface that leads out of this machine; 127.0.0.1 when none does.
pub fn outward_ip() -> IpAddr {
    let asked = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| {
        socket.connect(OUTSIDE)?;
        socket.local_addr()
    });
    match asked {
        Ok(address) if !address.ip().is_unspecified() => address.ip(),
        _ => Ipv4Addr::LOCALHOST.into(),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn there_is_always_an_address() {
        assert!(!super::outward_ip().is_unspecified());
    }
}
