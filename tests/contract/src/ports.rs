//! Ports of the servers that cases start.

use std::net::TcpListener;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

/// Ports that one process with cases has for its servers.
const OWN_PORTS: u16 = 1000;

/// The first port of this process's own thousand; its last one is listened on as long as the process lives, so that another
/// one that runs cases takes another thousand.
fn own_ports() -> u16 {
    static OWN: OnceLock<(u16, TcpListener)> = OnceLock::new();
    // Below the range the kernel takes for outgoing connections.
    let mut firsts = (20_000..32_000).step_by(OWN_PORTS.into()).cycle();
    let take = || loop {
        let first = firsts.next().unwrap_or(20_000);
        if let Ok(last) = TcpListener::bind(("127.0.0.1", first + OWN_PORTS - 1)) {
            return (first, last);
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    OWN.get_or_init(take).0
}

/// A port with its neighbours: a Java broker listens on `port - 2`, `port` and `port + 1`.
pub fn free_ports() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        // All but the last ten.
        let port = own_ports() + NEXT.fetch_add(10, Ordering::Relaxed) % (OWN_PORTS - 10) + 2;
        let all = [port - 2, port, port + 1].map(|p| TcpListener::bind(("127.0.0.1", p)));
        if all.iter().all(Result::is_ok) {
            return port;
        }
    }
}
