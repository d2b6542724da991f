//! Proxies before the node: whose word about the client is believed, and what they say.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use axum::http::HeaderMap;
use ipnet::IpNet;
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// What a header of PROXY protocol 2 begins with.
pub(super) const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Octets up to and with its length.
const HEAD: usize = 16;
/// Longest rest of a header; addresses and a few additions take less.
const REST_MAX: usize = 4_096;
/// The addition that tells of TLS between client and proxy, and its flag.
const SSL: u8 = 0x20;
/// Addresses in `X-Forwarded-For` that are looked at, from its end.
const HOPS_MAX: usize = 32;

/// Networks whose word is believed.
#[derive(Clone, Debug, Default)]
pub(super) struct Trusted(pub(super) Vec<IpNet>);

impl Trusted {
    /// Whether an address is one of theirs.
    pub(super) fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// The client behind `peer`: the last address in `X-Forwarded-For` that is no proxy of ours.
    pub(super) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        if self.0.is_empty() || !self.contains(peer) {
            return peer;
        }
        let lines = headers.get_all("x-forwarded-for").iter().rev();
        let hops = lines
            .filter_map(|line| line.to_str().ok())
            .flat_map(|line| line.rsplit(','))
            .take(HOPS_MAX);
        let mut client = peer;
        for hop in hops {
            let Some(address) = address_of(hop.trim()) else {
                return client;
            };
            client = address;
            if !self.contains(address) {
                return client;
            }
        }
        client
    }

    /// Whether a proxy of ours says that the client came over TLS.
    pub(super) fn says_tls(&self, peer: IpAddr, headers: &HeaderMap) -> bool {
        self.contains(peer)
            && headers
                .get("x-forwarded-proto")
                .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"https"))
    }
}

/// An address, with or without a port.
fn address_of(text: &str) -> Option<IpAddr> {
    let bare = text
        .strip_prefix('[')
        .and_then(|rest| rest.split(']').next());
    bare.unwrap_or(text)
        .parse()
        .ok()
        .or_else(|| text.parse().ok().map(|address: SocketAddr| address.ip()))
}

/// What a PROXY header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Said {
    /// The client; none for the proxy's own probes.
    pub(super) client: Option<SocketAddr>,
    /// Whether the client came to the proxy over TLS.
    pub(super) tls: bool,
}

/// Reads a PROXY header (version 2) off a connection of a trusted proxy.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Said> {
    let wrong = || std::io::Error::from(std::io::ErrorKind::InvalidData);
    let mut head = [0; HEAD];
    stream.read_exact(&mut head).await?;
    let length = usize::from(u16::from_be_bytes([head[14], head[15]]));
    if !head.starts_with(SIGNATURE) || length > REST_MAX {
        return Err(wrong());
    }
    let mut rest = vec![0; length];
    stream.read_exact(&mut rest).await?;
    decode(head[12], head[13], &rest).ok_or_else(wrong)
}

/// The meaning of a header: version and command, family and transport, and what follows.
fn decode(command: u8, family: u8, rest: &[u8]) -> Option<Said> {
    const NOBODY: Said = Said {
        client: None,
        tls: false,
    };
    match (command, family) {
        (0x20, _) => return Some(NOBODY),
        (0x21, 0x11 | 0x21) => {}
        (0x21, _) => return Some(NOBODY),
        _ => return None,
    }
    let (ip, port, more) = if family == 0x11 {
        let (addresses, more) = rest.split_first_chunk::<12>()?;
        let [a, b, c, d, _, _, _, _, high, low, _, _] = *addresses;
        let ip = IpAddr::from(Ipv4Addr::new(a, b, c, d));
        (ip, u16::from_be_bytes([high, low]), more)
    } else {
        let (addresses, more) = rest.split_first_chunk::<36>()?;
        let (source, _) = addresses.split_first_chunk::<16>()?;
        let ip = IpAddr::from(Ipv6Addr::from(*source));
        (ip, u16::from_be_bytes([addresses[32], addresses[33]]), more)
    };
    Some(Said {
        client: Some(SocketAddr::new(ip, port)),
        tls: says_ssl(more)?,
    })
}

/// Whether the additions behind the addresses tell of TLS.
fn says_ssl(mut more: &[u8]) -> Option<bool> {
    while let [kind, high, low, rest @ ..] = more {
        let (value, next) = rest.split_at_checked(u16::from_be_bytes([*high, *low]).into())?;
        if *kind == SSL {
            return Some(value.first().is_some_and(|flags| flags & 1 != 0));
        }
        more = next;
    }
    more.is_empty().then_some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trusted() -> Trusted {
        Trusted(vec![
            "10.0.0.0/8".parse().unwrap(),
            "::1/128".parse().unwrap(),
        ])
    }

    fn forwarded(lines: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append("x-forwarded-for", line.parse().unwrap());
        }
        headers
    }

    /// Goal: only our proxies are believed, and only as far as they can know.
    #[test]
    fn forwarded_for() {
        let client = |peer: &str, lines: &[&str]| {
            trusted()
                .client(peer.parse().unwrap(), &forwarded(lines))
                .to_string()
        };
        assert_eq!(client("192.0.2.1", &["198.51.100.9"]), "192.0.2.1");
        assert_eq!(client("10.1.1.1", &["198.51.100.9"]), "198.51.100.9");
        assert_eq!(
            client("10.1.1.1", &["1.1.1.1, 198.51.100.9, 10.2.2.2"]),
            "198.51.100.9"
        );
        assert_eq!(
            client("10.1.1.1", &["1.1.1.1", "198.51.100.9:4711"]),
            "198.51.100.9"
        );
        assert_eq!(client("::1", &["[2001:db8::1]:443"]), "2001:db8::1");
        assert_eq!(client("10.1.1.1", &["1.1.1.1, nonsense"]), "10.1.1.1");
        assert_eq!(client("10.1.1.1", &[]), "10.1.1.1");
    }

    /// Goal: a header says who it was; a cut or unknown one says nothing, and nothing panics.
    #[test]
    fn proxy_headers() {
        let mut rest = vec![198, 51, 100, 9, 10, 0, 0, 1, 0x12, 0x34, 0, 80];
        let said = decode(0x21, 0x11, &rest).unwrap();
        assert_eq!(said.client, Some("198.51.100.9:4660".parse().unwrap()));
        assert!(!said.tls);
        rest.extend([SSL, 0, 5, 1, 0, 0, 0, 0]);
        assert!(decode(0x21, 0x11, &rest).unwrap().tls);
        for length in 0..rest.len() {
            let said = decode(0x21, 0x11, &rest[..length]);
            assert!(length == 12 || said.is_none(), "{length}");
        }
        assert_eq!(decode(0x20, 0, &[]).unwrap().client, None);
        assert_eq!(decode(0x11, 0x11, &rest), None);
    }
}
