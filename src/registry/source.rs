//! Where a request comes from, as far as limits are concerned: a network, not an address.

use std::net::IpAddr;

/// Octets of an IPv4 address that make a network.
const IPV4_OCTETS: usize = 3;
/// Octets of an IPv6 address that make a network: what one site usually gets.
const IPV6_OCTETS: usize = 7;

/// A source network: IPv4 /24, IPv6 /56.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Source([u8; 8]);

impl Source {
    /// The network of an address; an IPv4 address in IPv6 clothing is an IPv4 address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        let mut network = [0; 8];
        match address.to_canonical() {
            IpAddr::V4(v4) => {
                network[0] = 4;
                network[1..=IPV4_OCTETS].copy_from_slice(&v4.octets()[..IPV4_OCTETS]);
            }
            IpAddr::V6(v6) => {
                network[0] = 6;
                network[1..=IPV6_OCTETS].copy_from_slice(&v6.octets()[..IPV6_OCTETS]);
            }
        }
        Self(network)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_one_source() {
        let of = |text: &str| Source::of(text.parse().unwrap());
        assert_eq!(of("192.0.2.1"), of("192.0.2.200"));
        assert_ne!(of("192.0.2.1"), of("192.0.3.1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.9"));
        assert_eq!(of("2001:db8:0:ff00::1"), of("2001:db8:0:ffff::1"));
        assert_ne!(of("2001:db8:0:fe00::1"), of("2001:db8:0:ff00::1"));
    }
}
