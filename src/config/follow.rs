//! `[follow]`: the node that this one is a standby of.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use url::{Host, Url};

/// The section.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Follow {
    /// The primary, such as `https://id.example.cn:8000`; empty: this node is none's standby.
    pub url: String,
    /// File with an API token of the primary that has the right `replicate`.
    pub token_file: PathBuf,
    /// Certificates in PEM to believe beside those of the machine; empty: none.
    pub ca_file: PathBuf,
    /// A standby that is further behind is not ready.
    #[serde(with = "humantime_serde")]
    pub lag_max: Duration,
}

impl Default for Follow {
    fn default() -> Self {
        Self {
            url: String::new(),
            token_file: PathBuf::new(),
            ca_file: PathBuf::new(),
            lag_max: Duration::from_secs(600),
        }
    }
}

/// Why a text cannot be the address of a primary.
fn wrong(text: &str) -> Option<&'static str> {
    let Some(url) = Url::parse(text).ok().filter(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.path() == "/"
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
    }) else {
        return Some(
            "must be a scheme and a host, such as \"https://id.example.cn:8000\", and no path",
        );
    };
    let here = match url.host() {
        Some(Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    (url.scheme() == "http" && !here)
        .then_some("must be https:// : the token, and all records, go there")
}

/// What cannot work.
pub(super) fn check(follow: &Follow, need: &mut impl FnMut(bool, &str, &str, &str)) {
    if follow.url.is_empty() {
        return;
    }
    if let Some(why) = wrong(&follow.url) {
        need(false, "follow", "url", why);
    }
    need(
        !follow.token_file.as_os_str().is_empty(),
        "follow",
        "token_file",
        "is empty; name the file with a token of the primary that has the right replicate",
    );
    need(
        follow.lag_max >= Duration::from_secs(1),
        "follow",
        "lag_max",
        "is below 1s; no standby would ever be ready",
    );
}

impl Follow {
    /// Everything that cannot work, for whoever did not take it from a file.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        check(self, &mut |good, _, name, message| {
            if !good {
                found.push(format!(
                    "{}: {message}",
                    name.replace("url", "follow").replace('_', "-")
                ));
            }
        });
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: no token leaves the machine in clear.
    #[test]
    fn addresses() {
        for good in [
            "https://id.example.cn",
            "https://192.0.2.1:8000/",
            "http://127.0.0.1:8000",
            "http://[::1]:8000",
            "http://localhost",
        ] {
            assert_eq!(wrong(good), None, "{good}");
        }
        for bad in [
            "http://id.example.cn",
            "http://192.0.2.1:8000",
            "ftp://127.0.0.1",
            "https://id.example.cn/api",
            "https://user@id.example.cn",
            "id.example.cn",
        ] {
            assert!(wrong(bad).is_some(), "{bad}");
        }
    }
}
