//! Where a request comes from, as far as limits are concerned.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Octets of an IPv4 address that make a network.
const IPV4_OCTETS: usize = 3;
/// Octets of an IPv6 address that make a network: what one site usually gets.
const IPV6_OCTETS: usize = 7;

/// Who sends: an address, and whether it is known to be theirs.
///
/// The address of a connection is, and so is that of whoever knows the nonce we sent there; that of
/// any other datagram may be forged. What the forged ones do must never count against the proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sender {
    address: IpAddr,
    proven: bool,
}

impl Sender {
    /// Somebody who receives what is sent to this address.
    #[must_use]
    pub const fn proven(address: IpAddr) -> Self {
        Self {
            address: address.to_canonical(),
            proven: true,
        }
    }

    /// Somebody who says that this is their address.
    #[must_use]
    pub const fn claimed(address: IpAddr) -> Self {
        Self {
            address: address.to_canonical(),
            proven: false,
        }
    }

    /// The address.
    #[must_use]
    pub const fn address(self) -> IpAddr {
        self.address
    }

    /// Whether the address is known to be theirs.
    #[must_use]
    pub const fn is_proven(self) -> bool {
        self.proven
    }

    /// The network.
    #[must_use]
    pub fn source(self) -> Source {
        let mut network = [0; 8];
        match self.address {
            IpAddr::V4(v4) => {
                network[0] = 4;
                network[1..=IPV4_OCTETS].copy_from_slice(&v4.octets()[..IPV4_OCTETS]);
            }
            IpAddr::V6(v6) => {
                network[0] = 6;
                network[1..=IPV6_OCTETS].copy_from_slice(&v6.octets()[..IPV6_OCTETS]);
            }
        }
        Source {
            claimed: !self.proven,
            network,
        }
    }
}

/// A source network: IPv4 /24, IPv6 /56. The same network is another source while it is only claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Source {
    claimed: bool,
    network: [u8; 8],
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [family, rest @ ..] = self.network;
        let mut octets = [0; 16];
        octets[..rest.len()].copy_from_slice(&rest);
        let [a, b, c, ..] = rest;
        match family {
            4 => write!(f, "{}/24", Ipv4Addr::new(a, b, c, 0)),
            _ => write!(f, "{}/56", Ipv6Addr::from(octets)),
        }
    }
}

impl Source {
    /// Whether it may be forged.
    #[must_use]
    pub const fn is_claimed(self) -> bool {
        self.claimed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_one_source() {
        let of = |text: &str| Sender::proven(text.parse().unwrap()).source();
        assert_eq!(of("192.0.2.1"), of("192.0.2.200"));
        assert_ne!(of("192.0.2.1"), of("192.0.3.1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.9"));
        assert_eq!(of("2001:db8:0:ff00::1"), of("2001:db8:0:ffff::1"));
        assert_ne!(of("2001:db8:0:fe00::1"), of("2001:db8:0:ff00::1"));
        let claimed = Sender::claimed("192.0.2.1".parse().unwrap()).source();
        assert_ne!(claimed, of("192.0.2.1"), "who is only said to be there");
    }
}
