//! Where a node may connect to on behalf of others: rules for addresses and ports, and who does not answer.
//!
//! A site record is written by whoever has the prefix. It must not make the node knock at doors that only the node
//! reaches: its own, those of its network, those of its operator.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::ops::RangeInclusive;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ipnet::IpNet;

/// Servers remembered as silent; when there are more, those whose time is over are forgotten, then all.
const SILENT_MAX: usize = 4_096;

/// The rules.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Outbound {
    /// Networks that may be connected to although they are not public.
    pub allow: Vec<IpNet>,
    /// The node's public addresses, which its own network interfaces may not know.
    pub own: Vec<IpAddr>,
    /// Ports that may be connected to.
    pub ports: Vec<RangeInclusive<u16>>,
}

impl Outbound {
    /// Why a server must not be connected to, if so. `local` is our end of the connection, once there is one.
    ///
    /// # Errors
    /// The rule that forbids it.
    pub fn check(&self, server: SocketAddr, local: Option<IpAddr>) -> Result<(), &'static str> {
        let address = server.ip().to_canonical();
        if !self
            .ports
            .iter()
            .any(|ports| ports.contains(&server.port()))
        {
            return Err("its port is not in outbound_ports");
        }
        if self.allow.iter().any(|network| network.contains(&address)) {
            return Ok(());
        }
        if !is_public(address) {
            return Err("its address is not public and not in outbound_allow");
        }
        // Who connects to an address of this machine does so from that address.
        let mine = local.is_some_and(|local| local.to_canonical() == address);
        if mine || self.own.iter().any(|own| own.to_canonical() == address) {
            return Err("its address is this node's own and not in outbound_allow");
        }
        Ok(())
    }

    /// As [`Self::check`], before there is a connection. Nothing is sent.
    ///
    /// # Errors
    /// The rule that forbids it.
    pub fn check_ahead(&self, server: SocketAddr) -> Result<(), &'static str> {
        self.check(server, None)?;
        self.check(server, local_towards(server))
    }
}

/// The address that this machine would connect to `server` from.
fn local_towards(server: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(server).ok()?;
    socket.local_addr().ok().map(|local| local.ip())
}

/// Whether an address is one of the public Internet (the IANA registries of special-purpose addresses).
#[must_use]
pub fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let special = match address.octets() {
        [0 | 10 | 127 | 224..=255, ..] => true,
        [100, second, ..] => second & 0xC0 == 64,
        [172, second, ..] => second & 0xF0 == 16,
        [169, 254, ..] | [192, 168, ..] | [198, 18 | 19, ..] => true,
        [192, 0, 0 | 2, _] | [192, 88, 99, _] | [198, 51, 100, _] | [203, 0, 113, _] => true,
        _ => false,
    };
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let embedded = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match address.segments() {
        // Translators and tunnels lead to the IPv4 address within.
        [0x64, 0xFF9B, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
            is_public_v4(embedded(high, low))
        }
        [0x2001, second, ..] => second > 0x01FF && second != 0x0DB8,
        [0x3FFF, second, ..] => second & 0xF000 != 0,
        [first, ..] => first & 0xE000 == 0x2000,
    }
}

/// Servers that did not answer. Who asks on behalf of others does not wait for them again and again.
#[derive(Debug)]
pub struct Silent {
    servers: Mutex<HashMap<SocketAddr, State, foldhash::fast::RandomState>>,
    /// How long a server stays so before it is looked at again.
    retry: Duration,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Somebody is finding out whether it lives; it is asked as before.
    Suspected,
    /// It is not asked.
    Down {
        /// Until then nobody looks at it.
        until: Instant,
    },
    /// It is not asked, and somebody is finding out whether it lives.
    Looked,
}

impl Silent {
    /// Nobody yet.
    #[must_use]
    pub fn new(retry: Duration) -> Self {
        Self {
            servers: Mutex::default(),
            retry,
        }
    }

    /// Whether a server is not to be asked, and whether the caller is to look whether it lives again.
    pub fn is_down(&self, server: SocketAddr, now: Instant) -> (bool, bool) {
        match self.lock().get_mut(&server) {
            None | Some(State::Suspected) => (false, false),
            Some(state @ State::Down { .. }) => match *state {
                State::Down { until } if now < until => (true, false),
                _ => {
                    *state = State::Looked;
                    (true, true)
                }
            },
            Some(State::Looked) => (true, false),
        }
    }

    /// A server was silent. Whether the caller is to look whether it lives: it may have waited for another one.
    pub fn suspect(&self, server: SocketAddr, now: Instant) -> bool {
        let mut servers = self.lock();
        if servers.len() >= SILENT_MAX {
            servers.retain(|_, state| matches!(state, State::Down { until } if now < *until));
            if servers.len() >= SILENT_MAX {
                servers.clear();
            }
        }
        let fresh = !servers.contains_key(&server);
        if fresh {
            servers.insert(server, State::Suspected);
        }
        fresh
    }

    /// What looking has shown.
    pub fn looked(&self, server: SocketAddr, lives: bool, now: Instant) {
        let mut servers = self.lock();
        match lives {
            true => drop(servers.remove(&server)),
            false => {
                let until = now + self.retry;
                servers.insert(server, State::Down { until });
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SocketAddr, State, foldhash::fast::RandomState>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what is not on the public Internet is known as such, however it is written.
    #[test]
    fn public_addresses() {
        for public in [
            "8.8.8.8",
            "36.112.25.8",
            "172.32.0.1",
            "100.128.0.1",
            "2400:3200::1",
            "64:ff9b::808:808",
        ] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
        for other in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "127.255.0.9",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.9",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::1",
            "2002:a00:1::",
            "3fff::1",
            "5f00::1",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!is_public(other.parse().unwrap()), "{other}");
        }
    }

    /// Goal: own addresses and ports are guarded too, and only what is listed is let through.
    #[test]
    fn rules() {
        let rules = Outbound {
            allow: vec!["10.1.0.0/16".parse().unwrap(), "::1/128".parse().unwrap()],
            own: vec!["36.1.2.3".parse().unwrap()],
            ports: vec![2641..=2644, 30041..=30041],
        };
        let check =
            |server: &str, local: &str| rules.check(server.parse().unwrap(), local.parse().ok());
        assert_eq!(check("8.8.8.8:2641", "8.8.4.4"), Ok(()));
        assert_eq!(
            check("10.1.2.3:30041", "10.1.2.3"),
            Ok(()),
            "listed, if it is own"
        );
        assert_eq!(check("[::1]:2644", "::1"), Ok(()));
        assert!(
            check("8.8.8.8:2645", "")
                .unwrap_err()
                .contains("outbound_ports")
        );
        assert!(
            check("10.2.2.3:2641", "")
                .unwrap_err()
                .contains("not public")
        );
        assert!(
            check("[::ffff:127.0.0.1]:2641", "")
                .unwrap_err()
                .contains("not public")
        );
        assert!(check("36.1.2.3:2641", "").unwrap_err().contains("own"));
        assert!(
            check("8.8.8.8:2641", "8.8.8.8")
                .unwrap_err()
                .contains("own")
        );
    }

    /// Goal: a server is looked at by one at a time, and not asked while it is down.
    #[test]
    fn silence() {
        let (silent, now) = (Silent::new(Duration::from_secs(5)), Instant::now());
        let server: SocketAddr = "8.8.8.8:2641".parse().unwrap();
        assert_eq!(silent.is_down(server, now), (false, false));
        assert!(silent.suspect(server, now) && !silent.suspect(server, now));
        assert_eq!(silent.is_down(server, now), (false, false));
        silent.looked(server, false, now);
        assert_eq!(silent.is_down(server, now), (true, false));
        let later = now + Duration::from_secs(5);
        assert_eq!(silent.is_down(server, later), (true, true));
        assert_eq!(silent.is_down(server, later), (true, false), "one looks");
        silent.looked(server, true, later);
        assert_eq!(silent.is_down(server, later), (false, false));
        for port in 1..=u16::try_from(2 * SILENT_MAX).unwrap() {
            silent.suspect(SocketAddr::new(server.ip(), port), now);
        }
        assert!(silent.lock().len() <= SILENT_MAX);
    }
}
