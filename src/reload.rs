//! What changes while a node runs: certificates, and what is logged. All of a new configuration or nothing of it.
//!
//! SIGHUP has the configuration read again. When it is wrong, or a certificate in it cannot be used, the log says why
//! and the node goes on as before. Settings that need a restart are named in the log and stay what they were.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::clock;
use crate::config::Config;
use crate::identity::KeyPair;
use crate::logging::Logging;
use crate::metrics::{Metrics, names};
use crate::server::certificate::{Identity, Origin, Pair};
use crate::server::http;

/// What a running node takes from a new configuration; everything else needs a restart, and so does the first
/// certificate of DNS, or its end.
pub const RELOADABLE: [&str; 8] = [
    "[http] certificate",
    "[http] key",
    "[dns] certificate",
    "[dns] key",
    "[log] format",
    "[log] level",
    "[log] slow",
    "[log] refusals",
];

/// The certificates of a node.
#[derive(Clone, Debug)]
pub struct Certificates {
    /// That of HTTPS.
    pub http: Arc<Identity>,
    /// That of DNS over TLS, when it is served.
    pub dns: Option<Arc<Identity>>,
}

impl Certificates {
    /// Reads what is configured.
    ///
    /// # Errors
    /// Which one cannot be used and why, for people.
    pub fn load(config: &Config) -> Result<Self, String> {
        let load = |section, origin| {
            Identity::load(origin).map_err(|error| format!("[{section}] {error}"))
        };
        let dns = dns_origin(config).map(|origin| load("dns", origin));
        Ok(Self {
            http: load("http", http_origin(config)?)?,
            dns: dns.transpose()?,
        })
    }

    /// Takes what `config` names, both or neither.
    fn renew(&self, config: &Config) -> Result<(), String> {
        let read =
            |section, origin| Pair::read(origin).map_err(|error| format!("[{section}] {error}"));
        let http = read("http", http_origin(config)?)?;
        let dns = dns_origin(config).map(|origin| read("dns", origin));
        if let (Some(identity), Some(pair)) = (&self.dns, dns.transpose()?) {
            identity.take(pair);
        }
        self.http.take(http);
        Ok(())
    }
}

/// The running configuration, and how the last attempt to change it ended.
#[derive(Debug)]
pub struct Reload {
    config: Config,
    certificates: Certificates,
    outcome: Arc<Outcome>,
}

/// How the last attempt ended.
#[derive(Debug)]
struct Outcome {
    /// When a configuration was last taken, seconds since 1970.
    taken: AtomicU64,
    /// Whether the last attempt was good.
    good: AtomicBool,
}

impl Reload {
    /// The configuration that the node starts with.
    #[must_use]
    pub fn new(config: &Config, certificates: Certificates, metrics: &Metrics) -> Self {
        let outcome = Arc::new(Outcome {
            taken: AtomicU64::new(clock::unix_seconds().into()),
            good: AtomicBool::new(true),
        });
        let (seen, observed) = (Arc::clone(&outcome), certificates.clone());
        metrics.add_source(move |families| {
            let taken = seen.taken.load(Relaxed) as f64;
            families.add(&names::RELOAD_TIMESTAMP, &[], taken);
            let all = [
                ("http", Some(&observed.http)),
                ("dns", observed.dns.as_ref()),
            ];
            // A certificate that is replaced is a change of the configuration, too.
            let refused = all
                .iter()
                .any(|(_, identity)| identity.is_some_and(|identity| identity.is_refused()));
            let good = f64::from(u8::from(seen.good.load(Relaxed) && !refused));
            families.add(&names::RELOAD_SUCCESSFUL, &[], good);
            for (protocol, identity) in all {
                if let Some(identity) = identity {
                    let labels = [("protocol", protocol)];
                    families.add(
                        &names::CERTIFICATE_EXPIRY,
                        &labels,
                        identity.expires() as f64,
                    );
                }
            }
        });
        Self {
            config: config.clone(),
            certificates,
            outcome,
        }
    }

    /// Takes what was read, or says why it is refused.
    pub fn take(&mut self, read: Result<Config, String>, logging: &Logging) {
        let taken = read.and_then(|new| {
            // In this order: what can fail comes before what cannot be taken back.
            crate::logging::parse_level(&new.log.level)?;
            self.certificates.renew(&new)?;
            logging.configure(&new.log)?;
            Ok(new)
        });
        self.outcome.good.store(taken.is_ok(), Relaxed);
        match taken {
            Ok(new) => {
                self.outcome
                    .taken
                    .store(clock::unix_seconds().into(), Relaxed);
                let restart = need_restart(&self.config, &new);
                if !restart.is_empty() {
                    tracing::warn!(
                        event = "reload.restart_needed",
                        settings = restart.join(", "),
                        "changed settings that need a restart"
                    );
                }
                tracing::info!(event = "reload.taken", "the configuration was read again");
            }
            Err(error) => {
                tracing::error!(
                    event = "reload.refused",
                    error,
                    "the new configuration is refused; the node goes on as before"
                );
            }
        }
    }
}

/// The settings that differ and do not change while the node runs, as `[section] key`.
fn need_restart(old: &Config, new: &Config) -> Vec<String> {
    let (Ok(before), Ok(after)) = (serde_json::to_value(old), serde_json::to_value(new)) else {
        return Vec::new();
    };
    // A certificate takes the place of another; it makes or ends no listener for DNS over TLS.
    let listener = dns_origin(old).is_some() != dns_origin(new).is_some();
    let mut found = Vec::new();
    for (section, keys) in before.as_object().into_iter().flatten() {
        for (key, value) in keys.as_object().into_iter().flatten() {
            let name = format!("[{section}] {key}");
            let changed = after.get(section).and_then(|keys| keys.get(key)) != Some(value);
            let taken = RELOADABLE.contains(&name.as_str()) && !(listener && section == "dns");
            if changed && !taken {
                found.push(name);
            }
        }
    }
    found
}

/// Whether a certificate and its key can be used, if they are named.
///
/// # Errors
/// Why not, for people.
pub fn check_files(certificate: &Path, key: &Path) -> Result<(), String> {
    let Some(origin) = files(certificate, key) else {
        return Ok(());
    };
    let read = Pair::read(origin);
    read.map(drop).map_err(|error| error.to_string())
}

/// The configured certificate of HTTPS, or one of the node's own key.
fn http_origin(config: &Config) -> Result<Origin, String> {
    let from = &config.http;
    if let Some(files) = files(&from.certificate, &from.key) {
        return Ok(files);
    }
    let pair = KeyPair::load(&config.node_key());
    let pair = pair.map_err(|error| format!("the node's key: {error}"))?;
    let local = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    let addresses = [&local[..], &config.node.addresses].concat();
    let public = url::Url::parse(&from.public_url).ok();
    let public = public.as_ref().and_then(|url| url.domain());
    let hosts: Vec<&str> = ["localhost"].into_iter().chain(public).collect();
    let made = http::certificate::own(&pair, "jiexi", &addresses, &hosts);
    made.map_err(|error| format!("[http] certificate: {error}"))
}

/// The configured certificate of DNS over TLS.
fn dns_origin(config: &Config) -> Option<Origin> {
    let dns = &config.dns;
    let files = files(&dns.certificate, &dns.key);
    files.filter(|_| dns.enabled)
}

/// The two files, if they are named.
fn files(certificate: &Path, key: &Path) -> Option<Origin> {
    let named = !certificate.as_os_str().is_empty();
    named.then(|| Origin::Files {
        certificate: certificate.to_path_buf(),
        key: key.to_path_buf(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a reader of the log learns which settings wait for a restart, and only those.
    #[test]
    fn settings_that_need_a_restart_are_named() {
        let old = Config::default();
        let mut new = old.clone();
        new.log.level = "debug".into();
        new.http.certificate = "tls.pem".into();
        assert!(need_restart(&old, &new).is_empty());
        new.handle.port = 1;
        new.store.scrub = std::time::Duration::ZERO;
        let mut named = need_restart(&old, &new);
        named.sort();
        assert_eq!(named, ["[handle] port", "[store] scrub"]);
    }

    /// Goal: DNS over TLS begins and ends with a restart, which the log says; a certificate in the place of another needs
    /// none, nor does one that is not served.
    #[test]
    fn a_first_certificate_of_dns_needs_a_restart() {
        let certificate = |enabled, name: &str| {
            let mut config = Config::default();
            config.dns.enabled = enabled;
            if !name.is_empty() {
                config.dns.certificate = format!("{name}.pem").into();
                config.dns.key = format!("{name}.key").into();
            }
            config
        };
        for (old, new, named) in [
            ("", "a", true),
            ("a", "", true),
            ("a", "b", false),
            ("a", "a", false),
        ] {
            let changed = need_restart(&certificate(true, old), &certificate(true, new));
            let expected: &[_] = match named {
                true => &["[dns] certificate", "[dns] key"],
                false => &[],
            };
            assert_eq!(changed, expected, "{old:?} to {new:?}");
            let unserved = need_restart(&certificate(false, old), &certificate(false, new));
            assert!(unserved.is_empty(), "{old:?} to {new:?}: {unserved:?}");
        }
    }
}
