//! What a node listens on, and whether two of it are the same: the second of them could not be bound.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::check::Wrong;
use super::{Config, Dns, Handle, Http, Operations};

/// Something that is listened on.
struct Listener {
    section: &'static str,
    /// The key that names its port.
    port: &'static str,
    /// The key that names its address.
    listen: &'static str,
    address: SocketAddr,
    transport: &'static str,
    /// Whether the port is another than usual: of two that clash, that one was chosen.
    chosen: bool,
}

impl Listener {
    /// Whether the system gives only one of the two what they ask for.
    fn clashes(&self, other: &Self) -> bool {
        let (one, two) = (self.address, other.address);
        let overlap = one.ip() == two.ip()
            || one.is_ipv4() == two.is_ipv4()
                && (one.ip().is_unspecified() || two.ip().is_unspecified());
        // Port 0 is another one each time.
        let same_port = one.port() == two.port() && one.port() != 0;
        same_port && overlap && self.transport == other.transport
    }

    /// What is wrong with it, which clashes with `other`.
    fn wrong(&self, other: &Self) -> Wrong {
        let own = (self.section, self.port);
        let (key, message) = if own == (other.section, other.port) {
            let (one, two) = (other.address.ip(), self.address.ip());
            let message = if one == two {
                format!("names {one} twice; take one of the two out")
            } else {
                format!(
                    "names {one} and {two}, of which one is part of the other; take one of the two out"
                )
            };
            (self.listen, message)
        } else {
            let message = format!(
                "{} {} is listened on by [{}] {}, too; give one of the two another port or address",
                self.transport, self.address, other.section, other.port
            );
            (self.port, message)
        };
        Wrong {
            key: (self.section.to_owned(), key.to_owned()),
            part: None,
            message,
        }
    }
}

/// Listeners that clash with one that stands before them: of each key the first.
pub(super) fn check(config: &Config) -> Vec<Wrong> {
    let listeners = all(config);
    let mut found: Vec<Wrong> = Vec::new();
    for (place, one) in listeners.iter().enumerate() {
        let mut before = listeners.iter().take(place);
        let Some(other) = before.find(|other| other.clashes(one)) else {
            continue;
        };
        let wrong = match other.chosen && !one.chosen {
            true => other.wrong(one),
            false => one.wrong(other),
        };
        if !found.iter().any(|known| known.key == wrong.key) {
            found.push(wrong);
        }
    }
    found
}

/// Everything that this node would listen on.
fn all(config: &Config) -> Vec<Listener> {
    let (handle, http, dns) = (&config.handle, &config.http, &config.dns);
    let mut all = Vec::new();
    let mut add = |section, port, listen: &[IpAddr], number, usual, transports: &[&'static str]| {
        for ip in listen {
            for transport in transports.iter().copied() {
                all.push(Listener {
                    section,
                    port,
                    listen: "listen",
                    address: SocketAddr::new(*ip, number),
                    transport,
                    chosen: number != usual,
                });
            }
        }
    };
    let both = ["UDP", "TCP"];
    let usual = Handle::default().port;
    add("handle", "port", &handle.listen, handle.port, usual, &both);
    let usual = Http::default().port;
    add("http", "port", &http.listen, http.port, usual, &["TCP"]);
    if dns.enabled {
        let usual = Dns::default();
        add("dns", "port", &dns.listen, dns.port, usual.port, &both);
        if !dns.certificate.as_os_str().is_empty() {
            let (port, usual) = (dns.tls_port, usual.tls_port);
            add("dns", "tls_port", &dns.listen, port, usual, &["TCP"]);
        }
    }
    let operations = config.operations.listen;
    let usual = Operations::default().listen.port();
    let mut ips = vec![operations.ip()];
    // Of the others each socket is of one family; this one takes both.
    if operations.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
        ips.push(Ipv4Addr::UNSPECIFIED.into());
    }
    let port = operations.port();
    add("operations", "listen", &ips, port, usual, &["TCP"]);
    all
}
