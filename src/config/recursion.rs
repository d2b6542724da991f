//! `[recursion]`: handles that are at home elsewhere.

use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::size;
use crate::client::outbound::Outbound;

/// `[recursion]`: what other nodes are asked on behalf of those who ask this one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recursion {
    /// Whether handles that are at home elsewhere are resolved for whoever asks.
    pub allow_recursion: bool,
    /// Whether users whose keys are at home elsewhere may prove themselves.
    pub authentication: bool,
    /// Servers that know where prefixes are at home, asked one after the other.
    pub upstream: Vec<SocketAddr>,
    /// Networks that may be connected to although they are not public.
    pub outbound_allow: Vec<IpNet>,
    /// Ports that may be connected to.
    pub outbound_ports: Vec<Ports>,
    /// How long one question may take.
    #[serde(with = "humantime_serde")]
    pub deadline: Duration,
    /// Different questions under way at once.
    pub questions: u32,
    /// Requests that may wait for them.
    pub waiting: u32,
    /// What answers that are remembered may take, in bytes.
    #[serde(with = "size")]
    pub cache: u64,
    /// Longest time an answer is remembered, whatever its values say.
    #[serde(with = "humantime_serde")]
    pub ttl_max: Duration,
    /// How long it is remembered that there is nothing.
    #[serde(with = "humantime_serde")]
    pub ttl_negative: Duration,
    /// How long after that time an answer stands in while its home does not answer.
    #[serde(with = "humantime_serde")]
    pub stale: Duration,
    /// How long a server that did not answer is left alone.
    #[serde(with = "humantime_serde")]
    pub retry: Duration,
}

impl Default for Recursion {
    fn default() -> Self {
        Self {
            allow_recursion: false,
            authentication: false,
            upstream: Vec::new(),
            outbound_allow: Vec::new(),
            outbound_ports: vec![Ports(1024..=u16::MAX)],
            deadline: Duration::from_secs(5),
            questions: 512,
            waiting: 4_096,
            cache: 64 << 20,
            ttl_max: Duration::from_secs(24 * 3600),
            ttl_negative: Duration::from_secs(60),
            stale: Duration::from_secs(24 * 3600),
            retry: Duration::from_secs(5),
        }
    }
}

impl Recursion {
    /// The rules for connections to other nodes; `own` are the public addresses of this one.
    #[must_use]
    pub fn outbound(&self, own: &[std::net::IpAddr]) -> Outbound {
        Outbound {
            allow: self.outbound_allow.clone(),
            own: own.to_vec(),
            ports: self
                .outbound_ports
                .iter()
                .map(|ports| ports.0.clone())
                .collect(),
        }
    }
}

/// One port, or the first and the last of several: `"2641"`, `"1024-65535"`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ports(pub RangeInclusive<u16>);

impl FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (first.trim().parse(), last.trim().parse()) {
            (Ok(first), Ok(last)) if 0 < first && first <= last => Ok(Self(first..=last)),
            _ => Err(format!(
                "{text:?} is no port and no range of ports such as \"1024-65535\""
            )),
        }
    }
}

impl TryFrom<String> for Ports {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Ports> for String {
    fn from(ports: Ports) -> Self {
        ports.to_string()
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.start() == self.0.end() {
            true => write!(f, "{}", self.0.start()),
            false => write!(f, "{}-{}", self.0.start(), self.0.end()),
        }
    }
}
