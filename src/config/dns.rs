//! `[dns]`: identifiers in the domain name system.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::size;
use crate::server::dns::name::Scheme;

/// `[dns]`: the DNS front end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dns {
    /// Whether DNS is served.
    pub enabled: bool,
    /// Local addresses to bind, for UDP and TCP alike.
    pub listen: Vec<IpAddr>,
    /// Port of UDP and TCP.
    pub port: u16,
    /// Port of DNS over TLS.
    pub tls_port: u16,
    /// Certificate chain in PEM; empty: no DNS over TLS.
    pub certificate: PathBuf,
    /// Its private key in PEM.
    pub key: PathBuf,
    /// UDP worker threads; 0: one for each core.
    pub udp_workers: u16,
    /// Kernel receive buffer asked for each UDP socket, in bytes.
    #[serde(with = "size")]
    pub udp_receive_buffer: u64,
    /// Largest answer over UDP, in bytes, whatever the client says, and at most 1232 without a valid cookie; clients are
    /// told that questions may be as long, but no more than what is received whole.
    pub udp_payload: u16,
    /// A connection without a question for this long is closed.
    #[serde(with = "humantime_serde")]
    pub tcp_idle: Duration,
    /// A question once begun must be complete within this time.
    #[serde(with = "humantime_serde")]
    pub tcp_read: Duration,
    /// An answer must be taken by the peer within this time.
    #[serde(with = "humantime_serde")]
    pub tcp_write: Duration,
    /// Open connections; at this number the longest idle one is closed for a new one.
    pub connections_max: u32,
    /// UDP bytes a second that one source network may be sent.
    #[serde(with = "size")]
    pub amplification_rate: u64,
    /// UDP bytes that one source network may be sent at once.
    #[serde(with = "size")]
    pub amplification_burst: u64,
    /// Bits of an IPv4 address that make a source network.
    pub amplification_ipv4_prefix: u8,
    /// Bits of an IPv6 address that make a source network.
    pub amplification_ipv6_prefix: u8,
    /// Over the budget, every so many-th question is told to come back over TCP; 0: none.
    pub slip: u32,
    /// The name of this server for who asks for it; empty: it has none.
    pub nsid: String,
    /// Secret of cookies, 32 hexadecimal digits; empty: drawn at every start.
    pub cookie_secret: String,
    /// What is served.
    pub zones: Vec<Zone>,
}

impl Default for Dns {
    fn default() -> Self {
        Self {
            enabled: false,
            listen: vec![
                IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            ],
            port: 53,
            tls_port: 853,
            certificate: PathBuf::new(),
            key: PathBuf::new(),
            udp_workers: 0,
            udp_receive_buffer: 4 << 20,
            udp_payload: 1232,
            tcp_idle: Duration::from_secs(30),
            tcp_read: Duration::from_secs(5),
            tcp_write: Duration::from_secs(10),
            connections_max: 20_000,
            amplification_rate: 256 << 10,
            amplification_burst: 1 << 20,
            amplification_ipv4_prefix: 24,
            amplification_ipv6_prefix: 56,
            slip: 2,
            nsid: String::new(),
            cookie_secret: String::new(),
            zones: Vec::new(),
        }
    }
}

/// `[[dns.zones]]`: a zone whose names are identifiers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Zone {
    /// Its apex, such as `id.example.net`.
    pub name: String,
    /// How names make handles.
    pub mapping: Scheme,
    /// What the handles of the zone begin with, such as `88.118.1/`.
    #[serde(default)]
    pub handles: String,
    /// Its name servers; the first one is the primary of the SOA record.
    pub nameservers: Vec<String>,
    /// The mailbox of who answers for it, as a name: `hostmaster.example.net`.
    pub mail: String,
    /// TTL of SOA and NS.
    #[serde(with = "humantime_serde", default = "Zone::ttl")]
    pub ttl: Duration,
    /// How long it may be remembered that a name or type does not exist.
    #[serde(with = "humantime_serde", default = "Zone::negative_ttl")]
    pub negative_ttl: Duration,
    /// Which values become which records; empty: what is usual for the mapping.
    #[serde(default)]
    pub rules: Vec<Rule>,
}

impl Zone {
    const fn ttl() -> Duration {
        Duration::from_secs(3600)
    }

    const fn negative_ttl() -> Duration {
        Duration::from_secs(300)
    }
}

/// What a value becomes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The type of the record.
    pub record: RuleKind,
    /// The type of the values; `URL.` also takes `URL.x`.
    #[serde(rename = "type")]
    pub kind: String,
    /// NAPTR: order.
    #[serde(default = "Rule::ten")]
    pub order: u16,
    /// NAPTR: preference among those of the same order.
    #[serde(default = "Rule::ten")]
    pub preference: u16,
    /// NAPTR: flags.
    #[serde(default = "Rule::terminal")]
    pub flags: String,
    /// NAPTR: services.
    #[serde(default)]
    pub service: String,
    /// URI, SRV: priority.
    #[serde(default = "Rule::ten")]
    pub priority: u16,
    /// URI, SRV: weight.
    #[serde(default)]
    pub weight: u16,
}

impl Rule {
    /// A rule with what is usual for the rest.
    #[must_use]
    pub fn new(record: RuleKind, kind: &str, service: &str) -> Self {
        Self {
            record,
            kind: kind.into(),
            order: Self::ten(),
            preference: Self::ten(),
            flags: Self::terminal(),
            service: service.into(),
            priority: Self::ten(),
            weight: 0,
        }
    }

    const fn ten() -> u16 {
        10
    }

    fn terminal() -> String {
        String::from("u")
    }
}

/// The types of records that rules make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum RuleKind {
    /// A rewrite rule to a URI (RFC 3403).
    Naptr,
    /// A URI (RFC 7553).
    Uri,
    /// Text (RFC 1035).
    Txt,
    /// IPv4 addresses of the servers of a site.
    A,
    /// IPv6 addresses of the servers of a site.
    Aaaa,
    /// The ports of the servers of a site (RFC 2782), below `_hdl-srv._tcp` and `_hdl-srv._udp`.
    Srv,
}
