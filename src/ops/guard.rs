//! Who may ask the operations listener: this machine, and whom the configuration lists.
//!
//! A browser on this machine may be led here by a foreign page under a name of its own; so requests must name an address,
//! `localhost`, or a configured name as their host.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::Path;

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use ipnet::IpNet;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::metrics::{Protocol, Transport};
use crate::notices::{self, Reason};

/// What a client says before a token, in any case.
const SCHEME: &[u8] = b"Bearer ";

/// Octets of a token.
const TOKEN: RangeInclusive<usize> = 16..=256;

/// Where a request comes from.
#[derive(Clone, Copy, Debug)]
pub(super) struct From {
    peer: IpAddr,
    /// Whether it is on this machine.
    pub(super) local: bool,
    tls: bool,
}

impl From {
    /// `peer` has connected to `here`: who comes from there is on this machine.
    pub(super) fn new(peer: SocketAddr, here: SocketAddr) -> Self {
        let (peer, here) = (peer.ip().to_canonical(), here.ip().to_canonical());
        Self {
            peer,
            local: peer.is_loopback() || peer == here,
            tls: false,
        }
    }

    /// The same over TLS.
    pub(super) fn over_tls(self) -> Self {
        Self { tls: true, ..self }
    }

    /// Something was refused to it: a sample of that is written down.
    pub(super) fn note_refused(self, reason: Reason) {
        let transport = match self.tls {
            true => Transport::Tls,
            false => Transport::Tcp,
        };
        notices::refused_now((Protocol::Operations, transport), reason, self.peer);
    }
}

/// The token that clients elsewhere must show, from its file.
///
/// # Errors
/// It cannot be read or is none; the message, for people, names the file.
pub fn read_token(path: &Path) -> Result<Zeroizing<String>, String> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| format!("{shown}: {error}"))?;
    let text = Zeroizing::new(text);
    let token = Zeroizing::new(text.trim().to_owned());
    match TOKEN.contains(&token.len()) {
        true => Ok(token),
        false => Err(format!(
            "{shown}: the token must be 16 to 256 characters, such as `openssl rand -hex 32` makes them"
        )),
    }
}

/// The rules for those who ask.
#[derive(Debug, Default)]
pub struct Guard {
    /// Networks that may ask, besides this machine.
    pub allow: Vec<IpNet>,
    /// What clients elsewhere must show.
    pub token: Option<Zeroizing<String>>,
    /// Names of this node.
    pub hosts: Vec<String>,
    /// Whether clients elsewhere must come over TLS.
    pub tls: bool,
}

impl Guard {
    /// Whether a connection from there is taken at all.
    pub(super) fn admits(&self, from: From) -> bool {
        from.local
            || self
                .allow
                .iter()
                .any(|network| network.contains(&from.peer))
    }

    /// What is answered to whom may not ask, and written down; `None` for those who may.
    pub(super) fn refuse(&self, from: From, headers: &HeaderMap) -> Option<Response> {
        let (reason, refused) = self.refusal(from, headers)?;
        from.note_refused(reason);
        Some(refused)
    }

    /// The same, with its reason.
    fn refusal(&self, from: From, headers: &HeaderMap) -> Option<(Reason, Response)> {
        let denied = |status, why| Some((Reason::Denied, no(status, why)));
        let From { local, tls, .. } = from;
        if !local {
            if !self.admits(from) {
                let why = "this address is not in [operations] allow";
                return denied(StatusCode::FORBIDDEN, why);
            }
            if self.tls && !tls {
                return denied(StatusCode::FORBIDDEN, "ask over https");
            }
            if !self.shows_token(headers) {
                let mut answer = no(
                    StatusCode::UNAUTHORIZED,
                    "show the token: Authorization: Bearer …",
                );
                let scheme = HeaderValue::from_static("Bearer");
                answer
                    .headers_mut()
                    .insert(header::WWW_AUTHENTICATE, scheme);
                let reason = match headers.contains_key(header::AUTHORIZATION) {
                    true => Reason::Proof,
                    false => Reason::NoProof,
                };
                return Some((reason, answer));
            }
        }
        let host = headers.get(header::HOST).map(HeaderValue::to_str);
        match host {
            Some(Ok(host)) if !self.is_ours(host) => denied(
                StatusCode::MISDIRECTED_REQUEST,
                "this host name is not in [operations] hosts",
            ),
            Some(Err(_)) => denied(StatusCode::BAD_REQUEST, "the host is no text"),
            // Only programs leave it out, over HTTP/1.0.
            None | Some(Ok(_)) => None,
        }
    }

    fn shows_token(&self, headers: &HeaderMap) -> bool {
        let Some(token) = &self.token else {
            return true;
        };
        let shown = headers.get(header::AUTHORIZATION);
        let shown = shown.and_then(|value| value.as_bytes().split_at_checked(SCHEME.len()));
        let shown = shown.filter(|(scheme, _)| scheme.eq_ignore_ascii_case(SCHEME));
        shown.is_some_and(|(_, shown)| shown.ct_eq(token.as_bytes()).into())
    }

    fn is_ours(&self, host: &str) -> bool {
        if host.parse::<SocketAddr>().is_ok() || host.parse::<IpAddr>().is_ok() {
            return true;
        }
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|octet| octet.is_ascii_digit()) => name,
            _ => host,
        };
        let bare = name
            .strip_prefix('[')
            .and_then(|name| name.strip_suffix(']'));
        bare.is_some_and(|bare| bare.parse::<IpAddr>().is_ok())
            || name.eq_ignore_ascii_case("localhost")
            || self
                .hosts
                .iter()
                .any(|ours| name.eq_ignore_ascii_case(ours))
    }
}

fn no(status: StatusCode, why: &'static str) -> Response {
    (status, format!("{why}\n")).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(guard: &Guard, peer: &str, tls: bool, lines: &[(&str, &str)]) -> Option<u16> {
        refusal(guard, peer, tls, lines).map(|(_, status)| status)
    }

    fn refusal(
        guard: &Guard,
        peer: &str,
        tls: bool,
        lines: &[(&str, &str)],
    ) -> Option<(Reason, u16)> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let name: header::HeaderName = name.parse().unwrap();
            headers.insert(name, value.parse().unwrap());
        }
        let peer = SocketAddr::new(peer.parse().unwrap(), 4711);
        let from = From::new(peer, "192.0.2.1:9641".parse().unwrap());
        let from = if tls { from.over_tls() } else { from };
        let refused = guard.refusal(from, &headers);
        refused.map(|(reason, answer)| (reason, answer.status().as_u16()))
    }

    /// Goal: this machine asks freely, others only from listed networks, with the token, over TLS where it is asked for.
    #[test]
    fn others_need_more() {
        let guard = Guard {
            allow: vec!["192.0.2.0/24".parse().unwrap()],
            token: Some("secret-secret-secret".to_owned().into()),
            hosts: vec!["node.example.cn".into()],
            tls: true,
        };
        let good = ("authorization", "Bearer secret-secret-secret");
        assert_eq!(answer(&guard, "127.0.0.1", false, &[]), None);
        assert_eq!(answer(&guard, "::ffff:127.0.0.1", false, &[]), None);
        assert_eq!(answer(&guard, "192.0.2.1", false, &[]), None);
        assert_eq!(answer(&guard, "198.51.100.1", true, &[good]), Some(403));
        let at = |peer: &str| From::new(peer.parse().unwrap(), "192.0.2.1:9641".parse().unwrap());
        assert!(!guard.admits(at("198.51.100.1:4711")) && guard.admits(at("192.0.2.7:4711")));
        assert!(guard.admits(at("192.0.2.1:4711")) && guard.admits(at("127.0.0.1:4711")));
        assert_eq!(answer(&guard, "192.0.2.7", false, &[good]), Some(403));
        assert_eq!(answer(&guard, "192.0.2.7", true, &[]), Some(401));
        let wrong = ("authorization", "Bearer secret-secret-secreT");
        assert_eq!(answer(&guard, "192.0.2.7", true, &[wrong]), Some(401));
        // The log tells those who guess from those who forgot it, and both from those who may not.
        let reason = |tls, lines: &[_]| refusal(&guard, "192.0.2.7", tls, lines);
        assert_eq!(reason(true, &[]), Some((Reason::NoProof, 401)));
        assert_eq!(reason(true, &[wrong]), Some((Reason::Proof, 401)));
        assert_eq!(reason(false, &[good]), Some((Reason::Denied, 403)));
        assert_eq!(answer(&guard, "192.0.2.7", true, &[good]), None);
        // Schemes ignore case.
        let lower = ("authorization", "bearer secret-secret-secret");
        assert_eq!(answer(&guard, "192.0.2.7", true, &[lower]), None);
    }

    /// Goal: a foreign page that is led here by its own name gets nothing.
    #[test]
    fn names_of_others() {
        let guard = Guard {
            hosts: vec!["node.example.cn".into()],
            ..Guard::default()
        };
        for host in [
            "127.0.0.1:9641",
            "[::1]:9641",
            "[::1]",
            "::1",
            "localhost",
            "LOCALHOST:9641",
            "Node.example.cn:1",
        ] {
            assert_eq!(
                answer(&guard, "127.0.0.1", false, &[("host", host)]),
                None,
                "{host}"
            );
        }
        for host in [
            "evil.example",
            "evil.example:9641",
            "localhost.evil.example",
            "127.0.0.1.evil.example:9641",
            "",
        ] {
            assert_eq!(
                answer(&guard, "127.0.0.1", false, &[("host", host)]),
                Some(421),
                "{host}"
            );
        }
    }
}
