//! Addresses that clients are told.

use std::net::{IpAddr, Ipv6Addr};

use crate::pb::{Address, AddressScheme, Endpoints};

/// Most addresses of one proxy.
const MAX_ADDRESSES: usize = 64;

/// What clients are told instead of the address at which they have reached the proxy (`grpcAccessAddr`).
#[derive(Clone, Debug, PartialEq)]
pub struct AccessAddresses(pub(crate) Endpoints);

impl AccessAddresses {
    /// Reads `host:port;host:port`. Clients want addresses of one kind: IPv4, IPv6 in brackets, or names.
    pub fn parse(text: &str) -> Result<Self, String> {
        let parsed: Result<Vec<_>, String> = text.split(';').map(str::trim).map(one).collect();
        let parsed = parsed?;
        if parsed.len() > MAX_ADDRESSES {
            return Err(format!("there are more than {MAX_ADDRESSES} addresses"));
        }
        let Some((scheme, _)) = parsed.first() else { return Err("there is no address".into()) };
        if parsed.iter().any(|(other, _)| other != scheme) {
            return Err("all addresses must be IPv4, or IPv6, or names: clients take one kind only".into());
        }
        let scheme = (*scheme).into();
        Ok(AccessAddresses(Endpoints { scheme, addresses: parsed.into_iter().map(|(_, address)| address).collect() }))
    }
}

fn one(text: &str) -> Result<(AddressScheme, Address), String> {
    let wrong = || format!("an address is host:port, not {text:?}");
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port: u16 = port.parse().ok().filter(|port| *port > 0).ok_or_else(wrong)?;
    let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let (scheme, host) = match (inner, host.parse::<IpAddr>()) {
        (Some(inner), _) if inner.parse::<Ipv6Addr>().is_ok() => (AddressScheme::IPv6, inner),
        (None, Ok(IpAddr::V4(_))) => (AddressScheme::IPv4, host),
        (None, Err(_)) if is_name(host) => (AddressScheme::DomainName, host),
        _ => return Err(wrong()),
    };
    Ok((scheme, Address { host: host.to_owned(), port: port.into() }))
}

fn is_name(host: &str) -> bool {
    !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_of_one_kind() {
        let kind = |text: &str| AccessAddresses::parse(text).unwrap().0.scheme();
        assert_eq!(kind("10.0.0.1:8081;10.0.0.2:8081"), AddressScheme::IPv4);
        assert_eq!(kind("[::1]:8081"), AddressScheme::IPv6);
        let names = AccessAddresses::parse("mq.example.com:443; mq2:8081").unwrap().0;
        assert_eq!(names.scheme(), AddressScheme::DomainName);
        assert_eq!((names.addresses[1].host.as_str(), names.addresses[1].port), ("mq2", 8081));
        for bad in ["", "host", "host:", ":1", "host:0", "host:70000", "::1:80", "a b:1", "a:1;", "1.2.3.4:1;name:1"] {
            assert!(AccessAddresses::parse(bad).is_err(), "{bad}");
        }
    }
}
