//! `[operations]`: how the node is, over HTTP.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

/// The section.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operations {
    /// Address of the status page, `/metrics`, `/health` and `/ready`.
    pub listen: SocketAddr,
    /// Networks that may ask, besides this machine; a single address is a network of one.
    #[serde(deserialize_with = "networks")]
    pub allow: Vec<IpNet>,
    /// File of the token that clients elsewhere must show; empty: none.
    pub token_file: PathBuf,
    /// Whether clients elsewhere must come over TLS.
    pub tls: bool,
    /// Names of this node in addresses of the listener.
    pub hosts: Vec<String>,
}

impl Default for Operations {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 9641)),
            allow: Vec::new(),
            token_file: PathBuf::new(),
            tls: false,
            hosts: Vec::new(),
        }
    }
}

/// Networks, and addresses as networks of one.
fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    let texts = Vec::<String>::deserialize(deserializer)?;
    let network = |text: &String| match (text.parse::<IpNet>(), text.parse::<IpAddr>()) {
        (Ok(network), _) => Ok(network),
        (Err(_), Ok(address)) => Ok(address.into()),
        (Err(_), Err(_)) => Err(D::Error::custom(format_args!(
            "{text:?} is no network, such as \"10.1.0.0/16\", and no address"
        ))),
    };
    texts.iter().map(network).collect()
}

/// What cannot work.
pub(super) fn check(operations: &Operations, need: &mut impl FnMut(bool, &str, &str, &str)) {
    let elsewhere = !operations.listen.ip().is_loopback();
    let proof = operations.tls || !operations.token_file.as_os_str().is_empty();
    need(
        !elsewhere || (proof && !operations.allow.is_empty()),
        "operations",
        "listen",
        "is not of this machine alone: name the networks that may ask in allow, and set tls = true or a token_file",
    );
}
