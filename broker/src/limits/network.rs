//! The network that somebody comes from: whom an address stands for where what is had is counted. Owns that an IPv6 address counts with
//! all of its /64, and which connections are counted when they are accepted; leaves what proxies say to `http::client_address`.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

/// Whom an address stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Network {
    /// One address.
    V4(Ipv4Addr),
    /// The first 64 bits: what a household or a host is given.
    V6(u64),
}

impl Network {
    /// Whom this address stands for.
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => Self::V6((address.to_bits() >> 64) as u64),
        }
    }

    /// Who is at the other end of a connection, if that is a client: of a trusted proxy its requests tell, and whoever connects from this
    /// machine may be a proxy that Hark was not told of, for which all clients would be one.
    pub fn of_peer(peer: IpAddr, trusted: &[IpNet]) -> Option<Self> {
        let is_client = !peer.to_canonical().is_loopback() && !is_trusted(peer, trusted);
        is_client.then(|| Self::of(peer))
    }
}

/// Whether it is the address of a trusted proxy.
pub fn is_trusted(address: IpAddr, trusted: &[IpNet]) -> bool {
    let address = address.to_canonical();
    trusted.iter().any(|network| network.contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(address: &str) -> Network {
        Network::of(address.parse().unwrap())
    }

    #[test]
    fn an_ipv6_address_counts_with_all_of_its_64() {
        assert_eq!(of("2001:db8:0:7::1"), of("2001:db8:0:7:ffff::2"));
        assert_ne!(of("2001:db8:0:7::1"), of("2001:db8:0:8::1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
    }

    #[test]
    fn this_machine_and_trusted_proxies_are_nobodys_address() {
        let trusted = ["10.0.0.0/8".parse().unwrap()];
        for (peer, is_counted) in [
            ("127.0.0.1", false),
            ("::1", false),
            ("::ffff:127.0.0.2", false),
            ("10.1.2.3", false),
            ("::ffff:10.1.2.3", false),
            ("192.0.2.1", true),
            ("2001:db8::1", true),
        ] {
            let found = Network::of_peer(peer.parse().unwrap(), &trusted);
            assert_eq!(found, is_counted.then(|| of(peer)), "{peer}");
        }
    }
}
