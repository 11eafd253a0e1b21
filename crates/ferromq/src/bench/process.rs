//! CPU time of a server on this machine, read from `/proc`. Elsewhere than on Linux there is simply no figure.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

/// State of a listening socket in `/proc/net/tcp`.
const LISTENING: &str = "0A";

/// User and system time that a process has used, all its threads together; resolution 10 ms.
pub fn cpu_time(pid: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let ticks = ticks_of(&stat)?;
    Some(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
}

/// Fields 14 and 15; the command name before them may contain anything.
fn ticks_of(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

/// The process of ours that listens on the port of `address`, if the address is this machine's.
pub fn listener(address: SocketAddr) -> Option<u32> {
    // Only an address of this machine can be bound.
    std::net::UdpSocket::bind((address.ip(), 0)).ok()?;
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| fs::read_to_string(path).unwrap_or_default());
    let inode = tables.iter().find_map(|table| inode_of_listener(table, address.port()))?;
    let wanted = format!("socket:[{inode}]");
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let holds_it = |pid: &u32| {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let mut targets = descriptors.filter_map(|entry| fs::read_link(entry.path()).ok());
        targets.any(|target| target.as_os_str() == wanted.as_str())
    };
    pids.into_iter().find(holds_it)
}

fn inode_of_listener(table: &str, port: u16) -> Option<&str> {
    let port = format!(":{port:04X}");
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let matches = fields.get(1)?.ends_with(&port) && *fields.get(3)? == LISTENING;
        matches.then(|| fields.get(9).copied()).flatten()
    })
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn ticks_are_found_behind_any_name() {
        let stat = "24400 (a) b (c) R 24394 24394 3370 0 -1 4194304 99 0 0 0 17 25 0 0 20 0 1 0 241682";
        assert_eq!(ticks_of(stat), Some(42));
        assert_eq!(ticks_of("garbage"), None);
    }

    #[test]
    fn this_process_has_used_time_and_is_found_by_its_port() {
        assert!(cpu_time(std::process::id()).is_some());
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(listener(socket.local_addr().unwrap()), Some(std::process::id()));
    }

    #[test]
    fn an_address_of_another_machine_has_no_process_here() {
        assert_eq!(listener("198.51.100.1:10911".parse().unwrap()), None);
    }
}
